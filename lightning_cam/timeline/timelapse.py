"""The whole training as one animated picture."""

import os
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from lightning_cam.render import Captions, overlay_grid, scale_common
from lightning_cam.render.caption import draw_lines
from lightning_cam.render.tile import text_on_background
from lightning_cam.timeline import Timeline, read_timeline

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
) -> Path:
    """Write how the maps of the probe images evolve as an animated picture.

    The maps of an image share one scale over time, so that it grows hotter as its evidence grows. Drawn is the square
    root of the value on that scale, as in the filmstrip.

    Args:
        logdir: A record, or a directory with exactly one record in it or below.
        path: The file to write; by default `cam_timelapse` with the format's suffix, next to the record.
        method: Whose maps; by default the first.
        file_format: WebP is a fraction of GIF's size and has all colors.

    Returns:
        The file written.

    Raises:
        FileNotFoundError: There is no record.
        ValueError: There are several records, the record holds no look, or `method` is not in it.
    """
    timeline = read_timeline(logdir)
    if not len(timeline.steps):
        raise ValueError(f"{timeline.path} holds no look yet")
    method = next(iter(timeline.maps)) if method is None else method
    if method not in timeline.maps:
        raise ValueError(f"method: {method!r} is not in {timeline.path}, there are {', '.join(timeline.maps)}")
    path = timeline.path.with_name(f"cam_timelapse.{file_format}") if path is None else Path(path)
    frames = _frames(timeline, method)
    # at most half a second a look, so that a short training does not drag
    durations = [min(500, 1000 * _SECONDS // len(frames))] * len(frames)
    durations[-1] = 2000
    options = {"quality": 40, "method": 2} if file_format == "webp" else {"optimize": True}
    frames[0].save(path, file_format, save_all=True, append_images=frames[1:], duration=durations, loop=0, **options)
    return path


def _frames(timeline: Timeline, method: str) -> list[Image.Image]:
    display_images = torch.from_numpy(timeline.images[:_IMAGES].copy()).permute(0, 3, 1, 2) / 255
    heat = scale_common(torch.from_numpy(timeline.maps[method][:, :_IMAGES])).sqrt()  # weak cells show, order stays
    num_classes = int(max(timeline.top_classes.max(initial=-1), timeline.labels.max(initial=-1))) + 1
    captions = Captions(timeline.class_names, max(num_classes, len(timeline.class_names)))
    preds = torch.from_numpy(timeline.predictions[:, :_IMAGES].copy())
    probs = torch.from_numpy(timeline.top_probabilities[:, :_IMAGES, 0].copy())
    labels = torch.from_numpy(timeline.labels[:_IMAGES]) if (timeline.labels >= 0).any() else None
    total = len(timeline.steps)
    chosen = torch.linspace(0, total - 1, min(total, _FRAMES)).round().int().unique().tolist()
    frames = []
    for t in chosen:
        grid = overlay_grid(
            display_images,
            heat[t],
            captions,
            preds=preds[t],
            probs=probs[t],
            labels=labels,
            tile=_TILE,
            font_size=_CAPTION,
        )
        heading = f"step {timeline.steps[t]:,} · epoch {timeline.epochs[t]} · {method}"
        frames.append(Image.fromarray(_under_heading(grid, heading).permute(1, 2, 0).numpy()))
    return frames


def _under_heading(grid: Tensor, heading: str) -> Tensor:
    line = draw_lines([heading], _HEADING, grid.shape[2] - 16)[0]
    return torch.cat([text_on_background(F.pad(line, (8, 8, 4, 4))), grid], 1)
