"""`lightning-cam explain` from the words typed to the files written."""

import json
import subprocess
import sys
from functools import partial, wraps
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_cam import METHODS, cli, explain
from lightning_cam.cli import explainer as explainer_module
from lightning_cam.cli import main
from lightning_cam.cli.commands import explain_images
from lightning_cam.cli.errors import UsageError, as_typed
from lightning_cam.cli.images import read_image
from lightning_cam.cli.models import first_output
from lightning_cam.cli.pictures import draw_overlay
from lightning_cam.cli.preprocessing import Preprocessing
from lightning_cam.passes.scored import scores_of
from lightning_cam.render import has_evidence, to_colors
from tests.models import class_token_vit

SIZE = 32
PREPARE = Preprocessing((SIZE, SIZE), resize=40, mean=(0.5,) * 3, std=(0.25,) * 3)
PLAIN = ["--model", "tests.models:class_token_vit", "--workers", "0", "--device", "cpu"]
SIZED = [*PLAIN, "--image-size", str(SIZE), "--resize", "40"]
MODEL = [*SIZED, "--mean", "[0.5,0.5,0.5]", "--std", "[0.25,0.25,0.25]"]
SHAPES = {"a.png": (50, 90), "sub/b.jpg": (120, 40), "sub/c.webp": (64, 64)}


@pytest.fixture
def photos(tmp_path):
    generator = np.random.default_rng(0)
    root = tmp_path / "photos"
    for name, (height, width) in SHAPES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        # Coarse, so that JPEG keeps it.
        small = Image.fromarray(generator.integers(0, 256, (6, 6, 3), dtype=np.uint8))
        small.resize((width, height), Image.Resampling.BICUBIC).save(root / name)
    return root


def run(*args):
    """Run the command line in this process; its exit status."""
    try:
        main([str(arg) for arg in args])
    except SystemExit as error:
        return error.code
    return 0


def explain_photos(photos, out, *more):
    return run("explain", "--path", photos, *MODEL, "--output", out, "--modelname", "vit", *more)


def results_of(out):
    return json.loads((out / "vit" / "results.json").read_text())


def gallery_of(out):
    """What the page holds, as it stands there."""
    return (out / "vit" / "index.html").read_text().split('type="application/json">')[1].split("</script>")[0]


def random_vit():
    """The model that the command makes, whose weights are random but the same in every run."""
    torch.manual_seed(0)
    return class_token_vit()


def batch_of(photos):
    return torch.stack([PREPARE(read_image(photos / name)) for name in SHAPES])


def test_pictures_have_the_size_of_their_images(photos, tmp_path):
    assert explain_photos(photos, tmp_path / "out", "--method", "hirescam,gradcam++") == 0
    for name, (height, width) in SHAPES.items():
        for method in ("hirescam", "gradcam++"):
            assert Image.open(tmp_path / "out" / "vit" / name / f"{method}.jpg").size == (width, height)
        sheet = Image.open(tmp_path / "out" / "vit" / name / "contact.jpg")
        # The image and two methods side by side, the longer side of each 224 pixels, under their names.
        tile = round(width * 224 / max(width, height))
        assert 3 * tile < sheet.width < 3 * max(tile, 100) + 40
        assert 224 * height / max(width, height) < sheet.height < 224 * height / max(width, height) + 80


@pytest.mark.parametrize("options", [[], ["--aug-smooth"], ["--eigen-smooth"]])
def test_overlays_show_the_maps_of_the_library_where_the_model_looked(photos, tmp_path, options):
    assert explain_photos(photos, tmp_path / "out", "--method", "[hirescam,eigencam]", *options) == 0
    smooth = {options[0].removeprefix("--").replace("-", "_"): True} if options else {}
    explanation = explain(random_vit(), batch_of(photos), ["hirescam", "eigencam"], **smooth)
    for method in ("hirescam", "eigencam"):
        heat, evidence = explanation.heatmap(method), has_evidence(explanation.maps[method]).tolist()
        for i, (name, size) in enumerate(SHAPES.items()):
            image = read_image(photos / name)
            draw_overlay(image, heat[i], PREPARE.seen(size), evidence[i]).save(tmp_path / "x.jpg", quality=90)
            assert (tmp_path / "out" / "vit" / name / f"{method}.jpg").read_bytes() == (tmp_path / "x.jpg").read_bytes()


