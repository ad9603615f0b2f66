"""A viewer inside the process that trains: shows the state itself, not its checkpoints."""

from __future__ import annotations

import math
import time
import warnings
from types import TracebackType

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from ipsm_jax.config import TrainConfig
from ipsm_jax.data.scene import Scene
from ipsm_jax.scene.gaussians import Gaussians
from ipsm_jax.training.state import TrainState
from ipsm_jax.viewer.opening import check_viser
from ipsm_jax.viewer.stage import Stage, new_model
from ipsm_jax.viewer.world import world_of

SECONDS_BETWEEN = 1.0
"""Least time between two states shown: whoever looks takes time from the training."""
LAST_SECONDS = 10.0
"""Most time that the last state may take to reach whoever looks: pages keep it when the server has ended."""


class TrainingView:
    """Serves the Gaussians of a training to browsers while it runs; a context manager.

    Args:
      config: settings of the run.
      scene: its photos and cameras.
      state: where it starts.
      host, port: as `ViewerServer`.

    Raises:
      CommandError: viser is missing, or the port is taken.
    """

    def __init__(self, config: TrainConfig, scene: Scene, state: TrainState, *, host: str, port: int) -> None:
        check_viser()
        from ipsm_jax.viewer.server import ViewerServer

        settings = config.optimization
        gaussians, alive = _copies(state)
        model = new_model(
            config.folder.name,
            gaussians,
            alive,
            background=np.asarray(settings.background),
            sh_degree=settings.sh_degree,
            backend=settings.backend,
            iteration=int(state.step),
        )
        stage = Stage([model])
        self._server = ViewerServer(stage, world_of(model, scene), host=host, port=port, largest=1600)
        self._shown = -math.inf
        self._told = False

    @property
    def address(self) -> str:
        """What to type into a browser on this machine."""
        return self._server.address

    def show(self, state: TrainState, last: bool = False) -> None:
        """Show this state, unless nobody looks or, if it is not the last, the one before it is too recent.

        Returns at once, but for the last state, which is waited for: the server may be closed after it.

        Call it between iterations, as often as one likes; the state's buffers may be given up afterwards. A viewer that
        can draw no more says so by a warning, once, and is no reason to end a training.
        """
        if self._server.stopping.is_set():
            self._say_why()
            return
        now = time.monotonic()
        if self._server.watched and (last or now - self._shown >= SECONDS_BETWEEN):
            self._shown = now
            self._server.update(0, *_copies(state), int(state.step))
            if last:
                self._server.settle(LAST_SECONDS)

    def _say_why(self) -> None:
        if self._told:
            return
        self._told = True
        try:
            self._server.wait()
        except Exception as error:
            warnings.warn(f"the viewer has ended, the training goes on: {error}", stacklevel=3)

    def __enter__(self) -> TrainingView:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._server.close()


def _copies(state: TrainState) -> tuple[Gaussians, Bool[Array, " n"]]:
    """Gaussians and which are in use, in buffers of their own: training gives up those of its states."""
    return jax.tree.map(lambda array: jnp.array(array, copy=True), (state.gaussians, state.alive))
