"""The picture of a pseudo view and what the priors make of it (the paper's figure of inline priors)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from PIL import Image

from ipsm_jax.config import OptimizationConfig
from ipsm_jax.losses.distillation import DistillationOptions
from ipsm_jax.rasterizer.native import default_pair_capacity
from ipsm_jax.rasterizer.pairs import fit_pairs
from ipsm_jax.reporting.files import to_uint8
from ipsm_jax.reporting.pictures import EMPTY_COLOR, depth_picture, depth_range, error_picture, strip
from ipsm_jax.training.diagnostics import Diagnosis, diagnose
from ipsm_jax.training.regularization import Regularization
from ipsm_jax.training.state import TrainState
from ipsm_jax.training.step import TrainingViews

HOLE_COLOR = (0.85, 0.2, 0.55)
"""Of warped pixels that do not count: a color that photos rarely have."""


def pseudo_view_viewer(
    config: OptimizationConfig, names: Sequence[str], views: TrainingViews, regularization: Regularization
) -> Callable[[TrainState], tuple[np.ndarray, dict[str, float]]]:
    """What shows the pseudo view of the iteration after a state: as a picture, and in figures for the log.

    Args:
      names: file names of the training views.
    """
    look, room, options = jax.jit(diagnose, static_argnums=(0, 4)), 0, regularization.distillation

    def view(state: TrainState) -> tuple[np.ndarray, dict[str, float]]:
        nonlocal room
        diagnosis, room = fit_pairs(
            lambda capacity: look(config, views, regularization, state, capacity),
            lambda result: result.pairs,
            max(room, default_pair_capacity(state.gaussians.capacity)),
        )
        diagnosis = jax.device_get(diagnosis)
        reference = int(diagnosis.reference)
        picture = diagnosis_picture(diagnosis, views.targets.image[reference], names[reference], options)
        return picture, diagnosis_figures(diagnosis, options)

    return view


def diagnosis_picture(
    diagnosis: Diagnosis, photo: Any, reference_name: str, options: DistillationOptions | None
) -> np.ndarray:
    """Rows of captioned pictures, uint8 (H', W', 3): both views; the warped photo and its masks; what the models see.

    Args:
      diagnosis: what `training.diagnostics.diagnose` gave.
      photo: (H, W, 3) of the reference view, float in [0, 1] or uint8.
      reference_name: file name of that photo.
      options: of the distillation, for the captions.
    """
    pseudo, seen = diagnosis.rendering, diagnosis.reference_rendering
    limits = depth_range(np.stack([pseudo.depth, seen.depth]), np.stack([pseudo.alpha, seen.alpha]))
    height, width = pseudo.color.shape[:2]
    rows: list[dict[str, Any]] = [
        {
            f"reference view: {reference_name}": photo,
            "its rendered depth": depth_picture(seen.depth, seen.alpha, limits),
            "pseudo view": pseudo.color,
            "its rendered depth ": depth_picture(pseudo.depth, pseudo.alpha, limits),
        }
    ]
    if diagnosis.warped is not None:
        row: dict[str, Any] = {"photo warped into the pseudo view": diagnosis.warped}
        if diagnosis.guidance_mask is not None:
            row["known to the inpainting model"] = covered(diagnosis.warped, diagnosis.guidance_mask)
        if diagnosis.geometry_mask is not None:
            row["what counts for geometry"] = covered(diagnosis.warped, diagnosis.geometry_mask)
            difference = error_picture(pseudo.color, diagnosis.warped)
            row["there: difference to the pseudo view"] = covered(difference, diagnosis.geometry_mask, EMPTY_COLOR)
        rows.append(row)
    if (info := diagnosis.distillation) is not None and options is not None:
        row, pictures = {}, info.pictures
        if pictures.masked_image is not None:
            row["input of the inpainting model"] = _resized(pictures.masked_image, height, width)
        if pictures.plain is not None:
            row[f"plain model's clean image, t = {int(info.timestep)}"] = _resized(pictures.plain, height, width)
        if pictures.filled is not None:
            row[f"inpainting model's clean image, t = {int(info.timestep)}"] = _resized(pictures.filled, height, width)
        rows.append(row)
    return _stacked([strip(list(row.values()), list(row)) for row in rows])


def diagnosis_figures(diagnosis: Diagnosis, options: DistillationOptions | None) -> dict[str, float]:
    """Weighted terms and gradient norms by name, for the log; of distillation also with respect to the latents."""
    figures = {f"{name}": float(value) for name, value in diagnosis.terms.items()}
    figures |= {f"{name}_gradient": float(value) for name, value in diagnosis.gradient_norms.items()}
    if (info := diagnosis.distillation) is not None and options is not None:
        norms = zip(options.terms, info.gradient_norms, strict=True)
        figures |= {f"{name}_latent_gradient": float(value) for name, value in norms}
        figures["timestep"] = int(info.timestep)
    for kind in ("geometry", "guidance"):
        if (mask := getattr(diagnosis, f"{kind}_mask")) is not None:
            figures[f"{kind}_known"] = float(np.mean(mask))
    return figures


def covered(image: Any, mask: Any, color: tuple[float, float, float] = HOLE_COLOR) -> np.ndarray:
    """The image where the mask is set, one color elsewhere."""
    return np.where(np.asarray(mask)[..., None], np.asarray(image), np.asarray(color, np.float32))


def _resized(picture: Any, height: int, width: int) -> np.ndarray:
    return np.asarray(Image.fromarray(to_uint8(picture)).resize((width, height), Image.Resampling.BILINEAR))


def _stacked(rows: Sequence[np.ndarray]) -> np.ndarray:
    """Pictures below one another, on white, aligned left."""
    width = max(row.shape[1] for row in rows)
    return np.concatenate([np.pad(r, ((0, 0), (0, width - r.shape[1]), (0, 0)), constant_values=255) for r in rows])
