"""Collects images while a validation run passes: spread over classes, the same ones in every run."""

import logging
from collections import Counter

from lightning_cam.training.probe import ProbeBatch

_log = logging.getLogger(__name__)


class Collector:
    """Keeps up to a number of images of the batches that pass, as many of each class as there can be.

    An image comes in while there is room, and after that in place of the last image of the class that has the most, if
    that has at least two more than its own. So what is kept depends on the data alone, and once it is balanced and
    every class is there, no later batch changes it.

    Args:
        num_samples: How many images at most.
        device: Where they are kept; by default where they are.

    Example:
        >>> import torch
        >>> collector = Collector(4)
        >>> for label in (0, 0, 0, 0, 1, 1, 1):
        ...     collector.add(ProbeBatch(torch.zeros(1, 3, 2, 2)), [label])
        >>> collector.keys, collector.is_settled(num_classes=2)
        ([0, 0, 1, 1], True)
    """

    def __init__(self, num_samples: int, device: str | None = None) -> None:
        self._num_samples, self._device = num_samples, device
        self._rows: list[ProbeBatch] = []  # one image each: many would be copied again with each batch
        self._joined: ProbeBatch | None = None
        self._seen = 0
        self.keys: list[int] = []  # class of each image; all the same where there are none
        self.places: list[int] = []  # which of all images seen each is

    @property
    def probe(self) -> ProbeBatch | None:
        """What is kept so far."""
        if self._joined is None and self._rows:
            self._joined = self._rows[0].joined(*self._rows[1:])
        return self._joined

    def add(self, rows: ProbeBatch, keys: list[int]) -> None:
        """See a batch.

        Args:
            rows: Of all its images.
            keys: The class of each.
        """
        kept = list(range(len(self.keys)))  # of both together
        all_keys = [*self.keys, *keys]
        places = [*self.places, *range(self._seen, self._seen + len(keys))]
        self._seen += len(keys)
        count = Counter(self.keys)
        for new in range(len(self.keys), len(all_keys)):
            key = all_keys[new]
            if len(kept) == self._num_samples:
                largest, most = count.most_common(1)[0]
                if most < count[key] + 2:
                    continue
                kept.remove(max(row for row in kept if all_keys[row] == largest))
                count[largest] -= 1
            kept.append(new)
            count[key] += 1
        if kept == list(range(len(self.keys))):
            return
        old = len(self.keys)
        fresh = [_on(rows.take([row - old]), self._device) for row in kept if row >= old]
        if self._rows:
            try:
                self._rows[0].joined(fresh[0])
            except ValueError as error:
                _log.debug("A batch is skipped: %s", error)
                return
        self._rows, self._joined = [self._rows[row] for row in kept if row < old] + fresh, None
        self.keys, self.places = [all_keys[row] for row in kept], [places[row] for row in kept]

    def is_settled(self, num_classes: int | None) -> bool:
        """Whether no later batch can change what is kept.

        Args:
            num_classes: How many there are, or None if images have none.
        """
        if len(self.keys) < self._num_samples:
            return False
        counts = Counter(self.keys).values()
        if num_classes is None or max(counts) == 1:
            return True
        return len(counts) >= num_classes and max(counts) - min(counts) <= 1


def balanced(keys: list[int], count: int) -> list[int]:
    """Which `count` of the images to keep, spread over classes as evenly as there can be, in their order.

    Example:
        >>> balanced([0, 0, 0, 1, 2, 2], 4)
        [0, 1, 3, 4]
    """
    seen: Counter[int] = Counter()
    turns = []
    for key in keys:
        turns.append(seen[key])
        seen[key] += 1
    return sorted(sorted(range(len(keys)), key=lambda row: turns[row])[:count])


def _on(row: ProbeBatch, device: str | None) -> ProbeBatch:
    return row if device is None else row.to(device)
