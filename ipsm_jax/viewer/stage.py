"""What is shown, and its pictures: one set of Gaussians, or two with a line between them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Bool, UInt8

from ipsm_jax.rasterizer import Rendering, compiled_renderer
from ipsm_jax.rasterizer.render import Backend
from ipsm_jax.reporting.files import to_uint8
from ipsm_jax.reporting.pictures import depth_picture, depth_range
from ipsm_jax.scene.camera import Camera
from ipsm_jax.scene.gaussians import Gaussians
from ipsm_jax.viewer.viewpoint import Viewpoint, camera_of

Quantity = Literal["color", "depth", "alpha"]

_LINE = (255, 255, 255)


class Wishes(NamedTuple):
    """What somebody wants to see.

    Attributes:
      quantity: the colors; the depth, near is bright; or the opacity, solid is white.
      divide: with two models, the share of the window, from the left, that shows the first one: 0 to 1.
    """

    quantity: Quantity = "color"
    divide: float = 0.5


@dataclasses.dataclass(frozen=True)
class Model:
    """One set of Gaussians to look at.

    Attributes:
      name: what to call it.
      gaussians, alive: n slots and which are in use.
      draw: the compiled renderer, with its background and harmonics.
      iteration: number of training iterations, or None if it is not known.
    """

    name: str
    gaussians: Gaussians
    alive: Bool[Array, " n"]
    draw: Callable[[Gaussians, Camera, Bool[Array, " n"]], Rendering]
    iteration: int | None = None

    @property
    def caption(self) -> str:
        """Name, number of Gaussians, iteration."""
        count = f"{self.name}: {int(np.sum(np.asarray(self.alive))):,} Gaussians"
        return count if self.iteration is None else f"{count}, iteration {self.iteration:,}"


def new_model(
    name: str,
    gaussians: Gaussians,
    alive: Bool[Array, " n"],
    *,
    background: Any,
    sh_degree: int = 3,
    backend: Backend = "auto",
    iteration: int | None = None,
) -> Model:
    """A `Model` with a renderer of its own; background (3,) in [0, 1]."""
    draw = compiled_renderer(sh_degree=sh_degree, background=np.asarray(background, np.float32), backend=backend)
    return Model(name, gaussians, alive, draw, iteration)


class Stage:
    """One or two models, which may be replaced while they are looked at (from any thread)."""

    def __init__(self, models: Sequence[Model]) -> None:
        if len(models) not in (1, 2):
            raise ValueError(f"one or two models can be shown, got {len(models)}")
        self._models = tuple(models)
        self._drawn: set[tuple[int, ...]] = set()

    @property
    def models(self) -> tuple[Model, ...]:
        """What is shown now; never changes once it is handed out."""
        return self._models

    def replace(
        self, index: int, gaussians: Gaussians, alive: Bool[Array, " n"], iteration: int | None = None
    ) -> Model:
        """Show other Gaussians in the place of model `index`; returns what is there now."""
        models = list(self._models)
        models[index] = dataclasses.replace(models[index], gaussians=gaussians, alive=alive, iteration=iteration)
        self._models = tuple(models)
        return models[index]

    def is_compiled(self, width: int, height: int) -> bool:
        """Whether a picture of this size has been drawn before, so that its time will be that of the drawing alone."""
        return self._key(self._models, width, height) in self._drawn

    def picture(self, viewpoint: Viewpoint, wishes: Wishes, width: int, height: int) -> UInt8[np.ndarray, "h w 3"]:
        """What is seen from a usable viewpoint, in width x height pixels to be stretched over its window.

        With two models both are drawn from there, and divided by a white line; depths have one scale. Values that are
        not a number, as a training that fails leaves them, are drawn black.
        """
        models = self._models
        camera = camera_of(viewpoint, width, height)
        column = round(min(max(wishes.divide, 0.0), 1.0) * width) if len(models) == 2 else width
        parts = ([(models[0], slice(0, column))] if column > 0 else []) + (
            [(models[1], slice(column, width))] if column < width else []
        )
        results = [jax.device_get(model.draw(model.gaussians, camera, model.alive)) for model, _ in parts]
        self._drawn.add(self._key(models, width, height))
        limits = None
        if wishes.quantity == "depth":
            limits = depth_range(*(np.stack([getattr(r, name) for r in results]) for name in ("depth", "alpha")))
        picture = np.empty((height, width, 3), np.uint8)
        for (_, columns), result in zip(parts, results, strict=True):
            picture[:, columns] = to_uint8(np.nan_to_num(_colors(result, wishes.quantity, limits)[:, columns]))
        if len(parts) == 2:
            picture[:, column - 1 : column + 1] = _LINE
        return picture

    @staticmethod
    def _key(models: tuple[Model, ...], width: int, height: int) -> tuple[int, ...]:
        return (width, height, *(model.gaussians.capacity for model in models))


def _colors(result: Rendering, quantity: Quantity, limits: Any) -> np.ndarray:
    """A quantity as (h, w, 3) float; may hold NaN."""
    if quantity == "depth":
        return depth_picture(result.depth, result.alpha, limits)
    if quantity == "alpha":
        return np.repeat(np.asarray(result.alpha)[..., None], 3, axis=-1)
    return np.asarray(result.color)
