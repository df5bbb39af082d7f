"""The layers at which a model is explained, kept for other outputs, other images and other ranks."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from torch import Tensor, nn

from lightning_cam.explanation import find_methods
from lightning_cam.explanation.single_bag import OfBag
from lightning_cam.methods.registry import OF_FEATURES
from lightning_cam.model.output import Forward
from lightning_cam.observe.views import SeveralViews
from lightning_cam.resolve import TargetLayer, find_layers_and_views
from lightning_cam.resolve.depth import Depth, find_depth
from lightning_cam.resolve.embedding import find_embedding
from lightning_cam.resolve.features import FeatureLayer, find_features
from lightning_cam.resolve.planes import kind_of_planes
from lightning_cam.training.settings import Settings

Layer = TypeVar("Layer", bound=TargetLayer)


@dataclass(frozen=True)
class FoundLayers:
    """What a search for layers has found.

    Args:
        layers: The target layers.
        depth: Where methods of the whole depth read relevance; None if there is none among the methods.
        passes_detach: Whether the output has a gradient only if `detach()` is passed over.
        features: Where methods of features read them; None if there is none among the methods.
        planes: What images of five axes consist of, see `kind_of_planes`.
    """

    layers: list[TargetLayer]
    depth: Depth | None
    passes_detach: bool
    features: FeatureLayer | None = None
    planes: str = ""

    def __getstate__(self) -> dict[str, Any]:
        """To another rank go the names of layers, and not the layers themselves, see `of`."""
        return vars(self._changed(lambda layer: nn.Identity()))

    def of(self, model: nn.Module) -> "FoundLayers":
        """The same in this rank's copy of the model, where they come from another one."""
        return self._changed(lambda layer: model.get_submodule(layer.name) if layer.name else nn.Identity())

    def _changed(self, module_of: Callable[[TargetLayer], nn.Module]) -> "FoundLayers":
        def changed(layer: Layer) -> Layer:
            return replace(layer, module=module_of(layer))

        depth = self.depth
        if depth is not None:
            blocks = tuple(replace(block, layer=changed(block.layer)) for block in depth.blocks)
            depth = replace(depth, embedding=changed(depth.embedding), blocks=blocks)
        features = None if self.features is None else changed(self.features)
        return FoundLayers([changed(layer) for layer in self.layers], depth, self.passes_detach, features, self.planes)


def find_layers(
    module: nn.Module,
    images: Tensor,
    forward: Forward,
    *,
    methods: Any,
    settings: Settings,
    picks: bool,
    is_bag: bool,
    passes_detach: bool = False,
) -> tuple[FoundLayers, SeveralViews]:
    """Search a model for the layers that its methods ask for.

    Args:
        module: The model.
        images: The probe's, on its device.
        forward: What is called with them.
        methods: Name or names of methods.
        settings: What the user asked for.
        picks: Whether of several outputs the logits are wanted, and not all.
        is_bag: Whether the network takes the instances of one bag at a time.
        passes_detach: Whether `forward` passes `detach()` over.

    Returns:
        The layers, and the calls of the network.

    Raises:
        ValueError: The model cannot be looked at, or an argument does not fit.
    """
    given = searched_with(images, is_bag=is_bag)
    layers, views = find_layers_and_views(
        module,
        given,
        forward=forward,
        target_layers=settings.target_layers,
        layout=settings.layout,
        picks=picks,
        are_instances=is_bag,
    )
    calls = views or SeveralViews.of(module, given, forward)
    needs = frozenset[str]().union(*(method.needs for method in find_methods(methods)))
    is_named = settings.target_layers is not None
    depth, features, planes = None, None, ""
    if "embedding" in needs and is_bag:
        depth = Depth(find_embedding(module, given, forward=calls, are_instances=True))
    elif "embedding" in needs:
        depth = find_depth(module, given, forward=calls)
    if images.ndim == 5:
        whole, run = (images[:1], OfBag(forward)) if is_bag else (images, calls)
        planes = kind_of_planes(module, whole, run, settings.score)
    if needs & OF_FEATURES:
        features = find_features(module, given, layers[-1], forward=calls, is_named=is_named)
    return FoundLayers(layers if is_named else layers[-1:], depth, passes_detach, features, planes), calls


def searched_with(images: Tensor, *, is_bag: bool) -> Tensor:
    """What layers are searched with: images, or the instances of a bag."""
    return images[0].transpose(0, 1) if is_bag else images
