"""Scores to explain instead of a class: callables from the model's output to one number per image."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_cam.model.output import logits_of, outputs_of


@dataclass(frozen=True)
class Finer:
    """The evidence for a class that its most similar classes do not share.

    `s = sum_j p_j (y_c - alpha * y_j) / sum_j p_j` over the `num_similar` classes `j` whose logits `y_j` are nearest to
    that of class `c`, `p` the softmax (Zhang et al. 2025, "Finer-CAM: Spotting the Difference Reveals Finer Details for
    Visual Explanation", CVPR, arXiv:2501.11309; the same as grad-cam's `FinerCAM`). For classes that share most of
    their evidence, such as breeds: what they share cancels out.

    Args:
        class_idx: The class; None for the predicted one of each image.
        num_similar: Number of classes to contrast with; fewer if the model has fewer.
        alpha: How much of their evidence is subtracted.

    Example:
        >>> logits = torch.tensor([[4.0, 3.0, 3.0, 0.0]])
        >>> Finer(num_similar=2)(logits)
        tensor([1.])
    """

    class_idx: int | None = None
    num_similar: int = 3
    alpha: float = 1.0

    def __call__(self, output: Any) -> Tensor:
        """Return (B,) float32 of a model's output with logits (B, classes).

        Raises:
            ValueError: There are no logits, or `class_idx` is not among them.
        """
        logits = logits_of(output).float()
        count = logits.shape[1]
        if not 0 <= (self.class_idx or 0) < count:
            raise ValueError(f"score: Finer(class_idx={self.class_idx}) is not one of the model's {count} classes")
        own = logits.max(1).values if self.class_idx is None else logits[:, self.class_idx]
        with torch.no_grad():  # which classes are similar is not itself explained
            nearest = (logits - own[:, None]).abs().argsort(dim=1, stable=True)
            if self.class_idx is not None:  # another class may have the very same logit
                nearest = nearest[nearest != self.class_idx].view(len(logits), count - 1)
            else:
                nearest = nearest[:, 1:]
            similar = nearest[:, : self.num_similar]
        weights = logits.softmax(1).gather(1, similar)
        contrast = own[:, None] - self.alpha * logits.gather(1, similar)
        return (weights * contrast).sum(1) / (weights.sum(1) + 1e-9)  # grad-cam's guard


@dataclass(frozen=True)
class EmbeddingSimilarity:
    """How similar an image's embedding is to a reference: why the model sees two images as similar.

    `s = cos(f(image), reference)`, for models (or a `forward`) that return features instead of logits, as in
    grad-cam's tutorial on embeddings.

    Args:
        reference: (D,) or (1, D) floating, such as the embedding of another image or of a text; or the path of a file
            that `torch.save` wrote one to.

    Raises:
        ValueError: `reference` is not one vector.

    Example:
        >>> EmbeddingSimilarity(torch.tensor([1.0, 0.0]))(torch.tensor([[3.0, 4.0]]))
        tensor([0.6000])
    """

    reference: Tensor | str
    _vector: Tensor = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        given = self.reference
        tensor = given if isinstance(given, Tensor) else torch.load(Path(given), map_location="cpu", weights_only=True)
        if not isinstance(tensor, Tensor) or tensor.ndim not in (1, 2) or tensor.numel() != tensor.shape[-1]:
            came = f"shape {tuple(tensor.shape)}" if isinstance(tensor, Tensor) else type(tensor).__name__
            raise ValueError(f"reference: expected one embedding of shape (D,), got {came}")
        object.__setattr__(self, "_vector", tensor.detach().float().reshape(1, -1))

    def __call__(self, output: Any) -> Tensor:
        """Return (B,) float32 in [-1, 1] of a model's output with embeddings (B, D).

        Raises:
            ValueError: The embeddings are of another length than the reference.
        """
        embeddings = logits_of(output).float()
        if embeddings.shape[1] != self._vector.shape[1]:
            raise ValueError(
                f"reference: has {self._vector.shape[1]} numbers, but the model's embeddings have {embeddings.shape[1]}"
            )
        return F.cosine_similarity(embeddings, self._vector.to(embeddings.device, non_blocking=True), dim=1)


@dataclass(frozen=True)
class ZeroShot:
    """Texts as classes: a `forward=` for models of images and texts, which puts out a logit for each text.

    `z_k = scale * cos(f(image), t_k)`, as in zero-shot classification (Radford et al. 2021, "Learning Transferable
    Visual Models From Natural Language Supervision", sec. 3.1.2, arXiv:2103.00020).

    Args:
        encode_image: From images to their features (B, D), such as `model.encode_image` of open_clip or
            `model.get_image_features` of Hugging Face's CLIP.
        text_features: (classes, D) floating, of the texts, of any length: only their directions count.
        scale: What similarities are multiplied by, as the model's `logit_scale.exp()`: 100 in OpenAI's.

    Raises:
        ValueError: `text_features` are not one vector per class, or less than two.

    Example:
        >>> forward = ZeroShot(torch.nn.Flatten(), torch.eye(2), scale=10.0)
        >>> forward(torch.tensor([3.0, 4.0]).view(1, 1, 1, 2))
        tensor([[6., 8.]])
    """

    encode_image: Callable[..., Any]
    text_features: Tensor
    scale: float = 100.0

    def __post_init__(self) -> None:
        shape = tuple(self.text_features.shape)
        if len(shape) != 2 or shape[0] < 2:
            raise ValueError(f"text_features: expected one vector per class, (classes, D), got shape {shape}")

    def __call__(self, images: Tensor) -> Tensor:
        """Return logits (B, classes) of images (B, C, H, W)."""
        features = outputs_of(self.encode_image(images), len(images))
        texts = self.text_features.detach().to(features, non_blocking=True)
        return self.scale * F.normalize(features, dim=1) @ F.normalize(texts, dim=1).T
