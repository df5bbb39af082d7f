"""Which method finds what a model goes by: marks that were planted, and ordinary images; the table that chooses.

Small models are trained on images in which a mark gives the class away, one kind of mark for each of five classes
(`benchmarks.causal_data`). That a model uses a mark is proved: painted over, the class goes; added to images of other
classes, it comes. A method has to find it. On images of the other five classes, whose digits have to be read, it is
asked what the digit's box, deletion, insertion, a second digit, and occlusion of every cell say of it.

All maps are held against each other on the models' 7 × 7 cells. Trained weights and measured numbers are kept in
`--cache`; a second run measures what is missing, and writes `causal.md`.

    python -m benchmarks.causal --cache runs/causal --seeds 0
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.causal_data import (
    CELL,
    GRID,
    RECIPES,
    SHORTCUTS,
    Planted,
    normalized,
    planted,
    raw,
    trained,
    with_mark,
)
from benchmarks.cost import peak_memory, seconds_of
from benchmarks.localization import right_of_two, with_second_digit
from lightning_cam import explain, find_target_layers
from lightning_cam.methods import DoesNotApply
from lightning_cam.metrics import (
    box_coverage,
    deletion_auc,
    insertion_auc,
    mask_coverage,
    pointing_game,
    rank_correlation,
    share_inside,
)
from lightning_cam.model.output import logits_of
from lightning_cam.resolve import TargetLayer
from lightning_cam.resolve.depth import Depth
from lightning_cam.resolve.embedding import find_embedding

LAST_TWO = "hirescam, last two blocks"
METHODS = (
    *("attnlrp", "libragrad", "lrp_ln", "lrp_ah_ln", "hirescam", LAST_TWO, "gae", "legrad", "gradcam_elementwise"),
    *("integrated_gradients", "occlusion", "random"),
)
PLACES = [mark for mark in SHORTCUTS if mark != "tint"]  # the tint is everywhere
MARKED = 40  # images of each mark
ORDINARY, FAITHFUL = 150, 40
STEPS = 10  # of deletion and insertion
AT_ONCE = 16  # images whose maps' peak memory is measured
SIZE = (GRID, GRID)

Numbers = dict[str, float]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, required=True, help="folder of trained weights, numbers and tables")
    parser.add_argument("--models", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--train-size", type=int, default=6_000)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    options.cache.mkdir(parents=True, exist_ok=True)
    results: dict[str, list[dict[str, Numbers]]] = {name: [] for name in options.models}
    for seed in options.seeds:
        train, held_out = (part.to(options.device) for part in planted(seed, options.train_size, 600))
        for name in options.models:
            kept = options.cache / f"{name}-{seed}.json"
            if not kept.exists():
                model = trained(RECIPES[name], train, options.cache / f"{name}-{seed}.pt", seed)
                began = time.monotonic()
                kept.write_text(json.dumps(measured(model, held_out), indent=1))
                print(f"{name}, seed {seed}: measured in {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
            results[name].append(json.loads(kept.read_text()))
            (options.cache / "causal.md").write_text(report(results))
    print(report(results))


def measured(model: nn.Module, data: Planted) -> dict[str, Numbers]:
    """By method its numbers, and under `model` what the model does with the marks."""
    layers = find_target_layers(model, data.clean)
    embedding = find_embedding(model, data.clean)
    maps_of = partial(_maps, model, layers, embedding)
    ordinary = data.labels >= len(SHORTCUTS)
    batch = {
        "image": data.clean[ordinary][:ORDINARY],
        "label": data.labels[ordinary][:ORDINARY],
        "boxes": data.boxes[ordinary][:ORDINARY],
    }
    results: dict[str, Numbers] = {"model": _use_of_marks(model, data, batch)}
    reference = maps_of("occlusion", batch["image"][:FAITHFUL], batch["label"][:FAITHFUL])
    assert reference is not None
    for method in METHODS:
        numbers = _on_marks(maps_of, method, data)
        if numbers is not None:
            results[method] = numbers | _on_ordinary(model, partial(maps_of, method), batch, reference)
    return results


def _maps(
    model: nn.Module, layers: list[TargetLayer], embedding: TargetLayer, method: str, images: Tensor, classes: Tensor
) -> Tensor | None:
    """Maps (B, 7, 7) of a method; None if it does not apply."""
    at = layers if method == LAST_TWO else layers[-1:]
    name = "hirescam" if method == LAST_TWO else method
    try:
        found = explain(
            model, images, name, class_idx=classes, target_layers=at, depth=Depth(embedding), batch_size=len(images)
        )
    except DoesNotApply:
        return None
    return F.adaptive_avg_pool2d(found.maps[name], SIZE)


def _use_of_marks(model: nn.Module, data: Planted, batch: Mapping[str, Tensor]) -> Numbers:
    numbers = {"accuracy on ordinary images": _accuracy(model, batch["image"], batch["label"])}
    for mark, label in SHORTCUTS.items():
        own = data.labels == label
        numbers[f"{mark}, there"] = _probability(model, data.marked[own], label)
        numbers[f"{mark}, painted over"] = _probability(model, data.clean[own], label)
        others = data.clean[data.labels >= len(SHORTCUTS)][: int(own.sum())]
        masks = data.masks[own][: len(others)]
        numbers[f"{mark}, added to others"] = _probability(
            model, normalized(with_mark(raw(others), mark, masks)), label
        )
    return numbers


@torch.no_grad()
def _probability(model: nn.Module, images: Tensor, label: int) -> float:
    return logits_of(model(images)).softmax(1)[:, label].mean().item()


@torch.no_grad()
def _accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    return (logits_of(model(images)).argmax(1) == labels).float().mean().item()


def _on_marks(maps_of: partial[Tensor | None], method: str, data: Planted) -> Numbers | None:
    """How often the highest cell is the mark's, the share of relevance on it, and how many maps are blank."""
    numbers: Numbers = {}
    blank = []
    for mark in PLACES:
        own = (data.labels == SHORTCUTS[mark]).nonzero()[:MARKED, 0]
        maps = maps_of(method, data.marked[own], data.labels[own])
        if maps is None:
            return None
        coverage = mask_coverage(data.masks[own], SIZE)
        numbers[f"{mark}, highest"] = pointing_game(maps, coverage).mean().item()
        numbers[f"{mark}, share"] = share_inside(maps, coverage).mean().item()
        blank.append((maps.amax((1, 2)) <= 0).float().mean().item())
    return numbers | {"blank": statistics.mean(blank)}