def test_results_are_those_of_the_model(photos, tmp_path):
    (tmp_path / "names.txt").write_text("ant\nbee\ncat\ndog\nelk\n")
    assert explain_photos(photos, tmp_path / "out", "--class-names", tmp_path / "names.txt", "--method", "all") == 0
    results = results_of(tmp_path / "out")
    model, images = random_vit(), batch_of(photos)
    probabilities = model(images).softmax(1)
    expected = explain(model, images, "all")
    assert results["errors"] == []
    assert [image["file"] for image in results["images"]] == list(SHAPES)
    for image, probability in zip(results["images"], probabilities, strict=True):
        best = int(probability.argmax())
        assert (image["class_idx"], image["prediction"]) == (best, ["ant", "bee", "cat", "dog", "elk"][best])
        assert image["probability"] == pytest.approx(probability.max().item(), abs=1e-6)
        assert [entry["class_idx"] for entry in image["top5"]] == probability.argsort(descending=True).tolist()
        assert image["target_layers"] == ["blocks.2.norm1"]
        assert list(image["metrics"]) == [*(method for method in expected.maps if method != "random"), "random"]


def test_all_is_every_method_that_applies(photos, tmp_path):
    assert explain_photos(photos, tmp_path / "out", "--method", "all") == 0
    methods = list(results_of(tmp_path / "out")["images"][0]["metrics"])
    assert {"hirescam", "gradcam", "gradcam++", "eigencam", "layercam", "random"} <= set(methods) <= set(METHODS)
    written = {file.stem for file in (tmp_path / "out" / "vit" / "a.png").iterdir()}
    assert written == {"image", *methods, "contact"}


def test_the_given_class_is_explained(photos, tmp_path):
    assert explain_photos(photos, tmp_path / "out", "--method", "hirescam", "--class-idx", "3") == 0
    assert {image["explained_class_idx"] for image in results_of(tmp_path / "out")["images"]} == {3}


def test_a_broken_file_is_named_at_the_end_and_does_not_stop_the_rest(photos, tmp_path, capsys):
    (photos / "broken.jpg").write_bytes(b"no image")
    whole = (photos / "sub" / "b.jpg").read_bytes()
    (photos / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    assert explain_photos(photos, tmp_path / "out", "--method", "hirescam", "--batch-size", "1") == 1
    err = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in err if "Error" in line] == ["broken.jpg", "cut.jpg"]
    assert err[-1] == "lightning-cam: 2 of 5 images failed, see above"
    results = results_of(tmp_path / "out")
    assert [error["file"] for error in results["errors"]] == ["broken.jpg", "cut.jpg"]
    assert [image["file"] for image in results["images"]] == list(SHAPES)
    page = json.loads(gallery_of(tmp_path / "out"))
    assert page["errors"] == results["errors"]
    assert page["errors"][0]["error"].startswith("UnidentifiedImageError: cannot identify image file")


