"""Settings of what steers training beyond the photos: depth, geometry and diffusion priors (METHOD sections 4 to 7)."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal, NamedTuple

from ipsm_jax.config.errors import require

Guidance = Literal["none", "sds", "g1", "ipsm"]
Prior = Literal["stable-diffusion", "embedded"]


class GuidanceWeights(NamedTuple):
    """Weights of the terms of score distillation, of at least 0."""

    sds: float
    g1: float
    g2: float


WEIGHTS: dict[Prior, GuidanceWeights] = {
    "stable-diffusion": GuidanceWeights(2.0, 0.2, 2.0),  # published
    "embedded": GuidanceWeights(0.02, 0.06, 0.06),  # tuned on the built-in scene: experiments/sds_vs_ipsm.py --tune
}
"""What a term weighs with each prior, unless a setting says otherwise."""

DepthSource = Literal["none", "network", "stereo", "maps", "exact"]


@dataclasses.dataclass(frozen=True)
class PseudoViewConfig:
    """Views that nobody photographed, for guidance, geometry and depth networks (METHOD section 5)."""

    pseudo_views: Literal["auto", "llff", "dtu", "around"] = "auto"
    """Where they are drawn: 'llff' (forward facing, needs depth bounds), 'dtu' (all cameras look at one point),
    'around' each training camera, for anything else; 'auto' is llff where the scene suits it, else around."""
    pseudo_from: int = 2000
    """One pseudo view in each iteration after this one ..."""
    pseudo_until: int = 9500
    """... and before this one."""
    pseudo_ramp: int = 500
    """Iterations over which the weights of the pseudo views' depth, G1 and G2 grow from 0 to their full value."""
    pseudo_list: int = 10_000
    """The spread of pseudo views is taken from a list of this length, in random order; 0 = drawn uniformly."""

    def __post_init__(self) -> None:
        require(self.pseudo_from >= 0, f"--pseudo-from must not be negative, got {self.pseudo_from}")
        require(
            self.pseudo_until > self.pseudo_from + 1,
            f"--pseudo-until must be at least --pseudo-from + 2, got {self.pseudo_until} and {self.pseudo_from}",
        )
        require(self.pseudo_ramp >= 1, f"--pseudo-ramp must be at least 1, got {self.pseudo_ramp}")
        require(self.pseudo_list >= 0, f"--pseudo-list must not be negative, got {self.pseudo_list}")


@dataclasses.dataclass(frozen=True)
class GuidanceConfig:
    """Score distillation from a diffusion prior (METHOD section 7)."""

    guidance: Guidance = "none"
    """Score distillation on pseudo views: 'sds'; 'ipsm' (inline prior from warped photos: G1 + G2); 'g1' alone;
    'none'."""
    prior: Prior = "stable-diffusion"
    """Diffusion models that guide: Stable Diffusion 1.5, which has to be downloaded, or a small model that comes with
    the package and is told by the training photos what the place looks like."""
    prior_path: Path | None = None
    """Folder of the diffusion models; default: of Stable Diffusion $IPSM_JAX_PRIORS, ./priors, the Hugging Face cache;
    of the embedded ones the package."""
    prior_dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    """What the diffusion models' weights are kept and multiplied in; auto: Stable Diffusion in bfloat16, the embedded
    ones in float32."""
    prompt: str = ""
    """What the photos show, in words; for Stable Diffusion."""
    caption_file: Path | None = None
    """Text file to take the prompt from: one caption, or a line for each scene; default: blip_rst.txt in the scene."""
    prompt_suffix: str = ", realistic, 8k"
    """Added to the prompt."""
    negative_prompt: str = "blurry, unrealistic"
    """Text that classifier-free guidance moves away from."""
    sds_weight: float | None = None
    """Weight of SDS; default: of the prior, 2 with Stable Diffusion (published)."""
    g1_weight: float | None = None
    """Weight of IPSM's G1, times the ramp; default: of the prior, 0.2 with Stable Diffusion (published)."""
    g2_weight: float | None = None
    """Weight of IPSM's G2, times the ramp; default: of the prior, 2 with Stable Diffusion (published)."""
    g2_sign: Literal["published", "paper"] = "published"
    """Direction of G2: as in the published configuration, or the opposite, the paper's equation 12."""
    guidance_scale: float = 7.5
    """Scale of classifier-free guidance of the plain model."""
    inpaint_guidance_scale: float = 7.5
    """Scale of classifier-free guidance of the inpainting model."""
    first_timestep: int = 250
    """Lowest timestep of the diffusion, of 1000."""
    last_timestep: int = 749
    """Highest timestep of the diffusion, of 1000."""
    timestep_weighting: Literal["alpha", "noise", "constant"] = "alpha"
    """Weight of a timestep: its cumulative alpha (published), 1 - alpha, or 1."""
    encode: Literal["per_term", "shared"] = "per_term"
    """Encode the render once for each term, each with its own posterior sample (published), or once for all."""
    guidance_threshold: float = 0.3
    """Warped pixels whose normalized depths differ by this or more are left to the inpainting model."""

    def __post_init__(self) -> None:
        for name in ("sds_weight", "g1_weight", "g2_weight"):
            value = getattr(self, name)
            require(value is None or value >= 0, f"--{name.replace('_', '-')} must not be negative, got {value}")
        require(
            0 <= self.first_timestep <= self.last_timestep <= 999,
            f"timesteps need 0 <= --first-timestep <= --last-timestep <= 999, got {self.first_timestep} and "
            f"{self.last_timestep}",
        )
        require(
            not (self.prompt and self.caption_file),
            f"give either --prompt {self.prompt!r} or --caption-file {self.caption_file}, not both",
        )
        require(
            self.prior != "embedded" or not (self.prompt or self.caption_file),
            "the embedded prior understands no words, it looks at the training photos: leave --prompt and "
            "--caption-file away, or use --prior stable-diffusion",
        )
        _require_threshold("guidance", self.guidance_threshold)

    @property
    def weights(self) -> GuidanceWeights:
        """Weights of the terms: those given, else the prior's own."""
        given = {"sds": self.sds_weight, "g1": self.g1_weight, "g2": self.g2_weight}
        return WEIGHTS[self.prior]._replace(**{term: value for term, value in given.items() if value is not None})


