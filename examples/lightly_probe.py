"""A linear probe on a lightly backbone, with the callback: `python -m examples.lightly_probe`.

lightly pretrains backbones without labels; a linear layer on the frozen backbone then shows what it has learned. The
backbone here is the masked vision transformer of lightly's masked autoencoder (MAE), small and with random weights. For
your own, load its weights into `backbone`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from lightly.models.modules import MaskedVisionTransformerTIMM
from lightning.pytorch import LightningModule
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from examples.fruit import FRUIT, IMAGE_SIZE
from examples.short import run


class LinearProbe(LightningModule):
    """A linear classifier on the class token of a frozen backbone."""

    def __init__(self) -> None:
        super().__init__()
        vit = VisionTransformer(img_size=IMAGE_SIZE, patch_size=12, embed_dim=96, depth=4, num_heads=3, num_classes=0)
        self.backbone = MaskedVisionTransformerTIMM(vit=vit).requires_grad_(False)
        self.head = nn.Linear(96, len(FRUIT))

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (B, 5) of images (B, 3, 96, 96)."""
        return self.head(self.backbone(images))

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Return the loss of one batch."""
        return F.cross_entropy(self(batch["image"]), batch["label"])

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Log loss and accuracy of one batch."""
        logits = self(batch["image"])
        self.log("val_loss", F.cross_entropy(logits, batch["label"]))
        self.log("val_acc", (logits.argmax(1) == batch["label"]).float().mean())

    def configure_optimizers(self) -> Optimizer:
        """AdamW for the linear layer alone."""
        return AdamW(self.head.parameters(), lr=1e-2)


if __name__ == "__main__":
    torch.manual_seed(0)
    run(LinearProbe())
