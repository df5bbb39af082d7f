"""The looks so far, as needed for the filmstrip and the comparison with earlier ones."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass
class History:
    """Maps over time; the first and the newest look are always there, those between are thinned evenly.

    Args:
        limit: How many looks are kept at most.
        steps: Steps of the kept looks, rising.
        epochs: Their epochs.
        maps: For each method (T, B, h, w) float32, raw signed relevance.
        preds: (T, B) int64, predicted classes; None before the first look.
        probs: (T, B) float32, their probabilities; None before the first look.
        outlined: (T, b, h, w) bool, where parts of the first images were predicted; None where there are no parts.
    """

    limit: int = 6
    steps: list[int] = field(default_factory=list)
    epochs: list[int] = field(default_factory=list)
    maps: dict[str, Tensor] = field(default_factory=dict)
    preds: Tensor | None = None
    probs: Tensor | None = None
    outlined: Tensor | None = None

    def append(
        self,
        step: int,
        epoch: int,
        maps: dict[str, Tensor],
        preds: Tensor,
        probs: Tensor,
        outlined: Tensor | None = None,
    ) -> None:
        """Add a look: `maps` (B, h, w) per method, `preds` and `probs` (B,), `outlined` (b, h, w).

        A history of other maps begins anew; a look at the step of the newest one takes its place.
        """
        if {name: past.shape[1:] for name, past in self.maps.items()} != {name: m.shape for name, m in maps.items()}:
            self.clear()
        if self.steps and self.steps[-1] == step:
            self._drop_newest()
        self.steps.append(step)
        self.epochs.append(epoch)
        kept = thin(self.steps, self.limit)

        def extended(past: Tensor | None, new: Tensor) -> Tensor:
            looks = [new] if past is None else [*past.to(new.device), new]
            return torch.stack([looks[index] for index in kept])

        self.maps = {name: extended(self.maps.get(name), new) for name, new in maps.items()}
        self.preds, self.probs = extended(self.preds, preds), extended(self.probs, probs)
        if outlined is not None:
            fits = self.outlined is not None and self.outlined.shape[1:] == outlined.shape
            # None of earlier looks is known where they are those of a record without any.
            past = self.outlined if fits else outlined.new_zeros(len(self.steps) - 1, *outlined.shape)
            self.outlined = extended(past, outlined)
        self.steps = [self.steps[index] for index in kept]
        self.epochs = [self.epochs[index] for index in kept]

    def clear(self) -> None:
        """Forget all looks."""
        self.steps, self.epochs, self.maps, self.preds, self.probs = [], [], {}, None, None
        self.outlined = None

    def _drop_newest(self) -> None:
        if len(self.steps) == 1 or self.preds is None or self.probs is None:
            self.clear()
            return
        del self.steps[-1], self.epochs[-1]
        self.maps = {name: maps[:-1] for name, maps in self.maps.items()}
        self.preds, self.probs = self.preds[:-1], self.probs[:-1]
        self.outlined = None if self.outlined is None else self.outlined[:-1]

    @property
    def num_bytes(self) -> int:
        """Size of the tensors."""
        return sum(maps.nbytes for maps in self.maps.values())

    def state_dict(self) -> dict[str, Any]:
        """Return the looks as lists and tensors on the CPU."""
        return {
            "steps": list(self.steps),
            "epochs": list(self.epochs),
            "maps": {name: maps.cpu() for name, maps in self.maps.items()},
            "preds": None if self.preds is None else self.preds.cpu(),
            "probs": None if self.probs is None else self.probs.cpu(),
            "outlined": None if self.outlined is None else self.outlined.cpu(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the looks of `state_dict`.

        Raises:
            ValueError, TypeError, KeyError, AttributeError: That is no state of a history.
        """
        steps, epochs = [int(step) for step in state["steps"]], [int(epoch) for epoch in state["epochs"]]
        maps, preds, probs = dict(state["maps"]), state["preds"], state["probs"]
        outlined = state.get("outlined")
        looks = {(len(steps), *looked.shape[1:2]) for looked in maps.values()}
        shapes = {(*looked.shape[:2],) for looked in (*maps.values(), *(() if preds is None else (preds, probs)))}
        if outlined is not None and (outlined.ndim != 4 or len(outlined) != len(steps)):
            raise ValueError(f"history: {len(steps)} looks do not match outlines of {tuple(outlined.shape)}")
        if shapes != looks or len(epochs) != len(steps) or bool(steps) != bool(maps) or sorted(set(steps)) != steps:
            raise ValueError(f"history: {len(steps)} looks do not match arrays of {sorted(shapes)} looks and images")
        self.steps, self.epochs, self.maps, self.preds, self.probs = steps, epochs, maps, preds, probs
        self.outlined = outlined


def thin(steps: Sequence[int], limit: int) -> list[int]:
    """Choose which looks to keep as the history grows: the first, the newest, and evenly spaced ones between.

    What was dropped once does not come back, so dropping may be real: thinning all steps, or those kept so far
    and the newest, keeps the same ones.

    Args:
        steps: Increasing steps, epochs or indices of the looks.
        limit: How many to keep, at least 2.

    Returns:
        Positions in `steps` to keep, increasing.

    Raises:
        ValueError: `limit` is below 2.

    Example:
        >>> thin([0, 1, 2, 3, 4, 5, 6, 7, 8], 5)
        [0, 2, 4, 6, 8]
    """
    if limit < 2:
        raise ValueError(f"limit: expected at least 2, for the first and the newest look, got {limit}")
    kept: list[int] = []
    for newest in range(len(steps)):
        kept.append(newest)
        if len(kept) > limit:
            # The look whose neighbors lie closest together is missed least.
            spans = [steps[after] - steps[before] for before, after in zip(kept, kept[2:], strict=False)]
            del kept[1 + spans.index(min(spans))]
    return kept
