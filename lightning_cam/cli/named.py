"""A model by its name, with what is known of it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from lightning_cam.cli.preprocessing import Preprocessing
from lightning_cam.cli.texts import ImagesAndTexts


@dataclass(frozen=True)
class NamedModel:
    """A model and what its library states about it.

    Args:
        module: The model.
        preprocessing: How pictures are to be prepared; None if unknown.
        class_names: Names of its classes; None if unknown.
        weights: Where its weights come from, and what did not match, in words.
        has_classes: Whether its outputs are classes, and not features.
        images_and_texts: How it compares images with texts; None if it does not.
        texts_as_classes: What is called with images where texts are the classes.
    """

    module: nn.Module
    preprocessing: Preprocessing | None
    class_names: list[str] | None
    weights: str = "random"
    has_classes: bool = True
    images_and_texts: ImagesAndTexts | None = None
    texts_as_classes: Callable[..., Any] | None = None

    @property
    def forward(self) -> Callable[..., Any] | None:
        """What is called with images, if it is not what the module says."""
        if self.texts_as_classes is not None or self.images_and_texts is None:
            return self.texts_as_classes
        return self.images_and_texts.encode_image
