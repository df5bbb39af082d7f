"""Image classifiers of installed packages, by the names that the packages give them, built small from their configs."""

import importlib.util
import inspect

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
    for part in (made, getattr(made, "vision_config", None)):
        for key, value in _SMALL.items():
            old = getattr(part, key, None)
            if isinstance(old, int) and not isinstance(old, bool):
                setattr(part, key, value)
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
            if is_own and "num_classes" in inspect.signature(cls.__init__).parameters:
                found[f"{part.name}.{name}"] = cls
    return found


def build_vit_pytorch(cls: type) -> nn.Module:
    """Build one of the arguments of these names that it has."""
    torch.manual_seed(0)
    known = inspect.signature(cls.__init__).parameters
    return cls(**{name: value for name, value in _VIT_PYTORCH.items() if name in known}).eval()


def runs(model: nn.Module, size: tuple[int, int]) -> bool:
    """Whether a model takes images of this size, and nothing else."""
    images: Tensor = torch.zeros(2, 3, *size)
    try:
        with torch.no_grad():
            model(images)
    except Exception:  # it wants text, boxes, another size
        return False
    return True
