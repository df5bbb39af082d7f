"""Class activation maps of vision transformers and convolutional networks during a Lightning training.

Names are imported on first use, so that the TensorBoard plugin of this package loads without torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_cam.explanation import Explanation, explain
    from lightning_cam.methods import METHODS, register_method
    from lightning_cam.model.untouched import untouched
    from lightning_cam.resolve import TargetLayer, find_target_layers
    from lightning_cam.resolve.layout import TokenLayout
    from lightning_cam.timeline import read_timeline
    from lightning_cam.training.callback import TransformerCAMCallback
    from lightning_cam.training.probe import ProbeBatch

__version__ = "0.1.0"

_HOME = {
    "TransformerCAMCallback": "training.callback",
    "Explanation": "explanation",
    "explain": "explanation",
    "TokenLayout": "resolve.layout",
    "METHODS": "methods",
    "register_method": "methods",
    "ProbeBatch": "training.probe",
    "TargetLayer": "resolve",
    "find_target_layers": "resolve",
    "untouched": "model.untouched",
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
