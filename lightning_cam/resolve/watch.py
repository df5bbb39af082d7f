"""What happens inside a forward pass: which modules run in which order, and where tokens are mixed."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lightning_cam.model.keep_grad import KeepGrad
from lightning_cam.model.output import named_tensors
from lightning_cam.model.private import function_modes_off
from lightning_cam.resolve.candidates import proportional
from lightning_cam.resolve.norms import channel_axis, is_norm
from lightning_cam.resolve.operations import (
    ATTENTION,
    CUTS,
    PRODUCTS,
    RESIZES,
    SEQUENCES,
    activations_in,
    among_themselves,
    blocks_of,
    name_of,
    softened,
)

Fingerprint = tuple[float, float]

_MOST_IN_A_LIST = 1000  # of plain ones that are looked through for modules; one of files can be longer


@dataclass
class Call:
    """One call of a module.

    Args:
        name: Qualified name of the module, as in `named_modules`.
        module: The module.
        start: Time at which it was entered; time counts calls and mixings.
        end: Time at which it was left.
        input: Fingerprint of its first tensor argument.
        input_shape: Shape of that.
        output: The first tensor of its output.
        version: Of that tensor when the module was left: what writes to it later makes it another one's output.
        pools: Whether it returns less than half of the tokens it was given.
        output_print: Fingerprint of the output.
        is_layer: Whether its output is one tensor, as a target layer's must be.
        is_norm: Whether it is such a layer and a norm.
        sampled: Sizes of the maps that it read from between the cells, see `Trace`.
    """

    name: str
    module: nn.Module
    start: int
    end: int = -1
    input: Fingerprint | None = None
    input_shape: tuple[int, ...] = ()
    output: Tensor | None = None
    version: int = 0
    pools: bool = False
    output_print: Fingerprint | None = None
    is_layer: bool = False
    is_norm: bool = False
    sampled: set[tuple[int, ...]] = field(default_factory=set)

    def holds(self, time: int) -> bool:
        """Tell whether something happened during this call."""
        return self.start < time < self.end


@dataclass
class Mixing:
    """An operation that mixes tokens.

    Args:
        time: When it happened.
        stack: The calls it happened in, outermost first.
        output: What it returned.
        same_tokens: Whether tokens were mixed among themselves, not with others as by learned queries.
    """

    time: int
    stack: list[Call]
    output: Tensor
    same_tokens: bool = True

    @property
    def mixer(self) -> Call:
        """The innermost module that has parameters: the attention, not its softmax."""
        for call in reversed(self.stack):
            if next(call.module.parameters(), None) is not None:
                return call
        return self.stack[0]


@dataclass
class Trace:
    """All that one forward pass showed.

    Args:
        calls: Module calls in the order in which they were entered.
        mixings: Token mixings in order.
        grids: Sizes (h, w) of maps that convolutions returned, and of cuts into patches.
        volumes: Sizes (d, h, w) of what convolutions of three axes returned, and planes with grids of their own.
        maps: Those of them that were convolved with more than one pixel, so surely are images.
        rolls: Rows and columns by which maps were rolled up and left.
        hidden: Names of scripted, traced and exported modules, inside which no module calls are seen.
        strangers: Names of plain lists and dictionaries with modules that are not the model's.
        quantized: Names of layers that no gradient flows through.
        sampled: Of how many grids a module reads at most from between the cells, at places that the model chooses.
        output: What the model returned.
    """

    calls: list[Call] = field(default_factory=list)
    mixings: list[Mixing] = field(default_factory=list)
    grids: set[tuple[int, int]] = field(default_factory=set)
    volumes: set[tuple[int, int, int]] = field(default_factory=set)
    maps: set[tuple[int, ...]] = field(default_factory=set)
    rolls: set[tuple[int, int]] = field(default_factory=set)
    hidden: list[str] = field(default_factory=list)
    strangers: list[str] = field(default_factory=list)
    quantized: list[str] = field(default_factory=list)
    sampled: int = 0
    output: Any = None

    def last_calls(self) -> dict[nn.Module, Call]:
        """The last call of each module: what a layer that is used several times is judged by."""
        return {call.module: call for call in self.calls}


def watch(model: nn.Module, forward: Callable[[Tensor], Any], images: Tensor) -> Trace:
    """Run the forward pass with gradients and note what happens in it.

    Args:
        model: The module whose submodules are watched, in eval mode with frozen parameters.
        forward: What to call.
        images: (B, C, H, W), or volumes (B, C, D, H, W), part of a graph.
    """
    recorder = _Recorder((images.shape[-2], images.shape[-1]))
    recorder.trace.strangers = strangers_in(model)
    with ExitStack() as stack:
        for name, module in model.named_modules():
            if isinstance(module, (torch.jit.ScriptModule, torch.fx.GraphModule)):
                recorder.trace.hidden.append(name)
            if ".quantized." in type(module).__module__:
                recorder.trace.quantized.append(name)
            if isinstance(module, torch.jit.RecursiveScriptModule):  # takes no hooks
                continue
            stack.callback(module.register_forward_pre_hook(recorder.enter(name), with_kwargs=True).remove)
            stack.callback(module.register_forward_hook(recorder.leave, with_kwargs=True).remove)
        stack.enter_context(KeepGrad(model))
        stack.enter_context(recorder)
        recorder.trace.output = forward(images)
    return recorder.trace


def strangers_in(model: nn.Module) -> list[str]:
    """Names of attributes that hold modules in plain containers, which makes them none of the model's."""
    own = set(model.modules())
    return [
        f"{name}.{attribute}" if name else attribute
        for name, module in model.named_modules()
        for attribute, value in vars(module).items()
        if not attribute.startswith("_") and any(held not in own for held in _held_in(value))
    ]


