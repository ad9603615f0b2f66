"""Views that do not belong: a wrong pose, or a photo of another place.

Where poses and photos fit, two views confirm each other's depths at many pixels. Where they do not, some pixels still
agree by chance: 2 to 10 % of them. How many depends on overlap, depth range and texture, so it is measured: a view is a
stranger if, at a small size, the others confirm it less than twice as often as with its photo turned upside down.
Only views that few pixels agree with are looked at in this way, so it costs nothing where all is well.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8

from ipsm_jax.scene.camera import Camera
from ipsm_jax.stereo.depths import Report, StereoDepths, match_views
from ipsm_jax.stereo.geometry import halved
from ipsm_jax.stereo.options import StereoError, StereoOptions
from ipsm_jax.stereo.sweep import halved_image

_FEW, _FEWER = 0.15, 0.5
"""A view is looked at if no other agrees with more than this share of its pixels, or than this times the share of the
view that is agreed with most."""
_ABOVE_CHANCE = 2.0
_SMALL = 400  # pixels of the longer side, at most


def stereo_depths(
    cameras: Camera,
    images: UInt8[np.ndarray, "v h w 3"],
    bounds: Float[np.ndarray, "v 2"],
    options: StereoOptions | None = None,
    progress: Report | None = None,
) -> StereoDepths:
    """Depth maps of two to nine views, each from the others; no other view plays a part.

    Strangers are named, and the others matched again without them. The same arguments give the same depths.

    Args:
      cameras: batch of V views of one size.
      images: their photos, without distortion.
      bounds: nearest and farthest depth in world units (`bounds.scene_bounds`).
      options: `StereoOptions()` by default.
      progress: silent by default (`progress.stereo_progress` shows a bar).

    Raises:
      StereoError: if there are fewer than two views, shapes do not fit, bounds are not 0 < nearest < farthest, no two
        views overlap, or fewer than two are no strangers.
    """
    options = StereoOptions() if options is None else options
    found, shares = match_views(cameras, images, bounds, options, progress)
    strangers = find_strangers(cameras, images, bounds, options, shares)
    if not strangers:
        return found
    rest = [view for view in range(len(images)) if view not in strangers]
    if len(rest) < 2:
        raise StereoError(
            f"the {len(images)} views agree on depths hardly more than by chance: their poses do not fit the photos, "
            "or there is too little texture or overlap. Check the poses, or choose other training views"
        )
    part, _ = match_views(cameras[np.array(rest)], images[rest], bounds[rest], options, progress)
    depth, confident = np.zeros_like(found.depth), np.zeros_like(found.confident)
    depth[rest], confident[rest] = part.depth, part.confident
    return StereoDepths(depth, confident, strangers)


def find_strangers(
    cameras: Camera,
    images: UInt8[np.ndarray, "v h w 3"],
    bounds: Float[np.ndarray, "v 2"],
    options: StereoOptions,
    shares: Float[np.ndarray, "v v"],
) -> tuple[int, ...]:
    """Views that others confirm hardly more than by chance, given the `shares` of `depths.match_views`."""
    best = shares.max(axis=1)
    suspects = np.flatnonzero(best < max(_FEW, _FEWER * best.max()))
    if not len(suspects):
        return ()
    cameras, images = _small(cameras, images)
    best = match_views(cameras, images, bounds, options)[1].max(axis=1)
    strangers = []
    for view in suspects:
        turned = images.copy()
        turned[view] = images[view, ::-1, ::-1]
        chance = match_views(cameras, turned, bounds, options)[1][view].max()
        if best[view] <= _ABOVE_CHANCE * chance:
            strangers.append(int(view))
    return tuple(strangers)


def _small(cameras: Camera, images: UInt8[np.ndarray, "v h w 3"]) -> tuple[Camera, UInt8[np.ndarray, "v h2 w2 3"]]:
    """The views at a half, a quarter and so on of their size."""
    while max(cameras.width, cameras.height) > _SMALL:
        cameras = halved(cameras)
        each_channel = jax.vmap(jax.vmap(halved_image, in_axes=-1, out_axes=-1))
        images = np.round(np.asarray(each_channel(jnp.asarray(images, jnp.float32)))).astype(np.uint8)
    return cameras, images
