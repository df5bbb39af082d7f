"""Networks whose outputs a model combines with that of the explained one, as in an ensemble."""

from lightning_cam.model.output import logits_of
from lightning_cam.resolve.graph import ancestors
from lightning_cam.resolve.watch import Call, Trace

_NETWORK = 2  # mixings of tokens: one alone may be the other half of a block


def networks_beside(trace: Trace, call: Call) -> tuple[str, ...]:
    """Names of the modules that mix tokens on another way to the logits than that through a layer.

    Args:
        trace: One forward pass, with its graph.
        call: That of the layer.
    """
    try:
        logits = logits_of(trace.output)
    except ValueError:  # features, a dense output
        return ()
    if call.output is None or call.output.grad_fn is None:
        return ()
    before, felt = ancestors(call.output), ancestors(logits)
    others = [
        mixing
        for mixing in trace.mixings
        if mixing.output.grad_fn in felt - before and call.output.grad_fn not in ancestors(mixing.output)
    ]
    names = [_where_they_part(mixing.mixer.name, call.name) for mixing in others]
    return tuple(name for name in dict.fromkeys(names) if name and names.count(name) >= _NETWORK)


def _where_they_part(name: str, other: str) -> str:
    """`members.0` of `members.0.blocks.1.attn` and `members.1.blocks.1.norm1`; empty where one holds the other."""
    parts, others = name.split("."), other.split(".")
    same = next((at for at, pair in enumerate(zip(parts, others, strict=False)) if pair[0] != pair[1]), None)
    return "" if same is None else ".".join(parts[: same + 1])
