"""What others train on MNIST, written from their published settings: contenders of benchmarks/training.py.

As a process, `python -m benchmarks.peers NAME` trains on MNIST and prints one line of JSON.

Each is a plain eager loop over normalized tensors that lie in memory, with PyTorch's own layers and optimisers. Their
scripts read pictures one by one in a DataLoader and judge after each epoch, which takes longer; here both are left out.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tinydigits.data.normalize import Normalization
from tinydigits.data.sources import load_dataset
from tinydigits.models.factory import create_model
from tinydigits.models.layers import Dropout

MEAN, STD = 0.1307, 0.3081


@dataclass(frozen=True)
class Peer:
    """A network with its whole recipe; after each epoch the learning rate is multiplied by `factor`."""

    model: Callable[[], nn.Module]
    epochs: int
    batch_size: int
    optimizer: Callable[[nn.Module], torch.optim.Optimizer]
    factor: float = 1.0


def pytorch_example() -> nn.Module:
    """The network of pytorch/examples `mnist`: 1,199,882 parameters. [N, 1, 28, 28] → [N, 10] logits."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3), nn.ReLU(),                                       # [N, 32, 26, 26]
        nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.25),   # [N, 64, 12, 12]
        nn.Flatten(), nn.Linear(9216, 128), nn.ReLU(), nn.Dropout(0.5),       # [N, 128]
        nn.Linear(128, 10),                                                   # [N, 10]
    )  # fmt: skip


def plain_network(name: str) -> nn.Module:
    """A network of the zoo as anybody would write it: with PyTorch's dropout."""
    model = create_model(name)
    for parent in list(model.modules()):
        for child, module in parent.named_children():
            if isinstance(module, Dropout):
                setattr(parent, child, nn.Dropout(module.p))
    return model


PEERS = {
    "pytorch-example": Peer(
        pytorch_example, 14, 64, lambda model: torch.optim.Adadelta(model.parameters(), lr=1.0), factor=0.7
    ),
    "layered-19k": Peer(
        lambda: plain_network("layered-19k"),
        19,
        128,
        lambda model: torch.optim.SGD(model.parameters(), lr=0.015, momentum=0.9),
    ),
}


def train_peer(peer: Peer, epochs: int, count: int) -> dict[str, Any]:
    """Train on the first `count` digits, then read the test digits once.

    Returns:
        `accuracy` on them, and `epoch_seconds`, what each epoch took.
    """
    torch.manual_seed(0)
    data = load_dataset("mnist")
    images = Normalization(MEAN, STD).array(data.train.images[:count])
    labels = torch.from_numpy(data.train.labels[:count]).long()
    model = peer.model()
    optimizer = peer.optimizer(model)
    seconds = []
    for _ in range(epochs):
        start = time.perf_counter()
        train_epoch(model, optimizer, images, labels, peer.batch_size)
        seconds.append(time.perf_counter() - start)
        for group in optimizer.param_groups:
            group["lr"] *= peer.factor
    model.eval()
    with torch.inference_mode():
        digits = Normalization(MEAN, STD).array(data.test.images)
        answers = torch.cat([model(batch).argmax(dim=1) for batch in digits.split(1000)])
    right = (answers == torch.from_numpy(data.test.labels).long()).sum()
    return {"accuracy": int(right) / len(data.test.labels), "epoch_seconds": seconds}


def train_epoch(
    model: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor, batch_size: int
) -> None:
    """One pass over images [N, 1, 28, 28] in random order."""
    model.train()
    for batch in torch.randperm(len(labels)).split(batch_size):
        optimizer.zero_grad()
        F.cross_entropy(model(images[batch]), labels[batch]).backward()
        optimizer.step()


def main() -> None:
    """Train one, and say what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=PEERS)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--digits", type=int, default=60_000, help="train on the first of them only")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    peer = PEERS[arguments.name]
    print(json.dumps(train_peer(peer, arguments.epochs or peer.epochs, arguments.digits)))


if __name__ == "__main__":
    main()
