"""Messages for models and layers that are refused: the reason, and what to do."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from lightning_cam.resolve.watch import Trace

_WITHOUT_GRADIENTS = 'use a method without gradients, methods="eigencam", at layers named with target_layers='


class NoGradient(ValueError):
    """The model's output has no gradient with respect to any layer."""


class NoPatches(ValueError):
    """No layer of a model was seen to hold tokens of an image's patches."""


def nothing_seen(trace: Trace) -> str:
    """Why no block was found, if the reason is that the model's inside is hidden; otherwise ""."""
    if trace.hidden:
        return _unseen(trace.hidden[0])
    if trace.strangers:
        return (
            f"target_layers: the modules in {trace.strangers[0]} are not registered with the model, because it is a "
            "plain list or dictionary; make it an nn.ModuleList or nn.ModuleDict"
        )
    if trace.quantized:
        return (
            f"target_layers: no gradient flows through {trace.quantized[0]}, which is quantized; {_WITHOUT_GRADIENTS}"
        )
    return ""


def no_gradient() -> str:
    """Why no gradient reaches a layer."""
    return (
        "the model's output has no gradient with respect to any layer, as under torch.inference_mode, after detach() "
        "or behind quantized layers; give forward=, a function from images to logits with gradients, or "
        f"{_WITHOUT_GRADIENTS}"
    )


def check_model(model: object) -> None:
    """Raise a ValueError if it is not a module, or a scripted one, whose parts cannot be called one by one."""
    if isinstance(model, torch.jit.ScriptModule):
        raise ValueError(_unseen(""))
    if not isinstance(model, nn.Module):
        raise ValueError(
            f"model: expected an nn.Module, got {type(model).__name__}; for an exported program, use the result of "
            "torch.export.unflatten"
        )


@contextmanager
def said_in_words(model: nn.Module) -> Iterator[None]:
    """Raise a ValueError where the body needs what a program, or parameters without values, cannot do."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        part = _special_part(model)
        if part is None:
            raise
        raise ValueError(
            f"methods: {part} and does not support everything these methods need, such as other batch sizes or "
            'gradients; use other methods, such as methods="hirescam" or "eigencam", or the original model'
        ) from error


def _special_part(model: nn.Module) -> str | None:
    """What of a model is a program or has parameters without values, and in which way."""
    for name, module in model.named_modules():
        home = type(module).__module__
        if home.startswith(("torch.jit.", "torch.export.", "torch.fx.")):
            return f"{name or 'the model'} is scripted, traced or exported"
        if ".quantized." in home:
            return f"{name} is quantized"
    for name, parameter in model.named_parameters():
        if type(parameter) is not nn.Parameter or parameter.is_meta:
            return f"{name} is quantized, offloaded or sharded"
    return None


def _unseen(name: str) -> str:
    return (
        f"target_layers: no module calls can be seen inside {name or 'the model'}, which is scripted, traced or "
        "exported; use the original module"
    )


def without_graph_only() -> str:
    """Why a model is refused whose forward fails when all of it keeps gradients."""
    return (
        "the model's forward fails when all of it keeps gradients; give forward=, a function from images to logits "
        "that works with gradients"
    )
