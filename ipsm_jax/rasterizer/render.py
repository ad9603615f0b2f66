"""`render`: the one entry to the rasterizers."""

from __future__ import annotations

from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from ipsm_jax.rasterizer.native import FOOTPRINTS, check_platform, load_library, render_native
from ipsm_jax.rasterizer.reference import render_reference
from ipsm_jax.rasterizer.rendering import Rendering
from ipsm_jax.scene.camera import Camera
from ipsm_jax.scene.gaussians import Gaussians
from ipsm_jax.scene.harmonics import check_degree

Backend = Literal["auto", "native", "reference"]


def _check_shapes(gaussians: Gaussians, camera: Camera, given: dict[str, tuple[Array, tuple[int, ...]]]) -> None:
    n = gaussians.means.shape[0] if jnp.ndim(gaussians.means) else 0
    wanted = {"means": (n, 3), "log_scales": (n, 3), "quaternions": (n, 4), "opacity_logits": (n,), "sh_dc": (n, 3)}
    found = {name: (getattr(gaussians, name), shape) for name, shape in wanted.items()}
    found |= {"camera_from_world": (camera.camera_from_world, (4, 4)), "intrinsics": (camera.intrinsics, (4,))} | given
    for name, (array, shape) in found.items():
        if jnp.shape(array) != shape:
            raise ValueError(f"{name} has shape {jnp.shape(array)}, want {shape}; for batches use jax.vmap over render")
    if jnp.shape(gaussians.sh_rest) != (n, 15, 3):
        raise ValueError(f"sh_rest has shape {jnp.shape(gaussians.sh_rest)}, want {(n, 15, 3)}")
    if camera.width < 1 or camera.height < 1:
        raise ValueError(f"image size {camera.width} x {camera.height} is empty")


def render(
    gaussians: Gaussians,
    camera: Camera,
    *,
    alive: Bool[Array, " n"] | None = None,
    background: Float[ArrayLike, " 3"] | None = None,
    sh_degree: int | Int[Array, ""] = 3,
    mean2d_offset: Float[Array, "n 2"] | None = None,
    features: Float[Array, "n c"] | None = None,
    mean2d_absolute: Float[Array, "n 2"] | None = None,
    footprint: Literal["exact", "3sigma"] = "exact",
    antialiased: bool = False,
    pair_capacity: int | None = None,
    backend: Backend = "auto",
) -> Rendering:
    """Render Gaussians as one camera sees them; differentiable in everything but `alive` and `sh_degree`.

    Works under jit, grad and vmap (over cameras, over whole sets of Gaussians, nested). Gradients exist for all fields
    of the Gaussians, for the camera's pose and intrinsics, the background and `mean2d_offset`.

    Args:
      gaussians: n slots, float32 (the reference takes float64 too).
      camera: one camera without batch axes.
      alive: (n,) which slots are in use; default all. A slot that is not cannot be seen, whatever numbers it holds.
      background: (3,) color behind everything; default black.
      sh_degree: degree of the spherical harmonics in use, 0 to 3; may be traced.
      mean2d_offset: (n, 2) added to the projected means, in pixels. Pass zeros and differentiate to get the
        screen-space gradient that density control looks at.
      features: (n, c) further values per Gaussian, any number of channels, blended like colors but without background.
      mean2d_absolute: (n, 2), any values; they have no influence on the image. Their "gradient" is the sum over the
        pixels of |dL/d(mean2d)| (AbsGS), componentwise, in 1 / pixels. Native only.
      footprint: "exact" draws each Gaussian out to alpha = 1/255; "3sigma" cuts it like the original, at the square of
        16 x 16 tiles around 3 standard deviations.
      antialiased: scale each opacity by sqrt(det before / det after dilation), so that Gaussians thinner than a pixel
        do not become too bright when seen from afar (Mip-Splatting; gsplat's rasterize_mode="antialiased").
      pair_capacity: room for (Gaussian, tile) pairs between forward and backward pass, default 8 a slot. When a frame
        has more (see `Rendering.pair_count`), the CPU sorts once more in the backward pass: slower, the same result. A
        GPU cannot make room while it draws: images and gradients of that frame are NaN; render it again with a
        capacity of at least `pair_count`.
      backend: "native" (compiled kernels), "reference" (plain jnp; the oracle, slow), "auto" = native.

    Returns:
      `Rendering` with color (h, w, 3), depth (h, w), alpha (h, w), radii (n,), features (h, w, c).

    Raises:
      ValueError: a shape does not fit, a degree outside 0..3, an unknown footprint or backend, or something that the
        reference cannot do.
      TypeError: an operand has a precision that the native kernels do not take, or `antialiased` is not a bool.
      NativeUnavailableError: the native library is missing or does not fit the installed jaxlib or device.
    """
    n = gaussians.means.shape[0] if jnp.ndim(gaussians.means) else 0
    dtype = jnp.result_type(gaussians.means)
    alive = jnp.ones(n, bool) if alive is None else jnp.asarray(alive)
    background = jnp.zeros(3, dtype) if background is None else jnp.asarray(background, dtype)
    offset = jnp.zeros((n, 2), dtype) if mean2d_offset is None else jnp.asarray(mean2d_offset)
    absolute = None if mean2d_absolute is None else jnp.asarray(mean2d_absolute)
    features = jnp.zeros((n, 0), dtype) if features is None else jnp.asarray(features)
    check_degree(sh_degree)
    degree = jnp.asarray(sh_degree, jnp.int32)
    _check_shapes(
        gaussians,
        camera,
        {
            "alive": (alive, (n,)),
            "background": (background, (3,)),
            "mean2d_offset": (offset, (n, 2)),
            **({} if absolute is None else {"mean2d_absolute": (absolute, (n, 2))}),
            "sh_degree": (degree, ()),
        },
    )
    if features.ndim != 2 or features.shape[0] != n:
        raise ValueError(
            f"features has shape {features.shape}, want ({n}, any number of channels); for batches use jax.vmap over "
            "render"
        )
    if footprint not in FOOTPRINTS:
        raise ValueError(f"unknown footprint {footprint!r}; choose from {', '.join(FOOTPRINTS)}")
    if backend not in get_args(Backend):
        raise ValueError(f"unknown backend {backend!r}; choose from {', '.join(get_args(Backend))}")
    if not isinstance(antialiased, (bool, np.bool_)):
        raise TypeError(
            f"antialiased must be True or False, known when the program is traced; got {type(antialiased).__name__}"
        )
    if pair_capacity is not None and (not isinstance(pair_capacity, (int, np.integer)) or pair_capacity < 1):
        raise ValueError(
            f"pair_capacity must be an integer of at least 1, or None for the default; got {pair_capacity}"
        )
    if backend == "reference":
        if absolute is not None:
            raise ValueError('absolute gradients (mean2d_absolute) need backend="native": the reference has none')
        return render_reference(
            gaussians,
            camera,
            alive,
            background,
            degree,
            offset,
            footprint,
            features=features,
            antialiased=antialiased,
        )
    gaussians = Gaussians(*map(jnp.asarray, gaussians))
    camera = Camera(jnp.asarray(camera.camera_from_world), jnp.asarray(camera.intrinsics), camera.width, camera.height)
    check_platform(jax.default_backend(), load_library().cuda_architectures)
    color, depth, alpha, image, radii, pair_count = render_native(
        gaussians,
        camera,
        alive,
        background,
        degree,
        offset,
        features,
        absolute,
        footprint,
        bool(antialiased),
        pair_capacity,
    )
    return Rendering(color, depth, alpha, radii, image, pair_count)
