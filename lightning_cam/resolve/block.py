"""Which norms a model should be explained at: those of its final block with a gradient of the logits."""

import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_cam.model.output import logits_of
from lightning_cam.resolve.graph import all_goes_through, leads_to
from lightning_cam.resolve.norms import PROJECTIONS, channel_axis
from lightning_cam.resolve.refusals import NoGradient, NoPatches, no_gradient, nothing_seen
from lightning_cam.resolve.watch import Call, Mixing, Trace, first_tensor, same

_log = logging.getLogger(__name__)

_DIFFERENT = 1e-3  # relative; rounding in float32 stays far below


@dataclass
class FinalBlock:
    """The final transformer block.

    Args:
        name: Of the module that is the block.
        norms: Its norms with a gradient at the patches: first the default one, then the others in order of execution.
        before: The same norm as the default one, one block earlier, if there is one.
    """

    name: str
    norms: list[Call]
    before: Call | None = None


def final_blocks(trace: Trace, batch_size: int) -> Iterator[FinalBlock]:
    """Find the last module that mixes tokens and has norms where the logits depend on the patches, and earlier ones.

    Those before count where the last one's tokens are no image, as those of a decoder; their tokens attend to
    themselves.

    Args:
        trace: One forward pass, with its graph.
        batch_size: Number of images in it.

    Raises:
        ValueError: There is no such module.
    """
    norms = [call for call in trace.last_calls().values() if call.is_norm and call.output is not None]
    gradients = _gradients(trace, [*(m.output for m in trace.mixings), *(c.output for c in norms)])
    mixings = [m for m, g in zip(trace.mixings, gradients, strict=False) if g is not None and bool(g.any())]
    reason = nothing_seen(trace)
    if not mixings and reason:
        raise ValueError(reason)
    if not mixings:
        raise ValueError(
            f"no attention, other token mixing or final convolutional map was found in the {len(trace.calls)} module "
            "calls of the forward pass, so this is not a vision transformer or convolutional network; name the layers "
            "to explain with target_layers="
        )
    living: list[Call] = []
    dead: list[Call] = []
    for call, gradient in zip(norms, gradients[len(trace.mixings) :], strict=True):
        (living if gradient is not None and _lives(call, gradient, batch_size) else dead).append(call)

    found: list[Call] = []
    for mixing in reversed(mixings):
        others = [m for m in mixings if m.mixer is not mixing.mixer]
        inline = _inline_block(mixing, mixings, living)
        block = inline if inline is not None and _is_stack(mixing, mixings, inline, trace) else None
        block = block or _block_of(mixing, others, living, dead, trace) or inline
        if block is None and not found and mixing.mixer.name in {name.rpartition(".")[0] for name in trace.strangers}:
            break  # that was in a module out of sight
        if block is None or block.norms[0] in found or (found and not _attends_to_itself(mixing, mixings, block)):
            continue
        if not found:
            _report(dead, block.norms[0])
        found.append(block.norms[0])
        block.before = _like_before(block, living, mixings)
        yield block
    if found:
        return
    raise NoPatches(
        reason
        or f"the last token mixing is in {mixings[-1].mixer.name or 'the model itself'}, but no norm module "
        "there or before it has a gradient at the image's patches; name the layers with target_layers="
    )


def _block_of(
    mixing: Mixing, others: list[Mixing], living: list[Call], dead: list[Call], trace: Trace
) -> FinalBlock | None:
    """The block around a mixing: the first module that holds living norms and is no stack of blocks."""
    own = _own_norms(living, mixing)
    for depth in range(len(mixing.stack) - 1, -1, -1):
        block = mixing.stack[depth]
        earlier = [m.time for m in others if block.holds(m.time) and m.time < mixing.time]
        inside = [call for call in own if block.holds(call.start)]
        before = [call for call in inside if call.start < mixing.time]
        if earlier:
            child = mixing.stack[depth + 1] if depth + 1 < len(mixing.stack) else None
            if child is None or block is mixing.mixer or child.pools:
                return None  # a head that pools by attention: the block before it is the final one
            # The block itself has no living norm. The last one before it belongs to a block that normalizes
            # at its end, or to a list of norms beside a list of attentions.
            between = [call for call in before if call.start > earlier[-1]]
            source = between[-1] if between else _source_of(child, dead, trace)
            return None if source is None else FinalBlock(child.name, [source])
        if inside:
            default = before[-1] if before else inside[0]
            return FinalBlock(block.name, [default, *(call for call in inside if call is not default)])
    return None


def _inline_block(mixing: Mixing, mixings: list[Mixing], living: list[Call]) -> FinalBlock | None:
    """The block of a mixing that is written into a module's own forward: its norm is the last that all goes through.

    Norms of queries and keys are passed by the values.
    """
    mixer = mixing.mixer
    before = [call for call in living if mixer.holds(call.start) and call.end < mixing.time]
    for call in sorted(before, key=lambda call: call.end, reverse=True):
        assert call.output is not None
        if all_goes_through(call.output, mixing.output):
            pools = mixing.output.numel() * 2 < call.output.numel()
            after = [c for c in living if mixer.holds(c.start) and c.start > mixing.time]
            return None if pools else FinalBlock(mixer.name, [call, *after])
    return None


