"""What a look costs, as a ratio to a plain forward of the same batch.

All contenders run in turn, round after round, in one process; a ratio is the median over rounds of the time of a
contender by the time of the plain forward of the same round. Peak memory, on a GPU only, is what a contender takes on
top of what was taken before it, by what the plain forward takes.

    python -m benchmarks.speed --model vit_base_patch16_224 --images 16 --rounds 7
"""

import argparse
import gc
import logging
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytorch_grad_cam
import timm
import torch
import torchcam.methods
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor, nn

from lightning_cam import METHODS, ProbeBatch, TokenLayout, explain, find_target_layers
from lightning_cam.history import History
from lightning_cam.look import compose
from lightning_cam.render import Captions
from lightning_cam.sinks import Introduction, SinkWorker, sink_of
from lightning_cam.trunk import Trunk

EIGHT = [
    "hirescam",
    "gradcam",
    "layercam",
    "gradcam_elementwise",
    "gradcam++",
    "xgradcam",
    "eigencam",
    "eigengradcam",
]
# Those that share one forward and one short backward.
ONE_PASS = sorted(
    name
    for name, method in METHODS.items()
    if method.needs <= {"activations", "gradients", "hvp", "layer_activations", "layer_gradients", "image_size"}
)
SEED_SET = {
    "gradcam": pytorch_grad_cam.GradCAM,
    "gradcam++": pytorch_grad_cam.GradCAMPlusPlus,
    "xgradcam": pytorch_grad_cam.XGradCAM,
    "layercam": pytorch_grad_cam.LayerCAM,
    "eigencam": pytorch_grad_cam.EigenCAM,
    "eigengradcam": pytorch_grad_cam.EigenGradCAM,
}
TORCH_CAM = {"gradcam": torchcam.methods.GradCAM, "layercam": torchcam.methods.LayerCAM}

Contender = Callable[[], object]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit_base_patch16_224", help="a timm name")
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    logging.getLogger("lightning_cam").setLevel(logging.ERROR)
    device = torch.device(arguments.device)
    model = timm.create_model(arguments.model).eval().to(device)
    size = model.pretrained_cfg["input_size"][-1]
    images = torch.randn(arguments.images, 3, size, size, device=device)
    classes = torch.arange(arguments.images, device=device)
    with tempfile.TemporaryDirectory() as folder:
        contenders, worker = _contenders(model, images, classes, Path(folder))
        times, memory = _measure(contenders, arguments.rounds, device)
        worker.close()
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    forward = statistics.median(times["plain forward"])
    print(f"{arguments.model}, {arguments.images} images of {size} px, {where}, torch {torch.__version__}")
    print(f"plain forward: {forward * 1000:.0f} ms (median of {arguments.rounds})\n")
    print("| work | forwards (median) | lowest to highest | peak memory |\n|---|---|---|---|")
    for name, seconds in times.items():
        ratios = [a / b for a, b in zip(seconds, times["plain forward"], strict=True)]
        taken = [statistics.median(memory[key]) for key in (name, "plain forward")]
        share = f"{taken[0] / taken[1]:.2f}" if device.type == "cuda" else "not measured"
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        print(f"| {name} | {statistics.median(ratios):.2f} | {spread} | {share} |")


def _contenders(
    model: nn.Module, images: Tensor, classes: Tensor, folder: Path
) -> tuple[dict[str, Contender], SinkWorker]:
    layers = find_target_layers(model, images)
    look, worker = _look(model, images, classes, folder)

    def forward() -> None:
        with torch.no_grad():
            model(images)

    def ours(methods: list[str]) -> Contender:
        return lambda: [
            explanation.heatmap(name)
            for explanation in [explain(model, images, methods, class_idx=classes, target_layers=layers)]
            for name in methods
        ]

    trunk = Trunk(model, model, images[:2], layers)
    trunk.listen(images)
    forward()
    trunk.stop()
    assert trunk.matches()

    def ride() -> None:
        with trunk.replayed():
            ours(["hirescam"])()

    return {
        "plain forward": forward,
        **{f"lightning-cam, {name}": ours([name]) for name in ONE_PASS},
        "lightning-cam, the first eight together": ours(EIGHT),
        f"lightning-cam, all {len(ONE_PASS)} one-pass methods together": ours(ONE_PASS),
        "lightning-cam, the seed set together": ours(list(SEED_SET)),
        "lightning-cam, hirescam on a validation forward that ran anyway": ride,
        "a whole look, hirescam (maps, grid, filmstrip, logging)": look,
        "grad-cam, gradcam": lambda: _grad_cam(model, layers, images, classes, ["gradcam"]),
        "grad-cam, the seed set": lambda: _grad_cam(model, layers, images, classes, list(SEED_SET)),
        **{
            f"torch-cam, {name}": lambda name=name: _torch_cam(model, layers, images, classes, name)
            for name in TORCH_CAM
        },
    }, worker


