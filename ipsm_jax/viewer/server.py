"""The viewer's server: tells viser what to draw, and draws what lies behind it, for everybody who looks.

Three kinds of threads meet here: viser's, which say who looks from where; one that draws; and whoever brings new
Gaussians. They share a `Schedule` under one lock, which nobody holds while drawing.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import threading
import time
import warnings
from collections.abc import Sequence
from types import TracebackType
from typing import NamedTuple

import viser
from jaxtyping import Array, Bool

from ipsm_jax.scene.gaussians import Gaussians
from ipsm_jax.trained import CommandError
from ipsm_jax.viewer.pace import Pace, frame_sizes
from ipsm_jax.viewer.panel import Panel
from ipsm_jax.viewer.schedule import Job, Schedule
from ipsm_jax.viewer.stage import Stage, Wishes
from ipsm_jax.viewer.viewpoint import Viewpoint
from ipsm_jax.viewer.world import World

MOVING_SECONDS, STILL_SECONDS = 0.1, 1.5
"""How long a picture may take while somebody moves, and when they rest."""
_MOVING_QUALITY, _STILL_QUALITY = 70, 92  # of JPEG
_DELIVERY_SECONDS = 0.5  # viser sends what it was given every 1/60 s, from a thread that says nothing of it


class _Visitor(NamedTuple):
    client: viser.ClientHandle
    panel: Panel


class ViewerServer:
    """Serves one or two models to browsers until closed; a context manager.

    Args:
      stage: what is shown.
      world: where to start, which way is up, cameras.
      host, port: where to listen; port 0 takes a free one.
      largest: most pixels of the longer side of a picture.
      notes: sentences for the person.

    Raises:
      CommandError: if it cannot listen there.
    """

    def __init__(
        self, stage: Stage, world: World, *, host: str, port: int, largest: int, notes: Sequence[str] = ()
    ) -> None:
        self._stage, self._world, self._largest, self._notes = stage, world, largest, notes
        self._changed = threading.Condition()
        self._schedule, self._pace = Schedule(), Pace()
        self._visitors: dict[int, _Visitor] = {}
        self._stopping = threading.Event()
        self._failure: Exception | None = None
        self._server = _listen(host, port)
        _prepare(self._server, world)
        self._server.on_client_connect(self._welcome)
        self._server.on_client_disconnect(self._see_off)
        self._artist = threading.Thread(target=self._draw_all, name="viewer frames", daemon=True)
        self._artist.start()

    @property
    def port(self) -> int:
        """The port it listens on."""
        return self._server.get_port()

    @property
    def address(self) -> str:
        """What to type into a browser on this machine."""
        host = self._server.get_host()
        host = "localhost" if host in ("0.0.0.0", "::", "") else f"[{host}]" if ":" in host else host
        return f"http://{host}:{self.port}"

    @property
    def watched(self) -> bool:
        """Whether anybody looks."""
        return bool(self._visitors)

    @property
    def stopping(self) -> threading.Event:
        """Set when it is being closed, or can draw no more."""
        return self._stopping

    def update(self, index: int, gaussians: Gaussians, alive: Bool[Array, " n"], iteration: int | None) -> None:
        """Show other Gaussians in the place of model `index`, to everybody; from any thread.

        The arrays are kept: those that a training gives up in its next iteration have to be copied before.
        """
        self._stage.replace(index, gaussians, alive, iteration)
        with self._changed:
            self._schedule.refresh()
            self._changed.notify_all()

    def settle(self, seconds: float) -> None:
        """Return when everybody has been shown what there is now, in full size, but after `seconds` at the latest."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._stopping.is_set() or self._schedule.wait(time.monotonic()) is None, seconds
            )
        time.sleep(_DELIVERY_SECONDS)

    def wait(self) -> None:
        """Return when it is closed by another thread; raises what kept it from drawing."""
        self._stopping.wait()
        if self._failure is not None:
            raise self._failure

    def close(self) -> None:
        """End the server and its threads; a picture in the making is finished first."""
        self._stopping.set()
        with self._changed:
            self._changed.notify_all()
        self._artist.join()
        self._server.stop()

    def __enter__(self) -> ViewerServer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _welcome(self, client: viser.ClientHandle) -> None:
        """Give a new client its panel, and draw for it from now on."""
        number = client.client_id

        def wish(wishes: Wishes) -> None:
            with self._changed:
                if number in self._visitors:
                    self._schedule.want(number, wishes, time.monotonic())
                    self._changed.notify_all()

        async def look(camera: viser.CameraHandle) -> None:
            with self._changed:
                if number in self._visitors:
                    self._schedule.look(number, _viewpoint(camera), time.monotonic())
                    self._changed.notify_all()
            panel.make_way()

        panel = Panel(client, self._world, self._captions(), self._notes, wish)
        client.camera.on_update(look)
        with self._changed:
            if number not in self._server.get_clients():  # gone before all this was done
                return
            self._visitors[number] = _Visitor(client, panel)
            self._schedule.want(number, panel.wishes, time.monotonic())
            self._schedule.look(number, _viewpoint(client.camera), time.monotonic())
            self._changed.notify_all()

    def _see_off(self, client: viser.ClientHandle) -> None:
        with self._changed:
            self._visitors.pop(client.client_id, None)
            self._schedule.leave(client.client_id)

    def _draw_all(self) -> None:
        """The thread that draws: one picture after the other, and nothing while nobody needs one."""
        try:
            while not self._stopping.is_set():
                with self._changed:
                    job = self._schedule.next(time.monotonic())
                    if job is None:
                        self._changed.wait(self._schedule.wait(time.monotonic()))
                        continue
                self._draw(job)
        except Exception as error:  # the person waits in another thread, and has to know
            self._failure = error
            self._stopping.set()

    def _draw(self, job: Job) -> None:
        look = job.viewpoint
        sizes = frame_sizes(look.width, look.height, self._largest)
        size = self._pace.choose(sizes, STILL_SECONDS if job.still else MOVING_SECONDS)
        compiled = self._stage.is_compiled(*size)
        captions = self._captions()  # before: what is replaced meanwhile is drawn, and named, once more
        started = time.monotonic()
        picture = self._stage.picture(look, job.wishes, *size)
        seconds = time.monotonic() - started
        if compiled:
            self._pace.record(size, seconds)
        with self._changed:
            visitor = self._visitors.get(job.client)
        if visitor is not None:  # not left while this was drawn
            visitor.panel.show_captions(captions)
            quality = _STILL_QUALITY if job.still else _MOVING_QUALITY
            visitor.client.scene.set_background_image(picture, format="jpeg", jpeg_quality=quality)
            if job.still:
                visitor.panel.show_status(f"{size[0]} x {size[1]} pixels in {seconds:.2f} s")
        with self._changed:
            self._schedule.done(job, time.monotonic())
            self._changed.notify_all()

    def _captions(self) -> list[str]:
        return [model.caption for model in self._stage.models]


