"""Masked autoencoders that mask patches at random wherever they are called, called with whole images."""

from typing import Any

import torch
from torch import Tensor, nn

from lightning_cam.model.untouched import replaced


class Unmasked:
    """The encoder of Hugging Face's `ViTMAE…` on whole images: all patches, in their order.

    Its `forward` leaves out a share of the patches, `mask_ratio`, and shuffles the others, in evaluation too.

    Args:
        encoder: A `ViTMAEModel`.
    """

    def __init__(self, encoder: nn.Module) -> None:
        self._encoder: Any = encoder

    def __call__(self, images: Tensor) -> Tensor:
        """Return the tokens (B, 1 + patches, C), the class token first."""
        patches = self._encoder.embeddings.patch_embeddings.num_patches
        order = torch.arange(patches, device=images.device, dtype=torch.float32).expand(len(images), -1)
        with replaced(self._encoder.config, "mask_ratio", 0.0):
            output = self._encoder(images, noise=order)
        tokens: Tensor = output.last_hidden_state
        return tokens


def unmasked_of(network: nn.Module) -> Unmasked | None:
    """The encoder of a network on whole images, if that masks patches wherever it is called; else None."""
    encoder = next((part for part in network.modules() if type(part).__name__ == "ViTMAEModel"), None)
    return None if encoder is None else Unmasked(encoder)
