"""Delay signals that arrive while a model is changed until it is restored."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

_Came = tuple[int, Any]  # number and frame, as a handler is given them
_waiting: list[list[_Came]] = []  # of the outermost body that runs; none is empty


@contextmanager
def signals_deferred() -> Iterator[None]:
    """Let the handlers of signals wait until the body is done; a second Ctrl-C does not wait.

    Lightning's handler on SLURM saves a checkpoint wherever the training just stands, and Ctrl-C would leave the model
    in the middle of a change. What a handler raises is raised at the end of the body. Bodies within others wait for the
    outermost one.

    Example:
        >>> import os, signal
        >>> before = signal.signal(signal.SIGTERM, lambda *args: print("handled"))
        >>> with signals_deferred():
        ...     os.kill(os.getpid(), signal.SIGTERM)
        ...     print("body")
        body
        handled
        >>> _ = signal.signal(signal.SIGTERM, before)
    """
    if _waiting or threading.current_thread() is not threading.main_thread():  # no handler runs in other threads
        yield
        return
    found = {int(number): signal.getsignal(number) for number in signal.valid_signals()}
    handlers: dict[int, Callable[..., Any]] = {n: handler for n, handler in found.items() if callable(handler)}
    came: list[_Came] = []

    def wait(number: int, frame: Any) -> None:
        if handlers[number] is signal.default_int_handler and any(number == earlier for earlier, _ in came):
            came.clear()
            raise KeyboardInterrupt  # whoever presses it twice does not want to wait
        came.append((number, frame))

    def run_handlers() -> None:
        _waiting.clear()
        with ExitStack() as stack:  # which goes on with the others if one raises
            for number, frame in reversed(came):
                stack.callback(handlers[number], number, frame)

    with ExitStack() as stack:
        stack.callback(run_handlers)
        for number, handler in handlers.items():
            stack.callback(signal.signal, number, handler)
            signal.signal(number, wait)
        _waiting.append(came)
        yield


def stop_if_interrupted() -> None:
    """Raise the Ctrl-C that waits, at a place where the model can be left: what was changed is put back on the way."""
    for came in _waiting:
        if any(number == signal.SIGINT for number, _ in came) and threading.current_thread() is threading.main_thread():
            came[:] = [(number, frame) for number, frame in came if number != signal.SIGINT]
            raise KeyboardInterrupt
