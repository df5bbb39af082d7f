"""The two models that class activation maps of transformers were first drawn for, through every way in."""

import json

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from PIL import Image
from torch.utils.data import DataLoader

from examples.models import CrossFormer
from lightning_cam import TokenLayout, TransformerCAMCallback, explain, find_target_layers
from tests.original_models import OldVisionTransformer
from tests.test_cli_explain import run
from tests.training import Lit, MemoryLogger

GRID, PATCH = 7, 8
CELLS = GRID * GRID


def old_vit():
    torch.manual_seed(0)
    return OldVisionTransformer(img_size=GRID * PATCH, patch_size=PATCH).eval()


def crossformer():
    """With its large kernels silenced, so that a patch of the image is one token's own."""
    torch.manual_seed(0)
    model = CrossFormer(GRID * PATCH, 10, dims=(24, 48), depths=(2, 2), num_heads=(2, 4)).eval()
    with torch.no_grad():
        for embedding in model.embeddings:
            for projection in embedding.projections[1:]:
                projection.weight.zero_()
    return model


MODELS = [
    (
        old_vit,
        ["transformer.layer.1.attention_norm", "transformer.layer.2.attention_norm"],
        TokenLayout("NLC", (GRID, GRID), num_prefix_tokens=1),
    ),
    (crossformer, ["stages.1.0.norm1", "stages.1.1.norm1"], TokenLayout("NLC", (GRID, GRID))),
]


