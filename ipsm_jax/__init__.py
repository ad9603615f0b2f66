"""ipsm_jax: sparse-view 3D Gaussian splatting in JAX.

The library is a set of pure functions on pytrees; the commands (`python -m ipsm_jax.train`, ...) are thin layers on
top. METHOD, in docstrings, is METHOD.md in this folder.

Conventions, everywhere in the package:

- Cameras are OpenCV style: x right, y down, z forward. Pixel (u, v) has its center at (u + 0.5, v + 0.5).
- Frames are in names: ``camera_from_world`` maps world coordinates to camera coordinates.
- Images are float32 in [0, 1], height x width x channels, unless a name says ``uint8``.
- Quaternions are wxyz.
"""

__version__ = "0.1.0"
