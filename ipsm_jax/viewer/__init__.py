"""Looking at Gaussians in a browser: frames drawn here by the rasterizer, shown behind what viser draws there.

`viewpoint`, `stage`, `pace`, `schedule`, `follow`, `opening` and `world` know nothing of a server; `server` and `panel`
need viser. The command is `ipsm_jax.view`; `training` serves a training from within.
"""
