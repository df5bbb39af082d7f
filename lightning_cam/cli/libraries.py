"""Models of the libraries by the names that they have there, with what the libraries state about them."""

import difflib
import importlib
import os
from types import ModuleType
from typing import Any

from torch import nn

from lightning_cam.cli.errors import CommandError, UsageError
from lightning_cam.cli.named import NamedModel
from lightning_cam.cli.preprocessing import of_hugging_face, of_module, of_open_clip, of_torchvision
from lightning_cam.cli.texts import ImagesAndTexts

OPEN_CLIP, TORCHVISION = "open_clip:", "torchvision:"
# What ends the names of Hugging Face's classes that put out classes, of images, pixels or objects.
_OF_CLASSES = ("ImageClassification", "ImageClassificationWithTeacher", "SemanticSegmentation", "ObjectDetection")
# Masked autoencoders mask patches at random also where they are not trained; the same weights without a mask are these.
_WITHOUT_MASK = {"vit_mae": "ViTModel"}


def of_timm(name: str, args: dict[str, Any], pretrained: bool) -> NamedModel:
    """A model of timm; with `num_classes=0` it has features alone.

    Raises:
        UsageError: There is no such model.
    """
    import timm
    from timm.data import ImageNetInfo

    if not timm.is_model(name) and not is_in_timms_hub(name):
        raise UsageError(
            f"--model: timm has no {name!r}{_nearest(name, timm.list_models())} (torchvision:NAME, open_clip:NAME, a "
            "folder of Hugging Face and package.module:callable work too)"
        )
    model = timm.create_model(name, pretrained=pretrained, **args)
    info = ImageNetInfo()
    count = getattr(model, "num_classes", None)
    names = [info.index_to_description(i) for i in range(info.num_classes())] if count == 1000 else None
    return NamedModel(model, of_module(model, args), names, has_classes=count != 0)


def of_torchvision_name(name: str, args: dict[str, Any], pretrained: bool) -> NamedModel:
    """A model of torchvision, `name` without the library's.

    Raises:
        UsageError: There is no such model.
    """
    from torchvision.models import get_model, get_model_weights, list_models

    try:
        weights = get_model_weights(name)
    except ValueError as error:
        raise UsageError(f"--model: torchvision has no {name!r}{_nearest(name, list_models())}") from error
    default = getattr(weights, "DEFAULT", None) or next(iter(weights), None)
    model = get_model(name, weights=default if pretrained else None, **args)
    if default is None:
        return NamedModel(model, None, None)
    names = default.meta["categories"] if args.get("num_classes", 1000) == 1000 else None
    return NamedModel(model, of_torchvision(default.transforms()), names)


def of_open_clip_name(name: str, args: dict[str, Any], pretrained: bool) -> NamedModel:
    """A model of open_clip, `name` without the library's; it compares images with texts.

    Args:
        name: Such as ViT-B-32.
        args: Of `open_clip.create_model`; `pretrained` may be one of the library's tags.
        pretrained: Whether to load the weights of the first tag.

    Raises:
        UsageError: There is no such model, or none with weights.
    """
    open_clip = _library("open_clip", "open_clip_torch", OPEN_CLIP + name)
    if name not in open_clip.list_models() and "/" not in name and ":" not in name:
        raise UsageError(f"--model: open_clip has no {name!r}{_nearest(name, open_clip.list_models())}")
    if pretrained and "pretrained" not in args:
        tags = open_clip.list_pretrained_tags_by_model(name)
        if not tags:
            raise UsageError(f"--pretrained: open_clip has no weights of {name!r}; give --checkpoint FILE")
        args = {**args, "pretrained": tags[0]}
    model = open_clip.create_model(name, **args)
    tokenizer = open_clip.get_tokenizer(name)
    texts = ImagesAndTexts(model, model.encode_image, tokenizer, model.encode_text)
    weights = f"open_clip's {args['pretrained']}" if "pretrained" in args else "random"
    config = open_clip.get_model_preprocess_cfg(model)
    return NamedModel(model, of_open_clip(config), None, weights, has_classes=False, images_and_texts=texts)


def is_hugging_face(name: str) -> bool:
    """Whether a name is that of a folder that `save_pretrained` wrote, or of a model in Hugging Face's hub.

    A folder without its configuration, such as one of results with a timm model's name, is none.
    """
    is_saved = os.path.isfile(os.path.join(os.path.expanduser(name), "config.json"))
    return is_saved or ("/" in name and ":" not in name)


def of_hugging_face_name(name: str, args: dict[str, Any]) -> NamedModel:
    """A model of Hugging Face's transformers with its weights, of the class that is written in its configuration.

    Args:
        name: A folder that `save_pretrained` wrote, or a name in the hub.
        args: Of `from_pretrained`.

    Raises:
        CommandError: It cannot be read or downloaded.
        UsageError: It is none of transformers.
    """
    transformers = _library("transformers", "transformers", name)
    transformers.logging.set_verbosity_warning()  # it tells of each file that it reads
    transformers.logging.disable_progress_bar()
    path = os.path.expanduser(name)
    try:
        config = transformers.AutoConfig.from_pretrained(path)
        architecture = _WITHOUT_MASK.get(config.model_type, next(iter(config.architectures or []), "AutoModel"))
        model = getattr(transformers, architecture, transformers.AutoModel).from_pretrained(path, **args).float()
    except OSError as error:
        raise CommandError(f"--model: {name} cannot be loaded: {error}") from error
    except ValueError as error:
        raise UsageError(f"--model: {name} is no model of transformers: {error}") from error
    try:
        processor = transformers.AutoImageProcessor.from_pretrained(path).to_dict()
    except (OSError, ValueError):  # a training may have saved the model alone
        processor = None
    labels = dict(getattr(config, "id2label", None) or {})
    names = [str(labels[index]) for index in sorted(labels)]
    return NamedModel(
        model,
        None if processor is None else of_hugging_face(processor, getattr(config, "image_size", None)),
        None if all(text == f"LABEL_{index}" for index, text in enumerate(names)) else names,
        name,
        has_classes=architecture.endswith(_OF_CLASSES),
        images_and_texts=_images_and_texts(transformers, model, path) if _compares_texts(model) else None,
    )


def _compares_texts(model: nn.Module) -> bool:
    """CLIP, SigLIP and their like."""
    return all(hasattr(model, name) for name in ("get_image_features", "get_text_features", "logit_scale"))


def _images_and_texts(transformers: ModuleType, model: Any, path: str) -> ImagesAndTexts | None:
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError):  # features of images need none
        tokenizer = None
    length = model.config.text_config.max_position_embeddings

    def tokens(texts: list[str]) -> Any:
        if tokenizer is None:
            raise UsageError(f"--texts: {path} holds no tokenizer; save it beside the model with save_pretrained")
        # Of full length, as SigLIP is trained; to CLIP what is behind a text's end is nothing.
        most = min(length, tokenizer.model_max_length)
        return tokenizer(texts, padding="max_length", truncation=True, max_length=most, return_tensors="pt")

    def encode_text(tokens: Any) -> Any:
        return model.get_text_features(**tokens)

    return ImagesAndTexts(model, model.get_image_features, tokens, encode_text)


def _library(module: str, package: str, name: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UsageError(f"--model: {name} needs the package {package}: pip install {package}") from error


def is_in_timms_hub(name: str) -> bool:
    """Whether a name is that of a model in the hub, for timm to load."""
    return name.startswith(("hf_hub:", "hf-hub:"))


def _nearest(name: str, names: list[str]) -> str:
    near = ", ".join(difflib.get_close_matches(name, names))
    return f"; the nearest names are {near}" if near else ""