def _look(model: nn.Module, images: Tensor, classes: Tensor, folder: Path) -> tuple[Contender, SinkWorker]:
    """What the training thread does at one validation run, ten epochs into a training."""
    layers = find_target_layers(model, images)
    probe = ProbeBatch(images, labels=classes, num_labels=len(classes))
    photos = torch.rand_like(images)
    names = [str(index) for index in range(1000)]
    captions, history = Captions(names, images.device), History()
    introduction = Introduction("cam", ["hirescam"], "", (photos * 255).byte(), classes, None, names)
    sink = sink_of(TensorBoardLogger(folder))
    assert sink is not None
    worker = SinkWorker([sink], introduction, capacity=1000)

    def look() -> None:
        explanation = explain(model, probe.images, class_idx=probe.labels, target_layers=layers)
        step = len(steps)
        steps.append(step)
        worker.submit(compose(explanation, probe, photos, captions, history, name="cam", step=step, epoch=step))

    steps: list[int] = []
    for _ in range(history.limit):
        look()
    return look, worker


def _grad_cam(model: nn.Module, layers: list, images: Tensor, classes: Tensor, names: list[str]) -> None:
    targets = [pytorch_grad_cam.utils.model_targets.ClassifierOutputTarget(c) for c in classes.tolist()]
    for name in names:
        with SEED_SET[name](model, [layer.module for layer in layers], layers[0].layout.to_grid) as cam:
            cam(images, targets)


def _torch_cam(model: nn.Module, layers: list, images: Tensor, classes: Tensor, name: str) -> None:
    """torch-cam knows no token layouts: for it the grid becomes the output of a module, in the norm's place."""
    parent, _, attribute = layers[0].name.rpartition(".")
    block = model.get_submodule(parent)
    shown = _ShowsGrid(layers[0].module, layers[0].layout)
    setattr(block, attribute, shown)
    try:
        with TORCH_CAM[name](model, target_layer=shown.grid) as extractor:
            extractor(classes.tolist(), model(images))
    finally:
        setattr(block, attribute, layers[0].module)


class _ShowsGrid(nn.Module):
    """A norm (B, N, C) whose patches pass through a module as (B, C, h, w)."""

    def __init__(self, norm: nn.Module, layout: TokenLayout) -> None:
        super().__init__()
        self.norm, self.layout, self.grid = norm, layout, nn.Identity()

    def forward(self, tokens: Tensor) -> Tensor:
        output = self.norm(tokens)
        grid = self.grid(self.layout.to_grid(output) * 1)
        return torch.cat([output[:, : self.layout.num_prefix_tokens], grid.flatten(2).transpose(1, 2)], 1)


def _measure(
    contenders: dict[str, Contender], rounds: int, device: torch.device
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Seconds and bytes of each contender in each round."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    memory: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(rounds + 1):
        for name, contender in contenders.items():
            before = _reset_peak(device)
            began = time.perf_counter()
            contender()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if turn:  # the first round warms up
                times[name].append(time.perf_counter() - began)
                memory[name].append(_peak(device) - before)
    return times, memory


def _reset_peak(device: torch.device) -> int:
    """Begin to measure the peak anew; returns the bytes taken now."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    return 0


def _peak(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0


if __name__ == "__main__":
    main()
