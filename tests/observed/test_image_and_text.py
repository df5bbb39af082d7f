"""Models of images and texts: the similarity of each image with its own text, and texts as classes."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close
from torch.utils.data import DataLoader, Subset
from transformers import CLIPConfig, CLIPModel, SiglipConfig, SiglipModel

from lightning_cam import TransformerCAMCallback, explain
from lightning_cam.scores import ZeroShot
from tests.observed.data import GRID, Base, Patchy
from tests.observed.run import fit
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
    return {"pixel_values": x, "input_ids": tokens(y[None])[0], "caption": f"a {COLORS[y]} square"}


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


class Tokenizer:
    def batch_decode(self, ids, skip_special_tokens):
        return [f"a {COLORS[row[1] - 2]} square" for row in ids]


def test_texts_of_a_tokenizer(tmp_path):
    module = HuggingFace(clip())
    module.tokenizer = Tokenizer()
    pack = lambda x, y, i: {"pixel_values": x, "input_ids": tokens(y[None])[0]}  # noqa: E731
    result = fit((module, *pairs(pack=pack)), tmp_path, callback=callback(methods="hirescam"))
    assert result.runs[0].texts == [f"a {COLORS[label]} square" for label in Patchy(16, 32, seed=2).y]


def batches_of_three():
    """One square of each color in each batch: no two texts are the same."""
    for seed in (1, 2):
        data = Patchy(384, 32, seed=seed, pack=item)
        order = torch.stack([torch.where(data.y == color)[0][:96] for color in range(3)], 1)
        yield DataLoader(Subset(data, order[: 96 if seed == 1 else 5].flatten().tolist()), 3)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    look = callback(every_n_epochs=8, num_samples=15)
    return fit((HuggingFace(clip()), *batches_of_three()), tmp_path_factory.mktemp("clip"), 9, look)


def planted(rows):
    cells = Patchy(384, 32, seed=2).cells[rows]
    return cells[:, 0] * GRID + cells[:, 1]


def test_the_hottest_cell_is_the_square_that_the_text_names(trained):
    data = Patchy(384, 32, seed=2)
    rows = [int((data.x == image).all((1, 2, 3)).nonzero()) for image in trained.probe.images]
    look = trained.looks[-1]
    assert (look.maps["attnlrp"].flatten(1).argmax(1) == planted(rows)).sum() >= 8  # 1 by chance


def test_texts_are_classes(trained):
    model, data = trained.module.model.eval(), Patchy(16, 32, seed=3)
    with torch.no_grad():
        features = model.get_text_features(tokens(torch.arange(3))).pooler_output
        table = model(pixel_values=data.x, input_ids=tokens(torch.arange(3))).logits_per_image
    forward = ZeroShot(model.get_image_features, features, scale=float(model.logit_scale.exp()))
    explanation = explain(model, data.x, ["attnlrp", "hirescam"], forward=forward, class_idx=data.y)
    assert_close(explanation.logits, table, rtol=1e-4, atol=1e-4)
    assert (explanation.logits.argmax(1) == data.y).sum() >= 15, "it has not learned"
    cells = data.cells[:, 0] * GRID + data.cells[:, 1]
    assert (explanation.maps["attnlrp"].flatten(1).argmax(1) == cells).sum() >= 8


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
