"""Networks that see depth in a single picture: DPT-Hybrid (MiDaS) and Depth Anything V2, each as a `DepthPrior`."""

from ipsm_jax.priors.monodepth.load import check_depth_network, load_depth_network

__all__ = ["check_depth_network", "load_depth_network"]
