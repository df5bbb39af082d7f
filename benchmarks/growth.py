"""What looks, records and the page's server cost as things grow: each row of a table is one size.

Times of looks are ratios to a plain forward of the same images in the same process, medians of three; the rest are
seconds. A small ViT is used, so that what grows is our part and not the model's.

    python -m benchmarks.growth
"""

import logging
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import timm
import torch
from tensorboard.plugins.base_plugin import TBContext
from torch import nn
from werkzeug.test import Client

from benchmarks.speed import ONE_PASS
from lightning_cam import ProbeBatch, explain, find_target_layers, read_timeline
from lightning_cam.tensorboard_plugin.plugin import CamTimelinePlugin
from lightning_cam.timeline import TimelineWriter
from lightning_cam.timeline.report import write_report
from lightning_cam.timeline.timelapse import write_timelapse
from lightning_cam.training.draw import draw
from lightning_cam.training.history import History
from lightning_cam.training.look import measure
from lightning_cam.training.run_info import RunInfo

ROUNDS = 3


def main() -> None:
    logging.getLogger("lightning_cam").setLevel(logging.ERROR)
    torch.manual_seed(0)
    print("| looks of 16 images in a record | read, s | report, s | timelapse, s | record, MB |\n|---|---|---|---|---|")
    for looks in (10, 100, 1000, 10_000):
        print(f"| {looks:,} | {record_row(looks)} |")
    head = "forward, ms | look on the training's thread, forwards | drawing on its own thread, s"
    for what, rows in {
        "probe images of 64 px": (look_row(n, images=n) for n in (16, 64, 256, 1024)),
        "image size, 16 images": (look_row(n, size=n) for n in (64, 128, 256, 512, 1024)),
        "classes": (look_row(n, classes=n) for n in (10, 1000, 21_841)),
        "methods": (look_row(n, methods=n) for n in (1, 5, len(ONE_PASS))),
    }.items():
        print(f"\n| {what} | {head} |\n|---|---|---|---|")
        for row in rows:
            print(row)
    print("\n| runs in a log directory, 100 looks each | listed by the server, s | one run served, s |\n|---|---|---|")
    for runs in (1, 10, 100):
        print(f"| {runs} | {server_row(runs)} |")


def record_row(looks: int) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = write_record(Path(folder), looks)
        seconds = [seconds_of(lambda: read_timeline(path))]
        seconds += [seconds_of(lambda: write_report(path)), seconds_of(lambda: write_timelapse(path))]
        return " | ".join([*(f"{value:.2f}" for value in seconds), f"{path.stat().st_size / 1e6:.1f}"])


def look_row(shown: int, images: int = 16, size: int = 64, classes: int = 10, methods: int = 1) -> str:
    model = timm.create_model("vit_tiny_patch16_224", img_size=size, depth=4, num_classes=classes).eval()
    batch = torch.rand(images, 3, size, size)
    labels = torch.arange(images) % classes
    layers, names = find_target_layers(model, batch), ONE_PASS[:methods]
    probe, history = ProbeBatch(batch, labels, num_labels=classes), History()
    class_names = [f"class number {index}" for index in range(classes)]
    run = RunInfo("cam", names, "", (batch * 255).byte(), labels, None, class_names)
    looks = []

    def look() -> None:
        explanation = explain(model, batch, names, class_idx=labels, target_layers=layers)
        looks.append(measure(explanation, probe, history, name="cam", step=len(looks), epoch=len(looks)))

    def forward(model: nn.Module = model) -> None:
        with torch.no_grad():
            model(batch)

    plain, own = median(forward), median(look)
    drawing = seconds_of(lambda: draw(looks[-1], run))
    return f"| {shown:,} | {plain * 1000:.0f} | {own / plain:.2f} | {drawing:.2f} |"


def server_row(runs: int) -> str:
    with tempfile.TemporaryDirectory() as folder:
        for index in range(runs):
            write_record(Path(folder) / f"run_{index}", 100)
        plugin = CamTimelinePlugin(TBContext(logdir=folder))
        apps = {route: Client(app) for route, app in plugin.get_plugin_apps().items()}
        listed = seconds_of(lambda: apps["/timelines"].get("/data/plugin/cam_timeline/timelines"))
        served = seconds_of(lambda: apps["/record"].get("/record", query_string={"id": "run_0/cam.lcam", "from": 0}))
        return f"{listed:.3f} | {served:.3f}"


def write_record(folder: Path, looks: int, images: int = 16) -> Path:
    rng = np.random.default_rng(0)
    writer = TimelineWriter(folder)
    path = writer.probe(rng.integers(0, 255, (images, 3, 64, 64), np.uint8), labels=np.arange(images) % 10)
    maps, probabilities = rng.normal(size=(images, 14, 14)).astype(np.float32), rng.random((images, 10), np.float32)
    for step in range(looks):
        writer.append(
            step, step, {"hirescam": maps}, probabilities=probabilities, metrics={"cam/hirescam/entropy": 0.5}
        )
        writer.add_metrics(step, {"val_loss": 0.1})
    writer.close()
    return path


def median(action: Callable[[], object]) -> float:
    action()
    return statistics.median(seconds_of(action) for _ in range(ROUNDS))


def seconds_of(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
