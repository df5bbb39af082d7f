"""Where tensors come from, according to the autograd graph of a forward pass; it is read, not run."""

from typing import Any

from torch import Tensor

# Nodes of operations that mix tokens: what lies behind them is of other tokens.
_MIXING = ("ScaledDotProduct", "Bmm", "Baddbmm", "Softmax")


def ancestors(tensor: Tensor) -> set[Any]:
    """The nodes that a tensor comes from, its own among them."""
    waiting, seen = [tensor.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting += [following for following, _ in node.next_functions]
    return seen


def leads_to(earlier: Tensor | None, later: Tensor | None) -> bool:
    """Whether one output is of the other's shape and depends on it.

    A backward pass through a part of the graph would fail where parameters are sharded.
    """
    if earlier is None or later is None or earlier.shape != later.shape or earlier.grad_fn is None:
        return False
    return earlier.grad_fn in ancestors(later)


def all_goes_through(gate: Tensor, later: Tensor) -> bool:
    """Whether all information about the images in one tensor came through another, in a graph that begins at them."""
    if gate.grad_fn is None:
        return False
    waiting, seen = [later.grad_fn], {gate.grad_fn}
    passed = False
    while waiting:
        node = waiting.pop()
        passed |= node is gate.grad_fn
        if node is None or node in seen:
            continue
        if node.name().endswith("AccumulateGrad"):
            return False
        seen.add(node)
        waiting += [following for following, _ in node.next_functions]
    return passed


def of_same_tokens(query: Tensor, key: Tensor) -> bool:
    """Whether two tensors were made of one by operations that leave each token to itself, as those of self-attention.

    Args:
        query: Part of a graph that begins at the images, or not, as learned queries are.
        key: Likewise.
    """
    if query is key:
        return True
    if query.grad_fn is None or key.grad_fn is None:
        return False
    fronts: list[list[Any]] = [[query.grad_fn], [key.grad_fn]]
    seen: list[set[Any]] = [{query.grad_fn}, {key.grad_fn}]
    while any(fronts):
        for side in (0, 1):
            following = [node for one in fronts[side] if not _mixes(one) for node, _ in one.next_functions]
            fronts[side] = [node for node in dict.fromkeys(following) if node is not None and node not in seen[side]]
            seen[side].update(fronts[side])
            if seen[0] & seen[1]:
                return True
    return False


def _mixes(node: Any) -> bool:
    return node.name().startswith(_MIXING)
