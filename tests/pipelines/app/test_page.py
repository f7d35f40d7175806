"""The page in a real browser, from an uploaded image to generated images."""

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from zipfile import ZipFile

import pytest

from encoder.concepts.concept import Concept
from pipelines.app.http_guard import MAX_IMAGE_BYTES
from tests.pipelines.app.served import serving

Keys = pytest.importorskip("selenium.webdriver", reason="selenium is not installed").Keys
pytestmark = pytest.mark.browser
TIMEOUT_SECONDS = 30
ALL = (Keys.CONTROL, "a", Keys.NULL)
"""Keys that select the whole content of a field."""
Window = Any
"""A selenium driver."""


def wait_for(found: Callable[[], Any], seconds: float = TIMEOUT_SECONDS) -> Any:
    """Call ``found`` until it returns a true value, and return that value."""
    end = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < end, "timed out"
        time.sleep(0.1)
    return value


def at(window: Window, name: str, inside: str = "") -> Any:
    """Wait for a widget, or an element inside it, and return it."""
    return wait_for(lambda: window.find_elements("css selector", f"#{name} {inside}"))[0]


def open_page(window: Window, address: str) -> None:
    window.get(address)
    wait_for(lambda: window.find_elements("css selector", "#image input[type=file], #gallery .empty")[1:])


def set_slider(window: Window, name: str, value: int) -> None:
    number = at(window, name, "input[type=number]")
    number.send_keys(*ALL, str(value), Keys.TAB)


def wait_for_text(window: Window, line: str, text: str) -> None:
    """Wait until a status line contains a text."""
    wait_for(lambda: text in at(window, line).text)


def upload(window: Window, image: Path) -> None:
    at(window, "image", "input[type=file]").send_keys(str(image))


def count_images(window: Window, where: str) -> int:
    """Count the fully loaded images inside an element."""
    whole = "return [...document.querySelectorAll(arguments[0])].filter((one) => one.naturalWidth).length"
    return window.execute_script(whole, f"#{where} img")


def horizontal_overflow(window: Window) -> int:
    """Return by how many pixels the page is wider than the window."""
    return window.execute_script("const page = document.documentElement; return page.scrollWidth - page.clientWidth")


@pytest.mark.parametrize("width", [1280, 390])
def test_an_image_is_tuned_and_images_are_generated(
    browser: Callable, address: str, image: Path, tmp_path: Path, width: int
) -> None:
    window = browser(width)
    open_page(window, address)
    assert horizontal_overflow(window) == 0
    upload(window, image)
    wait_for_text(window, "tuning", "Ready to tune.")
    set_slider(window, "steps", 2)
    at(window, "tune").click()
    wait_for_text(window, "tuning", "Tuned after 2 steps.")
    assert count_images(window, "preview-strip") == 4  # the input, and previews before, during and after tuning
    at(window, "more", "button").click()
    set_slider(window, "sampling", 2)
    set_slider(window, "variants", 2)
    at(window, "generate").click()
    wait_for_text(window, "generation", "4 images generated.")
    assert count_images(window, "gallery") == 4
    assert horizontal_overflow(window) == 0
    for button, file in (("concept-file", "concept.safetensors"), ("zip", "images.zip")):
        at(window, button).click()
        wait_for((tmp_path / file).exists)
    assert Concept.load(tmp_path / "concept.safetensors").settings["steps"] == 2
    assert len(ZipFile(tmp_path / "images.zip").namelist()) == 5
    assert requested_hosts(window) == {urlsplit(address).netloc}


def requested_hosts(window: Window) -> set[str]:
    """Hosts that the page sent requests to."""
    events = [json.loads(entry["message"])["message"] for entry in window.get_log("performance")]
    asked = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    return {urlsplit(url).netloc for url in asked if url.startswith(("http:", "https:", "ws:", "wss:"))}


def tab_to(window: Window, name: str) -> None:
    """Press Tab until the focus is inside the widget ``name``."""
    inside = "return !!document.activeElement.closest('#' + arguments[0])"
    for _ in range(12):
        press(window, Keys.TAB)
        if window.execute_script(inside, name):
            return
    raise AssertionError(f"Tab does not reach {name}")


def press(window: Window, *keys: str) -> None:
    window.switch_to.active_element.send_keys(*keys)


