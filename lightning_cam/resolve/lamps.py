"""Patterns over an intermediate map, for maps so deep in a network that patterns over the image do not reach them."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from lightning_cam.resolve.layout import TokenLayout
from lightning_cam.resolve.patterns import PatternResponses
from lightning_cam.resolve.watch import Call, Trace

_LAMPS = 24  # layers on the way that are watched
_HOPS = 6
_NEAR = 0.7  # least correlation of each hop


def reached_by_lamps(forward: Callable[[Tensor], Any], images: Tensor, trace: Trace, call: Call) -> TokenLayout | None:
    """The layout NCHW of a map's size, if light comes through to it from map to map, rows and columns in place.

    From the image the maps on the way are lit that patterns reach; from the last of them those further on, until the
    layer itself is reached. Each hop is measured as in `PatternResponses`, 5 forwards.

    Args:
        forward: What to call.
        images: (2, C, H, W).
        trace: What one forward showed.
        call: The layer, whose output is (2, C, h, w).
    """
    way = [one for one in trace.last_calls().values() if one.end < call.end and one is not call and _is_map(one, trace)]
    way = sorted(way, key=lambda one: one.end)
    way = [*way[:: max(1, len(way) // _LAMPS)], call]
    lamp: Call | None = None
    for _ in range(_HOPS):
        ahead = [one for one in way if lamp is None or one.end > lamp.end]
        layers: list[tuple[nn.Module, int]] = [(one.module, 1) for one in ahead]
        source = None if lamp is None else lamp.module
        light = PatternResponses(forward, images, layers, attention=False, source=source)
        lit = [one for index, one in enumerate(ahead) if light.score(index, _map_of(one), coarse=True) >= _NEAR]
        if call in lit:
            return _map_of(call)
        if not lit:
            return None
        lamp = lit[-1]
    return None


def _is_map(call: Call, trace: Trace) -> bool:
    output = call.output
    return call.is_layer and output is not None and output.ndim == 4 and tuple(output.shape[2:]) in trace.maps


def _map_of(call: Call) -> TokenLayout:
    assert call.output is not None
    return TokenLayout("NCHW", (call.output.shape[2], call.output.shape[3]))
