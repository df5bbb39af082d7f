"""Networks that run several times for one output: each of their calls is explained by itself."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from lightning_cam.model.output import Forward, forward_of_rows
from lightning_cam.model.private import AsItWas
from lightning_cam.model.untouched import looking, replaced
from lightning_cam.observe.origins import Origin
from lightning_cam.observe.places import Undo, in_place, is_whole, undo_of
from lightning_cam.observe.programs import Entrance
from lightning_cam.observe.step import NetworkCall, StepObserver

_log = logging.getLogger(__name__)

_JOINING = {"cat", "concat", "concatenate", "stack", "vstack"}  # which make several images out of one


@dataclass(frozen=True)
class View:
    """One call of a network that is given the image.

    Args:
        forward: Runs all that is run, and lets only this call be seen: no hook or mode of a look notices the others.
        undo: Brings maps of this call to their places in the image.
        inside: Where the network is not given the images as they are: the same as a function of what it is given.
        shape: (C, H, W) of what it is given then.
    """

    forward: Forward
    undo: Undo = in_place
    inside: Forward | None = None
    shape: tuple[int, ...] = ()


def views_of(model: nn.Module, images: Tensor, forward: Forward) -> list[View]:
    """Find the calls of a network that get the image unchanged, or changed in a way that can be undone.

    Those as it is come first. One forward of two images shows them.

    Args:
        model: The module that holds the network; left untouched.
        images: (B, C, H, W).
        forward: What is called with the images.

    Returns:
        One view for each call, one in all where a network runs once.

    Raises:
        ValueError: The network is given parts of the images only, or several at once.

    Example:
        >>> class Twice(nn.Sequential):
        ...     def forward(self, images):
        ...         return super().forward(images) + super().forward(images.flip(-1))
        >>> model = Twice(nn.Conv2d(3, 1, 2, 2), nn.Flatten())
        >>> len(views_of(model, torch.zeros(2, 3, 4, 4), model))
        2
    """
    with looking(model), torch.enable_grad():  # some models run with a graph only
        few = images[:2].detach().clone().requires_grad_() * 1
        with StepObserver(model, {"images": few}) as seen:
            forward(few)
    return views_in(seen, few.detach(), forward)


def views_in(seen: StepObserver, few: Tensor, forward: Forward) -> list[View]:
    """The same of a forward that was observed.

    Args:
        seen: What was observed, of one input.
        few: (B, C, H, W), the images that it was given.
        forward: What was called.

    Raises:
        ValueError: The network is given parts of the images only, or several at once.
    """
    call = _network(seen)
    if call is None:
        return [View(forward, lambda maps: maps)]
    if (
        seen.times(call.module) == 1
    ):  # what was not followed leaves the image whole in most models: layouts are measured
        origin = call.given[call.pictures[0]]
        if origin is not None and any(made.operation in _JOINING for made in origin.ancestors()):
            _check_count(call, origin.shape[0], len(few))
        if origin is None or origin.shape[0] != len(few) or (undo := undo_of(origin)) is None:
            return [View(forward)]
        return [_view(forward, few, call, undo, origin)]
    calls = [other for other in seen.calls if other.module is call.module]
    origins = [origin for other in calls if (origin := other.given[other.pictures[0]]) is not None]
    for origin in origins:
        _check_count(call, origin.shape[0], len(few))
    known = [
        (other, undo, origin)
        for other, origin in zip(calls, origins, strict=True)
        if (undo := undo_of(origin)) is not None
    ]
    if not known:
        raise ValueError(
            f"forward: the input of {type(call.module).__name__} comes from the images through operations that could "
            "not be traced, so map cells cannot be placed in the image; give forward=, a function that passes it whole "
            "images"
        )
    if len(known) < len(calls):
        _log.info(
            "%s runs %d times; the image could be traced into %d of these calls, and only those are explained.",
            type(call.module).__name__,
            len(calls),
            len(known),
        )
    ordered = sorted(known, key=lambda view: not is_whole(view[2]))
    return [_view(_OneCall(forward, other), few, other, undo, origin) for other, undo, origin in ordered]


def _view(forward: Forward, images: Tensor, call: NetworkCall, undo: Undo, origin: Origin) -> View:
    if is_whole(origin):
        return View(forward)
    entrance = Entrance(call.module, call.number, call.pictures[0])

    def inside(given: Tensor) -> Any:
        with entrance.replaced(given):
            return forward(images[:1].expand(len(given), -1, -1, -1).clone())

    return View(forward, undo, inside, origin.shape[1:])


class SeveralViews:
    """A forward of which only one call of a network is seen, and the views of all its calls.

    Args:
        views: The first is that which is called.
    """

    def __init__(self, views: Sequence[View]) -> None:
        self.views = list(views)

    @classmethod
    def of(cls, model: nn.Module, images: Tensor, forward: Forward) -> "SeveralViews":
        """Find the views of a forward, unless it has them already."""
        return forward if isinstance(forward, cls) else cls(views_of(model, images, forward))

    @property
    def is_plain(self) -> bool:
        """Whether the network runs once, on the images as they are."""
        first = self.views[0]
        return len(self.views) == 1 and first.undo is in_place and not isinstance(first.forward, _OneCall)

    def __call__(self, images: Tensor) -> Any:
        """Run it, the first view seen."""
        return self.views[0].forward(images)

    def of_rows(self, index: Tensor | slice) -> "SeveralViews":
        """The same for images that belong to these rows."""
        return SeveralViews([replace(view, forward=forward_of_rows(view.forward, index)) for view in self.views])


def _check_count(call: NetworkCall, given: int, count: int) -> None:
    if given != count:
        raise ValueError(
            f"forward: {type(call.module).__name__} gets {given} inputs for {count} images, so map cells cannot be "
            "placed in the image; give forward=, a function that passes it each image once"
        )


def _network(seen: StepObserver) -> NetworkCall | None:
    """The outermost module with parameters that runs several times, else the innermost that all images go through."""
    weighing = [call for call in seen.calls if any(True for _ in call.module.parameters())]
    for call in weighing:
        if seen.times(call.module) > 1:
            return call
    return weighing[-1] if weighing else None


class _OneCall:
    """A forward in which only one call of a module is seen."""

    def __init__(self, forward: Forward, call: NetworkCall) -> None:
        self._forward, self._call = forward, call
        self._as_it_was = AsItWas(call.module)

    def __call__(self, images: Tensor) -> Any:
        with self._others_hidden():
            return self._forward(images)

    def of_rows(self, index: Tensor | slice) -> Forward:
        """The same for images that belong to these rows."""
        return _OneCall(forward_of_rows(self._forward, index), self._call)

    @contextmanager
    def _others_hidden(self) -> Iterator[None]:
        module, count = self._call.module, 0
        own = module.forward

        def run(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            if count - 1 == self._call.number:
                return own(*args, **kwargs)
            with self._as_it_was.running(), torch.no_grad():  # its share is that of another view
                return module.forward(*args, **kwargs)

        with replaced(module, "forward", run):
            yield
