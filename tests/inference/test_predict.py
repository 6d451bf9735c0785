import multiprocessing
import os
import signal
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import tinydigits
from tinydigits.cli.output import printable
from tinydigits.data.dataset import DigitData
from tinydigits.errors import ConfigError, ModelError, RunError, UnknownModelError, WeightsError
from tinydigits.evaluation.calibration import softmax
from tinydigits.inference import predict as module
from tinydigits.inference.files import Picture, Source, find_pictures, read_picture, read_pictures
from tinydigits.inference.graph import Graph, run
from tinydigits.inference.predict import (
    classify,
    classify_logits,
    load_classifier,
    make_prediction,
    names_model,
    predict,
    predict_pictures,
)
from tinydigits.inference.store import load_graph, packaged_graph
from tinydigits.models.factory import create_model
from tinydigits.models.weights import save_weights
from tinydigits.records import Calibration, Card, Environment, Prediction, encode

Draw = Callable[[Path, int], Path]
INKED = np.full((2, 28, 28), 9, np.uint8)


@pytest.fixture(scope="module")
def graph() -> Graph:
    path = packaged_graph("tiny-10k")
    assert path is not None
    loaded = load_graph(path)
    assert isinstance(loaded, Graph)
    return loaded


@pytest.fixture
def draw(mnist: DigitData) -> Draw:
    """A test digit, ten times as large, dark on light in a larger page; the suffix says the format."""

    def make(path: Path, index: int) -> Path:
        page = np.full((400, 400), 250, np.uint8)
        digit = Image.fromarray(mnist.test.images[index]).resize((280, 280), Image.Resampling.BICUBIC)
        page[60:340, 50:330] = 250 - np.asarray(digit, int) * 240 // 255
        Image.fromarray(page).save(path)
        return path

    return make


def card(model: str) -> Card:
    return Card(
        model=model,
        mean=0.1,
        std=0.3,
        data="optdigits",
        data_sha256="",
        split="test",
        recipe_name="fast",
        recipe={},
        seed=0,
        epochs=0,
        accuracy=None,
        chosen="not trained at all",
        command="none",
        environment=Environment(python="", packages={}, platform="", processor="", cores=None, threads=1),
        calibration=Calibration(temperature=2.0, threshold=1e9),
    )


def ignore() -> bytes:
    raise AssertionError("standard input is not read")


def png_header(width: int, height: int) -> bytes:
    """A PNG that ends before its first pixel."""
    header = struct.pack(">2I5B", width, height, 8, 0, 0, 0, 0)
    chunk = b"IHDR" + header
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">2I", zlib.crc32(chunk), 99) + b"IDAT"


def test_real_digits_are_read(graph: Graph, mnist: DigitData) -> None:
    found = classify(graph, mnist.test.images[:1000])
    assert (found.labels == mnist.test.labels[:1000]).mean() >= 0.99
    assert found.labels.dtype == np.uint8
    assert found.scores.shape == (1000, 10)
    np.testing.assert_allclose(found.scores.sum(axis=1), 1)
    assert (found.scores.argmax(axis=1) == found.labels).all()
    assert 0 < found.rejected.sum() <= 20


def test_enlarged_digits_on_paper_are_read(graph: Graph, mnist: DigitData, draw: Draw, tmp_path: Path) -> None:
    files = [str(draw(tmp_path / f"{i:03}.png", i)) for i in range(200)]
    predictions = [found for _, found in predict_pictures(read_pictures(files), partial(classify, graph))]
    assert [found.path for found in predictions] == files
    correct = [found.labels[0].label == label for found, label in zip(predictions, mnist.test.labels, strict=False)]
    assert np.mean(correct) >= 0.98
    assert sum(bool(found.rejected) for found in predictions) <= 10


def test_scores_are_the_softmax_of_the_calibration(graph: Graph) -> None:
    images = np.random.default_rng(0).integers(0, 256, (70, 28, 28), np.uint8)
    images[:30] //= 4
    logits = run(graph, images)
    assert graph.temperature is not None
    assert graph.threshold is not None
    found = classify(graph, images)
    np.testing.assert_allclose(found.scores, softmax(logits, graph.temperature), rtol=1e-12)
    np.testing.assert_array_equal(found.rejected, logits.max(axis=1) < graph.threshold)
    assert found.rejected.any()
    assert not found.rejected.all()


def test_black_is_no_digit_whatever_the_network_says(graph: Graph) -> None:
    assert classify(graph, np.zeros((1, 28, 28), np.uint8)).rejected.all()


