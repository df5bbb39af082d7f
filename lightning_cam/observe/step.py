"""Observe one step of the user while it runs: the calls of its networks, and what reads their outputs."""

from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary
from typing_extensions import Self, override

from lightning_cam.model.output import mapped, named_tensors
from lightning_cam.model.private import function_modes_off, is_flattened, is_part_of_flat, is_partitioned
from lightning_cam.observe.consumers import Consumed, read_by_hand, read_by_loss, read_by_module, read_in_tables
from lightning_cam.observe.origins import Origin, Origins


@dataclass(eq=False)
class NetworkCall:
    """A call of a module that was given images: what it got, and where what it returned comes from.

    Args:
        module: The module.
        number: Which of its calls in the step it was, from 0 on.
        args: What it was given, tensors cloned.
        kwargs: What it was given by name, likewise.
        pictures: Which of its tensors, in the order of `named_tensors`, are images (B, C, H, W): inputs of the step, or
            made of them without weights; or (B, H, W), if what is called makes (B, 1, H, W) of them; or volumes and
            videos, of five axes.
        given: Origins of its tensors, in that order; None for those that depend on no input.
        within: The network calls that it happened in, outermost first.
        returned: Origins of the tensors that it returned, in that order.
        names: What these tensors stand under, "" for those without a name.
    """

    module: nn.Module
    number: int
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    pictures: list[int]
    given: list[Origin | None]
    within: tuple["NetworkCall", ...]
    returned: list[Origin | None] = field(default_factory=list)
    names: list[str] = field(default_factory=list)


