"""Time limits for reports and timelapses, and the messages about them."""

import logging
import time
from types import TracebackType

from tqdm import tqdm

_log = logging.getLogger(__name__)


class TooSlow(Exception):
    """What was to be made is left out: there is no time for it."""


class Pace:
    """Keeps a time limit, shows how far it is, and collects what has to be said.

    As a context it says at its end in one warning what was left out.

    Args:
        seconds: The limit; None for none.
        bar: Show a progress bar on a terminal, where it takes long.
    """

    def __init__(self, seconds: float | None = None, *, bar: bool = False) -> None:
        self._end = None if seconds is None else time.monotonic() + seconds
        self._bar = bar
        self._shown: tqdm | None = None
        self._notes: list[str] = []

    def begin(self, num_bytes: int, what: str) -> None:
        """Say how much there is to read."""
        if self._bar:
            self._shown = tqdm(
                total=num_bytes, desc=what, unit="B", unit_scale=True, delay=1, leave=False, disable=None
            )

    def advance(self, num_bytes: int) -> None:
        """Say how much more was read.

        Raises:
            TooSlow: The time is over.
        """
        if self._shown is not None:
            self._shown.update(num_bytes)
        if self.left <= 0:
            raise TooSlow("reading the record takes longer")

    @property
    def left(self) -> float:
        """How many seconds are left, infinity without a limit."""
        return float("inf") if self._end is None else self._end - time.monotonic()

    def note(self, text: str) -> None:
        """Have something said at the end."""
        self._notes.append(text)

    def __enter__(self) -> "Pace":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._shown is not None:
            self._shown.close()
        if self._notes:
            _log.warning("%s.", "; ".join(self._notes))
