"""Where each tensor of a step comes from."""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary
from typing_extensions import override

from lightning_cam.model.output import named_tensors

_log = logging.getLogger(__name__)

# What weighs its input, also where the weights are no parameters any more (gathered, cast, quantized ones).
_WEIGHING = {"linear", "bilinear", "embedding", "multi_head_attention_forward", "module"} | {
    f"conv{kind}{axes}d" for kind in ("", "_transpose") for axes in (1, 2, 3)
}
# What shifts and scales.
_SHIFTING = {
    f"{before}{name}{after}"
    for name in ("add", "sub", "mul", "div", "truediv", "true_divide", "subtract", "multiply", "divide")
    for before, after in (("", ""), ("", "_"), ("__", "__"), ("__i", "__"), ("__r", "__"))
}


@dataclass(frozen=True, eq=False, slots=True)
class Origin:
    """The operation that made a tensor, and what went into it. No tensor is kept.

    Args:
        operation: Name of the torch function or method, "input" for what the step was given, "module" for what a module
            returned by means that are not seen.
        parents: Origins of its tensor arguments, those without an origin (parameters, constants) left out.
        inputs: Names of the inputs that it depends on.
        shape: Of the tensor.
        is_raw: Whether it is made of inputs without any parameter: a normalized image still is, a feature is not.
        arguments: The arguments that are no tensors, in order, and those by name.
    """

    operation: str
    parents: tuple["Origin", ...]
    inputs: frozenset[str]
    shape: tuple[int, ...]
    is_raw: bool
    arguments: tuple[tuple[Any, ...], Mapping[str, Any]] = ((), {})

    def ancestors(self) -> Iterator["Origin"]:
        """This origin and all that it comes from, each once, the newest first."""
        waiting, seen = [self], {id(self)}
        while waiting:
            origin = waiting.pop(0)
            yield origin
            for parent in origin.parents:
                if id(parent) not in seen:
                    seen.add(id(parent))
                    waiting.append(parent)


class Origins(TorchFunctionMode):
    """Notes the origin of every tensor that is made of the inputs while it is active; computes nothing itself.

    Args:
        inputs: Tensors by name.

    Example:
        >>> images = torch.zeros(2, 3, 4, 4)
        >>> with Origins({"images": images}) as origins:
        ...     flipped = images.flip(-1) / 2
        >>> [origin.operation for origin in origins.of(flipped).ancestors()]
        ['div', 'flip', 'input']
    """

    def __init__(self, inputs: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._ran_out: torch.OutOfMemoryError | None = None
        self._origins = WeakIdKeyDictionary()
        for name, tensor in inputs.items():
            self._origins[tensor] = Origin("input", (), frozenset([name]), tuple(tensor.shape), True)

    def of(self, tensor: Any) -> Origin | None:
        """The origin of a tensor; None if it depends on no input."""
        return self._origins.get(tensor) if isinstance(tensor, Tensor) else None

    def note(self, operation: str, result: Any, args: Any, kwargs: Mapping[str, Any]) -> None:
        """Note what an operation or a module made of its arguments."""
        if operation.endswith("_like") or operation.startswith("new_"):  # of the same form, of other values
            return
        given = [tensor for _, tensor in named_tensors((args, dict(kwargs)))]
        parents = tuple(origin for tensor in given if (origin := self.of(tensor)) is not None)
        if not parents:
            return
        inputs = frozenset[str]().union(*(parent.inputs for parent in parents))
        parameters = [tensor for tensor in given if isinstance(tensor, torch.nn.Parameter)]
        weighs = operation in _WEIGHING and not _filters(operation, given)
        weighs |= any(not _normalizes(operation, one, parents) for one in parameters)
        is_raw = not weighs and all(parent.is_raw for parent in parents)
        arguments = tuple(None if isinstance(arg, Tensor) else arg for arg in args), kwargs
        if operation == "__setitem__":
            result = args[0]
        for _, tensor in named_tensors(result):
            if operation == "module" and tensor in self._origins:  # what was done inside of it says more
                continue
            self._origins[tensor] = Origin(operation, parents, inputs, tuple(tensor.shape), is_raw, arguments)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self.before(func, args, kwargs)
        result = func(*args, **kwargs)
        try:
            name = getattr(func, "__name__", "")
            if name == "__get__":  # of a property, such as x.T
                name = getattr(func.__self__, "__name__", "")
            self.note(name, result, args, kwargs)
            self.after(name, result, args, kwargs)
        except Exception as error:  # whatever a tensor of an unusual kind cannot do: the user's step goes on
            self.missed(error)
        return result

    @override
    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        if self._ran_out is not None and error[0] is None:  # what was seen is not all that there was
            raise self._ran_out

    def missed(self, error: Exception) -> None:
        """Something could not be traced, which must not disturb what runs; out of memory is raised at its end."""
        _log.debug("Not followed: %s", error)
        if isinstance(error, torch.OutOfMemoryError):
            self._ran_out = error

    def before(self, func: Any, args: Any, kwargs: Mapping[str, Any]) -> None:
        """Called with each function before it runs."""

    def after(self, name: str, result: Any, args: Any, kwargs: Mapping[str, Any]) -> None:
        """Called with each function after it ran, its result noted."""


def _filters(operation: str, given: list[Tensor]) -> bool:
    """Whether a convolution is a fixed filter of each channel by itself, as a pre-emphasis of sound, or a blur."""
    if not operation.startswith("conv") or len(given) < 2 or isinstance(given[1], torch.nn.Parameter):
        return False
    channels = given[0].shape[1] if given[0].ndim == given[1].ndim else 1
    return given[1].shape[:2] == (channels, 1)


def _normalizes(operation: str, parameter: Tensor, parents: tuple[Origin, ...]) -> bool:
    """Whether a parameter only shifts or scales the channels of images, as a mean or deviation that is held as one."""
    shape = parents[0].shape
    return operation in _SHIFTING and len(shape) == 4 and parameter.numel() in (1, shape[1])
