"""The exported page in a real Chromium, from file://: drawn on by real pointer events, tested by what it shows."""

import base64
import json
import re
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from docs.browser.chromium import Chromium, find_chromium
from docs.browser.writing import page_picture, write
from tests.support.browsing import CONTRAST, assert_quiet, text
from tinydigits.data.dataset import DigitData
from tinydigits.data.sources import load_dataset
from tinydigits.evaluation.calibration import softmax
from tinydigits.exporters.browser.page import write_html
from tinydigits.exporters.fold import fold_network
from tinydigits.exporters.quantize import quantize
from tinydigits.inference import graph as reference
from tinydigits.inference import int8
from tinydigits.inference.graph import Graph
from tinydigits.inference.int8 import Int8Graph
from tinydigits.models.factory import load_model
from tinydigits.pictures.preprocess import preprocess

pytestmark = pytest.mark.skipif(find_chromium() is None, reason="needs Chromium")

Pictures = NDArray[np.uint8]

FACTS = {"Parameters": "9,426", "Accuracy": "99.61 % of the 10,000 test digits of MNIST"}
LARGEST = 50  # milliseconds for a prediction


@pytest.fixture(scope="module")
def graph() -> Graph:
    return fold_network(*load_model("tiny-10k"))


@pytest.fixture(scope="module")
def int8_graph(graph: Graph) -> Int8Graph:
    return quantize(graph, load_dataset("optdigits").train.images[:200])


@pytest.fixture(scope="module")
def page(graph: Graph, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_html(graph, tmp_path_factory.mktemp("page") / "a page.html", FACTS)


@pytest.fixture
def browser(running: Chromium, page: Path) -> Iterator[Chromium]:
    """With the page open in a desktop window; at the end it must have complained of nothing and asked for nothing."""
    running.window(1280, 800)
    running.open(page)
    yield running
    assert_quiet(running)


def prediction(browser: Chromium) -> str:
    return text(browser, "digit")


def pixels(browser: Chromium, name: str) -> Pictures:
    """RGBA of a canvas, read from a copy, because reading is what browsers warn of."""
    encoded, height, width = browser.run(
        f"(() => {{ const shown = document.getElementById('{name}'), copy = document.createElement('canvas');"
        "[copy.width, copy.height] = [shown.width, shown.height];"
        "const context = copy.getContext('2d', { willReadFrequently: true }); context.drawImage(shown, 0, 0);"
        "const bytes = context.getImageData(0, 0, copy.width, copy.height).data;"
        "const text = Array.from(bytes, (byte) => String.fromCharCode(byte)).join('');"
        "return [btoa(text), copy.height, copy.width]; })()"
    )
    return np.frombuffer(base64.b64decode(encoded), dtype=np.uint8).reshape(height, width, 4)


def seen(browser: Chromium) -> Pictures:
    """The 28×28 picture that the page shows as the network's."""
    return pixels(browser, "seen")[..., 0]


def inked(browser: Chromium) -> int:
    """How many pixels of the paper are not empty."""
    return int(np.count_nonzero(pixels(browser, "field")[..., 3]))


@pytest.mark.parametrize(
    ("kind", "size", "corner", "digits"),
    [
        ("mouse", 0.8, (0.1, 0.1), range(10)),
        ("touch", 0.35, (0.6, 0.05), (1, 4, 8)),
        ("pen", 1, (0, 0), (0, 5, 7)),
        pytest.param("touch", 0.35, (0.6, 0.05), range(10), marks=pytest.mark.slow),
        pytest.param("pen", 1, (0, 0), range(10), marks=pytest.mark.slow),
    ],
)
def test_written_digits_are_read(
    browser: Chromium, kind: str, size: float, corner: tuple[float, float], digits: Iterable[int]
) -> None:
    browser.window(390, 844, touch=kind == "touch", scale=2)
    for digit in digits:
        write(browser, digit, kind=kind, size=size, corner=corner)
        assert prediction(browser) == str(digit)
        assert text(browser, "verdict").endswith("% sure")
        browser.click("#clear")


@pytest.mark.parametrize("size", [0.35, 0.2, 0.12])
@pytest.mark.parametrize("corner", [(0.0, 0.0), (0.85, 0.85)])
def test_small_digits_in_a_corner_are_read(browser: Chromium, size: float, corner: tuple[float, float]) -> None:
    for digit in (3, 5, 8):
        write(browser, digit, size=size, corner=(min(corner[0], 1 - size), min(corner[1], 1 - size)))
        assert prediction(browser) == str(digit)
        browser.click("#clear")


def test_a_mark_as_small_as_the_pen_is_no_digit(browser: Chromium) -> None:
    left, top, width, height = browser.box("#field")
    for points in (((0.5, 0.5),), ((0.2, 0.2), (0.23, 0.22)), ((0.7, 0.3), (0.7, 0.37))):
        browser.stroke([(left + width * x, top + height * y) for x, y in points])
        assert (prediction(browser), text(browser, "verdict")) == ("–", "No digit")
        browser.click("#clear")


@pytest.mark.parametrize(("width", "height"), [(390, 844), (844, 390)])
def test_a_phone_shows_all_ten_bars_and_no_keys(browser: Chromium, width: int, height: int) -> None:
    browser.window(width, height, touch=True)
    write(browser, 7, kind="touch")
    ends = browser.run("[...bars.children].map((bar) => bar.getBoundingClientRect().bottom)")
    assert len(ends) == 10
    assert max(ends) <= height
    assert browser.run("scrollY") == 0
    assert "Ctrl" not in (shown := browser.run("document.body.innerText"))
    assert "Keyboard" not in shown
    assert "< 0.1 %" in text(browser, "bars")
    assert not re.search(r"(?<![\d.])0 %", text(browser, "bars"))


def test_the_answer_grows_with_the_stroke_and_is_said_at_its_end(browser: Chromium) -> None:
    left, top, width, height = browser.box("#field")
    points = [(left + width * x, top + height * y) for x, y in ((0.2, 0.1), (0.7, 0.1), (0.4, 0.9))]
    common = {"button": "left", "clickCount": 1, "buttons": 1}
    browser.call("Input.dispatchMouseEvent", type="mousePressed", x=points[0][0], y=points[0][1], **common)
    for x, y in points[1:]:
        browser.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y, **common)
    browser.wait("document.getElementById('digit').innerText === '7'")
    assert text(browser, "status") == ""
    browser.call("Input.dispatchMouseEvent", type="mouseReleased", x=points[2][0], y=points[2][1], **common)
    assert re.fullmatch(r"7, (> )?\d+\.\d % sure\.", text(browser, "status"))


