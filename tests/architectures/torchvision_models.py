"""torchvision's vision transformers, small, and CNNs."""

import torch
from torch import nn
from torchvision import models

from tests.architectures.answers import Answer

_SWIN = {"patch_size": [4, 4], "embed_dim": 24, "depths": [1, 1, 2, 2], "num_heads": [1, 2, 4, 8], "num_classes": 5}

CASES = {
    "vit_b_16": (
        lambda: models.VisionTransformer(96, 16, 2, 3, 48, 96, num_classes=5),
        (96, 96),
        Answer(r"encoder\.layers\.encoder_layer_1\.ln_1", prefix=1),
    ),
    "swin_t": (
        lambda: models.SwinTransformer(window_size=[7, 7], **_SWIN),
        (224, 160),
        Answer(r"features\.7\.1\.norm1", "NHWC", 32),
    ),
    "swin_v2_t": (
        lambda: models.SwinTransformer(
            window_size=[8, 8],
            block=models.swin_transformer.SwinTransformerBlockV2,
            downsample_layer=models.swin_transformer.PatchMergingV2,
            **_SWIN,
        ),
        (256, 192),
        Answer(r"features\.7\.1\.norm1", "NHWC", 32),
    ),
    "maxvit_t": (
        lambda: models.MaxVit((448, 448), 16, 7, [16, 16, 32, 32], [1, 1, 1, 1], 16, 0.0, num_classes=5),
        (448, 448),
        Answer(r"blocks\.3\.layers\.0\.layers\.grid_attention\.attn_layer\.0", "B (h w) (H W) C", 32),
    ),
    "resnet18": (models.resnet18, (224, 160), Answer(r"layer4\.1", "NCHW", 32)),
    "convnext_tiny": (
        lambda: models.ConvNeXt([models.convnext.CNBlockConfig(8, None, 2)], num_classes=5),
        (64, 64),
        Answer(r"features\.1\.1", "NCHW", 4),
    ),
    "efficientnet_b0": (models.efficientnet_b0, (224, 160), Answer(r"features\.8\.2", "NCHW", 32)),
}


def build(name: str) -> tuple[nn.Module, tuple[int, int], Answer | None]:
    """The model, its image size, and what is right for it."""
    torch.manual_seed(0)
    builder, size, answer = CASES[name]
    return builder(), size, answer
