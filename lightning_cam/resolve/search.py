"""The first step of every search in a model: one forward of noise, and what it showed."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lightning_cam.model.keep_grad import WithGraphWhereNeeded
from lightning_cam.model.output import Forward, OnCopies
from lightning_cam.observe.outputs import Picked, place_of_logits
from lightning_cam.observe.step import StepObserver
from lightning_cam.observe.views import SeveralViews, views_in
from lightning_cam.resolve.jitter import calibrate
from lightning_cam.resolve.refusals import NoGradient, without_graph_only
from lightning_cam.resolve.watch import Trace, watch

BATCH = 2  # tells the batch axis from the others


@dataclass(frozen=True)
class Search:
    """A model seen at work on noise. Use it inside `looking(model)`, with gradients.

    Args:
        run: What is called with images as the network is given them, which may be flipped, cut or padded ones: a
            layer's layout says where its tokens lie in these.
        images: (B, C, H, W), such images, part of a graph.
        trace: What their forward showed.
        views: The calls of the network.
        image_size: Of the images as the forward of all is given them: (H, W), or (D, H, W) of volumes.
    """

    run: Forward
    images: Tensor
    trace: Trace
    views: SeveralViews
    image_size: tuple[int, ...]

    @classmethod
    def of(cls, model: nn.Module, images: Tensor, forward: Forward, *, picks: bool = True) -> "Search":
        """See it.

        Args:
            model: The module that is searched.
            images: (B, C, H, W), of whose shape, dtype, device and range the noise is.
            forward: What to call with the images.
            picks: Whether of several outputs the logits are wanted, and not all.

        Raises:
            ValueError: Several outputs could be the logits.
        """
        if isinstance(forward, SeveralViews):
            return cls._of_views(model, images, forward)
        run = WithGraphWhereNeeded(OnCopies(forward))
        base = _noise(model, run, images)
        with _said_if_without_graph_only(run, base), StepObserver(model, {"images": base}) as seen:
            trace = watch(model, run, base)
        place = place_of_logits(trace.output, BATCH, seen.of) if picks else None
        if place is not None:
            return cls.of(model, images, Picked(forward, place), picks=False)
        views = SeveralViews(views_in(seen, base.detach(), forward))
        if views.is_plain:
            return cls(run, base, trace, views, tuple(images.shape[2:]))
        return cls._of_views(model, images, views)

    @classmethod
    def _of_views(cls, model: nn.Module, images: Tensor, views: SeveralViews) -> "Search":
        first = views.views[0]
        run = WithGraphWhereNeeded(OnCopies(views if first.inside is None else first.inside))
        base = _noise(model, run, images, None if first.inside is None else first.shape)
        return cls(run, base, watch(model, run, base), views, tuple(images.shape[2:]))


@contextmanager
def _said_if_without_graph_only(run: Forward, images: Tensor) -> Iterator[None]:
    """Say it in words where the body, which keeps gradients, fails and the same forward works without a graph."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        with torch.no_grad():
            if not _runs(run, images.detach()):  # it is the model's own
                raise
        raise NoGradient(without_graph_only()) from error


def _runs(run: Forward, images: Tensor) -> bool:
    try:
        run(images)
    except Exception:
        return False
    return True


def _noise(model: nn.Module, run: Forward, images: Tensor, shape: tuple[int, ...] | None = None) -> Tensor:
    """Noise in the range of the images, or of another shape, where their range says nothing, around 0."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(BATCH, *(images.shape[1:] if shape is None else shape), generator=generator).to(images)
    if shape is None:  # a model that takes bytes would see nothing but black
        spread, center = torch.std_mean(images.detach(), correction=0)
        noise = torch.where(spread > 0, center + spread * noise, noise)
    calibrate(model, run, noise)
    # An inference tensor cannot take part in a graph; neither can a leaf that the model writes to.
    return noise.clone().requires_grad_() * 1