class StepObserver(Origins):
    """Sees what a step does with its inputs while it is active; changes nothing, and keeps no activations.

    Args:
        root: The module whose submodules are listened to, itself included.
        inputs: The step's tensors by name.
        redirected: Whether the root's first call is the step itself, as a wrapper for several ranks makes it.
        on_consumed: Is called with each consumer as it is found, before it runs.

    Attributes:
        calls: The calls of networks, in order.
        consumed: What losses and metrics read, in order.
        losses: Names of the modules without parameters that were given outputs and returned one number, in order.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(12, 5))
        >>> images, labels = torch.zeros(2, 3, 2, 2), torch.ones(2)
        >>> with StepObserver(model, {"images": images, "labels": labels}) as seen:
        ...     _ = nn.functional.cross_entropy(model(images / 255), labels.long())
        >>> [type(call.module).__name__ for call in seen.calls], [one.by for one in seen.consumed]
        (['Sequential', 'Flatten'], ['cross_entropy'])
    """

    def __init__(
        self,
        root: nn.Module,
        inputs: Mapping[str, Tensor],
        *,
        redirected: bool = False,
        on_consumed: Callable[[Consumed], None] | None = None,
    ) -> None:
        super().__init__(inputs)
        self._root, self._redirected, self._on_consumed = root, redirected, on_consumed
        # What masks over texts are made of, which have four axes as images do.
        self._numbers_alone = {
            name for name, tensor in inputs.items() if tensor.ndim < 3 and not tensor.is_floating_point()
        }
        self._compares = not redirected  # a wrapper for several ranks may move weights by itself
        self._weights: dict[nn.Module, dict[str, int]] = {}  # where those of networks lay when they were called
        self._written: nn.Module | None = None  # a network whose weights were written to after that
        self._hooks = ExitStack()
        self._open: list[NetworkCall] = []
        self._parts: list[tuple[nn.Module, int, list[tuple[str, Tensor]]]] = []  # open ones without parameters
        self._numbers: Counter[nn.Module] = Counter()
        self._active: Counter[nn.Module] = Counter()
        self._wholes = WeakIdKeyDictionary()  # of what was selected: all of it, and which was
        self.calls: list[NetworkCall] = []
        self.consumed: list[Consumed] = []
        self.losses: list[str] = []

    @override
    def __enter__(self) -> Self:
        enter, leave = _Quiet(self._enter_module, self.missed), _Quiet(self._leave_module, self.missed)
        for module in self._root.modules():
            if not isinstance(module, torch.jit.RecursiveScriptModule):  # which takes no hooks
                self._hooks.callback(module.register_forward_pre_hook(enter, with_kwargs=True).remove)
                self._hooks.callback(module.register_forward_hook(leave, with_kwargs=True).remove)
        super().__enter__()
        return self

    @override
    def __exit__(self, *error: Any) -> None:
        self._hooks.close()
        super().__exit__(*error)

    def times(self, module: nn.Module) -> int:
        """How often a module was called."""
        return self._numbers[module]

    def other_weights(self) -> nn.Module | None:
        """A network that was called with other weights than it has now, if there is one."""
        for module, before in self._weights.items():
            now = _places_of_weights(module)  # one that is sharded, or had no size, is not there at both times
            if any(now.get(name, place) != place for name, place in before.items()):
                return module
        return self._written

    def _enter_module(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        if self._redirected and module is self._root:
            self._redirected = False
            return
        self._active[module] += 1
        if self._active[module] > 1:  # within itself, as a wrapper for several ranks calls it
            return
        number = self._numbers[module]
        self._numbers[module] += 1
        tensors = [tensor for _, tensor in named_tensors((args, kwargs))]
        given = [self.of(tensor) for tensor in tensors]
        raw = [
            index
            for index, origin in enumerate(given)
            if origin is not None and origin.is_raw and not origin.inputs <= self._numbers_alone
        ]
        pictures = [index for index in raw if tensors[index].ndim == 4]
        weighs = next(module.parameters(), None) is not None
        if not pictures and weighs:
            floating = [index for index in raw if tensors[index].is_floating_point()]
            volumes = [index for index in floating if tensors[index].ndim == 5]
            pictures = volumes or [index for index in floating if tensors[index].ndim == 3]
        compares = not weighs and any(origin is not None and not origin.is_raw for origin in given)
        if pictures and not compares:  # a loss may be given true masks, which have the form of images
            args, kwargs = mapped((args, kwargs), _kept)
            call = NetworkCall(module, number, args, kwargs, pictures, given, tuple(self._open))
            if not self._open and self._compares:
                self._weights.setdefault(module, _places_of_weights(module))
            self.calls.append(call)
            self._open.append(call)
        elif not weighs:
            self._parts.append((module, len(self.consumed), []))

    def _leave_module(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        self.note("module", output, args, kwargs)
        self._active[module] -= 1
        if self._active[module] > 0:
            return
        if self._open and self._open[-1].module is module:
            call = self._open.pop()
            if len(_shape(call, call.pictures[0])) == 3 and not self._gives_channels(call):
                self._pass_over(call)
                return
            call.returned = [self.of(tensor) for _, tensor in named_tensors(output)]
            call.names = [name for name, _ in named_tensors(output)]
        elif self._parts and self._parts[-1][0] is module:
            _, before, operations = self._parts.pop()
            if not self._open and _is_loss(output):
                self.losses.append(type(module).__name__)
            known = any(one.rank != 2 for one in self.consumed[before:])  # a loss inside of it says more
            if not known and not self._open and _is_loss(output):
                self._add(read_by_module(type(module).__name__, args, kwargs, operations, self.of))

    def _gives_channels(self, call: NetworkCall) -> bool:
        """Whether another call inside is given an image of this call, (B, H, W), as (B, 1, H, W), in any order."""
        inner = [other for other in self.calls if call in other.within and len(_shape(other, other.pictures[0])) == 4]
        mine = call.given[call.pictures[0]]
        origins = [origin for other in inner if (origin := other.given[other.pictures[0]]) is not None]
        return mine is not None and any(
            torch.Size(origin.shape).numel() == torch.Size(mine.shape).numel()
            and min(origin.shape[-2:]) > 1
            and any(before is mine for before in origin.ancestors())
            for origin in origins
        )

    def _pass_over(self, call: NetworkCall) -> None:
        """Take a call for none of a network."""
        self.calls.remove(call)
        for other in self.calls:
            other.within = tuple(outer for outer in other.within if outer is not call)

    @override
    def before(self, func: Any, args: Any, kwargs: Mapping[str, Any]) -> None:
        try:
            name = getattr(func, "__name__", "")
            found = read_by_loss(name, args, kwargs, self.of)
            if found is None and not self._open and not self._parts:
                found = read_by_hand(name, args, self.of)
            elif found is None and (inside := read_in_tables(name, args, self.of)) is not None:
                found = inside
            elif found is None and self._parts and args and isinstance(args[0], Tensor):
                self._parts[-1][2].append((name, args[0]))
        except Exception as error:  # an argument of an unusual kind
            self.missed(error)
            return
        self._add(found)

    @override
    def after(self, name: str, result: Any, args: Any, kwargs: Mapping[str, Any]) -> None:
        if name in ("__getitem__", "masked_select") and isinstance(args[1], Tensor) and args[0].ndim < 3:
            origin = self.of(args[0])
            if origin is not None and not origin.is_raw:
                self._wholes[result] = args[0], args[1]
        if name in ("copy_", "_foreach_copy_"):
            places = {tensor.data_ptr() for _, tensor in named_tensors(args[0])}
            called = (one for one, weights in self._weights.items() if not places.isdisjoint(weights.values()))
            self._written = next(called, self._written)

    def _add(self, found: Consumed | None) -> None:
        if found is None:
            return
        if found.output in self._wholes:
            whole, chosen = self._wholes[found.output]
            origin = self.of(whole)
            assert origin is not None
            found = found.of_all(whole, origin, chosen)
        elif found.output.ndim == 0:  # of one image, squeezed
            target = None if found.target is None else found.target.reshape(-1)
            found = replace(found, output=found.output.reshape(1), target=target)
        self.consumed.append(found)
        if self._on_consumed is not None:
            self._on_consumed(found)


def _shape(call: NetworkCall, index: int) -> tuple[int, ...]:
    origin = call.given[index]
    assert origin is not None  # of a picture
    return origin.shape


def _kept(leaf: Any) -> Any:
    return leaf.detach().clone() if isinstance(leaf, Tensor) else leaf


def _places_of_weights(module: nn.Module) -> dict[str, int]:
    """Where the parameters lie in memory, those that are whole on this rank, by name."""
    return {
        name: parameter.data_ptr()
        for name, parameter in module.named_parameters()
        if type(parameter) in (Tensor, nn.Parameter)
        and parameter.numel()
        and not (is_flattened(parameter) or is_part_of_flat(parameter) or is_partitioned(parameter))
    }


def _is_loss(output: Any) -> bool:
    return isinstance(output, Tensor) and output.ndim <= 1


class _Quiet:
    """A hook that cannot disturb the step that it listens to, and that stays behind when the model is copied."""

    def __init__(self, note: Callable[..., None], missed: Callable[[Exception], None]) -> None:
        self._note, self._missed = note, missed

    def __call__(self, *given: Any) -> None:
        try:
            with function_modes_off():  # what is asked of tensors here is no part of the step
                self._note(*given)
        except Exception as error:
            self._missed(error)

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return _Deaf, ()


class _Deaf:
    """What a copy of the model gets in place of a hook."""

    def __call__(self, *given: Any) -> None:
        return None
