import argparse
import functools
import gzip
import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tinydigits.cli import data
from tinydigits.data import mnist
from tinydigits.data.dataset import DigitData
from tinydigits.data.mnist import IdxFile, fetch_mnist, load_mnist
from tinydigits.errors import DamagedDataError, DataError, DataNotFoundError, StorageError

Pack = Callable[[NDArray[np.uint8]], bytes]

FETCH = """
import json, sys
from pathlib import Path
from tinydigits.data import mnist
mnist.MIRRORS = [sys.argv[1]]
mnist.FILES = [mnist.IdxFile(*file) for file in json.loads(sys.argv[3])]
mnist.fetch_mnist(Path(sys.argv[2]))
"""


@pytest.fixture
def small(idx_bytes: Pack, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Four IDX files with 200 and 50 digits, by name, which stand in for MNIST's 70,000."""
    generator = np.random.default_rng(0)
    contents = {}
    for part, count in (("train", 200), ("t10k", 50)):
        images = generator.integers(0, 256, (count, 28, 28), np.uint8)
        contents[f"{part}-images-idx3-ubyte"] = idx_bytes(images)
        contents[f"{part}-labels-idx1-ubyte"] = idx_bytes((np.arange(count) % 10).astype(np.uint8))
    files = [IdxFile(n, len(c), hashlib.sha256(c).hexdigest()) for n, c in contents.items()]
    monkeypatch.setattr(mnist, "FILES", tuple(files))
    monkeypatch.setattr(mnist, "VALIDATION_DIGITS", 20)
    monkeypatch.delenv("TINYDIGITS_DATA", raising=False)
    return contents


def write(directory: Path, contents: dict[str, bytes], *, packed: bool = True) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        path = directory / (f"{name}.gz" if packed else name)
        path.write_bytes(gzip.compress(content) if packed else content)
    return directory


class SlowHandler(SimpleHTTPRequestHandler):
    """Takes its time with every file, so that two downloads overlap, and remembers what it was asked."""

    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        time.sleep(0.05)
        super().do_GET()

    def log_message(self, *arguments: object) -> None:
        pass


class Mirrors:
    """HTTP servers on this machine, each serving a directory."""

    def __init__(self) -> None:
        self.servers: list[ThreadingHTTPServer] = []
        self.asked: list[str] = []

    def serve(self, directory: Path) -> str:
        handler = type("Handler", (SlowHandler,), {"asked": self.asked})
        server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(handler, directory=str(directory)))
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        self.servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/"


@pytest.fixture
def mirrors() -> Iterator[Mirrors]:
    mirrors = Mirrors()
    yield mirrors
    for server in mirrors.servers:
        server.shutdown()
        server.server_close()


def use(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    monkeypatch.setattr(mnist, "MIRRORS", addresses)


def closed_port() -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{listener.getsockname()[1]}/"


# --- found ---


OTHER_NAMES = {
    "a dot": lambda name: name.replace("-idx", ".idx"),
    "test instead of t10k": lambda name: name.replace("t10k", "test"),
    "upper case": str.upper,
    "a directory for each": lambda name: f"{name}/{name}",
    "underscores": lambda name: name.replace("-", "_"),
    "names that nobody uses": lambda name: f"{name[::-1]}.bin",
}


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("rename", OTHER_NAMES.values(), ids=OTHER_NAMES)
def test_mnist_is_found_under_other_names(
    tmp_path: Path, small: dict[str, bytes], rename: Callable[[str], str], packed: bool
) -> None:
    for name, content in small.items():
        path = tmp_path / rename(name + ".gz" * packed)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(gzip.compress(content) if packed else content)
    (tmp_path / "notes.gz").write_bytes(b"\x1f\x8b")  # nothing else in the directory is in the way
    (tmp_path / "same length").write_bytes(bytes(len(small["t10k-labels-idx1-ubyte"])))
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "unreadable").symlink_to("/proc/self/mem")  # a file whose first bytes nobody may read
    assert len(load_mnist(tmp_path).test) == 50


def test_a_damaged_file_under_another_name_is_named(tmp_path: Path, small: dict[str, bytes]) -> None:
    for name, content in small.items():
        (tmp_path / name.replace("-idx", ".idx")).write_bytes(content[:-1] if "t10k-images" in name else content)
    with pytest.raises(DamagedDataError, match=r"t10k-images\.idx3-ubyte: .*cut off"):
        load_mnist(tmp_path)


