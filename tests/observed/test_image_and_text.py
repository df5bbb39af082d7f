"""Models of images and texts: the similarity of each image with its own text, and texts as classes."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch.testing import assert_close
from torch.utils.data import DataLoader
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipModel,
)

from lightning_cam import TransformerCAMCallback, explain
from lightning_cam.cli.pictures import draw_overlay
from lightning_cam.scores import ZeroShot
from tests.observed.data import GRID, Base, Patchy, vit
from tests.observed.run import fit
from tests.test_cli_explain import run
from tests.training import compare

COLORS = ["red", "green", "blue"]
PLACES = 6  # of a text: its beginning, the color, its end
SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
OF_TEXT = {**SIZES, "max_position_embeddings": PLACES, "vocab_size": 12, "bos_token_id": 1, "eos_token_id": 9}
OF_IMAGE = {**SIZES, "image_size": 32, "patch_size": 8}


def tokens(labels):
    texts = torch.zeros(len(labels), PLACES, dtype=torch.int64)
    texts[:, 0], texts[:, 1], texts[:, 2] = 1, 2 + labels, 9
    return texts


def item(x, y, i):
    ids = tokens(y[None])[0]
    mask = (ids > 0).long()  # of Hugging Face's tokenizers
    return {"pixel_values": x, "input_ids": ids, "attention_mask": mask, "caption": f"a {COLORS[y]} square"}


def pairs(count=16, pack=item):
    return DataLoader(Patchy(count, 32, seed=1, pack=pack), 8), DataLoader(Patchy(16, 32, seed=2, pack=pack), 8)


class OpenClip(Base):
    def __init__(self, loss, **options):
        from open_clip import loss as losses
        from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

        torch.manual_seed(0)
        image = CLIPVisionCfg(layers=2, width=32, head_width=16, patch_size=8, image_size=32)
        text = CLIPTextCfg(context_length=PLACES, vocab_size=12, width=32, heads=2, layers=2)
        super().__init__(CLIP(32, image, text, output_dict=True, **options))
        self.criterion = getattr(losses, loss)()

    def loss(self, batch):
        return self.criterion(**self.model(batch["pixel_values"], batch["input_ids"]))


class HuggingFace(Base):
    """Its loss is taken inside of the model's own forward."""

    def loss(self, batch):
        return self.model(pixel_values=batch["pixel_values"], input_ids=batch["input_ids"], return_loss=True).loss


class Processed(Base):
    """A batch as Hugging Face's processor makes it."""

    def loss(self, batch):
        return self.model(**{name: batch[name] for name in batch if name != "caption"}, return_loss=True).loss


class InTheStep(Base):
    """Texts come as strings, and tokens are made of them in the step."""

    def loss(self, batch):
        labels = torch.tensor([COLORS.index(text.split()[1]) for text in batch["caption"]])
        return self.model(pixel_values=batch["pixel_values"], input_ids=tokens(labels), return_loss=True).loss


def clip():
    torch.manual_seed(0)
    return CLIPModel(CLIPConfig(text_config={**OF_TEXT, "pad_token_id": 0}, vision_config=OF_IMAGE, projection_dim=32))


def siglip():
    torch.manual_seed(0)
    return SiglipModel(SiglipConfig(text_config=OF_TEXT, vision_config=OF_IMAGE))


MODULES = {
    "open_clip, CLIP's loss": lambda: OpenClip("ClipLoss"),
    "open_clip, SigLIP's loss": lambda: OpenClip("SigLipLoss", init_logit_bias=-10.0),
    "Hugging Face's CLIP": lambda: HuggingFace(clip()),
    "Hugging Face's CLIP, processed": lambda: Processed(clip()),
    "Hugging Face's CLIP, tokens made in the step": lambda: InTheStep(clip()),
    "Hugging Face's SigLIP": lambda: HuggingFace(siglip()),
}


def callback(**options):
    return TransformerCAMCallback(**{"report": False, "timelapse": None, "cohort": None, **options})


