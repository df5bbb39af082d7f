"""Segmentation: one map for each class of an image, over the region that is predicted as it."""

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.loggers import TensorBoardLogger
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import SemanticSegmentationTarget
from torch import nn
from torchmetrics.classification import MulticlassJaccardIndex

from lightning_cam import TransformerCAMCallback, explain, find_target_layers, metrics, read_timeline
from lightning_cam.model.dense import dense_task_of
from lightning_cam.model.parts import OfParts
from lightning_cam.model.segmentation import Segmentation, SegmentationLabels, task_of_pixels
from lightning_cam.model.tasks import OneLogit
from lightning_cam.render import Captions, PartCaptions, filmstrip, grid, no_evidence, overlay_grid, to_uint8
from lightning_cam.render.caption import draw_lines
from lightning_cam.render.grid import evidence_or_none
from lightning_cam.resolve.patterns import OwnTokenOnly
from lightning_cam.training.history import History
from tests.dense import (
    MARK,
    SIZE,
    LitSegmenter,
    enlarged,
    masks_of,
    painted_over,
    scenes,
    segformer,
    segmentation_loader,
    upernet,
    without_mark,
)

# Where the oldest versions are tried, packages that only tests use are missing.


def unet():
    import segmentation_models_pytorch as smp

    return smp.Unet("resnet18", encoder_weights=None, classes=3, encoder_depth=3, decoder_channels=(16, 8, 8)).eval()


def unet_of_transformer():
    import segmentation_models_pytorch as smp

    return smp.Unet("mit_b0", encoder_weights=None, classes=3, decoder_channels=(32, 16, 8, 8, 8)).eval()


def swin_unetr():
    from monai.networks.nets import SwinUNETR

    return SwinUNETR(
        in_channels=3, out_channels=3, spatial_dims=2, feature_size=12, depths=(1,) * 4, num_heads=(2,) * 4
    ).eval()


CLASSES = "classes of each pixel"
MODELS = {
    "segformer": segformer,
    "unet": unet,
    "unet of a transformer": unet_of_transformer,
    "swin unetr": swin_unetr,
    "upernet": lambda: upernet(64),
}


def logits_in(output):
    return getattr(output, "logits", output)


# What is chosen


def test_regions_are_chosen_by_truth_then_by_prediction():
    """Classes that are there, the largest first; then those only predicted; a class predicted nowhere has its truth."""
    pixels = torch.full((1, 5, 4, 4), -1.0)
    target = torch.zeros(1, 4, 4, dtype=torch.int64)
    target[:, :2, 3] = 1
    target[:, 3] = 255  # no class
    pixels[:, 0], pixels[:, 1, :1, 3], pixels[:, 3, 2, :3] = 0.0, 5.0, 7.0
    parts = Segmentation(ignore_index=255).find(pixels, (4, 4), target, 4)
    assert parts.classes.tolist() == [0, 1, 3, -1]
    assert parts.predicted.sum((1, 2)).tolist() == [12, 1, 3, 0]
    assert parts.truth.sum((1, 2)).tolist() == [10, 2, 0, 0]
    # Of class 0 there are 10, of which 7 were found, and one that is another: 10 in the union, the last row left out.
    torch.testing.assert_close(parts.overlap, torch.tensor([7 / 11, 0.5, 0.0, torch.nan]), equal_nan=True)
    assert parts.right.tolist() == [1, 1, 0, -1]
    pixels[:, 1] = -1.0
    missed = Segmentation(ignore_index=255).find(pixels, (4, 4), target, 2)
    assert missed.amounts[1] == 0 and missed.where[1].tolist() == (target[0] == 1).tolist()


def test_the_named_class_alone_is_chosen():
    pixels = torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(0))
    parts = Segmentation().find(pixels, (6, 6), None, 1, 2)
    assert parts.classes.tolist() == [2, 2] and torch.equal(parts.where, pixels.argmax(1) == 2)
    assert Segmentation().find(pixels, (6, 6), None, 1, torch.tensor([3, -1])).classes[0] == 3
    with pytest.raises(ValueError, match="class_idx: the model's classes go from 0 to 3, got 4"):
        Segmentation().find(pixels, (6, 6), None, 1, 4)


