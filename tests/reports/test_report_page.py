"""Reports in a real Chromium, from file://: desktop, phone, dark, printed, by keyboard; nothing asked of any host."""

import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from docs.browser.chromium import Chromium, find_chromium
from tests.support.browsing import CONTRAST, assert_quiet
from tests.support.reporting import small_study
from tinydigits.cli.main import main

pytestmark = pytest.mark.skipif(find_chromium() is None, reason="needs Chromium")

WINDOWS = {"desktop": (1280, 900), "tablet": (800, 1000), "phone": (390, 844), "small phone": (320, 568)}


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The report of a study, that of a run, and a comparison."""
    place = tmp_path_factory.mktemp("pages")
    study = small_study(place / "mine", "study with a rather long name")
    other = small_study(place / "mine", "other", seeds=2, learning_rate=0.002, calibration_run=False)
    run = study / "runs" / "seed-000"
    found = {}
    for name, sources in {"study": [study], "run": [run], "comparison": [study, other, run]}.items():
        found[name] = place / f"{name}.html"
        assert main(["report", *map(str, sources), "--out", str(found[name])]) == 0
    return found


@pytest.fixture(params=["study", "run", "comparison"])
def browser(running: Chromium, pages: dict[str, Path], request: pytest.FixtureRequest) -> Iterator[Chromium]:
    """With a page open in a desktop window; at the end it must have complained of nothing and asked for nothing."""
    running.call("Emulation.setEmulatedMedia", media="", features=[])
    running.window(1280, 900)
    running.open(pages[request.param])
    yield running
    assert_quiet(running)


@pytest.mark.parametrize("window", WINDOWS)
def test_the_page_fits_its_window(browser: Chromium, window: str) -> None:
    width, height = WINDOWS[window]
    browser.window(width, height, touch=width < 500)
    assert browser.run("document.documentElement.scrollWidth") <= width
    outside = "!e.closest('.scroll, svg') && e.getBoundingClientRect().right > innerWidth + 1"
    cut = f"[...document.querySelectorAll('main *')].filter((e) => {outside}).map((e) => e.outerHTML.slice(0, 99))"
    assert browser.run(cut) == []


def test_text_twice_as_large_still_fits(browser: Chromium) -> None:
    browser.window(390, 844)
    browser.run("document.documentElement.style.fontSize = '200%'")
    assert browser.run("document.documentElement.scrollWidth") <= 390


def test_charts_can_be_read_on_a_phone(browser: Chromium) -> None:
    browser.window(390, 844, touch=True)
    heights = browser.run("[...document.querySelectorAll('svg text')].map(e => e.getBoundingClientRect().height)")
    assert min(heights) >= 10


@pytest.mark.parametrize("dark", [False, True])
def test_all_text_and_all_curves_stand_out_from_their_ground(browser: Chromium, dark: bool) -> None:
    """WCAG 2.2: a contrast of 4.5 for text (1.4.3), and of 3 for what a picture says (1.4.11)."""
    browser.window(1280, 900, dark=dark)
    found = browser.run(CONTRAST)
    assert len(found) > 60
    assert any(name.startswith("3: ") for name in found)
    assert {name: contrast for name, contrast in found.items() if contrast < 4.5 and "few" not in name} == {}


def test_dark_is_dark_and_prints_light(browser: Chromium) -> None:
    ground = "getComputedStyle(document.documentElement).backgroundColor"
    filtered = "[...document.querySelectorAll('.ink')].filter(e => getComputedStyle(e).filter !== 'none').length"
    pictures = browser.run("document.querySelectorAll('.ink').length")
    assert pictures
    assert browser.run(filtered) == 0
    browser.window(1280, 900, dark=True)
    assert max(map(int, re.findall(r"\d+", browser.run(ground))[:3])) < 40
    assert browser.run(filtered) == pictures  # digits are light ink on dark tiles
    dark = [{"name": "prefers-color-scheme", "value": "dark"}]
    browser.call("Emulation.setEmulatedMedia", media="print", features=dark)
    assert browser.run(filtered) == 0
    assert browser.run("getComputedStyle(document.body).color") == "rgb(26, 30, 37)"


def test_the_keyboard_goes_from_top_to_bottom(browser: Chromium) -> None:
    stops = browser.run("document.querySelectorAll('a[href], [tabindex=\"0\"]').length")
    place = """(() => { const e = document.activeElement, b = e.getBoundingClientRect();
      return [e.tagName, e.getAttribute('href') ?? '', b.top + scrollY, getComputedStyle(e).outlineStyle,
              e.getAttribute('aria-label')]; })()"""
    found = []
    for _ in range(stops):
        browser.key("Tab")
        found.append(browser.run(place))
    assert found[0][:2] == ["A", "#content"]
    links = [row for row in found if row[0] == "A"]
    assert len(links) == len({href for _, href, *_ in links}) >= 6
    regions = [row for row in found if row[0] == "DIV"]
    assert all(row[4] for row in regions)
    tops = [row[2] for row in found[len(links) :]]
    assert (
        tops == sorted(tops) or max(abs(b - a) for a, b in zip(sorted(tops), tops, strict=True)) < 900
    )  # side by side
    assert all(row[3] != "none" for row in found), "a stop that cannot be seen"
    browser.run("document.activeElement.blur()")


def test_a_link_leads_to_its_section(browser: Chromium) -> None:
    for href in browser.run("[...document.querySelectorAll('nav a')].map(e => e.getAttribute('href'))"):
        browser.run(f"document.querySelector('nav a[href=\"{href}\"]').click()")
        heading = f"document.querySelector('{href} h2').getBoundingClientRect()"
        top, bottom = browser.run(f"[{heading}.top, {heading}.bottom]")
        assert 0 <= top < bottom <= 900, href


def test_everything_has_a_name_and_a_role(browser: Chromium) -> None:
    nodes: list[dict[str, Any]] = browser.call("Accessibility.getFullAXTree")["nodes"]
    found = [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes if not node["ignored"]]
    roles = {role for role, _ in found}
    assert {"main", "navigation", "region", "table", "columnheader", "rowheader", "heading", "list", "image"} <= roles
    assert all(name for role, name in found if role in ("image", "table", "region", "navigation", "link"))
    assert sum(role == "heading" for role, _ in found) >= 6


def printed(browser: Chromium) -> bytes:
    """The page on A4, as the browser prints it."""
    sheet = {"paperWidth": 8.27, "paperHeight": 11.69, "printBackground": True}
    return base64.b64decode(browser.call("Page.printToPDF", **sheet)["data"])


def test_it_prints_on_a_few_sheets_and_cuts_no_picture(browser: Chromium) -> None:
    """What may not be cut is told so, and is lower than a sheet, so that the browser can keep to it."""
    content = printed(browser)
    assert content.startswith(b"%PDF-")
    assert 2 <= len(re.findall(rb"/Type\s*/Page\b", content)) <= 14
    browser.call("Emulation.setEmulatedMedia", media="print", features=[])
    browser.window(688, 1020)  # what A4 leaves between its margins, in CSS pixels
    browser.call("Emulation.setEmulatedMedia", media="print", features=[])
    kept = json.dumps("figure, .card, .confusion, .digits, .tiles li, .variants li, tr, pre")
    found = browser.run(
        f"[...document.querySelectorAll({kept})].map(e => [e.className || e.tagName, getComputedStyle(e).breakInside,"
        " e.getBoundingClientRect().height, e.getBoundingClientRect().right])"
    )
    assert len(found) > 20
    assert [row for row in found if row[1] != "avoid" or row[2] > 900 or row[3] > 690] == []
    assert browser.run("getComputedStyle(document.querySelector('nav')).display") == "none"


def test_the_policy_admits_nothing_from_elsewhere(browser: Chromium) -> None:
    browser.run("fetch('http://127.0.0.1:9/').catch(() => 0)")
    asked = [event["request"]["url"] for event in browser.events_of("Network.requestWillBeSent")]
    assert not [url for url in asked if url.startswith("http")]
    browser.events.clear()  # of the complaint about that
