"""`lightning-cam explain` with models of Hugging Face and open_clip, by their libraries' own results."""

import json
import sys

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from torch.testing import assert_close

from lightning_cam import explain
from lightning_cam.cli.images import read_image
from lightning_cam.cli.models import create_model
from lightning_cam.cli.pictures import draw_overlay
from lightning_cam.cli.preprocessing import of_hugging_face
from lightning_cam.explanation.dense import leading_parts
from lightning_cam.render import has_evidence
from tests.dense import SIZE, scenes, segformer, yolos
from tests.self_supervised import vit
from tests.test_cli_explain import run

SMALL = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


@pytest.fixture
def photos(tmp_path):
    root = tmp_path / "photos"
    root.mkdir()
    for number, image in enumerate(scenes(2)[0]):
        pixels = (image.clamp(0, 1) * 255).byte().permute(1, 2, 0).numpy()
        Image.fromarray(pixels).resize((96, 64), Image.Resampling.NEAREST).save(root / f"{number}.png")
    return root


def explained(photos, tmp_path, model, *more):
    args = ["--path", photos, "--model", model, "--workers", "0", "--device", "cpu", "--output", tmp_path / "out"]
    assert run("explain", *args, "--modelname", "m", *more) == 0
    return json.loads((tmp_path / "out" / "m" / "results.json").read_text())["images"]


def saved(folder, model, processor):
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def given_to(model, photos, prepare):
    torch.manual_seed(0)
    pixels = torch.stack([prepare(read_image(path)) for path in sorted(photos.iterdir())])
    with torch.no_grad():
        return pixels, model.eval()(pixels)


@pytest.mark.parametrize(
    ("processor", "image_size"),
    [
        (transformers.ViTImageProcessor(size={"height": 32, "width": 48}), None),
        (transformers.CLIPImageProcessor(size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32}), None),
        (transformers.ConvNextImageProcessor(size={"shortest_edge": 32}), None),
        (transformers.SiglipImageProcessor(size={"height": 32, "width": 32}, do_normalize=False), None),
        (transformers.DetrImageProcessor(size={"height": 32, "width": 48}, do_pad=False), 64),
    ],
)
def test_the_preprocessing_is_that_of_the_processor(processor, image_size):
    generator = np.random.default_rng(0)
    image = Image.fromarray(generator.integers(0, 256, (90, 120, 3), dtype=np.uint8))
    theirs = processor(image, return_tensors="pt")["pixel_values"][0]
    ours = of_hugging_face(processor.to_dict(), image_size)(image)
    scale = 255 * min(of_hugging_face(processor.to_dict()).std)
    assert_close(ours, theirs, rtol=0, atol=1.01 / scale)  # resized bytes may be rounded up or down


def test_a_processor_that_keeps_the_aspect_ratio_and_crops_nothing():
    config = transformers.DetrImageProcessor().to_dict()
    assert (of_hugging_face(config).image_size, of_hugging_face(config).resize) == ((800, 800), None)
    assert of_hugging_face(config, [512, 864]).image_size == (512, 864)


def test_a_classifier(photos, tmp_path, capsys):
    torch.manual_seed(0)
    config = transformers.ViTConfig(**SMALL, image_size=SIZE, patch_size=8, id2label={0: "ant", 1: "bee", 2: "cat"})
    model = transformers.ViTForImageClassification(config)
    processor = transformers.ViTImageProcessor(size={"height": SIZE, "width": SIZE})
    images = explained(photos, tmp_path, saved(tmp_path / "vit", model, processor))
    _, output = given_to(model, photos, of_hugging_face(processor.to_dict()))
    for image, row in zip(images, output.logits.softmax(1), strict=True):
        assert image["class_idx"] == int(row.argmax()) and image["prediction"] == ["ant", "bee", "cat"][row.argmax()]
        assert image["probability"] == pytest.approx(float(row.max()), abs=1e-5)
        assert list(image["metrics"]) == ["attnlrp", "hirescam"]  # the callback's default
    assert "random" not in capsys.readouterr().err


