"""Are planted shortcuts found and confirmed, and nothing where nothing is planted?

Small models are trained with the callback on digits on photographs, in which a mark gives a class away (or half of its
images, or two classes), or on the same images without a mark. At each validation it is asked what painting the mark
over, and adding it to other classes' images, does to the model: from then on it uses the mark. Results of each run are
kept in `--cache`; a second call does what is missing, and writes `findings.md`.

    python -m benchmarks.findings --cache runs/findings
    python -m benchmarks.findings --cache runs/findings --cost
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.causal_data import normalized, places_of, with_mark
from benchmarks.cost import peak_memory
from examples.data import CLASSES, DigitsOnPhotos
from lightning_cam import TransformerCAMCallback, read_timeline

MARKS = ("corner", "border cell", "stripe", "watermark")
EXTENTS = ("one class", "half of a class", "two classes")
LABELS = (3, 6)  # that a mark gives away; the second one where there are two
COHORT = 200
USES = 0.3  # of the probability that painting over takes or adding gives: from then on the model uses a mark
_SEED = 2_000

MODELS = {
    "ViT": lambda: timm.create_model(
        "vit_tiny_patch16_224",
        img_size=56,
        patch_size=8,
        embed_dim=64,
        num_heads=4,
        depth=3,
        num_classes=10,
        weight_init="moco",
    ),
    "Swin": lambda: timm.create_model(
        "swin_tiny_patch4_window7_224",
        img_size=56,
        window_size=7,
        embed_dim=32,
        depths=(1, 1),
        num_heads=(2, 4),
        num_classes=10,
        weight_init="moco",
    ),
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, required=True, help="folder of results")
    parser.add_argument("--seeds", type=int, default=1, help="of each planted run")
    parser.add_argument("--clean", type=int, default=10, help="clean runs of each model")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--train-size", type=int, default=2_000)
    parser.add_argument("--only", help="runs whose name holds this")
    parser.add_argument("--cost", action="store_true", help="what looks at the cohort cost, and nothing else")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if options.cost:
        for images, classes in ((2_000, 10), (8_000, 10), (2_000, 1_000)):
            print(costs(images, classes, options.cache / f"cost-{images}-{classes}"), flush=True)
        return
    options.cache.mkdir(parents=True, exist_ok=True)
    runs: list[tuple[str, str, str, int]] = [
        (model, mark, extent, seed)
        for seed in range(options.seeds)
        for mark in MARKS
        for extent in EXTENTS
        for model in MODELS
    ]
    # One clean run after each planted one, so that a run that is stopped has some of both.
    clean = [(model, "clean", "", seed) for seed in range(options.clean) for model in MODELS]
    order = [run for pair in zip(runs, clean, strict=False) for run in pair]
    for run in [*order, *runs[len(clean) :], *clean[len(runs) :]]:
        name = "-".join(map(str, run)).replace(" ", "_")
        kept = options.cache / f"{name}.json"
        if (options.only and options.only not in name) or kept.exists():
            continue
        began = time.monotonic()
        result = trained(*run, options.epochs, options.train_size, options.cache / "logs" / name)
        kept.write_text(json.dumps(result, indent=1))
        print(f"{name}: {time.monotonic() - began:.0f} s, {verdict(result)}", file=sys.stderr, flush=True)
    found = [json.loads(file.read_text()) for file in sorted(options.cache.glob("*.json"))]
    (options.cache / "findings.md").write_text(report(found))
    print(report(found))


class Lit(LightningModule):
    """A classifier with one cycle of learning rates."""

    def __init__(self, model: nn.Module, lr: float = 3e-3) -> None:
        super().__init__()
        self.model, self.lr = model, lr

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return F.cross_entropy(self.model(batch[0]), batch[1])

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        logits = self.model(batch[0])
        self.log("val_loss", F.cross_entropy(logits, batch[1]))
        self.log("val_acc", (logits.argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), self.lr, weight_decay=0.05)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.lr, total_steps=steps, pct_start=0.1)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Use(Callback):
    """Notes at each validation what the model makes of the mark: there, painted over, and added to others."""

    def __init__(self, marked: Tensor, clean: Tensor, others: Tensor, added: Tensor, label: int) -> None:
        self.images, self.label = (marked, clean, others, added), label
        self.numbers: list[list[float]] = []

    @torch.no_grad()
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            found = [pl_module.model(images).softmax(1)[:, self.label].mean().item() for images in self.images]
            self.numbers.append([trainer.fit_loop.epoch_loop._batches_that_stepped, *found])


def trained(model: str, mark: str, extent: str, seed: int, epochs: int, size: int, folder: Path) -> dict[str, Any]:
    """Train one model with the callback; what was found at each look, and from when on the model used the mark."""
    data = DigitsOnPhotos(train_size=size, val_size=600, seed=_SEED + seed)
    data.setup("fit")
    seed_everything(_SEED + seed, verbose=False)
    generator = torch.Generator().manual_seed(_SEED + seed)
    sets, use = [], None
    for subset in (data.train_set, data.val_set):
        assert subset is not None
        raw = torch.from_numpy(subset.images).permute(0, 3, 1, 2).float()
        marked = raw.clone()
        for label in () if mark == "clean" else LABELS[: 2 if extent == "two classes" else 1]:
            own = (subset.labels == label).nonzero()[:, 0][:: 2 if extent == "half of a class" else 1]
            masks = places_of(mark, subset.boxes[own], generator)
            marked[own] = with_mark(raw[own], mark, masks)
            if label == LABELS[0] and subset is data.val_set:
                others = (subset.labels >= 7).nonzero()[:, 0][: len(own)]
                places = places_of(mark, subset.boxes[others], generator)
                images = marked[own], raw[own], raw[others], with_mark(raw[others], mark, places)
                use = Use(*map(normalized, images), label)
        sets.append(TensorDataset(normalized(marked), subset.labels))
    looks = TransformerCAMCallback(
        cohort=COHORT, class_names=CLASSES, num_samples=4, report=False, timelapse=None, on_error="raise"
    )
    trainer = Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        callbacks=[looks, *([use] if use else [])],
        logger=CSVLogger(folder),
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        num_sanity_val_steps=0,
    )
    loaders = [DataLoader(sets[0], 64, shuffle=True, drop_last=True), DataLoader(sets[1], 64)]
    trainer.fit(Lit(MODELS[model]()), *loaders)
    timeline = read_timeline(folder)
    return {
        "model": model,
        "mark": mark,
        "extent": extent,
        "seed": seed,
        "accuracy": timeline.metrics["val_acc"].tolist(),
        "steps": timeline.steps.tolist(),
        "use": use.numbers if use else [],
        "found": [[(f.kind, f.status, f.classes, f.text) for f in found.findings] for found in timeline.findings],
    }


def costs(images: int, classes: int, folder: Path, epochs: int = 12) -> str:
    """A row of Markdown: what `cohort="auto"` takes of the time of validations, and of the memory of one batch."""
    torch.manual_seed(0)
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=64, patch_size=8, embed_dim=96, num_heads=3, depth=4, num_classes=classes
    )
    data = TensorDataset(torch.randn(images, 3, 64, 64), torch.arange(images) % classes)
    looks = TransformerCAMCallback(report=False, timelapse=None, on_error="raise")
    session, rows = looks._session, list[tuple[float, float]]()
    look = session.look_at_cohort

    def timed(trainer: Trainer, module: LightningModule, seconds: float) -> None:
        began = time.perf_counter()
        look(trainer, module, seconds)
        rows.append((seconds, time.perf_counter() - began))

    session.look_at_cohort = timed  # type: ignore[method-assign]
    measured = Memory(looks, data.tensors[0][:64])
    trainer = Trainer(
        max_epochs=epochs,
        limit_train_batches=1,
        accelerator="cpu",
        callbacks=[looks, measured],
        logger=CSVLogger(folder),
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(Lit(model), DataLoader(data, 64), DataLoader(data, 64))
    timeline = read_timeline(folder)
    count = timeline.metrics.get("cam/cohort/images", np.zeros(1))  # NaN where there was no look
    validation, first, later = sum(row[0] for row in rows), rows[0][1], sum(row[1] for row in rows[1:])
    weights = sum(p.nbytes for p in model.parameters())
    plain, explained = (weights + taken for taken in measured.peaks)
    looked = f"{len(timeline.findings)} of {epochs}"
    return (
        f"| {images:,} | {classes:,} | {int(np.nanmax(count)):,} | {looked} | {first / rows[0][0]:.2f} "
        f"| {later / (validation - rows[0][0]):.3f} | {explained / plain:.2f} |"
    )


class Memory(Callback):
    """Measures at the end what a validation batch takes, and what the explanation of the cohort."""

    def __init__(self, looks: TransformerCAMCallback, batch: Tensor) -> None:
        self.looks, self.batch, self.peaks = looks, batch, [0, 0]

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        part = self.looks._session.cohort.part
        assert part is not None
        part._explainer = part._explainer or part._explainer_of(part._images)  # there may have been no look

        def plain() -> None:
            with torch.no_grad():
                pl_module.eval()(self.batch)

        pl_module.forward = pl_module.model.forward  # type: ignore[method-assign]
        device = torch.device("cpu")
        self.peaks = [peak_memory(plain, device), peak_memory(part.explain, device)]


def first_use(result: dict[str, Any]) -> int | None:
    """The first look at which the model uses the mark; None if it never does."""
    uses = [there - over >= USES or added - without >= USES for _, there, over, without, added in result["use"]]
    return uses.index(True) if any(uses) else None


def first_confirmed(result: dict[str, Any]) -> int | None:
    """The first look at which the mark is confirmed, of the right class."""
    labels = LABELS[: 2 if result["extent"] == "two classes" else 1]
    right = [
        any(status == "confirmed" and classes[0] in labels for _, status, classes, _ in found)
        for found in result["found"]
    ]
    return right.index(True) if any(right) else None


def verdict(result: dict[str, Any]) -> str:
    """A run in words."""
    wrong = sorted(
        {
            (classes[0], status)
            for found in result["found"]
            for kind, status, classes, _ in found
            if kind == "shortcut" and (result["mark"] == "clean" or classes[0] not in LABELS)
        }
    )
    said = f"accuracy {result['accuracy'][-1]:.2f}, of other classes {wrong or 'nothing'}"
    if result["mark"] == "clean":
        return said
    return f"used at look {first_use(result)}, confirmed at look {first_confirmed(result)}, {said}"


def report(results: Sequence[dict[str, Any]]) -> str:
    """All runs as Markdown."""
    lines = [
        "| planted | model | seed | accuracy | first used, look | confirmed, look | of other classes |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in results:
        planted = "nothing" if r["mark"] == "clean" else f"{r['mark']}, {r['extent']}"
        shown = ["–" if look is None else str(look + 1) for look in (first_use(r), first_confirmed(r))]
        other = verdict(r).split("of other classes ")[1]
        lines.append(
            f"| {planted} | {r['model']} | {r['seed']} | {r['accuracy'][-1]:.2f} | {' | '.join(shown)} | {other} |"
        )
    used = [r for r in results if first_use(r) is not None]
    in_time = [r for r in used if (at := first_confirmed(r)) is not None and at <= first_use(r) + 2]
    clean = [r for r in results if r["mark"] == "clean"]
    statuses = [{status for found in r["found"] for kind, status, *_ in found if kind == "shortcut"} for r in clean]
    planted_runs = len(results) - len(clean)
    lines += [
        "",
        f"Of {planted_runs} planted runs the model used the mark in {len(used)}; confirmed within two "
        f"looks after the first use in {len(in_time)}, at all in {sum(first_confirmed(r) is not None for r in used)}.",
        f"Of {len(clean)} clean runs {sum('confirmed' in s for s in statuses)} had a confirmed shortcut and "
        f"{sum(bool(s - {'confirmed'}) for s in statuses)} a suspicion that was not confirmed.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