@pytest.mark.parametrize("packed", [True, False], ids=["gzip", "plain"])
@pytest.mark.parametrize("below", ["", "MNIST/raw"])
def test_mnist_is_found_in_a_named_directory(tmp_path: Path, small: dict[str, bytes], below: str, packed: bool) -> None:
    write(tmp_path / below, small, packed=packed)
    found = load_mnist(tmp_path)
    assert (found.name, len(found.train), len(found.test), len(found.validation)) == ("mnist", 200, 50, 20)
    assert found.train.images.tobytes() == small["train-images-idx3-ubyte"][16:]
    assert found.test.labels.tobytes() == small["t10k-labels-idx1-ubyte"][8:]


def test_the_environment_goes_before_the_user_cache(
    tmp_path: Path, small: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(mnist.user_cache(), small)
    assert len(load_mnist().train) == 200
    monkeypatch.setenv("TINYDIGITS_DATA", str(tmp_path))
    (tmp_path / "train-images-idx3-ubyte").touch()  # refused, which shows that it was looked at first
    with pytest.raises(DamagedDataError, match="lacks train-labels-idx1-ubyte and t10k"):
        load_mnist()


def test_a_named_directory_is_the_only_place(
    tmp_path: Path, small: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(mnist.user_cache(), small)
    monkeypatch.setenv("TINYDIGITS_DATA", str(mnist.user_cache()))
    for directory, contents in ((tmp_path, "holds none of MNIST's four files"), (tmp_path / "x", "is not a directory")):
        with pytest.raises(DataNotFoundError, match=f"{directory} {contents}.*--fetch --data-dir {directory}"):
            load_mnist(directory)


def test_without_download_absence_names_every_place(
    tmp_path: Path, small: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TINYDIGITS_DATA", str(tmp_path))
    with pytest.raises(DataNotFoundError) as caught:
        load_mnist(download=False)
    assert f"{tmp_path} (TINYDIGITS_DATA) holds none" in str(caught.value)
    assert f"{mnist.user_cache()} (user cache) is not a directory" in str(caught.value)
    assert "tinydigits data --fetch" in str(caught.value)


# --- damaged ---


def flip(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: gzip.compress(content)[:5000], r"images-idx3-ubyte.gz: [\d,]+ bytes after decompression"),
        (lambda content: flip(gzip.compress(content)), "images-idx3-ubyte.gz: cannot be decompressed"),
        (lambda content: flip(content), "its length is right, its content is not MNIST's"),
        (lambda content: b"\0\0\x08\x01" + content[4:], "starts with 2049, 2051 expected"),
        (lambda content: content[:7] + b"\xc9" + content[8:], "its header counts 201 pictures"),
    ],
    ids=["cut off", "flipped in gzip", "flipped pixel", "magic", "count"],
)
def test_a_damaged_file_is_named_with_the_reason_and_the_remedy(
    tmp_path: Path, small: dict[str, bytes], damage: Callable[[bytes], bytes], message: str
) -> None:
    write(tmp_path, small)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(damage(small["train-images-idx3-ubyte"]))
    with pytest.raises(DamagedDataError, match=message) as caught:
        load_mnist(tmp_path)
    assert str(caught.value).startswith(str(path))
    assert str(caught.value).endswith("or point --data-dir at a complete copy.")


def test_a_label_over_nine_is_named(tmp_path: Path, small: dict[str, bytes]) -> None:
    write(tmp_path, small | {"train-labels-idx1-ubyte": small["train-labels-idx1-ubyte"][:-1] + b"\x0a"})
    with pytest.raises(DamagedDataError, match="train-labels-idx1-ubyte.gz: label 10 at position 199"):
        load_mnist(tmp_path)


def test_three_of_four_files_are_an_error_that_names_the_fourth(tmp_path: Path, small: dict[str, bytes]) -> None:
    write(tmp_path, small)
    (tmp_path / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DamagedDataError, match="lacks t10k-labels-idx1-ubyte. Add the missing files"):
        load_mnist(tmp_path)


# --- downloaded ---


def test_a_download_is_kept_verified_and_not_repeated(
    tmp_path: Path, small: dict[str, bytes], mirrors: Mirrors, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, mirrors.serve(write(tmp_path / "mirror", small)))
    assert len(load_mnist().train) == 200
    assert {path.name for path in mnist.user_cache().iterdir()} == {f"{name}.gz" for name in small}
    assert len(load_mnist().test) == 50
    assert sorted(mirrors.asked) == sorted(f"/{name}.gz" for name in small)


def test_an_interrupted_download_is_completed(
    tmp_path: Path, small: dict[str, bytes], mirrors: Mirrors, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, mirrors.serve(write(tmp_path / "mirror", small)))
    write(mnist.user_cache(), {name: small[name] for name in list(small)[:2]})
    assert len(load_mnist().test) == 50
    assert mirrors.asked == ["/t10k-images-idx3-ubyte.gz", "/t10k-labels-idx1-ubyte.gz"]


@pytest.mark.parametrize("fault", ["dead", "truncated", "wrong", "empty", "web page", "plain"])
def test_the_next_mirror_helps_when_one_is(
    tmp_path: Path, small: dict[str, bytes], mirrors: Mirrors, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    bad = write(tmp_path / "bad", small)
    images = bad / "t10k-images-idx3-ubyte.gz"
    match fault:
        case "truncated":
            images.write_bytes(images.read_bytes()[:9_000])
        case "wrong":
            images.write_bytes(gzip.compress(flip(small["t10k-images-idx3-ubyte"])))
        case "empty":
            images.unlink()
        case "web page":
            images.write_text("<html>Please log in to this network</html>")
        case "plain":  # no fault: a mirror, or a proxy on the way, that unpacks
            images.write_bytes(small["t10k-images-idx3-ubyte"])
    first = closed_port() if fault == "dead" else mirrors.serve(bad)
    use(monkeypatch, first, mirrors.serve(write(tmp_path / "good", small)))
    fetch_mnist(tmp_path / "data")
    assert len(load_mnist(tmp_path / "data").test) == 50
    assert len(list((tmp_path / "data").iterdir())) == 4


def test_bad_mirrors_are_named_with_their_faults_and_nothing_is_kept_of_a_bad_file(
    tmp_path: Path, small: dict[str, bytes], mirrors: Mirrors, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = small | {"train-images-idx3-ubyte": flip(small["train-images-idx3-ubyte"])}
    bad, dead, bare = mirrors.serve(write(tmp_path / "bad", wrong)), closed_port(), mirrors.serve(tmp_path)
    use(monkeypatch, bad, dead, bare)
    with pytest.raises(DataNotFoundError) as caught:
        fetch_mnist(tmp_path / "data")
    message = str(caught.value)
    assert f"{bad}: sent a bad file: train-images-idx3-ubyte.gz: SHA-256" in message
    assert f"{dead}: no connection" in message
    assert f"{bare}: does not have the files" in message
    assert "Connect to the network and run `tinydigits data --fetch`" in message
    assert not (tmp_path / "data").exists()


def test_mirrors_that_never_answer_cost_one_wait_in_all(
    tmp_path: Path, small: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mnist, "OFFLINE_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # connects, says nothing
        port = silent.getsockname()[1]
        use(monkeypatch, f"http://127.0.0.1:{port}/a/", f"http://127.0.0.1:{port}/b/")
        start = time.monotonic()
        with pytest.raises(DataNotFoundError, match=r"/a/: no answer; .*/b/: no answer"):
            fetch_mnist(tmp_path)
        assert time.monotonic() - start < 2


def test_an_offline_machine_waits_less_than_ten_seconds() -> None:
    assert mnist.OFFLINE_SECONDS < 10


def test_a_damaged_file_is_never_overwritten(
    tmp_path: Path, small: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, closed_port())
    path = write(tmp_path, {"train-images-idx3-ubyte": b"mine"}) / "train-images-idx3-ubyte.gz"
    before = path.read_bytes()
    with pytest.raises(DamagedDataError, match="Delete it and run"):
        fetch_mnist(tmp_path)
    assert path.read_bytes() == before


def test_a_place_that_cannot_be_written_to_is_a_sentence(
    tmp_path: Path, small: dict[str, bytes], mirrors: Mirrors, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, mirrors.serve(write(tmp_path / "mirror", small)))
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"MNIST cannot be saved in .*: not a directory\. .*--data-dir DIR"):
        fetch_mnist(tmp_path / "file" / "data")


def test_two_processes_that_fetch_at_once_end_with_one_good_copy(
    tmp_path: Path, small: dict[str, bytes], mirrors: Mirrors
) -> None:
    address = mirrors.serve(write(tmp_path / "mirror", small))
    files = json.dumps([(file.name, file.size_bytes, file.sha256) for file in mnist.FILES])
    command = [sys.executable, "-c", FETCH, address, str(tmp_path / "data"), files]
    for _ in range(5):  # on a busy machine one may be done before the other has begun
        processes = [subprocess.Popen(command) for _ in range(2)]
        assert [process.wait() for process in processes] == [0, 0]
        if len(mirrors.asked) > 4:
            break
        shutil.rmtree(tmp_path / "data")
        mirrors.asked.clear()
    assert {path.name for path in (tmp_path / "data").iterdir()} == {f"{name}.gz" for name in small}
    assert len(load_mnist(tmp_path / "data").train) == 200
    assert len(mirrors.asked) > 4  # both did download


# --- the real thing ---


def test_the_real_mnist_has_its_known_content(mnist: DigitData) -> None:
    assert np.bincount(mnist.train.labels).tolist() == [
        5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949,
    ]  # fmt: skip
    assert mnist.test.labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    assert round(float(mnist.train.images.mean()) / 255, 4) == 0.1307
    assert len(mnist.validation) == 5_000


def test_the_real_mnist_is_loaded_quickly(mnist_dir: Path) -> None:
    start = time.process_time()
    load_mnist(mnist_dir)
    assert time.process_time() - start < 1.2  # 0.5 s on an idle core


# --- the command ---


def run_data(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    data.add_arguments(parser)
    return data.run(parser.parse_args(arguments))


def test_data_says_what_is_where_without_touching_the_network(
    small: dict[str, bytes],
    mirrors: Mirrors,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    use(monkeypatch, mirrors.serve(write(tmp_path / "mirror", small)))
    monkeypatch.setenv("TINYDIGITS_DATA", str(tmp_path / "nowhere"))
    assert run_data("--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert [location["state"] for location in document["mnist"]["locations"]] == ["absent", "absent"]
    assert document["mnist"]["used"] is None
    assert document["optdigits"]["digits"] == 1797
    assert mirrors.asked == []


def test_data_fetches_into_a_directory_and_finds_it_there(
    small: dict[str, bytes],
    mirrors: Mirrors,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    use(monkeypatch, mirrors.serve(write(tmp_path / "mirror", small)))
    directory = str(tmp_path / "data")
    assert run_data("--fetch", "--json", "--data-dir", directory) == 0
    assert json.loads(capsys.readouterr().out)["mnist"]["used"] == directory
    assert run_data("--data-dir", directory) == 0
    assert f"--data-dir: {directory} holds MNIST's four files, verified" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("fault", "state", "error"),
    [
        ("absent", "absent", DataNotFoundError),
        ("incomplete", "damaged", DamagedDataError),
        ("cut off", "damaged", DamagedDataError),
    ],
)
def test_data_reports_and_fails_when_a_named_directory_is(
    fault: str,
    state: str,
    error: type[DataError],
    small: dict[str, bytes],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write(tmp_path, {} if fault == "absent" else small)
    if fault == "cut off":
        (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(b"")
    if fault == "incomplete":
        (tmp_path / "train-images-idx3-ubyte.gz").unlink()
    with pytest.raises(error, match=rf"^{tmp_path}[^\0]*tinydigits data --fetch"):
        run_data("--data-dir", str(tmp_path), "--json")
    assert json.loads(capsys.readouterr().out)["mnist"]["locations"][0]["state"] == state


def test_data_does_not_pass_over_damaged_files(
    small: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write(mnist.user_cache(), small)
    monkeypatch.setenv("TINYDIGITS_DATA", str(write(tmp_path, small | {"t10k-labels-idx1-ubyte": b""})))
    with pytest.raises(DamagedDataError, match="t10k-labels-idx1-ubyte.gz: 0 bytes after decompression"):
        run_data("--json")
    document = json.loads(capsys.readouterr().out)
    assert [location["state"] for location in document["mnist"]["locations"]] == ["damaged", "found"]
    assert document["mnist"]["used"] is None


def test_data_calls_an_interrupted_download_incomplete(
    small: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write(mnist.user_cache(), {"t10k-labels-idx1-ubyte": small["t10k-labels-idx1-ubyte"]})
    assert run_data() == 0
    assert "incomplete" in capsys.readouterr().out