def test_a_run_that_was_cut_off_goes_on_where_it_stopped(photos, tmp_path, monkeypatch, capsys):
    seen = []

    def interrupted(model, images, *args, **kwargs):
        seen.append(len(images))
        if len(seen) == 2:
            raise KeyboardInterrupt
        return explain(model, images, *args, **kwargs)

    options = ("--method", "hirescam", "--batch-size", "1")
    monkeypatch.setattr(explainer_module, "explain", interrupted)
    assert explain_photos(photos, tmp_path / "out", *options) == 130
    assert "run the same command again" in capsys.readouterr().err
    # The first line holds the options; the last may have been cut off in the middle.
    progress = tmp_path / "out" / "vit" / "progress.jsonl"
    done = len(progress.read_text().splitlines()) - 1
    with progress.open("a") as file:
        file.write('{"result": {"file": "sub/b.jpg", "pre')
    assert explain_photos(photos, tmp_path / "out", *options) == 0
    assert len(seen) == 2 + 3 - done
    monkeypatch.undo()
    assert explain_photos(photos, tmp_path / "whole", *options) == 0
    assert results_of(tmp_path / "out") == results_of(tmp_path / "whole")


def test_a_second_run_does_nothing_but_for_a_changed_image(photos, tmp_path, monkeypatch, capsys):
    def last_line():
        return capsys.readouterr().out.splitlines()[-1].partition(": ")[0]

    assert explain_photos(photos, tmp_path / "out", "--method", "hirescam") == 0
    assert last_line() == "3 of 3 images explained"
    seen = []
    monkeypatch.setattr(
        explainer_module, "explain", lambda m, x, *a, **k: (seen.append(len(x)), explain(m, x, *a, **k))[1]
    )
    assert explain_photos(photos, tmp_path / "out", "--method", "hirescam") == 0
    assert seen == []
    assert last_line() == "3 of 3 images explained, 3 of them in an earlier run"
    Image.new("RGB", (20, 30), "red").save(photos / "a.png")
    assert explain_photos(photos, tmp_path / "out", "--method", "hirescam") == 0
    assert seen == [1]
    assert last_line() == "3 of 3 images explained, 2 of them in an earlier run"
    assert Image.open(tmp_path / "out" / "vit" / "a.png" / "hirescam.jpg").size == (20, 30)


def test_results_of_other_options_are_not_mixed(photos, tmp_path, capsys):
    assert explain_photos(photos, tmp_path / "out", "--method", "hirescam") == 0
    capsys.readouterr()
    assert explain_photos(photos, tmp_path / "out", "--method", "gradcam") == 2
    assert "contains results with a different method (['hirescam'], now ['gradcam'])" in capsys.readouterr().err


def test_a_folder_without_any_result_is_taken_over(photos, tmp_path):
    assert explain_photos(photos, tmp_path / "out", "--method", "hirescam", "--class-idx", "1001") == 2
    assert explain_photos(photos, tmp_path / "out", "--method", "hirescam", "--class-idx", "1") == 0
    results = results_of(tmp_path / "out")
    assert results["options"]["class_idx"] == 1
    assert [image["explained_class_idx"] for image in results["images"]] == [1, 1, 1]


def test_workers_in_processes_give_the_same(photos, tmp_path):
    options = ("--method", "hirescam", "--batch-size", "2")
    assert explain_photos(photos, tmp_path / "one", *options) == 0
    assert explain_photos(photos, tmp_path / "two", *options, "--workers", "2") == 0
    assert results_of(tmp_path / "one") == results_of(tmp_path / "two")


@pytest.mark.parametrize("output", [".", "out"])
def test_pictures_of_earlier_runs_are_not_explained(photos, output):
    for name in ("one", "two"):
        args = [*MODEL, "--method", "hirescam", "--output", photos / output, "--modelname", name]
        assert run("explain", "--path", photos if output == "out" else photos / "sub", *args) == 0
    files = {image["file"] for image in json.loads((photos / output / "two" / "results.json").read_text())["images"]}
    assert files == (set(SHAPES) if output == "out" else {"b.jpg", "c.webp"})


def test_the_image_itself_is_there_for_the_gallery(photos, tmp_path):
    assert explain_photos(photos, tmp_path / "out", "--method", "random,hirescam") == 0
    shown = Image.open(tmp_path / "out" / "vit" / "a.png" / "image.jpg")
    assert np.abs(np.asarray(shown, float) - np.asarray(read_image(photos / "a.png"), float)).mean() < 3  # JPEG
    images = json.loads(gallery_of(tmp_path / "out"))["images"]
    assert [image["methods"] for image in images] == [["random", "hirescam"]] * 3  # in the order asked for


