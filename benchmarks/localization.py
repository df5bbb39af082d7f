"""Where each method's relevance lies and whether the model uses it, for every choice of layers; the table of the docs.

Small models are trained on digits pasted on photographs (`examples.data`), whose positions are known, once per seed
(which also draws the images). What is explained is the logit of the true class on held-out images. "Right of two" is
about images with a second digit pasted in: of the relevance inside the two boxes, the share in that of the digit whose
class is explained (Böhle et al., CVPR 2021, arXiv:2104.00032, ask the same of images put side by side). One half is
what a map scores that shows what stands out, whatever the class.

Trained weights are kept in `--cache`, so that a second run only measures; so is `localization.md`, the tables of all
trainings measured so far.

    python -m benchmarks.localization --cache runs/localization --workers 2
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import Trainer, seed_everything
from torch import Tensor, nn

from benchmarks.localization_tables import DEFAULT_LAYERS, NO_LAYERS, Result, Row, about_layers, report
from examples.classifier import Classifier
from examples.data import DigitsOnPhotos
from lightning_cam import explain, find_target_layers
from lightning_cam.metrics import box_coverage, deletion_auc, insertion_auc, pointing_game, share_inside
from lightning_cam.model.untouched import untouched

STEPS = 5  # of deletion and insertion
COSTLY = ("ablationcam", "scorecam")  # one run per channel and image: on the first `COSTLY_IMAGES` only
COSTLY_IMAGES = 25


@dataclass(frozen=True)
class Recipe:
    """How to build and train a model, and the names of its last two blocks."""

    model_name: str
    model_kwargs: dict[str, Any]
    epochs: int
    blocks: tuple[str, str]
    lr: float
    weight_decay: float

    @property
    def layers(self) -> dict[str, list[str]]:
        """Names of the target layers of each choice."""
        before, last = self.blocks
        return {
            DEFAULT_LAYERS: [f"{last}.norm1"],
            "before MLP": [f"{last}.norm2"],
            "both": [f"{last}.norm1", f"{last}.norm2"],
            "last two blocks": [f"{before}.norm1", f"{last}.norm1"],
        }


# Narrower or shorter, or with more weight decay, some seeds do not get beyond guessing.
_VIT = {"patch_size": 8, "embed_dim": 96, "depth": 4, "num_heads": 3, "weight_init": "moco"}
_VIT_TRAINING: dict[str, Any] = {"epochs": 12, "blocks": ("blocks.2", "blocks.3"), "lr": 1e-3, "weight_decay": 0.05}

RECIPES = {
    "ViT, class token": Recipe("vit_tiny_patch16_224", _VIT, **_VIT_TRAINING),
    "ViT, average pool, 4 registers": Recipe(
        "vit_tiny_patch16_224",
        {**_VIT, "class_token": False, "reg_tokens": 4, "global_pool": "avg"},
        **_VIT_TRAINING,
    ),
    "Swin": Recipe(
        "swin_tiny_patch4_window7_224",
        {"window_size": 7, "embed_dim": 48, "depths": (2, 2), "num_heads": (3, 6), "weight_init": "moco"},
        epochs=7,
        blocks=("layers.1.blocks.0", "layers.1.blocks.1"),
        lr=1e-3,
        weight_decay=0.05,
    ),
    "CoAtNet": Recipe(
        "coatnet_0_rw_224",
        {"embed_dim": (32, 64), "depths": (1, 2), "block_type": ("C", "T"), "stem_width": (16, 32)},
        epochs=2,
        blocks=("stages.1.blocks.0", "stages.1.blocks.1"),
        lr=2e-3,
        weight_decay=1.0,
    ),
    "ViT, class token, 12 blocks": Recipe(
        "vit_tiny_patch16_224",
        {**_VIT, "depth": 12},
        epochs=14,
        blocks=("blocks.10", "blocks.11"),
        lr=1e-3,
        weight_decay=0.05,
    ),
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, required=True, help="folder of trained weights and tables")
    parser.add_argument("--models", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--train-size", type=int, default=6_000)
    parser.add_argument("--images", type=int, default=200, help="held-out images that are explained")
    parser.add_argument("--faithful-images", type=int, default=40, help="of these, for deletion and insertion")
    parser.add_argument("--workers", type=int, default=1, help="processes, each of one thread")
    options = parser.parse_args(arguments)
    options.cache.mkdir(parents=True, exist_ok=True)
    results: dict[str, list[Result]] = {name: [] for name in options.models}
    # Seed after seed, so that a run cut off has as many of each model as can be.
    jobs = [(name, seed) for seed in options.seeds for name in options.models]
    with ProcessPoolExecutor(options.workers, get_context("spawn"), _one_thread) as pool:
        names = {pool.submit(_train_and_measure, RECIPES[name], name, seed, options): name for name, seed in jobs}
        for done in as_completed(names):
            results[names[done]].append(done.result())
            (options.cache / "localization.md").write_text(report(results))
    print(report(results))


def _one_thread() -> None:
    torch.set_num_threads(1)
    for host in ("lightning.pytorch", "lightning.fabric", "lightning_cam"):
        logging.getLogger(host).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*does not have many workers")
    warnings.filterwarnings("ignore", message=".*LeafSpec.* is deprecated")  # Lightning on a newer torch


def _train_and_measure(recipe: Recipe, name: str, seed: int, options: argparse.Namespace) -> Result:
    began = time.monotonic()
    data = DigitsOnPhotos(train_size=options.train_size, val_size=max(500, options.images), seed=seed)
    data.setup("fit")
    model = trained(recipe, data, options.cache / f"{name}-{seed}.pt", seed)
    print(f"{name}, seed {seed}: trained or loaded after {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    held_out = list(data.val_dataloader())
    batch = {key: torch.cat([part[key] for part in held_out]) for key in held_out[0]}
    with torch.no_grad():
        predicted = torch.cat([model(images) for images in batch["image"].split(64)]).argmax(1)
    accuracy = (predicted == batch["label"]).float().mean().item()
    explained = {key: value[: options.images] for key, value in batch.items()}
    rows = dict(measure(model, recipe.layers, explained, options.faithful_images))
    print(f"{name}, seed {seed}: measured after {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    return Result(accuracy, rows)


def trained(recipe: Recipe, data: DigitsOnPhotos, checkpoint: Path, seed: int) -> nn.Module:
    """The model in eval mode, from the checkpoint where there is one, else trained and saved there."""
    seed_everything(seed, verbose=False)
    classifier = Classifier(
        recipe.model_name,
        img_size=data.image_size,
        model_kwargs=recipe.model_kwargs,
        lr=recipe.lr,
        weight_decay=recipe.weight_decay,
    )
    if checkpoint.exists():
        classifier.load_state_dict(torch.load(checkpoint, weights_only=True))
    else:
        trainer = Trainer(
            max_epochs=recipe.epochs,
            accelerator="cpu",
            logger=False,
            limit_val_batches=0,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=False,
        )
        trainer.fit(classifier, data)
        torch.save(classifier.state_dict(), checkpoint)
    return classifier.model.eval()


def measure(
    model: nn.Module, layers: Mapping[str, Sequence[str]], batch: Mapping[str, Tensor], num_faithful: int
) -> Iterator[tuple[Row, tuple[float, ...]]]:
    """Score every method that applies at every choice of layers; methods that are about no layer once.

    Args:
        model: In eval mode.
        layers: Names of the target layers of each choice.
        batch: `image` (B, 3, H, W), `label` (B,), `boxes` (B, 4).
        num_faithful: Of how many images deletion and insertion are the mean.
    """
    image, label = batch["image"], batch["label"]
    size = (image.shape[2], image.shape[3])
    found = {choice: find_target_layers(model, image, target_layers=names) for choice, names in layers.items()}
    first = explain(model, image[:1], "all", target_layers=found[DEFAULT_LAYERS]).maps
    grid = (first["hirescam"].shape[1], first["hirescam"].shape[2])
    pairs = with_second_digit(batch)
    for choice, targets in found.items():
        for costly, count in ((False, len(image)), (True, COSTLY_IMAGES)):
            methods = [
                name
                for name in first
                if first[name].ndim == 3  # colors are no relevance
                and (name in COSTLY) == costly
                and (choice == DEFAULT_LAYERS or about_layers(name))
            ]
            run = partial(explain, model, methods=methods, target_layers=targets, batch_size=50)
            explanation = run(image[:count], class_idx=label[:count])
            of_pairs = run(pairs["image"][:count], class_idx=pairs["label"][:count])
            coverage, own, other = (
                box_coverage(boxes[:count], grid, size) for boxes in (batch["boxes"], pairs["boxes"], pairs["second"])
            )
            for method, maps in explanation.maps.items():
                # Maps of pixels are held against the others on the grid of these.
                maps, two = (F.adaptive_avg_pool2d(m, grid) for m in (maps, of_pairs.maps[method]))
                few = slice(min(count, num_faithful))
                with torch.no_grad(), untouched(model):
                    scores = (
                        share_inside(maps, coverage),
                        pointing_game(maps, coverage),
                        deletion_auc(maps[few], image[few], model, label[few], steps=STEPS),
                        insertion_auc(maps[few], image[few], model, label[few], steps=STEPS),
                        right_of_two(two, own, other),
                    )
                row = (method, choice if about_layers(method) else NO_LAYERS)
                yield row, tuple(score.mean().item() for score in scores)


def with_second_digit(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Paste into images the box of another image that holds another digit at a place that is free in the first.

    Args:
        batch: `image` (B, 3, H, W), `label` (B,), `boxes` (B, 4).

    Returns:
        The same of those images that another one fits to, and `second` (b, 4), the box of what was pasted in.
    """
    left, top, right, bottom = batch["boxes"].unbind(1)
    apart = (left[:, None] >= right) | (right[:, None] <= left) | (top[:, None] >= bottom) | (bottom[:, None] <= top)
    fits = apart & (batch["label"][:, None] != batch["label"])
    first = fits.any(1).nonzero()[:, 0]
    images, count = batch["image"][first], len(fits)
    second = []
    for image, index in zip(images, first.tolist(), strict=True):
        # The next that fits, not the first of all: or a few small boxes would be pasted everywhere.
        other = next(j % count for j in range(index + 1, index + count) if fits[index, j % count])
        x1, y1, x2, y2 = batch["boxes"][other].tolist()
        image[:, y1:y2, x1:x2] = batch["image"][other, :, y1:y2, x1:x2]
        second.append(batch["boxes"][other])
    return {
        "image": images,
        "label": batch["label"][first],
        "boxes": batch["boxes"][first],
        "second": torch.stack(second),
    }


def right_of_two(maps: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Of the positive relevance inside two boxes, the share inside the first, (B,); one half if there is none."""
    own, other = ((maps.relu() * box).sum((1, 2)) for box in (first, second))
    return torch.where(own + other > 0, own / (own + other).clamp_min(1e-30), 0.5)


if __name__ == "__main__":
    main()
