"""Detection by queries: the leading objects of each image, explained by the logits of their classes."""

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.loggers import TensorBoardLogger
from torch import nn
from torch.utils.data import DataLoader

from lightning_cam import TransformerCAMCallback, explain, find_target_layers, read_timeline
from lightning_cam.model.detection import Detection, inside
from lightning_cam.model.parts import OfParts
from lightning_cam.passes.rules import PLAIN, RULES, RuledForward
from lightning_cam.resolve.patterns import OwnTokenOnly
from lightning_cam.training.boxes import boxes_of_objects
from tests.dense import (
    MARK,
    SIZE,
    LitDetector,
    conditional_detr,
    deformable_detr,
    detection_loader,
    detr,
    enlarged,
    painted_over,
    rt_detr,
    rt_detr_v2,
    scenes,
    without_mark,
    yolos,
)

MODELS = {
    "detr": (detr, 64),
    "yolos": (yolos, SIZE),
    "conditional detr": (conditional_detr, 64),
    "deformable detr": (deformable_detr, 64),
    "deformable detr of one grid": (lambda: deformable_detr(["stage2"], num_feature_levels=1), 64),
    "rt-detr": (rt_detr, 64),
    "rt-detr v2": (rt_detr_v2, 64),
}
STAGE = "model.backbone.model.encoder.stages.1.layers.0"  # the first whose map the decoder reads; others follow from it
HAS_NONE = ("detr", "yolos")


def test_the_most_probable_queries_are_chosen():
    generator = torch.Generator().manual_seed(0)
    output = {
        "logits": torch.randn(2, 6, 4, generator=generator),
        "pred_boxes": torch.rand(2, 6, 4, generator=generator),
    }
    parts = Detection().find(output, (8, 8), None, 3)
    for row in range(2):
        chances = output["logits"][row].double().softmax(-1)[:, :-1]  # the last one is no object
        ranked = sorted(range(6), key=lambda query: -float(chances[query].max()))[:3]
        own = slice(3 * row, 3 * row + 3)
        assert parts.where[own].tolist() == ranked
        assert parts.classes[own].tolist() == [int(chances[query].argmax()) for query in ranked]
        torch.testing.assert_close(parts.amounts[own].double(), chances[ranked].amax(1), atol=1e-6, rtol=0)
    rows = {key: value.repeat_interleave(3, 0) for key, value in output.items()}
    assert torch.equal(Detection().logits(rows, parts.where), rows["logits"][torch.arange(6), parts.where])
    named = Detection(has_none=False).find(output, (8, 8), None, 1, 3)
    assert named.classes.tolist() == [3, 3]
    assert named.where.tolist() == output["logits"][..., 3].argmax(1).tolist()


def test_a_query_that_is_rather_no_object_is_none():
    boxes = torch.tensor([[[0.5, 0.5, 1.0, 1.0]] * 2])
    output = {"logits": torch.tensor([[[2.0, 0.0, 1.0], [0.0, 1.0, 2.0]]]), "pred_boxes": boxes}
    target = torch.tensor([[[0.0, 0.5, 0.5, 1.0, 1.0, 1.0, 1.0]]])
    parts = Detection().find(output, (4, 4), target, 3)
    assert parts.classes.tolist() == [0, 1, -1] and parts.is_predicted.tolist() == [True, False, False]
    assert parts.right.tolist() == [1, -1, -1] and parts.lines()[1].endswith("more likely none")
    assert Detection(has_none=False).find(output, (4, 4), target, 2).is_predicted.all()


def test_a_prediction_is_compared_with_the_boxes_of_its_class():
    boxes = torch.tensor([[0.25, 0.5, 0.5, 1.0], [0.75, 0.5, 0.5, 1.0]])
    target = torch.cat([torch.tensor([[1.0], [0.0]]), boxes, torch.ones(2, 2)], 1)[None]
    logits = torch.tensor([[[1.0, 9.0, 0.0]]])
    parts = Detection().find({"logits": logits, "pred_boxes": boxes[None, :1]}, (4, 4), target, 1)
    assert parts.classes.tolist() == [1] and parts.overlap.tolist() == [1.0] and parts.right.tolist() == [1]
    assert parts.truth[0].tolist() == [[True, True, False, False]] * 4
    wrong = Detection().find(
        {"logits": logits[..., [1, 0, 2]], "pred_boxes": boxes[None, :1]}, (4, 4), target[:, :1], 1
    )
    assert wrong.classes.tolist() == [0] and wrong.overlap.tolist() == [0.0]
    assert Detection().regions(target, (4, 4), 2, 3).all(-1).all(-1).tolist() == [True, True]


