"""The viewer's server, with clients that speak viser's protocol over a websocket on this machine."""

import socket
import threading
import urllib.request

import jax.numpy as jnp
import numpy as np
import pytest
from tiny_run import tiny_gaussians, tiny_scene

from ipsm_jax.rasterizer import render
from ipsm_jax.trained import CommandError
from ipsm_jax.viewer.stage import Stage, new_model
from ipsm_jax.viewer.viewpoint import Viewpoint, axes_of, camera_of, fitted
from ipsm_jax.viewer.world import world_of

pytest.importorskip("viser", reason='the viewer needs viser: pip install "ipsm_jax[view]"')
from viser_client import ViserClient

from ipsm_jax.viewer.server import ViewerServer, check_address

pytestmark = pytest.mark.usefixtures("own_caches")

WINDOW = (160, 96)  # one size of frames only, so that a few programs are compiled


class CountingStage(Stage):
    """A stage whose pictures wait until they may be drawn."""

    def __init__(self, models) -> None:
        super().__init__(models)
        self.may_draw, self.drawing, self.count = threading.Event(), threading.Event(), 0
        self.may_draw.set()

    def picture(self, *arguments):
        self.count += 1
        self.drawing.set()
        assert self.may_draw.wait(60)
        return super().picture(*arguments)


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    return tiny_scene(tmp_path_factory.mktemp("scene"))


def models(count=1):
    gaussians, alive = tiny_gaussians()
    return [
        new_model(name, gaussians._replace(means=gaussians.means + jnp.float32(shift)), alive, background=(0, 0, 0.5))
        for name, shift in (("a", 0.0), ("b", 0.4))[:count]
    ]


@pytest.fixture
def served(scene, request):
    stage = CountingStage(models(getattr(request, "param", 1)))
    with ViewerServer(stage, world_of(stage.models[0], scene), host="127.0.0.1", port=0, largest=1600) as server:
        yield server, stage
        stage.may_draw.set()


def view(world_start: Viewpoint, shift: float = 0.0) -> Viewpoint:
    x, y, z = world_start.position
    return fitted(world_start._replace(position=(x + shift, y, z)), *WINDOW)


def expected(stage, viewpoint, index=0):
    model = stage.models[index]
    result = render(
        model.gaussians, camera_of(viewpoint, *WINDOW), alive=model.alive, background=jnp.float32([0, 0, 0.5])
    )
    return np.clip(result.color, 0, 1)


def is_like(picture, wanted) -> bool:
    """Equal but for what JPEG leaves of it."""
    return picture.shape == wanted.shape and float(np.abs(picture - wanted).mean()) < 0.03


def await_picture(client, wanted) -> None:
    while not is_like(client.picture(), wanted):
        pass


def test_the_page_is_served_on_this_machine_only(served):
    server, _ = served
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/", timeout=30) as answer:
        assert answer.status == 200 and b"<html" in answer.read()
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
        assert connection.getpeername()[0] == "127.0.0.1"
    with pytest.raises(OSError):  # another address of this machine
        socket.create_connection(("127.0.0.2", server.port), timeout=5)


def test_a_client_sees_our_render_from_where_it_looks(served, scene):
    server, stage = served
    start = world_of(stage.models[0], scene).start
    with ViserClient(server.port) as client:
        client.look(view(start))
        await_picture(client, expected(stage, view(start)))
        client.look(view(start, 0.5))
        moved = expected(stage, view(start, 0.5))
        assert not is_like(expected(stage, view(start)), moved)
        await_picture(client, moved)
        texts = [m["props"]["_markdown"] for m in client.messages if m["type"] == "GuiMarkdownMessage"]
        assert "a: 40 Gaussians" in texts


@pytest.mark.parametrize("served", [2], indirect=True)
def test_switches_change_what_is_drawn(served, scene):
    server, stage = served
    look = view(world_of(stage.models[0], scene).start)
    first, second = (expected(stage, look, index) for index in (0, 1))
    with ViserClient(server.port) as client:
        client.look(look)
        both = np.concatenate([first[:, :80], second[:, 80:]], axis=1)
        both[:, 79:81] = 1
        await_picture(client, both)
        client.turn("Compare", "GuiSliderMessage", 1.0)
        await_picture(client, first)
        client.turn("Compare", "GuiSliderMessage", 0.0)
        await_picture(client, second)
        client.turn("Show", "GuiDropdownMessage", "alpha")
        model = stage.models[1]
        alpha = render(model.gaussians, camera_of(look, *WINDOW), alive=model.alive).alpha
        await_picture(client, np.repeat(np.asarray(alpha)[..., None], 3, axis=-1))


def test_two_clients_look_from_two_places(served, scene):
    server, stage = served
    start = world_of(stage.models[0], scene).start
    with ViserClient(server.port) as one, ViserClient(server.port) as other:
        one.look(view(start))
        other.look(view(start, -0.6))
        await_picture(other, expected(stage, view(start, -0.6)))
        await_picture(one, expected(stage, view(start)))
        one.turn("Show", "GuiDropdownMessage", "depth")  # a switch of one client
        one.picture()
        other.look(view(start, 0.6))
        await_picture(other, expected(stage, view(start, 0.6)))