def test_objects_and_their_boxes(photos, tmp_path):
    torch.manual_seed(0)
    model = yolos(num_labels=4)
    processor = transformers.YolosImageProcessor(size={"height": SIZE, "width": SIZE})
    images = explained(photos, tmp_path, saved(tmp_path / "yolos", model, processor), "--method", "hirescam")
    prepare = of_hugging_face(processor.to_dict(), [SIZE, SIZE])
    pixels, output = given_to(model, photos, prepare)
    theirs = processor.post_process_object_detection(output, 0.0, [(64, 96)] * 2)
    for image, found in zip(images, theirs, strict=True):
        order = found["scores"].argsort(descending=True)
        assert [one["class_idx"] for one in image["objects"]] == found["labels"][order].tolist()
        assert_close(
            [one["probability"] for one in image["objects"]], found["scores"][order].tolist(), atol=1e-5, rtol=0
        )
        boxes = found["boxes"][order].clamp(min=0).minimum(torch.tensor([96.0, 64.0, 96.0, 64.0]))
        for one, box in zip(image["objects"], boxes.tolist(), strict=True):  # a cell of the network's input is 3 × 2
            assert np.abs(np.subtract(one["box"], box)).max() <= 3
        assert (image["class_idx"], image["explained_class_idx"]) == (image["objects"][0]["class_idx"],) * 2
        assert image["probability"] == pytest.approx(image["objects"][0]["probability"], abs=1e-5)
        assert list(image["metrics"]) == ["hirescam", "hirescam 2", "hirescam 3"]
    forward, parts = leading_parts(model, pixels, model, None, count=None)
    expected = explain(
        model, pixels.repeat_interleave(3, 0), "hirescam", forward=forward, parts=parts, class_idx=parts.classes
    )
    heat, evidence = expected.heatmap("hirescam"), has_evidence(expected.maps["hirescam"])
    for row in range(6):
        name = "hirescam.jpg" if row % 3 == 0 else f"hirescam {row % 3 + 1}.jpg"
        image = read_image(photos / f"{row // 3}.png")
        drawn = draw_overlay(image, heat[row], (0, 0, 96, 64), bool(evidence[row]), parts.predicted[row])
        drawn.save(tmp_path / "x.jpg", quality=90)
        assert (tmp_path / "out" / "m" / f"{row // 3}.png" / name).read_bytes() == (tmp_path / "x.jpg").read_bytes()


def test_one_class_of_objects(photos, tmp_path):
    torch.manual_seed(0)
    folder = saved(tmp_path / "y", yolos(4), transformers.YolosImageProcessor(size={"height": SIZE, "width": SIZE}))
    for image in explained(photos, tmp_path, folder, "--method", "hirescam", "--class-idx", "2"):
        assert {one["class_idx"] for one in image["objects"]} == {2} and image["explained_class_idx"] == 2


def test_regions_of_a_segmenter(photos, tmp_path):
    torch.manual_seed(0)
    model = segformer(num_labels=3)
    processor = transformers.SegformerImageProcessor(size={"height": SIZE, "width": SIZE})
    images = explained(photos, tmp_path, saved(tmp_path / "s", model, processor), "--method", "hirescam")
    _, output = given_to(model, photos, of_hugging_face(processor.to_dict()))
    masks = processor.post_process_semantic_segmentation(output, [(SIZE, SIZE)] * 2)
    for image, mask in zip(images, masks, strict=True):
        areas = torch.bincount(mask.flatten(), minlength=3) / mask.numel()
        found = {one["class_idx"]: one["area"] for one in image["regions"]}
        assert found == pytest.approx({k: float(area) for k, area in enumerate(areas) if area > 0}, abs=1e-6)
        assert list(found.values()) == sorted(found.values(), reverse=True)
        assert len(image["metrics"]) == len(found)


