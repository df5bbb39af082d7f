"""Rerun what was validated on chosen rows: a network's call, or the step up to where its output is read."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.overrides import handle_torch_function, has_torch_function

from lightning_cam.model.output import mapped, named_tensors
from lightning_cam.observe.consumers import Consumed
from lightning_cam.observe.forms import AS_SHOWN, Form
from lightning_cam.observe.observation import Output
from lightning_cam.observe.step import NetworkCall, StepObserver


def tensors_of(tree: Any) -> list[Tensor]:
    """The tensors of anything nested, in the order of `named_tensors`."""
    return [tensor for _, tensor in named_tensors(tree)]


def filled(tree: Any, tensors: Sequence[Tensor]) -> Any:
    """The same nested container with other tensors."""
    left = iter(tensors)
    return mapped(tree, lambda leaf: next(left) if isinstance(leaf, Tensor) else leaf)


class Program(Protocol):
    """Runs again what made the outputs of a step, given other tensors in place of the step's.

    Attributes:
        given: The tensors that it was run on.
        module: What is run, or whose step.
    """

    given: list[Tensor]
    module: nn.Module

    def __call__(self, tensors: Sequence[Tensor], output: Output | None) -> Any:
        """Run with these tensors.

        Args:
            tensors: In place of `given`.
            output: Which output to return, a tensor; None for all that the network returned.
        """
        ...


class NetworkProgram:
    """A call of a network.

    Args:
        call: What was seen of it.
    """

    def __init__(self, call: NetworkCall) -> None:
        self.module = call.module
        self._template = call.args, call.kwargs
        self.given = tensors_of(self._template)

    def __call__(self, tensors: Sequence[Tensor], output: Output | None) -> Any:
        """Call the network."""
        args, kwargs = filled(self._template, tensors)
        returned = self.module(*args, **kwargs)
        if output is None or output.leaf is None:
            return returned
        return tensors_of(returned)[output.leaf]


class StepProgram:
    """A step up to the point where its output is read.

    Args:
        module: The module whose step it is.
        step: The step; its first argument is the batch.
        args: What it is given.
        names: Names of the batch's tensors.
    """

    def __init__(self, module: nn.Module, step: Callable[..., Any], args: Sequence[Any], names: Sequence[str]) -> None:
        self.module = module
        self._step, (self._batch, *self._rest), self._names = step, args, names
        self.given = tensors_of(self._batch)

    def __call__(self, tensors: Sequence[Tensor], output: Output | None) -> Any:
        """Run the step; what it does afterwards is left out."""
        if output is None:
            raise ValueError(
                "score: the step computes its output from several networks, so there is no single output for a score "
                "function to take; give forward=, a function that returns it"
            )
        try:
            with StepObserver(
                self.module, dict(zip(self._names, tensors, strict=True)), on_consumed=_stop_at(output.event)
            ):
                self._step(filled(self._batch, tensors), *self._rest)
        except _Reached as reached:
            if reached.consumed.by == output.by:
                return reached.consumed.output
        raise ValueError(
            "the validation step behaves differently when it is run again, so its output cannot be explained; give "
            "forward=, a function that maps images to logits"
        )


class _Reached(BaseException):
    """Ends a step where its output is read; no handler of the user's for errors catches it."""

    def __init__(self, consumed: Consumed) -> None:
        super().__init__()
        self.consumed = consumed


def _stop_at(event: int) -> Callable[[Consumed], None]:
    count = 0

    def found(consumed: Consumed) -> None:
        nonlocal count
        if count == event:
            raise _Reached(consumed)
        count += 1

    return found


@dataclass(frozen=True)
class Entrance:
    """A call inside a program whose images are replaced, where the program's own cannot be (bytes, sound).

    Args:
        module: What is called.
        number: Which of its calls.
        picture: Which of its tensors.
    """

    module: nn.Module
    number: int
    picture: int

    @contextmanager
    def replaced(self, images: Tensor) -> Iterator[None]:
        """Let the call get these images."""
        count = 0

        def enter(module: nn.Module, args: Any, kwargs: Any) -> Any:
            nonlocal count
            count += 1
            if count - 1 != self.number:
                return None
            tensors = tensors_of((args, kwargs))
            tensors[self.picture] = _standing_for(images, tensors[self.picture])
            return filled((args, kwargs), tensors)

        with ExitStack() as stack:
            stack.callback(self.module.register_forward_pre_hook(enter, with_kwargs=True).remove)
            yield


def _standing_for(images: Tensor, original: Tensor) -> Tensor:
    """The images, which an observer sees come from where the original does."""
    if has_torch_function((images, original)):
        result: Tensor = handle_torch_function(_standing_for, (images, original), images, original)
        return result
    return images.view_as(images)


class RowForward:
    """What was validated, as a function of images alone: all else that the program takes comes with its rows.

    Images of another number than the rows are taken for the first rows, and again from the first on; `of_rows` says
    which rows they are.

    Args:
        program: What is run.
        output: Which output is returned; None for all.
        rows: The program's tensors by their places: (N, ...) for those with one row per image; others stay as the
            program was given them.
        count: The number of rows.
        picture: Which tensor the images stand for, or the call that gets them.
        chosen: (n,) int64, which of the rows are meant; by default all.
        form: How the program takes the images.

    Example:
        >>> network = nn.Bilinear(3, 2, 1)
        >>> call = NetworkCall(network, 0, (torch.ones(4, 3), torch.ones(4, 2)), {}, [0], [], ())
        >>> forward = RowForward(NetworkProgram(call), None, {1: torch.ones(2, 2)}, 2, picture=0)
        >>> forward(torch.zeros(5, 3)).shape
        torch.Size([5, 1])
    """

    def __init__(
        self,
        program: Program,
        output: Output | None,
        rows: dict[int, Tensor],
        count: int,
        picture: int | Entrance,
        chosen: Tensor | None = None,
        form: Form = AS_SHOWN,
    ) -> None:
        self._form = form
        self._program, self._output, self._rows, self._count = program, output, rows, count
        self._picture = picture
        # On the rows' device: an index that is copied there at each call makes the host wait for it.
        device = next((tensor.device for tensor in rows.values()), None)
        self._chosen = torch.arange(count, device=device) if chosen is None else chosen

    def __call__(self, images: Tensor) -> Any:
        """Run it on the first rows, and again from the first on."""
        index = self._chosen[torch.arange(len(images), device=self._chosen.device) % len(self._chosen)]
        tensors = [tensor.clone() for tensor in self._program.given]
        for place, rows in self._rows.items():
            tensors[place] = rows[index.to(rows.device)].to(images.device)  # they may be kept on the host
        if isinstance(self._picture, Entrance):
            with self._picture.replaced(self._form.given(images)):
                return self._program(tensors, self._output)
        tensors[self._picture] = self._form.given(images)
        returned = self._program(tensors, self._output)
        if self._form.is_bag and isinstance(returned, Tensor) and returned.ndim == 1:  # the step adds the axis of rows
            return returned[None]
        return returned

    def of_rows(self, index: Tensor | slice) -> "RowForward":
        """The same for images that belong to these of its rows."""
        if not self._rows:
            return self
        chosen = self._chosen[index.to(self._chosen.device) if isinstance(index, Tensor) else index]
        return RowForward(self._program, self._output, self._rows, self._count, self._picture, chosen, self._form)
