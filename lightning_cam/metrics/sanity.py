"""The parameter-randomization check: a map that does not change with random weights shows the image, not the model."""

from collections.abc import Callable, Iterable
from copy import deepcopy

import torch
from torch import Tensor, nn

from lightning_cam.metrics.similarity import rank_correlation

SEED = 0


def randomized_copy(model: nn.Module, modules: Iterable[str]) -> nn.Module:
    """A copy of the model in which some modules have lost what they learned.

    Each of their parameters is drawn again from a normal distribution with the mean and standard deviation that it
    had, so that activations keep their scale; constant parameters stay as they are. The model itself and all random
    generators are left alone, and the same weights come out every time.

    Args:
        model: on any device.
        modules: names as in `model.named_modules()`, such as the head, or the last block.

    Raises:
        ValueError: if the model has no module of a name, or one has no parameters.
    """
    copy = deepcopy(model)
    generator = torch.Generator().manual_seed(SEED)
    named = dict(copy.named_modules())
    for name in modules:
        parameters = list(named[name].parameters()) if name in named else []
        if not parameters:
            raise ValueError(f"modules: expected names of modules with parameters, got {name!r}")
        for parameter in parameters:
            std, mean = torch.std_mean(parameter.detach().float(), correction=0)
            noise = torch.randn(parameter.shape, generator=generator).to(parameter.device)
            parameter.data.copy_(noise * std + mean)
    return copy


def randomization_similarity(
    model: nn.Module, maps_of: Callable[[nn.Module], Tensor], modules: Iterable[str]
) -> Tensor:
    """How much the ranking of a map's cells stays the same when modules are randomized: lower is better.

    Spearman's correlation between the maps of the model and of `randomized_copy(model, modules)` (Adebayo et al.
    2018, arXiv:1810.03292). Near 1, the map does not depend on what those modules have learned and can
    say nothing about it. Cost: whatever `maps_of` costs, twice, and memory for a copy of the model.

    Args:
        model: left as it is.
        maps_of: from a model to maps `(B, h, w)`, always of the same images and classes, e.g.
            `lambda m: explain(m, images, "gradcam", class_idx=labels).maps["gradcam"]`.
        modules: names of the modules to randomize, together.

    Returns:
        `(B,)` in [-1, 1]; 0 where either map is constant, NaN where either is non-finite.

    Raises:
        ValueError: if the model has no module of a name, or one has no parameters.
    """
    return rank_correlation(maps_of(model), maps_of(randomized_copy(model, modules)))
