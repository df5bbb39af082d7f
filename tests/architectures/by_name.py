"""Image classifiers of installed packages, by the names that the packages give them, built small from their configs."""

import importlib.util
import inspect
from typing import Any

import torch
from torch import Tensor, nn

SIZE, PYRAMID = (64, 64), (224, 224)

# What makes a config small, whichever of these a class knows.
_SMALL = {
    "image_size": 64,
    "patch_size": 16,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "num_labels": 5,
    "vocab_size": 99,
    "num_latents": 16,
    "d_latents": 32,
    "num_self_attends_per_block": 2,
}
_VIT_PYTORCH = {
    "image_size": 64,
    "patch_size": 16,
    "num_classes": 5,
    "dim": 32,
    "depth": 2,
    "heads": 4,
    "dim_head": 8,
    "mlp_dim": 64,
    "channels": 3,
    "num_latents": 8,
    "cls_depth": 1,
    "window_size": 2,
    "num_register_tokens": 4,
}
# What some take besides, and the side of their images where it is not that of `SIZE`; those of videos and signals,
# and those that wrap another model, take no images by themselves.
_OWN: dict[str, tuple[dict[str, Any], int]] = {
    "ats_vit": ({"max_tokens_per_depth": (12, 8)}, 64),
    "cct.CCT": ({"img_size": 64, "embedding_dim": 32, "num_layers": 2, "num_heads": 4, "mlp_ratio": 2}, 64),
    "cross_vit": ({"sm_dim": 16, "lg_dim": 32, "sm_patch_size": 8, "lg_patch_size": 16}, 64),
    "crossformer": ({"dim": (32, 32, 64, 64), "depth": (1, 1, 2, 2), "global_window_size": (8, 4, 2, 1)}, 224),
    "levit": (
        {"image_size": 224, "stages": 3, "dim": (32, 48, 64), "depth": 2, "heads": (2, 3, 4), "mlp_mult": 2},
        224,
    ),
    "local_vit": ({}, 64),
    "look_vit": ({"image_size": 64, "patch_size": 16, "highres_patch_size": 8, "mlp_factor": 2}, 64),
    "max_vit": ({"dim": 16, "depth": (1, 1, 2), "window_size": 7}, 224),
    "max_vit_with_registers": ({"dim": 16, "depth": (1, 1, 2), "window_size": 7}, 224),
    "mobile_vit": (
        {
            "image_size": (256, 256),
            "dims": [16, 24, 32],
            "patch_size": (2, 2),
            "channels": [8, 8, 16, 16, 24, 24, 32, 32, 40, 40, 48],
        },
        256,
    ),
    "nest": ({"image_size": 64, "patch_size": 4, "num_hierarchies": 3, "block_repeats": (1, 1, 2)}, 64),
    "pit": ({"depth": (1, 2), "patch_size": 8}, 64),
    "scalable_vit": (
        {
            "heads": (2, 2, 4, 4),
            "depth": (1, 1, 2, 1),
            "reduction_factor": (8, 4, 2, 1),
            "window_size": (8, 8, None, None),
        },
        256,
    ),
    "sep_vit": ({"dim": 16, "depth": (1, 1, 2), "heads": (1, 2, 4), "window_size": 7}, 224),
    "simple_vit_with_fft": ({"freq_patch_size": 16}, 64),
    "simple_vit_with_hyper_connections": ({"num_residual_streams": 2}, 64),
    "twins_svt": ({f"s{i}_{key}": n for i in (1, 2, 3, 4) for key, n in (("emb_dim", 16), ("depth", 1))}, 224),
    "vit_nd.": ({"ndim": 2, "input_shape": 64}, 64),
    "vit_nd_pope": ({"ndim": 2, "input_shape": 64}, 64),
    "vit_nd_rotary": ({"ndim": 2, "input_shape": 64}, 64),
    "wwt": ({"num_slots": 4}, 64),
}
_MOST_PARAMETERS = 300_000_000  # of a class whose config has no sizes by these names


class TooLarge(Exception):
    """A model is large although its config was told to make it small."""


def hugging_face() -> dict[str, type]:
    """The config class of each class that transformers lists for the classification of images, by its name."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES as NAMES

    found: dict[str, type] = {}
    for kind, names in NAMES.items():
        for name in (names,) if isinstance(names, str) else names:
            found[name] = CONFIG_MAPPING[kind]
    return found


def build_hugging_face(name: str, config: type) -> tuple[nn.Module, tuple[int, int]]:
    """Build one, and the size of its images; whatever its class raises tells that it cannot be built small."""
    import transformers

    torch.manual_seed(0)
    made = config()
    if any(isinstance(getattr(made, key, None), (list, tuple)) for key in ("depths", "depth", "hidden_sizes")):
        # A pyramid: its sizes hang together, and it needs an image that all its stages leave something of.
        for key, side in (("image_size", PYRAMID[0]), ("num_labels", 5)):
            if isinstance(getattr(made, key, None), int):
                setattr(made, key, side)
        return getattr(transformers, name)(made).eval(), PYRAMID
    for part in (made, *(getattr(made, name, None) for name in ("vision_config", "text_config"))):
        for key, value in _SMALL.items():
            old = getattr(part, key, None)
            if isinstance(old, int) and not isinstance(old, bool):
                setattr(part, key, value)
    with torch.device("meta"):
        count = sum(p.numel() for p in getattr(transformers, name)(made).parameters())
    if count > _MOST_PARAMETERS:
        raise TooLarge
    return getattr(transformers, name)(made).eval(), SIZE


def vit_pytorch() -> dict[str, type]:
    """The modules of vit-pytorch that take a number of classes, by file and name; none if it is not installed."""
    if importlib.util.find_spec("vit_pytorch") is None:
        return {}
    import pkgutil

    import vit_pytorch as package

    found: dict[str, type] = {}
    for part in pkgutil.iter_modules(package.__path__):
        try:
            module = importlib.import_module(f"vit_pytorch.{part.name}")
        except ImportError:  # it wants a package of its own
            continue
        for name, cls in vars(module).items():
            is_own = inspect.isclass(cls) and issubclass(cls, nn.Module) and cls.__module__ == module.__name__
            known = inspect.signature(cls.__init__).parameters if is_own else {}
            if "num_classes" in known or "img_size" in known:
                found[f"{part.name}.{name}"] = cls
    return found


def build_vit_pytorch(name: str, cls: type) -> tuple[nn.Module, tuple[int, int]]:
    """Build one of the arguments that it has, and the size of its images."""
    torch.manual_seed(0)
    own, side = max(
        ((key, value) for key, value in _OWN.items() if name.startswith(key)),
        key=lambda pair: len(pair[0]),
        default=("", ({}, SIZE[0])),
    )[1]
    known = inspect.signature(cls.__init__).parameters
    usual = {key: value for key, value in _VIT_PYTORCH.items() if key in known}
    return cls(**usual | own).eval(), (side, side)


def runs(model: nn.Module, size: tuple[int, int]) -> bool:
    """Whether a model takes images of this size, and nothing else."""
    images: Tensor = torch.zeros(2, 3, *size)
    try:
        with torch.no_grad():
            model(images)
    except Exception:  # it wants text, boxes, another size
        return False
    return True
