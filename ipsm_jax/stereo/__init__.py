"""Dense multi-view stereo: a few posed photos to depth maps, masks of what to believe, and a coloured point cloud."""

from ipsm_jax.stereo.bounds import scene_bounds
from ipsm_jax.stereo.depths import StereoDepths, stereo_depths
from ipsm_jax.stereo.fusion import fuse_points
from ipsm_jax.stereo.options import StereoError, StereoOptions
from ipsm_jax.stereo.progress import stereo_progress
from ipsm_jax.stereo.start import scene_depths, stereo_points

__all__ = [
    "StereoDepths",
    "StereoError",
    "StereoOptions",
    "fuse_points",
    "scene_bounds",
    "scene_depths",
    "stereo_depths",
    "stereo_points",
    "stereo_progress",
]
