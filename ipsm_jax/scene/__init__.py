"""What a scene is made of: cameras, Gaussians, spherical harmonics and camera paths."""

from ipsm_jax.scene.camera import Camera, camera_from_matrices
from ipsm_jax.scene.gaussians import Gaussians, gaussians_from_activated, gaussians_from_points

__all__ = ["Camera", "Gaussians", "camera_from_matrices", "gaussians_from_activated", "gaussians_from_points"]
