"""Passes through the whole model, for methods that need its attention or the gradient at the image.

All are to be used inside `looking(model)`: they freeze the parameters, so that only what depends on the image gets a
gradient.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lightning_cam.methods.registry import DoesNotApply
from lightning_cam.model.output import tensors_in
from lightning_cam.passes.capture import Forward, KeepGrad
from lightning_cam.passes.rerun import Replay
from lightning_cam.resolve import TargetLayer

Scores = Callable[[Any], Tensor]


@dataclass(frozen=True)
class AttentionPass:
    """Attention of all blocks, and how the score depends on it.

    Args:
        attentions: For each block (B, heads, N, N) float32, after the softmax, queries in rows.
        attention_gradients: Gradients of the score with respect to them.
        block_attention_gradients: Gradients of each block's own score with respect to its attention: the score that
            the final norm and the head give to the mean over all tokens of the block's output. Empty if not asked for.
        readout: (B, N) float32, share of each token in what the head reads; rows add up to 1.
    """

    attentions: list[Tensor]
    attention_gradients: list[Tensor]
    block_attention_gradients: list[Tensor]
    readout: Tensor


def attention_pass(
    model: nn.Module,
    forward: Forward,
    images: Tensor,
    layer: TargetLayer,
    scores: Scores,
    *,
    of_blocks: bool,
) -> AttentionPass:
    """Run the model once with its attention in sight, and differentiate the score with respect to it.

    What a fused kernel hides (`scaled_dot_product_attention`) is computed step by step.

    Args:
        model: The module that holds the layer.
        forward: What to call with the images.
        images: (B, C, H, W).
        layer: A target layer of the final block, whose layout is that of the tokens.
        scores: From the model's output to (B,).
        of_blocks: Whether the blocks' own scores are needed.

    Raises:
        DoesNotApply: There is no attention over all tokens of the layer, in all blocks alike.
    """
    blocks = _blocks(model, layer) if of_blocks else []
    outputs: dict[nn.Module, Any] = {}
    watch = _Watch()
    with _differentiable(model):
        with ExitStack() as stack:
            for block in blocks:
                stack.callback(block.register_forward_hook(partial(_keep, outputs)).remove)
            stack.enter_context(watch)
            # The graph must begin before the first attention, and parameters are frozen.
            output = forward(images.detach().clone().requires_grad_())
        seen = _over_all_tokens(watch.attentions, len(images), layer)
        gradients = torch.autograd.grad(scores(output).sum(), seen, retain_graph=of_blocks)
        own = _own_gradients(model, forward, images, blocks, outputs, seen, scores) if of_blocks else []
    return AttentionPass(
        attentions=[_per_head(attention.detach(), len(images)) for attention in seen],
        attention_gradients=[_per_head(gradient, len(images)) for gradient in gradients],
        block_attention_gradients=[_per_head(gradient, len(images)) for gradient in own],
        readout=_readout(_per_head(gradients[-1], len(images))),
    )


def _own_gradients(
    model: nn.Module,
    forward: Forward,
    images: Tensor,
    blocks: list[nn.Module],
    outputs: dict[nn.Module, Any],
    attentions: list[Tensor],
    scores: Scores,
) -> list[Tensor]:
    if len(blocks) != len(attentions):
        raise DoesNotApply(f"{len(blocks)} blocks have {len(attentions)} attentions, one each is needed")
    replay = Replay(model, forward, images, blocks[-1])
    every = torch.arange(len(images), device=images.device)
    gradients: list[Tensor] = []
    for block, attention in zip(blocks, attentions, strict=True):
        tokens = next(tensors_in(outputs[block]))
        # Whatever token the head reads, in this output it reads the mean over all.
        mean = tokens.mean(1, keepdim=True).expand_as(tokens)
        gradients += torch.autograd.grad(scores(replay(mean, every)).sum(), attention, retain_graph=True)
    return gradients


def _blocks(model: nn.Module, layer: TargetLayer) -> list[nn.Module]:
    """The blocks of the list that the target layer's block stands in, in order."""
    names = layer.name.split(".")
    for depth in range(len(names) - 1, 0, -1):
        parent = model.get_submodule(".".join(names[: depth - 1]))
        if isinstance(parent, (nn.ModuleList, nn.Sequential)):
            last = model.get_submodule(".".join(names[:depth]))
            siblings = list(parent)
            return siblings[: siblings.index(last) + 1]
    raise DoesNotApply(f"{layer.name} does not stand in a list of blocks")


