"""PLY: round trips, every encoding, property order and degree, and damage of every kind."""

import struct

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipsm_jax.data.errors import DataError
from ipsm_jax.data.ply import (
    ply_kind,
    read_gaussians_ply,
    read_points_ply,
    write_gaussians_ply,
    write_points_ply,
)
from ipsm_jax.data.scene import PointCloud
from ipsm_jax.scene.gaussians import SH_C0, Gaussians

LAYOUT = (
    ["x", "y", "z", "nx", "ny", "nz"]
    + [f"f_dc_{i}" for i in range(3)]
    + [f"f_rest_{i}" for i in range(45)]
    + ["opacity"]
    + [f"scale_{i}" for i in range(3)]
    + [f"rot_{i}" for i in range(4)]
)


def make_gaussians(count, seed=0):
    rng = np.random.default_rng(seed)
    shapes = [(3,), (3,), (4,), (), (3,), (15, 3)]
    return Gaussians(*(jnp.asarray(rng.normal(size=(count, *shape)), jnp.float32) for shape in shapes))


def table_of(path):
    """(names, (P, n) float32) of a file of floats, by the format's definition."""
    header, body = path.read_bytes().split(b"end_header\n", 1)
    names = [line.split()[2].decode() for line in header.splitlines() if line.startswith(b"property")]
    return names, np.frombuffer(body, "<f4").reshape(-1, len(names))


def write_ply(path, names, table, encoding="binary_little_endian", kind="float"):
    code = {"float": "f4", "double": "f8"}[kind]
    lines = ["ply", f"format {encoding} 1.0", "comment by a test", f"element vertex {len(table)}"]
    lines += [f"property {kind} {name}" for name in names]
    header = "\n".join([*lines, "element face 0", "property list uchar int vertex_indices", "end_header", ""]).encode()
    if encoding == "ascii":
        body = "".join(" ".join(repr(float(v)) for v in row) + "\n" for row in table).encode()
    else:
        body = np.asarray(table, ("<" if "little" in encoding else ">") + code).tobytes()
    path.write_bytes(header + body)


def assert_same(a, b):
    for x, y in zip(a, b, strict=True):
        np.testing.assert_array_equal(x, y)


def test_round_trip_is_exact(tmp_path):
    gaussians = make_gaussians(17)
    write_gaussians_ply(tmp_path / "a.ply", gaussians, np.ones(17, bool))
    assert_same(read_gaussians_ply(tmp_path / "a.ply"), gaussians)
    assert ply_kind(tmp_path / "a.ply") == "gaussians"
    assert [p.name for p in tmp_path.iterdir()] == ["a.ply"]


def test_layout_is_the_viewers(tmp_path):
    gaussians = make_gaussians(5)
    write_gaussians_ply(tmp_path / "a.ply", gaussians, np.ones(5, bool))
    names, table = table_of(tmp_path / "a.ply")
    assert names == LAYOUT
    column = dict(zip(names, table.T, strict=True))
    np.testing.assert_array_equal(column["f_rest_0"], gaussians.sh_rest[:, 0, 0])
    np.testing.assert_array_equal(column["f_rest_14"], gaussians.sh_rest[:, 14, 0])
    np.testing.assert_array_equal(column["f_rest_15"], gaussians.sh_rest[:, 0, 1])
    np.testing.assert_array_equal(column["f_rest_44"], gaussians.sh_rest[:, 14, 2])
    np.testing.assert_array_equal(column["rot_0"], gaussians.quaternions[:, 0])
    np.testing.assert_array_equal(column["opacity"], gaussians.opacity_logits)
    assert not column["nx"].any()


def test_no_living_gaussian_makes_an_empty_file(tmp_path):
    gaussians = make_gaussians(5)
    assert write_gaussians_ply(tmp_path / "none.ply", gaussians, np.zeros(5, bool)) == 0
    with pytest.raises(DataError, match=r"none\.ply"):
        read_gaussians_ply(tmp_path / "none.ply")


def test_only_living_gaussians_are_written(tmp_path):
    gaussians = make_gaussians(6)
    alive = np.array([True, False, True, True, False, False])
    write_gaussians_ply(tmp_path / "a.ply", gaussians, jnp.asarray(alive))
    np.testing.assert_array_equal(read_gaussians_ply(tmp_path / "a.ply").means, np.asarray(gaussians.means)[alive])
    with pytest.raises(ValueError, match="alive has shape"):
        write_gaussians_ply(tmp_path / "a.ply", gaussians, alive[:3])


