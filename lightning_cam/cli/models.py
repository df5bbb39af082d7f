"""From a name on the command line to a model in evaluation mode."""

import importlib
import logging
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_cam.cli.checkpoints import load_file_of_weights
from lightning_cam.cli.errors import CommandError, UsageError
from lightning_cam.cli.libraries import (
    OPEN_CLIP,
    TORCHVISION,
    is_hugging_face,
    is_in_timms_hub,
    of_hugging_face_name,
    of_open_clip_name,
    of_timm,
    of_torchvision_name,
)
from lightning_cam.cli.named import NamedModel
from lightning_cam.cli.preprocessing import of_module
from lightning_cam.model.untouched import looking

_log = logging.getLogger(__name__)


def load_model(
    name: str,
    model_args: dict[str, Any] | None = None,
    *,
    pretrained: bool = False,
    checkpoint: str | None = None,
    state_dict_key: str | None = None,
    trust_checkpoint: bool = False,
    class_names: str | list[str] | None = None,
    texts: str | list[str] | None = None,
    device: str = "auto",
) -> NamedModel:
    """Create a model with its weights, on its device, in evaluation mode; says what did not match.

    Args:
        name: See `create_model`.
        model_args: See `create_model`.
        pretrained: See `create_model`.
        checkpoint: File of weights, see `load_file_of_weights`.
        state_dict_key: Where the weights stand in it, see `state_dict_of`.
        trust_checkpoint: See `read_checkpoint`.
        class_names: Names of the classes, or a text file with one per line.
        texts: The classes of a model of images and texts, or a text file with one per line.
        device: See `pick_device`.

    Raises:
        CommandError: The file is broken, or the library's weights cannot be fetched.
        UsageError: Anything else does not fit.
    """
    torch.manual_seed(0)  # what no file holds is at least the same in every run
    try:
        model = create_model(name, model_args, pretrained)
    except OSError as error:
        if not pretrained:
            raise
        raise CommandError(
            f"--pretrained: the weights of {name} cannot be downloaded ({type(error).__name__}: {error}); if you have "
            "them in a file, give --checkpoint FILE"
        ) from error
    model.module.to(pick_device(device)).eval()
    weights = "pretrained" if pretrained and model.weights == "random" else model.weights
    if checkpoint is not None:
        loaded = load_file_of_weights(model.module, checkpoint, state_dict_key, trust_checkpoint)
        weights = f"{checkpoint}: {loaded}"
        if loaded.missing or loaded.unexpected:
            _log.warning("%s", weights)
    elif weights == "random":
        _log.warning("The weights of %s are random: give --checkpoint FILE or --pretrained.", name)
    names = model.class_names if class_names is None else _names(class_names, "--class-names")
    model = replace(model, class_names=names, weights=weights)
    return model if texts is None else _of_texts(model, _names(texts, "--texts"), name, class_names is not None)


def _of_texts(model: NamedModel, texts: list[str], name: str, is_named: bool) -> NamedModel:
    """The model with texts as its classes."""
    if model.images_and_texts is None:
        raise UsageError(
            f"--texts: {name} does not compare images with texts; expected a CLIP or SigLIP model, as open_clip:NAME "
            "or a folder of Hugging Face"
        )
    if is_named:
        raise UsageError("--texts, --class-names: give one of them; the texts are the names of the classes")
    classes = model.images_and_texts.classes(texts)
    return replace(model, class_names=texts, has_classes=True, texts_as_classes=classes)


