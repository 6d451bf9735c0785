"""The native backend against PyTorch in double precision, layer by layer and as whole networks."""

import ctypes
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.training.test_loop import RECIPE, task_to_learn
from tinydigits.cli.main import main
from tinydigits.data.augment import Augmentation, affine_matrices, affine_numbers
from tinydigits.data.normalize import Normalization
from tinydigits.errors import ConfigError, ToolMissingError
from tinydigits.models.factory import create_model
from tinydigits.models.layers import Dropout
from tinydigits.models.registry import list_models
from tinydigits.records import Epoch
from tinydigits.training.backends.native import library
from tinydigits.training.backends.native.library import load_kernels
from tinydigits.training.backends.native.network import NativeBackend, stages_of
from tinydigits.training.backends.native.stages import Drop, Elsewhere, Plan, Stage, blocked, calls_of, pictures_of
from tinydigits.training.backends.torch import TorchBackend
from tinydigits.training.config import RunConfig
from tinydigits.training.loop import fit, start_state
from tinydigits.training.recipes import get_recipe

try:
    load_kernels()
except ToolMissingError as error:
    pytest.skip(str(error), allow_module_level=True)

PICTURES = 21  # the last block is not full
NORMALIZATION = Normalization(0.13, 0.31)


def _images(count: int = PICTURES) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    rough = torch.randint(256, (count, 1, 28, 28), generator=generator).float()
    return F.avg_pool2d(rough, 5, 1, 2).to(torch.uint8).squeeze(1)


Figures = tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]
"""Logits, gradients of the weights, and the buffers after one step forwards and backwards."""


def _figures(model: nn.Module, logits: Tensor) -> Figures:
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return logits, gradients, {name: b.clone() for name, b in model.named_buffers()}


def _native_step(model: nn.Module, images: Tensor, labels: Tensor, threads: int = 1, weight: float = 1.0) -> Figures:
    seen: list[Tensor] = []

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        seen.append(logits.detach().clone())
        return weight * F.cross_entropy(logits, labels)

    model.zero_grad()
    NativeBackend(model, NORMALIZATION, loss, threads).compute_gradients(images, labels, None)
    return _figures(model, seen[0])


def _exact_step(model: nn.Module, images: Tensor, labels: Tensor) -> Figures:
    model.zero_grad()
    logits = model((images.double().unsqueeze(1) / 255 - NORMALIZATION.mean) / NORMALIZATION.std)
    F.cross_entropy(logits, labels).backward()
    return _figures(model, logits.detach())


def _compare(
    model: nn.Module, images: Tensor, *, native_stages: bool = True, error: float = 1e-4, zero: float = 1e-5
) -> None:
    """A step against the same in float64; gradients may be off by `error`, a share of their norm, and by `zero`."""
    labels = torch.randint(10, (len(images),), generator=torch.Generator().manual_seed(1))
    state = {name: value.clone() for name, value in model.state_dict().items()}
    assert isinstance(model, nn.Sequential)
    assert not (native_stages and any(isinstance(stage, Elsewhere) for stage in stages_of(model)))
    logits, gradients, buffers = _native_step(model, images, labels)
    model.load_state_dict(state)
    wanted, wanted_gradients, wanted_buffers = _exact_step(model.double(), images, labels)
    torch.testing.assert_close(logits.double(), wanted, rtol=1e-4, atol=1e-4)
    assert gradients.keys() == wanted_gradients.keys()
    for name, gradient in gradients.items():
        exactly = wanted_gradients[name]
        assert (gradient.double() - exactly).norm() <= error * exactly.norm() + zero, name
    for name, buffer in buffers.items():
        torch.testing.assert_close(buffer.double(), wanted_buffers[name].double(), rtol=1e-5, atol=1e-6, msg=name)


def _without_dropout(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, Dropout):
            module.p = 0.0
    return model


@pytest.mark.parametrize("name", list_models())
def test_every_model_of_the_zoo_steps_as_in_pytorch(name: str) -> None:
    torch.manual_seed(0)
    # a window whose two largest differ by a rounding may send its gradient to the other one
    _compare(_without_dropout(create_model(name)), _images(), error=0.1)


@pytest.mark.parametrize("padding", [0, 1, 2, 3])
@pytest.mark.parametrize("kernel", [1, 2, 3, 4, 5, 7])
@pytest.mark.parametrize("channels", [(1, 1), (3, 2), (2, 9), (5, 17)])
def test_convolutions_of_all_sizes(kernel: int, padding: int, channels: tuple[int, int]) -> None:
    torch.manual_seed(kernel)
    into, out = channels
    model = nn.Sequential(
        nn.Conv2d(1, into, 3), nn.MaxPool2d(3),
        nn.Conv2d(into, out, kernel, padding=padding),
        nn.Flatten(), nn.LazyLinear(10),
    )  # fmt: skip
    model(torch.zeros(2, 1, 28, 28))
    _compare(model, _images(5))


