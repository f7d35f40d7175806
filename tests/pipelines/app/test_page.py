"""The page in a real browser: from a dropped picture to painted ones."""

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
pytestmark = pytest.mark.slow
PATIENCE = 30
ALL = (Keys.CONTROL, "a", Keys.NULL)
"""What marks all of a field."""
Window = Any
"""A selenium driver."""


def wait_for(found: Callable[[], Any], seconds: float = PATIENCE) -> Any:
    """What ``found`` gives as soon as it gives something."""
    end = time.monotonic() + seconds
    while not (it := found()):
        assert time.monotonic() < end, "this did not happen"
        time.sleep(0.1)
    return it


def at(window: Window, name: str, inside: str = "") -> Any:
    """A widget, or what lies inside of one, as soon as it is there."""
    return wait_for(lambda: window.find_elements("css selector", f"#{name} {inside}"))[0]


def open_page(window: Window, address: str) -> None:
    window.get(address)
    wait_for(lambda: window.find_elements("css selector", "#picture input[type=file], #wall .empty")[1:])


def set_slider(window: Window, name: str, value: int) -> None:
    number = at(window, name, "input[type=number]")
    number.send_keys(*ALL, str(value), Keys.TAB)


def says(window: Window, line: str, text: str) -> None:
    """Wait until a line of the page says so."""
    wait_for(lambda: text in at(window, line).text)


def upload(window: Window, picture: Path) -> None:
    at(window, "picture", "input[type=file]").send_keys(str(picture))


def pictures(window: Window, where: str) -> int:
    """How many are shown, whole."""
    whole = "return [...document.querySelectorAll(arguments[0])].filter((one) => one.naturalWidth).length"
    return window.execute_script(whole, f"#{where} img")


def sideways(window: Window) -> int:
    """Pixels that the page is wider than the window."""
    return window.execute_script("const page = document.documentElement; return page.scrollWidth - page.clientWidth")


@pytest.mark.parametrize("width", [1280, 390])
def test_from_a_picture_to_pictures(browser: Callable, address: str, picture: Path, tmp_path: Path, width: int) -> None:
    window = browser(width)
    open_page(window, address)
    assert sideways(window) == 0
    upload(window, picture)
    says(window, "tuning", "Ready to tune.")
    set_slider(window, "steps", 2)
    at(window, "tune").click()
    says(window, "tuning", "Tuned after 2 steps.")
    assert pictures(window, "film") == 4  # the picture, and before, during and after tuning
    at(window, "more", "button").click()
    set_slider(window, "sampling", 2)
    set_slider(window, "variants", 2)
    at(window, "generate").click()
    says(window, "painting", "4 pictures.")
    assert pictures(window, "wall") == 4
    assert sideways(window) == 0
    for button, file in (("concept-file", "concept.safetensors"), ("bundle", "pictures.zip")):
        at(window, button).click()
        wait_for((tmp_path / file).exists)
    assert Concept.load(tmp_path / "concept.safetensors").settings["steps"] == 2
    assert len(ZipFile(tmp_path / "pictures.zip").namelist()) == 5
    assert hosts(window) == {urlsplit(address).netloc}


def hosts(window: Window) -> set[str]:
    """That the page has asked for anything."""
    events = [json.loads(entry["message"])["message"] for entry in window.get_log("performance")]
    asked = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    return {urlsplit(url).netloc for url in asked if url.startswith(("http:", "https:", "ws:", "wss:"))}


def tab_to(window: Window, name: str) -> None:
    """Press Tab until what has the focus lies inside of ``name``."""
    inside = "return !!document.activeElement.closest('#' + arguments[0])"
    for _ in range(12):
        press(window, Keys.TAB)
        if window.execute_script(inside, name):
            return
    raise AssertionError(f"Tab does not reach {name}")


def press(window: Window, *keys: str) -> None:
    window.switch_to.active_element.send_keys(*keys)