def test_bars_and_percentages_tell_the_same(browser: Chromium) -> None:
    write(browser, 5)
    browser.run("new Promise((done) => setTimeout(done, 400))")  # the bars grow
    rows = browser.run(
        "[...document.querySelectorAll('#bars li')].map((row) => [row.innerText, row.className,"
        "...['.fill', '.track'].map((name) => row.querySelector(name).getBoundingClientRect().right),"
        "row.querySelector('.track').clientWidth])"
    )
    assert [row[0][0] for row in rows] == list("0123456789")
    for digit, (label, name, fill_end, track_end, length) in enumerate(rows):
        assert name == ("best" if digit == 5 else "")
        fraction = float(re.findall(r"[\d.]+", label.replace("\n", " "))[-1]) / 100
        assert abs(1 - (track_end - fill_end) / length - fraction) < 0.02


def test_undo_and_clear_by_button_and_by_key(browser: Chromium) -> None:
    def disabled() -> list[str]:
        found: list[str] = browser.run("['undo', 'clear'].map((id) => document.getElementById(id).ariaDisabled)")
        return found

    assert (disabled(), text(browser, "verdict")) == (["true", "true"], "Nothing drawn yet")
    write(browser, 4)  # two strokes
    assert (disabled(), prediction(browser)) == (["false", "false"], "4")
    whole = inked(browser)
    browser.click("#undo")
    assert 0 < inked(browser) < whole
    browser.click("#undo")
    assert (inked(browser), disabled(), text(browser, "verdict")) == (0, ["true", "true"], "Nothing drawn yet")
    assert seen(browser).max() == 0
    write(browser, 4)
    browser.key("Delete")
    assert (inked(browser), disabled(), prediction(browser)) == (0, ["false", "true"], "–")
    browser.key("z", control=True)  # clearing can be undone too
    assert (inked(browser), prediction(browser)) == (whole, "4")
    browser.click("#clear")
    browser.click("#clear")
    browser.click("#undo")
    assert prediction(browser) == "4"


