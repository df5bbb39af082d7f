"""Relevance rules: how a backward treats operations in which plain gradients do not conserve the score.

A normalization removes the scale of its input, so input times gradient sums to zero through it; a product of two
activations counts its value once for each factor. A rule leaves the forward's numbers unchanged, and changes only what
flows back.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import BackwardCFunction
from torch.overrides import TorchFunctionMode

from lightning_cam.passes.blocks import BlockStatistics


@dataclass(frozen=True)
class Rules:
    """Which operations are treated differently from the plain gradient.

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

    Args:
        blocks: Is shown attention and tokens, if given.

    Attributes:
        keeps_inputs: Whether what runs from now on can also be differentiated plainly; norms then keep their inputs.
        is_ruled: Whether something was held fixed for good, so that there is no plain gradient through it: statistics
            that the model works out by hand.
    """

    def __init__(self, blocks: BlockStatistics | None = None) -> None:
        super().__init__()
        self.blocks = blocks
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
        if not graph_tensors(args) and not graph_tensors(tuple(kwargs.values())):
            return func(*args, **kwargs)
        rule = _RULED.get(func)
        if rule is not None:
            return rule(self, func, *args, **kwargs)
        result = func(*args, **kwargs)
        if func in _KEEPS_ROLE or (func in _KEEPS_ROLE_OF_ONE and len(graph_tensors(args)) == 1):
            give_role(result, role(graph_tensors(args)[0]) if graph_tensors(args) else None)
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
        dtype, is_autocast = torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind)

        def run(x: Tensor) -> Tensor:
            return func(x, **kwargs)

        def backward(x: Any, gradient: Tensor) -> Tensor:
            if applies(self._rules):
                return fixed(x, gradient)
            with torch.enable_grad(), torch.autocast(kind, dtype, is_autocast):
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

        def shared(gradient: Tensor | None) -> Tensor | None:
            count = free + sum(not self._holds(x) for x in roles)
            return gradient / count if gradient is not None and self._rules.products and count > 1 else None

        roles = [role(x) for x, is_held in zip(operands, held, strict=True) if is_held]
        if len(operands) > 1:
            product.register_hook(shared)
        return product

    def _holds(self, role: str | None) -> bool:
        return (role == WEIGHTS and self._rules.attention) or (role == GATE and self._rules.gates)

    def _passes(self, x: Tensor) -> Tensor:
        """An alias of a factor with a role, which gets no gradient where the rules hold it fixed."""
        is_held = partial(self._holds, role(x))
        return self.scaled(x, lambda rules: 0.0 if is_held() else 1.0)

    def scaled(self, x: Tensor, factor: Callable[[Rules], float]) -> Tensor:
        """An alias whose gradient is multiplied by what the rules say."""
        if not x.requires_grad:
            return x
        alias = x.view_as(x)

        def hook(gradient: Tensor | None) -> Tensor | None:
            by = factor(self._rules)
            if gradient is None:  # of an operation that has none, as on quantized weights
                return None
            return None if by == 1 else torch.zeros_like(gradient) if by == 0 else gradient * by

        alias.register_hook(hook)
        return alias

    def held(self, tensor: Any) -> Any:
        """A statistic, held fixed for good."""
        self.is_ruled = True
        if isinstance(tensor, tuple):  # variance and mean: the mean is linear
            return type(tensor)((tensor[0].detach(), *tensor[1:]))
        return tensor.detach()


_NORMALIZES = re.compile(r"(?<!Batch)Norm|Sqrt|^Std|^Var|Graph|Compiled")  # batch norms are linear in evaluation


def unknown_operations(output: Tensor) -> set[str]:
    """Names of what the graph of an output holds that normalizes, or may, and that no rule has seen.

    Args:
        output: Of a model that ran under `RuledForward`. Its graph is read, not run.
    """
    found, waiting, seen = set[str](), [output.grad_fn], set[Any]()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        waiting += [following for following, _ in node.next_functions]
        is_own = node.name() == f"{_Operation.__name__}Backward"
        if not is_own and (_NORMALIZES.search(node.name()) or isinstance(node, BackwardCFunction)):
            found.add(node.name().removesuffix("Backward").rstrip("0123456789").removesuffix("Backward"))
    return found


class _Operation(torch.autograd.Function):
    """`run(x)`, whose gradient is `backward(x, gradient)`; `x` is None there if it was not to be kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, run: Any, backward: Any, keep: bool) -> Tensor:
        if keep:
            ctx.save_for_backward(x)
        ctx.rule, ctx.keep = backward, keep
        result: Tensor = run(x)
        return result.clone() if result._is_view() else result  # what comes next may write to it in place

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x = ctx.saved_tensors[0] if ctx.keep else None
        return ctx.rule(x, gradient), None, None, None


# Roles of tensors in products. An attribute goes with the tensor, and goes when it goes.
_ROLE = "_lightning_cam_role"
WEIGHTS, GATE, EXP = "attention weights", "gate", "exponential"


def role(tensor: Tensor) -> str | None:
    """What a tensor is in products, or None."""
    return getattr(tensor, _ROLE, None)


def give_role(tensor: Any, role: str | None) -> Any:
    """The tensor, with a role if there is one to give."""
    if role is not None and isinstance(tensor, Tensor):
        setattr(tensor, _ROLE, role)
    return tensor


def _is_weights(tensor: Tensor) -> bool:
    return role(tensor) == WEIGHTS


def _is_gate(tensor: Tensor) -> bool:
    return role(tensor) == GATE


def graph_tensors(values: Any) -> list[Tensor]:
    """Those of some arguments that are part of the graph, also in lists."""
    flat = (x for value in values for x in (value if isinstance(value, (tuple, list)) else (value,)))
    return [x for x in flat if isinstance(x, Tensor) and x.requires_grad]


_KEEPS_ROLE = {
    *(torch.transpose, torch.permute, torch.reshape, torch.flatten, torch.unsqueeze, torch.squeeze, F.dropout),
    *(Tensor.transpose, Tensor.permute, Tensor.reshape, Tensor.view, Tensor.flatten, Tensor.unflatten),
    *(Tensor.unsqueeze, Tensor.squeeze, Tensor.expand, Tensor.expand_as, Tensor.contiguous, Tensor.clone),
    *(Tensor.to, Tensor.float, Tensor.half, Tensor.bfloat16, Tensor.type, Tensor.type_as),
    *(Tensor.__getitem__, Tensor.masked_fill),
}
# A gate stays one when a number is added, as in GELU by hand.
_KEEPS_ROLE_OF_ONE = {torch.add, Tensor.add, Tensor.__add__, Tensor.__radd__}


_RULED: dict[Any, Callable[..., Any]] = {}


def rule_of(*functions: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a rule for functions: called with the mode, the function and what it was called with."""

    def register(rule: Callable[..., Any]) -> Callable[..., Any]:
        _RULED.update(dict.fromkeys(functions, rule))
        return rule

    return register