def _on_ordinary(
    model: nn.Module, maps_of: partial[Tensor | None], batch: Mapping[str, Tensor], reference: Tensor
) -> Numbers:
    image, label, size = batch["image"], batch["label"], (GRID * CELL, GRID * CELL)
    pairs = with_second_digit(batch)
    count = FAITHFUL if maps_of.args[-1] in ("occlusion", "integrated_gradients") else len(image)
    kept: list[Tensor | None] = []
    taken = seconds_of(lambda: kept.append(maps_of(image[:count], label[:count])), image.device) / count
    maps = kept[0]
    of_pairs = maps_of(pairs["image"][:count], pairs["label"][:count])
    assert maps is not None and of_pairs is not None
    coverage, own, other = (
        box_coverage(boxes[:count], SIZE, size) for boxes in (batch["boxes"], pairs["boxes"], pairs["second"])
    )
    few = slice(FAITHFUL)

    def classify(images: Tensor) -> Tensor:
        return logits_of(model(images))

    with torch.no_grad():
        forward = seconds_of(lambda: classify(image), image.device) / len(image)
        scores = {
            "share inside": share_inside(maps, coverage),
            "pointing game": pointing_game(maps, coverage),
            "deletion": deletion_auc(maps[few], image[few], classify, label[few], steps=STEPS),
            "insertion": insertion_auc(maps[few], image[few], classify, label[few], steps=STEPS),
            "rank": rank_correlation(maps[few], reference),
            "right of two": right_of_two(of_pairs, own, other),
        }
    costs = {"forwards": taken / forward, "memory": _memory(model, maps_of, image[:AT_ONCE], label[:AT_ONCE])}
    return {name: values.mean().item() for name, values in scores.items()} | costs


def _memory(model: nn.Module, maps_of: partial[Tensor | None], images: Tensor, labels: Tensor) -> float:
    """Peak memory with the weights, by that of a forward."""
    weights = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
    with torch.no_grad():
        forward = peak_memory(lambda: model(images), images.device)
    return (weights + peak_memory(lambda: maps_of(images, labels), images.device)) / (weights + forward)


def report(results: Mapping[str, Sequence[Mapping[str, Numbers]]]) -> str:
    """All tables as Markdown, means over seeds."""
    found = {name: seeds for name, seeds in results.items() if seeds}

    def mean(name: str, row: str, column: str) -> float | None:
        values = [seed[row][column] for seed in found[name] if row in seed]
        return statistics.mean(values) if values else None

    def cells(row: str, columns: Sequence[str]) -> str:
        parts = []
        for name in found:
            values = [mean(name, row, column) for column in columns]
            parts.append("–" if None in values else " / ".join(f"{value:.2f}" for value in values if value is not None))
        return f"| {row} | {' | '.join(parts)} |"

    head = [f"| | {' | '.join(found)} |", f"|---|{'---|' * len(found)}"]
    lines = [
        "Highest cell on the mark / share on it, mean over the four marks that have a place / blank maps:",
        "",
        *head,
    ]
    for method in METHODS:
        parts = []
        for name in found:
            highest, share = (
                [mean(name, method, f"{mark}, {what}") for mark in PLACES] for what in ("highest", "share")
            )
            blank = mean(name, method, "blank")
            if blank is None or None in highest:
                parts.append("–")
            else:
                means = [statistics.mean(value for value in values if value is not None) for values in (highest, share)]
                parts.append(f"{means[0]:.2f} / {means[1]:.2f} / {blank:.2f}")
        lines.append(f"| {method} | {' | '.join(parts)} |")
    ordinary = ("deletion", "insertion", "rank", "right of two", "share inside")
    lines += ["", f"Ordinary images, {' / '.join(ordinary)}:", "", *head]
    lines += [cells(method, ordinary) for method in METHODS]
    for mark in PLACES:
        lines += ["", f"Highest cell / share, {mark}:", "", *head]
        lines += [cells(method, (f"{mark}, highest", f"{mark}, share")) for method in METHODS]
    lines += ["", "Probability of the class with its mark / painted over / added to others:", "", *head]
    for mark in SHORTCUTS:
        columns = [f"{mark}, {what}" for what in ("there", "painted over", "added to others")]
        lines.append(cells("model", columns).replace("| model |", f"| {mark} |", 1))
    accuracy = cells("model", ["accuracy on ordinary images"])
    lines.append(accuracy.replace("| model |", "| accuracy on ordinary images |", 1))
    lines += ["", "Time and peak memory (with the weights) of the maps of a batch, by those of its forward:", "", *head]
    lines += [cells(method, ["forwards", "memory"]) for method in METHODS]
    seeds = {name: len(of_model) for name, of_model in found.items()}
    return "\n".join([*lines, "", f"Seeds: {', '.join(f'{name} {count}' for name, count in seeds.items())}."]) + "\n"


if __name__ == "__main__":
    main()
