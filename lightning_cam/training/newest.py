"""The newest scalars of a run, for checkpoints, early stopping and schedulers."""

from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor


class NewestScalars:
    """Keeps the newest value of each tag in `trainer.callback_metrics`, if that is asked for.

    Args:
        is_on: Whether it is. Only then can training depend on what was seen.
    """

    def __init__(self, *, is_on: bool) -> None:
        self.is_on = is_on
        self._scalars: dict[str, Tensor] = {}

    def add(self, trainer: Trainer, scalars: Mapping[str, Tensor]) -> None:
        """Take those of a look."""
        if self.is_on:
            self._scalars.update(scalars)
            self.put(trainer)

    def put(self, trainer: Trainer) -> None:
        """Put them in again: the trainer forgets them where it begins anew, and there is no look at each validation."""
        if self._scalars:
            trainer.callback_metrics.update(self._scalars)

    def others(self, metrics: Mapping[str, Any]) -> dict[str, Any]:
        """Metrics that are the user's own."""
        return {name: value for name, value in metrics.items() if name not in self._scalars}

    def values(self) -> dict[str, float]:
        """As numbers, for a checkpoint or another rank; the host waits for the device."""
        return {tag: float(value) for tag, value in self._scalars.items()}

    def take(self, values: Mapping[str, float], device: torch.device | str = "cpu") -> None:
        """Take what `values` gave."""
        if self.is_on:
            self._scalars = {tag: torch.tensor(value, device=device) for tag, value in values.items()}