def test_the_keyboard_alone_does_it_all_in_order(
    browser: Callable, address: str, picture: Path, tmp_path: Path
) -> None:
    window = browser(1280)
    open_page(window, address)
    tab_to(window, "picture")
    assert window.switch_to.active_element.accessible_name
    upload(window, picture)  # the dialog that Enter opens is the machine's own
    says(window, "tuning", "Ready to tune.")
    tab_to(window, "steps")
    press(window, *ALL, "1")
    tab_to(window, "tune")
    press(window, Keys.ENTER)
    says(window, "tuning", "Tuned after 1 step.")
    tab_to(window, "prompts")
    press(window, *ALL, "a portrait of a *s")
    tab_to(window, "variants")
    press(window, *ALL, "1")
    tab_to(window, "generate")
    press(window, Keys.ENTER)
    says(window, "painting", "1 picture.")
    tab_to(window, "concept-file")
    press(window, Keys.ENTER)
    wait_for((tmp_path / "concept.safetensors").exists)
    tab_to(window, "bundle")
    press(window, Keys.ENTER)
    wait_for((tmp_path / "pictures.zip").exists)


def test_everything_has_a_name_that_is_read_aloud(browser: Callable, address: str) -> None:
    window = browser(1280)
    open_page(window, address)
    at(window, "more", "button").click()
    widgets = [each for each in window.find_elements("css selector", "button, input, textarea") if each.is_displayed()]
    assert len(widgets) > 10
    assert [each.get_attribute("outerHTML") for each in widgets if not each.accessible_name] == []
    assert at(window, "tuning").get_attribute("aria-live") == "polite"


def test_what_is_wrong_is_said_in_the_page(browser: Callable, address: str, picture: Path, tmp_path: Path) -> None:
    window = browser(390)
    open_page(window, address)
    at(window, "tune").click()
    says(window, "tuning", "Give a picture first.")
    (tmp_path / "notes.png").write_text("not a picture")
    upload(window, tmp_path / "notes.png")
    says(window, "tuning", "This file cannot be read as a picture; give a PNG, JPEG or WebP file.")
    (tmp_path / "large.png").write_bytes(bytes(MAX_IMAGE_BYTES + 1))
    open_page(window, address)
    upload(window, tmp_path / "large.png")
    wait_for(lambda: "exceed the maximum allowed size of 20" in window.find_element("tag name", "body").text)
    open_page(window, address)
    at(window, "generate").click()
    says(window, "painting", "Tune on a picture first")
    at(window, "prompts", "textarea").send_keys(*ALL, "a portrait of a person")
    at(window, "generate").click()
    says(window, "painting", "Write *s where the concept stands")
    assert sideways(window) == 0


def test_stop_ends_tuning_and_keeps_what_was_learned(browser: Callable, address: str, picture: Path) -> None:
    window = browser(1280)
    open_page(window, address)
    upload(window, picture)
    says(window, "tuning", "Ready to tune.")
    set_slider(window, "steps", 60)
    at(window, "tune").click()
    says(window, "tuning", "Step 1 of 60")
    at(window, "stop").click()
    says(window, "tuning", "Stopped after")
    assert at(window, "concept-file").is_enabled()
    assert not at(window, "stop").is_enabled()


def test_a_visitor_who_goes_away_frees_the_place(browser: Callable, address: str, picture: Path) -> None:
    first, second = browser(1280), browser(1280)
    for window, steps in ((first, 60), (second, 1)):
        open_page(window, address)
        upload(window, picture)
        says(window, "tuning", "Ready to tune.")
        set_slider(window, "steps", steps)
    at(first, "tune").click()
    says(first, "tuning", "Step 1 of 60")
    at(second, "tune").click()
    says(second, "tuning", "In line: 1 before you.")
    first.quit()
    says(second, "tuning", "Tuned after 1 step.")


def test_a_server_that_is_killed_midway_is_said_to_be_gone(browser: Callable, picture: Path) -> None:
    window = browser(390)
    with serving() as (address, process):
        open_page(window, address)
        upload(window, picture)
        says(window, "tuning", "Ready to tune.")
        at(window, "tune").click()
        says(window, "tuning", "Step 1 of 15")
        process.send_signal(signal.SIGKILL)
        says(window, "lost", "The server is gone.")
        assert not any(each.is_displayed() for each in window.find_elements("css selector", ".toast-wrap"))
    assert sideways(window) == 0
