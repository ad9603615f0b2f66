"""The settings of a run as one frozen dataclass.

A field's docstring is the command's help, so it states the unit and the section of the method it belongs to. The groups
are nested, the names on the command line are flat (``--ssim-weight``, not ``--optimization.ssim-weight``), so a field
name occurs in one group only.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Literal

from ipsm_jax.config.errors import require
from ipsm_jax.config.regularization import DepthConfig, GeometryConfig, GuidanceConfig, PseudoViewConfig

STARTS = ("auto", "stereo", "triangulated", "random", "sfm-all-views")
PresetName = Literal["llff", "dtu", "demo", "best"]


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """What to train on (METHOD section 1)."""

    scene: str = ""
    """Scene to train on: 'demo' (built in), a name looked up under --data-root, or a folder."""
    data_root: Path | None = None
    """Folder that holds scenes; default: $IPSM_JAX_DATA, then ./data."""
    views: int | None = 3
    """Number of training views; None = all that are not test views."""
    downscale: int = 8
    """Factor by which the photos are reduced."""
    split: str = "auto"
    """Rule that divides the photos into training and test views; 'auto' follows the layout of the scene."""

    def __post_init__(self) -> None:
        require(self.views is None or self.views >= 1, f"--views must be at least 1 or None, got {self.views}")
        require(self.downscale >= 1, f"--downscale must be at least 1, got {self.downscale}")


@dataclasses.dataclass(frozen=True)
class InitConfig:
    """Where the first Gaussians come from (METHOD section 2)."""

    init: str = "auto"
    """Starting points: 'stereo' (dense, from the training views), 'triangulated' (sparse, needs pycolmap), 'random',
    'auto' (the first of these that can be done), a .ply file of points or of Gaussians, or 'sfm-all-views' (the
    capture's own points, which were seen from test views too)."""

    def __post_init__(self) -> None:
        require(
            self.init in STARTS or self.init.lower().endswith(".ply"),
            f"--init is one of {', '.join(STARTS)} or a .ply file, got {self.init!r}",
        )


@dataclasses.dataclass(frozen=True)
class OptimizationConfig:
    """Loss and optimizer (METHOD section 3)."""

    iterations: int = 10_000
    """Training iterations, one view each; the learning rate of the means decays over all of them."""
    ssim_weight: float = 0.2
    """Weight of 1 - SSIM; L1 has the rest, 1 - ssim_weight."""
    zero_dark_background: bool = False
    """Zero background pixels (dark from the top down, or white) in the target of L1, as for DTU."""
    sh_degree: int = 3
    """Highest degree of the spherical harmonics, 0 to 3."""
    sh_degree_interval: int = 500
    """Iterations after which the degree of the harmonics rises by one, starting at 0."""
    means_lr: float = 1.6e-4
    """First learning rate of the means, in units of the scene's extent."""
    means_lr_final: float = 1.6e-6
    """Last learning rate of the means, in units of the scene's extent; in between log-linear."""
    scales_lr: float = 5e-3
    """Learning rate of the log scales."""
    quaternions_lr: float = 1e-3
    """Learning rate of the rotations."""
    opacity_lr: float = 0.05
    """Learning rate of the opacity logits."""
    sh_dc_lr: float = 2.5e-3
    """Learning rate of the constant harmonic."""
    sh_rest_lr: float = 1.25e-4
    """Learning rate of the higher harmonics."""
    dropout: float = 0.0
    """Gaussians left out at random in the render of the training view, as a share; rises linearly from 0 to this."""
    opacity_decay: float = 1.0
    """Factor on all opacities, every --opacity-decay-interval iterations; 1 = none."""
    opacity_decay_interval: int = 50
    """Iterations between two decays of the opacities."""
    background: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Background color behind all Gaussians, RGB in [0, 1]."""
    backend: Literal["auto", "native", "reference"] = "auto"
    """Rasterizer, loss and Adam: native code (auto is the same), or the slow references in plain JAX. Density control
    is native code in any case."""

    def __post_init__(self) -> None:
        require(self.iterations >= 1, f"--iterations must be at least 1, got {self.iterations}")
        require(0 <= self.ssim_weight <= 1, f"--ssim-weight must lie in [0, 1], got {self.ssim_weight}")
        require(0 <= self.sh_degree <= 3, f"--sh-degree must be 0, 1, 2 or 3, got {self.sh_degree}")
        require(0 <= self.dropout < 1, f"--dropout must be at least 0 and below 1, got {self.dropout}")
        require(0 < self.opacity_decay <= 1, f"--opacity-decay must lie in (0, 1], got {self.opacity_decay}")
        require(
            self.opacity_decay_interval >= 1,
            f"--opacity-decay-interval must be at least 1, got {self.opacity_decay_interval}",
        )
        require(self.sh_degree_interval >= 1, f"--sh-degree-interval must be >= 1, got {self.sh_degree_interval}")
        for field in dataclasses.fields(self):
            if "_lr" in field.name:
                value, flag = getattr(self, field.name), field.name.replace("_", "-")
                require(value > 0, f"--{flag} must be positive, got {value}")
        require(
            all(0 <= channel <= 1 for channel in self.background),
            f"--background takes three numbers in [0, 1], got {self.background}",
        )


@dataclasses.dataclass(frozen=True)
class DensityConfig:
    """Density control (METHOD section 3). Iterations count from 1; extents are the scene's."""

    density_interval: int = 100
    """Iterations between two density controls."""
    density_from: int = 500
    """First iteration that is followed by density control."""
    density_until: int | None = None
    """No density control after this iteration; None = until the end."""
    gradient_threshold: float = 5e-4
    """Mean norm of dL/d(mean2d) in normalized device coordinates above which a Gaussian is cloned or split."""
    clone_scale: float = 0.01
    """Gaussians up to this size (largest scale / extent) are cloned, larger ones split."""
    split_distance: float = 10.0
    """Split also where the mean squared distance to the 3 nearest neighbors exceeds this times the extent."""
    unpool_distance: float = 5.0
    """Unpool where the mean squared distance to the 3 nearest neighbors exceeds this times the extent."""
    unpool_until: int = 2000
    """Unpooling happens at iterations below this one."""
    prune_opacity: float = 0.005
    """Gaussians less opaque than this are removed."""
    prune_from: int = 501
    """First iteration at which Gaussians are removed."""
    prune_interval: int = 100
    """Remove at density controls whose iteration is a multiple of this (the paper: 500)."""
    opacity_reset_at: int = 2001
    """Iteration after which opacities are lowered to --opacity-reset-value; 0 = never."""
    opacity_reset_interval: int = 0
    """Lower them again each time this many iterations have passed; 0 = once only."""
    opacity_reset_value: float = 0.01
    """Opacities above this are set to this by a reset."""
    capacity: int = 16_384
    """Slots for Gaussians at the start (more if there are many starting points); doubled when they run out."""
    max_gaussians: int | None = None
    """Upper limit of the number of Gaussians; the log says how many more density control had asked for. None = one per
    ten pixels of the training photos, at least 50 000 and twice the starting points. (From a sparse start, unpooling
    would ask for several times that, at no gain in quality.)"""

    def __post_init__(self) -> None:
        for name in ("density_interval", "density_from", "prune_interval", "capacity"):
            value = getattr(self, name)
            require(value >= 1, f"--{name.replace('_', '-')} must be at least 1, got {value}")
        for name in ("opacity_reset_at", "opacity_reset_interval", "prune_from", "unpool_until"):
            value = getattr(self, name)
            require(value >= 0, f"--{name.replace('_', '-')} must not be negative, got {value}")
        for name in ("prune_opacity", "opacity_reset_value"):
            value = getattr(self, name)
            require(0 < value < 1, f"--{name.replace('_', '-')} must lie between 0 and 1, got {value}")
        require(
            self.max_gaussians is None or self.max_gaussians >= 4,
            f"--max-gaussians must be at least 4 or None, got {self.max_gaussians}",
        )


@dataclasses.dataclass(frozen=True)
class OutputConfig:
    """Where results go and how often; nothing here changes what is computed."""

    out: Path = Path("runs")
    """Folder that holds the run folders."""
    name: str = ""
    """Name of the run folder; default: the name of the scene."""
    resume: bool = False
    """Continue the run of this name from its last checkpoint."""
    checkpoint_every: int = 1000
    """Iterations between two checkpoints."""
    eval_every: int = 0
    """Iterations between two evaluations of the test views while training; 0 = at the end only."""
    log_every: int = 100
    """Iterations between two lines of log.jsonl."""
    diagnostics_every: int = 500
    """Iterations between two pictures of a pseudo view and what the priors make of it; 0 = none."""
    evaluate: bool = True
    """At the end render the test views, measure them and write a report."""
    video: bool = True
    """At the end write video.mp4."""
    video_frames: int = 120
    """Number of frames of the video, shown 30 a second."""
    view: bool = False
    """Show the training in a browser while it runs; needs the extra view."""
    view_host: str = "127.0.0.1"
    """Address that --view listens on: this machine only, or 0.0.0.0 for all who can reach it."""
    view_port: int = 8080
    """Port that --view listens on; 0 = any that is free."""

    def __post_init__(self) -> None:
        for name in ("checkpoint_every", "log_every", "video_frames"):
            value = getattr(self, name)
            require(value >= 1, f"--{name.replace('_', '-')} must be at least 1, got {value}")
        for name in ("eval_every", "diagnostics_every"):
            value = getattr(self, name)
            require(value >= 0, f"--{name.replace('_', '-')} must not be negative, got {value}")
        require(0 <= self.view_port < 65536, f"--view-port must lie between 0 and 65535, got {self.view_port}")
        require(
            re.fullmatch(r"[\w.+-]*", self.name) is not None and not self.name.startswith("."),
            f"--name may hold letters, digits and . _ + - and not start with a dot, got {self.name!r}",
        )


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """All settings of a run."""

    preset: PresetName = "llff"
    """Settings to start from; other options override them. Default: demo for the built-in scene, dtu for scenes called
    scanNN, otherwise llff, which have the published numbers. 'best' changes what was measured to help (see README)."""
    seed: int = 0
    """Seed of everything random."""
    data: DataConfig = DataConfig()
    init: InitConfig = InitConfig()
    optimization: OptimizationConfig = OptimizationConfig()
    density: DensityConfig = DensityConfig()
    pseudo: PseudoViewConfig = dataclasses.field(default_factory=PseudoViewConfig)
    guidance: GuidanceConfig = dataclasses.field(default_factory=GuidanceConfig)
    depth: DepthConfig = dataclasses.field(default_factory=DepthConfig)
    geometry: GeometryConfig = dataclasses.field(default_factory=GeometryConfig)
    output: OutputConfig = OutputConfig()

    def __post_init__(self) -> None:
        require(0 <= self.seed < 2**31, f"--seed must be a number from 0 to 2147483647, got {self.seed}")
        first = self.pseudo.pseudo_from + 1
        require(
            not self.wants_pseudo_views or first <= self.optimization.iterations,
            f"pseudo views ({' and '.join(self.asking_for_pseudo_views)}) begin with iteration {first}, and "
            f"training ends after {self.optimization.iterations}: lower --pseudo-from (and --pseudo-until), or raise "
            "--iterations",
        )
        require(
            not self.geometry.binocular or self.geometry.binocular_from < self.optimization.iterations,
            f"--binocular begins after iteration {self.geometry.binocular_from}, and training ends after "
            f"{self.optimization.iterations}: lower --binocular-from, or raise --iterations",
        )

    @property
    def asking_for_pseudo_views(self) -> tuple[str, ...]:
        """Flags of the terms that are switched on and act on pseudo views."""
        asked = {
            "--guidance": self.guidance.guidance != "none",
            "--geometry": self.geometry.geometry,
            "--depth network": self.depth.depth == "network" and self.depth.pseudo_depth_weight > 0,
        }
        return tuple(flag for flag, wanted in asked.items() if wanted)

    @property
    def wants_pseudo_views(self) -> bool:
        """Whether any term acts on pseudo views."""
        return bool(self.asking_for_pseudo_views)

    @property
    def folder(self) -> Path:
        """The run folder: <out>/<name>, where the name defaults to the last part of the scene's path."""
        name = self.output.name or re.sub(r"[^\w.+-]+", "_", Path(self.data.scene).resolve().name).lstrip(".")
        return self.output.out / name
