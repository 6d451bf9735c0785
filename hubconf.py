"""The networks for torch.hub: `torch.hub.load("…", "tiny_10k", pretrained=True)`.

Each entry is a model of the zoo; `pretrained=True` loads its shipped weights, if there are any, and other keyword
arguments are the model's own options. Networks take float32 [N, 1, 28, 28], light ink on black, pixels as
(x / 255 − 0.1307) / 0.3081, and give logits [N, 10].
"""

import sys as _sys
from collections.abc import Callable as _Callable
from pathlib import Path as _Path
from typing import Any as _Any

try:
    import tinydigits as _tinydigits
except ImportError:  # not installed: then from beside this file
    _sys.path.append(str(_Path(__file__).parent / "src"))
    import tinydigits as _tinydigits

dependencies = ["torch", "numpy", "safetensors"]


def _entry(name: str) -> _Callable[..., _Any]:
    def build(pretrained: bool = False, **options: _Any) -> _Any:
        model = _tinydigits.create_model(name, pretrained=pretrained, **options)
        return model.eval() if pretrained else model

    build.__name__ = build.__qualname__ = name.replace("-", "_")
    build.__doc__ = f"{name}, with its shipped weights if pretrained. float32 [N, 1, 28, 28] → logits [N, 10]."
    return build


globals().update({_name.replace("-", "_"): _entry(_name) for _name in _tinydigits.list_models()})
