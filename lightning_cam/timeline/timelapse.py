"""The whole training run as an animation."""

import io
import os
import time
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from lightning_cam.render import PartCaptions, captions_of, overlay_grid, to_colors
from lightning_cam.render.caption import draw_lines
from lightning_cam.render.planes import leading, of_planes, plane_words, spread
from lightning_cam.render.tile import text_on_background
from lightning_cam.timeline.arrays import MapsOf, decode_images, find_maps, read_images, read_parts, read_predictions
from lightning_cam.timeline.index import Index, evenly
from lightning_cam.timeline.pace import Pace, TooSlow
from lightning_cam.timeline.planes import Planes, taken_apart
from lightning_cam.timeline.reader import find_timeline
from lightning_cam.timeline.remote import is_remote

_FRAMES = 100  # more looks are thinned out evenly
_IMAGES = 16
_TILE = 148  # pixels of the longer side of an image
_CAPTION, _HEADING = 12, 17  # font sizes
_SECONDS = 12  # for the whole, of which the last look gets two


def write_timelapse(
    logdir: str | os.PathLike[str],
    path: str | os.PathLike[str] | None = None,
    *,
    method: str | None = None,
    file_format: Literal["webp", "gif"] = "webp",
    pace: Pace | None = None,
) -> Path:
    """Write how the maps of the probe images evolve as an animation.

    The maps of an image share one color scale over time, so it gets hotter as its evidence grows. The color shows the
    square root of the value on that scale, as in the filmstrip.

    Args:
        logdir: A record, or a directory with exactly one record in it or below.
        path: The file to write; by default `cam_timelapse` with the format's suffix, next to the record.
        method: The method whose maps are drawn; by default the first.
        file_format: WebP is a fraction of GIF's size and has all colors.
        pace: Limits the time, by drawing fewer looks; by default there is no limit.

    Returns:
        The file written.

    Raises:
        FileNotFoundError: There is no record.
        ValueError: There are several records, the record is damaged or holds no look, or `method` is not in it.
        TooSlow: `pace` has no time for it.
    """
    pace = pace or Pace()
    if is_remote(logdir) and path is None:
        raise ValueError(f"path: expected a file to write, because {logdir} is not on this machine")
    record = find_timeline(logdir)
    with record.open("rb") as file:
        index = Index(file, record, lambda more: pace.advance(more))
        if not len(index):
            raise ValueError(f"{record} contains no looks yet")
        maps = find_maps(index)
        method = next(iter(maps), None) if method is None else method
        if method is None or method not in maps:
            raise ValueError(f"method: {method!r} is not in {record}; available: {', '.join(maps)}")
        drawing = _Drawing(file, index, maps[method], method)
        wanted = evenly(len(index), _FRAMES).tolist()
        frames = _draw(drawing, wanted, file_format, pace)
    path = record.with_name(f"cam_timelapse.{file_format}") if path is None else Path(path)
    path.write_bytes(_encode(frames, file_format))
    if len(frames) < len(wanted):
        pace.note(f"{path} shows {len(frames)} looks, because {len(wanted)} take too long")
    return path


def _draw(drawing: "_Drawing", looks: list[int], file_format: str, pace: Pace) -> list[Image.Image]:
    """Draw the first and the newest look and then ever finer between, as long as there is time to encode them too."""
    frames = {t: drawing.frame(t) for t in {looks[0], looks[-1]}}
    started = time.monotonic()
    _encode(list(frames.values()), file_format)
    cost = (time.monotonic() - started) / len(frames)
    for n in sorted(range(len(looks)), key=lambda n: f"{n:032b}"[::-1]):
        if pace.left < 2 * cost * (len(frames) + 1):
            break
        if looks[n] not in frames:
            frames[looks[n]] = drawing.frame(looks[n])
    if pace.left <= 0:
        raise TooSlow("drawing it takes longer")
    return [frame for _, frame in sorted(frames.items())]


