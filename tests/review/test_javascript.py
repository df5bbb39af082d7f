"""The page's modules in Node.js, by value: what they compute is what numpy, torch and matplotlib make of the same."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from dataclasses import asdict
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch

from lightning_cam.render import scale_common, scale_per_image
from lightning_cam.render.planes import evidence_of, leading
from lightning_cam.timeline import TimelineWriter, read_timeline
from lightning_cam.timeline.blocks import BlockMaps
from lightning_cam.timeline.found import Found, FoundEntry
from lightning_cam.timeline.planes import Planes
from tests.missing import skip_what_needs
from tests.review.records import CLASSES, GRID, maps_at, photos, records_in

TESTS = sorted((Path(__file__).parents[1] / "js").glob("*.test.mjs"))
COUNT = 4


@pytest.fixture(scope="session")
def node() -> str:
    path = shutil.which("node")
    if path is None:
        skip_what_needs("no Node.js here: the page's modules cannot be tested (apt-get install nodejs)")
    return path


@pytest.fixture(scope="module")
def fixtures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with records, and what is expected of them as JSON."""
    folder = tmp_path_factory.mktemp("fixtures")
    for write in (write_whole, write_resumed, write_unlabeled):
        path = write(folder)
        save(folder / f"{path.stem}.json", record_as_json(path))
    save(folder / "colored.json", as_json(read_timeline(write_colored(folder)).maps["pca"]))
    save(folder / "planes.json", planes_as_json(write_planes(folder)))
    save(folder / "found.json", found_as_json(write_found(folder)))
    save(folder / "blocks.json", blocks_as_json(write_blocks(folder)))
    save(folder / "scales.json", scales_as_json(write_scales(folder)))
    save(folder / "colors.json", colors_as_json())
    save(folder / "interpolate.json", interpolations())
    return folder


def write_planes(folder: Path) -> Path:
    """Two looks of bags of 20 instances, and a method that has half as many planes."""
    rng = np.random.default_rng(7)
    writer = TimelineWriter(folder, "planes")
    bag = Planes("instance", 40, tuple(range(1, 41, 2)))
    path = writer.probe(rng.integers(0, 255, (COUNT, 20, 3, 8, 8), np.uint8), planes=bag)
    for step in (0, 1):
        maps = {"hirescam": rng.normal(size=(COUNT, 20, 3, 5)), "coarse": rng.normal(size=(COUNT, 10, 2, 2))}
        maps["hirescam"][3] = -1  # no evidence
        shares = {name: evidence_of(torch.from_numpy(own)).numpy() for name, own in maps.items()}
        writer.append(step, step, maps, evidence=shares)
    writer.close()
    return path


def planes_as_json(path: Path) -> dict[str, Any]:
    timeline = read_timeline(path)
    pictures = (np.arange(20) + 0.5) * 10 / 20
    return {
        "maps": as_json(timeline.maps["hirescam"]),
        "evidence": as_json(timeline.evidence["hirescam"]),
        "coarse": as_json(timeline.evidence["coarse"][:, :, pictures.astype(int)]),
        "order": leading(torch.from_numpy(timeline.evidence["hirescam"].copy()).flatten(0, 1), "instance").tolist(),
    }


def write_colored(folder: Path) -> Path:
    """Two looks of a method of colors and one of heat; the colors of the last image are not finite, then none."""
    rng = np.random.default_rng(4)
    writer = writer_of(folder, "colored")
    for step in (0, 1):
        colors = rng.uniform(-1, 1, (COUNT, 3, 3, 5)).astype(np.float32)
        colors[3] = 0 if step else np.nan
        writer.append(step, step, {"hirescam": maps(0.5, step), "pca": colors})
    return writer.path


def write_found(folder: Path) -> Path:
    """A record with findings at two of three looks, and some of a look that is not there."""
    writer = writer_of(folder, "found")
    for step in (1, 2, 3):
        writer.append(step, 0, {"hirescam": np.ones((COUNT, 3, 3))})
        if step < 3:
            for at in (step, 7):
                finding = FoundEntry("shortcut", f"<b>step</b> {step}", "confirmed", at, [1], [0, 5], {"share": 0.5})
                maps, picture = np.ones((2, 28, 28)), np.full((3, 40, 40), 7, np.uint8)
                found = Found(at, [finding], {1: maps[0]}, np.array([0, 5]), maps, pictures={5: picture})
                writer.add_findings(found)
    return writer.path