def test_the_gallery_holds_every_image_and_no_markup_from_names(photos, tmp_path):
    (photos / "a.png").rename(photos / "x<script>.png")
    assert explain_photos(photos, tmp_path / "out", "--method", "hirescam") == 0
    data = gallery_of(tmp_path / "out")
    assert "<" not in data
    assert {image["file"] for image in json.loads(data)["images"]} == {"x<script>.png", "sub/b.jpg", "sub/c.webp"}


def test_options_come_from_a_yaml_file(photos, tmp_path):
    config = tmp_path / "explain.yaml"
    config.write_text(
        f"path: {photos}\nmodel: tests.models:class_token_vit\nmodel_args: {{depth: 2}}\nmethod: [gradcam, layercam]\n"
        f"image_size: {SIZE}\nmean: [0.5, 0.5, 0.5]\nstd: [0.25, 0.25, 0.25]\nworkers: 0\noutput: {tmp_path / 'out'}\n"
    )
    assert run("explain", "--config", config, "--modelname", "vit") == 0
    image = results_of(tmp_path / "out")["images"][0]
    assert image["target_layers"] == ["blocks.1.norm1"]
    assert list(image["metrics"]) == ["gradcam", "layercam"]


def test_what_is_typed_wins_over_the_file_and_keeps_the_rest_of_a_mapping(photos, tmp_path):
    config = tmp_path / "explain.yaml"
    config.write_text(
        "model-args: {depth: 2, num_classes: 4, embed_dim: 24}\nmethod: gradcam\naug_smooth: true\n"
        "class_names: ['ant, red', 'bee', 'cat']\nclass_idx: 2\n"
    )
    typed = ("--model_args.num_classes", "3", "--method", "layercam", "hirescam", "--no-aug-smooth")
    assert explain_photos(photos, tmp_path / "out", "--config", config, *typed) == 0
    results = results_of(tmp_path / "out")
    assert results["options"]["model_args"] == {"depth": 2, "num_classes": 3, "embed_dim": 24}
    assert (results["options"]["method"], results["options"]["aug_smooth"]) == (["layercam", "hirescam"], False)
    assert {image["explained_class"] for image in results["images"]} == {"cat"}
    assert results["options"]["class_names"] == ["ant, red", "bee", "cat"]


@pytest.mark.parametrize(
    ("typed", "given"),
    [
        (["--image-size", "32"], {"image_size": 32}),
        (["--image_size", "32", "48"], {"image_size": (32, 48)}),
        (["--image-size", "32,48"], {"image_size": (32, 48)}),
        (["--image-size", "[32, 48]"], {"image_size": (32, 48)}),
        (["--mean", "0.5"], {"mean": 0.5}),
        (["--mean", "[0.5]"], {"mean": [0.5]}),
        (["--mean", "0.5", "1e-1", "-1"], {"mean": [0.5, 0.1, -1.0]}),
        (["--mean=0.5,0.4"], {"mean": [0.5, 0.4]}),
        (["--method", "a, b"], {"method": ["a", "b"]}),
        (["--method", "a,b", "--method", "c"], {"method": ["a", "b", "c"]}),
        (["--target_layers", "['a', b]"], {"target_layers": ["a", "b"]}),
        (["--class-names", "no,yes"], {"class_names": ["no", "yes"]}),
        (["--class-names", "['ant, red', bee]"], {"class_names": ["ant, red", "bee"]}),
        (["--resize", "40", "--resize", "48"], {"resize": 48}),
        (["--class-names", "names.txt"], {"class_names": "names.txt"}),
        (["--pretrained", "--aug_smooth", "--no-eigen-smooth"], {"pretrained": True, "aug_smooth": True}),
        (["--model_args.a_b", "10", "--model-args.c=1e-3"], {"model_args": {"a_b": 10, "c": 0.001}}),
        (["--model-args.a", "[1,2]", "--model-args.b", "text"], {"model_args": {"a": [1, 2], "b": "text"}}),
        (["--model-args.a.b", "true"], {"model_args": {"a": {"b": True}}}),
        (["--model-args.a", "{b: no}"], {"model_args": {"a": {"b": False}}}),
    ],
)  # fmt: skip
def test_options_are_read_as_typed(monkeypatch, typed, given):
    seen = {}
    # The signature is that of the command, what is called is not.
    monkeypatch.setitem(cli._COMMANDS, "explain", wraps(explain_images)(lambda **options: seen.update(options)))
    assert run("explain", "--path", "x", "--model", "y", *typed) == 0
    assert {name: value for name, value in seen.items() if value is not False} == {"path": "x", "model": "y", **given}


