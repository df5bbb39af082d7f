"""Relevance rules of activation functions, products of activations, and attention."""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_cam.model.private import multi_head_attention_in_sight
from lightning_cam.passes.rules import (
    EXP,
    GATE,
    WEIGHTS,
    RuledForward,
    Rules,
    give_role,
    graph_tensors,
    role,
    rule_of,
)


@rule_of(F.gelu)
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


@rule_of(*_GATES)
def _self_gated(mode: RuledForward, func: Any, input: Tensor, inplace: bool = False) -> Tensor:
    if not inplace:
        return mode.gated(func, input, {}, _GATES[func])
    return input.copy_(mode.gated(func, input.clone(), {}, _GATES[func]))


@rule_of(F.glu, torch.nn.functional.glu)
def _glu(mode: RuledForward, func: Any, input: Tensor, dim: int = -1) -> Tensor:
    value, gate = input.chunk(2, dim)
    gate = mode.scaled(gate, lambda rules: 0.0 if rules.gates else 1.0)
    return func(torch.cat([value, gate], dim), dim)


@rule_of(
    torch.sigmoid, Tensor.sigmoid, F.sigmoid, F.hardsigmoid, torch.tanh, Tensor.tanh, F.tanh, torch.erf, Tensor.erf
)
def _gate(mode: RuledForward, func: Any, *args: Any, **kwargs: Any) -> Tensor:
    return give_role(func(*args, **kwargs), GATE)


@rule_of(torch.exp, Tensor.exp)
def _exp(mode: RuledForward, func: Any, *args: Any, **kwargs: Any) -> Tensor:
    return give_role(func(*args, **kwargs), EXP)


@rule_of(torch.softmax, F.softmax, Tensor.softmax)
def _softmax(mode: RuledForward, func: Any, *args: Any, **kwargs: Any) -> Tensor:
    result = func(*args, **kwargs)
    if mode.blocks is not None and result.ndim > 2:
        mode.blocks.see_weights(result)
    return give_role(result, WEIGHTS if result.ndim > 2 else None)  # of classes, it is a probability


@rule_of(
    torch.mul, Tensor.mul, Tensor.__mul__, Tensor.__rmul__, Tensor.mul_, Tensor.__imul__, torch.multiply,
    Tensor.multiply, torch.matmul, Tensor.matmul, Tensor.__matmul__, Tensor.__rmatmul__, torch.bmm, Tensor.bmm,
)  # fmt: skip
def _product(mode: RuledForward, func: Any, *args: Any, **kwargs: Any) -> Any:
    operands = graph_tensors(args)
    if len(operands) < 2:
        return give_role(func(*args, **kwargs), role(operands[0]) if func in _BY_NUMBER and operands else None)
    first = args[0]

    def run(factors: list[Tensor]) -> Any:
        given = dict(zip(map(id, operands), factors, strict=True))
        others = [given.get(id(x), x) for x in args[1:]]
        # What is written to must be what it is.
        return func(first if func in _IN_PLACE else given.get(id(first), first), *others, **kwargs)

    return mode.multiplied(func, operands, run)


_IN_PLACE = (Tensor.mul_, Tensor.__imul__)
_BY_NUMBER = (torch.mul, Tensor.mul, Tensor.__mul__, Tensor.__rmul__)


@rule_of(torch.einsum)
def _einsum(mode: RuledForward, func: Any, equation: Any, *operands: Any, **kwargs: Any) -> Any:
    given = list(operands[0]) if len(operands) == 1 and isinstance(operands[0], (tuple, list)) else list(operands)
    graph = graph_tensors(given)

    def run(factors: list[Tensor]) -> Any:
        replaced = dict(zip(map(id, graph), factors, strict=True))
        return func(equation, *(replaced.get(id(x), x) for x in given), **kwargs)

    return mode.multiplied(func, graph, run)


@rule_of(torch.baddbmm, Tensor.baddbmm)
def _baddbmm(mode: RuledForward, func: Any, input: Tensor, batch1: Tensor, batch2: Tensor, **kwargs: Any) -> Any:
    if not (batch1.requires_grad and batch2.requires_grad) or input.requires_grad:
        return func(input, batch1, batch2, **kwargs)
    return mode.multiplied(func, [batch1, batch2], lambda factors: func(input, *factors, **kwargs))


@rule_of(F.scaled_dot_product_attention)
def _attention(
    mode: RuledForward,
    func: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    **kwargs: Any,
) -> Tensor:
    if mode.blocks is not None:
        mode.blocks.see_fused(query, key, attn_mask, is_causal, kwargs.get("scale"))
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
    return func(query, key, mode.scaled(value, to_value), attn_mask, dropout_p, is_causal, **kwargs)


@rule_of(F.grid_sample)
def _sampling(ruled: RuledForward, func: Any, input: Tensor, grid: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Values between cells are linear in those of the cells; the places where they are read are held fixed."""
    grid = ruled.scaled(grid, lambda rules: 0.0 if rules.attention or rules.products else 1.0)
    return func(input, grid, *args, **kwargs)  # one of which is called `mode`


@rule_of(F.multi_head_attention_forward)
def _multi_head_attention(mode: RuledForward, func: Any, *args: Any, **kwargs: Any) -> Any:
    with mode:
        return multi_head_attention_in_sight()(*args, **kwargs)