def planted(draws):
    """One image, and copies of it in which one cell after the other holds noise, `draws` times each."""
    generator = torch.Generator().manual_seed(0)
    plain = 0.1 * torch.randn(1, 3, GRID * PATCH, GRID * PATCH, generator=generator)
    changed = plain.repeat(CELLS * draws, 1, 1, 1)
    for index, image in enumerate(changed):
        row, column = divmod(index // draws, GRID)
        area = image[:, row * PATCH : (row + 1) * PATCH, column * PATCH : (column + 1) * PATCH]
        area += 3 * torch.randn(area.shape, generator=generator)
    return plain, changed


def changed_cells(plain, changed):
    """For each cell that was changed, the cell whose relevance changed most, on average over the draws."""
    return (changed - plain).abs().unflatten(0, (CELLS, -1)).mean(1).flatten(1).argmax(1).tolist()


@pytest.mark.parametrize(("create", "names", "layout"), MODELS)
def test_the_norms_before_the_last_two_attentions_are_found_with_their_grid(create, names, layout):
    layers = find_target_layers(create(), planted(1)[0])
    assert [(layer.name, layer.layout) for layer in layers] == [(name, layout) for name in names]


@pytest.mark.parametrize(("create", "names", "layout"), MODELS)
@pytest.mark.parametrize("method", ["hirescam", "gradcam", "layercam"])
def test_a_changed_patch_shows_at_its_cell_in_explain(create, names, layout, method):
    model = create()
    plain, changed = (explain(model, images, method, class_idx=1).maps[method] for images in planted(8))
    assert changed_cells(plain, changed) == list(range(CELLS))


@pytest.mark.parametrize(("create", "names", "layout"), MODELS)
def test_a_changed_patch_shows_at_its_cell_in_the_callback(create, names, layout, tmp_path):
    images = torch.cat(planted(8))
    batches = DataLoader([(image, torch.tensor(1)) for image in images], batch_size=len(images))
    logger = MemoryLogger()
    callback = TransformerCAMCallback(num_samples=len(images), on_error="raise")
    trainer = Trainer(
        accelerator="cpu",
        logger=logger,
        callbacks=[callback],
        default_root_dir=tmp_path,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.validate(LitWithTuple(create()), batches, verbose=False)
    assert f"others at `model.{names[1]}`" in logger.runs[0].text
    maps = logger.looks[0].maps["hirescam"]
    assert changed_cells(maps[:1], maps[1:]) == list(range(CELLS))


class LitWithTuple(Lit):
    """Takes the logits out of `(logits, attention)` for its loss."""

    def loss(self, batch):
        images, labels = batch
        output = self(images)
        return torch.nn.functional.cross_entropy(output[0] if isinstance(output, tuple) else output, labels)


@pytest.mark.parametrize(("create", "names", "layout"), MODELS)
@pytest.mark.parametrize("cell", [(1, 5), (6, 0)])
def test_a_changed_patch_is_what_the_command_line_paints(create, names, layout, cell, tmp_path):
    # Eigen-CAM shows what stands out, whatever the class. Picture and patch are gray: all color in it is heat.
    picture = np.full((GRID * PATCH, GRID * PATCH), 128, dtype=np.uint8)
    rows, columns = (slice(start * PATCH, (start + 1) * PATCH) for start in cell)
    picture[rows, columns] = np.random.default_rng(0).integers(0, 256, (PATCH, PATCH))
    Image.fromarray(picture).save(tmp_path / "image.png")
    status = run(
        *("explain", "--path", tmp_path / "image.png", "--model", f"tests.test_original_models:{create.__name__}"),
        *("--method", "eigencam", "--image-size", GRID * PATCH, "--mean", "[0.5,0.5,0.5]", "--std", "[0.2,0.2,0.2]"),
        *("--workers", "0", "--device", "cpu", "--output", tmp_path, "--modelname", "out"),
    )
    assert status == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["images"][0]["target_layers"] == names[-1:]
    assert results["layers"] == [f"{name} (LayerNorm): {layout}" for name in names[-1:]]
    drawn = np.asarray(Image.open(tmp_path / "out" / "image.png" / "eigencam.jpg").convert("HSV"), dtype=float)
    heat = drawn[..., 1] * drawn[..., 2]  # chroma
    by_cell = heat.reshape(GRID, PATCH, GRID, PATCH).mean((1, 3))
    assert np.unravel_index(by_cell.argmax(), by_cell.shape) == cell


def test_crossformer_attends_to_neighbors_and_to_distant_tokens_in_turn():
    """A change of one token reaches, within one block, exactly the tokens of its group."""
    model = CrossFormer(56, 10, dims=(8, 16), depths=(2, 1), num_heads=(2, 2)).eval()
    tokens = torch.randn(1, 14 * 14, 8)
    changed = tokens.clone()
    changed[0, 3 * 14 + 9] = torch.randn(8)
    for block, expected in zip(model.stages[0], (near(3, 9), far(3, 9)), strict=True):
        moved = (block(changed) - block(tokens)).abs().sum(-1)[0].view(14, 14) > 0
        assert torch.equal(moved, expected)


def near(row, column):
    """Tokens of the same group of 7 × 7 neighbors."""
    index = torch.arange(14)
    return (index // 7 == row // 7)[:, None] & (index // 7 == column // 7)


def far(row, column):
    """Every second token in both directions."""
    index = torch.arange(14)
    return (index % 2 == row % 2)[:, None] & (index % 2 == column % 2)


def test_crossformer_s_position_bias_depends_on_the_offset_alone():
    bias = CrossFormer(56, 10, dims=(8, 16), depths=(1, 1), num_heads=(2, 2)).stages[0][0].attn.position_bias
    table = bias(2, 3)
    assert table.shape == (2, 6, 6)
    for i in range(6):
        for j in range(6):
            offset = torch.tensor([[i // 3 - j // 3, i % 3 - j % 3]], dtype=torch.float32)
            assert torch.allclose(table[:, i, j], bias.network(offset)[0], atol=1e-6)


def test_crossformer_s_tiny_form_has_the_paper_s_size():
    # 27.8 million parameters in table 2 of the paper, where the bias network is narrower than in its text.
    assert sum(parameter.numel() for parameter in CrossFormer().parameters()) == pytest.approx(27.8e6, rel=0.01)


def test_an_image_size_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="img_size 64 gives stage 0 16×16 tokens, no multiple of 7"):
        CrossFormer(64, 10)