def test_a_digit_is_written_by_keyboard_alone(browser: Chromium) -> None:
    browser.key("Tab")
    assert browser.run("document.activeElement.id") == "field"
    assert browser.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    for key in ["ArrowLeft"] * 6 + ["ArrowUp"] * 8:
        browser.key(key)
    browser.key(" ")
    assert text(browser, "status") == "Pen down, 29 % from the left and 21 % from the top."
    for _ in range(10):
        browser.key("ArrowRight")
    for _ in range(6):
        browser.key_down("ArrowDown")
        browser.key_down("ArrowLeft")  # both are held: a slope
        browser.key_up("ArrowLeft")
        browser.key_up("ArrowDown")
    for _ in range(6):
        browser.key("ArrowDown")
    browser.key(" ")
    assert prediction(browser) == "7"
    assert text(browser, "status").startswith("7, ")
    reached = []
    for _ in range(3):
        browser.key("Tab")
        reached.append(browser.run("document.activeElement.id"))
        assert browser.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    assert reached == ["undo", "clear", "open"]
    browser.run("document.getElementById('clear').focus()")
    browser.key(" ")
    browser.wait("document.getElementById('digit').innerText === '–'")


def test_a_second_finger_does_not_disturb_the_stroke(browser: Chromium) -> None:
    browser.window(390, 844, touch=True)
    left, top, width, height = browser.box("#field")
    line = [{"x": left + width * 0.5, "y": top + height * y, "id": 1} for y in np.linspace(0.1, 0.9, 12)]
    other = {"x": left + 5, "y": top + 5, "id": 2}
    browser.call("Input.dispatchTouchEvent", type="touchStart", touchPoints=line[:1])
    for i, point in enumerate(line[1:]):
        kind = "touchStart" if i == 3 else "touchMove"
        browser.call("Input.dispatchTouchEvent", type=kind, touchPoints=[point, other] if i >= 3 else [point])
    browser.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
    assert prediction(browser) == "1"
    browser.click("#undo")
    assert inked(browser) == 0  # it was one stroke


def test_a_cancelled_touch_ends_the_stroke(browser: Chromium) -> None:
    left, top, _, _ = browser.box("#field")
    browser.call("Input.dispatchTouchEvent", type="touchStart", touchPoints=[{"x": left + 50, "y": top + 50}])
    browser.call("Input.dispatchTouchEvent", type="touchMove", touchPoints=[{"x": left + 50, "y": top + 200}])
    browser.call("Input.dispatchTouchEvent", type="touchCancel", touchPoints=[])
    browser.wait("document.getElementById('status').innerText !== ''")
    write(browser, 1)  # and the next one begins as usual
    browser.click("#undo")
    assert inked(browser) > 0


def photograph(index: int, side: int = 300) -> Pictures:
    """A digit in blue ink on a yellowish sheet, lit from the left: RGB."""
    digit = Image.fromarray(load_dataset("optdigits").test.images[index]).resize((side, side), Image.Resampling.BICUBIC)
    ink = np.pad(np.asarray(digit), ((60, 20), (10, 130)))[..., None] / 255
    light = np.linspace(1, 0.55, ink.shape[1])[None, :, None]
    colours = light * ((1 - ink) * [250, 244, 220] + ink * [40, 50, 120])
    return (colours + np.random.default_rng(index).normal(0, 3, colours.shape)).clip(0, 255).astype(np.uint8)


def choose(browser: Chromium, path: Path) -> None:
    document = browser.call("DOM.getDocument")["root"]["nodeId"]
    node = browser.call("DOM.querySelector", nodeId=document, selector="#file")["nodeId"]
    browser.call("DOM.setFileInputFiles", files=[str(path)], nodeId=node)


def wait_for_prediction(browser: Chromium) -> None:
    browser.wait("document.getElementById('status').innerText !== ''")
    browser.run("document.getElementById('status').innerText = ''")


