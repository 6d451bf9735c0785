"""The server's page in a real Chromium, drawn on by real pointer events, on phones and desktops."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("fastapi", reason="needs the extra serve")

from docs.browser.chromium import Chromium, find_chromium
from docs.browser.writing import write
from tests.support.browsing import assert_quiet, text
from tests.support.serving import Served, digits, serving

pytestmark = pytest.mark.skipif(find_chromium() is None, reason="needs Chromium")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("serve"), "--quiet") as running:
        yield running


@pytest.fixture
def browser(running: Chromium, served: Served) -> Iterator[Chromium]:
    """With the page open; at the end it must have complained of nothing and asked no other host."""
    running.window(1280, 800)
    running.open(home(served))
    yield running
    assert_quiet(running, home(served))


def home(served: Served) -> str:
    return f"http://127.0.0.1:{served.port}/"


def choose(browser: Chromium, model: str) -> None:
    browser.run(
        f"(() => {{ const e = document.getElementById('model'); e.value = {json.dumps(model)};"
        "e.dispatchEvent(new Event('change')); })()"
    )


def test_networks_are_listed_by_size(browser: Chromium) -> None:
    facts = browser.run(
        "[...document.getElementById('model').options].map((option) => JSON.parse(option.dataset.facts))"
    )
    sizes = [network["parameters"] for network in facts]
    assert len(sizes) > 10
    assert sizes == sorted(sizes)
    assert browser.run("document.getElementById('model').value") == "tiny-10k"


@pytest.mark.parametrize(("width", "height"), [(390, 844), (844, 390)])
def test_a_phone_shows_all_ten_bars(browser: Chromium, width: int, height: int) -> None:
    browser.window(width, height, touch=True)
    write(browser, 7, kind="touch")
    assert browser.run("Math.max(...[...bars.children].map((bar) => bar.getBoundingClientRect().bottom))") <= height
    assert browser.run("scrollY") == 0


@pytest.mark.parametrize(
    ("width", "height", "kind", "written"),
    [
        (1280, 800, "mouse", range(10)),
        (390, 844, "touch", (1, 4, 9)),
        (820, 1180, "pen", (0, 7, 9)),
        pytest.param(390, 844, "touch", range(10), marks=pytest.mark.slow),
        pytest.param(820, 1180, "pen", range(10), marks=pytest.mark.slow),
    ],
)
def test_each_digit_is_read(
    browser: Chromium, tmp_path: Path, width: int, height: int, kind: str, written: Sequence[int]
) -> None:
    browser.window(width, height, touch=kind == "touch", scale=2)
    for digit in written:
        write(browser, digit, kind=kind)
        assert text(browser, "digit") == str(digit)
        assert text(browser, "verdict").endswith("% sure")
        browser.run("scrollTo(0, 0)")
        assert browser.run("document.getElementById('verdict').getBoundingClientRect().bottom") < height
        assert browser.run("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
        browser.screenshot(tmp_path / f"{digit}.png")
        browser.click("#clear")
    with Image.open(tmp_path / "9.png") as picture:
        assert picture.width == 2 * width


def test_networks_are_switched_and_the_facts_with_them(browser: Chromium, served: Served) -> None:
    models = {model["model"]: model for model in served.get("/models").json}
    options = browser.run("[...document.getElementById('model').options].map((o) => [o.value, o.innerText])")
    assert sorted(name for name, _ in options) == sorted(models)
    write(browser, 4)
    for name, label in reversed(options):
        choose(browser, name)
        parameters = f"{models[name]['parameters']:,}"
        browser.wait(f"document.getElementById('facts').innerText.includes('{parameters}')")
        assert text(browser, "digit") == "4"
        assert label.startswith(f"{name} · {parameters} parameters")
        if study := models[name]["study"]:
            assert f"{100 * study['mean']:.2f} %" in label
            assert f"{100 * study['mean']:.2f} ± {100 * study['sd']:.2f} % over {study['n']} seeds" in text(
                browser, "facts"
            )


def test_a_network_that_cannot_be_loaded_leaves_the_old_one(running: Chromium, served: Served) -> None:
    running.window(1280, 800)
    running.open(home(served))
    running.call("Network.setBlockedURLs", urls=["*/models/*"])
    try:
        write(running, 3)
        choose(running, "era-8k")
        running.wait("document.getElementById('message').innerText !== ''")
        assert text(running, "message") == "era-8k: it could not be loaded. Is the server still there?"
        assert running.run("document.getElementById('model').value") == "tiny-10k"
        assert text(running, "digit") == "3"
    finally:
        running.call("Network.setBlockedURLs", urls=[])


def test_it_shows_where_the_network_looked(browser: Chromium) -> None:
    assert browser.run("document.getElementById('explain').ariaDisabled") == "true"
    browser.click("#explain")
    assert text(browser, "looking") == "Draw a digit first."
    write(browser, 7)
    browser.click("#explain")
    browser.wait("!document.getElementById('map').hidden")
    assert text(browser, "looking").startswith("Bright: covered, it costs the 7 most")
    pixels = np.array(
        browser.run(
            "(() => { const copy = document.createElement('canvas'); copy.width = copy.height = 28;"
            "const context = copy.getContext('2d', { willReadFrequently: true });"
            "context.drawImage(document.getElementById('looked'), 0, 0);"
            "return [...context.getImageData(0, 0, 28, 28).data]; })()"
        )
    ).reshape(28, 28, 4)
    heat = pixels[..., 0] - pixels[..., 2]
    assert heat.max() > 100
    assert heat[:4].max() < heat.max() / 2  # not where nothing is
    browser.click("#undo")
    assert browser.run("document.getElementById('map').hidden")


def test_all_of_it_by_keyboard_alone(browser: Chromium) -> None:
    reached = []
    for _ in range(7):
        browser.key("Tab")
        reached.append(browser.run("document.activeElement.id || document.activeElement.tagName"))
        assert browser.run("getComputedStyle(document.activeElement).outlineStyle") != "none"
    assert reached == ["model", "field", "undo", "clear", "open", "explain", "A"]
    browser.run("document.getElementById('field').focus()")
    for key in ["ArrowUp"] * 9 + [" "] + ["ArrowDown"] * 18 + [" "]:
        browser.key(key)
    assert text(browser, "digit") == "1"
    browser.run("document.getElementById('explain').focus()")
    browser.key(" ")
    browser.wait("!document.getElementById('map').hidden")
    assert text(browser, "status") == "Where the network looked for its 1 is shown."
    browser.run("document.getElementById('model').focus()")
    before = browser.run("document.getElementById('model').selectedIndex")
    browser.key("ArrowUp")
    browser.wait(f"document.getElementById('model').selectedIndex === {before - 1}")


def test_a_photograph_is_read(browser: Chromium, tmp_path: Path) -> None:
    browser.window(390, 844, touch=True)
    assert browser.run("document.getElementById('camera').offsetHeight >= 44")
    assert browser.run("document.getElementById('photo').getAttribute('capture')") == "environment"
    digit = Image.fromarray(255 - digits()[0]).resize((300, 300), Image.Resampling.BICUBIC)
    digit.save(tmp_path / "photo.png")
    document = browser.call("DOM.getDocument")["root"]["nodeId"]
    node = browser.call("DOM.querySelector", nodeId=document, selector="#photo")["nodeId"]
    browser.call("DOM.setFileInputFiles", files=[str(tmp_path / "photo.png")], nodeId=node)
    browser.wait("document.getElementById('status').innerText !== ''")
    assert text(browser, "verdict").endswith("sure")


def test_the_page_says_what_it_may_load_and_how_programs_ask(browser: Chromium, served: Served) -> None:
    policy = served.get("/").headers["content-security-policy"]
    assert "connect-src 'self'" in policy
    assert "unsafe" not in policy
    assert f"curl --data-binary @digit.png {home(served)}predict" in browser.run("document.body.innerText")
    blocked = browser.run("fetch('http://127.0.0.1:9/').then(() => 'went', () => 'blocked')")
    assert blocked == "blocked"
    browser.events.clear()  # the browser reports what it has blocked


def test_the_docs_show_every_route(running: Chromium, served: Served) -> None:
    running.window(1280, 800)
    running.open(f"{home(served)}docs")
    running.wait("document.querySelectorAll('h2').length > 0")
    shown = running.run("document.body.innerText")
    document = served.get("/openapi.json").json
    for path, methods in document["paths"].items():
        for method, route in methods.items():
            assert f"{method.upper()} {path}" in shown
            assert route["summary"] in shown
    for name in ("labels", "score", "binary_data_size", "weights_sha256"):  # of models within models
        assert name in shown
    assert "[object" not in shown
    assert "undefined" not in shown
    assert_quiet(running, home(served))
