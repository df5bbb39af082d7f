"""The layers at which a model is explained, kept for other outputs, other images and other ranks."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from torch import nn

from lightning_cam.resolve import TargetLayer
from lightning_cam.resolve.depth import Depth
from lightning_cam.resolve.features import FeatureLayer

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
