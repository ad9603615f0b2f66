"""From settings to the diffusion prior of a run: finds and reads weights, and tells the models what the place is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import jax.numpy as jnp

from ipsm_jax.config import ConfigError, GuidanceConfig
from ipsm_jax.data.captions import read_caption
from ipsm_jax.data.scene import Scene
from ipsm_jax.priors.config import PriorError
from ipsm_jax.priors.diffusion import DiffusionPrior
from ipsm_jax.priors.embedded.load import MOST_PHOTOS, WEIGHTS, check_embedded_prior, load_embedded_prior
from ipsm_jax.priors.locate import find_stable_diffusion
from ipsm_jax.priors.stable_diffusion import load_stable_diffusion

CAPTION_FILE = "blip_rst.txt"
"""What the published configuration calls the caption in a scene's folder."""


def check_diffusion_prior(config: GuidanceConfig, scene: Scene) -> None:
    """Refuse what `diffusion_prior` would refuse for lack of a file or of words, before anything that takes time.

    Raises:
      ConfigError, PriorError, DataError: as there.
    """
    if config.prior != "embedded":
        prompt_of(config, scene)
    diffusion_folders(config)


def diffusion_folders(config: GuidanceConfig) -> tuple[Path, ...]:
    """The folder of the embedded prior, or those of Stable Diffusion's plain and inpainting model.

    Raises:
      PriorError: weights that are missing, incomplete or not known.
    """
    if config.prior == "embedded":
        folder = config.prior_path or WEIGHTS
        check_embedded_prior(folder)
        return (folder,)
    try:
        return find_stable_diffusion(config.prior_path)
    except PriorError as error:
        raise PriorError(
            f"{error}\nOr let the small prior guide that comes with the package: --prior embedded"
        ) from error


def diffusion_prior(config: GuidanceConfig, scene: Scene, say: Callable[[str], None]) -> DiffusionPrior:
    """The models that the settings ask for, told what the scene is: by the prompt, or by its training photos.

    Args:
      config: settings.
      scene: its training views are looked at, and nothing else of it.
      say: is told what was found where.

    Raises:
      ConfigError: Stable Diffusion without a prompt.
      PriorError: weights that are missing, incomplete or not known.
      DataError: a caption that is missing or cannot be read.
    """
    check_diffusion_prior(config, scene)
    if config.prior == "embedded":
        folder = config.prior_path or WEIGHTS
        told = min(len(scene.train), MOST_PHOTOS)
        say(f"diffusion models: the embedded prior, {folder}, told by {told} training photos what is there")
        photos = jnp.asarray(scene.train_images, jnp.float32) / 255
        return load_embedded_prior(photos, folder, _dtype(config))
    plain, inpainting = find_stable_diffusion(config.prior_path)
    prompt = prompt_of(config, scene)
    say(f"reading diffusion models: plain {plain}, inpainting {inpainting}; prompt: {prompt!r}")
    return load_stable_diffusion(plain, inpainting, prompt, config.negative_prompt, _dtype(config))


def _dtype(config: GuidanceConfig) -> jnp.dtype:
    """What weights are kept in: as asked for, else what suits their size."""
    usual = "float32" if config.prior == "embedded" else "bfloat16"
    return jnp.dtype(usual if config.prior_dtype == "auto" else config.prior_dtype)


def prompt_of(config: GuidanceConfig, scene: Scene) -> str:
    """The caption with its suffix: as given, from the file given, or from a `CAPTION_FILE` in the scene's folder.

    Raises:
      ConfigError: there is no caption.
      DataError: the caption file cannot be read, or has none for this scene.
    """
    file = config.caption_file
    if not config.prompt and file is None and (scene.path / CAPTION_FILE).is_file():
        file = scene.path / CAPTION_FILE
    caption = config.prompt if file is None else read_caption(file, scene.name)
    if not caption:
        raise ConfigError(
            f"--guidance {config.guidance} needs to know what the photos show: --prompt 'a fern in front of a wall', "
            f"or --caption-file FILE (there is no {scene.path / CAPTION_FILE} either)"
        )
    return caption + config.prompt_suffix
