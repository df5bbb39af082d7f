"""`lightning-cam explain`: every method over a folder of images."""

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from lightning_cam import metrics
from lightning_cam.cli.images import ImageFiles, ReadImage, read_image
from lightning_cam.cli.models import NamedModel, first_run
from lightning_cam.cli.pictures import contact_sheet, draw_overlay
from lightning_cam.cli.preprocessing import Preprocessing
from lightning_cam.cli.results import Results, place_of
from lightning_cam.explanation import Explanation, explain, find_methods
from lightning_cam.methods.registry import OF_FEATURES
from lightning_cam.model.classifier import classifier_of
from lightning_cam.observe.views import SeveralViews
from lightning_cam.render import has_evidence, shown_name, to_colors
from lightning_cam.resolve import TargetLayer, find_layers_and_views
from lightning_cam.resolve.depth import Depth
from lightning_cam.resolve.embedding import find_embedding
from lightning_cam.resolve.features import FeatureLayer, find_features
from lightning_cam.training.checks import CONTROL

CONTACT_SHEET = "contact.jpg"
IMAGE = "image.jpg"
_TOP = 5
_JPEG_QUALITY = 90
_MAX_SIDE = 8192  # pixels of the longer side of an overlay


@dataclass(frozen=True)
class Explainer:
    """What is asked of every image.

    Args:
        model: The model, on the device it is to run on.
        preprocessing: From a picture to what the model takes.
        methods: Name or names of methods, or "all".
        forward: Which part of the model to call, see `classifier_of`.
        target_layers: Names of layers; by default found.
        class_idx: The class to explain; by default the predicted one.
        aug_smooth: Mean over six views of the image.
        eigen_smooth: First principal component in place of the sum over channels.
    """

    model: NamedModel
    preprocessing: Preprocessing
    methods: str | list[str] = "all"
    forward: str | None = None
    target_layers: list[str] | None = None
    class_idx: int | None = None
    aug_smooth: bool = False
    eigen_smooth: bool = False

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next((p.device for p in self.model.module.parameters()), torch.device("cpu"))

    @property
    def _blank(self) -> Tensor:
        return torch.zeros(1, len(self.preprocessing.mean), *self.preprocessing.image_size, device=self.device)

    @cached_property
    def _found(self) -> tuple[list[TargetLayer], SeveralViews]:
        """The target layers and the calls of the network, which are the same for all images."""
        module, forward = self.model.module, classifier_of(self.model.module, self.forward)
        with first_run(self._blank, "--image-size, --mean and --std"):
            layers, calls = find_layers_and_views(
                module, self._blank, forward=forward, target_layers=self.target_layers
            )
        return layers if self.target_layers else layers[-1:], calls or SeveralViews.of(module, self._blank, forward)

    def find_layers(self) -> list[TargetLayer]:
        """Find the target layers."""
        return self._found[0]

    @cached_property
    def depth(self) -> Depth:
        """Where methods of the whole depth read relevance."""
        return Depth(find_embedding(self.model.module, self._blank, forward=self._found[1]))

    @cached_property
    def features(self) -> FeatureLayer:
        """Where methods of features read them."""
        layers, calls = self._found
        is_named = self.target_layers is not None
        return find_features(self.model.module, self._blank, layers[-1], forward=calls, is_named=is_named)

    def __call__(self, images: Tensor, layers: Sequence[TargetLayer]) -> Explanation:
        """Explain a batch (B, C, H, W)."""
        needs = frozenset[str]().union(*(method.needs for method in find_methods(self.methods)))
        return explain(
            self.model.module,
            images.to(self.device),
            self.methods,
            class_idx=self.class_idx,
            target_layers=layers,
            depth=self.depth if "embedding" in needs else None,
            features=self.features if needs & OF_FEATURES else None,
            forward=self._found[1],
            aug_smooth=self.aug_smooth,
            eigen_smooth=self.eigen_smooth,
        )


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
            found = [] if images is None else _explained(explainer, images, layers)
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


@dataclass(frozen=True)
class _Facts:
    """What is known of one explained image, on the CPU.

    Args:
        result: What `results.json` says of it.
        caption: For the contact sheet.
        heat: By method (h, w) in [0, 1], or colors (3, h, w).
        evidence: By method, whether the map says anything.
    """

    result: dict[str, Any]
    caption: str
    heat: dict[str, Tensor]
    evidence: dict[str, bool]


