"""Warns once about each fault of maps: blank, not finite, the same for all classes, frozen, not adding up."""

import logging
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from lightning_cam.methods.defaults import BLANK, LAST_BLOCK, LEADING, OF_FEATURES, is_conserved, not_adding_up
from lightning_cam.training.checks import CONTROL, FEW
from lightning_cam.training.look import Look
from lightning_cam.training.sinks.base import RunInfo, Sink

_log = logging.getLogger(__name__)

_SAME_LOOKS = 4  # so many equal looks in a row are frozen
_MANY = 0.5  # of the images; one in ten of those on which nothing is odd is marked too
_SAME_CLASS = 0.9999  # cosine; rounding leaves 1 - 1e-6, the maps of two classes that nearly agree differ by more

_WORDS = {
    "not finite": "the maps of {methods} are not finite for {count} of {total} images at step {step}: the forward pass "
    "or its gradient overflows. Check the weights and the images for NaN, or use precision='bf16-mixed' or '32-true' "
    "instead of 16-mixed or 16-true.",
    "blank": "the maps of {methods} are blank for all images at step {step}: " + BLANK,
    "nothing": "the maps of {methods}, which follow the score through the whole depth, are blank for all images at "
    "step {step}: no positive evidence for the class in the images. Before training this is expected; after training, "
    "check that the head's weights are not all zero.",
    "alike": "the features that {methods} shows are the same everywhere at step {step}: the network has collapsed. "
    "Check that no view is compared with itself, the centering and momentum of the teacher, and the learning rate.",
    "sum": "at step {step}: {why} Compare them with another method, such as 'gae' or 'occlusion'.",
    "unseen": "for {count} of {total} images at step {step} the last block no longer sees the evidence in its place: "
    "the maps of {methods} differ there from those of " + repr(LEADING) + ", which follow the score through the whole "
    "depth. Rely on " + repr(LEADING) + " for these images.",
    "collapse": "attention has collapsed in {methods} at step {step}: each token attends to hardly more than one, "
    "so tokens barely mix and the attention scores get no gradient. A lower learning rate, a longer warm-up or "
    "normalized queries and keys prevent it.",
    "takes over": "one patch gets more than half of all attention in {methods} at step {step}, whatever the query: "
    "maps based on attention show that patch, not evidence for a class. Registers (reg_tokens= in timm) prevent it.",
    "outlier": "a few patches have many times the usual norm in {methods} at step {step}: the model stores global "
    "information in them. Do not read them as evidence; registers (reg_tokens= in timm) prevent it.",
    "chance": "the maps of {methods} are no better than random maps at step {step}: blurring what they highlight costs "
    "the class no more than blurring random patches, on {count} images. Compare them with 'occlusion'.",
    "class": "the maps of {methods} are the same for another class at step {step}: they show what is salient to the "
    "model, not evidence for a class. Choose a class-specific method, such as 'hirescam'; if the method already is "
    "one, the head does not distinguish the classes.",
    "frozen": f"the maps of {{methods}} have not changed over {_SAME_LOOKS} looks, up to step {{step}}: what they "
    "depend on is not trained. Check that the learning rate is not zero and the weights up to the target layer are not "
    "frozen; if they are frozen on purpose, give later target_layers=, or a class-specific method.",
}


# Fault, the number of each attention, and when it is odd.
_OF_BLOCKS: list[tuple[str, str, Callable[[float], bool]]] = [
    ("collapse", "attention_entropy", lambda value: value < 0.05),
    ("takes over", "attention_largest_share", lambda value: value > 0.5),
    ("outlier", "outlier_token_norm", lambda value: value > 10),
]


