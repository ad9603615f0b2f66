"""The built-in scene, `--scene demo`: made by code at first use, and from then on read from a cache folder."""

from ipsm_jax.data.synthetic.folder import demo_scene_path, make_scene

__all__ = ["demo_scene_path", "make_scene"]
