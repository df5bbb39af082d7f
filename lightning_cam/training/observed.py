"""One observed validation batch: what is rerun, on which input, and which outputs are explained."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from lightning_cam.model.output import named_tensors
from lightning_cam.model.segmentation import Segmentation
from lightning_cam.model.tasks import Pairs
from lightning_cam.observe.forms import AS_SHOWN, Form, InForm, axes_of
from lightning_cam.observe.observation import Output, observation_of
from lightning_cam.observe.places import undo_of
from lightning_cam.observe.planes import planes_come_first
from lightning_cam.observe.programs import Entrance, NetworkProgram, Program, RowForward, StepProgram
from lightning_cam.observe.step import NetworkCall, StepObserver
from lightning_cam.training.batch import labels_in, pixel_labels_in, regions_in, texts_in
from lightning_cam.training.boxes import boxes_of_objects
from lightning_cam.training.heads import Head, Wanted, head_of_objects, heads_of, unread_head
from lightning_cam.training.probe import ProbeBatch


@dataclass(frozen=True, eq=False)
class Seen:
    """A validation batch as its step treated it.

    Args:
        program: What is run again.
        picture: Which of its tensors the probe's images stand for, or the call that gets them.
        heads: The outputs that are explained.
        rows: The batch's rows: images as the picture's place takes them, what else the program was given per image,
            targets per head, and the images as the batch held them.
        unchanged: Whether the images are those of the batch, and nothing was done to them on the way.
        place: Which of the batch's tensors they are made of, or None.
        form: How the program takes the images.
    """

    program: Program
    picture: int | Entrance
    heads: list[Head]
    rows: ProbeBatch
    unchanged: bool
    place: int | None
    form: Form = AS_SHOWN

    @property
    def is_network(self) -> bool:
        """Whether one call of a network is run again, and not the step."""
        return isinstance(self.program, NetworkProgram)

    def forward(self, head: Head, probe: ProbeBatch) -> RowForward:
        """What was validated, as a function of images, for the rows of a probe."""
        inputs = {int(place): rows for place, rows in probe.inputs.items()}
        return RowForward(self.program, head.output, inputs, len(probe.images), self.picture, form=self.form)


@dataclass(frozen=True)
class Direct:
    """Which tensors of a batch are the network's images and what its output is compared with, where both stand there.

    Args:
        place: Of the images among the batch's tensors.
        target: Of the targets.
        head: The output that they belong to.
        form: How the network takes the images.
    """

    place: int
    target: int
    head: Head
    form: Form = AS_SHOWN

    @classmethod
    def of(cls, seen: Seen, batch: Any) -> "Direct | None":
        """The places in a batch whose step was seen; None if the step does more than take them."""
        target = seen.rows.targets.get(seen.heads[0].name)
        if not seen.unchanged or seen.place is None or seen.rows.inputs or target is None:
            return None
        same = [
            place
            for place, (_, tensor) in enumerate(named_tensors(batch))
            if tensor.shape == target.shape and tensor.dtype == target.dtype and torch.equal(tensor, target)
        ]
        return cls(seen.place, same[0], seen.heads[0], seen.form) if len(same) == 1 else None

    def rows(self, batch: Any) -> ProbeBatch | None:
        """All images of another batch, and what is known of them; None if it is not of the same form."""
        tensors = [tensor for _, tensor in named_tensors(batch)]
        if max(self.place, self.target) >= len(tensors):
            return None
        images, target = tensors[self.place], tensors[self.target]
        if images.ndim != self.form.num_axes or target.shape[:1] != images.shape[:1]:
            return None
        regions = regions_in(batch, images) if self.form == AS_SHOWN else None
        rows = ProbeBatch(self.form.shown(images), regions=regions, targets={self.head.name: target})
        return replace(rows, labels=self.head.labels(rows)).counted()


@dataclass(frozen=True, eq=False)
class Guessed:
    """What is explained where nothing was seen, or where the user said it: a network that is called with images.

    Args:
        network: What is called.
        rows: The batch's images, and what else is guessed of it.
        heads: The one output.
        unchanged: Whether the images are those of the batch.
        form: How the network takes the images.
    """

    network: Callable[..., Any]
    rows: ProbeBatch
    heads: tuple[Head, ...] = (Head(),)
    unchanged: bool = True
    form: Form = AS_SHOWN

    def forward(self, head: Head, probe: ProbeBatch) -> Callable[..., Any]:
        """The network."""
        if self.form == AS_SHOWN:
            return self.network
        return InForm(self.network, self.form)


def names_of(batch: Any) -> list[str]:
    """Names of a batch's tensors, each of its own: what they stand under, or their places."""
    names = [name for name, _ in named_tensors(batch)]
    return [
        name if name and names.count(name) == 1 else f"{name or 'tensor'}_{index}" for index, name in enumerate(names)
    ]


