"""A pass through the whole model for methods that need its attention. To be used inside `looking(model)`."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from inspect import signature
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.overrides import TorchFunctionMode

from lightning_cam.methods.registry import DoesNotApply
from lightning_cam.model.keep_grad import KeepGrad
from lightning_cam.model.output import Forward, Score, tensors_in
from lightning_cam.passes.rerun import Rerun
from lightning_cam.resolve import TargetLayer


class _Attention(NamedTuple):
    """An attention matrix (..., N, N), and where in the graph it stands: it may be a view of what is used on."""

    weights: Tensor
    edge: GradientEdge


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
    scores: Score,
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
    with torch.enable_grad(), KeepGrad(model):
        with ExitStack() as stack:
            for block in blocks:
                stack.callback(block.register_forward_hook(partial(_keep, outputs)).remove)
            stack.enter_context(watch)
            # The graph must begin before the first attention, and parameters are frozen.
            output = forward(images.detach().clone().requires_grad_())
        seen = _over_all_tokens(watch.attentions, len(images), layer)
        edges = [attention.edge for attention in seen]
        score = scores(output).sum()
        found = (
            torch.autograd.grad(score, edges, retain_graph=of_blocks, allow_unused=True) if score.requires_grad else ()
        )
        gradients = [gradient for gradient in found if gradient is not None]
        if len(gradients) != len(edges):
            raise DoesNotApply("no gradient of the score reaches all of its attentions, as behind quantized layers")
        own = _own_gradients(model, forward, images, blocks, outputs, seen, scores) if of_blocks else []
    return AttentionPass(
        attentions=[_per_head(attention.weights.detach(), len(images)) for attention in seen],
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
    attentions: list[_Attention],
    scores: Score,
) -> list[Tensor]:
    if len(blocks) != len(attentions):
        raise DoesNotApply(f"{len(blocks)} blocks have {len(attentions)} attentions, one each is needed")
    rerun = Rerun(model, forward, images, blocks[-1])
    every = torch.arange(len(images), device=images.device)
    gradients: list[Tensor] = []
    for block, attention in zip(blocks, attentions, strict=True):
        tokens = next(tensors_in(outputs[block]))
        # Whatever token the head reads, in this output it reads the mean over all.
        mean = tokens.mean(1, keepdim=True).expand_as(tokens)
        gradients += torch.autograd.grad(scores(rerun(mean, every)).sum(), attention.edge, retain_graph=True)
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


def _over_all_tokens(attentions: list[_Attention], batch_size: int, layer: TargetLayer) -> list[_Attention]:
    """Those of the attentions that are over the tokens of the layer; all blocks' must be."""
    layout = layer.layout
    count = layout.num_prefix_tokens + layout.grid_size[0] * layout.grid_size[1] + layout.num_suffix_tokens
    shapes = [tuple(attention.weights.shape) for attention in attentions]
    fits = [shape[-2:] == (count, count) and shape[0] % batch_size == 0 for shape in shapes]
    if layout.format != "NLC" or not fits or not all(fits):
        others = sorted({shape for shape, is_fitting in zip(shapes, fits, strict=True) if not is_fitting})
        named = ", ".join(map(str, others))
        seen = f"seen were attentions of shape {named}" if others else f"its output is {layout.format}"
        raise DoesNotApply(
            f"attention over all {count} tokens of {layer.name}, as a sequence, is needed in every block; {seen}, "
            "as in windows or pyramids"
        )
    return attentions


def _per_head(attention: Tensor, batch_size: int) -> Tensor:
    """(B, heads, N, N) float32, where heads may be part of the batch axis."""
    return attention.float().reshape(batch_size, -1, *attention.shape[-2:])


def _readout(gradients: Tensor) -> Tensor:
    """(B, N): a token is read if the score depends on what it attends to in the last block."""
    read = (gradients.abs().sum((1, 3)) > 0).float()
    return read / read.sum(1, keepdim=True).clamp_min(1)


def _keep(outputs: dict[nn.Module, Any], module: nn.Module, inputs: Any, output: Any) -> None:
    outputs[module] = output


_SOFTMAX = (torch.softmax, F.softmax, Tensor.softmax)


class _Watch(TorchFunctionMode):
    """Collects attention matrices: computes what fused kernels hide, takes what a softmax over tokens returns."""

    def __init__(self) -> None:
        super().__init__()
        self.attentions: list[_Attention] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            return self._attend(*args, **kwargs)
        if func in _SOFTMAX:
            return self._softmax(func, *args, **kwargs)
        if func is F.multi_head_attention_forward:
            return self._multi_head_attention(*args, **kwargs)
        return func(*args, **kwargs)

    def _softmax(self, softmax: Callable[..., Tensor], scores: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        attention = softmax(scores, *args, **kwargs)
        if attention.ndim >= 3 and attention.shape[-1] > 1 and attention.requires_grad:
            self.attentions.append(_Attention(attention, get_gradient_edge(attention)))
        return attention

    def _multi_head_attention(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
        """As asked for, but with the weights of each head; this mode does not reach what it calls."""
        call = signature(F.multi_head_attention_forward).bind(*args, **kwargs)
        call.apply_defaults()
        wanted, averaged = call.arguments["need_weights"], call.arguments["average_attn_weights"]
        call.arguments |= {"need_weights": True, "average_attn_weights": False}
        output, weights = F.multi_head_attention_forward(*call.args, **call.kwargs)
        assert weights is not None
        if weights.grad_fn is not None:
            # A view (B, heads, N, N) of the softmax (B * heads, N, N), and only that leads on to the output.
            softmax, index = weights.grad_fn.next_functions[0]
            assert softmax is not None
            self.attentions.append(_Attention(weights, GradientEdge(softmax, index)))
        if not wanted:
            return output, None
        return output, weights.mean(1) if averaged else weights

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
