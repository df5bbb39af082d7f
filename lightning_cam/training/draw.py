"""The pictures of one look: grids of overlays, and filmstrips over the looks."""

from dataclasses import replace

import torch
from torch import Tensor

from lightning_cam.methods.defaults import LAST_BLOCK, OF_FEATURES
from lightning_cam.render import PartCaptions, captions_of, filmstrip, overlay_grid, scale_per_image, to_colors
from lightning_cam.render.grid import COLUMNS
from lightning_cam.render.scale import to_unit_interval
from lightning_cam.training.look import Look
from lightning_cam.training.planes import Pictures, pictures_by_evidence
from lightning_cam.training.run_info import RunInfo

_TILES = 8  # of a grid, so that TensorBoard's thumbnails can be read
# Looks compare where they show the same planes.
_NEWEST = {"slice": "at the newest look; all show it", "instance": "at the newest look, whose order all have"}
_UNSEEN = "evidence is elsewhere"  # on a tile of the last block


def draw(look: Look, run: RunInfo) -> Look:
    """Return a look with its pictures: for each method overlay grids of eight images each, and the filmstrip.

    Args:
        look: On the CPU.
        run: What stays the same over all looks, on the CPU.
    """
    known = 0 if run.labels is None else int(run.labels.max()) + 1
    num_classes = known if look.probabilities is None else look.probabilities.shape[1]
    labels = run.labels if run.texts is None else torch.arange(len(run.texts))
    captions = captions_of(
        run.class_names or [],
        num_classes,
        run.texts,
        run.present,
        has_classes=run.has_classes,
        has_values=run.has_values,
    )
    parts, step = look.parts, _TILES // run.parts * run.parts  # those of one image side by side
    if parts is not None:
        captions = PartCaptions(run.class_names or [], num_classes, parts.overlap, parts.is_predicted, run.unpredicted)
        says_no_more = bool(parts.overlap.isnan().all() & parts.is_predicted.all())
        labels = None if says_no_more else torch.arange(len(parts.classes))
    images = run.images.float() / 255
    preds, probs = look.predictions
    pictures = {}
    for method, relevance in look.maps.items():
        heat = _heat(method, relevance)  # of the mean over layers, which the metrics are about too
        shown = _pictures_of(look, run, method, images, heat)
        notes = shown.notes
        if method == LAST_BLOCK and look.unseen is not None and look.unseen.any():
            missing = [_UNSEEN if is_unseen else "" for is_unseen in look.unseen.tolist()]
            notes = [f"{note} {more}".strip() for note, more in zip(notes or [""] * len(missing), missing, strict=True)]
        for start in range(0, len(images), step):
            part = slice(start, start + step)
            first, last = start // run.parts + 1, min(start + step, len(images)) // run.parts
            others = f"/images_{first}-{last}" if start else ""
            pictures[f"{run.name}/{method}{others}"] = overlay_grid(
                shown.images[part],
                shown.maps[part],
                captions,
                preds=preds[part],
                probs=probs[part],
                labels=None if labels is None else labels[part],
                notes=notes[part],
                lines=shown.lines[part],
                truth=None if run.regions is None or parts is None else run.regions[part],
                predicted=None if parts is None else parts.predicted[part],
                missing=run.missing,
                columns=COLUMNS // run.parts * run.parts,
            )
        if look.strip is not None:
            count = look.strip.preds.shape[1]
            past = _from_zero(method, look.strip.maps[method])
            shown = _pictures_of(look, run, method, images[:count], past)
            pictures[f"{run.name}/{method}/filmstrip"] = filmstrip(
                shown.images,
                shown.maps,
                look.strip.headings,
                captions,
                preds=look.strip.preds,
                probs=look.strip.probs,
                labels=None if labels is None or parts is not None else labels[:count],
                truth=None if run.regions is None or parts is None else run.regions[:count],
                predicted=look.strip.outlined,
                missing=run.missing,
                notes=[f"{note} {_NEWEST[run.planes.kind]}" for note in shown.notes] if run.planes is not None else [],
            )
    return replace(look, pictures=pictures)


def _pictures_of(look: Look, run: RunInfo, method: str, images: Tensor, maps: Tensor) -> Pictures:
    """What is drawn of the first images; of volumes and bags, the planes with most evidence in this look."""
    if run.planes is None:
        return Pictures(images, maps, [], [])
    return pictures_by_evidence(images, maps, look.evidence[method][: len(images)], run.planes)


def _heat(method: str, maps: Tensor) -> Tensor:
    """Maps of a look as they are drawn, each on a scale of its own."""
    if maps.ndim == 4:
        return to_colors(maps)
    return to_unit_interval(maps) if method in OF_FEATURES else scale_per_image(maps)


def _from_zero(method: str, maps: Tensor) -> Tensor:
    """Maps (T, B, h, w) over time with the smallest value of an image at zero, where a negative one is no less."""
    if maps.ndim == 5 or method not in OF_FEATURES:
        return maps
    return maps - maps.nan_to_num(torch.inf).amin((0, 2, 3), keepdim=True).clamp(max=0)