def test_the_threshold_itself_is_kept_and_none_rejects_nothing() -> None:
    logits = np.array([[2.0] + [0.0] * 9, [1.9] + [0.0] * 9], np.float32)
    assert classify_logits(INKED, logits, None, 2.0).rejected.tolist() == [False, True]
    assert classify_logits(INKED, logits, None, None).rejected.tolist() == [False, False]
    np.testing.assert_allclose(classify_logits(INKED, logits, None, None).scores, softmax(logits), rtol=1e-12)


def test_huge_logits_do_not_overflow_and_infinite_ones_are_a_sentence() -> None:
    assert classify_logits(INKED[:1], np.array([[1e30] + [0.0] * 9], np.float32), 0.01, None).scores[0, 0] == 1
    with pytest.raises(ModelError, match="not finite"):
        classify_logits(INKED[:1], np.array([[np.nan] * 10], np.float32), None, None)


def test_no_pictures_no_predictions(graph: Graph) -> None:
    assert classify(graph, np.empty((0, 28, 28), np.uint8)).labels.shape == (0,)
    assert list(predict_pictures([], partial(classify, graph))) == []


@pytest.mark.parametrize("name", ["tiny-10k", "tiny_10k"])
def test_a_zoo_name_loads_its_shipped_graph(name: str, graph: Graph) -> None:
    images = np.random.default_rng(1).integers(0, 256, (3, 28, 28), np.uint8)
    np.testing.assert_array_equal(load_classifier(name)(images).scores, classify(graph, images).scores)


RESIDUAL = """
from torch import nn

import tinydigits
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 1, 3, padding=1), nn.Linear(784, 10)

    def forward(self, x):
        return self.head((x + self.conv(x)).flatten(1))
"""