@dataclasses.dataclass(frozen=True)
class DepthConfig:
    """Depth regularization by correlation (METHOD section 4)."""

    depth: DepthSource = "none"
    """What rendered depth is compared with: 'network' (monocular, on training and pseudo views), 'stereo' (dense stereo
    of the training views, no download), 'maps' (files for the training views), 'exact' (the scene's own depth, where
    it has one: for experiments), 'none'."""
    depth_path: Path | None = None
    """Folder of the depth network (default: $IPSM_JAX_PRIORS, ./priors, the Hugging Face cache) or of the maps, one
    .npy or .png named like each photo, 0 where the depth is not known."""
    maps_hold: Literal["depth", "inverse"] = "depth"
    """What maps hold: camera z, or inverse depth (disparity, as networks give it); of any scale."""
    maps_unit: float = 1.0
    """What maps are multiplied by: the scene's units in one of theirs. Matters to --depth-loss direct only."""
    depth_loss: Literal["correlation", "direct"] = "correlation"
    """How: by correlation (published), or by the relative difference, which takes depths in the scene's unit: stereo,
    exact, or maps of depth."""
    seen_depth_weight: float = 0.05
    """Weight of the depth of training views."""
    seen_depth_late_weight: float = 0.001
    """The same after --seen-depth-late-after."""
    seen_depth_late_after: int = 9500
    """Last iteration with the first weight."""
    pseudo_depth_weight: float = 0.5
    """Weight of the depth of pseudo views, times the ramp; needs a network."""

    def __post_init__(self) -> None:
        for name in ("seen_depth_weight", "seen_depth_late_weight", "pseudo_depth_weight", "seen_depth_late_after"):
            value = getattr(self, name)
            require(value >= 0, f"--{name.replace('_', '-')} must not be negative, got {value}")
        require(
            self.depth_loss == "correlation"
            or self.depth in ("stereo", "exact")
            or (self.depth == "maps" and self.maps_hold == "depth"),
            f"--depth-loss direct needs depths in the scene's unit, and --depth {self.depth} has none",
        )
        require(self.maps_unit > 0, f"--maps-unit must be positive, got {self.maps_unit}")
        require(
            self.depth_path is None or self.depth in ("maps", "network"),
            f"--depth-path {self.depth_path} is read with --depth maps or --depth network only, not with --depth "
            f"{self.depth}",
        )
        require(
            self.maps_hold == "depth" or self.depth == "maps",
            f"--maps-hold {self.maps_hold} says something of --depth maps only, not of --depth {self.depth}",
        )
        require(
            self.depth != "maps" or self.depth_path is not None,
            "--depth maps needs --depth-path: the folder with a map for each training photo",
        )


@dataclasses.dataclass(frozen=True)
class GeometryConfig:
    """Consistency of other views with the photos: of pseudo views (METHOD section 6), and of stereo pairs."""

    geometry: bool = False
    """Ask pseudo views to look like the photos warped into them."""
    geometry_weight: float = 2.0
    """Weight of geometry consistency."""
    geometry_threshold: float = 0.1
    """Warped pixels whose normalized depths differ by this or more do not count."""
    binocular: bool = False
    """Ask views from a little to the side, moved back by the rendered depth, to look like the training photos."""
    binocular_weight: float = 1.0
    """Weight of binocular consistency."""
    binocular_shift: float = 0.2
    """Largest shift to either side, in units of the scene's extent."""
    binocular_from: int = 2000
    """Binocular consistency acts in iterations after this one."""

    def __post_init__(self) -> None:
        for name in ("binocular_weight", "binocular_from"):
            value = getattr(self, name)
            require(value >= 0, f"--{name.replace('_', '-')} must not be negative, got {value}")
        require(self.binocular_shift > 0, f"--binocular-shift must be positive, got {self.binocular_shift}")
        require(self.geometry_weight >= 0, f"--geometry-weight must not be negative, got {self.geometry_weight}")
        _require_threshold("geometry", self.geometry_threshold)


def _require_threshold(name: str, value: float) -> None:
    require(value > 0, f"--{name}-threshold must be positive, got {value}")
