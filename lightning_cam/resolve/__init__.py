"""From any model to its target layers, by structure and by measurement."""

import difflib
import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lightning_cam.layout import TokenLayout
from lightning_cam.output import logits_of
from lightning_cam.resolve.candidates import candidates, grids_of
from lightning_cam.resolve.jitter import jittered
from lightning_cam.resolve.light import Light
from lightning_cam.resolve.norms import channel_axis
from lightning_cam.resolve.watch import Call, Trace, eager, same, watch
from lightning_cam.state import untouched

log = logging.getLogger("lightning_cam")

_BATCH = 2  # tells the batch axis from the others
_TRUSTED = 0.5  # correlation below which a layout is not believed


@dataclass(frozen=True)
class TargetLayer:
    """A layer to explain at, and how its output lies.

    Args:
        name: Qualified name in the model.
        module: The layer.
        layout: Where the patches stand in its output.
    """

    name: str
    module: nn.Module
    layout: TokenLayout

    def __str__(self) -> str:
        return f"{self.name} ({type(self.module).__name__}): {self.layout}"


def find_target_layers(
    model: nn.Module,
    images: Tensor,
    *,
    forward: Callable[[Tensor], Any] | None = None,
    target_layers: Sequence[str | nn.Module] | None = None,
    layout: TokenLayout | Sequence[TokenLayout] | None = None,
) -> list[TargetLayer]:
    """Find the layers at which a vision transformer is explained, and how their outputs lie.

    By default the norm before the last token mixing at whose patches the logits have a gradient.

    Args:
        model: The module whose submodules are searched, in any mode; left untouched.
        images: (B, 3, H, W), normalised, on the model's device; only shape, dtype and device are used.
        forward: What to call with the images; by default `model`.
        target_layers: Names or modules to take instead of those found.
        layout: How the outputs of `target_layers` lie, one for all or one each; by default found out.

    Returns:
        The target layers.

    Raises:
        ValueError: No layer or no layout is certain; the sentence says what was looked at and which argument
            settles it.

    Example:
        >>> import timm
        >>> model = timm.create_model("vit_tiny_patch16_224", depth=2)
        >>> print(*find_target_layers(model, torch.zeros(1, 3, 224, 224)))
        blocks.1.norm1 (LayerNorm): NLC 14×14, 1 prefix token
    """
    run = model if forward is None else forward
    named = None if target_layers is None else [_named(model, layer) for layer in target_layers]
    if named is not None and layout is not None:
        layouts = [layout] * len(named) if isinstance(layout, TokenLayout) else list(layout)
        if len(layouts) != len(named):
            raise ValueError(f"layout: {len(layouts)} given for {len(named)} target_layers")
        return [TargetLayer(*pair, given) for pair, given in zip(named, layouts, strict=True)]

    noise = torch.randn(_BATCH, *images.shape[1:], generator=torch.Generator().manual_seed(0))
    with ExitStack() as stack:
        for context in (torch.inference_mode(False), torch.enable_grad(), untouched(model), eager()):
            stack.enter_context(context)
        for module in model.modules():
            module.training = False
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        stack.enter_context(jittered(model))
        base = noise.to(images).clone()
        trace = watch(model, run, base.requires_grad_() * 1)
        calls = _living_block(trace) if named is None else _calls(trace, named)
        grids = grids_of((images.shape[2], images.shape[3]), trace.grids)
        found = [_layouts(call, grids) for call in calls]
        axes = [(call.module, options[0].channel_axis if options else -1) for call, options in found]
        light = Light(model, run, base.detach(), axes)
        chosen = [_brightest(light, index, *option) for index, option in enumerate(found)]
    return chosen


def _layouts(call: Call, grids: set[tuple[int, int]]) -> tuple[Call, list[TokenLayout]]:
    assert call.output is not None
    shape = tuple(call.output.shape)
    return call, candidates(shape, channel_axis(call.module, shape), _BATCH, grids)


def _brightest(light: Light, index: int, call: Call, options: list[TokenLayout]) -> TargetLayer:
    shape = tuple(call.output.shape) if call.output is not None else None
    scores = {option: light.score(index, option) for option in options}
    best = max(scores, key=scores.__getitem__, default=None)
    if best is None or scores[best] < _TRUSTED:
        raise ValueError(
            f"the output of {call.name} has shape {shape}, which fits no grid of patches; "
            "give target_layers= and layout="
        )
    return TargetLayer(call.name, call.module, best)


def _named(model: nn.Module, layer: str | nn.Module) -> tuple[str, nn.Module]:
    modules = dict(model.named_modules())
    if isinstance(layer, str):
        if layer not in modules:
            near = ", ".join(difflib.get_close_matches(layer, modules, n=3, cutoff=0.3))
            raise ValueError(f"target_layers: the model has no module {layer!r}; the nearest names are {near}")
        return layer, modules[layer]
    for name, module in modules.items():
        if module is layer:
            return name, module
    raise ValueError(f"target_layers: this {type(layer).__name__} is no module of the model")


def _calls(trace: Trace, named: Sequence[tuple[str, nn.Module]]) -> list[Call]:
    last = trace.last_calls()
    for name, module in named:
        if module not in last or last[module].output is None:
            raise ValueError(f"target_layers: {name} returned no tensor in the forward pass")
    return [last[module] for _, module in named]


def _living_block(trace: Trace) -> list[Call]:
    last = trace.last_calls()
    norms = [call for call in last.values() if call.is_norm and call.output is not None]
    mixings = trace.mixings
    tensors = [m.output for m in mixings] + [c.output for c in norms if c.output is not None]
    logits = logits_of(trace.output)
    weights = torch.randn(logits.shape, generator=torch.Generator().manual_seed(2)).to(logits)
    grads = torch.autograd.grad((logits * weights).sum(), tensors, allow_unused=True)
    alive_mixings = [m for m, g in zip(mixings, grads, strict=False) if g is not None and g.any()]
    living = []
    for call, grad in zip(norms, grads[len(mixings) :], strict=True):
        axis = channel_axis(call.module, tuple(grad.shape)) if grad is not None else None
        if grad is not None and axis is not None:
            alive = grad.abs().sum(axis) > 0
            if alive.float().mean() >= 0.5 and alive.numel() > _BATCH:
                living.append(call)
    for mixing in reversed(alive_mixings):
        mixer = mixing.stack[-1]
        for block in reversed(mixing.stack):
            inside = [
                c
                for c in living
                if block.start < c.start < block.end
                and (not mixer.start < c.start < mixer.end or same(c.input, mixer.input))
            ]
            before = [c for c in inside if c.start < mixing.time]
            if before:
                return before[-1:]
            if inside:
                return inside[:1]
    raise ValueError("no attention with a norm at the image's patches was found; name the layers with target_layers=")
