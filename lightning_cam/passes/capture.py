"""One forward and one short backward that serve every method and every target layer."""

from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from lightning_cam.methods.registry import DoesNotApply
from lightning_cam.model.keep_grad import KeepGrad
from lightning_cam.model.output import Forward, Score
from lightning_cam.model.private import function_modes_off
from lightning_cam.passes import norm_rules, product_rules  # noqa: F401  (registers)
from lightning_cam.passes.attention import ATTENTION_NEEDS, AttentionPass, AttentionWatch
from lightning_cam.passes.blocks import BlockStatistics
from lightning_cam.passes.captured import Capture, EmbeddingCapture, LayerCapture
from lightning_cam.passes.depth import BlockCuts
from lightning_cam.passes.features import FeatureWatch
from lightning_cam.passes.rules import RULES, RuledForward, unknown_operations
from lightning_cam.passes.scored import scores_of
from lightning_cam.resolve import TargetLayer
from lightning_cam.resolve.depth import Block
from lightning_cam.resolve.embedding import PIXELS


def capture(
    model: nn.Module,
    images: Tensor,
    layers: Sequence[TargetLayer],
    *,
    forward: Forward | None = None,
    class_idx: Tensor | int | None = None,
    score: Score | None = None,
    needs: Collection[str] = ("gradients",),
    embedding: TargetLayer | None = None,
    blank_embedding: Tensor | None = None,
    rules: Collection[str] = (),
    sees_blocks: bool = False,
    blocks: Sequence[Block] = (),
    features: FeatureWatch | None = None,
) -> Capture:
    """Run `images` through the model once and differentiate the score down to the target layers, no further.

    The graph begins at the first target layer, or with `rules` at the embedding: everything before it runs without
    gradients, and parameters get none. Call it inside `looking(model)`.

    Args:
        model: The module that holds the layers, on the device of `images`.
        images: (B, C, H, W), normalized.
        layers: From `find_target_layers`.
        forward: What to call with the images; by default the model.
        class_idx: Explained class, an int or (B,), -1 for the predicted one of an image; None for that of all.
        score: From the model's output to (B,) scalars, instead of a class.
        needs: What is needed besides activations: "gradients", "hvp", or of attention (`ATTENTION_NEEDS`), for which
            the graph begins at the images.
        embedding: From `find_embedding`, with `rules`.
        blank_embedding: (1, ...), what it makes of nothing, which is taken away: it says nothing of the image.
        rules: Names among `RULES`: by each the score is differentiated down to the embedding, in the same graph.
        sees_blocks: Whether to look, with `rules`, at what the blocks do.
        blocks: From `find_depth`, with `rules`: what each of them reads is told as well.
        features: Watches the forward, if any method asks for what the network ends with.

    Returns:
        Activations and gradients on the token grid, all on the device of `images`.

    Raises:
        ValueError: A class outside the logits, a score of the wrong shape, a layer that was not reached or that the
            score does not depend on.
        DoesNotApply: The score does not depend on the embedding.

    Example:
        >>> import timm
        >>> from lightning_cam import find_target_layers
        >>> from lightning_cam.model.untouched import looking
        >>> model = timm.create_model("vit_tiny_patch16_224", num_classes=3, depth=1)
        >>> images = torch.zeros(2, 3, 224, 224)
        >>> with looking(model):
        ...     captured = capture(model, images, find_target_layers(model, images))
        >>> captured.layers[0].gradients.shape
        torch.Size([2, 192, 14, 14])
    """
    forward = model if forward is None else forward
    differentiate = "gradients" in needs or "hvp" in needs
    of_attention = ATTENTION_NEEDS.intersection(needs)
    again = partial(capture, model, images, layers, forward=forward, score=score)
    if "hvp" in needs and (rules or of_attention):  # rules have no second derivative, and attention makes it dear
        first = again(class_idx=class_idx, needs=set(needs) - of_attention, features=features)
        at_embedding = {"embedding": embedding, "blank_embedding": blank_embedding}
        of_rules = partial(again, **at_embedding, rules=rules, sees_blocks=sees_blocks, blocks=blocks)
        others = of_rules(class_idx=first.class_idx, needs=of_attention)
        return replace(first, embedding=others.embedding, attention=others.attention)
    watch = AttentionWatch(model, layers[-1], of_attention) if of_attention else None
    ruled = None
    if embedding is not None and rules:
        grid_size = layers[-1].layout.grid_size if layers else embedding.layout.grid_size
        sees_blocks = sees_blocks and len(grid_size) == 2  # what they do is told of images
        ruled = RuledForward(BlockStatistics(len(images), grid_size) if sees_blocks else None)
        ruled.keeps_inputs = watch is not None
    cuts = BlockCuts(blocks if ruled is not None else ())
    with cuts.watching(), nullcontext() if features is None else features.watching():
        output, tensors = _forward(
            model, forward, images, layers, differentiate, "hvp" in needs, ruled=ruled, embedding=embedding, watch=watch
        )
    begins_with = tensors.pop() if ruled is not None else None
    seen: EmbeddingCapture | None = None
    attention: AttentionPass | DoesNotApply | None = None
    with torch.set_grad_enabled(differentiate or ruled is not None or watch is not None):
        logits, classes, scores = scores_of(output, len(images), class_idx, score)
        if ruled is not None and ruled.is_ruled and (differentiate or watch is not None):
            # Its rules cannot be taken back for the plain gradients, which are asked in a pass of their own.
            plain = again(class_idx=classes, needs=needs)
            by_rules = _by_rules(ruled, scores, embedding, begins_with, blank_embedding, rules, cuts)
            return replace(plain, embedding=by_rules)
        grads = products = None
        if differentiate:
            retain_graph = ruled is not None or watch is not None
            create_graph = "hvp" in needs
            grads = _gradients(scores, tensors, layers, create_graph=create_graph, retain_graph=retain_graph)
        if "hvp" in needs:
            products = [_hvp(g, tensor) for g, tensor in zip(grads or (), tensors, strict=True)]
        if watch is not None:
            scorer = partial(_scores, batch_size=len(images), class_idx=classes, score=score)
            try:
                attention = watch.passed(forward, images, output, scores, scorer, retain_graph=ruled is not None)
            except DoesNotApply as error:
                attention = error
        if ruled is not None:
            seen = _by_rules(ruled, scores, embedding, begins_with, blank_embedding, rules, cuts)
    captured = [
        LayerCapture(
            activations=_grid(layer, tensors[index].detach()),
            gradients=None if grads is None else _grid(layer, grads[index].detach()),
            hvp=None if products is None else _grid(layer, products[index]),
            layer_output=tensors[index].detach(),
            channel_axis=layer.layout.channel_axis,
        )
        for index, layer in enumerate(layers)
    ]
    return Capture(captured, logits, classes, scores.detach(), seen, attention)


