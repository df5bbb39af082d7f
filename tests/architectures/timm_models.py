"""timm models for the sweep: how they are built small, and what is right for them."""

import re
from dataclasses import replace
from math import gcd

import timm
import torch
from timm.models._registry import _model_to_module
from torch import nn

from tests.architectures.answers import Answer

# What makes a family's models cheap to run without changing what they are made of. `patches` stands for an image
# of so many patches, for those that take any image size.
_VIT = {"depth": 2, "embed_dim": 48, "num_heads": 3}
SMALLER: dict[str, dict] = {
    **{family: {**_VIT, "patches": (6, 4)} for family in ("vision_transformer", "eva", "deit", "beit")},
    "vision_transformer_relpos": {**_VIT, "patches": (6, 4)},
    "vision_transformer_hybrid": _VIT,
    "vision_transformer_sam": {**_VIT, "depth": 3, "global_attn_indexes": (2,), "img_size": 256},
    **{family: {"depth": 2} for family in ("deepseek_vit", "qwen3_vit", "gemma4_vit", "naflexvit", "tnt", "xcit")},
    "cait": {"depth": 1},
    "convit": {"depth": 2, "local_up_to_layer": 1},
    "swin_transformer": {"depths": (1, 1, 2, 2), "embed_dim": 24, "img_size": (224, 160)},
    "swin_transformer_v2": {"depths": (1, 1, 2, 2), "embed_dim": 24, "img_size": (256, 192)},
    "swin_transformer_v2_cr": {"depths": (1, 1, 2, 2), "embed_dim": 24},
    "twins": {"depths": (1, 1, 2, 2)},
    **{family: {"depths": (1, 1, 1, 1)} for family in ("pvt_v2", "davit", "gcvit", "focalnet")},
    "hiera": {"stages": (1, 1, 2, 1)},
    "maxxvit": {"depths": (1, 1, 1, 2), "embed_dim": (32, 32, 64, 64)},
}
# Models that allow other image sizes without being told so are looked at in portrait.
# fmt: off
ANY_SIZE = {
    "coat", "edgenext", "efficientformer_v2", "efficientvim", "efficientvit_mit",
    "fastvit", "iformer", "lowformer", "mobilenetv3", "mobilenetv5", "nextvit", "pvt_v2", "repvit",
    "shvit", "swiftformer", "twins", "metaformer", "cpubone", "convmixer", "davit", "xcit",
    "mvitv2", "starnet", "inception_next", "mambaout",
}
# fmt: on

_NORM1 = r"(.*\.)?blocks\.\d+\.(norm1|in_norm|attns\.1\.norm)"
_CONV = Answer(r".*", "NCHW", 32)