def test_logits_of_a_region_are_means_over_it():
    pixels = torch.randn(3, 4, 5, 6, generator=torch.Generator().manual_seed(0))
    parts = Segmentation().find(pixels, (5, 6), None, 1)
    rows = Segmentation().logits(pixels, parts.where)
    for row in range(3):
        inside = [(y, x) for y in range(5) for x in range(6) if pixels[row, :, y, x].argmax() == parts.classes[row]]
        slow = torch.stack([pixels[row, :, y, x].double() for y, x in inside]).mean(0)
        torch.testing.assert_close(rows[row].double(), slow, atol=1e-6, rtol=0)


def test_what_is_explained_and_not_predicted_is_said():
    """A class that is there and predicted nowhere, and a row for which there is no further class."""
    pixels, target = torch.zeros(1, 4, 8, 8), torch.zeros(1, 8, 8, dtype=torch.int64)
    pixels[:, 0] = 1.0
    target[:, :2] = 1
    parts = Segmentation().find(pixels, (8, 8), target, 3)
    assert parts.classes.tolist() == [0, 1, -1] and parts.is_predicted.tolist() == [True, False, False]
    captions = PartCaptions(["ground", "sky"], 4, parts.overlap, parts.is_predicted, "not predicted")
    lines = captions.label_and_prediction(torch.arange(3), parts.classes, parts.amounts, 12, 120)
    assert torch.equal(lines[0, -lines.shape[1] // 2 :], draw_lines(["IoU 0.75"], 12, 120)[0])
    assert torch.equal(lines[1, -lines.shape[1] // 2 :], draw_lines(["not predicted"], 12, 120)[0])
    assert not lines[2].any()
    assert captions.known(torch.arange(3)).tolist() == [True, True, False]
    assert Segmentation().missing(3) == "no other class" and Segmentation().missing(1) == "not in the image"
    images, maps = torch.rand(3, 3, 224, 224), torch.ones(3, 4, 4)
    options = {"preds": parts.classes, "probs": parts.amounts, "labels": torch.arange(3), "columns": 3}
    grid = overlay_grid(images, maps, captions, missing="no other class", **options)
    hatched = to_uint8(no_evidence(images[2], "no other class"))
    starts = [4 + 4 + k * (224 + 2 * 4 + 4) for k in range(3)]  # margin and frame
    tiles = [grid[:, 8 : 8 + 224, start : start + 224] for start in starts]
    assert torch.equal(tiles[2], hatched)
    assert torch.equal(tiles[1], evidence_or_none(images, maps)[1])


def test_an_image_without_the_class_is_no_empty_map(monkeypatch):
    """The picture of `explain` says that nothing is predicted as it."""
    torch.manual_seed(0)
    model, images = segformer(num_labels=9), torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        absent = ({*range(9)} - {*model(images).logits.argmax(1).unique().tolist()}).pop()
    explanation = explain(model, images, "hirescam", class_idx=absent)
    assert explanation.parts.lines() == ["nothing predicted"] * 2
    words = []
    drawn = no_evidence
    monkeypatch.setattr(grid, "no_evidence", lambda *args: words.append(args[1:]) or drawn(*args))
    explanation._repr_html_()
    assert ("nothing predicted",) in words


def test_a_filmstrip_draws_what_is_true_and_what_was_predicted():
    """White around the truth in all columns, blue around what each look predicted; nothing else changes."""
    images, maps = torch.rand(2, 3, 168, 168), torch.ones(2, 2, 4, 4)
    truth, predicted = torch.zeros(2, 168, 168, dtype=torch.bool), torch.zeros(2, 2, 168, 168, dtype=torch.bool)
    truth[0, 20:60, 30:90] = True
    predicted[1, 0, 80:120, 40:100] = True
    options = {"preds": torch.zeros(2, 2, dtype=torch.int64), "probs": torch.ones(2, 2)}
    plain = filmstrip(images, maps, ["epoch 0", "epoch 1"], Captions(["a"]), **options)
    drawn = filmstrip(
        images, maps, ["epoch 0", "epoch 1"], Captions(["a"]), truth=truth, predicted=predicted, **options
    )
    changed = (plain != drawn).any(0)
    tile = plain.shape[2] // 3
    for column in range(3):
        shown = drawn[:, :, 3 + column * tile : 3 + column * tile + tile]
        here = changed[:, 3 + column * tile : 3 + column * tile + tile]
        colors = {tuple(color) for color in shown[:, here].T.tolist()}
        lines = {(255, 255, 255): (40 * 60 - 34 * 54, True), (0, 224, 255): (40 * 60 - 36 * 56, column == 2)}
        assert colors <= set(lines)
        for color, (pixels, is_there) in lines.items():
            same = (shown == torch.tensor(color, dtype=torch.uint8)[:, None, None]).all(0) & here
            assert int(same.sum()) == pixels * is_there


def test_outlines_stay_with_their_looks():
    """Also where looks are thinned, after a checkpoint, and where one of before holds none."""
    history, masks = History(limit=3), torch.rand(6, 2, 5, 5, generator=torch.Generator().manual_seed(0)) > 0.5

    def add(history, step):
        classes = torch.full((2,), step)
        history.append(step, step, {"hirescam": torch.rand(2, 4, 4)}, classes, torch.rand(2), masks[step])

    for step in range(4):
        add(history, step)
    again = History(limit=3)
    again.load_state_dict(history.state_dict())
    for step in (4, 5):
        add(again, step)
    assert torch.equal(again.outlined, masks[again.preds[:, 0]])
    before = history.state_dict()
    del before["outlined"]
    again.load_state_dict(before)
    add(again, 4)
    assert torch.equal(again.outlined[-1], masks[4]) and not again.outlined[:-1].any()
    with pytest.raises(ValueError, match="do not match outlines"):
        again.load_state_dict({**history.state_dict(), "outlined": masks[:1]})


@pytest.mark.parametrize(
    ("kind", "shape", "of"),
    [
        ("logits", (2, 3, 4, 4), Segmentation),
        ("label logits", (2, 1, 4, 4), Segmentation),
        ("label logits", (2, 4, 4), Segmentation),
        ("label logits", (2, 3, 4, 4), SegmentationLabels),
        ("values", (2, 3, 4, 4), type(None)),
        ("logits", (2, 3), type(None)),
    ],
)
def test_what_is_of_pixels(kind, shape, of):
    task = task_of_pixels(kind, torch.zeros(shape))
    assert type(task) is of
    if task is not None and shape[1] in (1, 4):
        assert isinstance(task.of_pixel, OneLogit) and task.count(2, None) == 1


# Maps by value


def reference(model, layer, images, where, classes):
    """Gradient of the mean logit over a region with respect to a layer's output, and that output, as grids."""
    kept = []
    handle = layer.module.register_forward_hook(lambda module, args, output: kept.append(output))
    logits = logits_in(model(images))
    handle.remove()
    scores = [logits[row, kind][where[row]].mean() for row, kind in enumerate(classes.tolist())]
    (gradient,) = torch.autograd.grad(torch.stack(scores).sum(), kept[0])
    return layer.layout.to_grid(kept[0]).detach(), layer.layout.to_grid(gradient)


@pytest.mark.parametrize("name", MODELS)
def test_maps_are_those_of_the_mean_logit(name):
    torch.manual_seed(0)
    model, images = MODELS[name](), torch.rand(2, 3, 64, 64)
    explanation = explain(model, images, ["hirescam", "attnlrp"])
    parts = explanation.parts
    with torch.no_grad():
        pixels = logits_in(model(images))
    assert torch.equal(
        parts.where, torch.stack([row.argmax(0) == c for row, c in zip(pixels, parts.classes, strict=True)])
    )
    activations, gradients = reference(model, explanation.layers[0], images, parts.where, parts.classes)
    slow = (activations * gradients).sum(1)
    torch.testing.assert_close(explanation.maps["hirescam"], slow, atol=1e-5 * float(slow.abs().max()), rtol=1e-4)
    assert explanation.maps["attnlrp"].isfinite().all() and explanation.maps["attnlrp"].any()


def test_agrees_with_grad_cam_up_to_the_factor():
    """The sum over a region is its mean by a factor, which the scaling of heatmaps takes out."""
    torch.manual_seed(0)
    model, images = segformer(), torch.rand(1, 3, 64, 64)
    explanation = explain(model, images, "gradcam")
    (layer,), parts = explanation.layers, explanation.parts

    class Logits(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, images):
            return self.inner(images).logits

    target = SemanticSegmentationTarget(int(parts.classes[0]), parts.where[0].float().numpy())
    with GradCAM(Logits(), [layer.module], reshape_transform=layer.layout.to_grid) as cam:
        theirs = cam(images, [target])
    torch.testing.assert_close(explanation.heatmap("gradcam"), torch.from_numpy(theirs), atol=1e-4, rtol=0)


# Layers


@pytest.mark.parametrize(
    ("name", "layer", "grid"),
    [
        ("segformer", "segformer.stages.2.blocks.0.layernorm_before", (4, 4)),
        ("unet", "encoder.layer2.1", (8, 8)),
        ("unet of a transformer", "encoder.block4.1.norm1", (2, 2)),
        ("swin unetr", "swinViT.layers4.0.blocks.0.norm1", (4, 4)),
        ("upernet", "backbone.swin.encoder.layers.3.blocks.0.layernorm_before", (4, 4)),
    ],
)
def test_the_last_stage_of_the_encoder_is_found_and_a_change_is_in_its_cell(name, layer, grid):
    torch.manual_seed(0)
    model, images = MODELS[name](), torch.rand(1, 3, 64, 64)
    found = find_target_layers(model, images)[-1]
    assert (found.name, found.layout.grid_size) == (layer, grid)
    kept = []
    handle = found.module.register_forward_hook(lambda module, args, output: kept.append(output))
    row, column = grid[0] - 1, 1
    changed, height, width = images.clone(), 64 // grid[0], 64 // grid[1]
    changed[..., row * height : (row + 1) * height, column * width : (column + 1) * width] = 1.0
    with torch.no_grad(), OwnTokenOnly():
        model(images), model(changed)
    handle.remove()
    moved = (found.layout.to_grid(kept[1]) - found.layout.to_grid(kept[0])).abs().sum(1)[0]
    where = divmod(int(moved.argmax()), grid[1])
    # Convolutions before reach over the border of cells.
    assert max(abs(where[0] - row), abs(where[1] - column)) <= 1


# What is seen


class Pixels(nn.Module):
    """The smallest network of pixels that has a layer to explain at; a loss or metric that is a module goes with it."""

    def __init__(self, classes=3, *criterion):
        super().__init__()
        self.criterion = nn.ModuleList(criterion)
        self.down = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU())
        self.up = nn.Sequential(nn.Upsample(scale_factor=4), nn.Conv2d(8, classes, 3, padding=1))

    def forward(self, images):
        return self.up(self.down(images))


def inside(model, images, masks):
    return model(images, labels=masks).loss


def of_rows(model, images, masks):
    return F.cross_entropy(model(images).permute(0, 2, 3, 1).reshape(-1, 3), masks.flatten())


def one_logit(model, images, masks):
    return F.binary_cross_entropy_with_logits(model(images)[:, 0], (masks > 0).float())


def several_labels(model, images, masks):
    return F.binary_cross_entropy_with_logits(model(images), F.one_hot(masks, 3).movedim(-1, 1).float())


def with_dice(classes, mode):
    import segmentation_models_pytorch as smp

    return Pixels(classes, smp.losses.DiceLoss(mode))


def of_criterion(model, images, masks):
    return model.criterion[0](model(images), masks)


def of_one_by_criterion(model, images, masks):
    return model.criterion[0](model(images), (masks > 0).float()[:, None])


def dice_by_hand(model, images, masks):
    chances, truth = model(images).softmax(1), F.one_hot(masks, 3).movedim(-1, 1)
    return 1 - (2 * (chances * truth).sum() / (chances + truth).sum())


@pytest.mark.parametrize(
    ("model", "loss", "by", "words", "maps"),
    [
        (segformer, None, "cross_entropy", CLASSES, 3),
        (segformer, inside, "cross_entropy", CLASSES, 3),
        (Pixels, of_rows, "cross_entropy", CLASSES, 3),
        (lambda: Pixels(1), one_logit, "binary_cross_entropy_with_logits", CLASSES, 1),
        (Pixels, several_labels, "binary_cross_entropy_with_logits", "several labels of each pixel", 3),
        (lambda: with_dice(3, "multiclass"), of_criterion, "DiceLoss", CLASSES, 3),
        (lambda: with_dice(1, "binary"), of_one_by_criterion, "DiceLoss", CLASSES, 1),
        (Pixels, dice_by_hand, "softmax", CLASSES, 3),
        (lambda: Pixels(3, MulticlassJaccardIndex(3)), of_criterion, "MulticlassJaccardIndex", CLASSES, 3),
    ],
)
def test_what_reads_pixels_is_seen(tmp_path, caplog, model, loss, by, words, maps):
    seed_everything(0)
    lit = LitSegmenter(model(), loss)
    caplog.set_level("INFO", "lightning_cam")
    callback = TransformerCAMCallback(methods="hirescam", num_samples=6, on_error="raise", report=False, cohort=None)
    trainer(tmp_path, callback).validate(lit, segmentation_loader(6, 3), verbose=False)
    assert f"`{by}` reads its output as {words}." in caplog.text
    timeline = read_timeline(tmp_path)
    count = 6 // maps
    assert timeline.texts == [f"image {number + 1}" for number in range(count) for _ in range(maps)]
    _, classes, boxes = scenes(6)
    truth = masks_of(classes, boxes)[:count]
    first = timeline.regions.reshape(count, maps, *truth.shape[1:])[:, 0]  # the largest true class, or the only one
    assert first.tolist() == ((truth > 0) if maps == 1 else (truth == 0)).tolist()


def trainer(folder, callback=None, **options):
    given = {"max_epochs": 1, "accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False}
    logger = TensorBoardLogger(folder)
    callbacks = [] if callback is None else [callback]
    return Trainer(**{**given, "logger": logger, "callbacks": callbacks, "num_sanity_val_steps": 0, **options})


def test_a_reconstruction_is_no_segmentation(tmp_path):
    lit = LitSegmenter(Pixels(), lambda model, images, masks: F.binary_cross_entropy(model(images).sigmoid(), images))
    callback = TransformerCAMCallback(on_error="raise")
    with pytest.raises(ValueError, match=r"not one row per image; give score="):
        trainer(tmp_path, callback).validate(lit, segmentation_loader(4, 4), verbose=False)


# A training


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A training in which a mark in the corner says which class a far square is."""
    seed_everything(0)
    folder, lit = tmp_path_factory.mktemp("run"), LitSegmenter(segformer())
    callback = TransformerCAMCallback(num_samples=12, class_names=["ground", "red", "blue"], on_error="raise")
    run = trainer(folder, callback, max_epochs=24, check_val_every_n_epoch=8)
    run.fit(lit, segmentation_loader(256, 32, shuffle=True), segmentation_loader(16, 8, seed=1))
    return lit.model.eval(), folder


def test_the_map_of_a_class_lies_at_the_mark_that_decides_it(trained):
    """Painting it over changes the class; that of the class against the other is at the mark, far from the region."""
    model, _ = trained
    images, classes, boxes = scenes(32, seed=2)
    inside = masks_of(classes, boxes) > 0

    def chances(images):
        with torch.no_grad():
            logits = F.interpolate(model(images).logits, (SIZE, SIZE), mode="bilinear")
        means = (logits * inside[:, None]).sum((2, 3)) / inside.sum((1, 2))[:, None]
        return means[:, 1:].softmax(1).gather(1, classes[:, None])[:, 0]

    assert chances(images).min() > 0.9
    assert (chances(without_mark(images)) < 0.5).float().mean() > 0.3  # half of the classes are guessed right
    own = explain(model, images, "attnlrp", class_idx=classes + 1)
    forward = OfParts(model, Segmentation(), own.parts.where)
    other = explain(model, images, "attnlrp", class_idx=2 - classes, forward=forward, parts=own.parts)
    against = own.maps["attnlrp"] - other.maps["attnlrp"]
    cells = against.shape[-1] * MARK // SIZE
    at_mark = torch.zeros(against.shape[1:], dtype=torch.bool)
    at_mark[:cells, :cells] = True
    assert at_mark.flatten()[against.flatten(1).argmax(1)].float().mean() > 0.8  # of a 16th of the image
    # The patches of the embedding reach 3 pixels into their neighbors, where some of the evidence is.
    assert metrics.share_inside(against, at_mark.expand(32, -1, -1).float()).median() > 0.25
    assert float(own.parts.predicted[inside].float().mean()) > 0.8


def test_a_run_shows_regions(trained):
    _, folder = trained
    timeline = read_timeline(folder)
    assert len(timeline.steps) == 3 and timeline.maps["attnlrp"].shape[1] == 12
    assert timeline.predicted_regions.shape == (3, 12, SIZE, SIZE)
    assert (timeline.top_classes[-1, :, 0].reshape(4, 3)[:, 0] == 0).all()  # the ground is the largest
    squares = timeline.overlaps[-1].reshape(4, 3)[:, 1]
    assert squares.min() > 0.5
    shares = timeline.predicted_regions[-1].mean((1, 2))
    torch.testing.assert_close(
        torch.from_numpy(timeline.top_probabilities[-1, :, 0]), torch.from_numpy(shares).float(), atol=1e-3, rtol=0
    )
    assert "cam/attnlrp/share_inside" in timeline.metrics and not timeline.findings
    tags = picture_tags(folder)
    assert tags == {"cam/attnlrp", "cam/attnlrp/images_3-4", "cam/attnlrp/filmstrip"} | {
        "cam/hirescam", "cam/hirescam/images_3-4", "cam/hirescam/filmstrip"
    }  # fmt: skip


def picture_tags(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (events,) = folder.rglob("events.*")
    accumulator = EventAccumulator(str(events))
    accumulator.Reload()
    return set(accumulator.Tags()["images"])


@pytest.mark.parametrize(
    ("make", "scale", "options"),
    [
        (upernet, 1, {"count": 256, "lr": 2e-3, "epochs": 20, "batch_size": 32}),
        (swin_unetr, 2, {"count": 128, "lr": 4e-3, "epochs": 5, "batch_size": 16}),
    ],
)
def test_painting_over_what_a_map_points_at_changes_the_answer(tmp_path, make, scale, options):
    """Of a square, whose class is painted over twice as fast as with as many cells at random."""
    seed_everything(0)
    lit, epochs = LitSegmenter(make(), lr=options["lr"]), options["epochs"]
    callback = TransformerCAMCallback(methods="attnlrp", num_samples=6, on_error="raise", cohort=None, report=False)
    run = trainer(tmp_path, callback, max_epochs=epochs, check_val_every_n_epoch=epochs)
    batches = segmentation_loader(options["count"], options["batch_size"], scale=scale, shuffle=True)
    run.fit(lit, batches, segmentation_loader(6, 6, seed=1, scale=scale))
    assert read_timeline(tmp_path).overlaps[-1].reshape(2, 3)[:, 1].min() > 0.5
    model = lit.model.eval()
    images, classes, _ = scenes(32, seed=2)
    images = enlarged(images, scale)
    explanation = explain(model, images, "attnlrp", class_idx=classes + 1)
    parts = explanation.parts

    def chances(images):
        with torch.no_grad():
            logits = F.interpolate(logits_in(model(images)), images.shape[2:], mode="bilinear")
        own = logits.softmax(1)[torch.arange(32), classes + 1]
        return (own * parts.predicted).sum((1, 2)) / parts.predicted.sum((1, 2))

    hot, random = (
        float((chances(images) - chances(one)).mean()) for one in painted_over(images, explanation.maps["attnlrp"])
    )
    assert hot > 0.2 and hot > 2 * random


@pytest.mark.parametrize(
    ("make", "scale"),
    [(lambda: segformer(drop_path_rate=0.1, classifier_dropout_prob=0.1), 1), (upernet, 1), (swin_unetr, 2)],
    ids=["segformer", "upernet", "swin unetr"],
)
def test_training_is_the_same_bit_for_bit(tmp_path, make, scale):
    weights = []
    for callback in (None, TransformerCAMCallback(num_samples=4, faithfulness_every_n_looks=1, on_error="raise")):
        seed_everything(0)
        lit = LitSegmenter(make())
        run = trainer(tmp_path, callback, max_epochs=2)
        run.fit(lit, segmentation_loader(8, 4, scale=scale, shuffle=True), segmentation_loader(2, 2, scale=scale))
        weights.append([*(value.clone() for value in lit.state_dict().values()), torch.get_rng_state()])
    assert all(torch.equal(*pair) for pair in zip(*weights, strict=True))


def test_features_on_a_grid_are_no_classes_of_pixels():
    assert dense_task_of(torch.zeros(2, 8, 4, 4), (32, 32)) is None
    assert dense_task_of(torch.zeros(2, 17, 64), (32, 32)) is None
    assert dense_task_of(torch.zeros(2, 3, 32, 32), (32, 32)).words == "classes of each pixel"