def _encode(frames: list[Image.Image], file_format: str) -> bytes:
    # at most half a second a look, so that a short training does not drag
    durations = [min(500, 1000 * _SECONDS // len(frames))] * len(frames)
    durations[-1] = 2000
    options: dict[str, Any] = {"quality": 40, "method": 2} if file_format == "webp" else {"optimize": True}
    buffer = io.BytesIO()
    frames[0].save(buffer, file_format, save_all=True, append_images=frames[1:], duration=durations, loop=0, **options)
    return buffer.getvalue()


class _Drawing:
    """Draws single looks of a record, and reads no others."""

    def __init__(self, file: BinaryIO, index: Index, maps: MapsOf, method: str) -> None:
        self._file, self._index, self._maps, self._method = file, index, maps, method
        probe, predicted = index.probe, read_predictions(index, file)
        images, _ = read_images(index, file)
        stored = decode_images(images[:_IMAGES], "RGB", index.path)
        pixels = torch.from_numpy(stored if probe.planes is None else taken_apart(stored, probe.planes))
        self._images = pixels.movedim(-1, -3) / 255
        labels = np.array(probe.labels, np.int64)[:_IMAGES]
        tops = predicted.top[:, :_IMAGES, 0]
        most = max(int(tops.max(initial=-1)), int(labels.max(initial=-1)), len(probe.class_names) - 1)
        values, texts = predicted.values[:, :_IMAGES], probe.texts[:_IMAGES] or None
        has_classes = bool(np.isnan(values).all())
        present = torch.from_numpy(labels[:, None] == np.arange(most + 1)) if (labels >= 0).any() else None
        predicts = not has_classes or bool((tops >= 0).any())
        self._captions = captions_of(
            probe.class_names, most + 1, texts, present, has_classes=has_classes and predicts, has_values=predicts
        )
        known = torch.from_numpy(labels) if present is not None else None
        self._labels = known if texts is None else torch.arange(len(labels))
        self._preds = torch.from_numpy(tops.astype(np.int64))
        self._probs = torch.from_numpy(predicted.top_probabilities[:, :_IMAGES, 0].copy() if has_classes else values)
        self._parts = read_parts(index, file)
        self._names, self._num_classes = probe.class_names, most + 1
        self._peaks = torch.from_numpy(maps.largest(file)[:_IMAGES]).clamp_min(1e-30)[:, None, None]
        self._chosen: Tensor | None = None  # planes of the maps, the same at all looks, so that these compare
        self._notes: list[str] = []
        if maps.planes and probe.planes is not None:
            self._choose(torch.from_numpy(maps.evidence(file)[-1, :_IMAGES]).nan_to_num(0), probe.planes)

    def _choose(self, evidence: Tensor, planes: Planes) -> None:
        """Take the planes that lead at the newest look, evidence (b, d)."""
        of_pictures = spread(evidence.shape[1], self._images.shape[1])
        chosen = leading(evidence[:, of_pictures], planes.kind)
        self._images, self._chosen = of_planes(self._images, chosen), of_pictures[chosen]
        if planes.kind != "frame":
            self._notes = [plane_words(planes.kind, planes.numbers[row[0]], 0) for row in chosen.tolist()]

    def frame(self, t: int) -> Image.Image:
        maps = torch.from_numpy(self._maps.read(self._file, np.array([t])))[0, :_IMAGES]
        captions, labels, predicted, peaks = self._captions, self._labels, None, self._peaks
        if self._chosen is not None:
            maps, peaks = of_planes(maps, self._chosen), peaks[..., None]
        if self._parts is not None:
            overlap, predicted = (torch.from_numpy(array[t, :_IMAGES]) for array in self._parts)
            captions = PartCaptions(self._names, self._num_classes, overlap)
            labels = torch.arange(len(overlap)).masked_fill(overlap.isnan(), -1)
        grid = overlay_grid(
            self._images,
            # Weak cells show, order stays.
            to_colors(maps) if self._chosen is None and maps.ndim == 4 else (maps.relu() / peaks).sqrt(),
            captions,
            preds=self._preds[t],
            probs=self._probs[t],
            labels=labels,
            predicted=predicted,
            notes=self._notes,
            tile=_TILE,
            font_size=_CAPTION,
        )
        epoch = self._index.epochs[t]
        moment = f"epoch {epoch}" if epoch >= 0 else "before training"
        heading = f"step {self._index.steps[t]:,} · {moment} · {self._method}"
        return Image.fromarray(_under_heading(grid, heading).permute(1, 2, 0).numpy())


def _under_heading(grid: Tensor, heading: str) -> Tensor:
    line = draw_lines([heading], _HEADING, grid.shape[2] - 16)[0]
    return torch.cat([text_on_background(F.pad(line, (8, 8, 4, 4))), grid], 1)
