"""`--texts`: the classes of a model of images and texts."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lightning_cam.cli.errors import UsageError
from lightning_cam.model.output import outputs_of
from lightning_cam.model.untouched import looking
from lightning_cam.scores import ZeroShot


@dataclass(frozen=True)
class ImagesAndTexts:
    """How a model of images and texts compares both.

    Args:
        model: The model; its `logit_scale` is the logarithm of what similarities are multiplied by.
        encode_image: From images (B, C, H, W) to features (B, D).
        tokenize: From texts to what `encode_text` takes, on the CPU.
        encode_text: From that to features (texts, D).
    """

    model: nn.Module
    encode_image: Callable[..., Any]
    tokenize: Callable[[list[str]], Any]
    encode_text: Callable[..., Any]

    def classes(self, texts: list[str]) -> ZeroShot:
        """The texts as classes.

        Args:
            texts: At least two.

        Raises:
            UsageError: There are fewer, or one is given twice.
        """
        if len(texts) < 2 or len(set(texts)) < len(texts):
            raise UsageError(
                "--texts: expected at least two different texts, one for each class, such as "
                f"--texts 'a photo of a cat' 'a photo of a dog', got {texts}"
            )
        device = next(self.model.parameters()).device
        with looking(self.model), torch.no_grad():
            features = outputs_of(self.encode_text(self.tokenize(texts).to(device)), len(texts))
        scale = self.model.logit_scale
        assert isinstance(scale, Tensor)
        return ZeroShot(self.encode_image, features, float(scale.detach().exp()))
