"""What a look costs, as a ratio to a plain forward of the same batch.

All contenders run in turn, round after round, in one process; a ratio is the median over rounds of the time of a
contender by the time of the plain forward of the same round. All look at the norm before the last attention, unless
other layers are named; layers and embedding are found beforehand, as in a training. Peak memory is measured in a round
of its own: the tensors that a contender takes on top of what was taken before it, by those of the plain forward, and
the same with the weights counted in both.

AblationCAM, which runs the model once per channel, is held against grad-cam's in a table of its own, on four images.

    python -m benchmarks.speed --model vit_base_patch16_224 --images 16 --rounds 7
"""

import argparse
import gc
import logging
import math
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_grad_cam
import timm
import torch
import torchcam.methods
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor, nn

from benchmarks.cost import peak_memory, seconds_of
from lightning_cam import METHODS, ProbeBatch, TargetLayer, TokenLayout, explain, find_target_layers
from lightning_cam.resolve.depth import Depth
from lightning_cam.resolve.embedding import find_embedding
from lightning_cam.training.history import History
from lightning_cam.training.look import measure
from lightning_cam.training.sinks import RunInfo, SinkWorker, sink_of

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
# Those that need the graph of the whole model.
WHOLE_DEPTH = [
    *(name for name, method in METHODS.items() if "embedding" in method.needs),
    *("gae", "attention_rollout", "legrad"),
]
SEED_SET = {
    "gradcam": pytorch_grad_cam.GradCAM,
    "gradcam++": pytorch_grad_cam.GradCAMPlusPlus,
    "xgradcam": pytorch_grad_cam.XGradCAM,
    "layercam": pytorch_grad_cam.LayerCAM,
    "eigencam": pytorch_grad_cam.EigenCAM,
    "eigengradcam": pytorch_grad_cam.EigenGradCAM,
}
TORCH_CAM = {"gradcam": torchcam.methods.GradCAM, "layercam": torchcam.methods.LayerCAM}

PLAIN = "plain forward"

Contender = Callable[[], object]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit_base_patch16_224", help="a timm name")
    parser.add_argument("--only", help="a part of the names of the rows to measure")
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    logging.getLogger("lightning_cam").setLevel(logging.ERROR)
    device = torch.device(arguments.device)
    model = timm.create_model(arguments.model).eval().to(device)
    images = torch.randn(arguments.images, *model.pretrained_cfg["input_size"], device=device)
    classes = torch.arange(arguments.images, device=device)
    with tempfile.TemporaryDirectory() as folder:
        contenders, worker = _contenders(model, images, classes, Path(folder))
        contenders = {name: run for name, run in contenders.items() if name == PLAIN or (arguments.only or "") in name}
        gc.freeze()  # what was imported need not be searched for garbage before each measurement
        memory = {name: peak_memory(contender, device) for name, contender in contenders.items()}  # and warms up
        times = _measure(contenders, arguments.rounds, device)
        worker.close()
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"{arguments.model}, {arguments.images} images, {where}, torch {torch.__version__}")
    weights = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
    plain_seconds, plain_memory = times[PLAIN], memory[PLAIN]
    print(
        f"{PLAIN}: {statistics.median(plain_seconds) * 1000:.0f} ms (median of {arguments.rounds}), "
        f"{plain_memory / 2**20:.0f} MiB on top of {weights / 2**20:.0f} MiB of weights\n"
    )
    print("| work | forwards (median) | lowest to highest | peak memory | with the weights |\n|---|---|---|---|---|")
    for name, seconds in times.items():
        ratios = [a / b for a, b in zip(seconds, plain_seconds, strict=True)]
        taken, in_all = memory[name] / plain_memory, (weights + memory[name]) / (weights + plain_memory)
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        print(f"| {name} | {statistics.median(ratios):.2f} | {spread} | {taken:.2f} | {in_all:.2f} |")
    print(f"\n{_ablation(device)}")