def test_one_value_is_a_list_of_one_and_a_number_for_all_channels(photos, tmp_path):
    shape = ["explain", "--path", photos, *SIZED, "--modelname", "vit"]
    for name, layer, half in [("lists", "[blocks.1.norm1]", "[0.5,0.5,0.5]"), ("values", "blocks.1.norm1", "0.5")]:
        options = ["--target-layers", layer, "--mean", half, "--std", half, "--output", tmp_path / name]
        assert run(*shape, *options) == 0
    results = results_of(tmp_path / "values")
    assert results == results_of(tmp_path / "lists")
    assert results["options"]["preprocessing"]["mean"] == [0.5, 0.5, 0.5]
    assert results["images"][0]["target_layers"] == ["blocks.1.norm1"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "shorter side resized to 35, center crop of 32×32, mean 0.5 0.5 0.5, std 0.5 0.5 0.5"),
        (["--image-size", "32"], "whole image resized to 32×32, mean 0.5 0.5 0.5, std 0.5 0.5 0.5"),
        (
            ["--image-size", "32", "--mean", "0.25", "--std", "[0.1,0.2,0.3]"],
            "whole image resized to 32×32, mean 0.25 0.25 0.25, std 0.1 0.2 0.3",
        ),
    ],
)
def test_the_preprocessing_is_said(photos, tmp_path, capsys, options, said):
    args = ["--path", photos, "--model", "tests.models:class_token_vit", "--method", "hirescam", "--workers", "0"]
    assert run("explain", *args, *options, "--output", tmp_path / "out") == 0
    assert capsys.readouterr().out.splitlines()[0] == f"preprocessing: {said}"


def test_a_checkpoint_s_weights_are_explained(photos, tmp_path, capsys):
    trained = random_vit()
    with torch.no_grad():
        trained.head.bias[4] += 100
    state = {f"model.{name}": tensor for name, tensor in trained.state_dict().items()}
    torch.save({"state_dict": {**state, "loss.weight": torch.ones(5)}}, tmp_path / "best.ckpt")
    assert explain_photos(photos, tmp_path / "out", "--checkpoint", tmp_path / "best.ckpt", "--method", "hirescam") == 0
    results = results_of(tmp_path / "out")
    assert {image["class_idx"] for image in results["images"]} == {4}
    assert results["weights"].endswith("prefix 'model.' removed, 1 unexpected (loss.weight)")


