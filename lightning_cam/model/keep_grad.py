"""Keep gradients where the user's code switches them off, but never in tensors that the model keeps."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lightning_cam.model.output import Forward, forward_of_rows
from lightning_cam.model.private import function_modes_off, switches_grad
from lightning_cam.model.untouched import held_tensors

_WRITING_OPERATORS = {"__setitem__"} | {
    f"__i{name}__"
    for name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "and", "or", "xor", "lshift", "rshift")
}


class KeepGrad(TorchFunctionMode):
    """Ignores every switch of the grad mode: a frozen backbone run under `no_grad` still gets a graph.

    What is written into tensors that the model holds (running statistics, queues, counts of experts) is written without
    gradients: the graph lies between the layers and the output, and nothing that outlives the pass is part of it.

    Args:
        model: The module that is run.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._held = {place for tensor in held_tensors(model) if (place := _place(tensor))}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if switches_grad(func):
            return None
        if any(_place(tensor) in self._held for tensor in _written(func, args, kwargs)):
            with function_modes_off(), torch.no_grad():
                return func(*args, **kwargs)
        return func(*args, **kwargs)


class WithGraphWhereNeeded:
    """`forward` that runs as the caller has gradients, and with a graph from the images on where that fails.

    Models that hang hooks on their own tensors, or call `retain_grad`, cannot run without.
    """

    def __init__(self, forward: Forward) -> None:
        self._forward = forward

    def __call__(self, images: Tensor) -> Any:
        """Run it."""
        try:
            return self._forward(images)
        except RuntimeError as error:
            if "grad" not in str(error) or (images.requires_grad and torch.is_grad_enabled()):
                raise
        before = torch.is_grad_enabled()
        _set_grad_enabled(True)
        try:
            return self._forward(images.detach().requires_grad_())
        finally:
            _set_grad_enabled(before)

    def of_rows(self, index: Tensor | slice) -> Forward:
        """The same for images that belong to these rows."""
        return WithGraphWhereNeeded(forward_of_rows(self._forward, index))


class ThroughDetach:
    """`forward` whose `detach()` keeps the graph: for heads that are trained on features that are not.

    What a model detaches inside of itself (a straight-through estimate) would be changed too, so it is only for outputs
    that have no gradient otherwise, and for detectors, whose queries may be detached copies of tokens. No number of the
    forward differs.
    """

    def __init__(self, forward: Forward) -> None:
        self._forward = forward

    def __call__(self, images: Tensor) -> Any:
        """Run it."""
        with _NoDetach():
            return self._forward(images)

    def of_rows(self, index: Tensor | slice) -> Forward:
        """The same for images that belong to these rows."""
        return ThroughDetach(forward_of_rows(self._forward, index))


class _NoDetach(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (Tensor.detach, torch.detach):
            return args[0].view_as(args[0])
        return func(*args, **(kwargs or {}))


def _set_grad_enabled(mode: bool) -> None:
    with function_modes_off():  # or `KeepGrad` would swallow this too
        torch.set_grad_enabled(mode)


def _written(func: Any, args: Any, kwargs: Any) -> Iterator[Tensor]:
    """The tensors that a call writes to."""
    name = getattr(func, "__name__", "")
    in_place = name in _WRITING_OPERATORS or (name.endswith("_") and not name.endswith("__"))
    for target in (*(args[:1] if in_place else ()), kwargs.get("out")):
        yield from (part for part in (target if isinstance(target, (tuple, list)) else (target,)) if _is_tensor(part))


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor)


def _place(tensor: Tensor) -> int:
    """Where a tensor's storage lies, also that of a view; 0 where there is none (sparse, nested, lazy, wrappers)."""
    try:
        return tensor.untyped_storage().data_ptr()
    except (RuntimeError, NotImplementedError, ValueError):
        return 0
