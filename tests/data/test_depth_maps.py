"""Precomputed depth maps: what is found, how it is resized, and what is refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ipsm_jax.data.depth_maps import read_depth_maps
from ipsm_jax.data.errors import DataError

WIDTH, HEIGHT = 12, 8


def ramp(width=WIDTH, height=HEIGHT):
    return np.add.outer(10.0 * np.arange(height), np.arange(width)) + 1.0


def refusal(folder, names, width=WIDTH, height=HEIGHT):
    with pytest.raises(DataError) as caught:
        read_depth_maps(folder, names, width, height)
    return str(caught.value)


def test_found_by_the_photos_names(tmp_path):
    """One of each kind, in the order asked for; numbers are not rescaled."""
    np.save(tmp_path / "b.npy", ramp())
    Image.fromarray(ramp().astype(np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "left").mkdir()
    Image.fromarray((300 * ramp()).astype(np.uint16)).save(tmp_path / "left" / "a.png")
    np.save(tmp_path / "unasked.npy", np.zeros(3))
    maps = read_depth_maps(tmp_path, ["b.JPG", "left/a.jpg", "a.png"], WIDTH, HEIGHT)
    assert maps.shape == (3, HEIGHT, WIDTH) and maps.dtype == np.float32
    np.testing.assert_array_equal(maps, np.stack([ramp(), 300 * ramp(), ramp()]))


def test_a_dot_in_the_name(tmp_path):
    np.save(tmp_path / "photo.1.npy", ramp())
    np.testing.assert_array_equal(read_depth_maps(tmp_path, ["photo.1.jpg"], WIDTH, HEIGHT)[0], ramp())


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float16, np.float64])
@pytest.mark.parametrize("axes", [(), (0,), (2,)])
def test_arrays_of_any_number_type_and_with_an_axis_of_length_one(tmp_path, dtype, axes):
    np.save(tmp_path / "a.npy", np.expand_dims(ramp(), axes).astype(dtype))
    np.testing.assert_array_equal(read_depth_maps(tmp_path, ["a.jpg"], WIDTH, HEIGHT)[0], ramp())


def test_what_is_not_finite_is_unknown(tmp_path):
    values = ramp()
    values[0, :4] = np.nan, np.inf, -np.inf, 1e300
    np.save(tmp_path / "a.npy", values)
    (found,) = read_depth_maps(tmp_path, ["a.jpg"], WIDTH, HEIGHT)
    assert (found[0, :4] == 0).all()
    np.testing.assert_array_equal(found[1:], ramp()[1:])


def test_a_complete_map_is_resized_smoothly(tmp_path):
    """A plane stays one: halved, every value is the mean of its four pixels; enlarged, neighbors lie between."""
    np.save(tmp_path / "a.npy", ramp(2 * WIDTH, 2 * HEIGHT))
    np.save(tmp_path / "b.npy", ramp(WIDTH // 2, HEIGHT // 2))
    small, large = read_depth_maps(tmp_path, ["a.jpg", "b.jpg"], WIDTH, HEIGHT)
    means = ramp(2 * WIDTH, 2 * HEIGHT).reshape(HEIGHT, 2, WIDTH, 2).mean((1, 3))
    np.testing.assert_allclose(small[1:-1, 1:-1], means[1:-1, 1:-1], rtol=1e-5)
    places = (np.arange(2, WIDTH - 2) + 0.5) / 2 - 0.5
    np.testing.assert_allclose(large[1, 2:-2] - large[1, 2], places - places[0], rtol=1e-4, atol=1e-4)


@given(st.integers(1, 4), st.sampled_from([(6, 4), (24, 16), (36, 24), (9, 6)]), st.integers(0, 1000))
def test_unknown_pixels_do_not_bleed(tmp_path_factory, share, size, seed):
    """With any unknown pixel, every value of the result is the map's at the pixel's center."""
    rng = np.random.default_rng(seed)
    values = rng.uniform(1, 100, size[::-1]).astype(np.float32)
    values[rng.random(values.shape) < share / 5] = 0
    values[0, 0], values[-1, -1] = 0, 50
    folder = tmp_path_factory.mktemp("maps")
    np.save(folder / "a.npy", values)
    (found,) = read_depth_maps(folder, ["a.jpg"], WIDTH, HEIGHT)
    rows = (np.arange(HEIGHT) + 0.5) * size[1] / HEIGHT
    columns = (np.arange(WIDTH) + 0.5) * size[0] / WIDTH
    np.testing.assert_array_equal(found, values[np.ix_(rows.astype(int), columns.astype(int))])


def test_missing_maps_are_named(tmp_path):
    for name in ("a", "other"):
        np.save(tmp_path / f"{name}.npy", ramp())
    text = refusal(tmp_path, ["a.jpg", "b.jpg", "sub/c.jpg"])
    assert "no depth map for 2 of 3 photos; missing: b, sub/c (each as .npy or .png)" in text
    assert "Maps that are there: a.npy, other.npy." in text
    assert "missing: 0, 1, 2, 3, 4, ..." in refusal(tmp_path, [f"{i}.jpg" for i in range(9)])
    (tmp_path / "empty").mkdir()
    assert "Maps that are there: none." in refusal(tmp_path / "empty", ["a.jpg"])
    assert f"there is no folder {tmp_path / 'nowhere'}" in refusal(tmp_path / "nowhere", ["a.jpg"])
    assert "no photos were named" in refusal(tmp_path, [])


def test_two_maps_of_one_photo(tmp_path):
    np.save(tmp_path / "a.npy", ramp())
    Image.fromarray(ramp().astype(np.uint8)).save(tmp_path / "a.png")
    assert "both a.npy and a.png are there" in refusal(tmp_path, ["a.jpg"])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((HEIGHT, WIDTH)), "all pixels of this depth map are unknown"),
        (np.full((HEIGHT, WIDTH), np.nan), "all pixels of this depth map are unknown"),
        (np.ones((WIDTH, HEIGHT)), "has 8x12 pixels, the photo 12x8: the aspect ratios differ"),
        (np.ones((HEIGHT, WIDTH, 3)), r"found (8, 12, 3) of float64"),
        (np.ones(WIDTH), r"found (12,) of float64"),
        (np.ones((HEIGHT, 0)), r"found (8, 0) of float64"),
        (np.ones((HEIGHT, WIDTH), bool), "of bool"),
        (np.ones((HEIGHT, WIDTH), complex), "expected an array of numbers"),
    ],
)
def test_arrays_that_are_no_depth_map(tmp_path, values, message):
    np.save(tmp_path / "a.npy", values)
    text = refusal(tmp_path, ["a.jpg"])
    assert message in text and str(tmp_path / "a.npy") in text


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P", "1"])
def test_pictures_that_are_no_depth_map(tmp_path, mode):
    Image.new(mode, (WIDTH, HEIGHT)).save(tmp_path / "a.png")
    assert f"expected one channel of 8 or 16 bits, found {mode}" in refusal(tmp_path, ["a.jpg"])


def test_damaged_files(tmp_path):
    np.save(tmp_path / "a.npy", ramp())
    (tmp_path / "a.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:-8])
    assert "cut short" in refusal(tmp_path, ["a.jpg"])
    noise = np.random.default_rng(0).integers(1, 255, (80, 120), np.uint8)
    Image.fromarray(noise).save(tmp_path / "b.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "b.png").read_bytes()[:5000])
    assert "damaged" in refusal(tmp_path, ["b.jpg"])
    (tmp_path / "c.png").write_bytes(b"not a picture")
    assert "this is not a picture" in refusal(tmp_path, ["c.jpg"])
