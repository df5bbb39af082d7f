"""Class activation maps of vision transformers, followed over a Lightning training.

Names are imported on first use, so that the TensorBoard plugin of this package loads without torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_cam.callback import TransformerCAMCallback
    from lightning_cam.explanation import Explanation, explain
    from lightning_cam.layout import TokenLayout
    from lightning_cam.methods import METHODS, register_method
    from lightning_cam.probe import ProbeBatch
    from lightning_cam.resolve import TargetLayer, find_target_layers
    from lightning_cam.state import untouched
    from lightning_cam.timeline import read_timeline

_HOME = {
    "TransformerCAMCallback": "callback",
    "Explanation": "explanation",
    "explain": "explanation",
    "TokenLayout": "layout",
    "METHODS": "methods",
    "register_method": "methods",
    "ProbeBatch": "probe",
    "TargetLayer": "resolve",
    "find_target_layers": "resolve",
    "untouched": "state",
    "read_timeline": "timeline",
}

__all__ = [
    "METHODS",
    "Explanation",
    "ProbeBatch",
    "TargetLayer",
    "TokenLayout",
    "TransformerCAMCallback",
    "explain",
    "find_target_layers",
    "read_timeline",
    "register_method",
    "untouched",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
