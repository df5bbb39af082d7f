"""A pass through the whole model for the gradient at the image and at biases. Use it inside `looking(model)`."""

from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lightning_cam.methods import DoesNotApply
from lightning_cam.model.keep_grad import KeepGrad
from lightning_cam.model.output import Forward, Score

_NO_GRADIENT = "the gradient of the score does not reach the images, as behind quantized layers"


@dataclass(frozen=True)
class InputPass:
    """Gradients at the images and at biases.

    Args:
        input_gradients: (B, C, H, W) float32, gradient of the score with respect to the images.
        bias_gradients: For each layer whose bias grad-cam's FullGrad takes, that bias times the gradient at the
            layer's output, (B, C, h, w) float32.
    """

    input_gradients: Tensor
    bias_gradients: list[Tensor]


def input_pass(model: nn.Module, forward: Forward, images: Tensor, scores: Score) -> InputPass:
    """Differentiate the score with respect to the images and at every layer with a two-dimensional bias.

    Args:
        model: The module that `forward` runs.
        forward: What to call with the images.
        images: (B, C, H, W).
        scores: From the model's output to (B,).

    Raises:
        DoesNotApply: No gradient reaches the images.
    """
    biased = {m: bias for m in model.modules() if (bias := _bias(m)) is not None}
    outputs: dict[nn.Module, Tensor] = {}
    with torch.enable_grad(), KeepGrad(model), ExitStack() as stack:
        for module in biased:
            stack.callback(module.register_forward_hook(lambda m, i, output: outputs.update({m: output})).remove)
        images = images.detach().clone().requires_grad_()
        at_score = scores(forward(images)).sum()
        if not at_score.requires_grad:
            raise DoesNotApply(_NO_GRADIENT)
        found = torch.autograd.grad(at_score, [images, *outputs.values()], allow_unused=True)
        if found[0] is None:
            raise DoesNotApply(_NO_GRADIENT)
    gradients = [gradient.float() for gradient in found[1:] if gradient is not None]
    used = [module for module, gradient in zip(outputs, found[1:], strict=True) if gradient is not None]
    products = [biased[m].float()[:, None, None] * g for m, g in zip(used, gradients, strict=True)]
    return InputPass(found[0].float(), products)


def _bias(module: nn.Module) -> Tensor | None:
    """What the module adds to each channel, if it is one of grad-cam's choice."""
    if isinstance(module, nn.BatchNorm2d) and module.bias is not None:
        assert module.running_mean is not None and module.running_var is not None
        return module.bias - module.running_mean * module.weight / (module.running_var + module.eps).sqrt()
    return module.bias if isinstance(module, nn.Conv2d) else None