@pytest.mark.parametrize(
    ("model", "args", "layers"),
    [
        ("vit_tiny_patch16_224", ["depth=1", "embed_dim=24", "num_heads=2"], ["blocks.0.norm1"]),
        (
            "torchvision:vit_b_16",
            ["image_size=64"],
            ["encoder.layers.encoder_layer_1.ln_1"],
        ),
    ],
)
def test_models_of_the_libraries(photos, tmp_path, monkeypatch, model, args, layers):
    if ":" in model:  # the real one takes seconds to make
        from torchvision.models import vision_transformer as vit

        monkeypatch.setattr(vit, "_vision_transformer", partial(_small, vit._vision_transformer))
    args = [f"--model-args.{arg}" for arg in (*args, "num_classes=3")]
    command = ["explain", "--path", photos / "a.png", "--model", model, *args, "--method", "hirescam", "--workers", "0"]
    command += ["--image-size", "64"] if ":" in model else []
    assert run(*command, "--output", tmp_path / "out", "--modelname", "vit") == 0
    image = results_of(tmp_path / "out")["images"][0]
    assert (len(image["top5"]), image["target_layers"]) == (3, layers)


def _small(create, *args, **kwargs):
    return create(*args, **kwargs | {"hidden_dim": 24, "mlp_dim": 24, "num_heads": 2, "num_layers": 2})


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--path", "{photos}"], 'lightning-cam: Command "explain" parameter --model requires an argument.\n'),
        (["--path", "{photos}", *MODEL, "--bogus=" + "b" * 300], "lightning-cam: Unknown option: --bogus.\n"),
        (["--path", "{photos}", *MODEL, "--pth", "x"], ": Unknown option: --pth. Did you mean --path?\n"),
        (["--pth", "{photos}", *MODEL], "--path requires an argument. Did you mean --path instead of --pth?"),
        (["--path", "{photos}", *MODEL, "--class-id=1"], "option: --class-id. Did you mean --class-idx?\n"),
        (["--path", "{photos}", *MODEL, "--model_arg.depth", "3"], "--model_arg.depth. Did you mean --model-args?\n"),
        (["{photos}", *MODEL], "parameter --path requires an argument. Unexpected argument '{photos}'.\n"),
        (["--path", "{photos}", "stray", *MODEL], "lightning-cam: unexpected argument 'stray'\n"),
        (["--path", "{photos}", *MODEL, "--class_idx"], ' parameter --class_idx requires an argument.\n'),
        (["--path", "{photos}", *MODEL, "--debug=maybe"], '--debug: unable to convert "maybe" into bool.\n'),
        (["--path", "{photos}", *MODEL, "--class-idx", "red"], " --class-idx: expected a whole number, got 'red'\n"),
        (["--path", "{photos}", *MODEL, "--batch_size", "2.5"], "--batch_size: expected a whole number, got '2.5'\n"),
        (["--path", "{photos}", *PLAIN, "--mean", "gray"], "expected a number or a list of numbers, got 'gray'\n"),
        (["--path", "{photos}", *PLAIN, "--mean", "[1,[2]]"], "a number or a list of numbers, got '[1,[2]]'\n"),
        (["--path", "{photos}", *PLAIN, "--image-size", "[3,x]"], "one or two whole numbers, got '[3,x]'\n"),
        (["--path", "{photos}", *PLAIN, "--image-size", "3", "4", "5"], "one or two whole numbers, got '3 4 5'\n"),
        (["--path", "{photos}", *PLAIN, "--image-size"], " --image-size requires at least 1 element. Got 0.\n"),
        (["--path", "{photos}", *MODEL, "--model-args", "3"], "as --model-args.num_classes 10, got '3'\n"),
        (["--path", "{photos}", *MODEL, "--model-args.depth", "{{["], "expected a YAML value, got '{{['\n"),
        (["--config", "nope.yaml"], "--config: 'nope.yaml' cannot be read: No such file or directory\n"),
        (["--path", "{photos}", *MODEL, "--method", "gradcamm"], "unknown method 'gradcamm'; did you mean 'gradcam'?"),
        (["--path", "{photos}/none", *MODEL], "--path: no image"),
        (["--path", "{photos}", *MODEL, "--aug-smooth", "true"], "lightning-cam: unexpected argument 'true'\n"),
        (["--path", "{photos}", *MODEL, "--agu_smooth"], "option: --agu_smooth. Did you mean --aug-smooth?\n"),
        (["--path", "{photos}", *MODEL, "--class-idx", "9"], "class-idx: the model's classes go from 0 to 4, got 9\n"),
        (["--path", "{photos}", *MODEL, "--target-layers", "blocks.9"], ": --target-layers: the model has no module"),
        (["--path", "{photos}", *MODEL, "--forward", "hea"], ": --forward: VisionTransformer has no callable"),
        (["--path", "{photos}", *MODEL, "--target-layers", "head"], "; name another layer with --target-layers, or"),
        (["--path", "{photos}/a.png", "{photos}/sub/b.jpg", *MODEL], "b.jpg'; quote a pattern, or the shell"),
        (["--path", "{photos}", *MODEL, "--device", "gpu"], "device 'gpu'; expected auto, cpu, cuda, cuda:1 or mps\n"),
        (["--path", "{photos}", *PLAIN, "--mean", "[0.5,0.5]", "--std", "1"], "expected 1 or 3 numbers, got 2; models"),
        (["--path", "{photos}", *PLAIN, "--image-size", "48"], "images of 3×48×48 (AssertionError: Input height (48) "),
        (["--path", "{photos}", *PLAIN, "--image-size", "48"], "what it takes with --image-size, --mean and --std. M"),
        (["--path", "{photos}", *SIZED, "--mean", "[0]", "--std", "[1]"], "images of 1×32×32 (RuntimeError: Given gr"),
        (["--path", "{photos}", *MODEL, "--checkpoint", "none.ckpt"], "--checkpoint: there is no file 'none.ckpt'"),
        (["--path", "{photos}", *MODEL, "--model-args.depht", "3"], "--model-args: tests.models:class_token_vit"),
        (["--path", "{photos}", "--model", "vit_bas_patch16_224"], "the nearest names are vit_base_patch16_224, "),
        (["--path", "{photos}", "--model", "none"], "--model: timm has no 'none' (torchvision:NAME"),
        (["--path", "{photos}", "--model", "torchvision:vit_b_99"], "has no 'vit_b_99'; the nearest names are vit_b_"),
        (["--path", "{photos}", "--model", "tests.none:x"], "--model: cannot import 'tests.none'"),
        (["--path", "{photos}", "--model", "tests.models:none"], "--model: 'tests.models' has no 'none'"),
    ],
)  # fmt: skip
def test_wrong_use_is_one_line_and_status_2(photos, tmp_path, capsys, args, message):
    args = [arg.format(photos=photos) for arg in args]
    assert run("explain", *args, "--output", tmp_path / "out") == 2
    err = [line for line in capsys.readouterr().err.splitlines(keepends=True) if "weights of" not in line]
    assert len(err) == 1 and err[0].startswith("lightning-cam: ")
    assert message.format(photos=photos) in err[0]


