"""Methods that change something and measure the score: no gradient of the layer, many forwards.

Symbols: `A` activations `(B, C, h, w)` float32, `k` a channel, `i` a cell, `s` an image's score. They
return `(B, h, w)`, raw and signed. All channels of all images are one long list of rows, run `micro_batch`
at a time, so that a batch of one image fills the device as well as one of many.
"""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_cam.methods.reduce import Reduce, channel_sum
from lightning_cam.methods.registry import register_method
from lightning_cam.render.scale import to_unit_interval

ScoreRows = Callable[[Tensor, Tensor], Tensor]

MICRO_BATCH = 32  # on a CPU more do not fit into its caches, and take a third longer
# grad-cam's stand-in for minus infinity: far below anything a network puts out, finite in its matrix products.
_FAR_BELOW = 1e7


@register_method(
    "ablationcam",
    needs={"activations", "layer_output", "channel_axis", "scores", "score_outputs"},
    cost="C through what follows the target layer",
    paper="Desai & Ramaswamy 2020, WACV",
)
def ablationcam(
    *,
    activations: Tensor,
    layer_output: Tensor,
    channel_axis: int,
    scores: Tensor,
    score_outputs: ScoreRows,
    reduce: Reduce = channel_sum,
    micro_batch: int = MICRO_BATCH,
) -> Tensor:
    """Channels weighted by the fraction of the score lost without them.

    `w[k] = (s - s_without_k) / s`, `map[i] = sum_k w[k] * A[k, i]`. A channel is taken out, for all tokens,
    as grad-cam does: set to 0 where the image's smallest activation is 0, as after a ReLU, else far below
    it (minus 1e7), which the next normalization brings back to size. So not in float16, whose range it
    leaves. Dividing by `s` turns the map over for a negative score. Needs `C` runs of the last block per
    image: costly for wide models. Worse than `random` before the MLP of each of the three models measured that have
    no class token (docs/methods.md).
    """
    lowest = layer_output.flatten(1).amin(dim=1)
    value = torch.where(lowest == 0, lowest, lowest - _FAR_BELOW)
    count = layer_output.shape[channel_axis]
    channels_last = layer_output.movedim(channel_axis, -1)
    without = []
    for image, channel in rows_of(len(layer_output), count, micro_batch, layer_output.device):
        one_per_row = [-1, *[1] * (channels_last.dim() - 1)]
        taken = torch.arange(count, device=channel.device) == channel.view(one_per_row)
        filler = value[image].view(one_per_row)
        outputs = torch.where(taken, filler, channels_last[image])
        without.append(score_outputs(outputs.movedim(-1, channel_axis), image))
    lost = scores[:, None] - torch.cat(without).float().view(len(scores), count)
    return reduce((lost / scores[:, None])[:, :, None, None] * activations)


@register_method(
    "scorecam",
    needs={"activations", "images", "score_images"},
    cost="C",
    paper="Wang et al. 2020, CVPR workshops, arXiv:1910.01279",
)
def scorecam(
    *,
    activations: Tensor,
    images: Tensor,
    score_images: ScoreRows,
    reduce: Reduce = channel_sum,
    micro_batch: int = MICRO_BATCH,
) -> Tensor:
    """Channels weighted by the score of the image when only what they highlight is shown.

    `w = softmax_k s(image * unit(resize(A[k])))`, `map[i] = sum_k w[k] * A[k, i]`, `resize` bilinear to the
    image with corners aligned, `unit` scaling to [0, 1]. One forward of the whole model per channel and
    image: by far the dearest method here. Its weights lie close together unless the scores spread over more
    than a few units.
    """
    size = images.shape[-2:]
    rows = []
    for image, channel in rows_of(len(images), activations.shape[1], micro_batch, images.device):
        shown = F.interpolate(activations[image, channel][:, None], size=size, mode="bilinear", align_corners=True)
        shown = to_unit_interval(shown, eps=1e-8).to(images.dtype)  # grad-cam's constant here
        rows.append(score_images(images[image] * shown, image))
    weights = torch.cat(rows).float().view(activations.shape[:2]).softmax(dim=1)
    return reduce(weights[:, :, None, None] * activations)


def rows_of(images: int, channels: int, size: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """Micro-batches of (image, channel) indices, image by image."""
    every = torch.arange(images * channels, device=device)
    for rows in every.split(size):
        yield rows // channels, rows % channels


@register_method(
    "fullgrad",
    needs={"images", "input_gradients", "bias_gradients"},
    cost="0, plus one backward pass through the whole model",
    paper="Srinivas & Fleuret 2019, NeurIPS, arXiv:1905.00780",
)
def fullgrad(*, images: Tensor, input_gradients: Tensor, bias_gradients: list[Tensor]) -> Tensor:
    """Input times gradient, plus bias times gradient of every layer, each scaled to [0, 1].

    `map = sum_c unit(|x * d s / d x|)[c] + sum_l sum_k unit(resize(|b_l * d s / d z_l|))[k]`, `unit`
    scaling each channel to [0, 1], `resize` bilinear to the image. Has the size of the image, `(B, H, W)`,
    is never negative and knows no target layer. Which layers give their bias is the caller's choice;
    grad-cam takes 2-D convolutions and batch norms, of which a transformer has but the patch embedding.
    Scaling each channel to the same range gives weak ones the weight of strong ones: not for asking how
    much a layer matters.
    """
    total = _unit_channels((images.float() * input_gradients).abs(), images.shape[-2:])
    for gradient in bias_gradients:
        total = total + _unit_channels(gradient.abs(), images.shape[-2:])
    return total


def _unit_channels(maps: Tensor, size: torch.Size) -> Tensor:
    """`(B, C, h, w)` -> each channel in [0, 1], at `size`, summed: `(B, H, W)`."""
    return F.interpolate(to_unit_interval(maps), size=size, mode="bilinear", align_corners=False).sum(dim=1)
