"""How long a call takes, and how much memory at its peak, exactly, on a GPU or a CPU."""

import gc
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile


def seconds_of(call: Callable[[], object], device: torch.device) -> float:
    """Seconds until what `call` does is done, on the device, too.

    Example:
        >>> seconds_of(lambda: time.sleep(0.01), torch.device("cpu")) > 0.009
        True
    """
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    began = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


def peak_memory(call: Callable[[], object], device: torch.device) -> int:
    """Bytes of tensors that `call` takes at its peak, on top of what was taken before it.

    Counted is what torch's allocators give out. On a CPU these are the tensors of the calling thread and of its
    backward passes, not the scratch memory of matrix products, nor NumPy's arrays.

    Args:
        call: What to measure; run once.
        device: A CUDA device, or the CPU.

    Example:
        >>> peak_memory(lambda: torch.empty(1024, dtype=torch.uint8), torch.device("cpu"))
        1024
    """
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    return _peak(_memory_events(profiler))


def _memory_events(profiler: profile) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    return sorted((event for event in events if event["name"] == "[memory]"), key=lambda event: event["ts"])


def _peak(events: list[dict[str, Any]]) -> int:
    taken: dict[int, int] = {}
    total = peak = 0
    for event in events:
        size, address = event["args"]["Bytes"], event["args"]["Addr"]
        if size > 0:
            taken[address] = size
            total += size
            peak = max(peak, total)
        else:  # what was taken before the call does not count, and neither does its end
            total -= taken.pop(address, 0)
    return peak
