"""The viewer in a real browser, without a window: the right pictures appear, and follow the mouse and the switches."""

import re
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from queue import SimpleQueue
from threading import Semaphore

import numpy as np
import pytest
from tiny_run import HEIGHT, WIDTH, tiny_gaussians, tiny_scene

from ipsm_jax.data.ply import write_gaussians_ply
from ipsm_jax.rasterizer import render
from ipsm_jax.reporting.pictures import depth_picture
from ipsm_jax.scene.camera import Camera
from ipsm_jax.train import main
from ipsm_jax.training.checkpoint import load_run
from ipsm_jax.viewer import training
from ipsm_jax.viewer.stage import Stage, new_model
from ipsm_jax.viewer.viewpoint import axes_of, camera_of
from ipsm_jax.viewer.world import world_of

pytest.importorskip("viser", reason='the viewer needs viser: pip install "ipsm_jax[view]"')
pytest.importorskip("selenium", reason="selenium drives the browser: pip install selenium")
from browser_page import BROWSER, DRIVER, PATIENCE, Page, distance, start_browser

from ipsm_jax.viewer.panel import TRAINED_COLOR
from ipsm_jax.viewer.server import ViewerServer

pytestmark = [
    pytest.mark.usefixtures("own_caches"),
    pytest.mark.skipif(
        BROWSER is None or DRIVER is None,
        reason=f"no browser to drive: found Chromium or Chrome at {BROWSER}, chromedriver at {DRIVER} "
        "(Debian: apt-get install chromium chromium-driver)",
    ),
]

BACKGROUNDS = np.array([[0.1, 0.2, 0.4], [0.5, 0.1, 0.1]], np.float32)
ITERATIONS = 12


class RecordingStage(Stage):
    """A stage that remembers from where its last picture was."""

    viewpoint = None

    def picture(self, viewpoint, wishes, width, height):
        self.viewpoint = viewpoint
        return super().picture(viewpoint, wishes, width, height)


@pytest.fixture(scope="module")
def driver():
    driver = start_browser(BROWSER, DRIVER)
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    return tiny_scene(tmp_path_factory.mktemp("scene"))


@pytest.fixture
def opened(driver, scene, request):
    """A page that shows one or two models, and cameras or none, what it shows, and where it starts."""
    count, with_cameras = request.param
    gaussians, alive = tiny_gaussians()
    others = gaussians._replace(means=gaussians.means + 0.4, sh_dc=-gaussians.sh_dc)
    named = (("run_1_*old*", gaussians), ("run_1_*new*", others))[:count]
    stage = RecordingStage(
        [new_model(name, g, alive, background=color) for (name, g), color in zip(named, BACKGROUNDS, strict=False)]
    )
    world = world_of(stage.models[0], scene)
    if with_cameras:  # seen from behind and above, with a wider view
        forward, up = axes_of(world.start)
        start = tuple(np.asarray(world.start.position) - forward + 0.2 * up)
        world = world._replace(start=world.start._replace(position=start, fov=0.8))
    else:
        world = world._replace(cameras=())
    with ViewerServer(stage, world, host="127.0.0.1", port=0, largest=1600) as server:
        yield Page(driver, server.port), stage, world


def seen(stage, index=0):
    """A model from where the browser looks, in the pixels of its window."""
    look, model = stage.viewpoint, stage.models[index]
    camera = camera_of(look, look.width, look.height)
    return render(model.gaussians, camera, alive=model.alive, background=BACKGROUNDS[index])


def colors(stage, index=0) -> np.ndarray:
    return np.clip(seen(stage, index).color, 0, 1)


def await_place(page, stage, position) -> None:
    page.wait(
        lambda: stage.viewpoint is not None and np.allclose(stage.viewpoint.position, position, atol=1e-3),
        f"the browser to look from {position}",
    )


@pytest.mark.parametrize("opened", [(1, False)], indirect=True)
def test_the_picture_in_the_browser_is_ours_and_follows(opened):
    page, stage, world = opened
    start = np.asarray(world.start.position)
    await_place(page, stage, start)
    first = colors(stage)
    page.wait(lambda: page.is_like(first), "our render")
    assert first.std() > 0.05  # there is something to see
    viewpoint = stage.viewpoint
    assert (viewpoint.width, viewpoint.height) == (page.canvas.size["width"], page.canvas.size["height"])
    assert viewpoint.fov == pytest.approx(world.start.fov)

    # Dragging orbits: the camera moves, at the same distance from what it looks at.
    page.orbit(60, 10)
    page.wait(lambda: np.linalg.norm(np.subtract(stage.viewpoint.position, start)) > 0.1, "another place")
    page.wait(lambda: page.is_like(colors(stage)), "the render from there")
    assert distance(first, colors(stage)) > 0.03
    target = world.target(world.start)
    distances = [np.linalg.norm(position - target) for position in (start, np.asarray(stage.viewpoint.position))]
    assert distances[0] == pytest.approx(distances[1], rel=0.02)

    # The panel switches to the opacity, and to the depth.
    page.choose("Show", "alpha")
    page.wait(lambda: page.is_like(np.repeat(np.asarray(seen(stage).alpha)[..., None], 3, axis=-1)), "the opacity")
    page.choose("Show", "depth")
    page.wait(lambda: page.is_like(depth_picture(seen(stage).depth, seen(stage).alpha)), "the depth")

    # A window of another shape gets a picture of that shape.
    page.choose("Show", "color")
    page.driver.set_window_size(1100, 600)
    page.wait(lambda: stage.viewpoint.width > 2 * stage.viewpoint.height, "a picture of another shape")
    page.wait(lambda: page.is_like(colors(stage)), "all of that picture")


