"""Relevance rules of normalizations, as functions and written out: their statistics are held fixed."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_cam.passes.rules import EXP, Gradient, RuledForward, give_role, role, rule_of


@rule_of(F.layer_norm, torch.layer_norm)
def _layer_norm(
    mode: RuledForward, func: Any, input: Tensor, normalized_shape: Any, weight: Any = None, bias: Any = None,
    eps: float = 1e-5, cudnn_enable: bool = True,
) -> Tensor:  # fmt: skip
    _show(mode, input)
    axes = tuple(range(-len(normalized_shape), 0))
    kwargs = {"normalized_shape": normalized_shape, "weight": weight, "bias": bias, "eps": eps}
    fixed = _linear(input, weight, axes, eps, centered=True)
    return mode.normalized(func, input, kwargs, fixed)


def _show(mode: RuledForward, tokens: Tensor) -> None:
    if mode.blocks is not None:
        mode.blocks.see_tokens(tokens)


@rule_of(F.rms_norm, torch.rms_norm)
def _rms_norm(
    mode: RuledForward, func: Any, input: Tensor, normalized_shape: Any, weight: Any = None, eps: float | None = None
) -> Tensor:
    _show(mode, input)
    axes = tuple(range(-len(normalized_shape), 0))
    kwargs = {"normalized_shape": normalized_shape, "weight": weight, "eps": eps}
    least = torch.finfo(input.dtype).eps if eps is None else eps
    return mode.normalized(func, input, kwargs, _linear(input, weight, axes, least, centered=False))


@rule_of(F.group_norm)
def _group_norm(
    mode: RuledForward, func: Any, input: Tensor, num_groups: int, weight: Any = None, bias: Any = None,
    eps: float = 1e-5,
) -> Tensor:  # fmt: skip
    in_groups = input.unflatten(1, (num_groups, -1))
    along = _along_channels(weight, input)
    scale = None if along is None else along.unflatten(1, (num_groups, -1))
    by_group = _linear(in_groups, scale, tuple(range(2, in_groups.ndim)), eps, centered=True)
    kwargs = {"num_groups": num_groups, "weight": weight, "bias": bias, "eps": eps}
    return mode.normalized(
        func, input, kwargs, lambda gradient: by_group(gradient.unflatten(1, (num_groups, -1))).flatten(1, 2)
    )


@rule_of(F.instance_norm)
def _instance_norm(
    mode: RuledForward, func: Any, input: Tensor, running_mean: Any = None, running_var: Any = None,
    weight: Any = None, bias: Any = None, use_input_stats: bool = True, momentum: float = 0.1, eps: float = 1e-5,
) -> Tensor:  # fmt: skip
    kwargs = {"running_mean": running_mean, "running_var": running_var, "weight": weight, "bias": bias}
    kwargs |= {"use_input_stats": use_input_stats, "momentum": momentum, "eps": eps}
    if not use_input_stats:
        return func(input, **kwargs)
    axes = tuple(range(2, input.ndim))
    return mode.normalized(
        func, input, kwargs, _linear(input, _along_channels(weight, input), axes, eps, centered=True)
    )


@rule_of(F.batch_norm)
def _batch_norm(
    mode: RuledForward, func: Any, input: Tensor, running_mean: Any, running_var: Any, weight: Any = None,
    bias: Any = None, training: bool = False, momentum: float = 0.1, eps: float = 1e-5,
) -> Tensor:  # fmt: skip
    kwargs = {"running_mean": running_mean, "running_var": running_var, "weight": weight, "bias": bias}
    kwargs |= {"training": training, "momentum": momentum, "eps": eps}
    if not training:
        return func(input, **kwargs)
    axes = (0, *range(2, input.ndim))
    return mode.normalized(
        func, input, kwargs, _linear(input, _along_channels(weight, input), axes, eps, centered=True)
    )


@rule_of(F.normalize)
def _normalize(
    mode: RuledForward, func: Any, input: Tensor, p: float = 2.0, dim: Any = 1, eps: float = 1e-12, out: Any = None
) -> Tensor:
    with torch.no_grad():
        length = torch.linalg.vector_norm(input.detach(), p, dim, keepdim=True).clamp_min(eps)
    return mode.normalized(func, input, {"p": p, "dim": dim, "eps": eps}, lambda gradient: gradient / length)


def _along_channels(weight: Tensor | None, input: Tensor) -> Tensor | None:
    return None if weight is None else weight.view(-1, *[1] * (input.ndim - 2))[None]


def _linear(input: Tensor, weight: Tensor | None, axes: tuple[int, ...], eps: float, *, centered: bool) -> Gradient:
    """The gradient of `(x - mean(x)) * weight / std` at a fixed `std`, or without the mean."""
    x = input.detach().float()
    if not centered:
        scale = (x.square().mean(axes, keepdim=True) + eps).rsqrt()
    elif axes == tuple(range(-len(axes), 0)):
        scale = torch.native_layer_norm(x, x.shape[-len(axes) :], None, None, eps)[2]  # ten times as fast as `var`
    else:
        scale = (x.var(axes, correction=0, keepdim=True) + eps).rsqrt()

    def gradient_of(gradient: Tensor) -> Tensor:
        scaled = gradient * scale if weight is None else gradient * weight.detach() * scale
        return scaled - scaled.mean(axes, keepdim=True) if centered else scaled

    return gradient_of


@rule_of(
    torch.rsqrt, Tensor.rsqrt, torch.sqrt, Tensor.sqrt, torch.std, Tensor.std, torch.var, Tensor.var, torch.std_mean,
    torch.var_mean, torch.norm, Tensor.norm, torch.linalg.norm, torch.linalg.vector_norm, torch.reciprocal,
    Tensor.reciprocal, Tensor.__rtruediv__, Tensor.__rdiv__,
)  # fmt: skip
def _statistic(mode: RuledForward, func: Any, *args: Any, **kwargs: Any) -> Any:
    return mode.held(func(*args, **kwargs))


@rule_of(torch.pow, Tensor.pow, Tensor.__pow__)
def _power(mode: RuledForward, func: Any, *args: Any, **kwargs: Any) -> Any:
    exponent = args[1] if len(args) > 1 else kwargs.get("exponent")
    result = func(*args, **kwargs)
    return mode.held(result) if isinstance(exponent, float) and abs(exponent) == 0.5 else result


@rule_of(torch.div, torch.true_divide, Tensor.div, Tensor.true_divide, Tensor.__truediv__)
def _division(mode: RuledForward, func: Any, input: Any, other: Any, **kwargs: Any) -> Any:
    if isinstance(other, Tensor) and other.requires_grad and not (isinstance(input, Tensor) and role(input) == EXP):
        other = mode.held(other)  # but for a softmax by hand, of which nothing but the numerator would be left
    return give_role(func(input, other, **kwargs), role(input) if isinstance(input, Tensor) else None)