def _explained(explainer: Explainer, images: Tensor, layers: Sequence[TargetLayer]) -> list[_Facts]:
    explanation = explainer(images, layers)
    maps = {method: values.cpu() for method, values in explanation.maps.items()}
    if explainer.methods == "all" and CONTROL in maps:
        maps[CONTROL] = maps.pop(CONTROL)  # what the others are compared with stands last
    colors = explanation.color_maps
    heat = {m: to_colors(maps[m]) if m in colors else explanation.heatmap(m).cpu() for m in maps}
    evidence = {
        method: (values.flatten(1).isfinite().all(1) if method in colors else has_evidence(values)).tolist()
        for method, values in maps.items()
    }
    measured = {
        method: {}
        if method in colors
        else {"entropy": metrics.entropy(values).tolist(), "gini": metrics.gini(values).tolist()}
        for method, values in maps.items()
    }
    of_classes = _of_classes(explainer, explanation)
    facts = []
    for i, (result, caption) in enumerate(of_classes):
        result = {
            **result,
            "target_layers": [layer.name for layer in layers],
            "metrics": {
                method: {metric: round(values[i], 6) for metric, values in by_metric.items()}
                for method, by_metric in measured.items()
            },
        }
        facts.append(
            _Facts(
                result,
                caption,
                {method: values[i] for method, values in heat.items()},
                {method: values[i] for method, values in evidence.items()},
            )
        )
    return facts


def _of_classes(explainer: Explainer, explanation: Explanation) -> list[tuple[dict[str, Any], str]]:
    """What is said of each image's classes, and its caption; nothing where only features are shown."""
    if explanation.logits is None or explanation.class_idx is None:
        nothing: dict[str, Any] = {"prediction": None, "class_idx": None, "probability": None, "top5": []}
        count = len(next(iter(explanation.maps.values())))
        return [({**nothing, "explained_class": None, "explained_class_idx": None}, "")] * count
    probabilities = explanation.logits.softmax(1).cpu()
    top = probabilities.topk(min(_TOP, probabilities.shape[1]))
    explained = explanation.class_idx.tolist()
    names = explainer.model.class_names

    def name(index: int) -> str:
        return names[index] if names and index < len(names) else str(index)

    found = []
    for i in range(len(probabilities)):
        best = [
            {"class": name(index), "class_idx": index, "probability": round(probability, 6)}
            for index, probability in zip(top.indices[i].tolist(), top.values[i].tolist(), strict=True)
        ]
        result = {
            "prediction": best[0]["class"],
            "class_idx": best[0]["class_idx"],
            "probability": best[0]["probability"],
            "top5": best,
            "explained_class": name(explained[i]),
            "explained_class_idx": explained[i],
        }
        predicted = best[0]["class_idx"]
        caption = f"{shown_name(best[0]['class'], predicted)} {best[0]['probability']:.0%}"
        if explained[i] != predicted:
            asked = shown_name(name(explained[i]), explained[i])
            caption += f", explained: {asked} {probabilities[i, explained[i]]:.0%}"
        found.append((result, caption))
    return found


def _draw(file: Path, name: str, facts: _Facts, preprocessing: Preprocessing, folder: Path) -> dict[str, Any]:
    """Write the pictures of one image, and return its result. The file is read again: that costs less than memory."""
    folder.mkdir(parents=True, exist_ok=True)
    image = read_image(file)
    image.thumbnail((_MAX_SIDE, _MAX_SIDE))
    box = preprocessing.seen((image.height, image.width))
    image.save(folder / IMAGE, quality=_JPEG_QUALITY)  # for the page: no browser shows every format that is read here
    pictures = [("image", image)]
    for method, heat in facts.heat.items():
        picture = draw_overlay(image, heat, box, facts.evidence[method])
        picture.save(folder / f"{method}.jpg", quality=_JPEG_QUALITY)
        picture.thumbnail((512, 512))  # what the contact sheet needs, so that not all are held at full size
        pictures.append((method, picture))
    image = image.copy()
    image.thumbnail((512, 512))
    pictures[0] = ("image", image)
    contact_sheet(pictures, f"{name}: {facts.caption}" if facts.caption else name).save(
        folder / CONTACT_SHEET, quality=_JPEG_QUALITY
    )
    return {"file": name, **facts.result}


def _stamp(file: Path) -> list[int]:
    try:
        status = os.stat(file)
    except OSError:  # it is gone, which is told when it is read
        return []
    return [status.st_size, status.st_mtime_ns]
