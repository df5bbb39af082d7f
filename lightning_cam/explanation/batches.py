"""The maps of one batch, over the views of test-time augmentation and the calls of a network."""

import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_cam.methods import DoesNotApply, Method, principal_projection
from lightning_cam.methods.cells import shared_out
from lightning_cam.model.signals import stop_if_interrupted
from lightning_cam.observe.places import Undo
from lightning_cam.passes.captured import Capture
from lightning_cam.passes.method_inputs import OF_IMAGES, MethodInputs
from lightning_cam.resolve import TargetLayer
from lightning_cam.resolve.embedding import PIXELS

_log = logging.getLogger(__name__)


class Augmented(NamedTuple):
    """One of the copies of an image that test-time augmentation looks at."""

    flipped: bool
    brightness: float

    def of(self, images: Tensor) -> Tensor:
        """The copy of images."""
        images = images.flip(-1) if self.flipped else images
        return images if self.brightness == 1 else images * self.brightness

    def back(self, maps: Tensor) -> Tensor:
        """Maps of the copy as maps of the images."""
        return maps.flip(-1) if self.flipped else maps


# grad-cam's (`BaseCAM.forward_augmentation_smoothing`), the plain image first.
VIEWS = [Augmented(flipped, brightness) for flipped in (False, True) for brightness in (1.0, 0.9, 1.1)]


def explain_batch(
    inputs_of: Callable[..., MethodInputs],
    images: Tensor,
    class_idx: Tensor | int | None,
    methods: Sequence[Method],
    views: Sequence[Augmented],
    eigen_smooth: bool,
    skip: bool,
) -> tuple[Capture, dict[str, list[Tensor]]]:
    """The pass of the plain images, and for each method the (V, B, h, w) maps of each layer.

    With `skip`, methods that do not apply to the model are left out.
    """
    inputs = [inputs_of(images, class_idx=class_idx)]
    plain = inputs[0].captured
    inputs += [inputs_of(view.of(images), class_idx=plain.class_idx) for view in views[1:]]
    maps = {}
    for method in methods:
        stop_if_interrupted()
        options = {"reduce": principal_projection} if eigen_smooth and method.can_eigen_smooth else {}
        try:
            by_view = [
                [view.back(layer) for layer in one.maps(method, **options)]
                for view, one in zip(views, inputs, strict=True)
            ]
        except DoesNotApply as error:
            if not skip:
                raise
            _log.info("%s", error)
            continue
        maps[method.name] = [torch.stack(layer) for layer in zip(*by_view, strict=True)]
    return plain, maps


def sum_of_calls(
    parts: list[tuple[Capture, dict[str, list[Tensor]]]],
    undos: Sequence[Undo],
    methods: Sequence[Method],
    layers: Sequence[TargetLayer],
    embedding: TargetLayer | None,
) -> tuple[Capture, dict[str, list[Tensor]]]:
    """The maps of a network's calls, each in its place: those of gradients are parts of a sum, others the first's."""
    plain, explained = parts[0]
    maps = {}
    for method in (method for method in methods if method.name in explained):
        found = [part[method.name] for _, part in parts]
        places = list(layers) if method.per_layer else [layers[-1]]
        if embedding is not None and "embedding" in method.needs:
            places = [embedding]
        if method.needs.isdisjoint(OF_IMAGES) and places[0].name != PIXELS:
            found = [
                [undo(place.on_image(layer)) for place, layer in zip(places, of_call, strict=True)]
                for of_call, undo in zip(found, undos, strict=True)
            ]
        maps[method.name] = found[0]
        if len(found) > 1 and any("gradients" in need or need == "gradient_images" for need in method.needs):
            maps[method.name] = [_sum(layers_of) for layers_of in zip(*found, strict=True)]
    return plain, maps


def _sum(maps: Sequence[Tensor]) -> Tensor:
    """The sum of maps of the same images, on the finest of their grids."""
    grid = (max(one.shape[-2] for one in maps), max(one.shape[-1] for one in maps))
    return torch.stack([shared_out(one, grid) for one in maps]).sum(0)