@pytest.mark.parametrize("groups", [2, 4, 8])
@pytest.mark.parametrize("padding", [0, 1])
def test_convolutions_in_groups(groups: int, padding: int) -> None:
    torch.manual_seed(groups)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.MaxPool2d(3),
        nn.Conv2d(8, 16, 3, padding=padding, groups=groups),
        nn.Conv2d(16, 10, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    )  # fmt: skip
    _compare(model, _images())


def test_windows_that_leave_something_over() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 2), nn.BatchNorm2d(4), nn.MaxPool2d(4), nn.ReLU(),  # 27 → 6
        nn.Conv2d(4, 5, (1, 2)), nn.AvgPool2d(2),  # 6 × 5 → 3 × 2
        nn.Conv2d(5, 10, (2, 1)), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    )  # fmt: skip
    _compare(model, _images())


def test_layers_without_kernels_are_done_by_pytorch() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2, bias=False), nn.GroupNorm(2, 4), nn.SiLU(),
        nn.Conv2d(4, 4, 3, groups=4), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(3, 2, 1),
        nn.Sequential(nn.Identity(), nn.Flatten(), nn.Linear(144, 12), nn.BatchNorm1d(12), nn.ReLU()),
        nn.Linear(12, 10), nn.LogSoftmax(dim=1),
    )  # fmt: skip
    assert [type(stage) for stage in stages_of(model)].count(Elsewhere) == 5
    # The bias before a batch norm has no gradient but rounding: 1.4e-5 on an AMD EPYC, below 1e-5 elsewhere.
    _compare(model, _images(), native_stages=False, zero=2e-5)


def test_pictures_are_resampled_as_in_pytorch() -> None:
    images = _images(40)
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    native, torch_network = (
        NativeBackend(model, NORMALIZATION, F.cross_entropy),
        TorchBackend(model, NORMALIZATION, F.cross_entropy),
    )
    wide = Augmentation(30, 6, 0.3, 20, 0.5)
    maps = affine_matrices(affine_numbers(40, torch.Generator().manual_seed(3)), 28, wide)
    for each in (maps, None):
        native.forward(images, each)
        found = pictures_of(native.slice_of(0, 40).pixels, 40)
        torch.testing.assert_close(found, torch_network.inputs(images, each), rtol=0, atol=2e-5)


def test_dropout_draws_what_its_module_would_draw() -> None:
    """Forwards and backwards, and in each step anew."""
    dropout, plan = Dropout(0.25), Plan(32)
    assert plan.blocks * plan.lanes == 32
    stage = stages_of(nn.Sequential(dropout))[0]
    assert isinstance(stage, Drop)
    x, dy = torch.randn(plan.blocks, 3, 5, 4, plan.lanes), torch.ones(plan.blocks, 3, 5, 4, plan.lanes)
    y = stage.forward(x, plan)
    assert stage.backward(dy, (), plan) is dy
    calls = calls_of(plan.planned())
    for seed in (1, 2):
        torch.manual_seed(seed)
        wanted = dropout(x)
        torch.manual_seed(seed)
        dy.fill_(1)
        for call in calls:
            call()
        assert torch.equal(y, wanted)
        assert torch.equal(dy, (y != 0) / 0.75)


def test_weights_that_were_put_elsewhere_are_found() -> None:
    torch.manual_seed(0)
    head = nn.Linear(144, 10)
    model = nn.Sequential(nn.Conv2d(1, 4, 5), nn.MaxPool2d(4), nn.Flatten(), head)
    network, images = NativeBackend(model, NORMALIZATION, F.cross_entropy), _images()
    before = network.forward(images, None)
    assert torch.equal(network.forward(images, None), before)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.data = 2 * parameter.data
    torch.testing.assert_close(network.forward(images, None), 4 * before - head.bias)


def test_blocks_hold_all_pictures_in_order() -> None:
    lanes = Plan(1).lanes
    for count in (1, lanes - 1, lanes, lanes + 1):
        x = torch.randn(count, 3, 4, 5)
        blocks = blocked(x, lanes)
        assert blocks.shape == (Plan(count).blocks, 3, 4, 5, lanes)
        assert torch.equal(pictures_of(blocks, count), x)


def test_kernels_for_plainer_processors_do_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = load_kernels(("-O1", "-fPIC", "-shared"))
    assert plain.lanes() == 8
    monkeypatch.setattr("tinydigits.training.backends.native.stages.load_kernels", lambda: plain)
    torch.manual_seed(0)
    _compare(create_model("tiny-10k"), _images())


def test_training_is_much_the_same_and_repeats_to_the_bit() -> None:
    def losses(backend: str) -> list[float]:
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 4, 5), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(4), nn.Flatten(), nn.Linear(4 * 36, 10)
        )
        task = task_to_learn(RECIPE, backend=backend)
        records = fit(task, start_state(model, task))
        return [record.train_loss for record in records if isinstance(record, Epoch)]

    assert losses("native") == losses("native")
    assert losses("native") == pytest.approx(losses("torch"), rel=1e-3)
    assert losses("native") != losses("torch")  # or nothing was compared