# A family is either one answer for all its models or several by name, the first that matches.
FAMILIES: dict[str, Answer | dict[str, Answer | None] | None] = {
    **dict.fromkeys(
        (
            "vision_transformer",
            "deit",
            "beit",
            "vision_transformer_relpos",
            "qwen3_vit",
            "gemma4_vit",
            "naflexvit",
            "convit",
            "vitamin",
        ),
        Answer(_NORM1),
    ),
    "vision_transformer_hybrid": {
        ".*(s32|r_s16_p8|resnet26d|resnet50d_224)": Answer(_NORM1, stride=32),
        "": Answer(_NORM1),
    },
    "mobilenetv3": {".*hybrid": _CONV, "": Answer(r"blocks\.\d\.\d\.bn[12]\.act", "NCHW", 32)},
    "mobilenetv5": _CONV,
    # A class token, and norms behind attention and MLP: the last block is dead at the patches.
    "eva": {"eva02_enormous": Answer(r"blocks\.0\.norm2", stride=14, prefix=1), "": Answer(_NORM1)},
    "deepseek_vit": Answer(_NORM1, stride=14),
    "vision_transformer_sam": Answer(_NORM1, "NHWC"),
    "cait": Answer(r"blocks_token_only\.1\.norm1", prefix=1),
    "xcit": {
        ".*p8": Answer(r"cls_attn_blocks\.1\.norm1", stride=8, prefix=1),
        "": Answer(r"cls_attn_blocks\.1\.norm1", prefix=1),
    },
    "volo": Answer(r"post_network\.1\.norm1", prefix=1),
    "tnt": Answer(r"blocks\.\d+\.(norm_out|norm1)", prefix=1),
    "crossvit": Answer(r"blocks\.2\.fusion\.1\.norm1", stride=12, prefix=1),
    "coat": {
        "coat_lite": Answer(r"serial_blocks4\.\d\.norm1", stride=32, prefix=1),
        "": Answer(r"parallel_blocks\.5\.norm1[234]", stride=32, prefix=1),
    },
    # The patches of pit_b are 14 pixels wide, 7 apart.
    "pit": {
        "pit_b_distilled": Answer(r"transformers\.2\.blocks\.3\.norm1", prefix=2, grid=(8, 8)),
        "pit_b": Answer(r"transformers\.2\.blocks\.3\.norm1", prefix=1, grid=(8, 8)),
        ".*distilled": Answer(r"transformers\.2\.blocks\.3\.norm1", stride=32, prefix=2),
        "": Answer(r"transformers\.2\.blocks\.\d+\.norm1", stride=32, prefix=1),
    },
    "swin_transformer": Answer(r"layers\.3\.blocks\.1\.norm1", "NHWC", 32),
    "swin_transformer_v2": Answer(r"layers\.3\.blocks\.1\.norm1", "NHWC", 32),
    "swin_transformer_v2_cr": Answer(r"stages\.3\.blocks\.1\.norm1", "NHWC", 32),
    "twins": Answer(r"blocks\.3\.1\.norm1", stride=32),
    "pvt_v2": Answer(r"stages\.3\.blocks\.0\.norm1", stride=32),
    "davit": Answer(r"stages\.3\.blocks\.0\.(1|channel_block)\.norm1", stride=32),
    "gcvit": Answer(r"stages\.3\.blocks\.\d+\.norm1", "NHWC", 32),
    "mvitv2": {
        ".*cls": Answer(r"stages\.3\.blocks\.LAST\.norm1", stride=32, prefix=1),
        "": Answer(r"stages\.3\.blocks\.LAST\.norm1", stride=32),
    },
    "hiera": Answer(r"blocks\.4\.norm1", "B (h w H W) C"),
    "hieradet_sam2": Answer(r"blocks\.\d+\.norm1", "NHWC", 32),
    "nest": Answer(r"levels\.2\.transformer_encoder\.\d+\.norm1", "B (H W) (h w) C"),
    "maxxvit": {
        "coatnet_nano_cc|coatnext": Answer(r"stages\.3\.blocks\.LAST\.norm1(\.norm)?", "NCHW", 32),
        "coatne": Answer(r"stages\.3\.blocks\.LAST\.norm1(\.norm)?", "NCHW", 32),
        "test_coatnet": Answer(r"stages\.3\.blocks\.LAST\.norm1(\.norm)?", "NCHW", 32),
        "": Answer(r"stages\.3\.blocks\.LAST\.(attn_grid|attn)\.norm1", "NHWC", 32),
    },
    "tiny_vit": Answer(r"stages\.3\.blocks\.1\.attn\.norm", stride=32),
    "csatv2": Answer(r"stages\.3\.\d+\.norm1", stride=64),
    "edgenext": Answer(r"stages\.3\.blocks\.\d\.norm_xca", stride=32),
    "mobilevit": {
        "mobilevitv2": Answer(r"stages\.4\.1\.transformer\.2\.norm1", "B C (h w) (H W)", 32),
        "": Answer(r"stages\.4\.1\.transformer\.2\.norm1", "(B h w) (H W) C", 32),
    },
    "levit": {
        "levit_conv.*s8": Answer(r"stages\.2\.blocks\.\d\.mlp\.ln1\.bn", "NCHW", 32),
        "levit.*s8": Answer(r"stages\.2\.blocks\.\d\.mlp\.ln1\.bn", "(B H W) C", 32),
        "levit_conv": Answer(r"stages\.2\.blocks\.\d\.mlp\.ln1\.bn", "NCHW", 64),
        "": Answer(r"stages\.2\.blocks\.\d\.mlp\.ln1\.bn", "(B H W) C", 64),
    },
    "mlp_mixer": {"gmlp": Answer(r"blocks\.29\.mlp_channels\.gate\.norm"), "": Answer(r"blocks\.\d+\.norm1")},
    "metaformer": {
        "convformer": Answer(r"stages\.3\.blocks\.LAST", "NCHW", 32),
        "caformer": Answer(r"stages\.3\.blocks\.LAST\.norm1", stride=32),
        "": Answer(r"stages\.3\.blocks\.LAST\.norm1", "NCHW", 32),
    },
    "sequencer": Answer(r"stages\.3\.blocks\.\d\.norm1", "NHWC", 14),
    "visformer": Answer(r"stage3\.\d\.norm1", "NCHW", 32),
    "efficientformer": Answer(r"stages\.3\.blocks\.\d+\.norm1", stride=32),
    "efficientvim": Answer(r"stages\.2\.blocks\.\d\.norm", "NCHW", 64),
    "efficientvit_msra": Answer(r"stages\.2\.blocks\.\d\.ffn0\..*bn", "NCHW", 64),
    "shvit": Answer(r"stages\.2\.blocks\.\d\..*", "NCHW", 64),
    "byoanet": Answer(r"stages\.3\.\d\.conv1_1x1\.bn", "NCHW", 32),
    "efficientvit_mit": Answer(r"stages\.3\.blocks\.\d+\.local_module\..*norm", "NCHW", 32),
    "efficientformer_v2": Answer(r"stages\.3\.blocks\.\d+\..*", "NCHW", 32),
    "fastvit": {
        "fastvit_(t|s|ma)\\d": Answer(r"final_conv\.act", "NCHW", 32),
        "": Answer(r"stages\.3\.blocks\.\d\.norm", "NCHW", 32),
    },
    "iformer": Answer(r"stages\.3\.blocks\.\d+\..*", "NCHW", 32),
    "lowformer": {"lowformer_e[12]": Answer(r"in_conv\.act", "NCHW", 32), "": Answer(r"stages\.3\.\d\..*", "NCHW", 32)},
    "cpubone": Answer(r"stages\.3\.\d\..*", "NCHW", 32),
    "nextvit": Answer(r"stages\.3\.blocks\.\d\.norm1", "NCHW", 32),
    "swiftformer": Answer(r"stages\.3\.blocks\.\d\.local_representation\.norm", "NCHW", 32),
    # Convolutional networks: their last map.
    "focalnet": Answer(r"norm", "NCHW", 32),
    "inception_next": Answer(r"stages\.3\.blocks\.LAST", "NCHW", 32),
    "starnet": Answer(r"norm", "NCHW", 32),
    "repvit": Answer(r"stages\.3\.blocks\.LAST", "NCHW", 32),
    "convmixer": {
        "convmixer_1024": Answer(r"blocks\.19\.3", "NCHW", grid=(16, 11)),
        "": Answer(r"blocks\.31\.3", "NCHW", grid=(32, 22)),
    },
    "mambaout": Answer(r"stages\.3\.blocks\.LAST", "NHWC", 32),
}

