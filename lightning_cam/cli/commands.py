"""The commands: what each takes, in words for `--help`. What they do is imported when they run."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from lightning_cam.cli.errors import CommandError, UsageError

# TensorBoard keeps ten pictures and a thousand numbers of each tag; it takes room only for those that are there.
_KEEP_ALL = "images=1000000,scalars=1000000"


def explain_images(
    path: str,
    model: str,
    *,
    method: str | list[str] = "all",
    pretrained: bool = False,
    checkpoint: str | None = None,
    trust_checkpoint: bool = False,
    model_args: dict[str, Any] | None = None,
    forward: str | None = None,
    target_layers: str | list[str] | None = None,
    class_idx: int | None = None,
    class_names: str | list[str] | None = None,
    aug_smooth: bool = False,
    eigen_smooth: bool = False,
    image_size: int | tuple[int, int] | None = None,
    resize: int | None = None,
    mean: float | list[float] | None = None,
    std: float | list[float] | None = None,
    batch_size: int = 16,
    workers: int | None = None,
    device: str = "auto",
    output: str = "out",
    modelname: str | None = None,
) -> None:
    """Show where a model looks in each image of a folder.

    Args:
        path: A file, a folder (with all below it) or a quoted glob pattern.
        model: A timm name, torchvision:NAME, or package.module:callable that returns a model.
        method: One method, several as a,b,c or a list, or all that apply to the model.
        pretrained: Load the library's weights for the model.
        checkpoint: Weights: a state dict, a safetensors file or a Lightning .ckpt.
        trust_checkpoint: Unpickle whatever the checkpoint holds. This runs any code in it.
        model_args: Arguments of the model, as --model_args.num_classes 10.
        forward: The part of the model that maps images to logits; by default found.
        target_layers: The layers to look at, as a,b,c or a list of names; by default found.
        class_idx: The class to explain; by default the predicted one.
        class_names: Names of the classes: a list, or a text file with one per line.
        aug_smooth: Mean over six views of each image: flipped or not, times 0.9, 1 and 1.1.
        eigen_smooth: First principal component in place of the sum over channels.
        image_size: Side of the model's input, or [height, width]; alone, the whole image is squeezed into it.
        resize: Length of the shorter side before the crop to the image size.
        mean: What the model's input is less by: a list with a number per channel, or one number for all.
        std: What the model's input is divided by, likewise.
        batch_size: Images that go through the model at once.
        workers: Processes that read and threads that draw; by default one per core, at most 8.
        device: auto, cpu, cuda, cuda:1, mps.
        output: Folder that the results of all models go to.
        modelname: Name of the folder in it; by default the model's name.
    """
    from lightning_cam.cli.folder import Explainer, explain_files
    from lightning_cam.cli.gallery import INDEX, write_gallery
    from lightning_cam.cli.images import find_images
    from lightning_cam.cli.models import load_model
    from lightning_cam.cli.preprocessing import given
    from lightning_cam.cli.results import Results

    folder = Path(output) / (modelname or model.replace(":", "_").replace("/", "_"))
    # Pictures of earlier runs are no images to explain; but the images themselves may lie in the output folder.
    inside = Path(path).resolve().is_relative_to(Path(output).resolve())
    root, files = find_images(path, exclude=folder if inside else Path(output))
    methods = _methods(method)
    if batch_size < 1 or (workers is not None and workers < 0):
        raise UsageError("--batch_size, --workers: expected at least 1 and 0")
    named = load_model(
        model,
        model_args,
        pretrained=pretrained,
        checkpoint=checkpoint,
        trust_checkpoint=trust_checkpoint,
        class_names=class_names,
        device=device,
    )
    explainer = Explainer(
        named,
        given(named.preprocessing, image_size, resize, mean, std),
        methods,
        forward,
        _names(target_layers),
        class_idx,
        aug_smooth,
        eigen_smooth,
    )
    print(f"each image: {explainer.preprocessing}")
    layers = explainer.find_layers()
    options = {
        "root": str(root.resolve()),
        "model": model,
        "model_args": model_args or {},
        "pretrained": pretrained,
        "checkpoint": None if checkpoint is None else _identity(Path(checkpoint)),
        "method": methods,
        "preprocessing": vars(explainer.preprocessing),
        "forward": forward,
        "target_layers": [layer.name for layer in layers],
        "class_idx": class_idx,
        "class_names": class_names,
        "aug_smooth": aug_smooth,
        "eigen_smooth": eigen_smooth,
    }
    results = Results(folder, options)
    errors = explain_files(
        explainer,
        root,
        files,
        folder,
        results,
        layers,
        batch_size=batch_size,
        workers=min(os.cpu_count() or 1, 8) if workers is None else workers,
    )
    images = results.finish({"layers": [str(layer) for layer in layers], "weights": named.weights}, errors)
    write_gallery(folder, f"{folder.name}: {len(images)} images", images, errors)
    explained = len(files) - len(errors)
    earlier = f", {explained - results.added} of them by an earlier run" if explained > results.added else ""
    print(f"{explained} of {len(files)} images explained{earlier}: {folder / INDEX}")
    if errors:
        for error in errors:
            print(f"{error['file']}: {error['error']}", file=sys.stderr)
        raise CommandError(f"{len(errors)} of {len(files)} images failed, see above")


def replay_checkpoints(
    checkpoints: str,
    module: str,
    *,
    probe: str | None = None,
    data: str | None = None,
    data_args: dict[str, Any] | None = None,
    module_args: dict[str, Any] | None = None,
    trust_checkpoint: bool = False,
    method: str | list[str] = "hirescam",
    num_samples: int = 16,
    forward: str | None = None,
    target_layers: str | list[str] | None = None,
    class_idx: int | None = None,
    class_names: list[str] | None = None,
    image_size: int | tuple[int, int] | None = None,
    resize: int | None = None,
    mean: float | list[float] | None = None,
    std: float | list[float] | None = None,
    batch_size: int | None = None,
    precision: str = "32-true",
    device: str = "auto",
    name: str = "cam",
    output: str = "replay",
) -> None:
    """Make the timeline, filmstrip, scalars and report from a row of Lightning checkpoints.

    Args:
        checkpoints: A quoted glob pattern, or a folder with .ckpt files; they are ordered by their steps.
        module: The LightningModule, as package.module:Class.
        probe: A folder of images to look at.
        data: In place of it a LightningDataModule, as package.module:Class: its first validation batch is looked at.
        data_args: Arguments of the data module.
        module_args: Arguments of the module that go before the hyperparameters in the checkpoint.
        trust_checkpoint: Unpickle whatever the checkpoints hold. This runs any code in them.
        method: One method, several as a,b,c or a list, or all that apply to the model.
        num_samples: Images to look at.
        forward: The part of the module that maps images to logits; by default found.
        target_layers: The layers to look at, as a,b,c or a list of names; by default found.
        class_idx: The class to explain; by default the image's label, or without labels the predicted one.
        class_names: Names of the classes; by default found in the data module.
        image_size: Side of the model's input, or [height, width]; alone, the whole image is squeezed into it.
        resize: Length of the shorter side before the crop to the image size.
        mean: What the model's input is less by: a list with a number per channel, or one number for all.
        std: What the model's input is divided by, likewise.
        batch_size: Images that go through the model at once; by default all.
        precision: That of the training, as its Trainer took it.
        device: auto, cpu, cuda, cuda:1, mps.
        name: First part of all tags.
        output: Log directory, for TensorBoard and the report.
    """
    from lightning_cam.cli import replay
    from lightning_cam.cli.models import load_object, pick_device
    from lightning_cam.cli.preprocessing import given, of_module
    from lightning_cam.training.callback import TransformerCAMCallback

    if (probe is None) == (data is None):
        raise UsageError("--probe, --data: give one of them")
    replay.check_folder(Path(output), name)
    row = replay.find_checkpoints(checkpoints, trust_checkpoint)
    lit = replay.build_module(module, row[0].file, module_args or {}, trust_checkpoint)
    if data is not None:
        batch, names = replay.first_batch(load_object(data, "--data")(**data_args or {}))
    else:
        assert probe is not None
        preprocessing = given(of_module(lit), image_size, resize, mean, std)
        batch, names = replay.folder_batch(probe, num_samples, preprocessing), None
        mean, std = list(preprocessing.mean), list(preprocessing.std)
    methods: Any = _methods(method)  # the callback takes functions too
    callback = TransformerCAMCallback(
        methods=methods,
        num_samples=num_samples,
        class_idx=class_idx,
        target_layers=_names(target_layers),
        forward=forward,
        mean=mean,
        std=std,
        class_names=class_names or names,
        batch_size=batch_size,
        name=name,
        on_error="raise",
    )
    with replay.nothing_left_of_a_failure(Path(output), name):
        replay.replay(
            lit,
            row,
            batch,
            callback,
            Path(output),
            device=pick_device(device),
            precision=precision,
            trust=trust_checkpoint,
        )
    print(f"{len(row)} checkpoints, steps {row[0].step} to {row[-1].step}: lightning-cam board {output}")


def show_layers(
    model: str,
    *,
    model_args: dict[str, Any] | None = None,
    forward: str | None = None,
    target_layers: str | list[str] | None = None,
    image_size: int | tuple[int, int] | None = None,
) -> None:
    """Show which layers of a model would be looked at, and why.

    Args:
        model: A timm name, torchvision:NAME, or package.module:callable that returns a model.
        model_args: Arguments of the model, as --model_args.num_classes 10.
        forward: The part of the model that maps images to logits; by default found.
        target_layers: Layers to look at instead of those found, as a,b,c or a list of names.
        image_size: Side of the model's input, or [height, width].
    """
    from lightning_cam.cli.models import create_model
    from lightning_cam.cli.show import describe_layers

    print(describe_layers(create_model(model, model_args), forward, _names(target_layers), image_size))


def show_methods() -> None:
    """List the methods: what each does, what it costs, where it was published."""
    from lightning_cam.cli.show import describe_methods

    print(describe_methods())


def start_board(logdir: str, *, port: int = 6006, host: str = "localhost") -> None:
    """Start TensorBoard so that it keeps every step of every picture.

    Args:
        logdir: The log directory.
        port: Where it listens.
        host: To whom it listens; 0.0.0.0 to all.
    """
    if not Path(logdir).is_dir():
        raise UsageError(f"there is no folder {logdir!r}")
    options = ["--logdir", logdir, "--port", str(port), "--host", host, "--samples_per_plugin", _KEEP_ALL]
    status = subprocess.call([sys.executable, "-m", "tensorboard.main", *options])
    if status:
        raise CommandError(f"TensorBoard ended with status {status}")


def make_report(logdir: str, *, output: str | None = None) -> None:
    """Write the timeline of a log directory as one HTML file.

    Args:
        logdir: The log directory, of one run or several.
        output: The file; by default cam_report.html in that directory.
    """
    from lightning_cam.timeline.report import write_report

    try:
        print(write_report(logdir, output))
    except FileNotFoundError as error:
        raise UsageError(str(error)) from error


def _names(given: str | list[str] | None) -> list[str] | None:
    """The list that `a,b,c` stands for."""
    return [name.strip() for name in given.split(",")] if isinstance(given, str) else given


def _methods(method: str | list[str]) -> str | list[str]:
    """`all`, or the list of names; checked."""
    from lightning_cam.explanation import find_methods

    names = _names(method) or []
    if names == ["all"]:
        return "all"
    try:
        find_methods(names)
    except ValueError as error:
        raise UsageError(f"--method: {str(error).removeprefix('methods: ')}") from error
    return names


def _identity(file: Path) -> list[Any]:
    status = file.stat()
    return [str(file.resolve()), status.st_size, status.st_mtime_ns]
