"""Rerun only what follows a module, with a replaced output: what comes before it runs once."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lightning_cam.model.output import Forward, forward_of_rows, tensors_in
from lightning_cam.model.untouched import replaced


@dataclass
class Call:
    """One call of a module in a forward pass, with the times at which it began and ended."""

    module: nn.Module
    start: int
    end: int = 0
    output: Any = None


class Rerun:
    """The model from one module on.

    The forward pass is recorded once. In a rerun every module that was done before the given one hands out its
    record and the given one what it is to return, so that only its successors (and cheap operations outside of modules)
    run. Records are taken
    only of modules whose outputs begin with the batch axis; if they turn out to lie otherwise, the whole model runs.
    Use it inside `looking(model)`.

    Args:
        model: The module that holds `module`.
        forward: What to call with the images.
        images: (B, C, H, W).
        module: Its last call in the forward pass is replaced. Its output, or the first of a tuple, begins with the
            batch axis.
        known: The calls of a forward pass of the images and what came of it, where there has been one.

    Raises:
        ValueError: The forward pass does not call `module`, or its output does not begin with the batch axis.
    """

    def __init__(
        self,
        model: nn.Module,
        forward: Forward,
        images: Tensor,
        module: nn.Module,
        *,
        known: tuple[list[Call], Any] | None = None,
    ) -> None:
        self._forward, self._images, self._module = forward, images, module
        if known is None:
            with torch.no_grad(), recorded_calls(model) as calls:
                known = calls, forward(images)
        calls, whole = known
        own = [call for call in calls if call.module is module]
        if not own:
            raise ValueError(f"target_layers: the forward pass does not call {type(module).__name__}")
        self._count, last = len(own), own[-1]
        output = _first(last.output)
        # Called once, with nothing but rows of images in its output, it need not run to be replaced.
        self._record: Any = _detached(last.output) if len(own) == 1 and _begins_with(last.output, len(images)) else None
        if len(output) != len(images):
            raise ValueError(
                f"the output of {type(module).__name__} has shape {tuple(output.shape)}, which does not begin with the "
                f"batch size {len(images)}, so it cannot be replaced image by image"
            )
        given = {call.module: call.output for call in calls}
        done = _modules_done_before(calls, last.start, len(images))
        self._records: dict[nn.Module, Any] = {part: _detached(given[part]) for part in done}
        # Of these usually only the last module's output is used outside of it, and the images by no other: rows of
        # all these need no copies.
        self._unused = set(done[:-1])
        self._spares_images = bool(done)
        if not self._is_exact(output, whole):
            self._unused, self._spares_images = set(), False
            if not self._is_exact(output, whole):
                self._records = {}

    def __call__(self, outputs: Tensor, image: Tensor) -> Any:
        """Run the model with `outputs` in place of the module's.

        Args:
            outputs: (N, ...), rows of the form of the module's output.
            image: (N,) int64, which of the images each row belongs to.

        Returns:
            What the model returns for N images.
        """
        with self._replaced(outputs, image):
            images = _placeholder(self._images, len(image)) if self._spares_images else self._images[image]
            return forward_of_rows(self._forward, image)(images)

    @contextmanager
    def _replaced(self, outputs: Tensor, image: Tensor) -> Iterator[None]:
        calls = 0

        def rows() -> Tensor:
            if torch.is_grad_enabled() and not outputs.requires_grad:  # for what cannot run without a graph
                return outputs.detach().requires_grad_()
            return outputs

        def returned(*args: Any, **kwargs: Any) -> Any:
            return rows() if isinstance(self._record, Tensor) else (rows(), *_rows_of(self._record[1:], image))

        def hook(module: nn.Module, inputs: Any, output: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls < self._count:
                return None
            return (rows(), *output[1:]) if isinstance(output, tuple) else rows()

        with ExitStack() as stack:
            for module, record in self._records.items():
                own = _placeholder(record, len(image)) if module in self._unused else _rows_of(record, image)
                stack.enter_context(_returning(module, own))
            if self._record is None:
                stack.callback(self._module.register_forward_hook(hook).remove)
            else:
                stack.enter_context(replaced(self._module, "forward", returned))
            yield

    def _is_exact(self, output: Tensor, whole: Any) -> bool:
        """Whether a rerun of the images in reverse order gives the reverse of the forward pass."""
        back = torch.arange(len(self._images), device=self._images.device).flip(0)
        with torch.no_grad():
            expected = _first(whole).flip(0)
            try:
                found = _first(self(output[back], back))
            except Exception:  # the model writes to what it is given, or checks it
                return False
        return found.shape == expected.shape and _agree(found, expected)


def _agree(found: Tensor, expected: Tensor) -> bool:
    """Whether two outputs _agree to a thousandth of what tells images and classes apart, and to rounding."""
    spread = (expected - expected.mean()).abs().amax()
    return bool((found - expected).abs().amax() <= 1e-3 * spread + 1e-5 * expected.abs().amax())


@contextmanager
def recorded_calls(model: nn.Module) -> Iterator[list[Call]]:
    """Record the calls of modules in the body, in the order in which they begin."""
    calls: list[Call] = []
    open_calls: list[Call] = []
    time = 0

    def enter(module: nn.Module, args: Any) -> None:
        nonlocal time
        time += 1
        call = Call(module, time)
        calls.append(call)
        open_calls.append(call)

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        nonlocal time
        time += 1
        call = open_calls.pop()
        call.end, call.output = time, output

    with ExitStack() as stack:
        for module in model.modules():
            if isinstance(module, torch.jit.RecursiveScriptModule):  # takes no hooks
                continue
            stack.callback(module.register_forward_pre_hook(enter).remove)
            stack.callback(module.register_forward_hook(leave).remove)
        yield calls


def _modules_done_before(calls: list[Call], start: int, batch_size: int) -> list[nn.Module]:
    """The outermost modules that were done before `start`, called once, with outputs that begin with the batch axis."""
    done = [call for call in calls if call.end < start and _begins_with(call.output, batch_size)]
    return [
        call.module
        for call in done
        if not any(other.start < call.start and call.end < other.end for other in done)
        and sum(other.module is call.module for other in calls) == 1
    ]


@contextmanager
def _returning(module: nn.Module, output: Any) -> Iterator[None]:
    """Let `module` return `output` without running."""
    with replaced(module, "forward", lambda *args, **kwargs: output):
        yield


def _begins_with(output: Any, count: int) -> bool:
    """Whether an output is one tensor, or a plain tuple of tensors, that begins with an axis of this length."""
    if isinstance(output, Tensor):
        return output.ndim > 0 and len(output) == count
    return type(output) is tuple and all(_begins_with(part, count) for part in output)


def _rows_of(output: Any, rows: Tensor | slice) -> Any:
    """These rows of a tensor, or of all tensors of a tuple."""
    return output[rows] if isinstance(output, Tensor) else tuple(_rows_of(part, rows) for part in output)


def _detached(output: Any) -> Any:
    return output.detach() if isinstance(output, Tensor) else tuple(map(_detached, output))


def _placeholder(output: Any, count: int) -> Any:
    """Something of the same form without content, NaN so that its use would show, and without memory of its own."""
    if isinstance(output, tuple):
        return tuple(_placeholder(part, count) for part in output)
    return output.new_full((), torch.nan if output.is_floating_point() else 0).expand(count, *output.shape[1:])


def _first(output: Any) -> Tensor:
    return next(tensor for tensor in tensors_in(output) if tensor.ndim and tensor.is_floating_point())
