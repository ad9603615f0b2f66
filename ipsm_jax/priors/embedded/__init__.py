"""The small diffusion prior that the package carries: patch latents, descriptors of scenes, loading (see README.md)."""
