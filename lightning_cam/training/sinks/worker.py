"""The thread that draws, encodes and writes, so that training does not wait for it."""

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from queue import SimpleQueue
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from lightning_cam.training.class_means import ClassMeans
from lightning_cam.training.cohort import FoundLook
from lightning_cam.training.draw import draw
from lightning_cam.training.look import Look
from lightning_cam.training.run_info import RunInfo
from lightning_cam.training.sinks.base import Sink

_log = logging.getLogger(__name__)

_POLL = 0.002  # seconds


class SinkWorker:
    """Hands looks to sinks on a thread of its own, in order.

    At most `capacity` items wait, of which a look is one and the metrics of its validation are another. If the disk is
    slower than the looks, further ones are left out, and that is said: once when it begins, and their number at the
    end.

    Args:
        sinks: Where every look goes.
        run: What the sinks are told before the first look.
        capacity: How many items may wait.
    """

    def __init__(self, sinks: Sequence[Sink], run: RunInfo, capacity: int = 16) -> None:
        self._sinks = sinks
        # Handlers of signals may flush in the middle of a call here: this queue and counters have no lock to wait for.
        self._queue: SimpleQueue[tuple[Callable[[], None], torch.cuda.Event | None] | None] = SimpleQueue()
        self._capacity, self._submitted, self._done = capacity, 0, 0
        self._run_info, self._images_arrived = _to_host(run), _event(run.images.device)
        self._class_means = ClassMeans()
        self._error: Exception | None = None
        self._failed = False
        self._dropped = 0
        # Loaders' workers that are forked while the thread imports Pillow's plugins would wait for it for ever.
        Image.init()
        self._thread = threading.Thread(target=self._run, name="lightning_cam", daemon=True)
        self._thread.start()

    def submit(self, look: Look) -> None:
        """Copy a look to the host, without waiting for the device, and queue it.

        Raises:
            Exception: What a sink raised on an earlier look, once.
        """
        self._raise_error()
        device = next(iter(look.maps.values())).device
        here = _to_host(look)
        if self._put(lambda: self._write(here), _event(device)):
            return
        if not self._dropped:
            _log.warning("The logger cannot keep up with the looks: the one at step %d is not logged.", look.step)
        self._dropped += 1

    def submit_found(self, found: FoundLook) -> None:
        """Queue what was found of the cohort behind the look of its step; nothing is said if there is no place."""
        self._put(lambda: self._write_found(found), None)

    def add_metrics(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Copy metrics to the host, without waiting for the device, and queue them behind the look of their step.

        Nothing is said if there is no place for them: their look is there, or was said to be left out.

        Args:
            step: Step of the look.
            metrics: By name, tensors of one element; anything else is left out.
        """
        # The value of a tensor that is distributed would have to be asked of other ranks, which do not listen.
        plain = {name: value for name, value in metrics.items() if type(value) is Tensor and value.numel() == 1}
        if not plain:
            return
        device = next((value.device for value in plain.values() if value.is_cuda), torch.device("cpu"))
        # Copied also on the CPU: a metric may go on to count in the tensor that it gave out.
        here = {name: value.detach().to("cpu", non_blocking=True, copy=True) for name, value in plain.items()}
        self._put(lambda: self._add_metrics(step, here), _event(device))

    def flush(self) -> None:
        """Wait until all looks submitted so far are written.

        Raises:
            Exception: What a sink raised, if no other call has raised it before.
        """
        submitted = self._submitted
        while self._done < submitted and self._thread.is_alive():
            time.sleep(_POLL)
        self._raise_error()

    def close(self) -> None:
        """Write what waits, end the thread, close the sinks. More calls do nothing.

        Raises:
            Exception: What a sink raised, if no `submit` has raised it before.
        """
        if not self._thread.is_alive():
            return
        self._queue.put(None)
        self._thread.join()
        if self._dropped:
            _log.warning("%d looks were not logged, because the logger could not keep up.", self._dropped)
        self._raise_error()

    def _write(self, look: Look) -> None:
        drawn = draw(look, self._run_info)
        for sink in self._sinks:
            sink.write(drawn)

    def _write_found(self, found: FoundLook) -> None:
        picture = self._class_means.add(found)
        for sink in self._sinks:
            sink.write_found(found, picture)

    def _add_metrics(self, step: int, metrics: Mapping[str, Tensor]) -> None:
        values = {name: float(value) for name, value in metrics.items()}
        for sink in self._sinks:
            sink.add_metrics(step, values)

    def _open(self) -> None:
        for sink in self._sinks:
            sink.open(self._run_info)

    def _put(self, action: Callable[[], None], arrived: "torch.cuda.Event | None") -> bool:
        if self._queue.qsize() >= self._capacity:
            return False
        self._submitted += 1
        self._queue.put((action, arrived))
        return True

    def _run(self) -> None:
        try:
            self._unless_failed(self._open, self._images_arrived)
            for action, arrived in iter(self._queue.get, None):
                self._unless_failed(action, arrived)
                del action  # it holds a look, and the next one may be an epoch away
                self._done += 1
        finally:
            for sink in self._sinks:
                self._close_sink(sink)

    def _close_sink(self, sink: Sink) -> None:
        try:
            sink.close()
        except Exception as error:
            self._error = self._error or error

    def _unless_failed(self, action: Callable[[], None], arrived: "torch.cuda.Event | None") -> None:
        """After a failure only take looks from the queue: nobody must wait for a place in it."""
        if self._failed:
            return
        try:
            if arrived is not None:
                arrived.synchronize()
            action()
        except Exception as error:  # told to the training thread, which decides
            self._failed, self._error = True, error

    def _raise_error(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error


def _to_host(record: Any) -> Any:
    """The same dataclass with its tensors on the CPU; copies from a GPU are under way when this returns."""

    def moved(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: moved(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [moved(inner) for inner in value]
        if is_dataclass(value):
            return _to_host(value)
        return value.to("cpu", non_blocking=True) if isinstance(value, Tensor) else value

    return replace(record, **{field.name: moved(getattr(record, field.name)) for field in fields(record)})


def _event(device: torch.device) -> "torch.cuda.Event | None":
    """An event that the device reaches when all it has been told so far is done; None on the CPU."""
    if device.type != "cuda":
        return None
    event = torch.cuda.Event()
    event.record(torch.cuda.current_stream(device))
    return event