def test_a_run_directory_is_read_with_by_torch(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = create_model("plain-9k")
    save_weights(tmp_path / "model.safetensors", model, card("plain-9k"))
    images = np.random.default_rng(1).integers(0, 256, (3, 28, 28), np.uint8)
    with torch.no_grad():
        logits = model.eval()(torch.from_numpy((images[:, None] / 255 - 0.1) / 0.3).float()).numpy()
    for source in (tmp_path, tmp_path / "model.safetensors"):
        found = load_classifier(str(source))(images)
        np.testing.assert_allclose(found.scores, softmax(logits, 2.0), rtol=1e-4)
        assert found.rejected.all()


def test_networks_that_cannot_be_exported_are_read_with_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(RESIDUAL)
    namespace: dict[str, type[nn.Module]] = {}
    exec(RESIDUAL, namespace)
    save_weights(tmp_path / "net.safetensors", namespace["Net"](), card("net.py:Net"))
    assert load_classifier("net.safetensors")(np.zeros((2, 28, 28), np.uint8)).scores.shape == (2, 10)


def test_unavailable_models_are_sentences(tmp_path: Path) -> None:
    with pytest.raises(UnknownModelError, match="Did you mean plain-9k"):
        load_classifier("plain-8k")
    with pytest.raises(WeightsError, match="no weights are shipped"):
        load_classifier("plain-9k+padding=1")
    model = create_model("plain-9k")
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    save_weights(tmp_path / "model.safetensors", model, card("plain-9k"))
    with pytest.raises(WeightsError, match="not finite"):
        load_classifier(str(tmp_path))
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(WeightsError, match="the run is not finished"):
        load_classifier(str(tmp_path))


def test_what_names_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for directory in ("scans", "run", "started", "era-8k"):
        Path(directory).mkdir()
    Path("run/model.safetensors").touch()
    Path("started/config.json").touch()
    Path("digit").touch()
    Path("broken").symlink_to("nowhere")
    for word in ("tiny-10k", "tiny_10k", "run", "started", "absent.safetensors", "plain-9k", "net.py:Net", "era-8k"):
        assert names_model(word), word
    for word in ("-", "scans", "digit", "./era-8k", "absent.PNG", "broken", "digit.jpg", str(tmp_path / "digit")):
        assert not names_model(word), word


def test_directories_are_walked_in_order_without_hidden_and_foreign_files(tmp_path: Path) -> None:
    for name in (
        "b/2.png",
        "b/1.JPG",
        "a/c/x.gif",
        "a/.hidden/y.png",
        "b/.z.png",
        "b/notes.txt",
        "b/Thumbs.db",
        "0.bmp",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found, skipped = find_pictures(["first.png", str(tmp_path), "notes.txt"], ignore)
    names = ["0.bmp", "a/c/x.gif", "b/1.JPG", "b/2.png"]
    assert found == ["first.png", *(str(tmp_path / name) for name in names), "notes.txt"]
    assert skipped == [str(tmp_path / "b/notes.txt")]


def test_a_directory_without_pictures_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    (found,), skipped = find_pictures([str(tmp_path)], ignore)
    assert isinstance(found, Picture)
    assert found.error == f"{tmp_path} holds no pictures. Name a directory with PNG or JPEG files."
    assert len(skipped) == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_directory_that_may_not_be_read_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0)
    (found,), _ = find_pictures([str(tmp_path)], ignore)
    assert isinstance(found, Picture)
    assert "closed cannot be read: permission denied" in str(found.error)


def test_standard_input_is_read_where_it_stands(draw: Draw, tmp_path: Path) -> None:
    content = draw(tmp_path / "seven.png", 0).read_bytes()
    found, _ = find_pictures(["a.png", "-", "b.png"], lambda: content)
    assert isinstance(found[1], Picture)
    assert (found[0], found[1].path, found[2]) == ("a.png", "-", "b.png")
    np.testing.assert_array_equal(found[1].image, read_picture(str(tmp_path / "seven.png"), "x").image)


def test_bad_pictures_are_sentences(tmp_path: Path) -> None:
    bad = {
        "absent.png": (None, "there is no such file"),
        "empty.png": (b"", "not a picture in a known format"),
        "text.png": (b"seven", "not a picture in a known format"),
        "cut.png": (png_header(40, 40), "damaged, cut off"),
        "large.png": (png_header(10_000, 10_000), "10,000×10,000 pixels are more than the 64 million"),
        "bomb.png": (png_header(60_000, 60_000), "its header promises more"),
    }
    for name, (content, words) in bad.items():
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
            error = read_picture(content, "-").error or ""
            assert error.startswith("standard input: "), error
            assert words in error
        picture = read_picture(str(path), str(path))
        assert picture.image is None
        assert (picture.error or "").startswith(f"{path}: ")
        assert words in (picture.error or "")


def test_a_broken_link_and_a_directory_are_sentences(tmp_path: Path) -> None:
    link = tmp_path / "link.png"
    link.symlink_to("moved.png")
    assert read_picture(str(link), "link").error == (
        f"{link}: this link points to moved.png, where there is no file. Fix the link."
    )
    assert "is a directory" in str(read_picture(str(tmp_path), "x").error)


def test_the_first_frame_of_an_animation_is_read_and_that_is_said(
    draw: Draw, graph: Graph, mnist: DigitData, tmp_path: Path
) -> None:
    frames = [Image.open(draw(tmp_path / f"{i}.png", i)) for i in range(3)]
    path = tmp_path / "digits.gif"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    for source in (str(path), path.read_bytes()):
        picture = read_picture(source, "digits.gif")
        assert picture.warning == "digits.gif has 3 frames; the first one was read."
        assert picture.image is not None
        assert classify(graph, picture.image[None]).labels[0] == mnist.test.labels[0]


def test_a_blank_picture_is_no_digit_and_no_error(tmp_path: Path, graph: Graph) -> None:
    Image.new("L", (40, 40), 255).save(tmp_path / "blank.png")
    ((_, found),) = predict_pictures(read_pictures([str(tmp_path / "blank.png")]), partial(classify, graph))
    assert (found.rejected, found.labels, found.error) == (True, (), None)
    assert "no ink" in (found.reason or "")


def test_predictions_keep_their_order_among_bad_pictures_and_over_batches(graph: Graph, mnist: DigitData) -> None:
    def pictures() -> list[Picture]:
        return [
            Picture(str(i), error="bad") if i % 7 == 3 else Picture(str(i), image=mnist.test.images[i])
            for i in range(150)
        ]

    expected = classify(graph, mnist.test.images[:150])
    for i, (picture, found) in enumerate(predict_pictures(pictures(), partial(classify, graph))):
        assert picture.path == found.path == str(i)
        if i % 7 == 3:
            assert found == Prediction(path=str(i), rejected=None, labels=(), error="bad")
        else:
            assert found.rejected == expected.rejected[i]
            assert found.labels[0].label == expected.labels[i]
            assert found.labels[0].score == pytest.approx(expected.scores[i].max(), rel=1e-4)
            scores = [row.score for row in found.labels]
            assert scores == sorted(scores, reverse=True)
            assert len(scores) == 10
            assert len(make_prediction(picture, expected.scores[i], False, top=3).labels) == 3


def test_prediction_is_lazy(graph: Graph, mnist: DigitData) -> None:
    taken = 0

    def pictures() -> Iterator[Picture]:
        nonlocal taken
        for i in range(1000):
            taken += 1
            yield Picture(str(i), image=mnist.test.images[i])

    next(predict_pictures(pictures(), partial(classify, graph)))
    assert taken == module._BATCH


def test_the_library_takes_files_directories_images_and_arrays(draw: Draw, mnist: DigitData, tmp_path: Path) -> None:
    (tmp_path / "scans").mkdir()
    seven, two = draw(tmp_path / "seven.png", 0), draw(tmp_path / "scans" / "two.png", 1)
    (tmp_path / "scans" / "notes.txt").touch()
    array, image = np.asarray(Image.open(seven)), Image.open(two).copy()
    (tmp_path / "bad.png").touch()
    found = tinydigits.predict([seven, tmp_path / "scans", image, array, tmp_path / "bad.png"], "tiny-10k", top=2)
    assert [p.path for p in found[:2]] == [str(seven), str(two)]
    assert [p.labels[0].label for p in found[:4]] == [7, 2, 2, 7]
    assert [len(p.labels) for p in found] == [2, 2, 2, 2, 0]
    assert found[3].path == "array of shape [400, 400]"
    assert found[4].rejected is None
    assert "not a picture" in (found[4].error or "")
    for alone in (str(two), image, np.stack([np.asarray(image)] * 3, axis=2)):
        assert [p.labels[0].label for p in predict(alone)] == [2]
    assert [p.labels[0].label for p in predict(mnist.test.images[:3])] == [7, 2, 1]
    with pytest.raises(ConfigError, match="top = 0: must be from 1 to 10"):
        predict(seven, top=0)


def test_several_processes_give_the_same_in_the_same_order(draw: Draw, tmp_path: Path) -> None:
    ready = Picture("ready", error="bad")
    sources: list[Source] = [str(draw(tmp_path / f"{i}.png", i)) for i in range(40)]
    sources[13:13] = [ready, str(tmp_path / "absent.png")]
    together = list(read_pictures(sources, workers=2))
    for one, other in zip(read_pictures(sources), together, strict=True):
        assert (one.path, one.error) == (other.path, other.error)
        assert one.image is None or np.array_equal(one.image, other.image)  # type: ignore[arg-type]
    assert together[13].path == "ready"
    assert not multiprocessing.active_children()


def test_leaving_early_leaves_no_processes(draw: Draw, tmp_path: Path) -> None:
    path = str(draw(tmp_path / "x.png", 0))
    pictures = read_pictures([path] * 500, workers=2)
    assert next(pictures).image is not None
    pictures.close()  # type: ignore[attr-defined]
    assert not multiprocessing.active_children()


def test_a_killed_process_is_a_sentence(draw: Draw, tmp_path: Path) -> None:
    path = str(draw(tmp_path / "x.png", 0))
    pictures = read_pictures([path] * 2000, workers=2)
    next(pictures)
    child = multiprocessing.active_children()[0]
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    with pytest.raises(RunError, match="was killed, perhaps because memory ran out"):
        list(pictures)


ENDLESS = """
import itertools, multiprocessing, sys
from tinydigits.inference.files import read_pictures
if __name__ == "__main__":
    for i, _ in enumerate(read_pictures([sys.argv[1]] * 1_000_000, workers=2)):
        if i == 20:
            print(*(child.pid for child in multiprocessing.active_children()), flush=True)
"""


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGKILL])
def test_no_process_outlives_its_parent(draw: Draw, tmp_path: Path, stop: signal.Signals) -> None:
    (tmp_path / "endless.py").write_text(ENDLESS)
    command = [sys.executable, str(tmp_path / "endless.py"), str(draw(tmp_path / "x.png", 0))]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # processes started in the background ignore Ctrl-C, and so would this one
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:
        assert process.stdout is not None
        children = process.stdout.readline().split()
        assert len(children) == 2
        process.send_signal(stop)
        try:
            _, said = process.communicate(timeout=30)  # ends when the last of them has ended
        except subprocess.TimeoutExpired:
            for child in children:
                os.kill(int(child), signal.SIGKILL)
            raise
    assert said.count("Traceback") <= 1  # of the parent, which is a script without a handler


def test_names_that_no_terminal_can_show_are_escaped() -> None:
    name = os.fsdecode(b"7\xff\x1b[31m\xc3\xa9.png")
    assert printable(name) == "7\\udcff\\x1b[31mé.png"
    found = make_prediction(Picture(name, error=name))
    assert found.path == "7\\udcff\x1b[31mé.png"
    encode(found)


def test_nothing_heavy_is_loaded(draw: Draw, tmp_path: Path) -> None:
    path = draw(tmp_path / "seven.png", 0)
    program = (
        "import sys, tinydigits.cli.main as main\n"
        f"code = main.main(['predict', 'tiny-10k', {str(path)!r}])\n"
        "print(code, {'torch', 'scipy', 'sklearn', 'matplotlib', 'pooch'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[0].startswith("7")
    assert done.stdout.splitlines()[1] == "0 set()"
