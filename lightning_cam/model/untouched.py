"""Restore a model to its earlier state, whatever happens in between."""

import random
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, is_lazy
from torch.overrides import TorchFunctionMode

from lightning_cam.model.private import (
    PARAMETERS,
    backward_hooks_of,
    checkpointing_off,
    global_backward_hooks_off,
    is_flattened,
    is_part_of_flat,
    take_off_output_guard,
)
from lightning_cam.model.signals import signals_deferred

_MOST_ELEMENTS = 100_000  # of containers that are looked through for tensors; a list of files can be longer


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Run the body and restore the state of `model` and every random generator, even when the body raises.

    Restored are, for each module: its attributes (including `training`, flags, hooks, caches and nested containers),
    the values of its buffers and of tensors it holds as attributes, none of which keeps the graph of the body, and the
    states of generators it holds; for each parameter: `.grad` and `requires_grad`; and the states of Python's, NumPy's
    and torch's random generators. Parameter values are not copied: nothing may write to them. Gradients are set aside
    (None) while the body runs. All of this is saved before anything is changed.

    Args:
        model: Any module, on any device.

    Raises:
        torch.OutOfMemoryError: A second copy of the buffers does not fit in memory. The model is unchanged.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.BatchNorm1d(2))
        >>> with untouched(model):
        ...     _ = model.eval().register_forward_hook(print)
        >>> model[0].training, len(model._forward_hooks)
        (True, 0)
    """
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
    with random_states_kept(devices), ExitStack() as stack:  # which goes on with the others if one raises
        restores = [*map(_attributes, model.modules())]
        flags = [(p, p.requires_grad) for p in model.parameters()]
        # FSDP would take a gradient that is gone from a part of a flat parameter for one that is to be zeroed.
        gradients = [(p, p.grad) for p in model.parameters() if not is_flattened(p)]
        for restore in restores:
            stack.callback(restore)
        stack.callback(_restore_gradients, flags, gradients)
        for parameter, _ in gradients:
            parameter.grad = None
        yield


@contextmanager
def random_states_kept(devices: Iterable[torch.device] = ()) -> Iterator[None]:
    """Let Python's, NumPy's and torch's generators, and those of CUDA `devices`, be after the body as before it."""
    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cuda = {device: torch.cuda.get_rng_state(device) for device in devices}
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(cpu)
        for device, state in cuda.items():
            torch.cuda.set_rng_state(state, device)


@contextmanager
def replaced(holder: object, attribute: str, value: Any) -> Iterator[None]:
    """Let `holder` have `value` as an attribute of its own while the body runs."""
    before = vars(holder).copy()
    vars(holder)[attribute] = value
    try:
        yield
    finally:
        if attribute in before:
            vars(holder)[attribute] = before[attribute]
        else:
            del vars(holder)[attribute]


@contextmanager
def as_written() -> Iterator[None]:
    """Run code of models as it is written: neither compiled nor under activation checkpointing.

    Compiled code would not call hooks, and checkpoints would call them twice. Neither changes a number beyond rounding,
    and compiled code is kept for later.
    """
    # Importing dynamo takes seconds, and without it nothing is compiled.
    eager = torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()
    with checkpointing_off(), _NoFastPath(), eager:
        yield


