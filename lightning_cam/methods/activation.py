"""Methods that do not use the score: a statistic of the activations, and the random control.

Symbols: `A` activations `(B, C, h, w)` float32, `k` a channel, `i` a cell, `Z` the number of cells. Both
return `(B, h, w)` on the same device and add no forward.
"""

import torch
from torch import Tensor

from lightning_cam.methods.registry import register_method

_CELLS = (2, 3)
_SEED = 0


@register_method("fem", needs={"activations"}, paper="Fuad et al. 2020, IPTA, hal-02963298")
def fem(*, activations: Tensor) -> Tensor:
    """Channels weighted by their number of outlier cells, more than two standard deviations above the mean.

    `w[k] = 1/Z #{i : A[k, i] > mean_k + 2 std_k}`, `map[i] = sum_k w[k] * A[k, i]` (`std` with divisor
    `Z`). The same for every class: the map does not show which of two objects is evidence for it (of the relevance
    on two digits 0.49 to 0.54 was on the one asked for, `random` 0.53). Not for grids of a few cells: among
    five or fewer none can lie two standard deviations above their mean, and the map is zero.

    Example:
        >>> fem(activations=torch.tensor([[[[0.0, 0.0, 0.0, 0.0, 0.0, 6.0]]]]))
        tensor([[[0., 0., 0., 0., 0., 1.]]])
    """
    mean = activations.mean(dim=_CELLS, keepdim=True)
    # Not torch.std_mean, which takes eight times as long where the channels lie last in memory.
    std = (activations - mean).square().mean(dim=_CELLS, keepdim=True).sqrt()
    weights = (activations > mean + 2 * std).float().mean(dim=_CELLS, keepdim=True)
    return (weights * activations).sum(dim=1)


@register_method("random", needs={"activations"}, paper="none (random baseline)")
def random(*, activations: Tensor) -> Tensor:
    """Random relevance, the control: a method has to beat its scores.

    `map[i]` uniform in [-1, 1], drawn for each cell. (Not grad-cam's `RandomCAM`, which weights the channels at random:
    on a trained model the activations alone know where the object is, and it scores well above chance.) The draws come
    from a generator of their own with a fixed seed, on the device of the activations: the global generators are not
    touched, and on one device a batch of the same size gets the same maps every time.
    """
    generator = torch.Generator(device=activations.device).manual_seed(_SEED)
    size = (len(activations), *activations.shape[2:])
    return 2 * torch.rand(size, generator=generator, device=activations.device) - 1