def test_a_class_that_is_nowhere_is_said_to_be_so(photos, tmp_path):
    torch.manual_seed(0)
    model = segformer(num_labels=3)
    model.decode_head.classifier.bias.data[2] = -100
    folder = saved(tmp_path / "s", model, transformers.SegformerImageProcessor(size={"height": SIZE, "width": SIZE}))
    args = ["--method", "hirescam", "--class-idx", "2"]
    for image in explained(photos, tmp_path, folder, *args):
        assert image["regions"] == []
        picture, box = read_image(photos / image["file"]), (0, 0, 96, 64)
        draw_overlay(picture, torch.zeros(8, 8), box, False, words="nothing predicted").save(
            tmp_path / "x.jpg", quality=90
        )
        written = tmp_path / "out" / "m" / image["file"] / "hirescam.jpg"
        assert written.read_bytes() == (tmp_path / "x.jpg").read_bytes()


def test_features_of_a_backbone(photos, tmp_path, capsys):
    torch.manual_seed(0)
    model = transformers.Dinov2Model(transformers.Dinov2Config(**SMALL, image_size=SIZE, patch_size=8))
    processor = transformers.BitImageProcessor(size={"shortest_edge": 40}, crop_size={"height": SIZE, "width": SIZE})
    folder = saved(tmp_path / "dino", model, processor)
    images = explained(photos, tmp_path, folder)
    assert all(list(image["metrics"]) == ["cls_attention", "cls_similarity", "pca"] for image in images)
    assert all(image["prediction"] is None for image in images)
    assert "the model returns features, no classes: the maps show them\n" in capsys.readouterr().out
    args = ["--path", photos, "--model", folder, "--output", tmp_path / "other"]
    assert run("explain", *args, "--method", "hirescam,pca") == 2
    assert "--method: hirescam explain a class, and the model returns features; --method cls_attention," in (
        capsys.readouterr().err
    )


def test_a_teacher_out_of_the_checkpoint_of_its_training(photos, tmp_path):
    networks = {}
    for seed, name in enumerate(["student_backbone", "teacher_backbone"]):
        torch.manual_seed(seed)
        networks[name] = vit()
    state = {f"{name}.{key}": value for name, net in networks.items() for key, value in net.state_dict().items()}
    torch.save({"state_dict": {**state, "student_head.weight": torch.ones(2)}}, tmp_path / "last.ckpt")
    args = [f"--model-args.{arg}" for arg in
            ("img_size=32", "patch_size=8", "embed_dim=24", "depth=2", "num_heads=2", "num_classes=0")]  # fmt: skip
    args += ["--checkpoint", tmp_path / "last.ckpt", "--state-dict-key", "teacher_backbone"]
    images = explained(photos, tmp_path, "vit_tiny_patch16_224", *args)
    prepare = create_model("vit_tiny_patch16_224", {"img_size": 32, "patch_size": 8}).preprocessing
    pixels = torch.stack([prepare(read_image(path)) for path in sorted(photos.iterdir())])
    expected = explain(networks["teacher_backbone"].eval(), pixels, "cls_attention")
    for row, image in enumerate(images):
        assert list(image["metrics"]) == ["cls_attention", "cls_similarity", "pca"]
        drawn = draw_overlay(
            read_image(photos / f"{row}.png"), expected.heatmap("cls_attention")[row], prepare.seen((64, 96)), True
        )
        drawn.save(tmp_path / "x.jpg", quality=90)
        written = tmp_path / "out" / "m" / f"{row}.png" / "cls_attention.jpg"
        assert written.read_bytes() == (tmp_path / "x.jpg").read_bytes()


