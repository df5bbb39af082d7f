"""Images of which one class has a mark, and a transformer small enough to learn it."""

import timm
import torch
from torch.utils.data import TensorDataset

SIZE = 32


def marked(count, seed):
    """Noise in three classes; the first one has a bright cell in a corner, the others differ in nothing."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(count, 3, SIZE, SIZE, generator=generator) * 0.5 - 0.3
    labels = torch.arange(count) % 3
    images[labels == 0, 0, :8, :8] = 0.7
    return TensorDataset(images, labels)


def small_vit():
    small = {"img_size": SIZE, "patch_size": 8, "embed_dim": 96, "depth": 2, "num_heads": 4, "num_classes": 3}
    return timm.create_model("vit_tiny_patch16_224", **small)
