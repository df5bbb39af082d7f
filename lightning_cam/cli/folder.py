"""`lightning-cam explain`: methods over a folder of images."""

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from lightning_cam.cli.explainer import Explainer
from lightning_cam.cli.facts import Facts, facts_of
from lightning_cam.cli.images import ImageFiles, ReadImage, read_image
from lightning_cam.cli.pictures import contact_sheet, draw_overlay
from lightning_cam.cli.preprocessing import Preprocessing
from lightning_cam.cli.results import Results, place_of
from lightning_cam.resolve import TargetLayer

CONTACT_SHEET = "contact.jpg"
IMAGE = "image.jpg"
_JPEG_QUALITY = 90
_MAX_SIDE = 8192  # pixels of the longer side of an overlay


def explain_files(
    explainer: Explainer,
    root: Path,
    files: Sequence[Path],
    folder: Path,
    results: Results,
    layers: Sequence[TargetLayer],
    *,
    batch_size: int,
    workers: int,
) -> list[dict[str, str]]:
    """Explain files and write their pictures; memory does not grow with their number.

    Args:
        explainer: What is asked of every image.
        root: The folder that all files are in.
        files: The images.
        folder: Where pictures go, one folder per image.
        results: Where results go; files that it has already are left out.
        layers: The target layers.
        batch_size: Images per forward pass.
        workers: Processes that read, and threads that draw.

    Returns:
        The files that could not be read or written, each with its error.
    """
    stamps = {file: _stamp(file) for file in files}
    names = {file: file.relative_to(root).as_posix() for file in files}
    waiting = [file for file in files if not results.has(names[file], stamps[file])]
    errors: list[dict[str, str]] = []
    with ExitStack() as stack:
        bar = stack.enter_context(tqdm(total=len(files), initial=len(files) - len(waiting), unit="image", disable=None))
        # One thread per picture: several that each share their work among all cores only wait for one another.
        pool = stack.enter_context(ThreadPoolExecutor(max(1, workers), initializer=partial(torch.set_num_threads, 1)))
        drawing: deque[tuple[Path, Future[dict[str, Any]]]] = deque()

        def collect(limit: int) -> None:
            while len(drawing) > limit:
                file, future = drawing.popleft()
                if isinstance(error := future.exception(), OSError):
                    errors.append({"file": names[file], "error": f"{type(error).__name__}: {error}"})
                else:
                    results.add(future.result(), stamps[file])
                bar.update()

        for images, readable, broken in _batches(waiting, explainer.preprocessing, batch_size, workers):
            errors += [{"file": names[read.file], "error": read.error} for read in broken]
            bar.update(len(broken))
            found = []
            if images is not None:
                found = facts_of(explainer, explainer(images, layers), [layer.name for layer in layers])
            for read, facts in zip(readable, found, strict=True):
                file, name = read.file, names[read.file]
                place = folder / place_of(name)
                drawing.append((file, pool.submit(_draw, file, name, facts, explainer.preprocessing, place)))
            collect(2 * batch_size)
        collect(0)
    return errors


_Batch = tuple[Tensor | None, list[ReadImage], list[ReadImage]]


def _batches(files: Sequence[Path], preprocessing: Preprocessing, batch_size: int, workers: int) -> Iterator[_Batch]:
    loader: DataLoader[Any] = DataLoader(
        ImageFiles(files, preprocessing),
        batch_size=batch_size,
        num_workers=min(workers, len(files)),
        collate_fn=_collate,
    )
    return iter(loader)


def _collate(items: Sequence[tuple[ReadImage, Tensor | None]]) -> _Batch:
    """The images that could be read as (B, C, H, W), which those are, and which could not be read."""
    images = [image for _, image in items if image is not None]
    readable = [read for read, image in items if image is not None]
    return torch.stack(images) if images else None, readable, [read for read, image in items if image is None]


def _draw(file: Path, name: str, facts: Facts, preprocessing: Preprocessing, folder: Path) -> dict[str, Any]:
    """Write the pictures of one image, and return its result. The file is read again: that costs less than memory."""
    folder.mkdir(parents=True, exist_ok=True)
    image = read_image(file)
    result = _with_boxes(facts, preprocessing, image)
    image.thumbnail((_MAX_SIDE, _MAX_SIDE))
    box = preprocessing.seen((image.height, image.width))
    image.save(folder / IMAGE, quality=_JPEG_QUALITY)  # for the page: no browser shows every format that is read here
    pictures = [("image", image)]
    for drawn, one in facts.maps.items():
        picture = draw_overlay(image, one.heat, box, one.evidence, one.outline, one.words)
        picture.save(folder / f"{drawn}.jpg", quality=_JPEG_QUALITY)
        picture.thumbnail((512, 512))  # what the contact sheet needs, so that not all are held at full size
        pictures.append((drawn, picture))
    image = image.copy()
    image.thumbnail((512, 512))
    pictures[0] = ("image", image)
    contact_sheet(pictures, f"{name}: {facts.caption}" if facts.caption else name).save(
        folder / CONTACT_SHEET, quality=_JPEG_QUALITY
    )
    return {"file": name, **result}


def _with_boxes(facts: Facts, preprocessing: Preprocessing, image: Image.Image) -> dict[str, Any]:
    """The result with a box for each object: left, top, right and bottom in pixels of the image file."""
    if facts.boxes is None or "objects" not in facts.result:
        return facts.result
    left, top, right, bottom = preprocessing.seen((image.height, image.width))
    sides, starts = torch.tensor([right - left, bottom - top] * 2), torch.tensor([left, top] * 2)
    boxes = (facts.boxes * sides + starts).round().int().tolist()
    objects = [{**one, "box": box} for one, box in zip(facts.result["objects"], boxes, strict=False)]
    return {**facts.result, "objects": objects}


def _stamp(file: Path) -> list[int]:
    try:
        status = os.stat(file)
    except OSError:  # it is gone, which is told when it is read
        return []
    return [status.st_size, status.st_mtime_ns]