def seen_in(
    observer: StepObserver, module: nn.Module, step: Callable[..., Any], args: Sequence[Any], wanted: Wanted
) -> Seen | None:
    """What an observer saw of a step; None if no network was seen to be given images.

    Args:
        observer: Has seen the step.
        module: The module whose step it was.
        step: The step.
        args: What it was given; the batch first.
        wanted: What the user asked for.

    Raises:
        ValueError: What was seen cannot be explained; the sentence says what to give.
    """
    observation = observation_of(observer)
    # A training step moves weights as it should, and not back.
    if wanted.step == "validation" and (changed := observer.other_weights()) is not None:
        raise ValueError(
            f"validation_step swaps the weights of {type(changed).__name__} while it runs (for their average, say) and "
            "swaps them back, so a look would use weights that were not validated; swap them in on_validation_start "
            "and on_validation_end"
        )
    names, batch = names_of(args[0]), dict(zip(names_of(args[0]), (t for _, t in named_tensors(args[0])), strict=True))
    shown = batch.get(observation.picture or "")
    network = observation.network
    program: Program
    place = names.index(observation.picture) if observation.picture in names else None
    is_detection = any(output.kind.startswith("objects") for output in observation.outputs)
    if network is not None:
        run = _without_labels(network) if is_detection else network
        program = NetworkProgram(run)
        index = run.pictures[0]
        inner = [network, *(call for call in observer.calls if network in call.within)]
    elif observation.outputs and place is not None:
        program = StepProgram(module, step, args, names)
        index = place
        inner = [call for call in observer.calls if call in observation.calls or call.within]
    else:
        return None
    picture: int | Entrance = index
    images = program.given[index]
    views = [origin for call in inner[:1] for i in call.pictures[:1] if (origin := call.given[i]) is not None]
    moved = network is None and not any(undo_of(origin) is not None for origin in views)
    if images.ndim not in (3, 4, 5) or not images.is_floating_point() or moved:
        picture, images = _entrance(inner, network, observer.calls)
    is_bag = images.ndim == 4 and not is_detection and _is_of_one_bag(observation.outputs, observer, len(images))
    count = 1 if is_bag else len(images)
    planes_first = False
    if images.ndim == 5:
        given = [origin for call in inner[:1] for i in call.pictures[:1] if (origin := call.given[i]) is not None]
        planes_first = bool(given) and planes_come_first(observer.calls, given[0])
    axes = wanted.axes
    if axes is None:
        arguments = [] if network is None else [name for name, _ in named_tensors((network.args, network.kwargs))]
        known = [observation.picture or "", *(arguments[index : index + 1] if isinstance(picture, int) else [])]
        axes = axes_of(known, views[0] if views else None)
    form = Form(images.ndim, () if is_bag else axes, planes_first, is_bag)
    guessed = labels_in(args[0], count)
    if is_detection and not wanted.whole:
        heads = [head_of_objects(observation.outputs[0])]
    else:
        heads = [Head()] if wanted.whole else heads_of(observation.outputs, observer, count, wanted)
    true_boxes = None
    if is_detection and network is not None:
        true_boxes = boxes_of_objects((network.kwargs, args[0]), count, (images.shape[2], images.shape[3]))
    if not heads:
        assert network is not None  # or there are outputs
        heads = [unread_head(network, guessed, count, wanted)]
    unchanged = shown is not None and shown.dtype == images.dtype and torch.equal(shown, images)
    rows = ProbeBatch(
        form.shown(images).detach().clone(),
        guessed if any(head.output is None or head.output.target is None for head in heads) else None,
        regions=regions_in(args[0], images) if form == AS_SHOWN else None,
        shown=None if unchanged or shown is None or len(shown) != count else _picture_of(shown, form),
        inputs={
            str(place): tensor.detach().clone()
            for place, tensor in enumerate(program.given)
            if place != picture and tensor.ndim and len(tensor) == count
        },
        targets={"": true_boxes}
        if true_boxes is not None
        else {head.name: target for head in heads if (target := _target(head, args[0], count)) is not None},
        names=texts_in(args[0], count, module) if isinstance(heads[0].task, Pairs) else (),
    )
    rows = replace(rows, labels=heads[0].labels(rows)).counted()
    return Seen(program, picture, heads, rows, unchanged, place, form)