def test_a_wrong_value_in_a_file_is_told_like_one_that_was_typed(tmp_path, capsys):
    config = tmp_path / "explain.yaml"
    for content, message in {
        b"class_idx: red": f"Invalid value for [class_idx]: expected a whole number, got 'red' in {config}",
        b"clas_idx: 3": f'Unknown option: "[clas_idx]" from {config}. Did you mean --class-idx?',
        b"methods: gradcam": f'Unknown option: "[methods]" from {config}. Did you mean --method?',
        b"- path": f"--config: '{config}' contains no options; write each as `name: value`",
        b"path: \xff": f"--config: '{config}' is not UTF-8 text",
        b"path: [": f"--config: '{config}' is not valid YAML: while parsing a flow node",
    }.items():
        config.write_bytes(content)
        assert run("explain", "--config", config, "--path", tmp_path, *MODEL) == 2
        err = capsys.readouterr().err
        assert err.startswith(f"lightning-cam: {message}") and err.count("\n") == 1


def test_debug_shows_the_traceback(photos, tmp_path):
    with pytest.raises(ValueError, match="target_layers"):
        explain_photos(photos, tmp_path / "out", "--target-layers", "[blocks.9]", "--debug")


def test_labels_that_the_model_has_not_are_told_without_what_no_shell_can_give():
    with pytest.raises(ValueError) as error:
        scores_of(torch.zeros(2, 5), 2, torch.tensor([1, 7]), None)
    assert as_typed(str(error.value), ["class_idx"]) == (
        "--class-idx: the model has 5 logits, so the classes to explain, by default the labels, go from 0 to 4; "
        "got 7; give --class-idx, or score= (in Python) for an output without classes"
    )


