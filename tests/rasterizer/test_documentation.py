"""The rasterizer's README keeps its promises: examples run and fit, arguments, fields and figures are the code's."""

import inspect
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scenes import make_camera, make_gaussians, quick_jit

from ipsm_jax.rasterizer import Rendering, native, projection, reference, render
from ipsm_jax.scene import Camera, Gaussians

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "ipsm_jax/rasterizer/README.md").read_text(encoding="utf-8")
FIT, CONVERT, BATCH = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)


def section(title: str) -> str:
    return TEXT.split(f"\n## {title}\n")[1].split("\n## ")[0]


def test_the_example_fits_the_image(monkeypatch):
    monkeypatch.chdir(ROOT)
    names = {}
    exec(FIT, names)
    losses = names["losses"]
    assert len([line for line in FIT.splitlines() if line.strip()]) <= 22
    assert losses[-1] * 10 < losses[0]
    for loss, promised in ((losses[0], "11.9"), (losses[-1], "23.2")):
        assert promised in TEXT and abs(-10 * np.log10(loss) - float(promised)) < 0.3


def test_the_conversion_runs():
    given = make_gaussians(0, 9)
    camera = make_camera(24, 16, 30.0)
    fx, fy, cx, cy = np.asarray(camera.intrinsics)
    names = {
        "means": given.means,
        "quats": given.quaternions,
        "scales": np.exp(given.log_scales),
        "opacities": jax.nn.sigmoid(given.opacity_logits),
        "colors": np.concatenate([given.sh_dc[:, None], given.sh_rest], axis=1),
        "viewmat": camera.camera_from_world,
        "K": np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]]),
        "width": 24,
        "height": 16,
    }
    exec(CONVERT, names)
    expected = render(given, camera)
    actual = render(names["gaussians"], names["camera"])
    np.testing.assert_allclose(actual.color, expected.color, atol=1e-5)
    assert expected.alpha.max() > 0.1


def test_the_batch_runs():
    camera = make_camera(24, 16, 30.0)
    names = {
        "jax": jax,
        "Camera": Camera,
        "render": render,
        "gaussians": make_gaussians(0, 9),
        "width": 24,
        "height": 16,
    }
    names |= {"poses": jnp.stack([camera.camera_from_world] * 2), "intrinsics": jnp.stack([camera.intrinsics] * 2)}
    exec(BATCH, names)
    assert names["images"].shape == (2, 16, 24, 3)


def test_every_argument_and_field_is_described_and_no_other():
    arguments = [name for name in inspect.signature(render).parameters if name not in ("gaussians", "camera")]
    rows = re.findall(r"^\| (`.*?) \|", section("What goes in"), flags=re.MULTILINE)
    named = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    assert sorted(named) == sorted([*Gaussians._fields, *arguments])
    rows = re.findall(r"^\| `(\w+)` \|", section("What comes out"), flags=re.MULTILINE)
    assert sorted(rows) == sorted(Rendering._fields)


def test_numbers_are_those_of_the_code():
    conventions = section("Conventions")
    for text, value in (
        ("z > 0.2", projection.NEAR_PLANE),
        ("+ 0.3 I", projection.DILATION),
        ("±1.3 ", projection.JACOBIAN_LIMIT),
        ("min(0.99,", reference.MAX_ALPHA),
        ("below 1e-4 ", reference.MIN_TRANSMITTANCE),
    ):
        assert text in conventions and float(re.findall(r"[\d.]+(?:e-?\d+)?", text)[0]) == value
    assert projection.MIN_ALPHA == 1 / 255 and projection.TILE == 16 == native.load_library().tile_size
    assert (native._PAIRS_PER_GAUSSIAN_CPU, native._PAIRS_PER_GAUSSIAN_GPU) == (16, 8) and native._MIN_PAIRS == 262_144
    assert native.load_library().splat_floats * 4 + 4 == 68  # kept per Gaussian: the splat and where its slots begin


@pytest.mark.parametrize(
    ("count", "pairs", "channels", "formula"), [(200_000, 281_668, 0, 142), (10**6, 1_105_639, 8, 775)]
)
def test_the_memory_table_follows_the_formula(count, pairs, channels, formula):
    size = 504 * 378
    inputs, images = count * (253 + 4 * channels), 2 * 4 * size * (5 + channels)
    kept, gradients = 68 * count + 8 * pairs, count * (256 + 4 * channels)
    working = 25 * count + pairs * (67 + 5 * channels)
    total = inputs + images + kept + gradients + working
    expected = count * (602 + 8 * channels) + 8 * size * (5 + channels) + pairs * (75 + 5 * channels)
    assert total == expected
    assert round(total / 2**20) == formula
    assert f"| {channels} | {formula} |" in section("Memory")


def test_what_needs_the_reference_does():
    gaussians, camera = make_gaussians(0, 3), make_camera(4, 4, 5.0)

    def loss(gaussians, backend):
        return jnp.sum(render(gaussians, camera, backend=backend).color ** 2)

    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(lambda g: loss(g, "native"), (gaussians,), (gaussians,))
    forward = quick_jit(lambda g: jax.jvp(lambda g: loss(g, "reference"), (g,), (g,))[1])(gaussians)
    backward = jax.grad(lambda g: loss(g, "native"))(gaussians)
    expected = sum(np.vdot(a, b) for a, b in zip(backward, gaussians, strict=True))
    np.testing.assert_allclose(forward, expected, rtol=1e-3)
