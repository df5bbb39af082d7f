"""Leave a model as it came, whatever happens in between."""

import random
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import checkpoint

# FSDP swaps the parameters in this dictionary by itself; putting old ones back would contradict its own state.
_NOT_OURS = "_parameters"
_AROUND_CHECKPOINTS = "_checkpoint_without_reentrant_generator"


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Run the body and put back all of `model` and every random generator, even when the body raises.

    Put back are, for each module: its attributes (among them `training`, flags, hooks and caches, containers
    one level deep), the values of its buffers, of tensors and NumPy arrays it holds as attributes, and the states of
    generators it holds; for each parameter: `.grad` and `requires_grad`; and the states of Python's, NumPy's and
    torch's random generators. Parameter values are not copied: nothing may write to them. Gradients are set aside
    (None) while the body runs.

    Args:
        model: Any module, on any device.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.BatchNorm1d(2))
        >>> with untouched(model):
        ...     _ = model.eval().register_forward_hook(print)
        >>> model[0].training, len(model._forward_hooks)
        (True, 0)
    """
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
    with random_states_kept(devices), ExitStack() as stack:  # which goes on with the others if one raises
        for restore in (_gradients(model), *map(_attributes, model.modules())):
            stack.callback(restore)
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
def signals_deferred() -> Iterator[None]:
    """Let handlers of signals, but Ctrl-C, wait until the body is done.

    Lightning's on SLURM saves a checkpoint wherever the training just stands.
    """
    if threading.current_thread() is not threading.main_thread():  # no handler runs in others
        yield
        return
    handlers: dict[int, Callable[[int, Any], object]] = {}
    for number in map(int, signal.valid_signals() - {signal.SIGINT}):
        handler = signal.getsignal(number)
        if callable(handler):
            handlers[number] = handler
    came: list[tuple[int, Any]] = []
    for number in handlers:
        signal.signal(number, lambda *signalled: came.append(signalled))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for late, frame in came:
            handlers[late](late, frame)


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

    Compiled code would not call hooks. Of the two kinds of checkpoints, the backward of the one refuses
    `autograd.grad`, and that of the other calls hooks again. Neither changes a number beyond rounding, and compiled
    code is kept for later.
    """
    # What runs before and after the checkpointed code; the name has a suffix in newer versions.
    around = {name: value for name, value in vars(checkpoint).items() if name.startswith(_AROUND_CHECKPOINTS)}
    vars(checkpoint).update(dict.fromkeys(around, lambda *args, **kwargs: iter((None,))))
    outer = vars(checkpoint.CheckpointFunction).get("apply")  # if this is a look within another
    checkpoint.CheckpointFunction.apply = staticmethod(lambda function, preserve_rng_state, *args: function(*args))
    try:
        # Importing dynamo takes seconds, and without it nothing is compiled.
        if "torch._dynamo" in sys.modules:
            with torch.compiler.set_stance("force_eager"):
                yield
        else:
            yield
    finally:
        vars(checkpoint).update(around)
        del checkpoint.CheckpointFunction.apply  # the inherited one shows again
        if outer is not None:
            checkpoint.CheckpointFunction.apply = outer


def _gradients(model: nn.Module) -> Callable[[], None]:
    flags = [(p, p.requires_grad) for p in model.parameters()]
    # FSDP would take a gradient that is gone from a part of a flat parameter for one that is to be zeroed.
    grads = [(p, p.grad) for p in model.parameters() if not getattr(p, "_fsdp_flattened", False)]
    for parameter, _ in grads:
        parameter.grad = None

    def restore() -> None:
        for parameter, requires_grad in flags:
            if parameter.requires_grad != requires_grad:  # an inference tensor may not even be asked for the same
                parameter.requires_grad_(requires_grad)
        for parameter, grad in grads:
            parameter.grad = grad

    return restore


def _attributes(module: nn.Module) -> Callable[[], None]:
    attributes = {key: value for key, value in vars(module).items() if key != _NOT_OURS and not _is_part_of_flat(value)}
    containers = [(value, value.copy()) for value in attributes.values() if isinstance(value, _CONTAINERS)]
    tensors = [
        (tensor, tensor.detach().clone())
        for value in (attributes, *(copy for _, copy in containers))
        for tensor in (value.values() if isinstance(value, dict) else value)
        if isinstance(tensor, Tensor) and not isinstance(tensor, nn.Parameter)
    ]
    states = [
        (value, set_state, get_state(value))
        for value in attributes.values()
        for cls, get_state, set_state in _STATES
        if isinstance(value, cls)
    ]
    training = module.training  # no attribute in Python, if the module is scripted

    def restore() -> None:
        for key in vars(module).keys() - attributes.keys() - {_NOT_OURS}:
            if not _is_part_of_flat(vars(module)[key]):
                del vars(module)[key]
        vars(module).update(attributes)
        for container, content in containers:
            _refill(container, content)
        if module.training != training:
            module.training = training
        for value, set_state, state in states:
            set_state(value, state)
        for tensor, value in tensors:
            _write_back(tensor, value)

    return restore


def _write_back(tensor: Tensor, value: Tensor) -> None:
    """Give a tensor its value again, unless it has it: some cannot be written to, as views of read-only files."""
    # Elsewhere than on a CPU the comparison would wait for the device, or for other ranks.
    if type(tensor) is Tensor and tensor.layout is torch.strided and tensor.device.type == "cpu":
        if torch.equal(tensor, value):
            return
        for axis, stride in enumerate(tensor.stride()):
            if stride == 0 and tensor.shape[axis]:  # expanded: many elements are one
                tensor, value = tensor.narrow(axis, 0, 1), value.narrow(axis, 0, 1)
    with torch.inference_mode(tensor.is_inference()), torch.no_grad():
        tensor.data.copy_(value)  # past the counter of versions: a graph of the user's may hold the tensor


def _is_part_of_flat(value: Any) -> bool:
    """Whether FSDP has put a view of its flat parameter in the place of a parameter, as it does around a forward."""
    return isinstance(value, Tensor) and type(value._base).__name__ == "FlatParameter"


def _fill(array: Any, values: Any) -> None:
    if array.flags.writeable:
        array[...] = values


_CONTAINERS = (dict, list, set, deque)
# Class, how to get the state, how to set it.
_STATES: list[tuple[type, Callable[[Any], Any], Callable[[Any, Any], object]]] = [
    (np.ndarray, np.copy, _fill),
    (torch.Generator, torch.Generator.get_state, torch.Generator.set_state),
    (random.Random, random.Random.getstate, random.Random.setstate),
    (np.random.RandomState, np.random.RandomState.get_state, np.random.RandomState.set_state),
    (
        np.random.Generator,
        lambda it: it.bit_generator.state,
        lambda it, state: setattr(it.bit_generator, "state", state),
    ),
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