def _held_in(value: Any) -> list[nn.Module]:
    """The modules in plain containers, also within others."""
    values = list(value.values()) if isinstance(value, dict) else value
    if not isinstance(values, (list, tuple)) or len(values) > _MOST_IN_A_LIST:
        return []
    inner = [held for one in values for held in _held_in(one)]
    return [one for one in values if isinstance(one, nn.Module)] + inner


class _Recorder(TorchFunctionMode):
    """Notes calls and operations."""

    def __init__(self, image_size: tuple[int, int]) -> None:
        super().__init__()
        self.trace = Trace()
        self.time = 0
        self.open: list[Call] = []
        self.normed: Call | None = None  # the last norm that ran
        self.image_size = image_size
        self.whole = {image_size}  # of the image, also padded or resized

    def enter(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            self.time += 1
            tensor = first_tensor([*args, *kwargs.values()])
            call = Call(name, module, self.time)
            if tensor is not None:
                call.input, call.input_shape = fingerprint(tensor), tuple(tensor.shape)
            with function_modes_off():  # the probing of a norm is no part of the forward pass
                call.is_norm = is_norm(name, module, tensor)
            self.trace.calls.append(call)
            self.open.append(call)

        return hook

    def leave(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        self.time += 1
        tensor = first_tensor(output)
        while self.open:
            call = self.open.pop()
            call.end = self.time
            if call.module is module:
                if tensor is not None:
                    call.output, call.version = tensor, tensor._version
                    inputs = [x for x in (*args, *kwargs.values()) if isinstance(x, Tensor) and x.ndim >= 3]
                    widths = [x.numel() for x in inputs if x.shape[-1:] == tensor.shape[-1:]]
                    call.pools = tensor.numel() * 2 < max(widths, default=0)
                    call.output_print = fingerprint(tensor)
                call.is_layer = tensor is not None and output is tensor
                call.is_norm &= call.is_layer
                if call.is_norm:
                    self.normed = call
                break

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = name_of(func)
        result = func(*softened(name, args), **(kwargs or {}))
        tensor = first_tensor(result)
        if tensor is None or not self.open:
            return result
        self._note_grids(name, args, kwargs or {}, tensor)
        if name == "grid_sample" and len(activations_in(args)) > 1:
            self.open[-1].sampled.add(tuple(args[0].shape[2:]))
            self.trace.sampled = max(self.trace.sampled, len(self.open[-1].sampled))
        if name == "roll":
            self._note_roll(*args[1:], **(kwargs or {}))
        if self._mixes(name, args, kwargs or {}, tensor):
            self.time += 1
            self.trace.mixings.append(Mixing(self.time, list(self.open), tensor, among_themselves(name, args)))
        return result

    def _note_grids(self, name: str, args: Any, kwargs: Any, result: Tensor) -> None:
        """Sizes of maps, and how images are cut into patches."""
        shape = result.shape
        if name in RESIZES:
            # Queries and keys have four axes, too, and are padded.
            if result.ndim == 4 and proportional((shape[2], shape[3]), self.image_size):
                self.trace.grids.add((shape[2], shape[3]))
                self.whole.add((shape[2], shape[3]))
        elif (name == "conv3d" or "pool3d" in name) and result.ndim == 5:
            self.trace.volumes.add((shape[2], shape[3], shape[4]))
            if name == "conv3d" and max(args[1].shape[2:]) > 1:
                self.trace.maps.add(tuple(shape[2:]))
        elif (name == "conv2d" or "pool2d" in name) and result.ndim == 4:
            size, kernel = (shape[2], shape[3]), args[1].shape[2:] if name == "conv2d" else (2, 2)
            # A convolution of single pixels may be a linear map of what is no map.
            if max(kernel) > 1 or proportional(size, self.image_size):
                self.trace.grids.add(size)
            if name == "conv2d" and min(kernel) > 1:
                self.trace.maps.add(size)
        elif name == "unfold" and result.ndim == 3 and args[0].ndim == 4:
            self.trace.grids.add(blocks_of(*args, **kwargs))
        elif name == "unfold":
            self.trace.grids |= {(shape[i], shape[i + 1]) for i in (1, 2) if result.ndim == 6}
        elif name in CUTS:
            for h, p, w, q in zip(shape, shape[1:], shape[2:], shape[3:], strict=False):
                if (h * p, w * q) in self.whole:
                    self.trace.grids.add((h, w))

    def _note_roll(self, shifts: Any = 0, dims: Any = None, **_: Any) -> None:
        if isinstance(shifts, (tuple, list)) and len(shifts) == 2:
            self.trace.rolls.add((-int(shifts[0]), -int(shifts[1])))

    def _mixes(self, name: str, args: Any, kwargs: Any, result: Tensor) -> bool:
        if name in ATTENTION or name in SEQUENCES:
            return result.requires_grad
        if name == "softmax":  # that over paths of a selective kernel, (B, paths, C, 1, 1), mixes no places
            return result.ndim >= 3 and result.shape[-2:] != (1, 1) and result.requires_grad
        if name == "normalize":
            dim = kwargs.get("dim", args[2] if len(args) > 2 else 1)
            return result.requires_grad and _along_tokens(args[0], dim, self.normed)
        if name in PRODUCTS:
            return len(activations_in(args)) > 1
        if self.normed is None or self.normed.output is None or not args or not isinstance(args[0], Tensor):
            return False
        return _mixes_normed_tokens(name, args, kwargs, self.normed)


def _along_tokens(x: Tensor, dim: Any, norm: Call | None) -> bool:
    """Whether an axis is that of the tokens: as long as the last norm had tokens, or else not that of the channels."""
    if not isinstance(dim, int) or x.ndim < 3:
        return False
    axis = dim % x.ndim
    if norm is not None and norm.output is not None and norm.output.ndim == 3:
        shape = norm.output.shape
        channels = channel_axis(norm.module, tuple(shape))
        tokens, width = (shape[2], shape[1]) if channels == 1 else (shape[1], shape[2])
        if tokens != width and x.shape[axis] in (tokens, width):
            return x.shape[axis] == tokens
    # Of tokens in rows, the channels are the last axis, also in heads; a map has them in the second.
    return axis != x.ndim - 1 and not (x.ndim == 4 and axis == 1)


def _mixes_normed_tokens(name: str, args: Any, kwargs: Any, norm: Call) -> bool:
    """Mixers without attention: a linear map along the tokens of a norm's output, or its pooling."""
    x, normed = args[0], norm.output
    assert normed is not None
    axis = channel_axis(norm.module, tuple(normed.shape))
    if name == "avg_pool2d":
        stride = args[2] if len(args) > 2 else kwargs.get("stride")
        return stride in (1, (1, 1), [1, 1]) and same(fingerprint(x), norm.output_print)
    if x.ndim != 3 or normed.ndim != 3 or axis != -1:
        return False
    if name == "linear":
        swapped = normed.transpose(1, 2)
        return x.shape == swapped.shape and (x.shape[1] != x.shape[2] or x.stride() == swapped.stride())
    return name == "conv1d" and x.shape == normed.shape


def first_tensor(tree: Any) -> Tensor | None:
    """The first floating tensor of anything nested."""
    return next((tensor for _, tensor in named_tensors(tree) if tensor.is_floating_point()), None)


def fingerprint(tensor: Tensor) -> Fingerprint:
    """Two sums that stay when a tensor is reshaped, permuted or padded with zeros, and hardly else."""
    with function_modes_off():
        values = tensor.detach()
        norm = torch.linalg.vector_norm(values, dtype=torch.float64)
        return float(values.sum(dtype=torch.float64)), float(norm)


def same(a: Fingerprint | None, b: Fingerprint | None) -> bool:
    """Tell whether two fingerprints are of the same numbers."""
    if a is None or b is None:
        return False
    return all(abs(x - y) <= 1e-5 * b[1] for x, y in zip(a, b, strict=True))