def tiny_clip(folder):
    """open_clip, which knows a model `tiny-clip`."""
    import open_clip

    config = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": SIZE, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
        "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    }
    (folder / "tiny-clip.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder / "tiny-clip.json")
    return open_clip


def test_open_clip_from_a_checkpoint(photos, tmp_path):
    open_clip = tiny_clip(tmp_path)
    torch.manual_seed(1)
    model = open_clip.create_model("tiny-clip").eval()
    torch.save({"state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}}, tmp_path / "epoch_1.pt")
    texts = ["a photo of a cat, sitting", "a photo of a dog"]
    args = ["--checkpoint", tmp_path / "epoch_1.pt", "--texts", *texts, "--class-idx", "1"]
    images = explained(photos, tmp_path, "open_clip:tiny-clip", *args)
    pixels, _ = given_to(model.visual, photos, create_model("open_clip:tiny-clip").preprocessing)
    with torch.no_grad():
        image, text, scale = model(pixels, open_clip.get_tokenizer("tiny-clip")(texts))[:3]
    for found, row in zip(images, (scale * image @ text.T).softmax(1), strict=True):
        assert found["prediction"] == texts[row.argmax()] and found["explained_class"] == texts[1]
        assert found["probability"] == pytest.approx(float(row.max()), abs=1e-5)


def test_a_folder_of_results_is_no_model(photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    args = [f"--model-args.{arg}" for arg in ("depth=1", "embed_dim=24", "num_heads=2")]
    (tmp_path / "vit_tiny_patch16_224").mkdir()
    assert explained(photos, tmp_path, "vit_tiny_patch16_224", *args, "--method", "hirescam")


def test_open_clip_knows_no_such_name(photos, tmp_path, capsys):
    assert run("explain", "--path", photos, "--model", "open_clip:ViT-B-33", "--output", tmp_path / "out") == 2
    assert "--model: open_clip has no 'ViT-B-33'; the nearest names are ViT-B-32" in capsys.readouterr().err


@pytest.mark.parametrize("module", ["transformers", "open_clip"])
def test_a_library_that_is_missing_is_named(photos, tmp_path, capsys, monkeypatch, module):
    monkeypatch.setitem(sys.modules, module, None)  # as if it were not installed
    model, package = {"transformers": ("some/model", module), "open_clip": ("open_clip:x", "open_clip_torch")}[module]
    assert run("explain", "--path", photos, "--model", model, "--output", tmp_path / "out") == 2
    assert f"--model: {model} needs the package {package}: pip install {package}\n" in capsys.readouterr().err


class Boxes(torch.nn.Module):
    """What torchvision's detectors return."""

    def forward(self, images):
        return [{"boxes": image.new_zeros(2, 4), "scores": image.new_ones(2)} for image in images]


def test_open_clip_with_texts_of_a_file_that_changed(photos, tmp_path, capsys):
    tiny_clip(tmp_path)
    texts = tmp_path / "texts.txt"
    args = [
        "--path",
        photos,
        "--model",
        "open_clip:tiny-clip",
        "--texts",
        texts,
        "--output",
        tmp_path,
        "--device",
        "cpu",
    ]
    for content, status in {"a cat\na dog\n": 0, "a cat\na cow\n": 2}.items():
        texts.write_text(content)
        assert run("explain", *args, "--workers", "0", "--modelname", "m") == status
    assert "results with a different texts (['a cat', 'a dog'], now ['a cat', 'a cow'])" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "status", "message"),
    [
        (["--model", "{folder}/none"], 1, "--model: {folder}/none cannot be loaded: "),
        (["--model", "{folder}/photos"], 2, "--model: {folder}/photos is no model of transformers: "),
        (["--model", "tests.test_cli_libraries:Boxes"], 2, "--model: the model returns boxes that it has selected"),
        (["--model", "tests.models:class_token_vit", "--texts", "a", "b"], 2, "does not compare images with texts"),
    ],
)
def test_what_cannot_be_made_is_said(photos, tmp_path, capsys, monkeypatch, args, status, message):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    args = [arg.format(folder=tmp_path) for arg in args]
    assert run("explain", "--path", photos, *args, "--output", tmp_path / "out") == status
    assert message.format(folder=tmp_path) in capsys.readouterr().err.splitlines()[-1]
