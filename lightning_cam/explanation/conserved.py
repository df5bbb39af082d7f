"""What happens when the leading method loses relevance: the next best one is used."""

import logging
from collections.abc import Callable
from dataclasses import replace

from lightning_cam.explanation.explained import Explanation
from lightning_cam.methods import DoesNotApply
from lightning_cam.methods.defaults import LEADING, NEXT_BEST, is_conserved, not_adding_up

_log = logging.getLogger(__name__)


def adds_up(explanation: Explanation, method: str = LEADING) -> bool:
    """Whether a method loses no relevance in operations that its rules do not cover.

    Waits for the device if there are such. Without, relevance need not add up either: that of an untrained model goes
    to biases and position embeddings.
    """
    return not explanation.unknown or is_conserved(explanation.conservation[method])


def with_next_best(explanation: Explanation, explain_by: Callable[[str], Explanation]) -> Explanation:
    """The explanation with the next best method instead of the leading one, or without it, and a warning.

    Args:
        explanation: Whose leading method does not add up.
        explain_by: Explains the same by a method.
    """
    others = {name: maps for name, maps in explanation.layer_maps.items() if name != LEADING}
    try:
        others = {**explain_by(NEXT_BEST).layer_maps, **others}
    except DoesNotApply as error:
        _log.info("%s", error)
    _log.warning("%s %s is used instead.", not_adding_up([LEADING], explanation.unknown), next(iter(others)))
    return replace(explanation, layer_maps=others, conservation={}, unknown=frozenset(), block_maps={})
