"""Fixtures: the page served by `e4t app`, and a browser."""

import contextlib
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from data_prep.synthetic.faces import Identity, Scene, render
from tests.pipelines.app.served import serving


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """URL of a server that the tests of a file share."""
    with serving() as (address, _):
        yield address


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Path of an image of a drawn person."""
    path, rng = tmp_path_factory.mktemp("image") / "me.png", random.Random(3)
    render(Identity.random(rng), Scene.random(rng), 96).save(path)
    return path


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Callable]:
    """Return a function that opens a browser window of a given size; downloads go to ``tmp_path``."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("no browser: install chromium and chromium-driver")
    with contextlib.ExitStack() as opened:

        def open_window(width: int, height: int = 900) -> object:
            options = webdriver.ChromeOptions()
            options.binary_location = chromium
            for option in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
                options.add_argument(option)
            options.add_experimental_option("prefs", {"download.default_directory": str(tmp_path)})
            options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
            window = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
            opened.callback(window.quit)
            screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
            window.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
            return window

        yield open_window
