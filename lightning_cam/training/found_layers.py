"""Where a model is explained, once that is found: for other outputs, other images and other ranks."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import nn

from lightning_cam.resolve import TargetLayer


@dataclass(frozen=True)
class FoundLayers:
    """What a search for layers has found.

    Args:
        layers: The target layers.
        embedding: Where methods of the whole depth read relevance; None if there is none among the methods.
        passes_detach: Whether the output has a gradient only if `detach()` is passed over.
    """

    layers: list[TargetLayer]
    embedding: TargetLayer | None
    passes_detach: bool

    def named(self) -> "FoundLayers":
        """The same by name alone, to be sent to another rank."""
        return self._changed(lambda layer: nn.Identity())

    def of(self, model: nn.Module) -> "FoundLayers":
        """The same in another rank's copy of the model."""
        return self._changed(lambda layer: model.get_submodule(layer.name) if layer.name else nn.Identity())

    def _changed(self, module_of: Callable[[TargetLayer], nn.Module]) -> "FoundLayers":
        def changed(layer: TargetLayer) -> TargetLayer:
            return replace(layer, module=module_of(layer))

        embedding = None if self.embedding is None else changed(self.embedding)
        return FoundLayers([changed(layer) for layer in self.layers], embedding, self.passes_detach)