def _scores(output: Any, batch_size: int, class_idx: Tensor | int | None, score: Score | None) -> Tensor:
    return scores_of(output, batch_size, class_idx, score)[2]


def _by_rules(
    ruled: RuledForward,
    scores: Tensor,
    embedding: TargetLayer | None,
    output: Tensor | None,
    blank: Tensor | None,
    rules: Collection[str],
    cuts: BlockCuts,
) -> EmbeddingCapture:
    assert embedding is not None and output is not None
    if not scores.requires_grad:
        raise DoesNotApply("the score has no gradient, as behind quantized layers")
    unknown = unknown_operations(scores)
    gradients, block_maps, at_blocks = {}, {}, cuts.tensors
    for index, name in enumerate(rules):
        with ruled.backward_by(RULES[name]):
            retain_graph = index + 1 < len(rules)
            gradient, *others = torch.autograd.grad(
                scores.sum(), [output, *at_blocks], retain_graph=retain_graph, allow_unused=True
            )
        if gradient is None:
            raise DoesNotApply(f"the gradient of the score does not reach {embedding.name or 'the images'}")
        gradients[name] = embedding.layout.to_grid(gradient.detach()).float()
        if at_blocks:
            block_maps[name] = cuts.maps(at_blocks, others)
    activations = embedding.layout.to_grid(output.detach()).float()
    if blank is not None:
        activations = activations - embedding.layout.to_grid(blank).float()
    return EmbeddingCapture(activations, gradients, frozenset(unknown), ruled.blocks, block_maps)


def _grid(layer: TargetLayer, output: Tensor) -> Tensor:
    """The grid (B, C, h, w); of volumes (B, C, d * h, w), the planes below one another, as methods know two axes."""
    grid = layer.layout.to_grid(output).float()
    return grid if grid.ndim == 4 else grid.flatten(2, 3)