# Attention over halos with random weights forgets every place, and nothing but the class of the norm says that its
# output is a map: refused rather than believed.
REFUSED = {"halonet_h1", "haloregnetz_b"}

# Convolutional networks so deep that with random weights what one cell changes moves by up to two cells.
SPREADING = {"repvit_m1_5": 2}


def build(name: str) -> tuple[nn.Module, tuple[int, int]]:
    """Build a model, small where its family allows, and say which image size it takes."""
    torch.manual_seed(0)
    family = _model_to_module[name]
    smaller = dict(SMALLER.get(family, {}))
    if name.startswith(("coatnext", "coatnet_0")) or "_cc_" in name:  # stages of several kinds of blocks
        smaller = {}
    patches = smaller.pop("patches", None)
    model, arguments = _first_that_builds(name, smaller, {"img_size": (96, 64)} if patches else {}, {})
    if patches and hasattr(model, "patch_embed"):
        height, width = model.patch_embed.patch_size
        sized = {**arguments, "img_size": (height * patches[0], width * patches[1])}
        model, arguments = _first_that_builds(name, sized, arguments)
    size = arguments.get("img_size") or model.default_cfg["input_size"][-2:]
    size = (size, size) if isinstance(size, int) else tuple(size)
    if family in ANY_SIZE and not model.default_cfg.get("fixed_input_size"):
        size = (224, 160)
    return model, size


def _first_that_builds(name: str, *candidates: dict) -> tuple[nn.Module, dict]:
    for arguments in candidates[:-1]:
        try:
            return timm.create_model(name, **arguments), arguments
        except (TypeError, AssertionError, RuntimeError, ValueError):
            continue  # timm raises what its constructors happen to raise on an argument that they do not know
    return timm.create_model(name, **candidates[-1]), candidates[-1]


def answer(name: str, model: nn.Module) -> Answer | None:
    """What is right for a model; None if it is to be refused."""
    family = FAMILIES[_model_to_module[name]]
    if isinstance(family, dict):
        family = next(value for key, value in family.items() if re.match(key, name))
    if family is not None and "LAST" in family.layer:
        last = str(len(model.stages[-1].blocks) - 1)
        return replace(family, layer=family.layer.replace("LAST", last))
    if family is None or not family.layer.startswith(_NORM1) or family.format != "NLC":
        return family
    # Plain ViTs: the tokens that are in their state, and the stride of their patches.
    holder = getattr(model, "embeds", model)
    special = [getattr(holder, key, None) for key in ("cls_token", "dist_token", "reg_token")]
    prefix = sum(token.shape[-2] for token in special if isinstance(token, torch.Tensor) and token.ndim == 3)
    return Answer(family.layer, prefix=prefix, stride=_stride(model) or family.stride)


def _stride(model: nn.Module) -> int | None:
    patch = getattr(getattr(model, "patch_embed", None), "patch_size", None)
    return gcd(*patch) if isinstance(patch, tuple) and not hasattr(model.patch_embed, "backbone") else None
