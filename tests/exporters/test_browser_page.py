"""The exported page without a browser: its text, and its scripts under Node.js against Python, bit by bit."""

import base64
import hashlib
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.support.networks import digits, odd_graphs, odd_int8_graph, zoo_cases, zoo_graph
from tinydigits.errors import BlankPictureError, ExportError, StorageError, ToolMissingError
from tinydigits.exporters.browser.page import SIZE_LIMIT, html_page, write_html
from tinydigits.exporters.browser.runner import preprocess_javascript, run_javascript
from tinydigits.exporters.quantize import quantize
from tinydigits.inference import graph as reference
from tinydigits.inference import int8
from tinydigits.inference.graph import Affine, Conv, Graph, MaxPool, Relu
from tinydigits.inference.int8 import Int8Graph
from tinydigits.models.registry import list_models
from tinydigits.pictures.preprocess import preprocess

Pictures = NDArray[np.uint8]

FACTS = {"Parameters": "9,426", "Accuracy": "99.61 % of 10,000 test digits of MNIST"}
needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="needs Node.js")


def odd_graph() -> Graph:
    return replace(odd_graphs()["axes that differ"], model="odd <&> one")


class Elements(HTMLParser):
    """The elements of a page: (tag, attributes, text)."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None], str]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs), ""))

    def handle_endtag(self, tag: str) -> None:  # noqa: ARG002
        self.found.append(("", {}, ""))

    def handle_data(self, data: str) -> None:
        if self.found:
            tag, attributes, text = self.found[-1]
            self.found[-1] = tag, attributes, text + data


def graph_of(name: str) -> Graph:
    return odd_graphs()[name] if name in odd_graphs() else zoo_graph(name)


@needs_node
@pytest.mark.parametrize("name", [*zoo_cases(), *odd_graphs()])
def test_every_network_gives_the_logits_of_python(name: str, tmp_path: Path) -> None:
    graph, pictures = graph_of(name), digits()[:60]
    expected = reference.run(graph, pictures)
    labels, found = run_javascript(write_html(graph, tmp_path / "page.html", FACTS), pictures)
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
    assert_labels(labels, found, graph.threshold)


@needs_node
@pytest.mark.parametrize("name", [*zoo_cases(), *odd_graphs()])
def test_every_network_gives_the_bits_of_python_in_int8(name: str, tmp_path: Path) -> None:
    graph, pictures = quantize(graph_of(name), digits()[:100]), digits()[:60]
    labels, found = run_javascript(write_html(graph, tmp_path / "page.html", FACTS), pictures)
    assert np.array_equal(found, int8.run(graph, pictures))
    assert_labels(labels, found, graph.integer_threshold)


def assert_labels(labels: NDArray[np.int32], logits: NDArray[np.float64], threshold: float | None) -> None:
    rejected = logits.max(axis=1) < (-np.inf if threshold is None else threshold)
    assert np.array_equal(labels, np.where(rejected, -1, logits.argmax(axis=1)))


@needs_node
def test_odd_integers_give_the_bits_of_python(tmp_path: Path) -> None:
    graph = odd_int8_graph()
    expected = int8.run(graph, digits())
    assert (expected < 0).any()
    assert (expected > 0).any()
    assert np.array_equal(run_javascript(write_html(graph, tmp_path / "page.html", {}), digits())[1], expected)


@needs_node
@pytest.mark.parametrize("quantised", [False, True])
def test_below_the_threshold_it_is_no_digit(quantised: bool, tmp_path: Path) -> None:
    network = zoo_graph("tiny-10k")
    network = replace(network, threshold=float(np.median(reference.run(network, digits()).max(axis=1))))
    graph = quantize(network, digits()[:100]) if quantised else network
    labels, logits = run_javascript(write_html(graph, tmp_path / "page.html", {}), digits())
    assert_labels(labels, logits, graph.integer_threshold if isinstance(graph, Int8Graph) else graph.threshold)
    assert 0.3 < (labels == -1).mean() < 0.7


@needs_node
@pytest.mark.parametrize(("threshold", "rejected"), [(float("inf"), True), (float("-inf"), False)])
def test_a_threshold_beyond_all_numbers_is_clipped(threshold: float, rejected: bool, tmp_path: Path) -> None:
    graph = replace(zoo_graph("tiny-10k"), threshold=threshold)
    labels, logits = run_javascript(write_html(graph, tmp_path / "page.html", {}), digits()[:5])
    assert np.array_equal(labels, np.full(5, -1) if rejected else logits.argmax(axis=1))


def colours(gray: Pictures, rng: np.random.Generator) -> Pictures:
    """RGBA: ink of one colour on paper of another, as opaque as chance will have it."""
    ink, paper = rng.integers(0, 256, (2, 3))
    shades = gray[..., None] / 255
    colour = (shades * ink + (1 - shades) * paper).astype(np.uint8)
    kind = rng.integers(4)
    if kind == 0:  # opaque
        alpha = np.full(gray.shape, 255, np.uint8)
    elif kind == 1:  # strokes on nothing
        alpha = gray
    elif kind == 2:  # all of it a veil
        alpha = np.full(gray.shape, rng.integers(100, 255), np.uint8)
    else:
        alpha = rng.integers(0, 256, gray.shape).astype(np.uint8)
    return np.dstack([colour, alpha])


def hard_pictures() -> Iterator[Pictures]:
    """Enlarged, off-centre, shaded, noisy, either polarity, any size; blank ones and mere noise."""
    rng = np.random.default_rng(5)
    for i in range(240):
        height, width = (int(side) for side in rng.integers(14, 260, 2))
        ink = np.asarray(Image.fromarray(digits()[i % 200]).resize((width, height), Image.Resampling.BICUBIC))
        edges = rng.integers(0, 90, (2, 2)) * (rng.random() < 0.5)
        ink = np.pad(ink, edges)
        y, x = np.mgrid[-1 : 1 : ink.shape[0] * 1j, -1 : 1 : ink.shape[1] * 1j]
        light = rng.uniform(90, 255) * (1 - rng.uniform(0, 0.4) * x * (i % 3 > 0) - 0.15 * y**2 * (i % 3 > 1))
        paper = light * (1 - rng.uniform(0.3, 0.9) * (ink / 255)) + rng.normal(0, rng.choice([0, 0, 3, 12]), ink.shape)
        picture = np.clip(paper, 0, 255).astype(np.uint8)
        yield picture if i % 2 else 255 - picture
    for side in (1, 2, 3, 19, 20, 21, 56, 57, 128):
        yield rng.integers(0, 256, (side, side)).astype(np.uint8)
        yield rng.integers(0, 3, (side, 2 * side)).astype(np.uint8)
        yield np.full((side, 3), rng.integers(256), np.uint8)
    for shape in ((1, 900), (900, 1), (1100, 1600), (513, 20)):
        bar = np.full(shape, 220, np.uint8)
        bar[shape[0] // 4 : shape[0] // 2 + 1, shape[1] // 4 : shape[1] // 2 + 1] = 40
        yield bar + rng.integers(0, 9, shape).astype(np.uint8)
    for i in range(120):
        yield colours(np.pad(np.kron(digits()[i], np.ones((3, 3), np.uint8)), int(rng.integers(0, 20))), rng)


def borderline_pictures() -> Iterator[Pictures]:
    """Small and many, near the limits of the rules: faint ink, specks, borders hardly even, ink hardly full."""
    rng = np.random.default_rng(6)
    for _ in range(2000):
        height, width = rng.choice([9, 19, 20, 24, 40, 55, 56, 57, 58], 2)
        picture = np.full((height, width), rng.integers(100, 256))
        top, left = rng.integers(1, height // 2), rng.integers(1, width // 2)
        ink = rng.choice([rng.integers(12, 24), rng.integers(60, 100), rng.integers(236, 256)])
        picture[top : top + rng.integers(2, height), left : left + rng.integers(1, 2 + width // 4)] -= ink
        specks = rng.integers(0, height, rng.integers(0, 16)), rng.integers(0, width)
        picture[specks] -= rng.integers(0, ink + 1)
        border = rng.integers(0, width, rng.integers(0, 1 + width // 2))
        picture[rng.choice([0, -1]), border] -= rng.integers(3, 30)
        if rng.random() < 0.3:
            picture = picture + rng.integers(-4, 5, picture.shape)
        gray = picture.clip(0, 255).astype(np.uint8)
        if rng.random() < 0.2:
            alpha = np.where(gray < picture.max() - 8, rng.integers(120, 136), rng.choice([0, 126, 127, 128]))
            gray = np.dstack([gray // 2 + rng.integers(0, 128, dtype=np.uint8)] * 3 + [alpha.astype(np.uint8)])
        yield gray


@needs_node
def test_hard_pictures_give_the_bytes_of_python(tmp_path: Path) -> None:
    page = write_html(odd_graph(), tmp_path / "page.html", {})
    pictures = [*hard_pictures(), *borderline_pictures()]
    found = preprocess_javascript(page, pictures)
    assert len(found) == len(pictures) == 2391
    blank = 0
    for picture, answer in zip(pictures, found, strict=True):
        try:
            expected = preprocess(picture).tobytes()
        except BlankPictureError:
            blank += 1
            assert answer is None, picture.shape
        else:
            assert answer == expected, picture.shape
    assert 100 < blank < 1000  # both kinds are among them


@needs_node
def test_no_pictures_give_no_answers(tmp_path: Path) -> None:
    page = write_html(odd_graph(), tmp_path / "page.html", {})
    assert preprocess_javascript(page, []) == []
    labels, logits = run_javascript(page, digits()[:0])
    assert (labels.shape, logits.shape) == ((0,), (0, 10))


def test_the_same_graph_and_facts_give_the_same_page() -> None:
    assert html_page(zoo_graph("tiny-10k"), FACTS) == html_page(zoo_graph("tiny-10k"), FACTS)


def test_every_network_of_the_zoo_fits_into_a_page() -> None:
    for name in list_models():
        assert len(html_page(zoo_graph(name), FACTS).encode()) < SIZE_LIMIT


def test_20_000_parameters_in_float32_fit_into_a_page() -> None:
    """Whatever keeps the limit of the documents can be exported as it is."""
    shapes = [(16, 1), (16, 16), (16, 16), (24, 16), (24, 24), (24, 24)]
    ops = [Conv(np.ones((*shape, 3, 3), np.float32), np.ones(shape[0], np.float32)) for shape in shapes]
    rest = 20_000 - sum(op.weight.size + op.bias.size for op in ops)
    scales = np.ones(rest // 2, np.float32)
    page = html_page(Graph("large", (*ops, Relu(), MaxPool((2, 2), (2, 2)), Affine(scales, scales)), "0" * 64), FACTS)
    assert len(page.encode()) < SIZE_LIMIT


def test_a_page_says_its_facts_and_escapes_them() -> None:
    page = html_page(odd_graph(), {"<b>": '"&</dd>', "{{network}}": "{{style}}"})
    assert "<dt>&lt;b&gt;</dt><dd>&quot;&amp;&lt;/dd&gt;</dd>" in page
    assert "<dt>{{network}}</dt><dd>{{style}}</dd>" in page
    assert "<title>Draw a digit · odd &lt;&amp;&gt; one</title>" in page
    assert "odd <&>" not in page


def test_a_name_cannot_end_the_script_that_holds_it() -> None:
    graph = replace(odd_graph(), model="</script><script>alert(1)</script>")
    elements = Elements(html_page(graph, {})).found
    assert [tag for tag, *_ in elements].count("script") == 3


def test_the_policy_admits_the_page_s_own_scripts_and_nothing_else() -> None:
    elements = Elements(html_page(zoo_graph("tiny-10k"), FACTS)).found
    policy = next(a["content"] for _, a, _ in elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    for kind, tag in {"script-src": "script", "style-src": "style"}.items():
        texts = [text for name, a, text in elements if name == tag and a.get("type") != "application/json"]
        hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in texts]
        assert rules.pop(kind).split() == [f"'sha256-{digest}'" for digest in hashes]
    own = {"default-src": "'none'", "img-src": "data:", "base-uri": "'none'", "form-action": "'none'"}
    assert rules == own


def test_a_page_names_no_other_file_or_place() -> None:
    elements = Elements(html_page(zoo_graph("tiny-10k"), FACTS)).found
    for tag, attributes, text in elements:
        assert "src" not in attributes
        assert (attributes.get("href") or "data:").startswith("data:"), tag
        assert not re.search(r"https?://|url\(|@import|\bfetch\b|XMLHttpRequest|WebSocket|import\(", text), tag


def test_a_page_of_150_000_bytes_is_refused(tmp_path: Path) -> None:
    weight = np.zeros((10, 1, 28, 28), np.float32)
    small = Graph("big", (Conv(weight, np.zeros(10, np.float32)),), "0" * 64)
    missing = SIZE_LIMIT - len(html_page(small, {"a": ""}).encode())
    assert len(html_page(small, {"a": "x" * (missing - 1)}).encode()) == SIZE_LIMIT - 1
    with pytest.raises(
        ExportError, match=r"^big: the page would have 150,000 bytes, .* below 150,000\. Export it as int8"
    ):
        write_html(small, tmp_path / "page.html", {"a": "x" * missing})
    assert not list(tmp_path.iterdir())
    with pytest.raises(ExportError, match=r"Take a smaller network\.$"):
        html_page(odd_int8_graph(), {"a": "x" * SIZE_LIMIT})


def test_a_place_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"page\.html could not be written"):
        write_html(odd_graph(), tmp_path / "missing" / "page.html", {})


def test_without_node_a_sentence_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = write_html(odd_graph(), tmp_path / "page.html", {})
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolMissingError, match=r"^Node\.js is not on the PATH.* Install nodejs\.$"):
        run_javascript(page, digits()[:1])


@needs_node
@pytest.mark.parametrize(
    "content", [None, "<p>Hello</p>", '<script id="reader">}</script><script id="network"></script>']
)
def test_another_page_is_refused(content: str | None, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    if content is not None:
        page.write_text(content)
    with pytest.raises(
        ExportError, match=r"page\.html: Node\.js cannot run this page \(.*Error.*\)\. Export it again\.$"
    ):
        run_javascript(page, digits()[:1])
