"""What happens inside a forward pass: which modules run in which order, and where tokens are mixed."""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lightning_cam.resolve.norms import is_norm

_ATTENTION = {F.scaled_dot_product_attention, F.multi_head_attention_forward}
_SOFTMAX = {F.softmax, torch.softmax, Tensor.softmax, F.normalize}
_PRODUCTS = {torch.matmul, torch.bmm, Tensor.matmul, Tensor.__matmul__, Tensor.bmm, torch.einsum, torch.baddbmm}
_CONVOLUTIONS = {F.conv2d, torch.conv2d}


@dataclass
class Call:
    """One call of a module.

    Args:
        name: Qualified name of the module, as in `named_modules`.
        module: The module.
        start: Time at which it was entered; counts calls and mixings.
        end: Time at which it was left.
        input: Permutation-invariant fingerprint of its first tensor argument, see `fingerprint`.
        output: Its output, if that is a tensor.
    """

    name: str
    module: nn.Module
    start: int
    end: int = -1
    input: tuple[float, float] | None = None
    output: Tensor | None = None
    is_norm: bool = False


@dataclass
class Mixing:
    """An operation that mixes tokens.

    Args:
        time: When it happened.
        stack: The calls it happened in, outermost first.
        output: What it returned.
    """

    time: int
    stack: list[Call]
    output: Tensor


@dataclass
class Trace:
    """All that one forward pass showed.

    Args:
        calls: Module calls in the order in which they were entered.
        mixings: Token mixings in order.
        grids: Sizes (h, w) of feature maps that convolutions returned.
        output: What the model returned.
    """

    calls: list[Call] = field(default_factory=list)
    mixings: list[Mixing] = field(default_factory=list)
    grids: set[tuple[int, int]] = field(default_factory=set)
    output: Any = None

    def last_calls(self) -> dict[nn.Module, Call]:
        """The last call of each module: what a layer that is used several times is judged by."""
        return {call.module: call for call in self.calls}


def watch(model: nn.Module, forward: Callable[[Tensor], Any], images: Tensor) -> Trace:
    """Run the forward pass with gradients and note what happens in it.

    Args:
        model: The module whose submodules are watched, in eval mode with frozen parameters.
        forward: What to call.
        images: (B, 3, H, W), part of a graph.
    """
    recorder = _Recorder()
    with ExitStack() as stack:
        for name, module in model.named_modules():
            stack.callback(module.register_forward_pre_hook(recorder.enter(name), with_kwargs=True).remove)
            stack.callback(module.register_forward_hook(recorder.leave).remove)
        stack.enter_context(recorder)
        recorder.trace.output = forward(images)
    return recorder.trace


class _Recorder(TorchFunctionMode):
    """Notes calls and operations, and keeps gradients on where a frozen part switches them off."""

    def __init__(self) -> None:
        super().__init__()
        self.trace = Trace()
        self.time = 0
        self.open: list[Call] = []

    def enter(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            self.time += 1
            tensor = next((x for x in (*args, *kwargs.values()) if isinstance(x, Tensor)), None)
            call = Call(name, module, self.time, input=fingerprint(tensor))
            call.is_norm = tensor is not None and is_norm(name, module, tensor)
            self.trace.calls.append(call)
            self.open.append(call)

        return hook

    def leave(self, module: nn.Module, args: Any, output: Any) -> None:
        self.time += 1
        while self.open:
            call = self.open.pop()
            call.end = self.time
            if call.module is module:
                call.output = output if isinstance(output, Tensor) else None
                break

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch._C._set_grad_enabled:
            return None
        result = func(*args, **(kwargs or {}))
        # `multi_head_attention_forward` returns a pair.
        tensor = result[0] if isinstance(result, tuple) and result else result
        if not isinstance(tensor, Tensor) or not self.open:
            return result
        if func in _CONVOLUTIONS and tensor.ndim == 4:
            self.trace.grids.add((tensor.shape[2], tensor.shape[3]))
        if _mixes(func, args, tensor):
            self.time += 1
            self.trace.mixings.append(Mixing(self.time, list(self.open), tensor))
        return result


def _mixes(func: Any, args: Any, result: Tensor) -> bool:
    if func in _ATTENTION:
        return True
    if func in _SOFTMAX:
        return result.ndim >= 3 and result.requires_grad
    if func in _PRODUCTS:
        flat = [x for arg in args for x in (arg if isinstance(arg, (tuple, list)) else [arg])]
        # Parameters are frozen during the pass, so what needs a gradient comes from the image.
        return sum(isinstance(x, Tensor) and x.requires_grad and x.ndim >= 3 for x in flat) >= 2
    return False


def fingerprint(tensor: Tensor | None) -> tuple[float, float] | None:
    """Two sums that stay when a tensor is reshaped, permuted or padded with zeros, and hardly else."""
    if tensor is None or not tensor.is_floating_point():
        return None
    values = tensor.detach().double()
    return float(values.sum()), float(values.square().sum())


def same(a: tuple[float, float] | None, b: tuple[float, float] | None) -> bool:
    """Tell whether two fingerprints are of the same numbers."""
    if a is None or b is None:
        return False
    return all(abs(x - y) <= 1e-5 * (abs(x) + abs(b[1]) ** 0.5) for x, y in zip(a, b, strict=True))


@contextmanager
def eager() -> Iterator[None]:
    """Let hooks fire in compiled modules, whose compiled code would not call them."""
    # Importing dynamo takes seconds, and without it nothing is compiled.
    if "torch._dynamo" not in sys.modules:
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield
