"""Structured light: patterns over the image show where each token of a layer is."""

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from math import pi
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lightning_cam.model.private import function_modes_off
from lightning_cam.model.signals import stop_if_interrupted
from lightning_cam.resolve.graph import of_same_tokens
from lightning_cam.resolve.layout import TokenLayout
from lightning_cam.resolve.operations import ATTENTION, PRODUCTS, name_of, tensors_in_product
from lightning_cam.resolve.watch import first_tensor

# Of the noise that is added. Stronger noise drives deep networks with random weights into chaos, where a change at one
# place is felt everywhere; weaker noise comes near to rounding in half precision.
AMPLITUDE = 0.1
_WAVES = 2  # per image axis: a half and a whole period of a cosine


class PatternResponses:
    """How each token of some layers answers to patterns laid over the image.

    Noise that is added to the image is multiplied by a raised cosine along one image axis, or by its
    complement. The more a token moves under the one than under the other, the more of what it sees lies where
    the cosine is high. Costs 5 forwards.

    Args:
        forward: What to call.
        images: (B, C, H, W), the base images.
        layers: The layers to watch, each with the axis of its channels.
        attention: False makes each token attend to itself alone, where attention keeps the number of tokens:
            it then knows of its own place only, which random or strong mixing otherwise drowns.
        source: A layer whose output (B, C, h, w) the patterns are laid over, by default the images.
    """

    def __init__(
        self,
        forward: Callable[[Tensor], Any],
        images: Tensor,
        layers: Sequence[tuple[nn.Module, int]],
        *,
        attention: bool = True,
        source: nn.Module | None = None,
    ) -> None:
        with nullcontext() if attention else OwnTokenOnly():
            self.still, self._moves = moves_of(forward, images, layers, _patterns, source)

    def score(self, index: int, layout: TokenLayout, *, coarse: bool = False) -> float:
        """How well a layout explains the answers of a layer.

        Args:
            index: Of the layer.
            layout: The candidate.
            coarse: Take only the slower wave of each axis, which wide convolutions blur less.

        Returns:
            The correlation of answers and patterns, 1 at best: mean over the patterns of an axis, that of the
            axis which fits worse.
        """
        h, w = layout.grid_size
        answers = [answer_of(moves, layout) for moves in self._moves[index]]
        rows = [(a, wave[:, None].expand(h, w)) for a, wave in zip(answers[:_WAVES], _waves(h), strict=True)]
        columns = [(a, wave.expand(h, w)) for a, wave in zip(answers[_WAVES:], _waves(w), strict=True)]
        rows, columns = rows[: 1 if coarse else _told(h)], columns[: 1 if coarse else _told(w)]
        return min(fit for fit in map(_fit, (rows, columns)) if fit is not None)


def _told(cells: int) -> int:
    """How many waves tell the cells of an axis: one of three cells a period is turned around by convolutions of 3."""
    return _WAVES if cells >= 4 else 1


def _fit(pairs: list[tuple[Tensor, Tensor]]) -> float | None:
    # On an axis of a single cell cosines are flat.
    scores = [_correlation(answer, wave) for answer, wave in pairs if wave.std() > 1e-3]
    return sum(scores) / len(scores) if scores else None


def moves_of(
    forward: Callable[[Tensor], Any],
    images: Tensor,
    layers: Sequence[tuple[nn.Module, int]],
    patterns_for: Callable[[Tensor], list[Tensor]],
    source: nn.Module | None = None,
) -> tuple[list[Tensor], list[list[Tensor]]]:
    """How far the tokens of each layer move under each pattern, in one forward per pattern and one without.

    Args:
        forward: What to call.
        images: (2, C, H, W), of which the first is used, twice: under the pattern and under its complement.
        layers: The layers to watch, each with the axis of its channels.
        patterns_for: From what they are laid over to patterns, each of values from -1, no noise, to 1, all of it.
        source: See `PatternResponses`.

    Returns:
        For each layer what it returned without a pattern, and for each layer and pattern the squared differences from
        that, summed over the channels.

    Raises:
        ValueError: A layer's number of tokens depends on the image.
    """
    modules = [module for module, _ in layers]
    base = images[:1].expand_as(images)
    still = outputs_of(forward, base, modules if source is None else [*modules, source])
    lit = base if source is None else still.pop()
    noise = AMPLITUDE * torch.randn(lit[:1].shape, generator=torch.Generator().manual_seed(1)).to(lit) * lit.std()
    moves: list[list[Tensor]] = [[] for _ in layers]
    for pattern in patterns_for(lit):
        light = noise * (1 + torch.cat([pattern, -pattern])) / 2
        if source is None:
            moved = outputs_of(forward, base + light, modules)
        else:
            handle = source.register_forward_hook(lambda module, args, output, light=light: output + light.to(output))
            try:
                moved = outputs_of(forward, base, modules)
            finally:
                handle.remove()
        for index, (_, axis) in enumerate(layers):
            same_tokens(still[index], moved[index])
            moves[index].append((moved[index] - still[index]).square().sum(axis, keepdim=True))
    return still, moves


