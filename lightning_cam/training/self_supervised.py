"""Steps that compare images with one another, and with no class: which network is given them, and on what."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lightning_cam.explanation import find_methods
from lightning_cam.methods import METHODS
from lightning_cam.methods.defaults import DEFAULT, FEATURES
from lightning_cam.model.classifier import takes_images
from lightning_cam.model.output import named_tensors
from lightning_cam.model.tasks import Embeddings
from lightning_cam.model.unmasked import unmasked_of
from lightning_cam.observe.forms import AS_SHOWN, Form
from lightning_cam.observe.observation import Observation
from lightning_cam.observe.origins import Origin
from lightning_cam.observe.step import NetworkCall, StepObserver
from lightning_cam.training.batch import regions_in
from lightning_cam.training.heads import Head
from lightning_cam.training.observed import Guessed, Seen, names_of
from lightning_cam.training.probe import ProbeBatch

_log = logging.getLogger(__name__)

_JOINS = ("cat", "concat", "concatenate")
_STEM = 0.5  # of the parameters of a network; a part with less than that is not all of it


@dataclass(frozen=True, eq=False)
class SeenFeatures:
    """A batch whose step compares features, or of which nothing was seen that reads classes.

    Args:
        network: What is called with images, and with nothing else.
        rows: The images as the network was given them.
        heads: The one output, of which features are shown.
        unchanged: Whether the images are those of the batch.
        words: What else is to be said of the choice, or "".
        form: How the network takes the images.
    """

    network: Callable[..., Any]
    rows: ProbeBatch
    heads: tuple[Head, ...] = (Head(task=Embeddings()),)
    unchanged: bool = True
    words: str = ""
    form: Form = AS_SHOWN

    def forward(self, head: Head, probe: ProbeBatch) -> Callable[..., Any]:
        """The network."""
        return self.network


Source = Seen | Guessed | SeenFeatures
"""What is explained."""


def compares_features(observer: StepObserver, observation: Observation, *, is_training: bool) -> bool:
    """Whether a step says nothing of classes or values: its losses stand between outputs.

    Args:
        observer: Has seen the step.
        observation: What was decided of that.
        is_training: Whether it is a training step. What such a one does not compare with a target, it has none for; a
            validation step may leave that to somebody else.
    """
    if any(output.kind.startswith("objects") for output in observation.outputs):  # which nothing need have read
        return False
    read = [(output.kind, observer.consumed[output.event]) for output in observation.outputs]
    several_views = len(_views(observer)) > 1
    if is_training and several_views:  # a classifier on detached features only watches the training
        read = [(kind, one) for kind, one in read if not _is_detached(one.origin)]
    if not read:
        return is_training
    return all(
        kind == "embeddings"
        or (kind == "values" and one.rank == 3)  # a reconstruction
        # Views of images compared with one another: what is right is which image a view is of.
        or (several_views and one.target_origin is None and kind != "pairs" and (is_training or one.target is not None))
        for kind, one in read
    )


def features_in(
    observer: StepObserver, root: nn.Module, args: Sequence[Any], observation: Observation
) -> SeenFeatures | None:
    """The network that a step gave images to, and these; None if none was seen.

    Of several networks of one form the one that no gradient trains is taken, which is the teacher, or the average, of
    the other. Where only a part of a network is called with images, as that which cuts them into patches, the module
    that it belongs to is taken, if it can be called with images.

    Args:
        observer: Has seen the step.
        root: The module whose step it was.
        args: What it was given; the batch first.
        observation: What was decided of the step.
    """
    calls = [call for call in observer.calls if call.module is not root and _weighs(call.module)]
    calls = [call for call in calls if len(call.pictures) == 1] or calls  # a module of both views is no network
    calls = [call for call in calls if not any(outer in calls for outer in call.within)]
    calls = calls or [call for call in observer.calls if _weighs(call.module)]
    if not calls:
        return None
    networks = {call.module: _whole(root, call.module, observer) for call in calls}
    call = next((call for call in calls if _is_teacher(networks[call.module], networks.values())), calls[0])
    network = networks[call.module]
    twin = next((other for other in networks.values() if other is not network and _alike(other, network)), None)
    images, name = _first_view(call)
    batch = dict(zip(names_of(args[0]), (tensor for _, tensor in named_tensors(args[0])), strict=True))
    shown = batch.get(name or "")
    unchanged = shown is not None and shown.dtype == images.dtype and torch.equal(shown, images)
    by = observer.losses[-1] if observer.losses else next((output.by for output in observation.outputs), "")
    return SeenFeatures(
        unmasked_of(network) or network,
        ProbeBatch(images.detach().clone(), regions=regions_in(args[0], images)),
        (Head(task=Embeddings(), by=by),),
        unchanged,
        _words(root, network, twin, call),
    )


def methods_of_features(methods: str | type | list[str | type]) -> list[str | type]:
    """Those of the methods that need no class.

    Raises:
        ValueError: All do.
    """
    if methods == DEFAULT:
        return list(FEATURES)
    names = [method.name for method in METHODS.values()] if methods == "all" else methods
    given = [names] if isinstance(names, str | type) else list(names)
    asking = [method.name for name in given for method in find_methods(name) if method.asks_score]
    kept = [name for name in given if not find_methods(name)[0].asks_score]
    if not kept:
        raise ValueError(
            f"methods: {', '.join(asking)} explain a class, and the step compares features of images with one another, "
            "which hold none; leave methods= out to see the features, or give forward=, the part that returns the "
            "embeddings, and score=, such as lightning_cam.scores.EmbeddingSimilarity(reference)"
        )
    if asking and methods != "all":
        _log.warning("methods: %s explain a class, and there is none; left out.", ", ".join(asking))
    return kept


def _words(root: nn.Module, network: nn.Module, twin: nn.Module | None, call: NetworkCall) -> str:
    words = []
    if twin is not None:
        name = _name(root, twin)
        words.append(
            f"No gradient trains it; `{name}`, of the same form, is given images too: forward={name!r} shows that one."
            if not _is_trained(network)
            else f"`{name}` is of the same form."
        )
    if network is not call.module:
        words.append(f"The step calls parts of it, such as `{_name(root, call.module)}`; the whole is called here.")
    if unmasked_of(network) is not None:
        words.append("Its encoder is shown on whole images, no patch masked.")
    return " ".join(words)


def _is_detached(origin: Origin) -> bool:
    """Whether nothing that an output is made of can be trained through it, but for what comes after `detach()`."""
    waiting, seen = [origin], {id(origin)}
    while waiting:
        one = waiting.pop()
        if one.operation in ("detach", "detach_"):
            continue
        if one.operation == "input":
            return False
        waiting += [parent for parent in one.parents if id(parent) not in seen]
        seen |= {id(parent) for parent in one.parents}
    return True


def _name(root: nn.Module, module: nn.Module) -> str:
    return next(name for name, part in root.named_modules() if part is module)


def _weighs(module: nn.Module) -> bool:
    return any(True for _ in module.parameters())


def _is_trained(module: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters())


def _alike(one: nn.Module, other: nn.Module) -> bool:
    forms = [
        [p.shape for p in module.parameters()] for module in (one, other)
    ]  # names differ in a wrapper for averages
    return forms[0] == forms[1]


def _is_teacher(network: nn.Module, networks: Any) -> bool:
    return not _is_trained(network) and any(_is_trained(other) and _alike(network, other) for other in networks)


def _whole(root: nn.Module, module: nn.Module, observer: StepObserver) -> nn.Module:
    """The module itself, or the outermost one around it that is not called as a whole and of which it is a stem."""
    name = _name(root, module)
    size = sum(parameter.numel() for parameter in module.parameters())
    whole = module
    while "." in name:
        name = name.rpartition(".")[0]
        around = root.get_submodule(name)
        if observer.times(around) or not takes_images(around):
            continue
        if size < _STEM * sum(parameter.numel() for parameter in around.parameters()):
            whole = around
    return whole


def _first_view(call: NetworkCall) -> tuple[Tensor, str | None]:
    """The images that a call was given, of several views joined those of the first; and the input that they are."""
    index = call.pictures[0]
    images = [tensor for _, tensor in named_tensors((call.args, call.kwargs))][index]
    origin = call.given[index]
    if origin is not None and origin.operation in _JOINS and len(origin.parents) > 1:
        origin = origin.parents[0]
        images = images[: origin.shape[0]]
    return images, next(iter(sorted(origin.inputs)), None) if origin is not None else None


def _views(observer: StepObserver) -> set[str]:
    """Names of the inputs that networks are given as images."""
    given: list[Origin | None] = [call.given[index] for call in observer.calls for index in call.pictures]
    return {name for origin in given if origin is not None for name in origin.inputs}
