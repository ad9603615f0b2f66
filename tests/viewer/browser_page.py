"""A page of the viewer in a browser without a window: what a person sees in it, and does with mouse and keys.

Needs selenium, a Chromium or Chrome, and its chromedriver (Debian: apt-get install chromium chromium-driver).
"""

import io
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

sys.path.insert(0, str(Path(__file__).parents[2] / "experiments"))
from screenshot import find_browser, start_browser  # noqa: F401 (the second is for tests)

sys.path.pop(0)
BROWSER, DRIVER = find_browser()

PATIENCE = 90.0
WINDOW = (800, 700)  # of which the browser takes some for itself


class Page:
    """The viewer on a port of this machine, just opened; pictures are (h, w, 3) floats in [0, 1]."""

    def __init__(self, driver: webdriver.Chrome, port: int) -> None:
        self.driver = driver
        driver.set_window_size(*WINDOW)
        driver.get(f"http://127.0.0.1:{port}/?fixedDpr=1")  # one pixel stays one, however slow the browser is

    @staticmethod
    def wait(condition: Callable[[], object], what: str) -> None:
        """Return when a condition has become true."""
        end = time.monotonic() + PATIENCE
        while not condition():
            if time.monotonic() > end:
                raise TimeoutError(f"waited {PATIENCE:.0f} s for {what}")
            time.sleep(0.1)

    @property
    def canvas(self) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, "canvas[data-engine]")

    def text(self) -> str:
        """All that is written in the page."""
        return self.driver.find_element(By.TAG_NAME, "body").text

    def picture(self) -> np.ndarray:
        """The whole window."""
        return np.asarray(Image.open(io.BytesIO(self.driver.get_screenshot_as_png())).convert("RGB")) / 255

    def is_like(self, wanted: np.ndarray, tolerance: float = 0.02) -> bool:
        """Whether this is shown, stretched over the window, as far as the panel and messages leave it free."""
        return distance(self.picture(), wanted) < tolerance

    def orbit(self, right: int, down: int) -> None:
        """Drag the picture with the left button, in pixels."""
        drag = ActionChains(self.driver).move_to_element_with_offset(self.canvas, -100, 100).click_and_hold()
        drag.move_by_offset(right // 2, down // 2).move_by_offset(right - right // 2, down - down // 2).release()
        drag.perform()

    def choose(self, label: str, option: str) -> None:
        """Take an option of a list in the panel."""
        self.switch(label).click()
        find = f"//*[@role='option'][normalize-space()='{option}']"
        self.wait(lambda: any(e.is_displayed() for e in self.driver.find_elements(By.XPATH, find)), f"option {option}")
        next(e for e in self.driver.find_elements(By.XPATH, find) if e.is_displayed()).click()

    def chosen(self, label: str) -> str:
        """The option of a list that is taken."""
        return self.switch(label).get_attribute("value")

    def slide(self, label: str, pixels: int) -> float:
        """Drag the thumb of a slider to the right; returns what it says then."""
        thumb = self.switch(label).find_element(By.CSS_SELECTOR, "[role=slider]")
        ActionChains(self.driver).click_and_hold(thumb).move_by_offset(pixels, 0).release().perform()
        return float(thumb.get_attribute("aria-valuenow"))

    def switch(self, label: str) -> WebElement:
        """What a label of the panel belongs to."""
        find = f"//label[normalize-space()='{label}']"
        self.wait(lambda: self.driver.find_elements(By.XPATH, find), f"switch {label}")
        return self.driver.find_element(By.ID, self.driver.find_element(By.XPATH, find).get_attribute("for"))


def distance(shown: np.ndarray, wanted: np.ndarray) -> float:
    """Mean difference of the window and a picture stretched over it, in the lower part, which nothing covers."""
    height, width = shown.shape[:2]
    whole = Image.fromarray((wanted * 255).astype(np.uint8)).resize((width, height), Image.Resampling.BILINEAR)
    return float(np.abs(np.asarray(whole) / 255 - shown)[height * 6 // 10 :].mean())