@pytest.mark.parametrize("name", MODULES)
def test_the_similarity_with_the_own_text_is_explained(tmp_path, name):
    result = fit((MODULES[name](), *pairs()), tmp_path, callback=callback())
    assert not result.off, result.said
    assert result.tasks == {"": "similarity to the image's own text"} and result.found == 4
    run, look, data = result.runs[0], result.looks[-1], Patchy(16, 32, seed=2)
    assert run.texts == [f"a {COLORS[label]} square" for label in data.y]
    model, images, texts = result.module.model.eval(), data.x, tokens(data.y)
    with torch.no_grad():
        if name.startswith("open_clip"):
            out = model(images, texts)
            table = out["logit_scale"] * out["image_features"] @ out["text_features"].T + out.get("logit_bias", 0)
        else:
            table = model(pixel_values=images, input_ids=texts).logits_per_image
    assert_close(look.values, table.diagonal(), rtol=1e-4, atol=1e-4)


class ByHand(torch.nn.Module):
    """Two towers and their loss in one module, as in tutorials: targets are similarities of images and of texts."""

    def __init__(self):
        super().__init__()
        self.visual = vit(num_classes=32, size=32, patch=8, depth=2)
        self.text = torch.nn.Sequential(torch.nn.Embedding(12, 8), torch.nn.Flatten(), torch.nn.Linear(8 * PLACES, 32))

    def forward(self, batch):
        image, text = self.visual(batch["pixel_values"]), self.text(batch["input_ids"])
        table = text @ image.T
        targets = ((image @ image.T + text @ text.T) / 2).softmax(1)
        losses = -(targets * table.log_softmax(1)).sum(1) - (targets.T * table.T.log_softmax(1)).sum(1)
        return losses.mean()


def test_a_loss_by_hand_inside_of_the_model(tmp_path):
    class Module(Base):
        def loss(self, batch):
            return self.model(batch)

    torch.manual_seed(0)
    result = fit((Module(ByHand()), *pairs()), tmp_path, callback=callback(methods="hirescam"))
    assert not result.off and result.tasks == {"": "similarity to the image's own text"} and result.found == 4
    assert "similarity → text" in result.runs[0].text
    model, data = result.module.model.eval(), Patchy(16, 32, seed=2)
    with torch.no_grad():
        own = (model.visual(data.x) * model.text(tokens(data.y))).sum(1)
    assert_close(result.looks[-1].values, own, rtol=1e-4, atol=1e-4)


def test_strings_that_only_the_step_can_read_say_what_to_give(tmp_path):
    class Module(Base):
        def loss(self, batch):
            labels = torch.tensor([COLORS.index(text.split()[1]) for text in batch["caption"]])
            image = self.model.get_image_features(batch["pixel_values"]).pooler_output
            table = image @ self.model.get_text_features(tokens(labels)).pooler_output.T
            return F.cross_entropy(table, torch.arange(len(table)))

    result = fit((Module(clip()), *pairs()), tmp_path)
    assert result.off and "the batch has to hold the tokens instead" in result.said[-1]


def test_maps_are_those_of_a_slow_reference(tmp_path):
    result = fit((HuggingFace(clip()), *pairs()), tmp_path, callback=callback(methods="hirescam"))
    model, data, seen = result.module.model.double().eval(), Patchy(16, 32, seed=2), []
    layer = model.vision_model.encoder.layers[-1].layer_norm1
    handle = layer.register_forward_hook(lambda module, inputs, output: seen.append(output))
    for number in range(16):  # each pair by itself
        one = data.x[number : number + 1].double()
        table = model(pixel_values=one, input_ids=tokens(data.y[number : number + 1])).logits_per_image
        (gradient,) = torch.autograd.grad(table[0, 0], seen[-1])
        slow = (gradient * seen[-1]).sum(2)[0, 1:].view(4, 4)
        assert_close(result.looks[-1].maps["hirescam"][number].double(), slow, rtol=1e-3, atol=1e-6)
    handle.remove()


@pytest.mark.parametrize("name", ["open_clip, SigLIP's loss", "Hugging Face's CLIP"])
def test_training_is_the_same_bit_for_bit(tmp_path, name):
    make = {"train_loader": lambda: pairs()[0], "val_loader": lambda: pairs()[1]}
    compare(tmp_path, make=MODULES[name], max_epochs=1, **make)


class Decoder:
    def batch_decode(self, ids, skip_special_tokens):
        return [f"a {COLORS[row[1] - 2]} square" for row in ids]