def _hvp(gradient: Tensor, output: Tensor) -> Tensor:
    """Hessian of the score at a layer's output, times that output; zero where the score is linear in it."""
    directed = (gradient * output.detach()).sum()
    if not directed.requires_grad:
        return torch.zeros_like(output)
    (product,) = torch.autograd.grad(directed, output, retain_graph=True, allow_unused=True)
    return torch.zeros_like(output) if product is None else product


def _forward(
    model: nn.Module,
    forward: Forward,
    images: Tensor,
    layers: Sequence[TargetLayer],
    gradients: bool,
    twice: bool,
    *,
    ruled: RuledForward | None,
    embedding: TargetLayer | None,
    watch: AttentionWatch | None,
) -> tuple[Any, list[Tensor]]:
    """The model's output, and the layers' outputs as leaves (or inner tensors) of the graph that leads to it.

    With `twice` that graph can be differentiated a second time, with `ruled` by rules. Then the last of the outputs is
    that of the embedding, or the images.
    """
    tensors: dict[int, Tensor] = {}
    every = [*layers, embedding] if ruled is not None and embedding is not None else list(layers)
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        if gradients or ruled is not None or watch is not None:
            # Between the layer and the logits the user's code may switch gradients off (a frozen backbone, say).
            stack.enter_context(KeepGrad(model))
        begin = partial(_begin_graph, stack, twice)
        for index, layer in enumerate(every):
            is_embedding = index == len(layers)
            if is_embedding and layer.name == PIXELS:
                begin()
                images = tensors[index] = images.detach().clone().requires_grad_()
                continue
            start = partial(_begin_plain, begin, ruled) if gradients and not is_embedding else None
            hook = _recorder(tensors, index, begin if is_embedding else start)
            stack.callback(layer.module.register_forward_hook(hook).remove)
        if watch is not None:
            begin()
            images = images if images.requires_grad else images.detach().clone().requires_grad_()
        if ruled is not None:
            stack.enter_context(ruled)
        if watch is not None:
            stack.enter_context(watch.watching())
        output = forward(images)
    for index, layer in enumerate(every):
        if index not in tensors:
            raise ValueError(f"target_layers: {layer.name!r} was not called by the forward pass")
    return output, [tensors[index] for index in range(len(every))]


def _begin_plain(begin: Callable[[], None], ruled: RuledForward | None) -> None:
    begin()
    if ruled is not None and not ruled.keeps_inputs:
        ruled.keeps_inputs, ruled.is_ruled = True, False  # what was before is not differentiated plainly


def _begin_graph(stack: ExitStack, twice: bool) -> None:
    with function_modes_off():  # or KeepGrad would swallow this too
        torch.set_grad_enabled(True)
    if twice:  # fused attention kernels have no second derivative
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))


def _recorder(tensors: dict[int, Tensor], index: int, begin: Callable[[], None] | None) -> Callable[..., Any]:
    """A hook that keeps a layer's output; with `begin`, which it calls, as a leaf of the graph of what follows."""

    def hook(module: nn.Module, inputs: Any, output: Any) -> Any:
        if not isinstance(output, Tensor):
            raise ValueError(
                f"target_layers: {type(module).__name__} returns a {type(output).__name__}; "
                "expected a layer whose output is one tensor"
            )
        if begin is None:
            # A later in-place operation must not reach the record.
            tensors[index] = output.clone()
            return None
        begin()
        tensors[index] = output if output.requires_grad else output.detach().requires_grad_()
        return tensors[index].clone()

    return hook


def _gradients(
    scores: Tensor, tensors: list[Tensor], layers: Sequence[TargetLayer], *, create_graph: bool, retain_graph: bool
) -> Sequence[Tensor]:
    if not scores.requires_grad:
        raise ValueError(_no_gradient(", ".join(layer.name for layer in layers)))
    grads = torch.autograd.grad(
        scores.sum(), tensors, allow_unused=True, create_graph=create_graph, retain_graph=create_graph or retain_graph
    )
    for layer, grad in zip(layers, grads, strict=True):
        if grad is None:
            raise ValueError(_no_gradient(layer.name))
    return grads


def _no_gradient(where: str) -> str:
    return (
        f"target_layers: the gradient of the score does not reach {where}: the score does not depend on it, or later "
        'layers block the gradient, as quantized ones do; use a method without gradients, methods="eigencam"'
    )
