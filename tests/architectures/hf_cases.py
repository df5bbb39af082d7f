"""What is right for each Hugging Face classifier."""

from torch import nn

from tests.architectures import hf_models
from tests.architectures.answers import Answer

_STAGE = Answer(r".*\.3\.(layers|blocks|layer)?\.?1\.(layernorm_before|layer_norm_1|before_norm)", stride=32)


def _last(prefix: int) -> Answer:
    return Answer(r".*\.layers?\.1\.(layernorm_before|norm1|layer_norm1)", prefix=prefix)


CASES = {
    **dict.fromkeys(("ViT", "BEiT", "BEiT class token", "Data2Vec", "ViT-MSN", "DINOv2", "CLIP"), _last(1)),
    **dict.fromkeys(("DeiT", "DeiT with teacher"), _last(2)),
    **dict.fromkeys(("DINOv2 with registers", "DINOv3"), _last(5)),
    **dict.fromkeys(("I-JEPA", "SigLIP"), _last(0)),
    **dict.fromkeys(("Swin", "SwinV2", "PVTv2", "SegFormer", "Hiera"), _STAGE),
    "Hiera, last stage of one block": Answer(r".*\.3\.layers\.0\.layernorm_before", "B (h w H W) C", 16),
    "PVT": Answer(_STAGE.layer, stride=32, prefix=1),
    "CvT": Answer(r".*stages\.2\.layers\.2\.layernorm_before", prefix=1),
    **dict.fromkeys(("LeViT", "LeViT with teacher"), Answer(r".*stages\.2\..*batch_norm", "(B H W) C", 64)),
    "MobileViT": Answer(r".*layer\.4\.transformer\.layer\.2\.layernorm_before", "(B h w) (H W) C", 32),
    "MobileViTv2": Answer(r".*layer\.4\.transformer\.layer\.2\.layernorm_before", "B C (h w) (H W)", 32),
    "PoolFormer": Answer(_STAGE.layer, "NCHW", 32),
    "SwiftFormer": Answer(r".*network\.6\.blocks\.3\..*norm", "NCHW", 32),
    "ResNet": Answer(r".*stages\.3\.layers\.0\.activation", "NCHW", 32),
    "ConvNeXt": Answer(r".*stages\.3\.layers\.0", "NCHW", 32),
    "FocalNet": Answer(r".*layernorm", stride=32),
    "Perceiver": None,  # its tokens are latents
}


def build(name: str) -> tuple[nn.Module, tuple[int, int], Answer | None]:
    """The model, its image size, and what is right for it."""
    return hf_models.build(name), hf_models.IMAGE_SIZES.get(name, hf_models.SIZE), CASES[name]
