"""A pass through the whole model for methods that need its attention. Use it inside `looking(model)`."""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
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
from lightning_cam.model.output import Forward, Score, tensors_in
from lightning_cam.passes.rerun import Call, Rerun, recorded_calls
from lightning_cam.resolve import TargetLayer

ATTENTION_NEEDS = frozenset({"attentions", "attention_gradients", "block_attention_gradients", "readout"})


class _Attention(NamedTuple):
    """An attention matrix (..., N, N), and where in the graph it stands: it may be a view of what is used on."""

    weights: Tensor
    edge: GradientEdge | None  # None without a graph


@dataclass(frozen=True)
class AttentionPass:
    """Attention of all blocks, and how the score depends on it.

    Args:
        attentions: For each block (B, heads, N, N) float32, after the softmax, queries in rows.
        attention_gradients: Gradients of the score with respect to them; if not asked for, of the last or none.
        block_attention_gradients: Gradients of each block's own score with respect to its attention: the score that
            the final norm and the head give to the mean over all tokens of the block's output. Empty if not asked for.
        readout: (B, N) float32, share of each token in what the head reads; rows add up to 1. None if not asked for.
    """

    attentions: list[Tensor]
    attention_gradients: list[Tensor]
    block_attention_gradients: list[Tensor]
    readout: Tensor | None


class AttentionWatch:
    """A forward pass with its attention in sight.

    What a fused kernel hides (`scaled_dot_product_attention`) is computed step by step.

    Args:
        model: The module that holds the layer.
        layer: A target layer of the final block, whose layout is that of the tokens.
        needs: What is asked for, among `ATTENTION_NEEDS`.
    """

    def __init__(self, model: nn.Module, layer: TargetLayer, needs: Collection[str]) -> None:
        self._model, self._layer, self._needs = model, layer, needs
        self._outputs: dict[nn.Module, Any] = {}
        self._calls: list[Call] = []
        self._watch = AttentionsSeen(with_graph_only=True)
        self._blocks: list[nn.Module] | DoesNotApply = []
        if "block_attention_gradients" in needs:
            try:
                self._blocks = _blocks(model, layer)
            except DoesNotApply as error:
                self._blocks = error

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch the forward pass in the body, whose graph must begin before the first attention."""
        with ExitStack() as stack:
            if isinstance(self._blocks, list) and self._blocks:
                self._calls = stack.enter_context(recorded_calls(self._model))
                for block in self._blocks:
                    stack.callback(block.register_forward_hook(partial(_keep, self._outputs)).remove)
            stack.enter_context(self._watch)
            yield

    def passed(
        self, forward: Forward, images: Tensor, output: Any, scores: Tensor, score: Score, *, retain_graph: bool
    ) -> AttentionPass:
        """Differentiate what came of the forward pass with respect to its attention.

        Args:
            forward: What was called with the images.
            images: (B, C, H, W).
            output: What the model returned.
            scores: (B,), of that.
            score: From the model's output to (B,).
            retain_graph: Whether the graph is needed on.

        Raises:
            DoesNotApply: There is no attention over all tokens of the layer, in all blocks alike.
        """
        count = len(images)
        seen = _over_all_tokens(self._watch.attentions, count, self._layer)
        blocks = self._blocks
        if isinstance(blocks, DoesNotApply):
            raise blocks
        asked = seen if "attention_gradients" in self._needs else seen[-1:] if "readout" in self._needs else []
        gradients: Sequence[Tensor] = ()
        if asked:
            edges = [attention.edge for attention in asked if attention.edge is not None]
            score_sum, retain = scores.sum(), retain_graph or bool(blocks)
            found = (
                torch.autograd.grad(score_sum, edges, retain_graph=retain, allow_unused=True)
                if scores.requires_grad
                else ()
            )
            gradients = [gradient for gradient in found if gradient is not None]
            if len(gradients) != len(edges):
                raise DoesNotApply(
                    "the gradient of the score does not reach all attention layers, as behind quantized layers"
                )
        own: list[Tensor] = []
        if blocks:
            rerun = Rerun(self._model, forward, images, blocks[-1], known=(self._calls, output))
            own = _own_gradients(rerun, count, [self._outputs[block] for block in blocks], seen, score)
        return AttentionPass(
            attentions=[_per_head(attention.weights.detach(), count) for attention in seen],
            attention_gradients=[_per_head(gradient, count) for gradient in gradients],
            block_attention_gradients=[_per_head(gradient, count) for gradient in own],
            readout=_readout(_per_head(gradients[-1], count)) if asked else None,
        )


def _own_gradients(
    rerun: Rerun, count: int, outputs: list[Any], attentions: list[_Attention], score: Score
) -> list[Tensor]:
    if len(outputs) != len(attentions):
        raise DoesNotApply(f"{len(outputs)} blocks have {len(attentions)} attentions; expected one per block")
    gradients: list[Tensor] = []
    for output, attention in zip(outputs, attentions, strict=True):
        tokens = next(tensors_in(output))
        # Whatever token the head reads, in this output it reads the mean over all.
        mean = tokens.mean(1, keepdim=True).expand_as(tokens)
        of_mean = score(rerun(mean, torch.arange(count, device=tokens.device))).sum()
        assert attention.edge is not None  # the graph began before it
        gradients += torch.autograd.grad(of_mean, attention.edge, retain_graph=True)
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
    raise DoesNotApply(f"{layer.name} is not in a list of blocks")


def _over_all_tokens(attentions: list[_Attention], batch_size: int, layer: TargetLayer) -> list[_Attention]:
    """Those of the attentions that are over the tokens of the layer; all blocks' must be."""
    layout = layer.layout
    count = layout.num_prefix_tokens + layout.grid_size[0] * layout.grid_size[1] + layout.num_suffix_tokens
    shapes = [tuple(attention.weights.shape) for attention in attentions]
    fits = [shape[-2:] == (count, count) and shape[0] % batch_size == 0 for shape in shapes]
    if layout.format != "NLC" or not fits or not all(fits):
        others = sorted({shape for shape, is_fitting in zip(shapes, fits, strict=True) if not is_fitting})
        named = ", ".join(map(str, others))
        seen = f"found attention of shape {named}" if others else f"its output is {layout.format}"
        raise DoesNotApply(
            f"every block needs attention over all {count} tokens of {layer.name} as one sequence; {seen}, as in "
            "windowed or pyramid models"
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


class AttentionsSeen(TorchFunctionMode):
    """Collects attention matrices: computes what fused kernels hide, takes what a softmax over tokens returns.

    Args:
        with_graph_only: Whether only those count that depend on the images, which is not known without a graph.

    Attributes:
        attentions: In order.
    """

    def __init__(self, *, with_graph_only: bool = False) -> None:
        super().__init__()
        self._with_graph_only = with_graph_only
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
        if attention.ndim >= 3 and attention.shape[-1] > 1:
            if attention.requires_grad:
                self.attentions.append(_Attention(attention, get_gradient_edge(attention)))
            elif not self._with_graph_only:
                self.attentions.append(_Attention(attention, None))
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
        elif not self._with_graph_only:
            self.attentions.append(_Attention(weights, None))
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