class Health(Sink):
    """A sink that writes nothing but warnings; it runs where looks have arrived on the host, so that none waits.

    Each fault is reported once per method. The `random` control may be blank, frozen and the same for all classes.
    """

    def __init__(self) -> None:
        self._name = "cam"
        self._said: set[tuple[str, str]] = set()
        self._last: dict[str, Tensor] = {}
        self._equal: dict[str, int] = {}

    def open(self, run: RunInfo) -> None:
        """Take the name that warnings begin with."""
        self._name = run.name

    def write(self, look: Look) -> None:
        """Warn of what is wrong with the maps of this look."""
        for fault, metric, is_odd in _OF_BLOCKS:
            odd = [index for index, value in enumerate(look.blocks.get(metric, ())) if is_odd(float(value))]
            if odd and (fault, "") not in self._said:
                self._say(fault, [f"attention {', '.join(map(str, odd))}"], look)
                self._said.add((fault, ""))
        maps = {method: relevance for method, relevance in look.maps.items() if method != CONTROL}
        broken = {method: int((~_finite(relevance)).sum()) for method, relevance in maps.items()}
        faulty = {method for method, count in broken.items() if count}
        self._say(
            "not finite",
            faulty,
            look,
            count=max(broken.values(), default=0),
            total=max(map(len, maps.values()), default=0),
        )
        blank = {method for method, relevance in maps.items() if method not in faulty and _is_blank(relevance)}
        self._say("alike", {method for method in blank & OF_FEATURES if _is_flat(maps[method])}, look)
        self._say("blank", blank - look.conservation.keys() - OF_FEATURES, look)
        self._say("nothing", blank & look.conservation.keys(), look)
        sound = maps.keys() - faulty - blank
        if look.unknown:
            lost = {m for m in sound & look.conservation.keys() if not is_conserved(look.conservation[m])}
            self._say("sum", lost, look, why=not_adding_up(sorted(lost), look.unknown))
        self._say("chance", {m for m in sound & look.gain_over_chance.keys() if _is_chance(look, m)}, look, count=FEW)
        if look.unseen is not None and LAST_BLOCK in sound and look.unseen.float().mean() > _MANY:
            self._say("unseen", {LAST_BLOCK}, look, count=int(look.unseen.sum()), total=len(look.unseen))
        self._say(
            "class", {m for m in sound & look.class_similarity.keys() if _is_blind(look.class_similarity[m])}, look
        )
        for method in sound:
            same = method in self._last and _unchanged(self._last[method], maps[method])
            self._equal[method] = self._equal.get(method, 0) + 1 if same else 1
        self._last = maps
        self._say("frozen", {method for method in sound if self._equal[method] >= _SAME_LOOKS}, look)

    def _say(self, fault: str, methods: Iterable[str], look: Look, **numbers: Any) -> None:
        new = sorted(method for method in methods if (fault, method) not in self._said)
        self._said.update((fault, method) for method in new)
        if new:
            words = _WORDS[fault].format(methods=", ".join(new), step=look.step, **numbers)
            _log.warning("%s: %s", self._name, words)


def _is_chance(look: Look, method: str) -> bool:
    """No gain over chance, on images of which the model is sure; of others there is nothing to tell."""
    gain = look.gain_over_chance[method]
    sure = look.sure
    few = gain if sure is None else gain[sure[: len(gain)]]
    return len(few) > 0 and float(few.nanmean()) <= 0


def _finite(maps: Tensor) -> Tensor:
    return maps.flatten(1).isfinite().all(1)


def _is_blank(maps: Tensor) -> bool:
    """Nothing to be seen on any image: no positive relevance, or the same everywhere."""
    cells = maps.flatten(1)
    return bool(((cells.amax(1) <= 0) | (cells.amax(1) == cells.amin(1))).all())


def _is_flat(maps: Tensor) -> bool:
    """One value in all cells of each image; a similarity may be negative everywhere."""
    cells = maps.flatten(1)
    return bool((cells.amax(1) == cells.amin(1)).all())


def _is_blind(similarity: Tensor) -> bool:
    """The same map for another class, on every image that has one."""
    return bool((similarity.nan_to_num(1) > _SAME_CLASS).all())


def _unchanged(before: Tensor, after: Tensor) -> bool:
    """Up to the rounding of a device that does not add in a fixed order."""
    return before.shape == after.shape and torch.allclose(
        after, before, rtol=1e-5, atol=1e-6 * float(after.abs().max())
    )
