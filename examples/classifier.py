"""Any timm model as a LightningModule."""

from __future__ import annotations

from typing import Any

import timm
import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from torch import Tensor

import examples.models  # noqa: F401  (makes them known to timm)


class Classifier(LightningModule):
    """A timm model trained with AdamW: warm-up over the first tenth of the steps, then cosine decay to 0.

    Batches are dicts with `image` (B, 3, H, W) float32 and `label` (B,) int64. Logged are `train_loss`, `val_loss`
    and `val_acc`.

    Args:
        model_name: A name that `timm.create_model` knows.
        num_classes: Number of classes.
        img_size: Height and width of the images in pixels.
        pretrained: Start from downloaded weights.
        model_kwargs: Further arguments for `timm.create_model`.
        lr: Highest learning rate.
        weight_decay: Weight decay.

    Example:
        >>> small = {"patch_size": 8, "embed_dim": 24, "depth": 1, "num_heads": 2}
        >>> classifier = Classifier("vit_tiny_patch16_224", img_size=56, model_kwargs=small)
        >>> classifier(torch.zeros(2, 3, 56, 56)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        model_name: str = "vit_tiny_patch16_224",
        *,
        num_classes: int = 10,
        img_size: int = 224,
        pretrained: bool = False,
        model_kwargs: dict[str, Any] | None = None,
        lr: float = 1e-3,
        weight_decay: float = 0.05,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.lr = lr
        self.weight_decay = weight_decay
        self.model = timm.create_model(
            model_name, pretrained=pretrained, num_classes=num_classes, img_size=img_size, **model_kwargs or {}
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (B, num_classes) of normalized images (B, 3, H, W)."""
        return self.model(images)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Return the loss of one batch."""
        loss = F.cross_entropy(self(batch["image"]), batch["label"])
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Log loss and accuracy of one batch."""
        logits, labels = self(batch["image"]), batch["label"]
        correct = (logits.argmax(dim=1) == labels).float().mean()
        self.log("val_loss", F.cross_entropy(logits, labels), batch_size=len(labels))
        self.log("val_acc", correct, batch_size=len(labels), prog_bar=True)

    def configure_optimizers(self) -> Any:
        """AdamW with a schedule over all steps of the training."""
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.lr, weight_decay=self.weight_decay)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, max_lr=self.lr, total_steps=int(self.trainer.estimated_stepping_batches), pct_start=0.1
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
