"""Make a freshly initialized model behave like a trained one during a look."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lightning_cam.model.private import is_flattened, is_partitioned, parameters_of
from lightning_cam.resolve.norms import BATCH_NORMS

_SPREAD = 0.2
_NEXT_TO_ZERO = 1e-5  # weights that start below, as at 1e-10, block gradients as zeros do, or drive them below float32


@contextmanager
def jittered(model: nn.Module) -> Iterator[None]:
    """Replace each parameter that is constant, or next to zero, by noise around its value while the body runs.

    Heads, gammas and layer scales that start at zero or near it block every gradient and every signal, although
    the trained model will let them through. The parameters themselves are not written to: others stand in. Where
    parameters are split over ranks nothing is replaced.

    Args:
        model: A model whose parameters do not need gradients at the moment.
    """
    generator = torch.Generator().manual_seed(3)
    stand_ins: dict[nn.Parameter, nn.Parameter] = {}
    swapped: list[tuple[nn.Module, str, nn.Parameter]] = []
    try:
        for module in () if _is_split(model) else model.modules():
            for name, parameter in parameters_of(module).items():
                # A zero bias blocks nothing; noise there would drown a signal that small weights leave faint.
                if parameter is None or name.endswith("bias") or not _blocks(parameter):
                    continue
                if parameter not in stand_ins:
                    noise = torch.randn(parameter.shape, generator=generator).to(parameter)
                    # Of a matrix that is not constant by design, what it may grow to: as wide as it came out of Xavier.
                    spread = _SPREAD if _constant(parameter) else parameter[0].numel() ** -0.5
                    stand_ins[parameter] = nn.Parameter(parameter + spread * noise, requires_grad=False)
                parameters_of(module)[name] = stand_ins[parameter]
                swapped.append((module, name, parameter))
        yield
    finally:
        for module, name, parameter in swapped:
            parameters_of(module)[name] = parameter


def calibrate(model: nn.Module, forward: Callable[[Tensor], Any], images: Tensor) -> None:
    """Give batch norms that never saw a batch the statistics of these images, in one forward.

    With the mean 0 and variance 1 they start with, they normalize nothing: in a deep model with random weights
    the image is lost on the way. The caller puts the buffers back.

    Args:
        model: A model in eval mode.
        forward: What to call.
        images: (B, C, H, W).
    """
    fresh = [
        module
        for module in model.modules()
        if isinstance(module, BATCH_NORMS)  # a synchronized one would wait for ranks that do not look
        and module.running_mean is not None
        and module.running_var is not None
        and not module.running_mean.is_meta
        and not module.running_mean.any()
        and bool((module.running_var == 1).all())
    ]
    if not fresh:
        return
    momenta = [module.momentum for module in fresh]
    for module in fresh:
        module.training, module.momentum = True, 1.0
    with torch.no_grad():
        forward(images)
    for module, momentum in zip(fresh, momenta, strict=True):
        module.training, module.momentum = False, momentum


def _is_split(model: nn.Module) -> bool:
    """Whether FSDP, DeepSpeed or tensor parallelism hold the parameters and put them into modules by themselves."""
    classes = {cls.__name__ for module in model.modules() for cls in type(module).__mro__}
    classes |= {type(parameter).__name__ for parameter in model.parameters()}
    return bool(classes & {"FSDPModule", "FullyShardedDataParallel", "DTensor"}) or any(
        is_partitioned(parameter) or is_flattened(parameter) for parameter in model.parameters()
    )


def _blocks(parameter: nn.Parameter) -> bool:
    """Whether a parameter is constant or next to zero; one whose values cannot be asked for is neither."""
    # A subclass, such as a quantized weight, may hold no values to ask for; a lazy parameter has none yet, and one that
    # is offloaded lies elsewhere.
    is_plain = type(parameter) is nn.Parameter and parameter.layout is torch.strided and not parameter.is_meta
    if not is_plain or parameter.numel() == 0 or not parameter.is_floating_point():
        return False
    return _constant(parameter) or bool(parameter.abs().max() < _NEXT_TO_ZERO)


def _constant(parameter: nn.Parameter) -> bool:
    low, high = parameter.aminmax()
    return bool(low == high)