@pytest.mark.parametrize("encoding", ["ascii", "binary_little_endian", "binary_big_endian"])
@pytest.mark.parametrize("kind", ["float", "double"])
def test_any_encoding_and_property_order(tmp_path, encoding, kind):
    gaussians = make_gaussians(4)
    write_gaussians_ply(tmp_path / "a.ply", gaussians, np.ones(4, bool))
    names, table = table_of(tmp_path / "a.ply")
    order = np.random.default_rng(1).permutation(len(names))
    write_ply(tmp_path / "b.ply", [names[i] for i in order], table[:, order], encoding, kind)
    assert_same(read_gaussians_ply(tmp_path / "b.ply"), gaussians)


@pytest.mark.parametrize("degree", [0, 1, 2])
def test_lower_degrees_are_padded(tmp_path, degree):
    terms = (degree + 1) ** 2 - 1
    gaussians = make_gaussians(4)
    columns = np.asarray(gaussians.sh_rest)[:, :terms].transpose(0, 2, 1).reshape(4, 3 * terms)
    write_gaussians_ply(tmp_path / "a.ply", gaussians, np.ones(4, bool))
    names, table = table_of(tmp_path / "a.ply")
    keep = [i for i, name in enumerate(names) if not name.startswith("f_rest")]
    rest = [f"f_rest_{i}" for i in range(3 * terms)]
    write_ply(tmp_path / "b.ply", [names[i] for i in keep] + rest, np.concatenate([table[:, keep], columns], axis=1))
    read = read_gaussians_ply(tmp_path / "b.ply")
    np.testing.assert_array_equal(read.sh_rest[:, :terms], gaussians.sh_rest[:, :terms])
    assert not np.asarray(read.sh_rest[:, terms:]).any()


def test_points_with_byte_colors(tmp_path):
    header = "ply\nformat binary_little_endian 1.0\nelement vertex 2\n"
    header += "".join(f"property float {n}\n" for n in "xyz")
    header += "".join(f"property uchar {n}\n" for n in ("red", "green", "blue")) + "end_header\n"
    body = struct.pack("<3f3B", 1, 2, 3, 0, 51, 255) + struct.pack("<3f3B", 4, 5, 6, 255, 0, 0)
    (tmp_path / "p.ply").write_bytes(header.encode() + body)
    points = read_points_ply(tmp_path / "p.ply")
    np.testing.assert_array_equal(points.positions, [[1, 2, 3], [4, 5, 6]])
    np.testing.assert_allclose(points.colors, [[0, 0.2, 1], [1, 0, 0]], atol=1e-7)
    assert ply_kind(tmp_path / "p.ply") == "points"


def test_points_come_back_as_they_were_written(tmp_path):
    rng = np.random.default_rng(0)
    points = PointCloud(rng.standard_normal((7, 3)).astype(np.float32), rng.random((7, 3)).astype(np.float32))
    write_points_ply(tmp_path / "points.ply", points)
    found = read_points_ply(tmp_path / "points.ply")
    np.testing.assert_array_equal(found.positions, points.positions)
    np.testing.assert_allclose(found.colors, points.colors, atol=0.5 / 255 + 1e-6)
    assert ply_kind(tmp_path / "points.ply") == "points"


def test_points_with_other_colors(tmp_path):
    rgb = ["red", "green", "blue"]
    write_ply(tmp_path / "unit.ply", [*"xyz", *rgb], [[0, 0, 0, 0.25, 0.5, 1]])
    np.testing.assert_allclose(read_points_ply(tmp_path / "unit.ply").colors, [[0.25, 0.5, 1]])
    write_ply(tmp_path / "bytes.ply", [*"xyz", *rgb], [[0, 0, 0, 51, 0, 255]], "ascii")
    np.testing.assert_allclose(read_points_ply(tmp_path / "bytes.ply").colors, [[0.2, 0, 1]], atol=1e-7)
    write_ply(tmp_path / "none.ply", [*"xyz"], [[0, 0, 0]])
    np.testing.assert_allclose(read_points_ply(tmp_path / "none.ply").colors, [[0.5, 0.5, 0.5]])


def test_gaussians_as_points_have_their_constant_colors(tmp_path):
    gaussians = make_gaussians(8)
    write_gaussians_ply(tmp_path / "a.ply", gaussians, np.ones(8, bool))
    expected = np.clip(0.5 + SH_C0 * np.asarray(gaussians.sh_dc), 0, 1)
    np.testing.assert_allclose(read_points_ply(tmp_path / "a.ply").colors, expected, atol=1e-6)


