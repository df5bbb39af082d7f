"""Make a freshly built model behave like a trained one for the time of a look."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

_SPREAD = 0.2


@contextmanager
def jittered(model: nn.Module) -> Iterator[None]:
    """Replace each constant parameter by noise around its value while the body runs.

    Heads, gammas and layer scales that start at zero or near it block every gradient and every signal, although
    the trained model will let them through. The parameters themselves are not written to: others stand in.

    Args:
        model: A model whose parameters do not need gradients at the moment.
    """
    generator = torch.Generator().manual_seed(3)
    stand_ins: dict[nn.Parameter, nn.Parameter] = {}
    swapped: list[tuple[nn.Module, str, nn.Parameter]] = []
    try:
        for module in model.modules():
            for name, parameter in module._parameters.items():
                if parameter is None or not parameter.is_floating_point() or not _constant(parameter):
                    continue
                if parameter not in stand_ins:
                    noise = torch.randn(parameter.shape, generator=generator).to(parameter)
                    stand_ins[parameter] = nn.Parameter(parameter + _SPREAD * noise, requires_grad=False)
                module._parameters[name] = stand_ins[parameter]
                swapped.append((module, name, parameter))
        yield
    finally:
        for module, name, parameter in swapped:
            module._parameters[name] = parameter


def _constant(parameter: nn.Parameter) -> bool:
    low, high = parameter.aminmax()
    return bool(low == high)
