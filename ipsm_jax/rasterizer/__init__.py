"""Gaussians and a camera in, image, depth and alpha out; differentiable, on CPU and (later) CUDA."""