@pytest.mark.parametrize("model", ["vit_tiny_patch16_224", "torchvision:vit_b_16"])
def test_weights_that_cannot_be_fetched_name_the_options(photos, tmp_path, monkeypatch, capsys, model):
    def offline(*args, **kwargs):
        raise URLError("no network")

    monkeypatch.setattr("timm.create_model", offline)
    monkeypatch.setattr("torchvision.models.get_model", offline)
    args = ["--path", photos, "--model", model, "--output", tmp_path / "out"]
    assert run("explain", *args, "--pretrained") == 1
    assert capsys.readouterr().err == (
        f"lightning-cam: --pretrained: the weights of {model} cannot be downloaded (URLError: <urlopen "
        "error no network>); if you have them in a file, give --checkpoint FILE\n"
    )


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_and_help_know_the_options(tmp_path, monkeypatch, capsys, shell):
    monkeypatch.setenv("HOME", str(tmp_path))  # where the shell's start file is
    script = tmp_path / "completion"
    assert run("--install-completion", "--shell", shell, "--output", script) == 0
    assert "aug-smooth" in script.read_text()
    assert run("explain", "--help") == 0
    said = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "File of weights: a state dict, safetensors" in said and "Options for all commands" in said


def test_help_and_completion_do_not_import_torch():
    code = (
        "import sys; from lightning_cam.cli import main; main(['explain', '--help']); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.parametrize("error", [RuntimeError("wrong size"), ValueError("not enough values to unpack")])
def test_a_model_that_does_not_take_images_says_what_to_give(error):
    with pytest.raises(UsageError, match=f"images of 3×8×8 .{type(error).__name__}: {error}.; set what it takes with"):
        first_output(torch.nn.Identity(), fails_with(error), torch.zeros(2, 3, 8, 8), "--image-size")


def test_memory_that_runs_out_is_not_put_down_to_the_size_of_images():
    error = torch.OutOfMemoryError("CUDA out of memory")
    with pytest.raises(torch.OutOfMemoryError):
        first_output(torch.nn.Identity(), fails_with(error), torch.zeros(2, 3, 8, 8), "--image-size")


def fails_with(error):
    def forward(images):
        raise error

    return forward


def test_features_need_no_class(photos, tmp_path):
    """Colors have no heat to be measured, and nothing is said of a class."""
    methods = ["cls_attention", "cls_similarity", "pca"]
    assert explain_photos(photos, tmp_path / "out", "--method", *methods) == 0
    expected = explain(random_vit(), batch_of(photos), methods)
    for i, image in enumerate(results_of(tmp_path / "out")["images"]):
        assert image["prediction"] is None and image["class_idx"] is None and image["top5"] == []
        assert image["metrics"]["pca"] == {} and image["metrics"]["cls_attention"].keys() == {"entropy", "gini"}
        folder = tmp_path / "out" / "vit" / image["file"]
        assert {f"{method}.jpg" for method in methods} < {file.name for file in folder.iterdir()}
        picture = read_image(photos / image["file"])
        size = (picture.height, picture.width)
        drawn = draw_overlay(picture, to_colors(expected.maps["pca"][i]), PREPARE.seen(size), True)
        drawn.save(tmp_path / "x.jpg", quality=90)
        assert (folder / "pca.jpg").read_bytes() == (tmp_path / "x.jpg").read_bytes()
