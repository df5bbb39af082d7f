"""Rules of relevance: how a backward pass treats operations through which plain gradients lose what the score is made of.

A normalization takes the scale of its input away, so that input times gradient sums up to nothing behind it; a product
of two activations counts its value once for each factor. Under a rule the forward's numbers are the same, and only what
flows back is another.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from lightning_cam.model.private import multi_head_attention_in_sight


@dataclass(frozen=True)
class Rules:
    """What is treated otherwise than by the plain gradient.

    Args:
        norms: Statistics of normalizations are held fixed (LN-rule, Ali et al. 2022), and so are divisors.
        attention: Attention weights are held fixed (AH-rule, the same).
        gates: An activation function is its input times a gate that is held fixed: `f(x) = x * (f(x) / x)`.
        products: Factors of a product of two activations get half of its relevance each (Achtibat et al. 2024, prop.
            3.3), unless one is held fixed.
    """

    norms: bool = True
    attention: bool = False
    gates: bool = False
    products: bool = False


PLAIN = Rules(norms=False)
RULES = {
    "lrp_ln": Rules(),
    "lrp_ah_ln": Rules(attention=True),
    "libragrad": Rules(attention=True, gates=True, products=True),
    "attnlrp": Rules(gates=True, products=True),
}
"""By the name of the method."""

Gradient = Callable[[Tensor], Tensor]  # of the score, at an operation's output in, at its input out


class RuledForward(TorchFunctionMode):
    """Runs a model so that its graph can be differentiated by any rules, the plain gradient among them.

    Attributes:
        keeps_inputs: Whether what runs from now on can also be differentiated plainly; it then keeps the inputs of norms.
        is_ruled: Whether something was held fixed for good, so that there is no plain gradient through it: statistics
            that the model works out by hand.
    """

    def __init__(self) -> None:
        super().__init__()
        self.keeps_inputs = False
        self.is_ruled = False
        self._rules = PLAIN

    @contextmanager
    def backward_by(self, rules: Rules) -> Iterator[None]:
        """Let backward passes in the body follow these rules."""
        self._rules = rules
        try:
            yield
        finally:
            self._rules = PLAIN

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not _graph_tensors(args) and not _graph_tensors(tuple(kwargs.values())):
            return func(*args, **kwargs)
        rule = _RULED.get(func)
        if rule is not None:
            return rule(self, func, *args, **kwargs)
        result = func(*args, **kwargs)
        if func in _KEEPS_ROLE or (func in _KEEPS_ROLE_OF_ONE and len(_graph_tensors(args)) == 1):
            _give_role(result, _role(_graph_tensors(args)[0]) if _graph_tensors(args) else None)
        return result

    # What follows is called with the mode, the function, and the function's own arguments.

    def normalized(self, func: Any, x: Tensor, kwargs: dict[str, Any], fixed: Gradient) -> Tensor:
        """A normalization: by the rule, its gradient is that of a linear function."""
        return self._ruled(func, x, kwargs, lambda rules: rules.norms, lambda _, gradient: fixed(gradient), keep=False)

    def gated(self, func: Any, x: Tensor, kwargs: dict[str, Any], gate: Callable[[Tensor], Tensor]) -> Tensor:
        """An activation function: by the rule, its gradient is its gate."""

        def fixed(x: Tensor, gradient: Tensor) -> Tensor:
            return gradient * gate(x).to(gradient.dtype)

        return self._ruled(func, x, kwargs, lambda rules: rules.gates, fixed, keep=True)

    def _ruled(
        self,
        func: Any,
        x: Tensor,
        kwargs: dict[str, Any],
        applies: Callable[[Rules], bool],
        fixed: Callable[[Any, Tensor], Tensor],
        *,
        keep: bool,
    ) -> Tensor:
        kind = x.device.type
        autocast = {"dtype": torch.get_autocast_dtype(kind), "enabled": torch.is_autocast_enabled(kind)}

        def run(x: Tensor) -> Tensor:
            return func(x, **kwargs)

        def backward(x: Any, gradient: Tensor) -> Tensor:
            if applies(self._rules):
                return fixed(x, gradient)
            with torch.enable_grad(), torch.autocast(kind, **autocast):
                x = x.detach().requires_grad_()
                return torch.autograd.grad(run(x), x, gradient)[0]

        return _Operation.apply(x, run, backward, keep or self.keeps_inputs)

    def multiplied(self, func: Any, operands: list[Tensor], run: Callable[..., Any]) -> Any:
        """A product of activations.

        Args:
            func: The function.
            operands: Those of its arguments that are part of the graph.
            run: Runs it with others in the place of these.
        """
        held = [_is_weights(x) or _is_gate(x) for x in operands]
        if all(held):
            held = [False] * len(operands)
        factors = [self._passes(x) if is_held else x for x, is_held in zip(operands, held, strict=True)]
        product = run(factors)
        free = held.count(False)

        def shared(gradient: Tensor) -> Tensor | None:
            count = free + sum(not self._holds(x) for x in roles)
            return gradient / count if self._rules.products and count > 1 else None

        roles = [_role(x) for x, is_held in zip(operands, held, strict=True) if is_held]
        if len(operands) > 1:
            product.register_hook(shared)
        return product

    def _holds(self, role: str | None) -> bool:
        return (role == _WEIGHTS and self._rules.attention) or (role == _GATE and self._rules.gates)

    def _passes(self, x: Tensor) -> Tensor:
        """An alias of a factor with a role, which gets no gradient where the rules hold it fixed."""
        role = _role(x)
        return self.scaled(x, lambda rules: 0.0 if self._holds(role) else 1.0)

    def scaled(self, x: Tensor, factor: Callable[[Rules], float]) -> Tensor:
        """An alias whose gradient is multiplied by what the rules say."""
        if not x.requires_grad:
            return x
        alias = x.view_as(x)

        def hook(gradient: Tensor) -> Tensor | None:
            by = factor(self._rules)
            return None if by == 1 else torch.zeros_like(gradient) if by == 0 else gradient * by

        alias.register_hook(hook)
        return alias

    def held(self, tensor: Any) -> Any:
        """A statistic, held fixed for good."""
        self.is_ruled = True
        if isinstance(tensor, tuple):  # variance and mean: the mean is linear
            return type(tensor)((tensor[0].detach(), *tensor[1:]))
        return tensor.detach()


class _Operation(torch.autograd.Function):
    """`run(x)`, whose gradient is `backward(x, gradient)`; `x` is None there if it was not to be kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, run: Any, backward: Any, keep: bool) -> Tensor:
        if keep:
            ctx.save_for_backward(x)
        ctx.rule, ctx.keep = backward, keep
        return run(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x = ctx.saved_tensors[0] if ctx.keep else None
        return ctx.rule(x, gradient), None, None, None


# Roles of tensors in products. An attribute goes with the tensor, and goes when it goes.
_ROLE = "_lightning_cam_role"
_WEIGHTS, _GATE, _EXP = "attention weights", "gate", "exponential"


def _role(tensor: Tensor) -> str | None:
    return getattr(tensor, _ROLE, None)


def _give_role(tensor: Any, role: str | None) -> Any:
    if role is not None and isinstance(tensor, Tensor):
        setattr(tensor, _ROLE, role)
    return tensor


def _is_weights(tensor: Tensor) -> bool:
    return _role(tensor) == _WEIGHTS


def _is_gate(tensor: Tensor) -> bool:
    return _role(tensor) == _GATE


def _graph_tensors(values: Any) -> list[Tensor]:
    """Those of some arguments that are part of the graph, also in lists."""
    flat = (x for value in values for x in (value if isinstance(value, (tuple, list)) else (value,)))
    return [x for x in flat if isinstance(x, Tensor) and x.requires_grad]


_RULED: dict[Any, Callable[..., Any]] = {}


def _rule_of(*functions: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Enter a rule for functions: called with the mode, the function and what it was called with."""

    def register(rule: Callable[..., Any]) -> Callable[..., Any]:
        _RULED.update(dict.fromkeys(functions, rule))
        return rule

    return register


@_rule_of(F.layer_norm, torch.layer_norm)
def _layer_norm(
    mode: RuledForward, func: Any, input: Tensor, normalized_shape: Any, weight: Any = None, bias: Any = None,
    eps: float = 1e-5, cudnn_enable: bool = True,
) -> Tensor:  # fmt: skip
    axes = tuple(range(-len(normalized_shape), 0))
    kwargs = {"normalized_shape": normalized_shape, "weight": weight, "bias": bias, "eps": eps}
    fixed = _linear(input, weight, axes, eps, centered=True)
    return mode.normalized(func, input, kwargs, fixed)


@_rule_of(F.rms_norm, torch.rms_norm)
def _rms_norm(
    mode: RuledForward, func: Any, input: Tensor, normalized_shape: Any, weight: Any = None, eps: float | None = None
) -> Tensor:
    axes = tuple(range(-len(normalized_shape), 0))
    kwargs = {"normalized_shape": normalized_shape, "weight": weight, "eps": eps}
    least = torch.finfo(input.dtype).eps if eps is None else eps
    return mode.normalized(func, input, kwargs, _linear(input, weight, axes, least, centered=False))


@_rule_of(F.group_norm)
def _group_norm(
    mode: RuledForward, func: Any, input: Tensor, num_groups: int, weight: Any = None, bias: Any = None,
    eps: float = 1e-5,
) -> Tensor:  # fmt: skip
    in_groups = input.unflatten(1, (num_groups, -1))
    scale = None if weight is None else _along_channels(weight, input).unflatten(1, (num_groups, -1))
    by_group = _linear(in_groups, scale, tuple(range(2, in_groups.ndim)), eps, centered=True)
    kwargs = {"num_groups": num_groups, "weight": weight, "bias": bias, "eps": eps}
    return mode.normalized(
        func, input, kwargs, lambda gradient: by_group(gradient.unflatten(1, (num_groups, -1))).flatten(1, 2)
    )


@_rule_of(F.instance_norm)
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


@_rule_of(F.batch_norm)
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


@_rule_of(F.normalize)
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
    power = x.var(axes, correction=0, keepdim=True) if centered else x.square().mean(axes, keepdim=True)
    scale = (power + eps).rsqrt()

    def gradient_of(gradient: Tensor) -> Tensor:
        scaled = gradient * scale if weight is None else gradient * weight.detach() * scale
        return scaled - scaled.mean(axes, keepdim=True) if centered else scaled

    return gradient_of


@_rule_of(
    torch.rsqrt, Tensor.rsqrt, torch.sqrt, Tensor.sqrt, torch.std, Tensor.std, torch.var, Tensor.var, torch.std_mean,
    torch.var_mean, torch.norm, Tensor.norm, torch.linalg.norm, torch.linalg.vector_norm, torch.reciprocal, Tensor.reciprocal,
    Tensor.__rtruediv__, Tensor.__rdiv__,
)  # fmt: skip
def _statistic(mode: RuledForward, func: Any, *args: Any, **kwargs: Any) -> Any:
    return mode.held(func(*args, **kwargs))


@_rule_of(torch.pow, Tensor.pow, Tensor.__pow__)
def _power(mode: RuledForward, func: Any, *args: Any, **kwargs: Any) -> Any:
    exponent = args[1] if len(args) > 1 else kwargs.get("exponent")
    result = func(*args, **kwargs)
    return mode.held(result) if isinstance(exponent, float) and abs(exponent) == 0.5 else result


@_rule_of(torch.div, torch.true_divide, Tensor.div, Tensor.true_divide, Tensor.__truediv__)
def _division(mode: RuledForward, func: Any, input: Any, other: Any, **kwargs: Any) -> Any:
    if isinstance(other, Tensor) and other.requires_grad and not (isinstance(input, Tensor) and _role(input) == _EXP):
        other = mode.held(other)  # but for a softmax by hand, of which nothing but the numerator would be left
    return _give_role(func(input, other, **kwargs), _role(input) if isinstance(input, Tensor) else None)


@_rule_of(F.gelu)
def _gelu(mode: RuledForward, func: Any, input: Tensor, approximate: str = "none") -> Tensor:
    def gate(x: Tensor) -> Tensor:
        if approximate == "none":
            return (1 + torch.erf(x * math.sqrt(0.5))) / 2
        return (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2

    return mode.gated(func, input, {"approximate": approximate}, gate)


_GATES: dict[Any, Callable[[Tensor], Tensor]] = {
    F.silu: torch.sigmoid,
    F.hardswish: F.hardsigmoid,
    F.mish: lambda x: torch.tanh(F.softplus(x)),
}


@_rule_of(*_GATES)
def _self_gated(mode: RuledForward, func: Any, input: Tensor, inplace: bool = False) -> Tensor:
    if not inplace:
        return mode.gated(func, input, {}, _GATES[func])
    return input.copy_(mode.gated(func, input.clone(), {}, _GATES[func]))


@_rule_of(F.glu, torch.nn.functional.glu)
def _glu(mode: RuledForward, func: Any, input: Tensor, dim: int = -1) -> Tensor:
    value, gate = input.chunk(2, dim)
    gate = mode.scaled(gate, lambda rules: 0.0 if rules.gates else 1.0)
    return func(torch.cat([value, gate], dim), dim)


@_rule_of(
    torch.sigmoid, Tensor.sigmoid, F.sigmoid, F.hardsigmoid, torch.tanh, Tensor.tanh, F.tanh, torch.erf, Tensor.erf
)
def _gate(mode: RuledForward, func: Any, *args: Any, **kwargs: Any) -> Tensor:
    return _give_role(func(*args, **kwargs), _GATE)


@_rule_of(torch.exp, Tensor.exp)
def _exp(mode: RuledForward, func: Any, *args: Any, **kwargs: Any) -> Tensor:
    return _give_role(func(*args, **kwargs), _EXP)


@_rule_of(torch.softmax, F.softmax, Tensor.softmax)
def _softmax(mode: RuledForward, func: Any, *args: Any, **kwargs: Any) -> Tensor:
    result = func(*args, **kwargs)
    return _give_role(result, _WEIGHTS if result.ndim > 2 else None)  # of classes, it is a probability


@_rule_of(
    torch.mul, Tensor.mul, Tensor.__mul__, Tensor.__rmul__, Tensor.mul_, Tensor.__imul__, torch.multiply,
    Tensor.multiply, torch.matmul, Tensor.matmul, Tensor.__matmul__, Tensor.__rmatmul__, torch.bmm, Tensor.bmm,
)  # fmt: skip
def _product(mode: RuledForward, func: Any, *args: Any, **kwargs: Any) -> Any:
    operands = _graph_tensors(args)
    if len(operands) < 2:
        return _give_role(func(*args, **kwargs), _role(operands[0]) if func in _BY_NUMBER and operands else None)
    first = args[0]

    def run(factors: list[Tensor]) -> Any:
        given = dict(zip(map(id, operands), factors, strict=True))
        others = [given.get(id(x), x) for x in args[1:]]
        # What is written to must be what it is.
        return func(first if func in _IN_PLACE else given.get(id(first), first), *others, **kwargs)

    return mode.multiplied(func, operands, run)


_IN_PLACE = (Tensor.mul_, Tensor.__imul__)
_BY_NUMBER = (torch.mul, Tensor.mul, Tensor.__mul__, Tensor.__rmul__)


@_rule_of(torch.einsum)
def _einsum(mode: RuledForward, func: Any, equation: Any, *operands: Any, **kwargs: Any) -> Any:
    given = list(operands[0]) if len(operands) == 1 and isinstance(operands[0], (tuple, list)) else list(operands)
    graph = _graph_tensors(given)

    def run(factors: list[Tensor]) -> Any:
        replaced = dict(zip(map(id, graph), factors, strict=True))
        return func(equation, *(replaced.get(id(x), x) for x in given), **kwargs)

    return mode.multiplied(func, graph, run)


@_rule_of(torch.baddbmm, Tensor.baddbmm)
def _baddbmm(mode: RuledForward, func: Any, input: Tensor, batch1: Tensor, batch2: Tensor, **kwargs: Any) -> Any:
    if not (batch1.requires_grad and batch2.requires_grad) or input.requires_grad:
        return func(input, batch1, batch2, **kwargs)
    return mode.multiplied(func, [batch1, batch2], lambda factors: func(input, *factors, **kwargs))


@_rule_of(F.scaled_dot_product_attention)
def _attention(
    mode: RuledForward, func: Any, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any
) -> Tensor:
    of_weights = 2 if query.requires_grad and key.requires_grad else 1
    depends = query.requires_grad or key.requires_grad
    of_output = 2 if value.requires_grad and depends else 1

    def to_weights(rules: Rules) -> float:
        if rules.attention and value.requires_grad:
            return 0.0
        return 1 / (of_weights * of_output) if rules.products else 1.0

    def to_value(rules: Rules) -> float:
        return 1 / of_output if rules.products and not rules.attention else 1.0

    query, key = mode.scaled(query, to_weights), mode.scaled(key, to_weights)
    return func(query, key, mode.scaled(value, to_value), *args, **kwargs)


@_rule_of(F.multi_head_attention_forward)
def _multi_head_attention(mode: RuledForward, func: Any, *args: Any, **kwargs: Any) -> Any:
    with mode:
        return multi_head_attention_in_sight()(*args, **kwargs)


_KEEPS_ROLE = {
    getattr(Tensor, name)
    for name in (
        "transpose", "permute", "reshape", "view", "flatten", "unflatten", "unsqueeze", "squeeze", "expand", "expand_as",
        "contiguous", "to", "float", "half", "bfloat16", "type_as", "type", "__getitem__", "masked_fill", "clone",
    )
} | {torch.transpose, torch.permute, torch.reshape, torch.flatten, torch.unsqueeze, torch.squeeze, F.dropout}  # fmt: skip
# A gate stays one when a number is added, as in GELU by hand.
_KEEPS_ROLE_OF_ONE = {torch.add, Tensor.add, Tensor.__add__, Tensor.__radd__}
