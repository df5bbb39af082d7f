"""Hugging Face image classifiers, small and with random weights."""

import torch
import transformers as hf
from torch import nn

SIZE = (96, 64)
VIT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}

DINO = {**VIT, "image_size": 96, "patch_size": 16, "num_labels": 5}


class FeatureClassifier(nn.Module):
    """A linear head on a model that returns hidden states only."""

    def __init__(self, body, width, pool="first"):
        super().__init__()
        self.body, self.head, self.pool = body, nn.Linear(width, 5), pool

    def forward(self, x):
        hidden = self.body(pixel_values=x).last_hidden_state
        return self.head(hidden[:, 0] if self.pool == "first" else hidden.flatten(2).mean(1 if hidden.ndim == 3 else 2))


def _vit(config, **extra):
    return config(**VIT, image_size=list(SIZE), patch_size=16, num_labels=5, **extra)


def build(name: str) -> nn.Module:
    """Build the model of this name; images are `SIZE` unless `IMAGE_SIZES` says otherwise."""
    torch.manual_seed(0)
    return BUILDERS[name]()


BUILDERS = {
    "ViT": lambda: hf.ViTForImageClassification(_vit(hf.ViTConfig)),
    "DeiT": lambda: hf.DeiTForImageClassification(_vit(hf.DeiTConfig)),
    "DeiT with teacher": lambda: hf.DeiTForImageClassificationWithTeacher(_vit(hf.DeiTConfig)),
    "BEiT": lambda: hf.BeitForImageClassification(_vit(hf.BeitConfig, use_relative_position_bias=True)),
    "BEiT class token": lambda: hf.BeitForImageClassification(_vit(hf.BeitConfig, use_mean_pooling=False)),
    "Data2Vec": lambda: hf.Data2VecVisionForImageClassification(_vit(hf.Data2VecVisionConfig)),
    "ViT-MSN": lambda: hf.ViTMSNForImageClassification(_vit(hf.ViTMSNConfig)),
    "DINOv2": lambda: hf.Dinov2ForImageClassification(hf.Dinov2Config(**DINO)),
    "DINOv2 with registers": lambda: hf.Dinov2WithRegistersForImageClassification(
        hf.Dinov2WithRegistersConfig(**DINO, num_register_tokens=4)
    ),
    "DINOv3": lambda: FeatureClassifier(hf.DINOv3ViTModel(_vit(hf.DINOv3ViTConfig, num_register_tokens=4)), 32),
    "I-JEPA": lambda: hf.IJepaForImageClassification(_vit(hf.IJepaConfig)),
    "CLIP": lambda: hf.CLIPForImageClassification(
        hf.CLIPConfig(
            vision_config={**VIT, "image_size": 64, "patch_size": 16},
            text_config={**VIT, "vocab_size": 99},
            num_labels=5,
        )
    ),
    "SigLIP": lambda: hf.SiglipForImageClassification(
        hf.SiglipConfig(
            vision_config={**VIT, "image_size": 64, "patch_size": 16},
            text_config={**VIT, "vocab_size": 99},
            num_labels=5,
        )
    ),
    "Swin": lambda: hf.SwinForImageClassification(
        hf.SwinConfig(image_size=224, embed_dim=24, depths=[1, 1, 2, 2], num_heads=[1, 2, 4, 8], num_labels=5)
    ),
    "SwinV2": lambda: hf.Swinv2ForImageClassification(
        hf.Swinv2Config(
            image_size=256, window_size=8, embed_dim=24, depths=[1, 1, 2, 2], num_heads=[1, 2, 4, 8], num_labels=5
        )
    ),
    "PVT": lambda: hf.PvtForImageClassification(
        hf.PvtConfig(image_size=224, hidden_sizes=[16, 32, 40, 64], depths=[1, 1, 1, 2], num_labels=5)
    ),
    "PVTv2": lambda: hf.PvtV2ForImageClassification(
        hf.PvtV2Config(image_size=224, hidden_sizes=[16, 16, 40, 64], depths=[1, 1, 1, 2], num_labels=5)
    ),
    "CvT": lambda: hf.CvtForImageClassification(
        hf.CvtConfig(embed_dim=[16, 24, 48], num_heads=[1, 3, 6], depth=[1, 2, 3], num_labels=5)
    ),
    "LeViT": lambda: hf.LevitForImageClassification(hf.LevitConfig(num_labels=5, depths=[1, 1, 2])),
    "LeViT with teacher": lambda: hf.LevitForImageClassificationWithTeacher(
        hf.LevitConfig(num_labels=5, depths=[1, 1, 2])
    ),
    "MobileViT": lambda: hf.MobileViTForImageClassification(
        hf.MobileViTConfig(image_size=256, hidden_sizes=[24, 32, 40], neck_hidden_sizes=[8, 16, 24, 32, 40, 48, 160])
    ),
    "MobileViTv2": lambda: hf.MobileViTV2ForImageClassification(
        hf.MobileViTV2Config(image_size=256, width_multiplier=0.5)
    ),
    "SegFormer": lambda: hf.SegformerForImageClassification(
        hf.SegformerConfig(hidden_sizes=[16, 16, 40, 64], depths=[1, 1, 1, 2], num_labels=5)
    ),
    "Hiera": lambda: hf.HieraForImageClassification(
        hf.HieraConfig(image_size=[224, 224], embed_dim=16, depths=[1, 1, 2, 2], num_heads=[1, 2, 4, 8], num_labels=5)
    ),
    "Hiera, last stage of one block": lambda: hf.HieraForImageClassification(
        hf.HieraConfig(image_size=[224, 224], embed_dim=16, depths=[1, 1, 2, 1], num_heads=[1, 2, 4, 8], num_labels=5)
    ),
    "PoolFormer": lambda: hf.PoolFormerForImageClassification(
        hf.PoolFormerConfig(hidden_sizes=[16, 16, 32, 32], depths=[1, 1, 1, 2], num_labels=5)
    ),
    "FocalNet": lambda: hf.FocalNetForImageClassification(
        hf.FocalNetConfig(image_size=224, embed_dim=16, depths=[1, 1, 1, 1], num_labels=5)
    ),
    "SwiftFormer": lambda: hf.SwiftFormerForImageClassification(hf.SwiftFormerConfig(num_labels=5)),
    "Perceiver": lambda: hf.PerceiverForImageClassificationConvProcessing(
        hf.PerceiverConfig(
            num_latents=49,
            d_latents=32,
            num_self_attends_per_block=2,
            num_self_attention_heads=4,
            num_cross_attention_heads=1,
            num_labels=5,
        )
    ),
    "ResNet": lambda: hf.ResNetForImageClassification(
        hf.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16, 32, 64], depths=[1, 1, 1, 1], num_labels=5)
    ),
    "ConvNeXt": lambda: hf.ConvNextForImageClassification(
        hf.ConvNextConfig(hidden_sizes=[8, 16, 32, 64], depths=[1, 1, 1, 1], num_labels=5)
    ),
}

IMAGE_SIZES = {
    **dict.fromkeys(("CLIP", "SigLIP"), (64, 64)),
    "Swin": (224, 224),
    "SwinV2": (160, 96),
    **dict.fromkeys(("PVT", "LeViT", "LeViT with teacher", "Perceiver"), (224, 224)),
    **dict.fromkeys(("Hiera", "Hiera, last stage of one block"), (224, 224)),
    **dict.fromkeys(("PVTv2", "CvT", "SegFormer", "PoolFormer", "FocalNet"), (224, 160)),
    **dict.fromkeys(("SwiftFormer", "ResNet", "ConvNeXt"), (224, 160)),
    **dict.fromkeys(("MobileViT", "MobileViTv2"), (256, 192)),
}
