"""What the study compares: names, settings, and the paper's figures of the same methods."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from model_files import diffusion_files, digest_of
from published import PUBLISHED, Published

from ipsm_jax.config import GuidanceConfig, OptimizationConfig, PseudoViewConfig, TrainConfig, preset_settings
from ipsm_jax.config.regularization import GuidanceWeights, Prior


@dataclass(frozen=True)
class Method:
    """A row of the tables.

    Attributes:
      title: what the tables call it.
      guidance: what is added to the photometric loss.
    """

    title: str
    guidance: GuidanceConfig


METHODS = {
    "base": Method("Base", GuidanceConfig()),
    "sds": Method("SDS, guidance 7.5", GuidanceConfig("sds")),
    "sds-100": Method("SDS, guidance 100", GuidanceConfig("sds", guidance_scale=100.0)),
    "g1": Method("G1", GuidanceConfig("g1")),
    "ipsm": Method("G1 + G2 [C]", GuidanceConfig("ipsm")),
    "ipsm-paper-sign": Method("G1 + G2 [P]", GuidanceConfig("ipsm", g2_sign="paper")),
}
"""By the names that ablation.py has for them."""

SCHEDULE = (
    "Schedule: shortened like the training, from the published 10 000 iterations, are the pseudo views (in iterations "
    "0.2 to 0.95 of all, ramped over 0.05), the degree of the harmonics (rises every 0.05), the beginning of density "
    "control (0.05), and the falling learning rate of the means. Density control then works as published: every 100 "
    "iterations, for its threshold is made for means of gradients over that many, removing transparent Gaussians from "
    "iteration 600 and unpooling until 2 000; so do the other learning rates. Opacities are never reset: the published "
    "reset comes with the first pseudo view. All of this is the same for all methods."
)
"""What is scaled to the number of iterations and what is not; study.md says it."""


def published(method: str) -> Published | None:
    """The paper's figures of a method on LLFF with 3 views, or None where it has no such row."""
    return next((row for row in PUBLISHED["llff", 3] if row.method == method), None)


@dataclass(frozen=True)
class Study:
    """What all methods and scenes have in common.

    Attributes:
      iterations: of each training.
      init: starting points, as in `ipsm-jax train`.
      data_root: folder that holds the scenes.
      prior: which diffusion models.
      prior_path: their folder, if not the usual one.
      prompt: for Stable Diffusion; "" looks for a caption in the scene's folder.
      weights: of the terms; None takes those of the prior.
    """

    iterations: int = 1000
    init: str = "auto"
    data_root: Path | None = None
    prior: Prior = "embedded"
    prior_path: Path | None = None
    prompt: str = ""
    weights: GuidanceWeights | None = None

    @property
    def facts(self) -> dict[str, str]:
        """What decides about the diffusion models: results of other ones are not these.

        Raises:
          PriorError: the embedded models are not where they should be.
        """
        if self.prior != "embedded":
            return {"prior": self.prior, "prior_path": str(self.prior_path), "prompt": self.prompt}
        return {"prior": self.prior, "prior_digest": digest_of(diffusion_files(self.prior, self.prior_path))}

    def config(self, scene: str, downscale: int, guidance: GuidanceConfig) -> TrainConfig:
        """Settings of a training: the scene's preset, with its schedule shortened as far as `SCHEDULE` says.

        Raises:
          ConfigError: options that cannot be used, or do not go together.
        """
        own, published = preset_settings("", scene), PseudoViewConfig()
        share = self.iterations / OptimizationConfig.iterations

        def scaled(iterations: int) -> int:
            return max(1, round(iterations * share))

        optimization = replace(own.optimization, iterations=self.iterations, sh_degree_interval=scaled(500))
        pseudo = replace(
            own.pseudo,
            pseudo_from=scaled(published.pseudo_from),
            pseudo_until=scaled(published.pseudo_until),
            pseudo_ramp=scaled(published.pseudo_ramp),
            pseudo_list=0,
        )
        return replace(
            own,
            data=replace(own.data, scene=scene, downscale=downscale, data_root=self.data_root),
            init=replace(own.init, init=self.init),
            optimization=optimization,
            density=replace(own.density, density_from=scaled(500), opacity_reset_at=0),
            pseudo=pseudo,
            guidance=replace(
                guidance,
                prior=self.prior,
                prior_path=self.prior_path,
                prompt=self.prompt,
                **{} if self.weights is None else {f"{k}_weight": v for k, v in self.weights._asdict().items()},
            ),
        )
