"""Signals that come in a look wait until it is over."""

import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

_CTRL_C = signal.default_int_handler


@contextmanager
def signals_deferred() -> Iterator[None]:
    """Let handlers of signals wait until the body is done, but for Python's own of Ctrl-C.

    Lightning's on SLURM saves a checkpoint wherever the training just stands. What a handler raises is raised at the
    end of the body.
    """
    if threading.current_thread() is not threading.main_thread():  # no handler runs in others
        yield
        return
    found = {int(number): signal.getsignal(number) for number in signal.valid_signals()}
    handlers = {n: handler for n, handler in found.items() if callable(handler) and handler is not _CTRL_C}
    came: list[tuple[int, Any]] = []

    def replay() -> None:
        with ExitStack() as stack:
            for number, frame in reversed(came):
                stack.callback(handlers[number], number, frame)

    with ExitStack() as stack:  # which goes on with the others if one raises
        stack.callback(replay)
        for number, handler in handlers.items():
            stack.callback(signal.signal, number, handler)
            signal.signal(number, lambda *signalled: came.append(signalled))
        yield