def test_texts_of_a_tokenizer(tmp_path):
    module = HuggingFace(clip())
    module.tokenizer = Decoder()
    pack = lambda x, y, i: {"pixel_values": x, "input_ids": tokens(y[None])[0]}  # noqa: E731
    result = fit((module, *pairs(pack=pack)), tmp_path, callback=callback(methods="hirescam"))
    assert result.runs[0].texts == [f"a {COLORS[label]} square" for label in Patchy(16, 32, seed=2).y]


class Warmed(HuggingFace):
    """Without the warm-up some seeds learn nothing."""

    def configure_optimizers(self):
        steps = self.trainer.estimated_stepping_batches
        optimizer = torch.optim.AdamW(self.parameters(), 1e-3)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def batches_of_four():
    """In each batch one square of each color and noise alone.

    No two texts are the same; and no color is what is left where the others are not, which has no evidence of its own.
    """
    for seed, count in ((1, 96), (2, 5)):
        data = Patchy(384, 32, seed=seed, pack=item)
        order = torch.stack([torch.where(data.y == color)[0][:count] for color in range(3)], 1)
        noise = torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(seed)) * 0.2 + 0.1
        nothing = {
            "input_ids": tokens(torch.tensor([3]))[0],
            "attention_mask": torch.ones(PLACES, dtype=torch.int64),
            "caption": "nothing",
        }
        batches = zip(order.tolist(), noise, strict=True)
        yield DataLoader(
            [one for row, image in batches for one in (*(data[i] for i in row), {"pixel_values": image, **nothing})], 4
        )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    look = callback(every_n_epochs=8, num_samples=20)
    return fit((Warmed(clip()), *batches_of_four()), tmp_path_factory.mktemp("clip"), 9, look)


def planted(data):
    return data.cells[:, 0] * GRID + data.cells[:, 1]


def without_squares(data):
    """The squares painted over with the noise around them."""
    images = data.x.clone()
    for image, (row, column) in zip(images, data.cells.tolist(), strict=True):
        aside = (column + 1) % GRID
        image[:, row * 8 : row * 8 + 8, column * 8 : column * 8 + 8] = image[
            :, row * 8 : row * 8 + 8, aside * 8 : aside * 8 + 8
        ]
    return images


def test_the_hottest_cell_is_the_square_that_the_text_names(trained):
    data = Patchy(384, 32, seed=2)
    same = (data.x[None] == trained.probe.images[:, None]).flatten(2).all(2)
    shown = same.any(1)  # those with a square
    look = trained.looks[-1]
    hottest = look.maps["attnlrp"].flatten(1).argmax(1)[shown]
    assert len(hottest) == 15 and (hottest == planted(data)[same[shown].int().argmax(1)]).sum() >= 14  # 1 by chance


def test_texts_are_classes(trained):
    model, data = trained.module.model.eval(), Patchy(16, 32, seed=3)
    every = tokens(torch.arange(4))
    with torch.no_grad():
        features = model.get_text_features(every).pooler_output
        table = model(pixel_values=data.x, input_ids=every).logits_per_image
        painted = model(pixel_values=without_squares(data), input_ids=every).logits_per_image
    forward = ZeroShot(model.get_image_features, features, scale=float(model.logit_scale.exp()))
    explanation = explain(model, data.x, ["attnlrp", "hirescam"], forward=forward, class_idx=data.y)
    assert_close(explanation.logits, table, rtol=1e-4, atol=1e-4)
    assert (table.argmax(1) == data.y).sum() >= 15, "it has not learned"
    assert (painted.argmax(1) == 3).sum() >= 15, "it goes by something else"
    assert (explanation.maps["attnlrp"].flatten(1).argmax(1) == planted(data)).sum() >= 15