def _valid(tmp_path):
    write_gaussians_ply(tmp_path / "valid.ply", make_gaussians(5), np.ones(5, bool))
    return (tmp_path / "valid.ply").read_bytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: b"not a ply at all", "not a PLY file"),
        (lambda d: b"", "not a PLY file"),
        (lambda d: d[:100], "no end_header line"),
        (lambda d: d[:-1], "cut short.*claims 5 vertices"),
        (lambda d: d.replace(b"vertex 5", b"vertex 999999999999999999"), "claims 999999999999999999 vertices"),
        (lambda d: d.replace(b"vertex 5", b"vertex 0"), "holds no Gaussians"),
        (lambda d: d.replace(b"vertex 5", b"vertex -5"), "cannot understand the PLY header line 'element vertex -5'"),
        (lambda d: d.replace(b"property float opacity\n", b"property float opaque\n"), "have no opacity"),
        (lambda d: d.replace(b"property float f_rest_44\n", b""), "44 properties f_rest_"),
        (lambda d: d.replace(b"property float x\n", b"property list uchar int x\n"), "cannot understand"),
        (lambda d: d.replace(b"property float y\n", b"property float x\n"), "cannot understand"),
        (lambda d: d.replace(b"binary_little_endian", b"binary_middle_endian"), "cannot understand"),
        (lambda d: d[:-16] + b"\0" * 16, "1 of 5 rotations are the zero quaternion"),
        (lambda d: d[:-4] + struct.pack("<f", np.nan), "1 of 5 values of rot_3 are NaN"),
    ],
)
def test_broken_files(tmp_path, change, message):
    path = tmp_path / "broken.ply"
    path.write_bytes(change(_valid(tmp_path)))
    with pytest.raises(DataError, match=message):
        read_gaussians_ply(path)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("1 2 3\n4 5\n", "2 vertices need 6 numbers, found 5"),
        ("1 2 3\n4 5 six\n", "no number"),
        ("1 2 3\n4 5 " + "6" * 100 + "\n", "no number"),
        ("1 2 3\n4 5 nan\n", "1 of 2 points have NaN"),
        ("1 2 3\n4 5 1e60\n", "1 of 2 points have NaN or infinite"),
        ("", "claims 2 vertices"),
    ],
)
def test_broken_text(tmp_path, body, message):
    header = "ply\nformat ascii 1.0\nelement vertex 2\n" + "".join(f"property float {n}\n" for n in "xyz")
    (tmp_path / "t.ply").write_text(header + "end_header\n" + body)
    with pytest.raises(DataError, match=message):
        read_points_ply(tmp_path / "t.ply")


def test_missing_file(tmp_path):
    with pytest.raises(DataError, match="there is no such file"):
        read_points_ply(tmp_path / "nothing.ply")


@given(
    st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), max_size=8),
    st.integers(0, 1 << 16),
    st.sampled_from(["ascii", "binary_little_endian", "binary_big_endian"]),
)
def test_damaged_files_give_points_or_the_readers_own_error(tmp_path_factory, changes, cut, encoding):
    path = tmp_path_factory.mktemp("fuzz") / "a.ply"
    write_ply(path, ["x", "y", "z", "red", "green", "blue"], np.arange(24.0).reshape(4, 6), encoding)
    data = bytearray(path.read_bytes())
    for at, value in changes:
        data[at % len(data)] = value
    path.write_bytes(data[: len(data) - cut % len(data)] if cut % 3 == 0 else data)
    try:
        points = read_points_ply(path)
    except DataError:
        return
    assert np.isfinite(points.positions).all()
    assert ((points.colors >= 0) & (points.colors <= 1)).all()


def test_gaussians_that_no_reader_takes_are_left_out(tmp_path):
    gaussians = make_gaussians(6)
    gaussians = gaussians._replace(
        opacity_logits=gaussians.opacity_logits.at[0].set(jnp.nan),
        sh_rest=gaussians.sh_rest.at[2, 3, 1].set(jnp.inf),
        means=gaussians.means.at[5, 0].set(jnp.nan),  # not alive
    )
    alive = np.array([True, True, True, True, True, False])
    assert write_gaussians_ply(tmp_path / "a.ply", gaussians, alive) == 2
    np.testing.assert_array_equal(read_gaussians_ply(tmp_path / "a.ply").means, gaussians.means[jnp.array([1, 3, 4])])
    assert write_gaussians_ply(tmp_path / "b.ply", make_gaussians(6), alive) == 0
