"""Pictures of the viewer, or of a report page, taken in a browser without a window: those in docs/ are made with it.

    python experiments/screenshot.py docs/viewer.jpg --view runs/demo
    python experiments/screenshot.py docs/compare.jpg --view runs/first runs/second
    python experiments/screenshot.py docs/grid.jpg --page runs/grid/report.html --size 1280 2000

Needs selenium, a Chromium or Chrome, and its chromedriver (Debian: apt-get install chromium chromium-driver); for the
viewer the extra `view`.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from ipsm_jax.reporting.files import atomic_write
from ipsm_jax.trained import EXPECTED_ERRORS, CommandError
from ipsm_jax.view import ViewOptions, sources_of
from ipsm_jax.viewer.opening import check_viser, open_shown
from ipsm_jax.viewer.world import world_of

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
PATIENCE = 120.0
STILL = 3.0
"""Seconds for which a page has to look the same before it is taken; a browser draws without a GPU."""


def main() -> int:
    """Run the command; returns the exit code: 0, or 2 for unusable input."""
    args = _arguments()
    try:
        with address(args) as url, browser(*args.size) as driver:
            picture = settled_picture(driver, url)
    except EXPECTED_ERRORS as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    with atomic_write(args.out) as temporary:
        picture.save(temporary, format=Image.registered_extensions()[args.out.suffix.lower()], quality=85)
    print(args.out)
    return 0


@contextlib.contextmanager
def browser(width: int, height: int) -> Iterator[Any]:
    """A browser without a window.

    Raises:
      CommandError: selenium, the browser or its driver is missing.
    """
    binary, driver = find_browser()
    if binary is None or driver is None:
        raise CommandError(
            f"looked for one of {', '.join(BROWSERS)} and for chromedriver on the PATH, found {binary} and {driver}: "
            "install them (Debian: apt-get install chromium chromium-driver)"
        )
    started = start_browser(binary, driver)
    try:
        started.set_window_size(width, height)
        inner = started.execute_script("return [window.innerWidth, window.innerHeight]")
        started.set_window_size(2 * width - inner[0], 2 * height - inner[1])  # the window's frame is not the page
        yield started
    finally:
        started.quit()


def find_browser() -> tuple[str | None, str | None]:
    """Paths of a browser and of its driver; None for what is not on the PATH."""
    return next(filter(None, map(shutil.which, BROWSERS)), None), shutil.which("chromedriver")


def start_browser(binary: str, driver: str) -> Any:
    """Selenium's driver of a browser without a window.

    Raises:
      CommandError: selenium is missing.
    """
    try:
        from selenium import webdriver
    except ModuleNotFoundError as error:
        raise CommandError("selenium drives the browser: pip install selenium") from error
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    options.add_argument("--headless=new")
    options.add_argument("--disable-dev-shm-usage")
    options.add_argument("--enable-unsafe-swiftshader")
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        options.add_argument("--no-sandbox")  # which root cannot have
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))


@contextlib.contextmanager
def address(args: argparse.Namespace) -> Iterator[str]:
    """Where the page is: that of a viewer that runs meanwhile, or a file.

    Raises:
      CommandError: there is no such file; or as `ipsm-jax view`.
    """
    if args.page is not None:
        if not args.page.is_file():
            raise CommandError(f"there is no page {args.page}")
        yield args.page.resolve().as_uri()
        return
    check_viser()
    from ipsm_jax.viewer.server import ViewerServer

    if len(args.view) > 2:
        raise CommandError(f"--view takes one run or PLY file, or two to compare; got {len(args.view)}")
    sources = sources_of(ViewOptions(run=args.view[0], other=args.view[1] if len(args.view) == 2 else None))
    stage, scene, notes = open_shown(sources)
    with ViewerServer(
        stage, world_of(stage.models[0], scene), host="127.0.0.1", port=0, largest=max(args.size), notes=notes
    ) as server:
        yield f"http://127.0.0.1:{server.port}/?fixedDpr=1"


def settled_picture(driver: Any, url: str) -> Image.Image:
    """The window, once nothing has changed in it for a while; what floats over the page is closed first.

    Raises:
      CommandError: it never came to rest.
    """
    driver.get(url)
    began = since = time.monotonic()
    before = None
    while time.monotonic() - since < STILL:
        for button in driver.find_elements("css selector", ".mantine-Notification-closeButton"):
            with contextlib.suppress(Exception):  # it may be gone by now
                button.click()
        picture = Image.open(io.BytesIO(driver.get_screenshot_as_png())).convert("RGB")
        if before is None or before.tobytes() != picture.tobytes():
            before, since = picture, time.monotonic()
        if time.monotonic() - began > PATIENCE:
            raise CommandError(f"{url} did not come to rest in {PATIENCE:.0f} s")
        time.sleep(0.3)
    assert before is not None
    return before


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="picture to write: .jpg or .png")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--view", type=Path, nargs="+", metavar="RUN|PLY", help="show these in the viewer")
    what.add_argument("--page", type=Path, help="an HTML file")
    parser.add_argument("--size", type=int, nargs=2, default=(1280, 800), metavar=("WIDTH", "HEIGHT"))
    args = parser.parse_args()
    if args.out.suffix.lower() not in (".jpg", ".jpeg", ".png"):
        parser.error(f"a picture ends in .jpg or .png, got {args.out}")
    return args


if __name__ == "__main__":
    sys.exit(main())