def check_address(host: str, port: int) -> None:
    """Refuse what viser would answer by quietly taking another port, or by waiting forever.

    Raises:
      CommandError: the port is taken, or this machine has no such address.
    """
    if not 0 <= port <= 65535:
        raise CommandError(f"--port must be between 0 and 65535, got {port}")
    try:
        for family, kind, protocol, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            with socket.socket(family, kind, protocol) as probe:
                if os.name == "posix":  # as the server does: a port whose last connections are closing is free
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise CommandError(_taken(host, port)) from error
        raise CommandError(
            f"cannot listen on {host}, port {port}: {error.strerror or error}. --host takes an address of this machine "
            "(127.0.0.1: for itself only, 0.0.0.0: for everybody), --port one from 1024 on"
        ) from error


def _taken(host: str, port: int) -> str:
    return f"port {port} on {host} is taken, perhaps by another viewer: choose another --port (0 finds a free one)"


def _listen(host: str, port: int) -> viser.ViserServer:
    check_address(host, port)
    # Somebody may leave at any moment, also between a look at who is there and a message to them.
    warnings.filterwarnings("ignore", r"Queued a \w+ on a closed connection")
    server = viser.ViserServer(host=host, port=port, label="ipsm_jax", verbose=False)
    if port and server.get_port() != port:  # somebody was quicker
        server.stop()
        raise CommandError(_taken(host, port))
    # Any client could ask for a tunnel that shows this server to the whole internet.
    server.__dict__["request_share_url"] = lambda verbose=True: None
    server.gui.configure_theme(dark_mode=True, show_logo=False, show_share_button=False)
    return server


def _prepare(server: viser.ViserServer, world: World) -> None:
    """Which way is up, where everybody starts, and how near and far things are drawn."""
    server.scene.set_up_direction(world.up)
    start = server.initial_camera
    start.position = world.start.position
    start.look_at = world.target(world.start)
    start.fov = world.start.fov
    # The picture hangs 1 before the camera in the browser's world, so it must lie in between.
    start.near, start.far = min(0.01, 0.01 * world.distance), max(1000.0, 100 * world.distance)


def _viewpoint(camera: viser.CameraHandle) -> Viewpoint:
    """A client's camera; not usable before the client has said anything."""
    with contextlib.suppress(AssertionError):
        w, x, y, z = map(float, camera.wxyz)
        px, py, pz = map(float, camera.position)
        return Viewpoint(
            (w, x, y, z), (px, py, pz), float(camera.fov), int(camera.image_width), int(camera.image_height)
        )
    return Viewpoint((1.0, 0.0, 0.0, 0.0), (0.0, 0.0, 0.0), 1.0, 0, 0)