def _is_stack(mixing: Mixing, mixings: list[Mixing], block: FinalBlock, trace: Trace) -> bool:
    """Whether the module that mixes had done so before the block's norm: it holds several blocks.

    Not where the norm is part of a projection, as those of heads that are computed one after the other.
    """
    norm = block.norms[0]
    earlier = [m.time for m in mixings if m.mixer is mixing.mixer and m.time < norm.start]
    projections = [call for call in trace.calls if isinstance(call.module, PROJECTIONS) and call.end < norm.start]
    return bool(earlier) and not any(same(norm.input, one.output_print) for one in projections if one.end > earlier[0])


def _attends_to_itself(mixing: Mixing, mixings: list[Mixing], block: FinalBlock) -> bool:
    mixer, start = mixing.mixer, block.norms[0].start
    of_block = [m for m in mixings if m.mixer is mixer and (m.time > start or not mixer.holds(start))]
    return any(m.same_tokens for m in of_block if m.time <= mixing.time or not mixer.holds(start))


def _like_before(block: FinalBlock, living: list[Call], mixings: list[Mixing]) -> Call | None:
    """The final block's norm one block earlier: of the same class and shape, in a module of another number.

    Between the two, tokens are mixed, and the later one depends on the earlier one.
    """
    default = block.norms[0]
    for call in sorted(living, key=lambda call: call.end, reverse=True):
        if (
            call.end < default.start
            and type(call.module) is type(default.module)
            and _pattern(call.name) == _pattern(default.name)
            and any(call.end < mixing.time < default.start for mixing in mixings)
            and leads_to(call.output, default.output)
        ):
            return call
    return None


def _pattern(name: str) -> str:
    """`blocks.#.norm1` of `blocks.11.norm1`: the number of a block does not count, that of a norm does."""
    *path, last = name.split(".")
    return ".".join([*(re.sub(r"\d+", "#", part) for part in path), "#" if last.isdigit() else last])


def _source_of(block: Call, dead: list[Call], trace: Trace) -> Call | None:
    """The last module before a block without norm modules whose output is what the block gets."""
    before = [call for call in trace.calls if call.is_layer and call.end < block.start and call not in dead]
    sources = [call for call in before if same(call.output_print, block.input)]
    return max(sources, key=lambda call: call.end, default=None)


def _gradients(trace: Trace, tensors: Sequence[Tensor | None]) -> tuple[Tensor | None, ...]:
    """Gradients of random logits, so that nothing cancels as it does in the sum of probabilities."""
    try:
        scores = logits_of(trace.output)
    except ValueError:
        found = first_tensor(trace.output)
        if found is None:
            raise
        scores = found  # a dense output: all of it is asked
    if not scores.requires_grad:
        raise NoGradient(nothing_seen(trace) or no_gradient())
    weights = torch.randn(scores.shape, generator=torch.Generator().manual_seed(2)).to(scores)
    known = [tensor for tensor in tensors if tensor is not None and tensor.requires_grad]
    try:
        gradients = iter(torch.autograd.grad((scores * weights).sum(), known, allow_unused=True) if known else ())
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:  # an operation without a derivative
        raise NoGradient(nothing_seen(trace) or no_gradient()) from error
    return tuple(next(gradients) if t is not None and t.requires_grad else None for t in tensors)


def _lives(call: Call, gradient: Tensor, batch_size: int) -> bool:
    """Tell whether the gradient tells at least half of the tokens, of which there are several, from each other.

    Behind the last mixing it is zero at all patches if a class token is read, and the same at all if their mean is
    read and nothing but linear maps follow.
    """
    axis = channel_axis(call.module, tuple(gradient.shape))
    # In single precision the squares of small gradients vanish.
    tokens = gradient.detach().double().movedim(-1 if axis is None else axis, -1)
    tokens = tokens.reshape(batch_size if len(tokens) % batch_size == 0 else 1, -1, tokens.shape[-1])
    common = tokens.median(1, keepdim=True).values
    own = (tokens - common).norm(dim=2) > _DIFFERENT * common.norm(dim=2)
    return tokens.shape[1] > 1 and bool(own.float().mean() >= 0.5)


def _own_norms(living: list[Call], mixing: Mixing) -> list[Call]:
    """Living norms without those of queries, keys and values inside the mixer."""
    mixer = mixing.mixer
    inner = [call for call in living if mixer.holds(call.start)]
    opening = [call for call in inner if same(call.input, mixer.input)]
    # A mixer that opens with a norm of its own is a whole block; what follows the mixing belongs to the block too.
    kept = opening + [call for call in inner if opening and call not in opening and call.start > mixing.time]
    return [call for call in living if call not in inner or call in kept]


def _report(dead: list[Call], default: Call) -> None:
    names = [call.name for call in dead if call.start > default.start]
    if names:
        _log.info("left out, no patch-specific gradient: %s", ", ".join(names))
