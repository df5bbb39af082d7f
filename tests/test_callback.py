"""The main job end to end: a training with the one-line callback, read back from TensorBoard's event files."""

import copy
import io
import pickle
import random

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.utils.data import DataLoader, Dataset

from lightning_cam import METHODS, TransformerCAMCallback, explain
from tests.models import class_token_vit
from tests.no_sync import forbid_sync
from tests.training import heard

SIZE = 32


class Blobs(Dataset):
    """Images with a bright square whose quadrant is the class, and its box."""

    classes = ("top left", "top right", "bottom left", "bottom right", "none <b>")

    def __init__(self, count=24):
        generator = torch.Generator().manual_seed(0)
        self.images = torch.rand(count, 3, SIZE, SIZE, generator=generator) * 0.3
        self.labels = torch.arange(count) % 4
        self.boxes = torch.stack(
            [torch.tensor([4, 4, 12, 12]) + 16 * torch.tensor([c % 2, c // 2] * 2) for c in self.labels]
        )
        for image, (x1, y1, x2, y2) in zip(self.images, self.boxes, strict=True):
            image[:, y1:y2, x1:x2] += 0.7

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return {"image": self.images[index], "label": self.labels[index], "boxes": self.boxes[index]}


class Lit(LightningModule):
    def __init__(self, model=None):
        super().__init__()
        self.model = (model or class_token_vit(depth=2, proj_drop_rate=0.1, attn_drop_rate=0.1)).train()

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self.model(batch["image"]), batch["label"])

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", nn.functional.cross_entropy(self.model(batch["image"]), batch["label"]))

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), 1e-3)


def trainer(tmp_path, *callbacks, **options):
    defaults = dict(
        max_epochs=3,
        accelerator="cpu",
        logger=TensorBoardLogger(tmp_path),
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        enable_checkpointing=False,
    )
    return Trainer(callbacks=list(callbacks), **{**defaults, **options})


def loaders(batch_size=8, validation=None):
    return (
        DataLoader(Blobs(), batch_size, shuffle=True),
        DataLoader(Blobs() if validation is None else validation, batch_size),
    )


def events(tmp_path):
    accumulator = EventAccumulator(str(next(tmp_path.rglob("events.*")).parent), {"images": 0, "scalars": 0})
    return accumulator.Reload()


def picture(event):
    return np.asarray(Image.open(io.BytesIO(event.encoded_image_string)))


def test_pictures_scalars_and_text_stand_at_the_step_of_the_validation_metrics(tmp_path):
    seed_everything(0)
    fitted = trainer(tmp_path, TransformerCAMCallback(methods=["hirescam", "gradcam"], on_error="raise"))
    fitted.fit(Lit(), *loaders())
    log = events(tmp_path)
    steps = [event.step for event in log.Scalars("val_loss")]
    assert len(steps) == 3
    for method in ("hirescam", "gradcam"):
        for tag in (f"cam/{method}", f"cam/{method}/filmstrip"):
            assert [event.step for event in log.Images(tag)] == steps
            assert log.Images(tag)[-1].encoded_image_string[:3] == b"\xff\xd8\xff"  # JPEG
        for metric in ("target_probability", "entropy", "share_inside", "pointing_game"):
            assert [event.step for event in log.Scalars(f"cam/{method}/{metric}")] == steps
        for metric in ("similarity_to_previous", "similarity_to_first"):
            assert [event.step for event in log.Scalars(f"cam/{method}/{metric}")] == steps[1:]
    (card,) = log.Tensors("cam/about/text_summary")
    text = card.tensor_proto.string_val[0].decode()
    assert (
        "fixed validation images at `model.blocks.1.norm1`" in text
        and "16 images, 4 of 5 classes" in text
        and "--samples_per_plugin images=1000" in text
    )


def test_logged_numbers_are_those_of_the_final_model(tmp_path):
    seed_everything(0)
    lit = Lit()
    trainer(tmp_path, TransformerCAMCallback(num_samples=8, on_error="raise")).fit(lit, *loaders())
    data, log = Blobs(8), events(tmp_path)
    explanation = explain(lit.model, data.images, class_idx=data.labels)
    relevance = explanation.maps["hirescam"].double().relu()
    probabilities = explanation.logits.softmax(1)[torch.arange(8), data.labels]
    shares = []
    for index in range(8):
        inside = 0.0
        x1, y1, x2, y2 = data.boxes[index].tolist()
        for y in range(4):
            for x in range(4):
                wide = max(0, min(x2, 8 * x + 8) - max(x1, 8 * x)) * max(0, min(y2, 8 * y + 8) - max(y1, 8 * y))
                inside += relevance[index, y, x].item() * wide / 64
        shares.append(inside / max(relevance[index].sum().item(), 1e-12))
    assert log.Scalars("cam/hirescam/share_inside")[-1].value == pytest.approx(np.mean(shares), abs=1e-5)
    assert log.Scalars("cam/hirescam/target_probability")[-1].value == pytest.approx(
        probabilities.mean().item(), abs=1e-5
    )