@pytest.mark.parametrize("scale", [None, (16, 8)])
def test_boxes_in_parts_of_the_image_and_in_pixels(scale):
    boxes = torch.tensor([[0.5, 0.5, 0.5, 1.0]]) if scale is None else torch.tensor([[4, 0, 12, 8]])
    targets = [{"boxes": boxes, "labels": torch.tensor([3])}, {"boxes": boxes[:0], "labels": torch.tensor([])}]
    for tree in ((torch.zeros(2), targets), {"boxes": [boxes, boxes[:0]], "labels": [t["labels"] for t in targets]}):
        found = boxes_of_objects(tree, 2, (8, 16))
        assert found[0, 0].tolist() == [3, 0.5, 0.5, 0.5, 1.0, 1.0, 1.0]
        assert found[:, 1:, :5].isnan().all() and found[1, :, :5].isnan().all() and (found[..., 5:] == 1).all()
    assert boxes_of_objects({"labels": torch.zeros(2)}, 2, (8, 16)) is None


def padded_loader(sizes, box, size_of_label):
    """Noise of several sizes, padded to the largest, as DETR's processor does it; one box in each, in parts of it."""
    height, width = (max(sides) for sides in zip(*sizes, strict=True))
    generator = torch.Generator().manual_seed(0)
    images, mask = torch.zeros(len(sizes), 3, height, width), torch.zeros(len(sizes), height, width, dtype=torch.int64)
    labels = []
    for row, (h, w) in enumerate(sizes):
        images[row, :, :h, :w] = torch.rand(3, h, w, generator=generator)
        mask[row, :h, :w] = 1
        of_label = {"unpadded": {"size": torch.tensor([h, w])}, "padded": {"size": torch.tensor([height, width])}}
        in_parts = box * torch.tensor([w / width, h / height] * 2) if size_of_label == "padded" else box
        labels.append({"class_labels": torch.tensor([1]), "boxes": in_parts[None], **of_label.get(size_of_label, {})})
    return [{"pixel_values": images, "pixel_mask": mask, "labels": labels}]


