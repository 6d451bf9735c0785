"""Arguments that several commands share, so that they mean and read the same everywhere."""

import argparse
from pathlib import Path

DEFAULT_MODEL = "tiny-10k"


def add_model(
    parser: argparse.ArgumentParser, what: str = "a name from `tinydigits models`, or your own net.py:Net"
) -> None:
    """MODEL, in most commands a zoo name or the user's own network; None when it is left out."""
    parser.add_argument(
        "model",
        nargs="?",
        metavar="MODEL",
        help=f"{what} (default: {DEFAULT_MODEL})",
    )


def add_data(parser: argparse.ArgumentParser) -> None:
    """--data and --data-dir; None when they are left out."""
    parser.add_argument("--data", metavar="D", help="auto, mnist, optdigits, or folder:PATH (default: auto)")
    parser.add_argument("--data-dir", metavar="DIR", type=Path, help="where the MNIST files lie")


def add_protocol(parser: argparse.ArgumentParser) -> None:
    """--protocol; None when it is left out."""
    parser.add_argument(
        "--protocol",
        choices=("tune", "final"),
        help="tune: judge by held-out training digits; final: by the test digits (default: final)",
    )


def add_device(parser: argparse.ArgumentParser) -> None:
    """--device and --threads; None when they are left out."""
    parser.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"), help="where to compute (default: auto)")
    parser.add_argument("--threads", metavar="N", type=int, help="threads on the CPU (default: one per core)")


def add_json(parser: argparse.ArgumentParser) -> None:
    """--json."""
    parser.add_argument("--json", action="store_true", help="print one JSON document on stdout and nothing else there")
