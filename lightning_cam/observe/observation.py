"""The result of observing one step: which network ran on which input, which output counts, and the kind of task."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from lightning_cam.model.detection import places_of_queries
from lightning_cam.observe.consumers import (
    Consumed,
    Reads,
    before_normalizing,
    factors_of,
    forms_of,
    pixel_forms_of,
)
from lightning_cam.observe.origins import Origin
from lightning_cam.observe.step import NetworkCall, StepObserver

Kind = Reads | str  # with "pairs": similarities of each image to every text (or other input) of the batch


@dataclass(frozen=True, eq=False)
class Output:
    """One output that a loss or metric read.

    Args:
        name: Of the head, "" where there is one only.
        kind: What it is.
        by: The name of what read it.
        event: Which of the step's consumers that was.
        leaf: Which tensor of what the network returned it is; None if the step makes it of that.
        target: What it was compared with, or None.
        ignore_index: The target that stands for none.
        shape: Of that tensor of the network's, which may have been put into another form before it was read; None
            without one.
    """

    name: str
    kind: Kind
    by: str
    event: int
    leaf: int | None
    target: Tensor | None
    ignore_index: int = -100
    shape: tuple[int, ...] | None = None


@dataclass(frozen=True, eq=False)
class Observation:
    """The result of observing one step.

    Args:
        outputs: The outputs that count, one per head; none if nothing was seen to read one.
        network: The call that leads to all of them; None if they come from several, or from none that was seen.
        calls: All network calls that they come from, the outermost only.
        picture: Name of the step's input that the network's images are made of, or None.
    """

    outputs: list[Output]
    network: NetworkCall | None
    calls: list[NetworkCall]
    picture: str | None


def observation_of(seen: StepObserver) -> Observation:
    """Decide what a step is about.

    The surest consumers count: a known loss with a target before a module that compares, that before a hand-written
    loss or metric, and losses between two outputs last.
    """
    numbered = [(number, one) for number, one in enumerate(seen.consumed) if not one.origin.is_raw]
    numbered = _without_parts(numbered)
    best = min((one.rank for _, one in numbered), default=3)
    pictures = {name for call in seen.calls for index in call.pictures for name in _inputs(call.given[index])}
    chosen: list[tuple[int, Consumed, Kind]] = []
    known: list[Origin] = []
    for number, one in numbered:
        if one.rank != best or not one.origin.inputs & pictures:
            continue
        kind = _kind(one, pictures)
        same = {id(form) for form in _same(one.origin)}
        if any(id(origin) in same for origin in known) or (kind in ("pairs", "embeddings") and chosen):
            continue
        known += _same(one.origin)
        chosen.append((number, one, kind))
    chosen = _without_features(chosen)
    outermost = [call for call in seen.calls if not call.within]
    detected = _detected(seen, outermost)
    if detected is not None:
        call, output = detected
        return Observation([output], call, [call], _picture(call.given[call.pictures[0]]))
    leading = _leading([one.origin for _, one, _ in chosen], seen.calls)
    if leading:  # what is read of other images (those of a second loader, say) has nothing to do with the first ones
        images = _inputs(leading[0].given[leading[0].pictures[0]])
        chosen = [(number, one, kind) for number, one, kind in chosen if one.origin.inputs & images]
        leading = _leading([one.origin for _, one, _ in chosen], seen.calls)
    network = leading[0] if len(leading) == 1 else None
    outputs = []
    if network is not None:
        chosen = _without_inner(chosen, network)
    for number, one, kind in chosen:
        leaf, read = _place(one, kind, network)
        returned = None if network is None or leaf is None else network.returned[leaf]
        shape = None if returned is None else returned.shape
        outputs.append(Output("", read, one.by, number, leaf, one.target, one.ignore_index, shape))
    if not chosen and len(outermost) == 1:  # nothing is known to read it, but there is no other
        network = outermost[0]
        leading = [network]
    if network is not None and any(output.leaf is None for output in outputs):
        network = None
    targets = ["+".join(sorted(_inputs(one.target_origin))) for _, one, _ in chosen]
    of_pictures = (_picture(call.given[index]) for call in leading for index in call.pictures)
    return Observation(_named(outputs, network, targets), network, leading, next(of_pictures, None))


def _detected(seen: StepObserver, calls: Sequence[NetworkCall]) -> tuple[NetworkCall, Output] | None:
    """A call that returns logits and boxes of queries, and what these are: by what reads them, or a guess."""
    for call in calls:
        shapes = [None if origin is None else origin.shape for origin in call.returned]
        places = places_of_queries(call.names, shapes)
        if places is None:
            continue
        logits = call.returned[places[0]]
        reads = [one for one in seen.consumed if logits in (*forms_of(one.origin), *pixel_forms_of(one.origin))]
        best = min(reads, key=lambda one: one.rank, default=None)
        shape = shapes[places[0]]
        assert shape is not None  # or these were no places
        stated = getattr(getattr(call.module, "config", None), "num_labels", None)  # Hugging Face's
        has_none = stated != shape[2] if best is None else best.reads in ("logits", "log-probabilities")
        by = "" if best is None else best.by
        return call, Output("", "objects" if has_none else "objects of labels", by, 0, None, None, shape=shape)
    return None


def _picture(origin: Origin | None) -> str | None:
    """The input that an image is made of; of several the first that has colors."""
    inputs = [] if origin is None else [before for before in origin.ancestors() if before.operation == "input"]
    named = sorted((3 not in one.shape[1::2], next(iter(one.inputs))) for one in inputs)
    return named[0][1] if named else None


def _without_parts(numbered: list[tuple[int, Consumed]]) -> list[tuple[int, Consumed]]:
    """Leave out what looks like a hand-written loss and is a step on the way to one between two outputs."""
    between = [one for _, one in numbered if one.rank == 3 and one.reads != "embeddings"]
    ends = [origin for one in between for origin in (one.origin, one.target_origin) if origin is not None]
    parts = {id(before) for end in ends for before in end.ancestors()}
    return [(number, one) for number, one in numbered if one.rank != 2 or id(one.origin) not in parts]


def _without_features(chosen: list[tuple[int, Consumed, Kind]]) -> list[tuple[int, Consumed, Kind]]:
    """Leave out values and what was read by hand, if another output is made of it.

    Such are features, which a loss draws to centers, say, or weights of an attention.
    """
    inner = {id(before) for _, one, _ in chosen for before in one.origin.ancestors() if before is not one.origin}
    return [
        (number, one, kind)
        for number, one, kind in chosen
        if id(one.origin) not in inner or (kind != "values" and one.rank != 2)
    ]


def _without_inner(chosen: list[tuple[int, Consumed, Kind]], network: NetworkCall) -> list[tuple[int, Consumed, Kind]]:
    """Leave out what is read inside of a network and not returned, as of auxiliary heads, if others are returned."""
    returned = {id(origin) for origin in network.returned if origin is not None}
    outer = [one for one in chosen if any(id(before) in returned for before in one[1].origin.ancestors())]
    return outer or chosen


def _named(outputs: Sequence[Output], network: NetworkCall | None, targets: Sequence[str]) -> list[Output]:
    """Give several heads names: those of what the network returns, or else of their targets, or numbers."""
    if len(outputs) < 2:
        return list(outputs)
    returned = [] if network is None else [network.names[one.leaf] for one in outputs if one.leaf is not None]
    numbers = [f"head_{number}" for number in range(len(outputs))]
    choices = (names for names in (returned, targets) if len({*names, ""}) == len(outputs) + 1)
    return [replace(one, name=name) for one, name in zip(outputs, next(choices, numbers), strict=True)]


def _inputs(origin: Origin | None) -> frozenset[str]:
    return frozenset() if origin is None else origin.inputs


def _same(origin: Origin) -> list[Origin]:
    """The origins that hold the same output, before a softmax too."""
    forms = list(forms_of(origin))
    before = before_normalizing(origin)
    return forms if before is None else [*forms, *forms_of(before)]


def _kind(one: Consumed, pictures: set[str]) -> Kind:
    """What an output is: of similarities, whether they are between images."""
    origin = one.origin
    if one.reads == "values" and before_normalizing(origin) is not None:  # a distance between probabilities
        return "softmax probabilities" if _is_softmax(origin) else "probabilities"
    if one.reads not in ("logits", "log-probabilities", "label logits") or one.target_origin is not None:
        return one.reads
    factors = factors_of(origin)
    if not factors:  # texts that the step makes tokens of are no inputs of it, but then no class is right twice
        return "pairs" if _is_each_its_own(one) else one.reads
    of_images = [bool(factor.inputs & pictures) for factor in factors]
    of_others = [bool(factor.inputs - pictures) for factor in factors]
    return "pairs" if any(of_others) and not all(of_images) else "embeddings"


def _is_each_its_own(one: Consumed) -> bool:
    """Whether a square table is compared with the numbers of its rows."""
    target, shape = one.target, one.origin.shape
    if target is None or len(shape) != 2 or shape[0] != shape[1] or tuple(target.shape) != shape[:1]:
        return False
    return shape[0] > 1 and target.tolist() == list(range(shape[0]))


def _leading(origins: Sequence[Origin], calls: Sequence[NetworkCall]) -> list[NetworkCall]:
    """The calls whose results these origins come from; a module that only changes the images is none.

    They are the outermost ones, or, where these return nothing but a loss, the outermost inside of them.
    """
    reached = {id(ancestor) for origin in origins for ancestor in origin.ancestors()}
    found = [
        call
        for call in calls
        if any(id(origin) in reached for origin in call.returned if origin is not None and not origin.is_raw)
    ]
    return [call for call in found if not call.within] or [
        call for call in found if not any(outer in found for outer in call.within)
    ]


def _place(one: Consumed, kind: Kind, network: NetworkCall | None) -> tuple[int | None, Kind]:
    """Which of the network's tensors was read, and as what: the logits themselves, if their softmax was."""
    if network is None:
        return None, kind
    returned = {id(origin): index for index, origin in reversed(list(enumerate(network.returned)))}
    for form in forms_of(one.origin):
        if id(form) in returned:
            return returned[id(form)], kind
    before = before_normalizing(one.origin)
    if before is not None and kind in ("log-probabilities", "probabilities", "softmax probabilities"):
        for form in forms_of(before):
            if id(form) in returned:
                return returned[id(form)], "logits" if _is_softmax(one.origin) else "label logits"
    for form in pixel_forms_of(one.origin):
        if id(form) in returned:
            return returned[id(form)], kind
    return None, kind


def _is_softmax(origin: Origin) -> bool:
    return any("softmax" in form.operation for form in forms_of(origin))