def test_who_leaves_while_their_picture_is_drawn_disturbs_nobody(served, scene):
    server, stage = served
    start = world_of(stage.models[0], scene).start
    stage.may_draw.clear()
    with ViserClient(server.port) as leaver:
        leaver.look(view(start))
        assert stage.drawing.wait(60)
    stage.may_draw.set()
    with ViserClient(server.port) as client:
        client.look(view(start, 0.3))
        await_picture(client, expected(stage, view(start, 0.3)))


def test_nobody_looking_is_no_work(served, scene):
    server, stage = served
    with ViserClient(server.port) as client:
        client.look(view(world_of(stage.models[0], scene).start))
        client.wait(lambda m: m["type"] == "GuiUpdateMessage" and "pixels in" in str(m["updates"]))  # the large one
        count = stage.count
        with pytest.raises(TimeoutError):
            client.socket.recv(timeout=1.0)
        assert stage.count == count


def test_what_no_picture_can_be_drawn_of_is_passed_over(served, scene):
    server, stage = served
    start = world_of(stage.models[0], scene).start
    with ViserClient(server.port) as client:
        client.look(view(start)._replace(width=0, height=0))
        client.look(view(start)._replace(position=(float("nan"), 0.0, 0.0)))
        client.look(view(start)._replace(width=10**9))
        client.look(view(start))
        await_picture(client, expected(stage, view(start)))


def test_new_gaussians_are_shown_to_who_looks(served, scene):
    server, stage = served
    look = view(world_of(stage.models[0], scene).start)
    with ViserClient(server.port) as client:
        client.look(look)
        await_picture(client, expected(stage, look))
        gaussians, alive = tiny_gaussians()
        server.update(0, gaussians._replace(means=gaussians.means + 0.5), alive, 700)
        client.wait(lambda m: m["type"] == "GuiUpdateMessage" and "iteration 700" in str(m["updates"]))
        await_picture(client, expected(stage, look))


def test_choosing_a_camera_takes_the_client_there(served, scene):
    server, stage = served
    world = world_of(stage.models[0], scene)
    camera = world.cameras[-1]
    with ViserClient(server.port) as client:
        client.look(view(world.start)._replace(fov=0.3))
        client.picture()
        client.turn("Look from", "GuiDropdownMessage", f"{camera.name} (not trained on)")
        moved = client.wait_for("SetCameraFovMessage")
        assert moved["fov"] == pytest.approx(fitted(camera.viewpoint, *WINDOW).fov)
        assert client.found("SetCameraPositionMessage")["position"] == pytest.approx(camera.viewpoint.position)
        ahead = np.array(client.found("SetCameraLookAtMessage")["look_at"]) - camera.viewpoint.position
        forward, up = axes_of(camera.viewpoint)
        np.testing.assert_allclose(ahead / np.linalg.norm(ahead), forward, atol=1e-5)
        np.testing.assert_allclose(client.found("SetCameraUpDirectionMessage")["position"], up, atol=1e-5)


def test_the_camera_that_one_stands_in_is_not_drawn(served, scene):
    server, stage = served
    world = world_of(stage.models[0], scene)
    hidden = lambda m: m["type"] == "SetSceneNodeVisibilityMessage" and m["name"] == "/cameras/0"  # noqa: E731
    with ViserClient(server.port) as client:
        client.look(world.cameras[0].viewpoint)
        assert client.wait(lambda m: hidden(m) and not m["visible"])
        client.look(world.cameras[0].viewpoint._replace(position=(0.0, 0.0, -5.0)))
        assert client.wait(lambda m: hidden(m) and m["visible"])


def test_an_error_while_drawing_reaches_who_waits(scene):
    class BrokenStage(Stage):
        def picture(self, *_):
            raise RuntimeError("out of memory")

    stage = BrokenStage(models())
    world = world_of(stage.models[0], scene)
    with (
        ViewerServer(stage, world, host="127.0.0.1", port=0, largest=1600) as server,
        ViserClient(server.port) as client,
    ):
        client.look(view(world.start))
        with pytest.raises(RuntimeError, match="out of memory"):
            server.wait()


def test_clients_cannot_have_it_shared_with_the_internet(served):
    server, _ = served
    assert server._server.request_share_url() is None


def test_addresses_that_cannot_be_listened_on():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(CommandError, match=rf"port {port} on 127.0.0.1 is taken.*another --port"):
            check_address("127.0.0.1", port)
    check_address("127.0.0.1", port)
    with pytest.raises(CommandError, match=r"cannot listen on 203.0.113.7.*--host takes an address of this machine"):
        check_address("203.0.113.7", 0)
    with pytest.raises(CommandError, match="between 0 and 65535, got 70000"):
        check_address("127.0.0.1", 70000)
