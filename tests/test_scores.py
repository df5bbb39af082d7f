"""Scores in place of classes: by value against grad-cam's and NumPy, and from a configuration file."""

import copy
import pickle
from functools import partial

import numpy as np
import pytest
import pytorch_grad_cam
import torch
from jsonargparse import ArgumentParser
from pytorch_grad_cam.utils.model_targets import FinerWeightedTarget
from torch.testing import assert_close

from lightning_cam import TransformerCAMCallback, explain
from lightning_cam.scores import EmbeddingSimilarity, Finer
from tests.models import class_token_vit

IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
LOGITS = torch.randn(6, 7, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("class_idx", [None, 4])
@pytest.mark.parametrize("alpha", [1.0, 0.6])
def test_finer_is_grad_cams_target_for_the_nearest_classes(class_idx, alpha):
    expected = []
    for row in LOGITS:
        main = int(row.argmax()) if class_idx is None else class_idx
        nearest = sorted((c for c in range(7) if c != main), key=lambda c: abs(row[c] - row[main]).item())[:3]
        expected.append(FinerWeightedTarget(main, nearest, alpha)(row))
    assert_close(Finer(class_idx, alpha=alpha)(LOGITS), torch.stack(expected))


def test_finer_maps_are_those_of_grad_cam():
    torch.manual_seed(0)
    model = class_token_vit()
    twin = copy.deepcopy(model)
    cam = pytorch_grad_cam.FinerCAM(
        twin,
        [twin.blocks[1].norm1, twin.blocks[2].norm1],
        reshape_transform=lambda output: output[:, 1:].reshape(-1, 4, 4, 24).permute(0, 3, 1, 2),
    )
    expected = torch.from_numpy(cam(IMAGES))
    explained = partial(explain, model, IMAGES, "gradcam", target_layers=["blocks.1.norm1", "blocks.2.norm1"])
    assert_close(explained(score=Finer()).heatmap("gradcam"), expected, atol=1e-4, rtol=0)
    assert (explained().heatmap("gradcam") - expected).abs().max() > 0.01


def test_finer_of_equal_logits_and_few_classes():
    assert_close(Finer(class_idx=1)(torch.zeros(2, 3)), torch.zeros(2))
    assert_close(Finer()(torch.tensor([[1.0, 4.0]])), torch.tensor([3.0]))  # one class to contrast with
    assert_close(Finer()(torch.tensor([[3.0], [-3.0]])), torch.tensor([3.0, 3.0]))  # one logit is two classes
    with pytest.raises(ValueError, match=r"class_idx=3.* 3 classes"):
        Finer(class_idx=3)(torch.zeros(2, 3))


def test_embedding_similarity_is_the_cosine(tmp_path):
    reference = torch.arange(7.0)
    rows, vector = LOGITS.double().numpy(), reference.double().numpy()
    expected = rows @ vector / np.linalg.norm(rows, axis=1) / np.linalg.norm(vector)
    torch.save(reference[None], tmp_path / "reference.pt")
    for given in (reference, reference[None], str(tmp_path / "reference.pt")):
        np.testing.assert_allclose(EmbeddingSimilarity(given)(LOGITS).numpy(), expected, atol=1e-6)


def test_an_image_is_explained_by_what_it_shares_with_itself():
    """The map of the similarity to an embedding is that of the cosine's definition."""
    model = class_token_vit(num_classes=0)
    reference = model(IMAGES[1:]).detach()[0]

    def by_hand(output):
        return (output @ reference) / (output.square().sum(1).sqrt() * reference.square().sum().sqrt())

    maps = explain(model, IMAGES, score=EmbeddingSimilarity(reference)).maps["hirescam"]
    assert_close(maps, explain(model, IMAGES, score=by_hand).maps["hirescam"])
    assert maps[0].abs().max() > 0
    # The second is the reference itself: the cosine is at its maximum, and no change adds to it.
    assert maps[1].abs().max() < 1e-4 * maps[0].abs().max()


def test_a_wrong_reference_is_named():
    with pytest.raises(ValueError, match=r"expected one embedding of shape \(D,\), got shape \(2, 3\)"):
        EmbeddingSimilarity(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="has 3 numbers, but the model's embeddings have 7"):
        EmbeddingSimilarity(torch.ones(3))(LOGITS)


def test_from_a_configuration_file(tmp_path):
    torch.save(torch.ones(7), tmp_path / "reference.pt")
    parser = ArgumentParser()
    parser.add_class_arguments(TransformerCAMCallback, "look")
    for score, expected in (
        ("{class_path: lightning_cam.scores.Finer, init_args: {class_idx: 2, alpha: 0.6}}", Finer(2, alpha=0.6)),
        (
            "{class_path: lightning_cam.scores.EmbeddingSimilarity, init_args: {reference: %s}}"
            % (tmp_path / "reference.pt"),
            EmbeddingSimilarity(torch.ones(7)),
        ),
    ):
        (tmp_path / "look.yaml").write_text(f"look:\n  score: {score}\n")
        look = parser.instantiate_classes(parser.parse_path(str(tmp_path / "look.yaml"))).look
        assert_close(look.settings.score(LOGITS), expected(LOGITS))
        assert_close(pickle.loads(pickle.dumps(look.settings.score))(LOGITS), expected(LOGITS))  # as ddp_spawn does
