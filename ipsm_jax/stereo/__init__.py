"""Dense multi-view stereo: a few posed photos to depth maps, masks of what to believe, and a colored point cloud."""

from ipsm_jax.stereo.bounds import scene_bounds
from ipsm_jax.stereo.depths import StereoDepths
from ipsm_jax.stereo.fusion import fuse_points
from ipsm_jax.stereo.options import StereoError, StereoOptions
from ipsm_jax.stereo.progress import stereo_progress
from ipsm_jax.stereo.start import depth_warnings, scene_depths, stereo_points
from ipsm_jax.stereo.strangers import stereo_depths

__all__ = [
    "StereoDepths",
    "StereoError",
    "StereoOptions",
    "depth_warnings",
    "fuse_points",
    "scene_bounds",
    "scene_depths",
    "stereo_depths",
    "stereo_points",
    "stereo_progress",
]