def same_tokens(one: Tensor, other: Tensor) -> None:
    """Raise a ValueError if a layer's outputs for two batches of images are of different shapes."""
    if one.shape != other.shape:
        raise ValueError(
            f"target_layers: the number of tokens depends on the image (outputs of {tuple(one.shape)} and "
            f"{tuple(other.shape)} were seen), so tokens have no fixed positions; name a layer before tokens are "
            "dropped with target_layers="
        )


def answer_of(moves: Tensor, layout: TokenLayout) -> Tensor:
    """(h, w) on the CPU: 1 where a cell moves under the pattern alone, -1 where it does under the complement alone."""
    up, down = layout.to_grid(moves)[:, 0].cpu().double()
    return (up - down) / (up + down).clamp(min=1e-30)


def _patterns(images: Tensor) -> list[Tensor]:
    height, width = images.shape[-2:]
    waves = [wave[:, None] for wave in _waves(height)] + list(_waves(width))
    return [wave.expand(1, 1, height, width).to(images) for wave in waves]


def _waves(size: int) -> list[Tensor]:
    place = (torch.arange(size) + 0.5) / size
    return [torch.cos(pi * k * place) for k in range(1, _WAVES + 1)]


def _correlation(a: Tensor, b: Tensor) -> float:
    a, b = a.flatten().double() - a.double().mean(), b.flatten().double() - b.double().mean()
    return float(((a * b).sum() / (a.norm() * b.norm() + 1e-12)).nan_to_num())


def outputs_of(forward: Callable[[Tensor], Any], images: Tensor, modules: Sequence[nn.Module]) -> list[Tensor]:
    """What some layers return for images, as in the last of their calls: float32, apart from the graph."""
    stop_if_interrupted()
    outputs: dict[int, Tensor] = {}

    def recorder(index: int) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            tensor = first_tensor(output)  # of what a block returns, which may be more
            assert tensor is not None
            with function_modes_off():  # one of which may keep the graph of what is detached
                outputs[index] = tensor.detach().float().clone()

        return hook

    with ExitStack() as stack:
        for index, module in enumerate(modules):
            stack.callback(module.register_forward_hook(recorder(index)).remove)
        forward(images)
    return [outputs[index] for index in range(len(modules))]


@dataclass
class _Product:
    """A product seen in a forward pass: of one and the same tokens or not, and of what."""

    same_tokens: bool
    operands: list[Tensor]


class OwnTokenOnly(TorchFunctionMode):
    """Lets self-attention return the values it was given, wherever it keeps the number of tokens.

    Attention of other tokens, as of learned queries to patches, is left as it is, even of as many.
    """

    def __init__(self) -> None:
        super().__init__()
        self._products: dict[Any, _Product] = {}  # by their nodes in the graph

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = name_of(func)
        if name in ATTENTION and len(args) > 2:
            query, key, value = args[:3]
            fits = value.shape == (result[0] if isinstance(result, tuple) else result).shape
            if query.shape == key.shape and fits and of_same_tokens(query, key):
                value = value.contiguous()  # as what it stands for would be, a view may be taken of it
                return (value, *result[1:]) if isinstance(result, tuple) else value
        if name in PRODUCTS:
            operands = tensors_in_product(args)
            value = self._value(operands, result) if len(operands) == 2 else None
            if value is not None:
                return value.contiguous()
            if len(operands) == 2 and result.grad_fn is not None:
                self._products[result.grad_fn] = _Product(of_same_tokens(*operands), operands)
        return result

    def _value(self, operands: list[Tensor], result: Tensor) -> Tensor | None:
        """What attention gave weights to, if the product is its second one."""
        if not all(x.requires_grad for x in operands):
            return None
        # The values have the shape of the result, whichever side of the attention weights they stand on.
        values = [x for x in operands if x.shape == result.shape]
        if len(values) == 1:
            weights = operands[1] if values[0] is operands[0] else operands[0]
            scores = self._behind(weights)
            return values[0] if scores is None or scores.same_tokens else None
        # Linear attention multiplies keys and values first: they are behind what meets the queries.
        for context, query in (operands, operands[::-1]):
            first = self._behind(context) if context.shape != result.shape else None
            for value in first.operands if first is not None else ():
                if value.shape == result.shape and of_same_tokens(query, value):
                    return value
        return None

    def _behind(self, tensor: Tensor) -> _Product | None:
        """The nearest product that a tensor was made of."""
        waiting, seen = deque([tensor.grad_fn]), set[Any]()
        while waiting:
            node = waiting.popleft()
            if node in self._products:
                return self._products[node]
            if node is not None and node not in seen:
                seen.add(node)
                waiting.extend(following for following, _ in node.next_functions)
        return None