@pytest.mark.parametrize("opened", [(2, False)], indirect=True)
def test_two_models_are_compared_along_a_line_that_moves(opened):
    page, stage, world = opened
    await_place(page, stage, world.start.position)
    left, right = colors(stage, 0), colors(stage, 1)
    assert distance(left, right) > 0.1

    def divided(share: float) -> np.ndarray:
        column = round(share * left.shape[1])
        picture = np.concatenate([left[:, :column], right[:, column:]], axis=1)
        picture[:, column - 1 : column + 1] = 1
        return picture

    page.wait(lambda: page.is_like(divided(0.5)), "both models")
    said = page.text()
    assert "(left) run_1_*old*: 40 Gaussians" in said and "(right) run_1_*new*: 40 Gaussians" in said
    share = page.slide("Compare", 30)
    assert 0.6 < share < 0.9
    page.wait(lambda: page.is_like(divided(share)), "more of the first model")
    line = page.picture()[-100:-20].min(axis=(0, 2))  # white from top to bottom
    assert abs(np.argmax(line) - share * len(line)) < 3 and line.max() > 0.9
    assert page.slide("Compare", -150) == 0
    page.wait(lambda: page.is_like(right), "the second model alone")
    assert page.slide("Compare", 145) == 1
    page.wait(lambda: page.is_like(left), "the first model alone")


@pytest.mark.parametrize("opened", [(1, True)], indirect=True)
def test_the_panel_leads_to_the_cameras(opened, scene):
    page, stage, world = opened
    await_place(page, stage, world.start.position)
    page.wait(lambda: orange(page.picture()) > 100, "cameras, those of training in orange")
    assert not page.is_like(colors(stage))
    page.switch("Cameras").click()
    page.wait(lambda: page.is_like(colors(stage)) and orange(page.picture()) == 0, "our render, without cameras")

    index = scene.test[-1]
    photographed = partial(is_photo_of, scene.cameras[index], stage.models[0].gaussians, stage.models[0].alive)
    for _ in range(2):  # the same one can be chosen again
        page.choose("Look from", f"{scene.names[index]} (not trained on)")
        await_place(page, stage, scene.centers[index])
        page.wait(lambda: page.chosen("Look from") == "choose one", "the list to be ready again")
        page.wait(lambda: photographed(page.picture(), BACKGROUNDS[0]), "what the camera sees")
        page.orbit(80, 20)
        page.wait(lambda: np.linalg.norm(stage.viewpoint.position - scene.centers[index]) > 0.1, "another place")
        page.wait(lambda: not photographed(page.picture(), BACKGROUNDS[0]), "what is seen from there")


def orange(shown: np.ndarray) -> int:
    """Number of pixels in the color of cameras that were trained on."""
    return int((np.abs(shown * 255 - TRAINED_COLOR).max(axis=2) < 25).sum())


def is_photo_of(camera: Camera, gaussians, alive, shown: np.ndarray, background=None) -> bool:
    """Whether a window, wider than photos, shows what a camera of the scene sees: from side to side in its middle."""
    factor = len(shown) / HEIGHT
    height, width = len(shown), round(WIDTH * factor)
    enlarged = Camera(camera.camera_from_world, camera.intrinsics * np.float32(factor), width, height)
    result = render(gaussians, enlarged, alive=alive, background=background)
    start = (shown.shape[1] - width) // 2
    return distance(shown[:, start : start + width], np.clip(result.color, 0, 1)) < 0.02


class SteppingView(training.TrainingView):
    """A training's viewer that says where it is, and shows a state when it is told to go on."""

    addresses, go_on = SimpleQueue(), Semaphore(0)

    def __enter__(self):
        self.addresses.put(self.address)
        return super().__enter__()

    def show(self, state, last=False):
        if last or int(state.step) < ITERATIONS:  # as if the last but one had come too soon
            assert self.go_on.acquire(timeout=PATIENCE)
            super().show(state, last)


def test_a_training_is_watched_in_an_open_page(driver, scene, tmp_path, monkeypatch):
    monkeypatch.setattr("ipsm_jax.train.TrainingView", SteppingView)
    monkeypatch.setattr(training, "SECONDS_BETWEEN", 0.0)
    write_gaussians_ply(tmp_path / "blobs.ply", *tiny_gaussians())
    first = partial(is_photo_of, scene.train_cameras[0], *tiny_gaussians())
    command = ["--scene", str(scene.path), "--downscale", "1", "--init", str(tmp_path / "blobs.ply")]
    command += ["--iterations", str(ITERATIONS), "--sh-dc-lr", "0.1", "--no-evaluate", "--no-video"]
    command += ["--out", str(tmp_path), "--name", "run", "--view", "--view-port", "0"]
    with ThreadPoolExecutor(1) as pool:
        trained = pool.submit(main, command)
        page = Page(driver, int(SteppingView.addresses.get(timeout=PATIENCE).rpartition(":")[2]))
        page.wait(lambda: first(page.picture()), "the Gaussians that training starts from")
        iterations, pictures = [iteration_of(page)], [page.picture()]
        while iterations[-1] < ITERATIONS:
            SteppingView.go_on.release()
            page.wait(lambda: iteration_of(page) > iterations[-1], f"an iteration after {iterations}")
            iterations.append(iteration_of(page))
            page.wait(lambda: distance(page.picture(), pictures[-1]) > 0.01, "another picture")
            pictures.append(page.picture())
        assert trained.result(PATIENCE) == 0
    assert iterations[0] == 0 and len(iterations) > 3

    # The page, whose server has ended, keeps the last picture.
    state = load_run(tmp_path / "run")[1]
    assert is_photo_of(scene.train_cameras[0], state.gaussians, state.alive, page.picture())


def iteration_of(page: Page) -> int:
    """What the panel says."""
    return int(re.search(r"run: \d+ Gaussians, iteration (\d+)", page.text())[1])