def create_model(name: str, model_args: dict[str, Any] | None = None, pretrained: bool = False) -> NamedModel:
    """Create a model.

    Args:
        name: A timm name, `torchvision:` or `open_clip:` and a name of that library, a folder or a name in the hub of
            Hugging Face, or `package.module:callable` that returns a model.
        model_args: Keyword arguments for it.
        pretrained: Whether to load the library's weights; a callable is given `pretrained=True`.

    Raises:
        UsageError: There is no such model, or it does not take these arguments.

    Example:
        >>> create_model("vit_tiny_patch16_224", {"depth": 1}).preprocessing.resize
        248
    """
    args = model_args or {}
    try:
        if name.startswith(TORCHVISION):
            return of_torchvision_name(name.removeprefix(TORCHVISION), args, pretrained)
        if name.startswith(OPEN_CLIP):
            return of_open_clip_name(name.removeprefix(OPEN_CLIP), args, pretrained)
        if is_hugging_face(name):
            return of_hugging_face_name(name, args)
        if ":" in name and not is_in_timms_hub(name):
            return _from_callable(name, args | ({"pretrained": True} if pretrained else {}))
        return of_timm(name, args, pretrained)
    except TypeError as error:
        raise UsageError(f"--model, --model-args: {name} does not accept these arguments: {error}") from error


def load_object(path: str, option: str) -> Any:
    """Import `package.module:name`; the current folder is searched too.

    Args:
        path: What to import.
        option: The option that it was given to, for the message.

    Raises:
        UsageError: There is nothing by that name.
    """
    module_name, _, attribute = path.partition(":")
    if not module_name or not attribute:
        raise UsageError(f"{option}: expected package.module:name, got {path!r}")
    if os.getcwd() not in sys.path:  # a console script does not search it
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(module_name)
    except ImportError as error:
        raise UsageError(f"{option}: cannot import {module_name!r}: {error}") from error
    except SystemExit as error:  # a script that reads its own options when it is imported
        raise UsageError(
            f"{option}: cannot import {module_name!r}: it exits the program (SystemExit: {error})"
        ) from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise UsageError(f"{option}: {module_name!r} has no {attribute!r}")
        found = getattr(found, part)
    return found


def pick_device(name: str) -> torch.device:
    """Return the device of this name; `auto` is the first accelerator, or else the CPU.

    Raises:
        UsageError: There is no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"--device: unknown device {name!r}; expected auto, cpu, cuda, cuda:1 or mps") from error
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"--device: {name!r} cannot be used: {str(error).splitlines()[0]}") from error


def first_output(module: nn.Module, forward: Callable[..., Any], images: Tensor, options: str) -> Any:
    """Run the model for the first time: if it fails, mostly the images' size or channels are wrong.

    Args:
        module: Left untouched.
        forward: What is called.
        images: (B, C, H, W), what it runs on.
        options: The options that set what the model takes, in words.

    Returns:
        Its output, without a graph.

    Raises:
        UsageError: The model fails.
    """
    try:
        with looking(module), torch.no_grad():
            return forward(images.clone())
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever a model raises that is given what it does not take
        size = "×".join(map(str, images.shape[1:]))
        raise UsageError(
            f"the model fails on images of {size} ({type(error).__name__}: {error}); set what it takes with {options}. "
            "Models of other inputs, such as images of several bands, volumes or videos, are explained in Python: "
            "lightning_cam.explain"
        ) from error


def _from_callable(path: str, args: dict[str, Any]) -> NamedModel:
    create: Callable[..., Any] = load_object(path, "--model")
    if not callable(create):
        raise UsageError(f"--model: {path} is a {type(create).__name__}; expected a callable that returns a model")
    model = create(**args)
    if not isinstance(model, nn.Module):
        raise UsageError(f"--model: {path} returned a {type(model).__name__}; expected a torch.nn.Module")
    return NamedModel(model, of_module(model, args), None)


def _names(names: str | list[str], option: str) -> list[str]:
    """The names themselves, or those in a file."""
    if isinstance(names, list):
        return names
    if not os.path.isfile(names):
        raise UsageError(f"{option}: there is no file {names!r}; expected a list, or a file with one name per line")
    try:
        return Path(names).read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise UsageError(f"{option}: {names!r} is not UTF-8 text") from error