def test_the_page_is_usable_with_the_keyboard_alone(
    browser: Callable, address: str, image: Path, tmp_path: Path
) -> None:
    window = browser(1280)
    open_page(window, address)
    tab_to(window, "image")
    assert window.switch_to.active_element.accessible_name
    upload(window, image)  # Enter opens a native dialog that the driver cannot use
    wait_for_text(window, "tuning", "Ready to tune.")
    tab_to(window, "steps")
    press(window, *ALL, "1")
    tab_to(window, "tune")
    press(window, Keys.ENTER)
    wait_for_text(window, "tuning", "Tuned after 1 step.")
    tab_to(window, "prompts")
    press(window, *ALL, "a portrait of a *s")
    tab_to(window, "variants")
    press(window, *ALL, "1")
    tab_to(window, "generate")
    press(window, Keys.ENTER)
    wait_for_text(window, "generation", "1 image generated.")
    tab_to(window, "concept-file")
    press(window, Keys.ENTER)
    wait_for((tmp_path / "concept.safetensors").exists)
    tab_to(window, "zip")
    press(window, Keys.ENTER)
    wait_for((tmp_path / "images.zip").exists)


def test_every_widget_has_an_accessible_name(browser: Callable, address: str) -> None:
    window = browser(1280)
    open_page(window, address)
    at(window, "more", "button").click()
    widgets = [each for each in window.find_elements("css selector", "button, input, textarea") if each.is_displayed()]
    assert len(widgets) > 10
    assert [each.get_attribute("outerHTML") for each in widgets if not each.accessible_name] == []
    assert at(window, "tuning").get_attribute("aria-live") == "polite"


def test_errors_are_shown_in_the_page(browser: Callable, address: str, image: Path, tmp_path: Path) -> None:
    window = browser(390)
    open_page(window, address)
    at(window, "tune").click()
    wait_for_text(window, "tuning", "Upload an image first.")
    (tmp_path / "notes.png").write_text("not an image")
    upload(window, tmp_path / "notes.png")
    wait_for_text(window, "tuning", "This file cannot be read as an image; upload a PNG, JPEG or WebP file.")
    (tmp_path / "large.png").write_bytes(bytes(MAX_IMAGE_BYTES + 1))
    open_page(window, address)
    upload(window, tmp_path / "large.png")
    wait_for(lambda: "exceed the maximum allowed size of 20" in window.find_element("tag name", "body").text)
    open_page(window, address)
    at(window, "generate").click()
    wait_for_text(window, "generation", "Tune on an image first")
    at(window, "prompts", "textarea").send_keys(*ALL, "a portrait of a person")
    at(window, "generate").click()
    wait_for_text(window, "generation", "Write *s where the concept belongs")
    assert horizontal_overflow(window) == 0


def test_stop_ends_tuning_and_keeps_the_concept(browser: Callable, address: str, image: Path) -> None:
    window = browser(1280)
    open_page(window, address)
    upload(window, image)
    wait_for_text(window, "tuning", "Ready to tune.")
    set_slider(window, "steps", 60)
    at(window, "tune").click()
    wait_for_text(window, "tuning", "Step 1 of 60")
    at(window, "stop").click()
    wait_for_text(window, "tuning", "Stopped after")
    assert at(window, "concept-file").is_enabled()
    assert not at(window, "stop").is_enabled()


def test_a_visitor_who_closes_the_page_frees_their_place_in_the_queue(
    browser: Callable, address: str, image: Path
) -> None:
    first, second = browser(1280), browser(1280)
    for window, steps in ((first, 60), (second, 1)):
        open_page(window, address)
        upload(window, image)
        wait_for_text(window, "tuning", "Ready to tune.")
        set_slider(window, "steps", steps)
    at(first, "tune").click()
    wait_for_text(first, "tuning", "Step 1 of 60")
    at(second, "tune").click()
    wait_for_text(second, "tuning", "Waiting: 1 ahead of you.")
    first.quit()
    wait_for_text(second, "tuning", "Tuned after 1 step.")


def test_a_killed_server_is_reported_in_the_page(browser: Callable, image: Path) -> None:
    window = browser(390)
    with serving() as (address, process):
        open_page(window, address)
        upload(window, image)
        wait_for_text(window, "tuning", "Ready to tune.")
        at(window, "tune").click()
        wait_for_text(window, "tuning", "Step 1 of 15")
        process.send_signal(signal.SIGKILL)
        wait_for_text(window, "connection-error", "The server is gone.")
        assert not any(each.is_displayed() for each in window.find_elements("css selector", ".toast-wrap"))
    assert horizontal_overflow(window) == 0