def test_the_filmstrip_grows_and_the_grid_shows_every_image(tmp_path):
    trainer(tmp_path, TransformerCAMCallback(on_error="raise")).fit(Lit(), *loaders())
    log = events(tmp_path)
    widths = [event.width for event in log.Images("cam/hirescam/filmstrip")]
    assert widths[1] - widths[0] == widths[2] - widths[1] > 50
    grids = [picture(event) for event in log.Images("cam/hirescam")]
    assert all(grid.shape == grids[0].shape for grid in grids)
    assert grids[0].std() > 20 and not np.array_equal(grids[0], grids[-1])


def _train(tmp_path, *callbacks):
    seed_everything(0)
    lit = Lit()
    fitted = trainer(tmp_path, *callbacks, accumulate_grad_batches=2, val_check_interval=3, max_epochs=4)
    fitted.fit(lit, *loaders(batch_size=4))
    return {
        "weights": lit.state_dict(),
        "optimizer": fitted.optimizers[0].state_dict()["state"],
        "random": (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()),
        "metrics": dict(fitted.logged_metrics),
    }


def test_training_is_the_same_bit_for_bit(tmp_path):
    looks = TransformerCAMCallback(methods=["hirescam", "eigencam", "gradcam++"], on_error="raise")
    with_callback = _train(tmp_path / "with", looks)
    without = _train(tmp_path / "without")
    assert len(events(tmp_path / "with").Images("cam/hirescam")) == 8
    torch.testing.assert_close(with_callback, without, rtol=0, atol=0)


def test_the_comparison_sees_one_random_number(tmp_path):
    """The test above can fail: a hook that draws a single number changes the weights."""

    class Draws(TransformerCAMCallback):
        def _look(self, *args):
            torch.rand(1)

    changed = _train(tmp_path / "with", Draws(on_error="raise"))
    without = _train(tmp_path / "without")
    with pytest.raises(AssertionError):
        torch.testing.assert_close(changed, without, rtol=0, atol=0)


# They prove at each look that the model can be run from its middle, or choose by values how to go on.
READ_VALUES = {"ablationcam", "fullgrad", "integrated_gradients", "legrad", "occlusion", "scorecam"}


def prepared(looks):
    """The first look finds out and draws names."""
    return len(looks._session.history.steps) > 1


def test_a_look_waits_for_nothing(tmp_path):
    """No value is read on the host between the model and the sink, which on a GPU would stall the training."""

    class Watched(TransformerCAMCallback):
        def _look(self, trainer, module):
            if not prepared(self):
                super()._look(trainer, module)
                return
            with forbid_sync():
                super()._look(trainer, module)
            self.watched = True

    # Labels on the CPU are checked there, labels on a GPU are not read: the same path on both is that of one class.
    # The pass of shapleycam's second derivative hands its classes on, as labels.
    methods = sorted(METHODS.keys() - READ_VALUES - {"shapleycam"})
    looks = Watched(methods=methods, class_idx=1, on_error="raise")
    trainer(tmp_path, looks).fit(Lit(), *loaders())
    assert looks.watched


# What cannot be looked at: said once, and the training goes on.


def _warned(tmp_path, lit=None, callback=None, validation=None, **options):
    """What a training with a callback that cannot look says; the training itself goes on."""
    lit = lit or Lit()
    fitted = trainer(tmp_path, callback or TransformerCAMCallback(), max_epochs=2, **options)
    with heard() as messages:
        fitted.fit(lit, *loaders(validation=validation))
    assert fitted.state.finished and fitted.global_step == 6
    said = [message for message in messages if "TransformerCAMCallback" in message]
    assert len(said) == 1
    return said[0]


def test_no_logger(tmp_path):
    assert "the maps need a logger" in _warned(tmp_path, logger=False)


def test_a_batch_without_images(tmp_path):
    class Vectors(Blobs):
        def __getitem__(self, index):
            return {"vector": self.images[index].flatten(), "label": self.labels[index]}

    class Mlp(Lit):
        def training_step(self, batch, batch_idx):
            return super().training_step({**batch, "image": batch["image"].view(-1, 3, SIZE, SIZE)}, batch_idx)

        def validation_step(self, batch, batch_idx):
            pass

    assert "no network was seen to receive images" in _warned(tmp_path, Mlp(), validation=Vectors())


def test_a_model_without_places(tmp_path):
    said = _warned(tmp_path, Lit(nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE * SIZE, 5))))
    assert "target_layers=" in said


def test_a_label_outside_the_logits(tmp_path):
    validation = Blobs()
    validation.labels = validation.labels + 3

    class NoLoss(Lit):
        def validation_step(self, batch, batch_idx):
            pass

    said = _warned(tmp_path, NoLoss(), validation=validation)
    assert "5 logits" in said and "6" in said