@pytest.mark.parametrize("index", range(2))
def test_a_chosen_photograph_gives_the_bytes_of_python(browser: Chromium, index: int, tmp_path: Path) -> None:
    Image.fromarray(photograph(index)).save(tmp_path / "photo.png")
    choose(browser, tmp_path / "photo.png")
    wait_for_prediction(browser)
    assert np.array_equal(seen(browser), preprocess(tmp_path / "photo.png"))
    assert prediction(browser) == str(load_dataset("optdigits").test.labels[index])
    assert inked(browser) > 0


def test_odd_picture_files_give_the_bytes_of_python(browser: Chromium, tmp_path: Path) -> None:
    """Grey, negative, palette, transparent, larger than one strip, one bit."""
    gray = np.asarray(Image.fromarray(photograph(1)).convert("L"))
    ink = np.pad(np.kron(load_dataset("optdigits").test.images[2], np.ones((9, 9), np.uint8)), 20)
    stroke = np.where(ink > 90, 255, 0).astype(np.uint8)
    pictures = {
        "gray": Image.fromarray(gray),
        "negative": Image.fromarray(255 - gray),
        "palette": Image.fromarray(photograph(3)).quantize(16),
        "white on nothing": Image.fromarray(np.dstack([np.full((*stroke.shape, 3), 255, np.uint8), stroke])),
        "black on nothing": Image.fromarray(np.dstack([np.zeros((*stroke.shape, 3), np.uint8), stroke])),
        "one bit": Image.fromarray(stroke).convert("1"),
        "large": Image.fromarray(photograph(1)).resize((3100, 2600), Image.Resampling.NEAREST),
    }
    for name, picture in pictures.items():
        path = tmp_path / f"{name}.png"
        picture.save(path)
        choose(browser, path)
        wait_for_prediction(browser)
        assert np.array_equal(seen(browser), preprocess(path)), name


