"""What a normalization layer is, and which axis of its output holds the channels."""

import re

import torch
from torch import Tensor, nn

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_INSTANCE_NORMS = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
OF_MAPS = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_CONVOLUTIONS = (nn.Conv1d, nn.ConvTranspose1d, *OF_MAPS)
_CHANNELS_SECOND = (nn.GroupNorm, nn.SyncBatchNorm, *BATCH_NORMS, *_INSTANCE_NORMS)
KNOWN = (nn.LayerNorm, nn.RMSNorm, nn.LocalResponseNorm, *_CHANNELS_SECOND)
_NAMED = re.compile(r"(?:^|_)(?:norm|ln|layernorm|rmsnorm|bn)(?:$|_|\d)")
PROJECTIONS = (nn.Linear, *_CONVOLUTIONS)
_NO_NORM = (nn.Identity, nn.Dropout, *PROJECTIONS)


def is_norm(name: str, module: nn.Module, input: Tensor | None) -> bool:
    """Tell whether a module normalizes its input.

    Known classes are norms; so are leaves whose class or attribute is called a norm, and leaves with a
    parameter per channel whose output stays when the input is doubled.

    Args:
        name: Qualified name of the module.
        module: The module, in eval mode.
        input: What it was called with in the model, or None if no tensor.
    """
    if isinstance(module, KNOWN):
        return True
    if isinstance(module, _NO_NORM) or next(module.children(), None) is not None:
        return False
    if "norm" in type(module).__name__.lower() or _NAMED.search(name.rpartition(".")[2].lower()):
        return True
    return input is not None and _has_channel_parameter(module, input) and _ignores_scale(module, input)


def _has_channel_parameter(module: nn.Module, input: Tensor) -> bool:
    sizes = {p.numel() for p in module.parameters(recurse=False)}
    return bool(sizes & set(input.shape[1:])) and max(sizes) <= max(input.shape[1:])


def _ignores_scale(module: nn.Module, input: Tensor) -> bool:
    try:
        with torch.no_grad():
            # Not by calling the module: this is asked in its hook.
            once, twice = module.forward(input.clone()), module.forward(2 * input)
    except Exception:  # it takes more than one tensor: a modulation, an adapter
        return False
    return isinstance(once, Tensor) and once.shape == input.shape and torch.allclose(once, twice, 1e-2, 1e-2)


def channel_axis(module: nn.Module, shape: tuple[int, ...]) -> int | None:
    """Axis of a layer's output that holds the channels: 1 or -1, or None if its parameters do not tell.

    Args:
        module: A norm, or any other layer.
        shape: Shape of its output.
    """
    if isinstance(module, (*_CHANNELS_SECOND, *_CONVOLUTIONS)):
        return 1 if len(shape) > 2 else -1
    if isinstance(module, nn.Linear):
        return -1
    if isinstance(module, (nn.LayerNorm, nn.RMSNorm)) and type(module).forward in (
        nn.LayerNorm.forward,
        nn.RMSNorm.forward,
    ):
        return -1
    counts = {p.numel() for p in module.parameters(recurse=False)}
    found = [axis for axis in (1, len(shape) - 1) if shape[axis] in counts]
    if len(set(found)) == 1:
        return 1 if found[0] == 1 and len(shape) > 2 else -1
    return None
