"""Structured light: patterns over the image tell where each token of a layer lies."""

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from math import pi
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lightning_cam.model.signals import stop_if_interrupted
from lightning_cam.resolve.graph import of_same_tokens
from lightning_cam.resolve.layout import TokenLayout
from lightning_cam.resolve.watch import ATTENTION, PRODUCTS, tensors_in_product

_WAVES = 2  # per image axis: a half and a whole period of a cosine


class PatternResponses:
    """How each token of some layers answers to patterns laid over the image.

    Noise that is added to the image is multiplied by a raised cosine along one image axis, or by its
    complement. The more a token moves under the one than under the other, the more of what it sees lies where
    the cosine is high. Costs 9 forwards.

    Args:
        forward: What to call.
        images: (B, C, H, W), the base images.
        layers: The layers to watch, each with the axis of its channels.
        attention: False makes each token attend to itself alone, where attention keeps the number of tokens:
            it then knows of its own place only, which random or strong mixing otherwise drowns.
    """

    def __init__(
        self,
        forward: Callable[[Tensor], Any],
        images: Tensor,
        layers: Sequence[tuple[nn.Module, int]],
        *,
        attention: bool = True,
    ) -> None:
        modules = [module for module, _ in layers]
        noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(1)).to(images)
        with nullcontext() if attention else OwnTokenOnly():
            still = outputs_of(forward, images, modules)
            self._answers: list[list[Tensor]] = [[] for _ in layers]
            for pattern in _patterns(images):
                bright = outputs_of(forward, images + noise * (1 + pattern) / 2, modules)
                dark = outputs_of(forward, images + noise * (1 - pattern) / 2, modules)
                for index, (_, axis) in enumerate(layers):
                    up, down = ((x[index] - still[index]).square().sum(axis, keepdim=True) for x in (bright, dark))
                    self._answers[index].append((up - down) / (up + down + 1e-12))

    def score(self, index: int, layout: TokenLayout) -> float:
        """How well a layout explains the answers of a layer.

        Args:
            index: Of the layer.
            layout: The candidate.

        Returns:
            The correlation of answers and patterns, 1 at best: mean over the patterns of an axis, that of the
            axis which fits worse.
        """
        h, w = layout.grid_size
        answers = [layout.to_grid(answer).mean((0, 1)).cpu() for answer in self._answers[index]]
        rows = [(a, wave[:, None].expand(h, w)) for a, wave in zip(answers[:_WAVES], _waves(h), strict=True)]
        columns = [(a, wave.expand(h, w)) for a, wave in zip(answers[_WAVES:], _waves(w), strict=True)]
        return min(fit for fit in map(_fit, (rows, columns)) if fit is not None)


def _fit(pairs: list[tuple[Tensor, Tensor]]) -> float | None:
    # On a grid of one or two rows some cosines are flat.
    scores = [_correlation(answer, wave) for answer, wave in pairs if wave.std() > 1e-3]
    return sum(scores) / len(scores) if scores else None


def _patterns(images: Tensor) -> list[Tensor]:
    height, width = images.shape[-2:]
    waves = [wave[:, None] for wave in _waves(height)] + list(_waves(width))
    return [wave.to(images) for wave in waves]


def _waves(size: int) -> list[Tensor]:
    place = (torch.arange(size) + 0.5) / size
    return [torch.cos(pi * k * place) for k in range(1, _WAVES + 1)]


def _correlation(a: Tensor, b: Tensor) -> float:
    a, b = a.flatten().double() - a.double().mean(), b.flatten().double() - b.double().mean()
    return float(((a * b).sum() / (a.norm() * b.norm() + 1e-12)).nan_to_num())


def outputs_of(forward: Callable[[Tensor], Any], images: Tensor, modules: Sequence[nn.Module]) -> list[Tensor]:
    stop_if_interrupted()
    outputs: dict[int, Tensor] = {}

    def recorder(index: int) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            outputs[index] = output.detach().float().clone()

        return hook

    with ExitStack() as stack:
        for index, module in enumerate(modules):
            stack.callback(module.register_forward_hook(recorder(index)).remove)
        forward(images)
    return [outputs[index] for index in range(len(modules))]


class OwnTokenOnly(TorchFunctionMode):
    """Lets self-attention return the values it was given, wherever it keeps the number of tokens.

    Attention of other tokens, as of learned queries to patches, is left as it is, even of as many.
    """

    def __init__(self) -> None:
        super().__init__()
        self._scores: dict[Any, bool] = {}  # nodes of products in the graph: whether of one and the same tokens

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        if name in ATTENTION and len(args) > 2:
            query, key, value = args[:3]
            fits = value.shape == (result[0] if isinstance(result, tuple) else result).shape
            if query.shape == key.shape and fits and of_same_tokens(query, key):
                value = value.contiguous()  # as what it stands for would be, a view may be taken of it
                return (value, *result[1:]) if isinstance(result, tuple) else value
        if name in PRODUCTS:
            return self._product(args, result)
        return result

    def _product(self, args: Any, result: Tensor) -> Tensor:
        operands = tensors_in_product(args)
        changing = [x for x in operands if x.requires_grad]
        # The values have the shape of the result, whichever side of the attention weights they stand on.
        values = [x for x in changing if x.shape == result.shape]
        if len(changing) == 2 and len(values) == 1:
            weights = changing[0] if values[0] is changing[1] else changing[1]
            if self._of_same_tokens(weights):
                return values[0].contiguous()
        if len(operands) == 2 and result.grad_fn is not None:
            self._scores[result.grad_fn] = of_same_tokens(*operands)
        return result

    def _of_same_tokens(self, weights: Tensor) -> bool:
        """Whether the nearest product behind attention weights was one of a query and a key of the same tokens."""
        waiting, seen = deque([weights.grad_fn]), set[Any]()
        while waiting:
            node = waiting.popleft()
            if node in self._scores:
                return self._scores[node]
            if node is not None and node not in seen:
                seen.add(node)
                waiting.extend(following for following, _ in node.next_functions)
        return True