def found_as_json(path: Path) -> Any:
    return [
        {"step": found.step, "findings": [asdict(finding) for finding in found.findings]}
        for found in read_timeline(path).findings
    ]


def write_blocks(folder: Path) -> Path:
    """What blocks read at two of three looks, of fewer images than there are, and of a look that is not there."""
    writer = writer_of(folder, "blocks")
    rng = np.random.default_rng(0)
    for step in (1, 2, 3):
        writer.append(step, 0, {"attnlrp": np.ones((COUNT, 4, 3)), "hirescam": np.ones((COUNT, 4, 3))})
        rows = [rng.normal(size=(COUNT - 1, *shape)) for shape in ((4, 3), (2, 2), (2, 2))]
        writer.add_blocks(BlockMaps(7 if step == 2 else step, ["a", "b", "head"], {"attnlrp": rows}))
    return writer.path


def blocks_as_json(path: Path) -> Any:
    return [
        {"step": one.step, "names": one.names, "maps": {m: [r.tolist() for r in rows] for m, rows in one.maps.items()}}
        for one in read_timeline(path).blocks
    ]


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.name.removesuffix(".test.mjs"))
def test_in_node(node: str, fixtures: Path, path: Path) -> None:
    environment = {**os.environ, "FIXTURES": str(fixtures)}
    result = subprocess.run([node, "--test", str(path)], env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def writer_of(folder: Path, name: str, **options: Any) -> TimelineWriter:
    images, _, masks = photos(COUNT, size=32)
    writer = TimelineWriter(folder, name)
    writer.probe(images[:, :, :24], regions=masks[:, :24], **options)  # wider than high
    return writer


def probabilities(seed: int, classes: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.ones(classes), COUNT)


def maps(share: float, seed: int, grid: int = GRID) -> np.ndarray:
    return maps_at(share, photos(COUNT)[1], seed, grid)


def write_whole(folder: Path) -> Path:
    """An unknown label, a method that is missing at a look, a map that is NaN, classes explained, a late metric."""
    writer = writer_of(folder, "whole", labels=[0, 1, 2, -1], class_names=CLASSES)
    broken = maps(0.5, seed=1)
    broken[0, 2, 3] = np.nan
    metrics = {f"whole/{method}/entropy": 0.5 for method in ("random", "gradcam", "hirescam")}
    metrics |= {f"whole/model/attention_entropy/{block:02d}": 0.1 * block for block in range(12)}
    writer.append(0, 0, {"hirescam": maps(0, 0), "gradcam": maps(0, 2, grid=3)}, probabilities=probabilities(0))
    writer.append(10, 1, {"hirescam": broken}, probabilities=probabilities(1), class_idx=[4, 3, 2, 1], metrics=metrics)
    last = {"hirescam": maps(1, 3), "gradcam": maps(1, 4, grid=3)}
    writer.append(20, 2, last, probabilities=probabilities(2), metrics={**metrics, "val_loss": 0.25})
    writer.add_metrics(10, {"val_loss": float("nan")})
    writer.add_metrics(0, {"val_loss": 1.5})
    writer.close()
    return folder / "whole.lcam"


def write_resumed(folder: Path) -> Path:
    """A run that went on from a checkpoint at step 10 after it had been at step 30."""
    for steps in ((0, 10, 20, 30), (20, 25)):
        writer = writer_of(folder, "resumed", labels=[0, 1, 2, 0], class_names=CLASSES)
        for step in steps:
            seed = 10 * len(steps) + step
            writer.append(step, step // 10, {"hirescam": maps(step / 30, seed)}, probabilities=probabilities(seed))
        writer.close()
    return folder / "resumed.lcam"


def write_unlabeled(folder: Path) -> Path:
    """A model that does not classify, but predicts a value at its last look."""
    writer = writer_of(folder, "unlabeled", texts=["1", "2.5", "", "4"])
    for step, values in ((0, None), (1, np.array([0.5, 2, -3, 1e-5]))):
        writer.append(step, 0, {"hirescam": maps(0.5, step)}, class_idx=[0, 1, 2, 3], values=values)
    writer.close()
    return folder / "unlabeled.lcam"


def write_scales(folder: Path) -> Path:
    """Maps as of attention, positive everywhere; of a gradient method, of both signs; constant ones; empty ones."""
    rng = np.random.default_rng(0)
    writer = TimelineWriter(folder, "scales")
    writer.probe(photos(COUNT, seed=1)[0])
    shape = (COUNT, GRID, GRID)
    for step in (0, 10):
        made_up = {
            "positive": rng.uniform(0.5, 1, shape),
            "mixed": rng.normal(size=shape),
            "constant": np.full(shape, 0.3),
            "empty": np.zeros(shape),
        }
        writer.append(step, 0, made_up)
    writer.close()
    return folder / "scales.lcam"


def save(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, allow_nan=False))


def as_json(array: np.ndarray) -> Any:
    """JSON has no NaN: null stands for it."""
    return np.where(np.isnan(array), None, array.astype(object)).tolist()


def record_as_json(path: Path) -> dict[str, Any]:
    """What Python's reader makes of a record."""
    timeline = read_timeline(path)
    return {
        "labels": timeline.labels.tolist(),
        "class_names": timeline.class_names,
        "texts": timeline.texts,
        "values": as_json(timeline.values),
        "size": timeline.size,
        "encoded_images": [base64.b64encode(data).decode() for data in timeline.encoded_images],
        "encoded_regions": [base64.b64encode(data).decode() for data in timeline.encoded_regions],
        "steps": timeline.steps.tolist(),
        "epochs": timeline.epochs.tolist(),
        "metrics": {tag: as_json(values) for tag, values in timeline.metrics.items()},
        "maps": {method: as_json(values) for method, values in timeline.maps.items()},
        "derived": {method: derived(values) for method, values in timeline.maps.items()},
        "top_classes": timeline.top_classes.tolist(),
        "top_probabilities": as_json(timeline.top_probabilities),
        "label_probability": as_json(timeline.label_probability),
        "class_idx": timeline.class_idx.tolist(),
        "ends": [end for *_, end in records_in(path.read_bytes())],
    }


def derived(values: np.ndarray) -> dict[str, Any]:
    """What is computed of one method's maps (T, B, h, w)."""
    unit = values / np.linalg.norm(values, axis=(2, 3), keepdims=True)
    drift = 1 - (unit[1:] * unit[:-1]).sum((2, 3))
    known = np.isfinite(drift)
    return {
        "peaks": np.nan_to_num(values).max((0, 2, 3)).clip(min=0).tolist(),
        "signed_peaks": np.abs(np.nan_to_num(values)).max((0, 2, 3)).tolist(),
        "drift": (np.where(known, drift, 0).sum(0) / known.sum(0).clip(min=1)).tolist(),
    }


def scales_as_json(path: Path) -> dict[str, Any]:
    """The maps of a record on each scale, (T, B, h * w)."""
    maps = {method: torch.from_numpy(values) for method, values in read_timeline(path).maps.items()}
    drawn = {method: maps[method] for method in ("positive", "mixed")}
    return {
        "raw_positive": maps["positive"].flatten(2).tolist(),
        "per_image": {method: scale_per_image(values).flatten(2).tolist() for method, values in drawn.items()},
        "over_time": {method: scale_common(values).flatten(2).tolist() for method, values in drawn.items()},
        "common": {method: (values.relu() / values.max()).flatten(2).tolist() for method, values in drawn.items()},
        "signed": (maps["mixed"][0, 0] / maps["mixed"][0, 0].abs().max()).flatten().tolist(),
    }


def colors_as_json() -> dict[str, Any]:
    """Matplotlib's colormaps as bytes: at 17 even places, and at the 256 that the page's tables hold."""
    names = {name: name for name in ("inferno", "viridis", "cividis", "coolwarm", "berlin")}
    names["managua"] = "managua_r"  # the page has what speaks against the class blue
    colormaps = {name: matplotlib.colormaps[own] for name, own in names.items()}

    def at(places: np.ndarray) -> dict[str, Any]:
        return {
            name: np.rint(255 * colormap(places)[:, :3]).astype(int).tolist() for name, colormap in colormaps.items()
        }

    return {"controls": at(np.linspace(0, 1, 17)), "colors": at(np.arange(256))}


def interpolations() -> list[dict[str, Any]]:
    results = []
    for rows, columns, factor in ((7, 7, 8), (14, 9, 4), (1, 3, 5), (2, 1, 2)):
        values = torch.randn(1, 1, rows, columns, generator=torch.Generator().manual_seed(rows))
        result = torch.nn.functional.interpolate(values, scale_factor=factor, mode="bilinear", align_corners=False)
        shape = {"rows": rows, "columns": columns, "factor": factor}
        results.append({**shape, "values": values.flatten().tolist(), "result": result.flatten().tolist()})
    return results
