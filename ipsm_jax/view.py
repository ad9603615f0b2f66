"""Look at trained Gaussians in a browser: ``python -m ipsm_jax.view RUN_FOLDER``. Needs the extra `view` (viser)."""

from __future__ import annotations

import dataclasses
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from ipsm_jax.trained import EXPECTED_ERRORS, CommandError, SourceOptions
from ipsm_jax.training.environment import enable_compilation_cache
from ipsm_jax.training.state import TrainState
from ipsm_jax.viewer.follow import Follower, follow, wait_for_checkpoint
from ipsm_jax.viewer.opening import check_viser, open_shown
from ipsm_jax.viewer.pace import SMALLEST, frame_sizes
from ipsm_jax.viewer.stage import Wishes
from ipsm_jax.viewer.viewpoint import fitted
from ipsm_jax.viewer.world import world_of

if TYPE_CHECKING:  # it needs viser, which may be missing
    from ipsm_jax.viewer.server import ViewerServer

PORT = 8080
LARGEST = 8192


@dataclasses.dataclass(frozen=True)
class ViewOptions(SourceOptions):
    """Look at a run or a PLY file in a browser, or at two of them with a line between that you can move."""

    run: Annotated[Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="RUN|PLY")] = None
    """Folder of a training run, or a PLY file (which here needs no --scene)."""
    other: Annotated[Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="RUN|PLY")] = None
    """Another one to compare it with."""
    live: bool = False
    """Follow runs that are being trained: show each new checkpoint (train with --checkpoint-every 100, for example)."""
    host: str = "127.0.0.1"
    """Address to listen on. The default is for browsers on this machine; 0.0.0.0 lets everybody look who can reach it,
    without a password."""
    port: int = PORT
    """Port to listen on; 0 finds a free one."""
    largest: int = 1600
    """Most pixels of the longer side of a picture; larger windows get it stretched."""


def sources_of(options: ViewOptions) -> list[SourceOptions]:
    """What each of the one or two paths names, as the other commands would be told.

    Raises:
      CommandError: if there are none or more than two, or they cannot be followed with --live.
    """
    paths = [path for path in (options.run, options.other, options.ply) if path is not None]
    if len(paths) not in (1, 2):
        raise CommandError(f"say what to look at: one run folder or PLY file, or two to compare; got {len(paths)}")
    plys = [path for path in paths if path is options.ply or path.is_file() or path.suffix.lower() == ".ply"]
    if options.live and plys:
        raise CommandError(f"--live follows the checkpoints of a run folder, and {plys[0]} is a file")
    if options.live and options.iteration is not None:
        raise CommandError("--live shows the newest checkpoint: leave --iteration away")
    if not SMALLEST <= options.largest <= LARGEST:
        raise CommandError(f"--largest must be between {SMALLEST} and {LARGEST}, got {options.largest}")
    shared = {field.name: getattr(options, field.name) for field in dataclasses.fields(SourceOptions)}
    return [
        SourceOptions(**(shared | ({"run": None, "ply": path} if path in plys else {"run": path, "ply": None})))
        for path in paths
    ]


def serve(options: ViewOptions) -> None:
    """Read what is asked for and serve it; returns only if something else ends the server.

    Raises:
      CommandError: bad options, viser is missing, or the port is taken.
      DataError, ConfigError, CheckpointError, NativeUnavailableError: it cannot be read, or not drawn.
    """
    sources = sources_of(options)
    check_viser()
    from ipsm_jax.viewer.server import ViewerServer, check_address

    check_address(options.host, options.port)  # before reading, which may take long
    followers = [Follower(source.run) for source in sources if source.run is not None] if options.live else []
    for follower in followers:
        wait_for_checkpoint(follower.folder, _say)
    stage, scene, notes = open_shown(sources)
    world = world_of(stage.models[0], scene)
    for note in notes:
        _say(note)
    # A first small picture: if this machine cannot draw, that is said here and not in a thread.
    width, height = frame_sizes(world.start.width, world.start.height, SMALLEST)[0]
    stage.picture(fitted(world.start, width, height), Wishes(), width, height)
    server = ViewerServer(stage, world, host=options.host, port=options.port, largest=options.largest, notes=notes)
    threads = [
        threading.Thread(target=follow, args=(follower, _shower(server, index), server.stopping), daemon=True)
        for index, follower in enumerate(followers)
    ]
    try:
        for thread in threads:
            thread.start()
        for model in stage.models:
            _say(model.caption)
        _say(f"open {server.address} in a browser; Ctrl-C ends")
        server.wait()
    finally:
        server.close()
        for thread in threads:
            thread.join()


def _shower(server: ViewerServer, index: int) -> Callable[[TrainState], None]:
    """What shows a new state in the place of model `index`."""
    return lambda state: server.update(index, state.gaussians, state.alive, int(state.step))


def _say(sentence: str) -> None:
    print(sentence, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status: 0 when ended with Ctrl-C."""
    options = tyro.cli(ViewOptions, args=argv, prog="ipsm-jax view")
    enable_compilation_cache()
    try:
        serve(options)
    except KeyboardInterrupt:
        _say("viewer ended")
    except EXPECTED_ERRORS as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