class _Own(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(784, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.flatten(1))  # type: ignore[no-any-return]


class _OwnSequential(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * self[1](self[0](x))  # type: ignore[no-any-return]


@pytest.mark.parametrize("model", [_Own(), _OwnSequential(nn.Flatten(), nn.Linear(784, 10))])
def test_networks_with_a_forward_of_their_own_are_refused(model: nn.Module) -> None:
    with pytest.raises(ConfigError, match=r"one nn.Sequential, and this one is a _Own.*Omit --backend"):
        NativeBackend(model, NORMALIZATION, F.cross_entropy)


def test_other_number_types_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"float32 weights, and here some are torch.float64"):
        NativeBackend(nn.Sequential(nn.Flatten(), nn.Linear(784, 10)).double(), NORMALIZATION, F.cross_entropy)


def test_devices_are_refused() -> None:
    with pytest.raises(ConfigError, match="it works on the CPU. Omit --device or --backend"):
        RunConfig("tiny-10k", get_recipe("fast"), backend="native", device="cuda")


def test_threads_take_shares_with_statistics_of_their_own() -> None:
    """Two threads are two halves of the batch, each with the gradients that it has alone; and so again."""
    torch.manual_seed(0)
    images, labels = _images(40), torch.arange(40) % 10
    model = create_model("tiny-10k")
    state = {name: value.clone() for name, value in model.state_dict().items()}

    def step(threads: int, part: slice, share: float) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        model.load_state_dict(state)
        return _native_step(model, images[part], labels[part], threads, share)

    both, again = step(2, slice(None), 1.0), step(2, slice(None), 1.0)
    first, second = step(1, slice(20), 0.5), step(1, slice(20, 40), 0.5)
    assert torch.equal(both[0], torch.cat([first[0], second[0]]))
    for name, gradient in both[1].items():
        assert torch.equal(gradient, again[1][name])
        torch.testing.assert_close(gradient, first[1][name] + second[1][name])
    for name, buffer in both[2].items():
        if buffer.is_floating_point():
            torch.testing.assert_close(buffer, (first[2][name] + second[2][name]) / 2)
        else:
            assert buffer == 1


def test_threads_and_dropout_are_refused() -> None:
    with pytest.raises(ConfigError, match="2 threads takes networks without dropout, and this one has some"):
        NativeBackend(create_model("era-8k"), NORMALIZATION, F.cross_entropy, 2)


@pytest.fixture
def nothing_loaded() -> None:
    load_kernels.cache_clear()


@pytest.mark.usefixtures("nothing_loaded")
def test_a_compiler_is_needed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.delenv("CC", raising=False)
    arguments = ["train", "--data", "optdigits", "--backend", "native", "--quiet"]
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert "No C compiler is on the PATH" in error
    assert "the native backend is compiled with one. Install gcc" in error


@pytest.mark.usefixtures("nothing_loaded")
def test_a_compiler_that_fails_is_quoted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    compiler = tmp_path / "cc"
    compiler.write_text("#!/bin/sh\necho 'cc: broken today' >&2\nexit 1\n", encoding="utf-8")
    compiler.chmod(0o755)
    monkeypatch.setenv("CC", str(compiler))
    with pytest.raises(
        ToolMissingError, match=r"cannot compile the native backend: cc: broken today\nName gcc or clang"
    ):
        load_kernels()


@pytest.mark.usefixtures("nothing_loaded")
def test_the_library_is_made_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    flags = ("-O0", "-fPIC", "-shared")
    load_kernels(flags)
    (made,) = (tmp_path / "tinydigits" / "backend").iterdir()
    before = made.stat().st_mtime_ns
    load_kernels.cache_clear()
    load_kernels(flags)
    assert made.stat().st_mtime_ns == before
    load_kernels((*flags, "-DOTHER"))
    assert len(list(made.parent.iterdir())) == 2


def test_a_run_says_what_trained_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--data", "optdigits", "--backend", "native", "--epochs", "1", "--out", "run"]) == 0
    assert "1 thread, native backend" in capsys.readouterr().err
    assert library.compiler_version() in (tmp_path / "run" / "environment.json").read_text(encoding="utf-8")
    assert "--backend native" in (tmp_path / "run" / "model.json").read_text(encoding="utf-8")


def test_shapes_are_checked_by_ctypes() -> None:
    """A kernel called with too few arguments is a mistake of ours, and does not reach the C."""
    with pytest.raises((TypeError, ctypes.ArgumentError)):
        load_kernels().relu(0)


def test_stages_are_final() -> None:
    assert all(not kind.__subclasses__() for kind in Stage.__subclasses__())
