"""What a checkpoint keeps of the looks of a run, and what of that fits the run that resumes from it."""

import logging
from dataclasses import dataclass, field
from typing import Any

from lightning_cam.training.history import History
from lightning_cam.training.probe import ProbeBatch
from lightning_cam.training.settings import Settings

_log = logging.getLogger(__name__)

ANEW = "This run resumes from a checkpoint but uses a new probe"
_MAX_BYTES = 64 * 2**20  # what probe and history may add to a checkpoint


@dataclass
class Saved:
    """What goes on where a run is resumed.

    Args:
        probe: The fixed images.
        histories: The looks so far, by head.
        metrics: The newest scalars by tag, where they are for `trainer.callback_metrics`.
    """

    probe: ProbeBatch
    histories: dict[str, History]
    metrics: dict[str, float] = field(default_factory=dict)

    def state_dict(self, settings: Settings) -> dict[str, Any] | None:
        """Tensors on the CPU, texts and numbers, in plain containers; None if they are too large."""
        if self.num_bytes > _MAX_BYTES:
            return None
        histories = {name: history.state_dict() for name, history in self.histories.items()}
        state = {"probe": self.probe.state_dict(), "histories": histories, "asked_for": _asked_for(settings)}
        return {**state, "metrics": self.metrics} if self.metrics else state

    @property
    def num_bytes(self) -> int:
        """Size of the tensors."""
        return self.probe.num_bytes + sum(history.num_bytes for history in self.histories.values())

    def say_too_large(self) -> None:
        """Say that it is not saved."""
        _log.warning(
            "The probe and history of %.0f MiB are not saved in checkpoints (at most %.0f MiB); a resumed run will "
            "use a new probe.",
            self.num_bytes / 2**20,
            _MAX_BYTES / 2**20,
        )

    @classmethod
    def of(cls, state: Any, settings: Settings) -> "Saved | None":
        """Take what `state_dict` gave; None, and that is said, if it cannot be read or was asked for otherwise."""
        try:
            probe, asked_for = ProbeBatch.from_state(state["probe"]), state.get("asked_for", _asked_for(settings))
            histories = {name: History() for name in state["histories"]}
            for name, history in histories.items():
                history.load_state_dict(state["histories"][name])
            metrics = {str(tag): float(value) for tag, value in state.get("metrics", {}).items()}
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
            _log.warning("%s: the state of this callback cannot be read (%r).", ANEW, error)
            return None
        if asked_for != _asked_for(settings):
            _log.warning("%s: it was saved with other values of probe= or num_samples=, %s.", ANEW, asked_for)
            return None
        return cls(probe, histories, metrics)


def _asked_for(settings: Settings) -> dict[str, Any]:
    """What decides which images are the probe."""
    probe = settings.probe
    words = probe if probe is None or isinstance(probe, str) else str(probe) if _are_indices(probe) else "a batch"
    return {"probe": words, "num_samples": settings.num_samples, **({"on": "train"} if settings.on == "train" else {})}


def _are_indices(probe: Any) -> bool:
    return isinstance(probe, (list, tuple)) and all(isinstance(index, int) for index in probe)
