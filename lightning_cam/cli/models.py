"""From a name on the command line to a model in evaluation mode."""

import difflib
import importlib
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_cam.cli.checkpoints import load_file_of_weights
from lightning_cam.cli.errors import CommandError, UsageError
from lightning_cam.cli.preprocessing import Preprocessing, of_module, of_torchvision

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class NamedModel:
    """A model and what its library states about it.

    Args:
        module: The model.
        preprocessing: How pictures are to be prepared; None if unknown.
        class_names: Names of its classes; None if unknown.
        weights: Where its weights come from, and what did not match, in words.
    """

    module: nn.Module
    preprocessing: Preprocessing | None
    class_names: list[str] | None
    weights: str = "random"


def load_model(
    name: str,
    model_args: dict[str, Any] | None = None,
    *,
    pretrained: bool = False,
    checkpoint: str | None = None,
    state_dict_key: str | None = None,
    trust_checkpoint: bool = False,
    class_names: str | list[str] | None = None,
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
    weights = "pretrained" if pretrained else "random"
    if checkpoint is not None:
        loaded = load_file_of_weights(model.module, checkpoint, state_dict_key, trust_checkpoint)
        weights = f"{checkpoint}: {loaded}"
        if loaded.missing or loaded.unexpected:
            _log.warning("%s", weights)
    elif not pretrained:
        _log.warning("The weights of %s are random: give --checkpoint FILE or --pretrained.", name)
    names = model.class_names if class_names is None else _class_names(class_names)
    return replace(model, class_names=names, weights=weights)


def create_model(name: str, model_args: dict[str, Any] | None = None, pretrained: bool = False) -> NamedModel:
    """Create a model.

    Args:
        name: A timm name, `torchvision:` and a torchvision name, or `package.module:callable` that returns a model.
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
        if name.startswith("torchvision:"):
            return _from_torchvision(name.removeprefix("torchvision:"), args, pretrained)
        if ":" in name:
            return _from_callable(name, args | ({"pretrained": True} if pretrained else {}))
        return _from_timm(name, args, pretrained)
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


@contextmanager
def first_run(images: Tensor, options: str) -> Iterator[None]:
    """Run the model for the first time: if it fails, mostly the images' size or channels are wrong.

    Args:
        images: (B, C, H, W), what it runs on.
        options: The options that set what the model takes, in words.

    Raises:
        UsageError: The model fails.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (AssertionError, RuntimeError) as error:
        size = "×".join(map(str, images.shape[1:]))
        raise UsageError(
            f"the model fails on images of {size} ({type(error).__name__}: {error}); set what it takes with {options}"
        ) from error


def _from_timm(name: str, args: dict[str, Any], pretrained: bool) -> NamedModel:
    import timm
    from timm.data import ImageNetInfo

    if not timm.is_model(name.removeprefix("hf_hub:").removeprefix("hf-hub:")) and "hub:" not in name:
        near = _nearest(name, timm.list_models())
        raise UsageError(f"--model: timm has no {name!r}{near} (torchvision:NAME and package.module:callable work too)")
    model = timm.create_model(name, pretrained=pretrained, **args)
    info = ImageNetInfo()
    names = [info.index_to_description(i) for i in range(info.num_classes())] if _is_imagenet(model) else None
    return NamedModel(model, of_module(model, args), names)


def _is_imagenet(model: nn.Module) -> bool:
    return getattr(model, "num_classes", None) == 1000


def _from_torchvision(name: str, args: dict[str, Any], pretrained: bool) -> NamedModel:
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


def _nearest(name: str, names: list[str]) -> str:
    near = ", ".join(difflib.get_close_matches(name, names))
    return f"; the nearest names are {near}" if near else ""


def _from_callable(path: str, args: dict[str, Any]) -> NamedModel:
    create: Callable[..., Any] = load_object(path, "--model")
    if not callable(create):
        raise UsageError(f"--model: {path} is a {type(create).__name__}; expected a callable that returns a model")
    model = create(**args)
    if not isinstance(model, nn.Module):
        raise UsageError(f"--model: {path} returned a {type(model).__name__}; expected a torch.nn.Module")
    return NamedModel(model, of_module(model, args), None)


def _class_names(names: str | list[str]) -> list[str]:
    if isinstance(names, list):
        return names
    if not os.path.isfile(names):
        raise UsageError(
            f"--class-names: there is no file {names!r}; expected a list, or a file with one name per line"
        )
    try:
        return Path(names).read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise UsageError(f"--class-names: {names!r} is not UTF-8 text") from error
