"""What surrounds the native kernels: versions, instruction sets, room for the lists, refusals, odd numbers."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ipsm_jax._source_hash import source_hash
from ipsm_jax.rasterizer import NativeUnavailableError, native, render
from ipsm_jax.scene import Camera, Gaussians

CAMERA = Camera(jnp.eye(4), jnp.array([60.0, 60.0, 35.5, 26.0]), 71, 52)


def some_gaussians(count: int, seed: int = 0, scale: float = -2.0) -> Gaussians:
    rng = np.random.default_rng(seed)
    fields = (
        rng.normal(size=(count, 3)) * [1.2, 0.9, 0.8] + [0, 0, 3],
        rng.normal(size=(count, 3)) * 0.5 + scale,
        rng.normal(size=(count, 4)),
        rng.normal(size=count) * 2,
        rng.normal(size=(count, 3)),
        rng.normal(size=(count, 15, 3)) * 0.2,
    )
    return Gaussians(*(jnp.asarray(f, jnp.float32) for f in fields))


def loss(gaussians: Gaussians) -> jax.Array:
    r = render(gaussians, CAMERA)
    return jnp.sum(jnp.sin(7 * r.color)) + jnp.sum(r.depth * r.alpha)


def test_a_library_that_is_newer_than_the_runtime_is_refused_with_the_remedy():
    with pytest.raises(NativeUnavailableError, match=r"built for XLA FFI 0\.5.*offers 0\.3.*pip install -U jax"):
        native.check_ffi_version((0, 5), (0, 3))
    with pytest.raises(NativeUnavailableError, match="pip install"):
        native.check_ffi_version((1, 0), (0, 3))
    native.check_ffi_version((0, 3), (0, 5))
    native.check_ffi_version((0, 3), (0, 3))


def test_the_runtime_version_is_read_from_jaxlib():
    major, minor = native.runtime_ffi_version()
    assert (major, minor) >= (0, 3)
    native.check_ffi_version(tuple(native.load_library().ffi_api_version), (major, minor))


def test_a_library_built_from_other_sources_is_refused(tmp_path):
    csrc = tmp_path / "csrc"
    csrc.mkdir()
    (csrc / "a.cpp").write_text("int x;")
    built = source_hash(csrc)
    native.check_sources(built, csrc)
    (csrc / "a.cpp").write_text("int y;")
    with pytest.raises(NativeUnavailableError, match=r"other sources.*pip install"):
        native.check_sources(built, csrc)
    native.check_sources("anything", tmp_path / "no checkout")


def test_platforms_without_kernels_are_refused_with_the_remedy():
    native.check_platform("cpu", "")
    native.check_platform("gpu", "sm_80 sm_90")
    with pytest.raises(
        NativeUnavailableError, match=r"without CUDA kernels.*IPSM_JAX_CUDA=1 pip install.*JAX_PLATFORMS=cpu"
    ):
        native.check_platform("gpu", "")
    with pytest.raises(NativeUnavailableError, match=r"runs on tpu here; set JAX_PLATFORMS=cpu"):
        native.check_platform("tpu", "sm_90")


def test_render_asks_for_the_platform(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    with pytest.raises(NativeUnavailableError, match="tpu"):
        render(some_gaussians(2), CAMERA)


def test_handlers_for_cuda_are_there_if_they_were_built():
    library = native.load_library()
    names = {native.FORWARD, native.BACKWARD} if library.cuda_architectures else set()
    assert set(library.cuda_handlers()) == names


def test_lists_that_overflow_are_sorted_again_with_the_same_result(monkeypatch):
    gaussians = some_gaussians(300)
    roomy = jax.value_and_grad(loss)(gaussians)
    monkeypatch.setattr(native, "_PAIRS_PER_GAUSSIAN_CPU", 0)
    monkeypatch.setattr(native, "_MIN_PAIRS", 7)
    cramped = jax.value_and_grad(loss)(gaussians)
    jax.tree.map(np.testing.assert_array_equal, roomy, cramped)


PROGRAM = """
import sys, numpy as np, jax, pathlib
sys.path.insert(0, sys.argv[1])
from test_native import loss, some_gaussians
from ipsm_jax.rasterizer.native import load_library
value, gradient = jax.value_and_grad(loss)(some_gaussians(400))
np.savez(sys.argv[2], value, *gradient, level=load_library().simd_level())
"""


@pytest.mark.parametrize("level", ["baseline", "avx2", "avx512"])
def test_instruction_sets_agree(level, tmp_path):
    """Each level in a process of its own; a machine that lacks one runs the next lower, which must agree as well."""
    out = tmp_path / "out.npz"
    environment = {**os.environ, "IPSM_JAX_SIMD": level}
    subprocess.run(
        [sys.executable, "-c", PROGRAM, str(Path(__file__).parent), str(out)], check=True, env=environment, timeout=300
    )
    with np.load(out) as found:
        assert level != "baseline" or str(found["level"]) == "baseline"
        expected = jax.value_and_grad(loss)(some_gaussians(400))
        for name, wanted in zip([f"arr_{i}" for i in range(7)], jax.tree.leaves(expected), strict=True):
            error = np.linalg.norm(found[name] - wanted) / np.linalg.norm(wanted)
            assert error < 1e-5, (name, error)


THREADS_PROGRAM = """
import os, sys, numpy as np, jax
if sys.argv[3] == "one":
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
sys.path.insert(0, sys.argv[1])
from test_native import everything
np.savez(sys.argv[2], *jax.tree.leaves(everything()))
"""


def everything():
    """Images and all gradients, the camera's too, of enough Gaussians for several pieces of parallel work."""
    gaussians = some_gaussians(9000, scale=-4.0)

    def images(gaussians, pose, intrinsics, background):
        r = render(gaussians, Camera(pose, intrinsics, CAMERA.width, CAMERA.height), background=background)
        return jnp.sum(jnp.sin(7 * r.color)) + jnp.sum(r.depth * r.alpha), r

    operands = (gaussians, CAMERA.camera_from_world, CAMERA.intrinsics, jnp.array([0.1, 0.5, 0.9]))
    return jax.jit(jax.value_and_grad(images, argnums=(0, 1, 2, 3), has_aux=True))(*operands)


@pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity") or len(os.sched_getaffinity(0)) < 2,
    reason="needs two cores to compare with one",
)
def test_the_number_of_threads_changes_nothing(tmp_path):
    """XLA's pool has as many threads as the process may use cores."""
    for cores in ("one", "all"):
        command = [sys.executable, "-c", THREADS_PROGRAM, str(Path(__file__).parent), str(tmp_path / cores), cores]
        subprocess.run(command, check=True, timeout=300)
    with np.load(tmp_path / "one.npz") as one, np.load(tmp_path / "all.npz") as all_cores:
        assert len(one.files) > 10
        for name in one.files:
            np.testing.assert_array_equal(one[name], all_cores[name])


def test_thousands_of_gaussians_agree_with_the_reference():
    """More than one slice of the parallel sort; every tile's list and order must be right."""
    gaussians = some_gaussians(6000, scale=-4.5)
    native_images = jax.jit(lambda g: render(g, CAMERA))(gaussians)
    reference = jax.jit(lambda g: render(g, CAMERA, backend="reference"))(gaussians)
    assert int(np.sum(native_images.radii > 0)) > 4096
    np.testing.assert_array_equal(native_images.radii, reference.radii)
    for ours, theirs in zip(native_images[:3], reference[:3], strict=True):
        assert np.linalg.norm(ours - theirs) < 1e-4 * np.linalg.norm(theirs)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e38, -1e38, 0.0])
@pytest.mark.parametrize("field", Gaussians._fields)
def test_no_number_in_any_field_stops_it(field, value):
    """Also in the fields of live Gaussians: an image and gradients come back, nothing hangs."""
    gaussians = some_gaussians(40)
    broken = gaussians._replace(**{field: getattr(gaussians, field).at[::3].set(value)})
    rendering = render(broken, CAMERA)
    jax.block_until_ready(jax.grad(loss)(broken))
    # What does not fit into numbers is culled; harmonics only color, and alpha knows nothing of color.
    assert np.isfinite(rendering.alpha).all()
    assert np.max(rendering.alpha) > 0.1


def test_random_bytes_as_floats():
    rng = np.random.default_rng(0)
    for _ in range(20):
        gaussians = Gaussians(
            *(
                jnp.asarray(np.frombuffer(rng.bytes(4 * x.size), np.float32).reshape(x.shape))
                for x in some_gaussians(64)
            )
        )
        r = render(gaussians, CAMERA)
        assert r.color.shape == (52, 71, 3)
        jax.block_until_ready(jax.grad(loss)(gaussians))


def test_wrong_precision_and_shapes_are_refused_by_name():
    gaussians = some_gaussians(5)
    with pytest.raises(TypeError, match="means as float32"):
        render(gaussians._replace(means=gaussians.means.astype(jnp.bfloat16)), CAMERA)
    with pytest.raises(ValueError, match=r"sh_rest has shape \(5, 8, 3\)"):
        render(gaussians._replace(sh_rest=gaussians.sh_rest[:, :8]), CAMERA)
    with pytest.raises(ValueError, match="log_scales"):
        render(gaussians._replace(log_scales=gaussians.log_scales[:4]), CAMERA)
    with pytest.raises(ValueError, match=r"camera_from_world has shape \(2, 4, 4\).*vmap"):
        render(gaussians, Camera(jnp.zeros((2, 4, 4)), jnp.zeros((2, 4)), 8, 8))
    with pytest.raises(ValueError, match="alive"):
        render(gaussians, CAMERA, alive=jnp.ones(4, bool))
    with pytest.raises(ValueError, match="footprint 'round'"):
        render(gaussians, CAMERA, footprint="round")
    with pytest.raises(ValueError, match="backend 'cuda'"):
        render(gaussians, CAMERA, backend="cuda")
    with pytest.raises(ValueError, match="empty"):
        render(gaussians, Camera(jnp.eye(4), jnp.ones(4), 0, 8))