def _over_all_tokens(attentions: list[Tensor], batch_size: int, layer: TargetLayer) -> list[Tensor]:
    """Those of the attentions that are over the tokens of the layer; all blocks' must be."""
    layout = layer.layout
    count = layout.num_prefix_tokens + layout.grid_size[0] * layout.grid_size[1] + layout.num_suffix_tokens
    fitting = [a for a in attentions if a.shape[-2:] == (count, count) and len(a) % batch_size == 0]
    if layout.format != "NLC" or not fitting or len(fitting) < len(attentions):
        others = sorted({tuple(a.shape) for a in attentions if not any(a is f for f in fitting)})
        shapes = ", ".join(map(str, others))
        seen = f"seen were attentions of shape {shapes}" if others else f"its output is {layout.format}"
        raise DoesNotApply(
            f"attention over all {count} tokens of {layer.name}, as a sequence, is needed in every block; {seen}, "
            "as in windows or pyramids"
        )
    return fitting


def _per_head(attention: Tensor, batch_size: int) -> Tensor:
    """(B, heads, N, N) float32, where heads may be part of the batch axis."""
    return attention.float().reshape(batch_size, -1, *attention.shape[-2:])


def _readout(gradients: Tensor) -> Tensor:
    """(B, N): a token is read if the score depends on what it attends to in the last block."""
    read = (gradients.abs().sum((1, 3)) > 0).float()
    return read / read.sum(1, keepdim=True).clamp_min(1)


def _keep(outputs: dict[nn.Module, Any], module: nn.Module, inputs: Any, output: Any) -> None:
    outputs[module] = output


@contextmanager
def _differentiable(model: nn.Module) -> Iterator[None]:
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    with torch.enable_grad(), KeepGrad():
        yield


_SOFTMAX = (torch.softmax, F.softmax, Tensor.softmax)


class _Watch(TorchFunctionMode):
    """Collects attention matrices: computes what fused kernels hide, takes what a softmax over tokens returns."""

    def __init__(self) -> None:
        super().__init__()
        self.attentions: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch._C._set_grad_enabled:
            return None
        if func is F.scaled_dot_product_attention:
            return self._attend(*args, **kwargs)
        if func in _SOFTMAX:
            return self._softmax(func, *args, **kwargs)
        if func is F.multi_head_attention_forward:
            # It calls both by their names in its own module, where this mode does not reach.
            with _patched(scaled_dot_product_attention=self._attend, softmax=partial(self._softmax, F.softmax)):
                return func(*args, **kwargs)
        return func(*args, **kwargs)

    def _softmax(self, softmax: Callable[..., Tensor], scores: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        attention = softmax(scores, *args, **kwargs)
        if attention.ndim >= 3 and attention.shape[-1] > 1 and attention.requires_grad:
            self.attentions.append(attention)
        return attention

    def _attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        """As in the documentation of `scaled_dot_product_attention`; there is no dropout in evaluation."""
        if enable_gqa:
            repeats = query.shape[-3] // key.shape[-3]
            key, value = key.repeat_interleave(repeats, -3), value.repeat_interleave(repeats, -3)
        scores = query @ key.mT * (query.shape[-1] ** -0.5 if scale is None else scale)
        if is_causal:
            attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        if attn_mask is not None:
            scores = scores.masked_fill(~attn_mask, -torch.inf) if attn_mask.dtype == torch.bool else scores + attn_mask
        return self._softmax(torch.softmax, scores, -1) @ value


@contextmanager
def _patched(**functions: Callable[..., Any]) -> Iterator[None]:
    before = {name: getattr(F, name) for name in functions}
    vars(F).update(functions)
    try:
        yield
    finally:
        vars(F).update(before)
