"""The viewer in a real browser, without a window: a picture appears, and follows the mouse and the switches.

Needs selenium, a Chromium or Chrome, and its chromedriver (Debian: apt-get install chromium chromium-driver).
"""

import io
import os
import shutil
import time

import numpy as np
import pytest
from PIL import Image
from tiny_run import tiny_gaussians, tiny_scene

from ipsm_jax.viewer.stage import Stage, new_model
from ipsm_jax.viewer.world import world_of

pytest.importorskip("viser", reason='the viewer needs viser: pip install "ipsm_jax[view]"')
pytest.importorskip("selenium", reason="selenium drives the browser: pip install selenium")
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from ipsm_jax.viewer.server import ViewerServer

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
DRIVER = shutil.which("chromedriver")

pytestmark = [
    pytest.mark.usefixtures("own_caches"),
    pytest.mark.skipif(
        BROWSER is None or DRIVER is None,
        reason=f"no browser to drive: found Chromium or Chrome at {BROWSER}, chromedriver at {DRIVER} "
        "(Debian: apt-get install chromium chromium-driver)",
    ),
]

PATIENCE = 90.0


class RecordingStage(Stage):
    """A stage that remembers its last picture, and from where it was."""

    last = None

    def picture(self, viewpoint, wishes, width, height):
        picture = super().picture(viewpoint, wishes, width, height)
        self.last = (viewpoint, wishes, picture)
        return picture


@pytest.fixture(scope="module")
def browser():
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for argument in (
        "--headless=new",
        "--window-size=800,600",
        "--disable-dev-shm-usage",
        "--enable-unsafe-swiftshader",
    ):
        options.add_argument(argument)
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        options.add_argument("--no-sandbox")  # which root cannot have
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def served(tmp_path):
    gaussians, alive = tiny_gaussians()
    stage = RecordingStage([new_model("tiny", gaussians, alive, background=(0.1, 0.2, 0.4))])
    world = world_of(stage.models[0], tiny_scene(tmp_path / "scene"))._replace(cameras=())
    with ViewerServer(stage, world, host="127.0.0.1", port=0, largest=1600) as server:
        yield server, stage, world


def screenshot(browser) -> np.ndarray:
    """The lower part of the window, where no panel or message covers the picture; float in [0, 1]."""
    picture = np.asarray(Image.open(io.BytesIO(browser.get_screenshot_as_png())).convert("RGB"))
    return picture[picture.shape[0] * 6 // 10 :] / 255


def await_picture(browser, stage, changed) -> np.ndarray:
    """Wait until the browser shows the last picture, in full size, and `changed(viewpoint, wishes)` has become true."""
    end = time.monotonic() + PATIENCE
    difference = None
    while time.monotonic() < end:
        shown, last = screenshot(browser), stage.last
        if last is not None and changed(last[0], last[1]) and last[2].shape[1] >= shown.shape[1] - 8:
            height = round(shown.shape[0] / 0.4)
            whole = np.asarray(Image.fromarray(last[2]).resize((shown.shape[1], height), Image.Resampling.BILINEAR))
            difference = float(np.abs(whole[-len(shown) :] / 255 - shown).mean())
            if difference < 0.02:
                return shown
        time.sleep(0.2)
    raise TimeoutError(f"the browser does not show the picture: mean difference {difference}")


def test_the_picture_in_the_browser_is_ours_and_follows(browser, served):
    server, stage, world = served
    browser.get(f"http://127.0.0.1:{server.port}/?fixedDpr=1")  # one pixel stays one, however slow the browser is
    start = np.asarray(world.start.position)
    first = await_picture(browser, stage, lambda look, _: np.allclose(look.position, start, atol=1e-3))
    assert first.std() > 0.05  # there is something to see
    viewpoint = stage.last[0]
    canvas = browser.find_element(By.TAG_NAME, "canvas")
    assert (viewpoint.width, viewpoint.height) == (canvas.size["width"], canvas.size["height"])
    assert viewpoint.fov == pytest.approx(world.start.fov)

    # Dragging orbits: the camera moves, at the same distance from what it looks at.
    drag = ActionChains(browser).move_to_element_with_offset(canvas, -100, 100).click_and_hold()
    drag.move_by_offset(30, 5).move_by_offset(30, 5).release().perform()
    moved = await_picture(browser, stage, lambda look, _: np.linalg.norm(np.subtract(look.position, start)) > 0.1)
    assert np.abs(moved - first).mean() > 0.03
    target = world.target(world.start)
    distances = [np.linalg.norm(position - target) for position in (start, np.asarray(stage.last[0].position))]
    assert distances[0] == pytest.approx(distances[1], rel=0.02)

    # The panel switches to depth.
    browser.find_element(By.CSS_SELECTOR, "input[value='color']").click()
    find = "//*[@role='option'][normalize-space()='depth']"
    WebDriverWait(browser, PATIENCE).until(lambda b: b.find_element(By.XPATH, find).is_displayed())
    browser.find_element(By.XPATH, find).click()
    depth = await_picture(browser, stage, lambda _, wishes: wishes.quantity == "depth")
    assert np.abs(depth - moved).mean() > 0.03

    # A window of another shape gets a picture of that shape.
    browser.set_window_size(1100, 600)  # of which the browser takes some for itself
    await_picture(browser, stage, lambda look, _: look.width > 2 * look.height)
