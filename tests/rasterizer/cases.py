"""Scenes at the edges of what the rasterizer handles, each made from an ordinary one."""

from __future__ import annotations

import jax.numpy as jnp
from scenes import View

# Where almost nothing of the background is left, 1 - alpha has few digits in float32; and the gradient of a needle's
# width is a small difference of large numbers. Gradients (not images) may then be less exact.
ILL_CONDITIONED = {"huge": 1e-3, "beside the image": 1e-3, "needles": 1e-3}


def changed(view: View, **fields) -> View:
    return view._replace(gaussians=view.gaussians._replace(**fields))


def spread_depths(view):
    """Around the camera in all directions, close to the near plane too."""
    means = view.gaussians.means
    return changed(view, means=(means - jnp.array([[0, 0, 4.0]])) * jnp.array([[1.0, 1.0, 2.0]]))


def needles(view):
    return changed(view, log_scales=view.gaussians.log_scales + jnp.array([[1.5, -12.0, -12.0]]))


def sideways(view):
    """Many means beyond 1.3 tan(fov / 2), large enough to reach into the image."""
    means = view.gaussians.means * jnp.array([[4.0, 4.0, 1.0]])
    return changed(view, means=means, log_scales=view.gaussians.log_scales + 2)


EDGE_CASES = {
    "some behind the camera": spread_depths,
    "all behind the camera": lambda v: changed(v, means=v.gaussians.means - jnp.array([[0, 0, 20.0]])),
    "off the image": lambda v: changed(v, means=v.gaussians.means + jnp.array([[30.0, 0, 0]])),
    "partly off the image": lambda v: changed(v, means=v.gaussians.means + jnp.array([[1.5, 1.0, 0]])),
    "huge": lambda v: changed(v, log_scales=v.gaussians.log_scales + 4),
    "smaller than a pixel": lambda v: changed(v, log_scales=v.gaussians.log_scales - 9),
    "needles": needles,
    "beside the image": sideways,
    "opacity at the clamp": lambda v: changed(v, opacity_logits=v.gaussians.opacity_logits + 8),
    "opacity around 1/255": lambda v: changed(v, opacity_logits=0.3 * v.gaussians.opacity_logits - 5.54),
    "colors clamped at zero": lambda v: changed(v, sh_dc=v.gaussians.sh_dc - 2.5),
    "very bright": lambda v: changed(v, sh_dc=v.gaussians.sh_dc + 30),
    "long quaternions": lambda v: changed(v, quaternions=v.gaussians.quaternions * 1e3),
    "short quaternions": lambda v: changed(v, quaternions=v.gaussians.quaternions * 1e-3),
    "equal depths": lambda v: changed(v, means=jnp.round(v.gaussians.means[:1] + 0 * v.gaussians.means)),
    "black background": lambda v: v._replace(background=jnp.zeros(3)),
    "negative background": lambda v: v._replace(background=jnp.array([-1.0, 2.0, 0.0])),
}


# Where the antialiased mode matters: about as wide as the dilation, or much thinner in one or two directions.
THIN_CASES = {
    "a third of a pixel": lambda v: changed(v, log_scales=v.gaussians.log_scales - 2.3),
    "a tenth of a pixel": lambda v: changed(
        v, log_scales=v.gaussians.log_scales - 3.5, opacity_logits=5 + 0 * v.gaussians.opacity_logits
    ),
    "thin needles": lambda v: changed(v, log_scales=v.gaussians.log_scales + jnp.array([[1.5, -3.0, -3.0]])),
    "thin disks": lambda v: changed(v, log_scales=v.gaussians.log_scales + jnp.array([[0.5, 0.5, -6.0]])),
}
