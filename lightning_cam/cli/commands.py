"""The commands and their options, with the texts of `--help`. Their code is imported when they run."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from lightning_cam.cli import options
from lightning_cam.cli.errors import CommandError, UsageError, one_line
from lightning_cam.printable import printable

# TensorBoard keeps ten pictures and a thousand numbers of each tag; it takes room only for those that are there.
_KEEP_ALL = "images=1000000,scalars=1000000"


def explain_images(
    *,
    path: Annotated[str, Parameter(help="A file, a folder (searched recursively) or a quoted glob pattern.")],
    model: options.Model,
    method: options.Method = ("default",),
    pretrained: Annotated[bool, Parameter(help="Load the library's pretrained weights.")] = False,
    checkpoint: Annotated[
        str | None, Parameter(help="File of weights: a state dict, safetensors, a Lightning .ckpt or Google's .npz.")
    ] = None,
    state_dict_key: Annotated[
        str | None, Parameter(help="Key of the weights in the checkpoint, such as model_ema or outer.inner.")
    ] = None,
    trust_checkpoint: options.TrustCheckpoint = False,
    model_args: options.ModelArgs = None,
    forward: options.Forward = None,
    target_layers: options.TargetLayers = None,
    class_idx: Annotated[
        options.Whole | None, Parameter(help="The class to explain; by default the predicted one.")
    ] = None,
    class_names: Annotated[
        options.NamesOrFile, Parameter(help="Class names as a,b,c, or a text file with one name per line.")
    ] = None,
    texts: Annotated[
        options.Texts,
        Parameter(help="Classes of a CLIP or SigLIP model: texts, each in quotes, or a text file with one per line."),
    ] = None,
    aug_smooth: Annotated[
        bool, Parameter(help="Average over six versions of each image: flipped or not, scaled by 0.9, 1 and 1.1.")
    ] = False,
    eigen_smooth: Annotated[
        bool, Parameter(help="Use the first principal component instead of the sum over channels.")
    ] = False,
    image_size: options.ImageSize = None,
    resize: options.Resize = None,
    mean: options.Mean = None,
    std: options.Std = None,
    batch_size: Annotated[options.Whole, Parameter(help="Number of images per forward pass.")] = 16,
    workers: Annotated[
        options.Whole | None,
        Parameter(help="Number of reading processes and of drawing threads; by default one per core, at most 8."),
    ] = None,
    device: options.Device = "auto",
    output: Annotated[str, Parameter(help="Folder for the results of all models.")] = "out",
    modelname: Annotated[
        str | None, Parameter(help="Folder for this model in --output; by default the model's name.")
    ] = None,
) -> None:
    """Show where a model looks in each image of a folder."""
    from lightning_cam.cli.explainer import Explainer
    from lightning_cam.cli.folder import explain_files
    from lightning_cam.cli.gallery import write_gallery
    from lightning_cam.cli.images import find_images
    from lightning_cam.cli.models import load_model
    from lightning_cam.cli.preprocessing import given
    from lightning_cam.cli.results import INDEX, Results

    if modelname is not None and (modelname in ("", "..") or Path(modelname).name != modelname):
        raise UsageError(f"--modelname: expected the name of a folder in --output, got {modelname!r}")
    folder = Path(output) / (modelname or model.replace(":", "_").replace("/", "_"))
    # Pictures of earlier runs are no images to explain; but the images themselves may lie in the output folder.
    inside = Path(path).resolve().is_relative_to(Path(output).resolve())
    root, files = find_images(path, exclude=folder if inside else Path(output))
    methods = _methods(method)
    if batch_size < 1 or (workers is not None and workers < 0):
        raise UsageError("--batch-size, --workers: expected at least 1 and at least 0")
    named = load_model(
        model,
        model_args,
        pretrained=pretrained,
        checkpoint=checkpoint,
        state_dict_key=state_dict_key,
        trust_checkpoint=trust_checkpoint,
        class_names=class_names,
        texts=texts,
        device=device,
    )
    if texts is not None and forward is not None:
        raise UsageError("--texts, --forward: give one of them; texts are compared with all of the model")
    explainer = Explainer(
        named,
        given(named.preprocessing, image_size, resize, mean, std),
        methods,
        forward,
        target_layers,
        class_idx,
        aug_smooth,
        eigen_smooth,
    )
    print(f"preprocessing: {explainer.preprocessing}")
    if explainer.shows_features:
        hint = "; --texts makes classes of texts" if named.images_and_texts is not None else ""
        print(f"the model returns features, no classes: the maps show them{hint}")
    layers = explainer.find_layers()
    facts = {
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
        "texts": None if texts is None else named.class_names,
        "aug_smooth": aug_smooth,
        "eigen_smooth": eigen_smooth,
    }
    results = Results(folder, facts)
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
    results.finish({"layers": [str(layer) for layer in layers], "weights": named.weights}, errors)
    write_gallery(folder, f"{folder.name}: {len(results)} images", results, errors)
    explained = len(files) - len(errors)
    earlier = f", {explained - results.added} of them in an earlier run" if explained > results.added else ""
    print(f"{explained} of {len(files)} images explained{earlier}: {printable(folder / INDEX)}")
    if errors:
        for error in errors:
            print(f"{printable(error['file'])}: {one_line(error['error'])}", file=sys.stderr)
        raise CommandError(f"{len(errors)} of {len(files)} images failed, see above")


def replay_checkpoints(
    *,
    checkpoints: Annotated[
        str, Parameter(help="A quoted glob pattern, or a folder with .ckpt files; they are sorted by step.")
    ],
    module: Annotated[str, Parameter(help="The LightningModule, as package.module:Class.")],
    probe: Annotated[str | None, Parameter(help="A folder of images to explain.")] = None,
    data: Annotated[
        str | None,
        Parameter(help="Instead of --probe, a LightningDataModule (package.module:Class): its first validation batch."),
    ] = None,
    cohort: Annotated[
        options.Whole, Parameter(help="Number of validation images of --data to search for findings; 0 for none.")
    ] = 200,
    data_args: Annotated[
        options.Arguments, Parameter(help="Arguments of the data module, as --data-args.NAME VALUE.")
    ] = None,
    module_args: Annotated[
        options.Arguments,
        Parameter(help="Arguments of the module; they override the hyperparameters in the checkpoint."),
    ] = None,
    trust_checkpoint: options.TrustCheckpoint = False,
    method: options.Method = ("default",),
    num_samples: Annotated[options.Whole, Parameter(help="Number of images to explain.")] = 16,
    forward: options.Forward = None,
    target_layers: options.TargetLayers = None,
    class_idx: Annotated[
        options.Whole | None,
        Parameter(
            help="The class to explain; by default the image's label, or the predicted class if there are no labels."
        ),
    ] = None,
    class_names: Annotated[
        options.Names, Parameter(help="Class names as a,b,c; by default those of the data module.")
    ] = None,
    image_size: options.ImageSize = None,
    resize: options.Resize = None,
    mean: options.Mean = None,
    std: options.Std = None,
    batch_size: Annotated[
        options.Whole | None, Parameter(help="Number of images per forward pass; by default all.")
    ] = None,
    precision: Annotated[str, Parameter(help="Precision of the training, as given to its Trainer.")] = "32-true",
    device: options.Device = "auto",
    name: Annotated[str, Parameter(help="Prefix of all tags.")] = "cam",
    output: Annotated[str, Parameter(help="Log directory, for TensorBoard and the report.")] = "replay",
) -> None:
    """Make the timeline, filmstrip, scalars and report from a series of Lightning checkpoints."""
    from lightning_cam.cli import replay
    from lightning_cam.cli.models import load_object, pick_device
    from lightning_cam.cli.preprocessing import given, of_module
    from lightning_cam.training.callback import TransformerCAMCallback

    if (probe is None) == (data is None):
        raise UsageError("--probe, --data: give exactly one of them")
    replay.check_folder(Path(output), name)
    row = replay.find_checkpoints(checkpoints, trust_checkpoint)
    lit = replay.build_module(module, row[0].file, module_args or {}, trust_checkpoint)
    if data is not None:
        images = None
        batches, names = replay.first_batches(load_object(data, "--data")(**data_args or {}), cohort)
    else:
        assert probe is not None
        preprocessing = given(of_module(lit), image_size, resize, mean, std)
        images = replay.folder_probe(probe, num_samples, preprocessing)
        batches, names, cohort = [{"image": images.images}], None, 0
        mean, std = list(preprocessing.mean), list(preprocessing.std)
    methods: Any = _methods(method)  # the callback takes functions too
    callback = TransformerCAMCallback(
        methods=methods,
        num_samples=num_samples,
        probe=images,
        class_idx=class_idx,
        target_layers=target_layers,
        forward=forward,
        mean=mean,
        std=std,
        class_names=class_names or names,
        batch_size=batch_size,
        cohort=cohort or None,
        name=name,
        on_error="raise",
    )
    with replay.nothing_left_of_a_failure(Path(output), name):
        replay.replay(
            lit,
            row,
            batches,
            callback,
            Path(output),
            device=pick_device(device),
            precision=precision,
            trust=trust_checkpoint,
            is_whole=data is not None,
        )
    print(f"{len(row)} checkpoints, steps {row[0].step} to {row[-1].step}: lightning-cam board {printable(output)}")


def show_layers(
    model: options.Model,
    *,
    model_args: options.ModelArgs = None,
    forward: options.Forward = None,
    target_layers: options.TargetLayers = None,
    image_size: options.ImageSize = None,
) -> None:
    """Show which layers of a model would be explained, and why."""
    from lightning_cam.cli.models import create_model
    from lightning_cam.cli.show import describe_layers

    print(describe_layers(create_model(model, model_args), forward, target_layers, image_size))


def show_methods() -> None:
    """List the methods: what each does, what it costs and where it was published."""
    from lightning_cam.cli.show import describe_methods

    print(describe_methods())


def start_board(
    logdir: Annotated[str, Parameter(help="The log directory.")],
    *,
    port: Annotated[options.Whole, Parameter(help="Port to listen on.")] = 6006,
    host: Annotated[str, Parameter(help="Address to listen on; 0.0.0.0 for all interfaces.")] = "localhost",
) -> None:
    """Start TensorBoard so that it keeps every step of every picture."""
    if not Path(logdir).is_dir():
        raise UsageError(f"there is no folder {logdir!r}")
    words = ["--logdir", logdir, "--port", str(port), "--host", host, "--samples_per_plugin", _KEEP_ALL]
    status = subprocess.call([sys.executable, "-m", "tensorboard.main", *words])
    if status:
        raise CommandError(f"TensorBoard exited with status {status}")


def make_report(
    logdir: Annotated[str, Parameter(help="The log directory of one or several runs.")],
    *,
    output: Annotated[str | None, Parameter(help="File to write; by default cam_report.html in logdir.")] = None,
) -> None:
    """Write the timeline of a log directory as one HTML file."""
    from lightning_cam.timeline.format import RecordError
    from lightning_cam.timeline.pace import Pace
    from lightning_cam.timeline.report import write_report

    try:
        with Pace(bar=True) as pace:
            path = write_report(logdir, output, pace=pace)
    except FileNotFoundError as error:
        raise UsageError(str(error)) from error
    except RecordError as error:
        raise CommandError(str(error)) from error
    print(printable(path))


def show_findings(
    logdir: Annotated[str, Parameter(help="The log directory of one or several runs, or a record (.lcam).")],
    *,
    json: Annotated[bool, Parameter(negative=(), help="Print all looks as JSON.")] = False,
) -> None:
    """Print what was found in a training run: shortcuts, confusions, moving evidence."""
    from lightning_cam.cli.found import as_json, as_text, read_findings

    found = read_findings(logdir)
    print(as_json(found) if json else as_text(found))


def _methods(names: Sequence[str]) -> str | list[str]:
    """`all`, `default`, or the list of names; checked."""
    from lightning_cam.explanation import find_methods
    from lightning_cam.methods.defaults import DEFAULT

    if list(names) in (["all"], [DEFAULT]):
        return names[0]
    try:
        find_methods(list(names))
    except ValueError as error:
        raise UsageError(f"--method: {str(error).removeprefix('methods: ')}") from error
    return list(names)


def _identity(file: Path) -> list[Any]:
    status = file.stat()
    return [str(file.resolve()), status.st_size, status.st_mtime_ns]
