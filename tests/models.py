"""Small models that several tests share; random weights, fixed by a seed."""

import timm
import torch
from torch import nn


def jitter(model: nn.Module, seed: int = 0) -> nn.Module:
    """Move every parameter off its initial value: fresh norms and biases are constant and hide mistakes."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model


def class_token_vit(**changes) -> nn.Module:
    torch.manual_seed(0)
    options = dict(img_size=32, patch_size=8, embed_dim=24, depth=3, num_heads=2, num_classes=5)
    return jitter(timm.create_model("vit_tiny_patch16_224", **{**options, **changes})).eval()


def average_pool_vit(**changes) -> nn.Module:
    return class_token_vit(global_pool="avg", class_token=False, **changes)


def swin(**changes) -> nn.Module:
    torch.manual_seed(0)
    options = dict(
        img_size=64, patch_size=4, window_size=4, embed_dim=16, depths=(1, 2), num_heads=(2, 2), num_classes=5
    )
    return jitter(timm.create_model("swin_tiny_patch4_window7_224", **{**options, **changes})).eval()
