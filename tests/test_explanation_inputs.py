"""What `explain` takes: images of other forms, and models that return several things."""

from dataclasses import dataclass
from typing import NamedTuple

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.testing import assert_close
from torchvision import transforms

from lightning_cam import explain
from lightning_cam.scores import EmbeddingSimilarity
from tests.models import jitter
from tests.observed.data import vit


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return jitter(vit()).eval()


def images():
    return torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def test_one_image(model):
    one = explain(model, images()[0], "hirescam", class_idx=1)
    assert_close(one.maps["hirescam"], explain(model, images(), "hirescam", class_idx=1).maps["hirescam"][:1])


def test_pictures(model):
    pictures = [transforms.functional.to_pil_image(image) for image in images()]
    preprocess = transforms.Compose([transforms.Resize(64), transforms.ToTensor()])
    expected = explain(model, torch.stack([preprocess(one) for one in pictures]), "hirescam", class_idx=1).maps
    found = explain(model, pictures, "hirescam", class_idx=1, preprocess=preprocess).maps
    assert_close(found["hirescam"], expected["hirescam"])
    alone = explain(model, pictures[0], "hirescam", class_idx=[1], preprocess=preprocess).maps
    assert_close(alone["hirescam"], expected["hirescam"][:1])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (Image.new("RGB", (64, 64)), "PIL images need preprocess="),
        ([], "images: expected a floating tensor of shape"),
        (["a.png"], "images: expected a floating tensor of shape"),
    ],
)
def test_images_of_no_known_form(model, given, message):
    with pytest.raises(ValueError, match=message):
        explain(model, given)


class Pair(NamedTuple):
    features: Tensor
    scores: Tensor


@dataclass
class Output:
    features: Tensor
    head: Tensor


class Returns(nn.Module):
    def __init__(self, form, own):
        super().__init__()
        self.vit, self.form, self.own = jitter(vit()), form, own

    def forward(self, x):
        features = self.vit.forward_head(self.vit.forward_features(x), pre_logits=True)
        return self.form(features, self.vit.head(features), self.own)


FORMS = {
    "features first": lambda f, y, own: (f, y),
    "logits first": lambda f, y, own: (y, f),
    "dictionary": lambda f, y, own: {"embedding": f, "out": y},
    "named tuple": lambda f, y, own: Pair(f, y),
    "dataclass": lambda f, y, own: Output(f, y),
    "names": lambda f, y, own: {"aux": y.detach() * 0 + own(f), "logits": y},
}


@pytest.mark.parametrize("name", FORMS)
def test_logits_are_what_is_made_of_the_features(name):
    torch.manual_seed(0)
    model = Returns(FORMS[name], nn.Linear(48, 3))
    found = explain(model, images(), ["hirescam", "attnlrp", "ablationcam"], class_idx=1)
    expected = explain(model.vit, images(), ["hirescam", "attnlrp", "ablationcam"], class_idx=1)
    assert_close(found.logits, expected.logits)
    for method, maps in expected.maps.items():
        assert_close(found.maps[method], maps, rtol=1e-3, atol=1e-5)


def test_several_outputs_that_could_be_logits():
    torch.manual_seed(0)
    model = Returns(lambda features, logits, own: (logits, own(features)), nn.Linear(48, 4))
    with pytest.raises(
        ValueError, match=r"several outputs that could be logits \(0 \(2, 3\), 1 \(2, 4\)\); give score="
    ):
        explain(model, images())
    by_score = explain(model, images(), "hirescam", score=lambda output: output[1][:, 2]).maps["hirescam"]
    by_forward = explain(model, images(), "hirescam", forward=lambda x: model(x)[1], class_idx=2).maps["hirescam"]
    assert_close(by_score, by_forward)


def test_a_score_of_all_outputs():
    torch.manual_seed(0)
    model = Returns(FORMS["features first"], nn.Identity())
    reference = torch.randn(48, generator=torch.Generator().manual_seed(2))
    found = explain(model, images(), "hirescam", score=lambda output: EmbeddingSimilarity(reference)(output[0]))
    assert found.maps["hirescam"].any()


class OfBytes(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images):
        return self.model((images / 255 - 0.5) / 0.25)


@pytest.mark.parametrize("seed", range(4))
def test_layers_are_found_in_the_range_of_the_images(seed):
    torch.manual_seed(seed)
    plain = vit().eval()
    normalized = (images() - 0.5) / 0.25
    expected = explain(plain, normalized, "hirescam", class_idx=1)
    found = explain(OfBytes(plain), images() * 255, "hirescam", class_idx=1)
    assert [layer.module for layer in found.layers] == [layer.module for layer in expected.layers]
    assert_close(found.maps["hirescam"], expected.maps["hirescam"], rtol=1e-3, atol=1e-6)