def test_a_jpeg_is_turned_as_its_camera_says(browser: Chromium, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    Image.fromarray(np.rot90(photograph(0)).copy()).save(tmp_path / "photo.jpg", exif=exif, quality=95)
    choose(browser, tmp_path / "photo.jpg")
    wait_for_prediction(browser)
    difference = seen(browser).astype(int) - preprocess(tmp_path / "photo.jpg")
    assert np.abs(difference).max() <= 16  # decoders of JPEG differ by a level or two
    assert prediction(browser) == str(load_dataset("optdigits").test.labels[0])


def test_a_picture_is_dropped_anywhere_and_drawing_begins_again(browser: Chromium, tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    Image.fromarray(photograph(1)).save(path)
    data = {"items": [], "files": [str(path)], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        browser.call("Input.dispatchDragEvent", type=kind, x=900, y=600, data=data)
    wait_for_prediction(browser)
    assert np.array_equal(seen(browser), preprocess(path))
    photo = inked(browser)
    write(browser, 3)
    assert prediction(browser) == "3"
    assert inked(browser) < photo
    browser.click("#undo")
    assert np.array_equal(seen(browser), preprocess(path))


def test_a_picture_is_pasted(browser: Chromium, tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    Image.fromarray(photograph(2)).save(path)
    content = base64.b64encode(path.read_bytes()).decode()
    browser.run(
        f"(() => {{ const bytes = Uint8Array.from(atob('{content}'), (c) => c.charCodeAt());"
        "const data = new DataTransfer();"
        "data.items.add(new File([bytes], 'photo.png', { type: 'image/png' }));"
        "document.body.dispatchEvent(new ClipboardEvent('paste', { clipboardData: data, bubbles: true })); })()"
    )
    wait_for_prediction(browser)
    assert np.array_equal(seen(browser), preprocess(path))


def test_what_is_no_picture_is_a_sentence_and_harms_nothing(browser: Chromium, tmp_path: Path) -> None:
    write(browser, 4)
    (tmp_path / "notes.txt").write_text("no picture")
    choose(browser, tmp_path / "notes.txt")
    browser.wait("document.getElementById('message').innerText !== ''")
    expected = "notes.txt: this is not a picture that the browser can read. Choose a PNG or JPEG file."
    assert (text(browser, "message"), prediction(browser)) == (expected, "4")
    browser.run("document.body.dispatchEvent(new ClipboardEvent('paste', { clipboardData: new DataTransfer() }))")
    write(browser, 4)
    assert text(browser, "message") == ""


def test_a_picture_without_ink_gets_no_prediction(browser: Chromium, tmp_path: Path) -> None:
    Image.new("L", (200, 100), 240).save(tmp_path / "blank.png")
    choose(browser, tmp_path / "blank.png")
    wait_for_prediction(browser)
    assert (prediction(browser), text(browser, "verdict")) == ("–", "No ink found")


@pytest.mark.parametrize("whole", [False, True])
def test_below_the_threshold_it_is_no_digit(
    running: Chromium, graph: Graph, int8_graph: Int8Graph, whole: bool, tmp_path: Path
) -> None:
    strict = replace(int8_graph, integer_threshold=2**30) if whole else replace(graph, threshold=1e6)
    running.window(1280, 800)
    running.open(write_html(strict, tmp_path / "page.html", FACTS))
    write(running, 3)
    assert (prediction(running), text(running, "verdict")) == ("–", "No digit")
    assert text(running, "status").startswith("No digit. Closest to 3, ")
    assert running.run("document.querySelectorAll('.best').length") == 0
    assert_quiet(running)


PREDICTIONS = """(text) => {
  const digits = Uint8Array.from(atob(text), (character) => character.charCodeAt());
  const network = loadNetwork(document.getElementById("network").textContent);
  const [height, width] = [132, 142];
  return Array.from({ length: digits.length / 784 }, (_, i) => {
    const data = new Uint8Array(height * width); // four times as large, below and left of empty paper
    for (let y = 0; y < 112; y++) for (let x = 0; x < 112; x++)
      data[(y + 20) * width + x] = digits[784 * i + 28 * (y >> 2) + (x >> 2)];
    const before = performance.now();
    const image = preprocess({ data, height, width });
    const logits = runNetwork(network, image);
    const result = classify(network, logits);
    return [[...image], [...logits], result, performance.now() - before];
  });
}"""


@pytest.mark.parametrize("whole", [False, True])
def test_500_test_digits_get_the_predictions_of_python(
    running: Chromium, graph: Graph, int8_graph: Int8Graph, whole: bool, mnist: DigitData, tmp_path: Path
) -> None:
    """In the page, by the page's code, each digit enlarged to a picture; and how long a prediction takes."""
    used: Graph | Int8Graph = int8_graph if whole else graph
    running.window(1280, 800)
    running.open(write_html(used, tmp_path / "page.html", FACTS))
    digits = mnist.test.images[:500]
    found = running.run(f"({PREDICTIONS})('{base64.b64encode(digits.tobytes()).decode()}')")
    pictures = np.pad(digits.repeat(4, axis=1).repeat(4, axis=2), ((0, 0), (20, 0), (0, 30)))
    images = np.array([image for image, *_ in found], dtype=np.uint8).reshape(-1, 28, 28)
    assert np.array_equal(images, np.stack([preprocess(picture) for picture in pictures]))
    logits = np.array([logits for _, logits, *_ in found])
    expected: NDArray[np.float32 | np.int32]
    if isinstance(used, Int8Graph):
        expected, scale = int8.run(used, images), used.logit_scale
        assert np.array_equal(logits, expected)
    else:
        expected, scale = reference.run(used, images), 1.0
        assert np.abs(logits - expected).max() <= 1e-4
    assert [result["digit"] for *_, result, _ in found] == expected.argmax(axis=1).tolist()
    scores = np.array([result["scores"] for *_, result, _ in found])
    assert np.abs(scores - softmax(expected * scale, used.temperature or 1.0)).max() <= 1e-4
    assert np.mean(expected.argmax(axis=1) == mnist.test.labels[:500]) > 0.98
    assert np.median([milliseconds for *_, milliseconds in found]) < LARGEST
    assert_quiet(running)


@contextmanager
def listening() -> Iterator[tuple[str, list[str]]]:
    """A server that notes what it is asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_the_policy_keeps_the_page_off_the_network(running: Chromium, page: Path) -> None:
    running.open(page)
    with listening() as (address, asked):
        element = "new Promise((done) => {{ const e = document.createElement('{kind}'); e.onload = e.onerror = done;"
        element += "e.src = '{address}/{kind}'; document.body.append(e); }}).then(() => 0)"
        running.run(f"fetch('{address}/fetch').catch(() => 0)")
        running.run(element.format(kind="img", address=address))
        running.run(element.format(kind="script", address=address))
        running.run(f"try {{ navigator.sendBeacon('{address}/beacon') }} catch {{}}")
        time.sleep(0.2)
        assert asked == []


def test_a_drawing_outlives_a_resized_window_and_another_colour_scheme(browser: Chromium) -> None:
    write(browser, 3)
    before, image, light = inked(browser), seen(browser), browser.run("getComputedStyle(document.body).color")
    browser.window(320, 568, dark=True, scale=3)
    browser.wait(
        "document.getElementById('field').width === Math.round(document.getElementById('field').clientWidth * 3)"
    )
    assert inked(browser) != before
    assert np.array_equal(seen(browser), image)
    drawn = pixels(browser, "field")
    brightest = drawn[drawn[..., 3] == 255].max()
    assert brightest > 200  # light ink on dark paper
    assert browser.run("getComputedStyle(document.body).color") != light


@pytest.mark.parametrize(("width", "height"), [(320, 568), (390, 844), (844, 390), (1280, 800)])
def test_the_page_fits_its_window(browser: Chromium, width: int, height: int) -> None:
    browser.window(width, height, touch=width < 900)
    write(browser, 8)
    browser.run("scrollTo(0, 0)")
    assert browser.run("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert browser.run(
        "[...document.querySelectorAll('button')].every((b) => b.offsetHeight >= 44 && b.offsetWidth >= 44)"
    )
    bottom = browser.run("document.getElementById('verdict').getBoundingClientRect().bottom")
    assert bottom < height  # the prediction is in sight


def test_text_twice_as_large_still_fits(browser: Chromium) -> None:
    browser.window(390, 844)
    browser.run("document.documentElement.style.fontSize = '200%'")
    write(browser, 8)
    assert browser.run("document.documentElement.scrollWidth <= document.documentElement.clientWidth")


def test_everything_has_a_name_and_a_role(browser: Chromium) -> None:
    write(browser, 2)
    nodes = browser.call("Accessibility.getFullAXTree")["nodes"]
    found = [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes if not node["ignored"]]
    named = {name: role for role, name in found if name}
    assert named["Paper"] == "application"
    paper = next(node for node in nodes if node.get("name", {}).get("value") == "Paper")
    assert "move with the arrow keys" in paper["description"]["value"]
    assert [name.split()[0] for role, name in found if role == "button"] == ["Undo", "Clear", "Picture…"]
    assert named["The 28 by 28 pixels that the network sees"] == "image"
    assert ("heading", "Draw a digit") in found
    assert {"main", "status", "list", "alert"} <= {role for role, _ in found}
    items = [node for node in nodes if node["role"].get("value") == "listitem"]
    assert len(items) == 10


@pytest.mark.parametrize("dark", [False, True])
def test_all_text_stands_out_from_its_ground(browser: Chromium, dark: bool) -> None:
    """WCAG 2.2, 1.4.3: a contrast of at least 4.5."""
    browser.window(1280, 800, dark=dark)
    write(browser, 2)
    browser.run("document.getElementById('message').textContent = 'a complaint'")
    found = browser.run(CONTRAST)
    assert len(found) > 30
    assert {name: contrast for name, contrast in found.items() if contrast < 4.5} == {}


def test_nothing_moves_for_those_who_asked_for_that(browser: Chromium) -> None:
    duration = "getComputedStyle(document.querySelector('.fill')).transitionDuration"
    assert browser.run(duration) == "0.15s"
    browser.media({"prefers-reduced-motion": "reduce"})
    assert browser.run(duration) == "0s"


def test_without_javascript_the_page_says_so(browser: Chromium, page: Path) -> None:
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(page)
        document = browser.call("DOM.getDocument", depth=-1)
        assert "switched off here" in json.dumps(document)
    finally:
        browser.call("Emulation.setScriptExecutionDisabled", value=False)


def test_the_picture_for_the_readme_is_made(page: Path, tmp_path: Path) -> None:
    page_picture(page, tmp_path / "page.png")
    with Image.open(tmp_path / "page.png") as picture:
        assert picture.size == (1280, 800)