def _is_of_one_bag(outputs: Sequence[Output], observer: StepObserver, count: int) -> bool:
    """Whether each output that is read is a row of logits for all images together, with one target."""
    targets = [output.target for output in outputs]
    return (
        count > 1
        and bool(outputs)
        and all(observer.consumed[output.event].output.shape[:1] == (1,) for output in outputs)
        and all(target is not None and target.numel() == 1 for target in targets)
    )


def _without_labels(call: NetworkCall) -> NetworkCall:
    """The same call without what only a loss inside of it takes: a list that has nothing for other rows."""
    kwargs = {name: value for name, value in call.kwargs.items() if name != "labels"}
    before = [tensor for _, tensor in named_tensors((call.args, call.kwargs))]
    after = [tensor for _, tensor in named_tensors((call.args, kwargs))]
    places = [place for picture in call.pictures for place, tensor in enumerate(after) if tensor is before[picture]]
    return replace(call, kwargs=kwargs, pictures=places)


def _target(head: Head, batch: Any, count: int) -> Tensor | None:
    """What an output was compared with, (count, ...); a guess where a loss of pixels says nothing of it."""
    output = head.output
    target = None if output is None or output.target is None else output.target.clone()
    if isinstance(head.task, Segmentation):
        if target is None:
            return pixel_labels_in(batch, count)
        if output is not None and output.shape is not None and target.numel() == count * math.prod(output.shape[-2:]):
            return target.reshape(count, *output.shape[-2:])  # a loss may be given rows of pixels
    return None if target is None or target.shape[:1] != (count,) else target


def _picture_of(shown: Tensor, form: Form) -> Tensor | None:
    """(N, C, H, W) of a batch's images, which may have their channels last; None if it is something else."""
    if form != AS_SHOWN:
        return form.shown(shown).detach().clone() if shown.ndim == form.num_axes else None
    if shown.ndim != 4:
        return None
    is_last = shown.shape[-1] in (1, 3, 4) and shown.shape[1] not in (1, 3, 4)
    return (shown.permute(0, 3, 1, 2) if is_last else shown).detach().clone()


def _entrance(
    calls: Sequence[NetworkCall], network: NetworkCall | None, all_calls: Sequence[NetworkCall]
) -> tuple[Entrance, Tensor]:
    """The first call inside a program that is given floating images, and these."""
    for call in calls:
        tensors = [tensor for _, tensor in named_tensors((call.args, call.kwargs))]
        for index in call.pictures:
            if tensors[index].is_floating_point():
                before = [] if network is None else all_calls[: all_calls.index(network)]
                number = call.number - sum(other.module is call.module for other in before)
                return Entrance(call.module, number, index), tensors[index]
    raise ValueError(
        "the network takes no floating-point images (B, C, H, W), which maps need; give forward=, a function that "
        "takes them"
    )