class _NoFastPath(TorchFunctionMode):
    """Changes nothing, and so keeps `nn.TransformerEncoder` from its fused kernels and nested tensors.

    It takes them in evaluation, where nobody overrides functions; they call no submodule, and hooks on some layers only
    make it fail.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


@contextmanager
def looking(model: nn.Module) -> Iterator[None]:
    """Let the body run and differentiate the model as in evaluation, and leave it untouched.

    It holds in every grad, inference or compile mode of the caller. Backward hooks of the user are not called. Signals
    wait, Ctrl-C for the next `stop_if_interrupted`.
    """
    with signals_deferred(), torch.inference_mode(False), untouched(model), as_written(), global_backward_hooks_off():
        for module in model.modules():
            module.training = False
            take_off_output_guard(module)
            for hooks in backward_hooks_of(module):  # they would count and clip gradients that are not the training's
                hooks.clear()
        for parameter in model.parameters():
            if parameter.requires_grad and not is_lazy(
                parameter
            ):  # or the graph would hold what only their gradients need
                parameter.requires_grad_(False)
        yield


def held_tensors(model: nn.Module) -> Iterator[Tensor]:
    """Buffers and tensors that the modules hold as attributes, also in containers: what outlives a forward pass."""
    for module in model.modules():
        values = [value for key, value in vars(module).items() if key != PARAMETERS and _may_hold(value)]
        yield from (value for value in _leaves(values, []) if isinstance(value, Tensor))


def _may_hold(value: Any) -> bool:
    return isinstance(value, Tensor) or (isinstance(value, _NESTED) and len(value) > 0)


def _restore_gradients(
    flags: list[tuple[nn.Parameter, bool]], gradients: list[tuple[nn.Parameter, Tensor | None]]
) -> None:
    for parameter, requires_grad in flags:
        if parameter.requires_grad != requires_grad:  # an inference tensor may not even be asked for the same
            parameter.requires_grad_(requires_grad)
    for parameter, gradient in gradients:
        parameter.grad = gradient


def _attributes(module: nn.Module) -> Callable[[], None]:
    # FSDP swaps parameters in their dictionary by itself; putting old ones back would contradict its own state.
    attributes = {key: value for key, value in vars(module).items() if key != PARAMETERS and not is_part_of_flat(value)}
    containers: list[tuple[Any, Any]] = []
    held = [value for value in _leaves(list(attributes.values()), containers) if not isinstance(value, nn.Parameter)]
    keepers = ((value, next((keep for cls, keep in _KEEPERS if isinstance(value, cls)), None)) for value in held)
    contents = [keep(value) for value, keep in keepers if keep is not None]
    training = module.training  # no attribute in Python, if the module is scripted

    def restore() -> None:
        for key in vars(module).keys() - attributes.keys() - {PARAMETERS}:
            if not is_part_of_flat(vars(module)[key]):
                del vars(module)[key]
        vars(module).update(attributes)
        for container, content in containers:
            _refill(container, content)
        if module.training != training:
            module.training = training
        with ExitStack() as stack:  # which goes on with the others if one raises
            for put_back in contents:
                stack.callback(put_back)

    return restore


def _leaves(values: Iterable[Any], containers: list[tuple[Any, Any]]) -> Iterator[Any]:
    """What values hold that may change, through containers within containers.

    These are added to `containers`, each with a copy.
    """
    waiting, seen, left = deque(values), set[int](), _MOST_ELEMENTS
    while waiting:
        value = waiting.popleft()
        if type(value) in _WITHOUT_STATE:  # most are, and a model has many thousands
            continue
        if not isinstance(value, _NESTED):
            yield value
        elif id(value) not in seen:
            seen.add(id(value))
            if not isinstance(value, tuple):
                containers.append((value, value.copy()))
            inner = value.values() if isinstance(value, dict) else value
            waiting.extend(islice(inner, left))
            left -= min(left, len(value))


def _keep_tensor(tensor: Tensor) -> Callable[[], None]:
    """Remember where a tensor lies and its value; written is only what changed.

    Some cannot be written to, as views of read-only files, and a graph of the user's may hold the tensor: it is written
    past the counter of versions. A graph of the body's is cut off.
    """
    is_odd = tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_nested
    is_plain = type(tensor) is Tensor and not is_odd
    graph, requires_grad = tensor.grad_fn, tensor.requires_grad
    with torch.inference_mode(tensor.is_inference()):
        place, own = tensor.data, tensor.data
        for axis, stride in enumerate(tensor.stride() if is_plain else ()):
            if stride == 0 and own.shape[axis]:  # expanded: many elements are one
                own = own.narrow(axis, 0, 1)
        value = own.clone()

    def restore() -> None:
        with torch.inference_mode(tensor.is_inference()), torch.no_grad():
            if tensor.grad_fn is not graph or tensor.requires_grad != requires_grad:
                tensor.detach_()
            if is_plain and _whereabouts(tensor) != _whereabouts(place):
                tensor.data = place
            # Elsewhere than on a CPU the comparison would wait for the device, or for other ranks.
            if not is_plain or tensor.device.type != "cpu" or not torch.equal(_bytes(own), _bytes(value)):
                own.copy_(value)

    return restore


def _whereabouts(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.data_ptr(), tensor.shape, tensor.stride()


def _bytes(tensor: Tensor) -> Tensor:
    """The bytes of a tensor, in which NaN is NaN and -0 is not 0."""
    return tensor.resolve_conj().resolve_neg().contiguous().reshape(-1).view(torch.uint8)


_CONTAINERS = (dict, list, set, deque)
_NESTED = (*_CONTAINERS, tuple)
_WITHOUT_STATE = frozenset({bool, int, float, str, type(None)})
# Class, and what remembers the state of one of its objects and returns how to put it back; the first that fits counts.
_KEEPERS: list[tuple[type, Callable[[Any], Callable[[], object]]]] = [
    (UninitializedBuffer, lambda it: lambda: None),  # of a lazy module that has not run: there is no value
    (Tensor, _keep_tensor),
    (torch.Generator, lambda it: partial(it.set_state, it.get_state())),
    (random.Random, lambda it: partial(it.setstate, it.getstate())),
    (np.random.RandomState, lambda it: partial(it.set_state, it.get_state())),
    (np.random.Generator, lambda it: partial(setattr, it.bit_generator, "state", it.bit_generator.state)),
]


def _refill(container: Any, copy: Any) -> None:
    """Give `container` the elements of `copy`, and leave it alone if it still has them."""
    # Compared by identity and in order: the elements may be tensors, and hooks run in the order of their dictionary.
    now, then = (
        [id(x) for pair in c.items() for x in pair] if isinstance(c, dict) else [id(x) for x in c]
        for c in (container, copy)
    )
    if now != then:
        container.clear()
        (container.extend if isinstance(container, (list, deque)) else container.update)(copy)
