"""The time budget of looks at the cohort: a tenth of the validation's own time, from the first one on."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from lightning_cam.training.collect import balanced

BUDGET = 0.1  # of the validation's own time
MOST_IMAGES = 1024
PER_CLASS = 8
_LEAST_PER_CLASS = 4  # with fewer nothing can be said of a class
_LEAST = 16  # images, of which anything can be said
_VALIDATIONS = 4  # whose tenths pay for one look, where one tenth pays for too few images


class Allowance:
    """A time budget that is saved up and spent on the cohort, never in advance.

    Args:
        is_bounded: Whether looks are limited by the budget. They are not if the user gave the number of images.

    Example:
        >>> allowance = Allowance(is_bounded=True)
        >>> allowance.pays_for(0.5)
        False
        >>> allowance.earn(10.0), allowance.pays_for(0.5), allowance.pays_for(1.5)
        (None, True, False)
    """

    def __init__(self, *, is_bounded: bool) -> None:
        self.is_bounded = is_bounded
        self._saved = 0.0
        self._since: float | None = None  # when what goes on has begun

    def earn(self, seconds: float) -> None:
        """Add to the budget for a validation that took this long."""
        self._saved += BUDGET * seconds

    @contextmanager
    def spending(self) -> Iterator[None]:
        """Charge the time of the body to the budget."""
        self._since = time.perf_counter()
        try:
            yield
        finally:
            self._saved -= time.perf_counter() - self._since
            self._since = None

    def pays_for(self, seconds: float) -> bool:
        """Whether the budget covers something that takes this long."""
        spent = 0.0 if self._since is None else time.perf_counter() - self._since
        return not self.is_bounded or self._saved - spent >= seconds


def chosen(keys: list[int], paid_for: float) -> list[int]:
    """Which images form the cohort, if a tenth of one validation pays for this many.

    At least eight of each class, if four validations pay for them, else as many as these pay for. Where that is less
    than four of each class, images of some classes are taken, spread evenly over their numbers, and none of others:
    of single images nothing could be said.

    Args:
        keys: The class of each image.
        paid_for: How many a tenth of a validation pays for.

    Example:
        >>> keys = [0, 1] * 100
        >>> len(chosen(keys, 50)), len(chosen(keys, 12)), len(chosen(keys, 1))
        (50, 16, 16)
        >>> keys = list(range(100)) * 10
        >>> sorted({keys[row] for row in chosen(keys, 10)})
        [0, 11, 22, 33, 44, 55, 66, 77, 88, 99]
    """
    classes = sorted(set(keys))
    least = max(_LEAST, min(PER_CLASS * len(classes), int(_VALIDATIONS * paid_for)))
    count = min(len(keys), MOST_IMAGES, max(int(paid_for), least))
    if count < _LEAST_PER_CLASS * len(classes):
        number = max(2, count // _LEAST_PER_CLASS)
        kept = {classes[k * (len(classes) - 1) // (number - 1)] for k in range(number)}
        rows = [row for row, key in enumerate(keys) if key in kept]
        return [rows[k] for k in balanced([keys[row] for row in rows], count)]
    return balanced(keys, count)