def _contenders(
    model: nn.Module, images: Tensor, classes: Tensor, folder: Path
) -> tuple[dict[str, Contender], SinkWorker]:
    two = find_target_layers(model, images)
    layers = two[-1:]  # the default: the norm before the last attention
    embedding = find_embedding(model, images)
    look, worker = _look(model, images, classes, layers, embedding, folder)

    def forward() -> None:
        with torch.no_grad():
            model(images)

    def ours(methods: list[str], layers: list[TargetLayer] = layers, batch_size: int | None = None) -> Contender:
        def maps() -> None:
            found = explain(
                model,
                images,
                methods,
                class_idx=classes,
                target_layers=layers,
                depth=Depth(embedding),
                batch_size=batch_size,
            )
            for name in methods:
                found.heatmap(name)

        return maps

    return {
        PLAIN: forward,
        "lightning-cam, the defaults: attnlrp and hirescam": ours(["attnlrp", "hirescam"]),
        **{f"lightning-cam, {name}": ours([name]) for name in WHOLE_DEPTH},
        "lightning-cam, attnlrp, all images at once": ours(["attnlrp"], batch_size=len(images)),
        **{f"lightning-cam, {name}": ours([name]) for name in ONE_PASS},
        "lightning-cam, the first eight together": ours(EIGHT),
        f"lightning-cam, all {len(ONE_PASS)} one-pass methods together": ours(ONE_PASS),
        "lightning-cam, the seed set together": ours(list(SEED_SET)),
        "lightning-cam, hirescam at the last two blocks": ours(["hirescam"], two),
        "lightning-cam, hirescam at the last two blocks, half of the images at a time": ours(
            ["hirescam"], two, batch_size=math.ceil(len(images) / 2)
        ),
        "a whole look, the defaults (maps, grids, filmstrips, logging)": look,
        "grad-cam, gradcam": lambda: _grad_cam(SEED_SET["gradcam"], model, layers, images, classes),
        "grad-cam, the seed set": lambda: [_grad_cam(cls, model, layers, images, classes) for cls in SEED_SET.values()],
        **{
            f"torch-cam, {name}": lambda name=name: _torch_cam(model, layers, images, classes, name)
            for name in TORCH_CAM
        },
    }, worker


def _look(
    model: nn.Module,
    images: Tensor,
    classes: Tensor,
    layers: list[TargetLayer],
    embedding: TargetLayer,
    folder: Path,
) -> tuple[Contender, SinkWorker]:
    """What the training thread does at one validation run, ten epochs into a training."""
    probe = ProbeBatch(images, labels=classes, num_labels=len(classes))
    display_images = torch.rand_like(images)
    names = [str(index) for index in range(1000)]
    history = History()
    run = RunInfo("cam", ["attnlrp", "hirescam"], "", (display_images * 255).byte(), classes, None, names)
    sink = sink_of(TensorBoardLogger(folder))
    assert sink is not None
    worker = SinkWorker([sink], run, capacity=1000)

    def look() -> None:
        explanation = explain(model, probe.images, class_idx=probe.labels, target_layers=layers, depth=Depth(embedding))
        step = len(steps)
        steps.append(step)
        worker.submit(measure(explanation, probe, history, name="cam", step=step, epoch=step))

    steps: list[int] = []
    for _ in range(history.limit):
        look()
    return look, worker


def _grad_cam(
    cls: type, model: nn.Module, layers: list[TargetLayer], images: Tensor, classes: Tensor, **options: Any
) -> np.ndarray:
    targets = [pytorch_grad_cam.utils.model_targets.ClassifierOutputTarget(c) for c in classes.tolist()]
    with cls(model, [layer.module for layer in layers], layers[0].layout.to_grid, **options) as cam:
        return cam(images, targets)


def _torch_cam(model: nn.Module, layers: list[TargetLayer], images: Tensor, classes: Tensor, name: str) -> None:
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


def _measure(contenders: dict[str, Contender], rounds: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds of each contender in each round."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, contender in contenders.items():
            times[name].append(seconds_of(contender, device))
    return times


def _ablation(device: torch.device) -> str:
    """AblationCAM of four images, ours and grad-cam's: a table, and how far apart the maps are."""
    model = timm.create_model("vit_tiny_patch16_224").eval().to(device)
    images, classes = torch.randn(4, 3, 224, 224, device=device), torch.arange(4, device=device)
    layers = find_target_layers(model, images)[-1:]
    maps: dict[str, Tensor] = {}

    def ours() -> None:
        explanation = explain(model, images, "ablationcam", class_idx=classes, target_layers=layers)
        maps["lightning-cam"] = explanation.heatmap("ablationcam").cpu()

    def theirs() -> None:
        ablation = {"ablation_layer": pytorch_grad_cam.ablation_layer.AblationLayerVit()}
        maps["grad-cam"] = torch.from_numpy(
            _grad_cam(pytorch_grad_cam.AblationCAM, model, layers, images, classes, **ablation)
        )

    ours()  # warms up
    median = statistics.median(seconds_of(ours, device) for _ in range(3))
    seconds = {"lightning-cam": median, "grad-cam": seconds_of(theirs, device)}
    apart = (maps["lightning-cam"] - maps["grad-cam"]).abs().max().item()
    lines = ["| ablationcam, vit_tiny_patch16_224, 4 images | seconds | times lightning-cam |", "|---|---|---|"]
    lines += [f"| {name} | {s:.2f} | {s / seconds['lightning-cam']:.1f} |" for name, s in seconds.items()]
    return "\n".join([*lines, "", f"Largest difference between the two maps, each scaled to [0, 1]: {apart:.1g}."])


if __name__ == "__main__":
    main()