@pytest.mark.parametrize("size_of_label", ["unpadded", "padded", "none"])
def test_boxes_of_padded_images_lie_where_their_images_do(tmp_path, size_of_label):
    """Boxes are in parts of the image that a label's `size` names, or without one of what `pixel_mask` leaves."""
    seed_everything(0)
    lit, sizes = LitDetector(detr()), [(64, 96), (32, 64), (48, 48)]
    batches = padded_loader(sizes, torch.tensor([0.5, 0.25, 0.5, 0.5]), size_of_label)
    callback = TransformerCAMCallback(methods="hirescam", num_samples=9, on_error="raise", report=False, cohort=None)
    trainer(tmp_path, callback).validate(lit, DataLoader(batches, batch_size=None), verbose=False)
    timeline = read_timeline(tmp_path)
    truth = torch.zeros(3, 64, 96, dtype=torch.bool)
    for row, (h, w) in enumerate(sizes):
        truth[row, : h // 2, w // 4 : 3 * w // 4] = True
    assert timeline.regions.tolist() == truth.repeat_interleave(3, 0).tolist()
    with torch.no_grad():
        output = lit.model.eval()(batches[0]["pixel_values"], batches[0]["pixel_mask"])
    first = output.logits.softmax(-1)[..., :-1].amax(2).argmax(1)
    for row, (h, w) in enumerate(sizes):
        frame = (64, 96) if size_of_label == "padded" else (h, w)
        x, y, width, height = output.pred_boxes[row, first[row]].tolist()
        slow = [
            [
                abs((i + 0.5) / frame[0] - y) < height / 2 and abs((j + 0.5) / frame[1] - x) < width / 2
                for j in range(96)
            ]
            for i in range(64)
        ]
        found = timeline.predicted_regions[0, 3 * row]
        rows, columns = ((torch.arange(n) + 0.5) * of / n for n, of in zip(found.shape, (64, 96), strict=True))
        assert found.tolist() == torch.tensor(slow)[rows.long()][:, columns.long()].tolist()


@pytest.mark.parametrize("name", MODELS)
def test_maps_are_those_of_the_query(monkeypatch, name):
    torch.manual_seed(0)
    make, size = MODELS[name]
    model, images = make(), torch.rand(2, 3, size, size)
    explanation = explain(model, images, ["hirescam", "attnlrp"])
    layer, parts, kept = explanation.layers[0], explanation.parts, []
    handle = layer.module.register_forward_hook(lambda module, args, output: kept.append(output))
    with monkeypatch.context() as patched:  # RT-DETR's queries are detached copies of tokens, and evidence all the same
        patched.setattr(torch.Tensor, "detach", lambda tensor: tensor)
        logits = model(images.clone().requires_grad_()).logits  # a backbone may be frozen
    handle.remove()
    best = (logits.softmax(-1)[..., :-1] if name in HAS_NONE else logits).amax(2).argmax(1)
    assert torch.equal(parts.where, best)
    scores = sum(logits[row, best[row], parts.classes[row]] for row in range(2))
    (gradient,) = torch.autograd.grad(scores, kept[0])
    slow = (layer.layout.to_grid(kept[0]) * layer.layout.to_grid(gradient)).sum(1).detach()
    torch.testing.assert_close(explanation.maps["hirescam"], slow, atol=1e-5 * float(slow.abs().max()), rtol=1e-4)
    assert explanation.maps["attnlrp"].isfinite().all() and explanation.maps["attnlrp"].any()
    if make in (rt_detr, rt_detr_v2):  # nothing of the logit would be left if relevance ended at detached queries
        torch.testing.assert_close(explanation.conservation["attnlrp"], torch.ones(2), atol=0.05, rtol=0)


def test_places_between_cells_are_held_fixed():
    """What is sampled is linear in the cells: their values times gradients are the whole of it."""
    generator = torch.Generator().manual_seed(0)
    cells = torch.rand(1, 2, 4, 4, generator=generator, dtype=torch.float64).requires_grad_()
    ruled = RuledForward()
    with ruled:
        places = torch.tanh(cells.sum((1, 2))[:, None, :2])[:, None].expand(1, 1, 1, 2)
        read = nn.functional.grid_sample(cells, places, mode="bilinear", align_corners=False)
    fixed = nn.functional.grid_sample(cells, places.detach(), mode="bilinear", align_corners=False)
    for rules, expected in ((RULES["attnlrp"], fixed), (PLAIN, read)):
        with ruled.backward_by(rules):
            (found,) = torch.autograd.grad(read.sum(), cells, retain_graph=True)
        (slow,) = torch.autograd.grad(expected.sum(), cells, retain_graph=True)
        torch.testing.assert_close(found, slow)
        assert torch.isclose((found * cells).sum(), read.sum()) == (expected is fixed)


@pytest.mark.parametrize(
    ("name", "layer", "layout"),
    [
        ("detr", "model.encoder.layers.1.self_attn_layer_norm", "NLC 8×8"),
        ("yolos", "vit.encoder.layer.1.layernorm_before", "NLC 4×4, 1 prefix token, 3 suffix tokens"),
        ("conditional detr", "model.encoder.layers.1.self_attn_layer_norm", "NLC 8×8"),
        ("deformable detr", f"{STAGE}.activation", "NCHW 8×8"),
        ("deformable detr of one grid", "model.input_proj.0.1", "NCHW 8×8"),
        ("rt-detr", f"{STAGE}.activation", "NCHW 8×8"),
        ("rt-detr v2", f"{STAGE}.activation", "NCHW 8×8"),
    ],
)
def test_the_encoder_is_found_and_a_change_is_in_its_cell(name, layer, layout):
    torch.manual_seed(0)
    make, size = MODELS[name]
    model, images, kept = make(), torch.rand(1, 3, size, size), []
    found = find_target_layers(model, images)[-1]
    assert (found.name, str(found.layout)) == (layer, layout)
    handle = found.module.register_forward_hook(lambda module, args, output: kept.append(output))
    rows, columns = found.layout.grid_size
    changed, cell = images.clone(), size // rows
    changed[..., 3 * cell : 4 * cell, cell : 2 * cell] = 1.0
    with torch.no_grad(), OwnTokenOnly():
        model(images), model(changed)
    handle.remove()
    moved = (found.layout.to_grid(kept[1]) - found.layout.to_grid(kept[0])).abs().sum(1)[0]
    row, column = divmod(int(moved.argmax()), columns)
    assert abs(row - 3) <= 1 and abs(column - 1) <= 1  # convolutions before reach over the border of cells


def trainer(folder, callback=None, **options):
    given = {"max_epochs": 1, "accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False}
    callbacks = [] if callback is None else [callback]
    logger = TensorBoardLogger(folder)
    return Trainer(**{**given, "logger": logger, "callbacks": callbacks, "num_sanity_val_steps": 0, **options})


class Outside(LightningModule):
    """A criterion of the user's, outside of the network, or none at all."""

    def __init__(self, model, reads):
        super().__init__()
        self.model, self.reads = model, reads

    def validation_step(self, batch, batch_idx):
        output = self.model(pixel_values=batch["pixel_values"])
        if self.reads == "softmax":
            self.log("sure", output.logits.softmax(-1)[..., :-1].amax())
        elif self.reads == "focal":
            truth = torch.zeros_like(output.logits)
            self.log("loss", nn.functional.binary_cross_entropy_with_logits(output.logits, truth))


@pytest.mark.parametrize(
    ("name", "reads", "said"),
    [
        ("detr", "inside", "`cross_entropy` reads its output as objects, a class and a box for each query."),
        ("yolos", "softmax", "`softmax` reads its output as objects, a class and a box for each query."),
        ("yolos", "focal", "`binary_cross_entropy_with_logits` reads its output as objects, a class and a box"),
        ("yolos", "", "no loss was seen to read its output: objects, a class and a box for each query is a guess."),
        *(
            (name, "inside", "`binary_cross_entropy_with_logits` reads its output as objects, a class and a box")
            for name in ("conditional detr", "deformable detr", "rt-detr")
        ),
    ],
)
def test_what_reads_objects_is_seen(tmp_path, caplog, name, reads, said):
    seed_everything(0)
    caplog.set_level("INFO", "lightning_cam")
    model = MODELS[name][0]()
    lit = LitDetector(model) if reads == "inside" else Outside(model, reads)
    callback = TransformerCAMCallback(methods="hirescam", num_samples=6, on_error="raise", report=False, cohort=None)
    scale = MODELS[name][1] // SIZE
    trainer(tmp_path, callback).validate(lit, detection_loader(6, 3, scale=scale), verbose=False)
    assert said in caplog.text
    timeline = read_timeline(tmp_path)
    assert timeline.texts == ["image 1"] * 3 + ["image 2"] * 3
    _, _, boxes = scenes(6)
    centers, sides = (boxes[:, :2] + boxes[:, 2:]) / 2 / SIZE, (boxes[:, 2:] - boxes[:, :2]) / SIZE
    truth = inside(torch.cat([centers, sides], 1), (scale * SIZE, scale * SIZE))[:2].repeat_interleave(3, 0)
    assert timeline.regions.tolist() == truth.tolist()
    queries = model.eval()(next(iter(detection_loader(6, 6, scale=scale)))["pixel_values"][:2]).logits
    chances = queries.sigmoid() if reads == "focal" or name not in HAS_NONE else queries.softmax(-1)[..., :-1]
    best = chances.amax(2).sort(dim=1, descending=True).values[:, :3].flatten().detach()
    torch.testing.assert_close(torch.from_numpy(timeline.top_probabilities[0, :, 0]), best, atol=1e-4, rtol=0)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A training in which a mark in the corner says which class a far square is."""
    seed_everything(0)
    folder, lit = tmp_path_factory.mktemp("run"), LitDetector(yolos())
    callback = TransformerCAMCallback(num_samples=12, class_names=["red", "blue"], on_error="raise")
    run = trainer(folder, callback, max_epochs=24, check_val_every_n_epoch=8)
    run.fit(lit, detection_loader(256, 32, shuffle=True), detection_loader(16, 8, seed=1))
    return lit.model.eval(), folder


def test_the_map_of_an_object_lies_at_the_mark_that_decides_its_class(trained):
    """Painting it over changes the class; that of the class against the other is at the mark, far from the box."""
    model, _ = trained
    images, classes, _ = scenes(32, seed=2)
    own = explain(model, images, "attnlrp")

    def chances(images):
        with torch.no_grad():
            logits = model(images).logits[torch.arange(32), own.parts.where]
        return logits[:, :2].softmax(1).gather(1, classes[:, None])[:, 0]

    assert torch.equal(own.parts.classes, classes) and chances(images).min() > 0.8
    assert (chances(without_mark(images)) < 0.5).float().mean() > 0.3  # half of the classes are guessed right
    forward = OfParts(model, Detection(), own.parts.where)
    other = explain(model, images, "attnlrp", class_idx=1 - classes, forward=forward, parts=own.parts)
    against = own.maps["attnlrp"] - other.maps["attnlrp"]
    cells = against.shape[-1] * MARK // SIZE
    at_mark = torch.zeros(against.shape[1:], dtype=torch.bool)
    at_mark[:cells, :cells] = True
    assert at_mark.flatten()[against.flatten(1).argmax(1)].float().mean() > 0.8  # of a 16th of the image


@pytest.mark.parametrize(("make", "lr"), [(rt_detr, 2e-3), (deformable_detr, 3e-3)])
def test_painting_over_what_a_map_points_at_changes_the_answer(tmp_path, make, lr):
    """Of networks that sample between cells: twice as fast as with as many cells at random."""
    seed_everything(0)
    lit = LitDetector(make(), lr)
    callback = TransformerCAMCallback(methods="attnlrp", num_samples=6, on_error="raise", cohort=None, report=False)
    run = trainer(tmp_path, callback, max_epochs=12, check_val_every_n_epoch=12)
    run.fit(lit, detection_loader(256, 32, scale=2, shuffle=True), detection_loader(6, 6, seed=1, scale=2))
    assert read_timeline(tmp_path).overlaps[-1].reshape(2, 3)[:, 0].max() > 0.25
    model = lit.model.eval()
    images = enlarged(scenes(32, seed=2)[0], 2)
    explanation = explain(model, images, "attnlrp")
    parts = explanation.parts

    def chances(images):
        with torch.no_grad():
            logits = model(images).logits[torch.arange(32), parts.where]
        return logits.sigmoid().gather(1, parts.classes[:, None])

    hot, random = (
        float((chances(images) - chances(one)).mean()) for one in painted_over(images, explanation.maps["attnlrp"])
    )
    assert hot > 0.02 and hot > 2 * random


def test_a_run_shows_objects(trained, caplog):
    _, folder = trained
    timeline = read_timeline(folder)
    assert len(timeline.steps) == 3 and timeline.maps["attnlrp"].shape[1] == 12
    assert set(timeline.top_classes[-1, :, 0].tolist()) <= {0, 1} and timeline.class_names == ["red", "blue"]
    assert timeline.overlaps.shape == (3, 12) and not timeline.findings
    assert "cam/attnlrp/share_inside" in timeline.metrics


def test_no_object_needs_no_name(tmp_path, caplog):
    callback = TransformerCAMCallback(methods="hirescam", num_samples=3, class_names=["red", "blue"], report=False)
    trainer(tmp_path, callback).validate(LitDetector(yolos()), detection_loader(2, 2), verbose=False)
    assert "class names" not in caplog.text


@pytest.mark.parametrize("make", [detr, deformable_detr, rt_detr])
def test_training_is_the_same_bit_for_bit(tmp_path, make):
    weights = []
    for callback in (None, TransformerCAMCallback(num_samples=4, faithfulness_every_n_looks=1, on_error="raise")):
        seed_everything(0)
        lit = LitDetector(make())
        run = trainer(tmp_path, callback, max_epochs=2)
        run.fit(lit, detection_loader(8, 4, scale=2, shuffle=True), detection_loader(2, 2, scale=2))
        weights.append([*(value.clone() for value in lit.state_dict().values()), torch.get_rng_state()])
    assert all(torch.equal(*pair) for pair in zip(*weights, strict=True))
