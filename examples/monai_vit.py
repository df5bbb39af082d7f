"""A MONAI vision transformer in two dimensions, with the callback: `python -m examples.monai_vit`.

The model has random weights and the pictures are no medical ones, so that nothing is downloaded. MONAI's classifier
returns its logits together with the hidden states of all blocks; the callback sees which of them the loss reads.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from monai.networks.nets import ViT
from torch import Tensor
from torch.optim import AdamW, Optimizer

from examples.fruit import FRUIT, IMAGE_SIZE
from examples.short import run


class MonaiClassifier(LightningModule):
    """A vision transformer of MONAI with `spatial_dims=2`."""

    def __init__(self) -> None:
        super().__init__()
        self.model = ViT(
            in_channels=3,
            img_size=(IMAGE_SIZE, IMAGE_SIZE),
            patch_size=(12, 12),
            hidden_size=96,
            mlp_dim=384,
            num_layers=4,
            num_heads=3,
            classification=True,
            num_classes=len(FRUIT),
            post_activation="",  # logits; by default MONAI ends with a tanh
            spatial_dims=2,
        )

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Return the loss of one batch."""
        logits, _ = self.model(batch["image"])
        return F.cross_entropy(logits, batch["label"])

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Log loss and accuracy of one batch."""
        logits, _ = self.model(batch["image"])
        self.log("val_loss", F.cross_entropy(logits, batch["label"]))
        self.log("val_acc", (logits.argmax(1) == batch["label"]).float().mean())

    def configure_optimizers(self) -> Optimizer:
        """AdamW at a constant rate."""
        return AdamW(self.parameters(), lr=1e-3)


if __name__ == "__main__":
    torch.manual_seed(0)
    run(MonaiClassifier())
