"""A Hugging Face model in a LightningModule, with the callback: `python -m examples.huggingface`.

The model is small and has random weights, so that nothing is downloaded. For a pretrained one write
`ViTForImageClassification.from_pretrained("google/vit-base-patch16-224", num_labels=…, ignore_mismatched_sizes=True)`.
"""

from __future__ import annotations

from lightning.pytorch import LightningModule
from torch import Tensor
from torch.optim import AdamW, Optimizer
from transformers import ViTConfig, ViTForImageClassification

from examples.fruit import FRUIT, IMAGE_SIZE
from examples.short import run


class HuggingFaceClassifier(LightningModule):
    """Any image classifier of transformers; the model computes the loss itself when it is given labels."""

    def __init__(self) -> None:
        super().__init__()
        config = ViTConfig(
            image_size=IMAGE_SIZE,
            patch_size=12,
            hidden_size=96,
            num_hidden_layers=4,
            num_attention_heads=3,
            intermediate_size=384,
            id2label=dict(enumerate(FRUIT)),  # names of classes in pictures and sentences
        )
        self.model = ViTForImageClassification(config)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Return the loss of one batch."""
        return self.model(pixel_values=batch["image"], labels=batch["label"]).loss

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Log loss and accuracy of one batch."""
        output = self.model(pixel_values=batch["image"], labels=batch["label"])
        self.log("val_loss", output.loss)
        self.log("val_acc", (output.logits.argmax(1) == batch["label"]).float().mean())

    def configure_optimizers(self) -> Optimizer:
        """AdamW at a constant rate."""
        return AdamW(self.parameters(), lr=1e-3)


if __name__ == "__main__":
    run(HuggingFaceClassifier())