def test_a_layer_that_does_not_exist(tmp_path):
    said = _warned(tmp_path, callback=TransformerCAMCallback(target_layers=["model.blocks.1.nrm1"]))
    assert "model.blocks.1.nrm1" in said and "model.blocks.1.norm1" in said


def test_a_module_of_several_networks(tmp_path):
    lit = Lit()
    lit.other = nn.Linear(2, 2)
    lit.backbone, lit.model = lit.model, None
    lit.training_step = lambda batch, batch_idx: lit.backbone(batch["image"]).sum()
    lit.validation_step = lambda batch, batch_idx: None
    assert "give forward=" in _warned(tmp_path, lit)


def test_two_callbacks_need_two_names(tmp_path):
    with pytest.raises(RuntimeError, match="must be unique among all callbacks"):
        trainer(tmp_path, TransformerCAMCallback(), TransformerCAMCallback())
    looks = [TransformerCAMCallback(name=name, on_error="raise") for name in ("first", "second")]
    trainer(tmp_path, *looks, max_epochs=1).fit(Lit(), *loaders())
    assert {"first/hirescam", "second/hirescam"} <= set(events(tmp_path).Tags()["images"])


def test_a_map_that_is_not_finite_is_marked_and_training_goes_on(tmp_path):
    class Broken(nn.Module):
        """Looks only at validation time into a hole: the third image is not finite."""

        def __init__(self):
            super().__init__()
            self.vit = class_token_vit(depth=2)

        def forward(self, images):
            if not self.training:
                images = images.clone()
                images[2:3] = torch.nan
            return self.vit(images)

    look = TransformerCAMCallback(num_samples=8, on_error="raise")
    trainer(tmp_path, look, max_epochs=1).fit(Lit(Broken()), *loaders())
    log = events(tmp_path)
    grid = picture(log.Images("cam/hirescam")[0]).astype(int)
    # Four tiles a row; the third is gray, the first is not.
    tile = grid.shape[1] // 4
    colorful = [np.ptp(grid[20 : tile - 40, i * tile + 20 : (i + 1) * tile - 20], axis=2).mean() for i in (0, 2)]
    assert colorful[0] > 15 > 5 > colorful[1]
    assert np.isfinite(log.Scalars("cam/hirescam/entropy")[0].value)


def test_on_error_raise(tmp_path):
    with pytest.raises(ValueError, match="the maps need a logger"):
        trainer(tmp_path, TransformerCAMCallback(on_error="raise"), logger=False).fit(Lit(), *loaders())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(num_samples=0), "num_samples: expected at least 1, got 0"),
        (dict(every_n_epochs=0), "every_n_epochs: expected at least 1, got 0"),
        (dict(methods="camcam"), "methods: unknown method 'camcam'"),
        (dict(on_error="ignore"), "on_error: expected 'warn' or 'raise', got 'ignore'"),
        (dict(mean=0.5), "mean, std: give both or neither"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        TransformerCAMCallback(**arguments)


def test_a_folder_as_probe(tmp_path):
    folder = tmp_path / "probe"
    folder.mkdir()
    for index in range(3):
        Image.new("RGB", (SIZE, SIZE), (80 * index, 20, 20)).save(folder / f"{index}.png")
    looks = TransformerCAMCallback(probe=str(folder), on_error="raise")
    trainer(tmp_path / "logs", looks, max_epochs=1).fit(Lit(), *loaders())
    assert looks._session.probe.images.shape == (3, 3, SIZE, SIZE) and looks._session.probe.labels is None
    # A given probe needs no batches to be collected from: there is a look before the training.
    assert len(events(tmp_path / "logs").Images("cam/hirescam")) == 2


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_look_on_the_gpu_never_waits(tmp_path):
    class Watched(TransformerCAMCallback):
        def _look(self, trainer, module):
            if not prepared(self):
                super()._look(trainer, module)
                return
            torch.cuda.set_sync_debug_mode("error")
            try:
                super()._look(trainer, module)
            finally:
                torch.cuda.set_sync_debug_mode("default")
            self.watched = True

    looks = Watched(methods=sorted(METHODS.keys() - READ_VALUES), on_error="raise")
    trainer(tmp_path, looks, accelerator="gpu", devices=1).fit(Lit(), *loaders())
    assert looks.watched


def test_a_copy_made_in_a_run_has_no_part_in_it(tmp_path):
    class Copies(Callback):
        def on_train_end(self, trainer, pl_module):
            self.copies = copy.deepcopy(looks), pickle.loads(pickle.dumps(looks))

    looks, copies = TransformerCAMCallback(on_error="raise"), Copies()
    trainer(tmp_path, looks, copies).fit(Lit(), *loaders())
    for other in copies.copies:
        assert other.state_key == looks.state_key and not other._session.is_open
        torch.testing.assert_close(other.state_dict(), looks.state_dict(), rtol=0, atol=0)