def test_the_command_line_takes_texts_as_classes(trained, tmp_path, capsys):
    """A folder of the model, its processor and its tokenizer."""
    folder, model, data = tmp_path / "clip", trained.module.model.eval(), Patchy(16, 32, seed=3)
    words = ["<pad>", "<bos>", *COLORS, "nothing", *"xyz", "<eos>"]
    tokenizer = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="x"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [("<bos>", 1), ("<eos>", 9)]
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A <eos>", special_tokens=ends)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>").save_pretrained(folder)
    CLIPImageProcessor(size={"height": 32, "width": 32}, do_center_crop=False, do_normalize=False).save_pretrained(
        folder
    )
    model.save_pretrained(folder)
    (tmp_path / "photos").mkdir()
    for number, image in enumerate(data.x):
        pixels = (image * 255).round().byte().permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{number:02}.png")
    args = ["--path", tmp_path / "photos", "--model", folder, "--output", tmp_path, "--modelname", "out"]
    args += ["--workers", "0", "--device", "cpu", "--batch-size", "16"]
    assert run("explain", *args, "--texts", *COLORS, "nothing") == 0
    seen = (data.x * 255).round() / 255
    with torch.no_grad():
        chances = model(pixel_values=seen, input_ids=tokens(torch.arange(4))).logits_per_image.softmax(1)
        features = model.get_text_features(tokens(torch.arange(4))).pooler_output
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [one["prediction"] for one in results["images"]] == [COLORS[label] for label in data.y]
    assert_close([one["probability"] for one in results["images"]], chances.amax(1).tolist(), rtol=1e-4, atol=1e-5)
    forward = ZeroShot(model.get_image_features, features, scale=float(model.logit_scale.exp()))
    heat = explain(model, seen, "attnlrp", forward=forward).heatmap("attnlrp")
    for number, one in enumerate(heat):
        image = Image.open(tmp_path / "photos" / f"{number:02}.png")
        draw_overlay(image, one, (0, 0, 32, 32), True).save(tmp_path / "x.jpg", quality=90)
        written = tmp_path / "out" / f"{number:02}.png" / "attnlrp.jpg"
        assert np.abs(np.asarray(Image.open(written), int) - np.asarray(Image.open(tmp_path / "x.jpg"), int)).max() <= 8
    for typed, message in {
        ("--method", "hirescam"): "give --texts, the classes as texts",
        ("--texts", "red"): "--texts: there is no file 'red'",
        ("--texts", "red", "red"): "--texts: expected at least two different texts",
        ("--texts", *COLORS, "--class-names", "a,b,c"): "--texts, --class-names: give one of them",
        ("--texts", *COLORS, "--forward", "vision_model"): "--texts, --forward: give one of them",
    }.items():
        assert run("explain", *args, "--output", tmp_path / "wrong", *typed) == 2
        assert message in capsys.readouterr().err.splitlines()[-1]


def test_texts_as_classes_in_a_training(tmp_path):
    class Module(HuggingFace):
        def texts_as_classes(self, images):
            features = self.model.get_text_features(tokens(torch.arange(3))).pooler_output
            return ZeroShot(self.model.get_image_features, features)(images)

    pack = lambda x, y, i: {**item(x, y, i), "label": y}  # noqa: E731
    look = callback(methods="hirescam", forward="texts_as_classes", class_names=COLORS)
    result = fit((Module(clip()), *pairs(pack=pack)), tmp_path, callback=look)
    assert not result.off and result.looks[-1].probabilities.shape == (16, 3)
    assert result.looks[-1].class_idx.tolist() == Patchy(16, 32, seed=2).y.tolist()


def test_a_step_that_compares_with_fixed_texts(tmp_path):
    class Module(Base):
        def __init__(self):
            super().__init__(clip())
            self.register_buffer("texts", torch.randn(3, 32, generator=torch.Generator().manual_seed(0)))

        def loss(self, batch):
            image = self.model.get_image_features(batch["pixel_values"]).pooler_output
            return F.cross_entropy(10 * F.normalize(image, dim=1) @ F.normalize(self.texts, dim=1).T, batch["label"])

    pack = lambda x, y, i: {"pixel_values": x, "label": y}  # noqa: E731
    result = fit((Module(), *pairs(pack=pack)), tmp_path)
    assert not result.off and result.tasks == {"": "softmax classes"} and result.found == 4


@pytest.mark.parametrize("shape", [(3,), (1, 32)])
def test_features_that_are_no_classes(shape):
    with pytest.raises(ValueError, match="text_features: expected one vector per class"):
        ZeroShot(torch.nn.Flatten(), torch.zeros(shape))
