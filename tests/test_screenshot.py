"""Pictures of pages for the documents: what a browser shows is what is written, and what is missing is said."""

import shutil
import sys
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "experiments"))
import screenshot

sys.path.pop(0)


@pytest.fixture
def run(monkeypatch):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["screenshot.py", *map(str, arguments)])
        return screenshot.main()

    return run


@pytest.mark.skipif(
    shutil.which("chromedriver") is None, reason="no chromedriver on the PATH (Debian: apt-get install chromium-driver)"
)
def test_a_page_is_taken_at_the_size_that_was_asked_for(run, tmp_path, monkeypatch):
    pytest.importorskip("selenium", reason="selenium drives the browser: pip install selenium")
    monkeypatch.setattr(screenshot, "STILL", 0.5)
    page = tmp_path / "page.html"
    half = "<div style='position:absolute;left:50%;top:0;width:50%;height:100%;background:rgb(10,200,30)'></div>"
    page.write_text(f"<body style='margin:0;background:rgb(200,10,30)'>{half}</body>")
    assert run(tmp_path / "page.png", "--page", page, "--size", 640, 480) == 0
    picture = iio.imread(tmp_path / "page.png")
    assert picture.shape == (480, 640, 3)
    np.testing.assert_array_equal(picture[:, :310], np.broadcast_to(np.uint8([200, 10, 30]), (480, 310, 3)))
    np.testing.assert_array_equal(picture[:, 330:], np.broadcast_to(np.uint8([10, 200, 30]), (480, 310, 3)))


def test_what_is_missing_is_said(run, tmp_path, monkeypatch, capsys):
    assert run(tmp_path / "a.png", "--page", tmp_path / "no.html") == 2
    assert "there is no page" in capsys.readouterr().err
    page = tmp_path / "page.html"
    page.write_text("")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert run(tmp_path / "a.png", "--page", page) == 2
    assert "chromedriver on the PATH, found None and None" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run(tmp_path / "a.gif", "--page", page)
    assert "ends in .jpg or .png" in capsys.readouterr().err
    assert not list(tmp_path.glob("a.*"))
