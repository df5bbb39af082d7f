"""Whether the model uses what a map highlights: change the image there and measure the output.

Every metric runs the model, under the caller's grad mode, precision and device: call under `torch.no_grad()` and
`untouched(model)`. `classifier` maps images `(N, C, H, W)` to logits `(N, classes)`; the score is the probability of
each image's class.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2.functional import gaussian_blur

Classifier = Callable[[Tensor], Tensor]  # images (N, C, H, W) in, logits (N, classes) out


def deletion_auc(maps: Tensor, images: Tensor, classifier: Classifier, class_idx: Tensor, *, steps: int = 10) -> Tensor:
    """Area under the probability as the most relevant patches are blurred first: lower is better.

    Patches (the pixels of a grid cell) go in falling order of relevance (Petsiuk et al. 2018, arXiv:1806.07421, with
    patches for pixels and blurring for black). The blur is as wide as a patch, so that none keeps detail of its own,
    and an image of blurred patches is nearer to what the model knows than one with holes. Cost: `steps + 1` forwards.

    Args:
        maps: `(B, h, w)` raw signed relevance.
        images: `(B, C, H, W)`, normalized as the model expects.
        classifier: from images to logits.
        class_idx: `(B,)` int64, the explained classes.
        steps: in how many equal parts the patches are replaced; at most `h * w`.

    Returns:
        `(B,)` in [0, 1]: trapezoidal mean of the probability over the replaced fraction 0 to 1.
    """
    blurred = _blur(images, maps.shape[1:])
    return _auc(maps, images, blurred, classifier, class_idx, steps)


def insertion_auc(
    maps: Tensor, images: Tensor, classifier: Classifier, class_idx: Tensor, *, steps: int = 10
) -> Tensor:
    """Area under the probability as patches are restored in the blurred image, most relevant first: higher is better.

    The mirror of `deletion_auc`, with the same arguments, result and cost.
    """
    blurred = _blur(images, maps.shape[1:])
    return _auc(maps, blurred, images, classifier, class_idx, steps)


def _auc(maps: Tensor, start: Tensor, end: Tensor, classifier: Classifier, class_idx: Tensor, steps: int) -> Tensor:
    """Mean probability on the way from `start` to `end`, patch by patch in falling order of relevance."""
    rank = maps.flatten(1).argsort(dim=1, descending=True, stable=True).argsort(dim=1).view(maps.shape)
    at_pixels = F.interpolate(rank[:, None].float(), size=start.shape[-2:], mode="nearest-exact")
    return _area(
        lambda count: _probability(torch.where(at_pixels < count, end, start), classifier, class_idx),
        maps.shape[1] * maps.shape[2],
        steps,
    )


def _area(score_after: Callable[[int], Tensor], most: int, steps: int) -> Tensor:
    """Trapezoidal mean of `score_after(count)` `(B,)` over counts from 0 to `most` in equal steps."""
    steps = min(steps, most)
    counts = [round(most * step / steps) for step in range(steps + 1)]
    scores = [score_after(count) for count in counts]
    areas = [(counts[i + 1] - counts[i]) / most * (scores[i] + scores[i + 1]) / 2 for i in range(steps)]
    return torch.stack(areas).sum(dim=0)


def _blur(images: Tensor, grid_size: torch.Size) -> Tensor:
    """Gaussian blur whose standard deviation is the longer side of a patch."""
    height, width = images.shape[-2:]
    sigma = max(height / grid_size[0], width / grid_size[1])
    # Two standard deviations to each side, as far as reflecting the image at its border allows.
    radius_x, radius_y = (min(math.ceil(2 * sigma), side - 1) for side in (width, height))
    return gaussian_blur(images, [2 * radius_x + 1, 2 * radius_y + 1], [sigma, sigma])


def _probability(images: Tensor, classifier: Classifier, class_idx: Tensor) -> Tensor:
    return classifier(images).float().softmax(dim=1).gather(1, class_idx[:, None]).squeeze(1)


def average_drop(heatmaps: Tensor, images: Tensor, classifier: Classifier, class_idx: Tensor) -> Tensor:
    """Fraction of the probability lost when only what the heatmap highlights is shown: lower is better.

    `relu(p - p_shown) / p` with `p_shown` the probability for `heatmap * image` (Chattopadhyay et al. 2018,
    arXiv:1710.11063, as a fraction per image). Favors maps that highlight everything: compare it with the
    random control. Cost: 2 forwards.

    Args:
        heatmaps: `(B, H, W)` in [0, 1], at image size.
        images: `(B, C, H, W)`, normalized: what is not lit fades to the mean color.
        classifier: from images to logits.
        class_idx: `(B,)` int64, the explained classes.

    Returns:
        `(B,)` in [0, 1]; 0 where the probability does not fall.
    """
    before = _probability(images, classifier, class_idx)
    shown = _probability(images * heatmaps[:, None], classifier, class_idx)
    return (before - shown).relu() / before.clamp_min(torch.finfo(before.dtype).tiny)
