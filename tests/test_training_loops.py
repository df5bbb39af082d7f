"""Training is the same bit for bit with and without the callback, however the Trainer loops."""

import pytest
import torch
from lightning.pytorch.callbacks import LearningRateMonitor, StochasticWeightAveraging
from lightning.pytorch.utilities import CombinedLoader
from torch import nn
from torch.testing import assert_close

from lightning_cam import TransformerCAMCallback, explain
from tests.training import CLASSES, Lit, Pictures, assert_finite, compare, loader, tiny_vit, train

LOOPS = {
    "plain": ({}, 2),
    # 3 batches an epoch: validation stands after 1 and 2 of them, in the middle of an accumulation.
    "accumulation": ({"accumulate_grad_batches": 2, "val_check_interval": 1}, 4),
    "fraction": ({"val_check_interval": 0.34}, 6),
    "batches": ({"val_check_interval": 2, "check_val_every_n_epoch": None}, 3),
    "rare": ({"check_val_every_n_epoch": 2, "max_epochs": 4}, 2),
    "overfit": ({"overfit_batches": 1}, 2),
    "clip norm": ({"gradient_clip_val": 0.1}, 2),
    "clip value": ({"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"}, 2),
    "averaged": ({"callbacks": lambda looks: [StochasticWeightAveraging(1e-2, swa_epoch_start=1), *looks]}, 2),
    "no sanity check": ({"num_sanity_val_steps": 0}, 2),
    "whole sanity check": ({"num_sanity_val_steps": -1}, 2),
    "no validation": ({"limit_val_batches": 0}, 0),
    "steps": ({"max_steps": 4, "max_epochs": -1}, 1),
    "anomalies": ({"detect_anomaly": True}, 2),
    "deterministic": ({"deterministic": True}, 2),
    "learning rates": ({"callbacks": lambda looks: [*looks, LearningRateMonitor()]}, 2),
}


@pytest.mark.parametrize("name", LOOPS)
def test_loops(tmp_path, name):
    options, looks = LOOPS[name]
    outcome = compare(tmp_path, looks, **options)
    assert_finite(outcome.looks)
    assert outcome.steps() == sorted(set(outcome.steps()))


def test_looks_in_the_middle_of_an_accumulation(tmp_path):
    """Gradients of earlier batches are there during a look, and remain."""
    seen = []

    class Watched(TransformerCAMCallback):
        def _look(self, trainer, module):
            before = [p.grad.clone() for p in module.parameters() if p.grad is not None]
            super()._look(trainer, module)
            seen.append(len(before))
            assert_close([p.grad for p in module.parameters() if p.grad is not None], before, rtol=0, atol=0)

    compare(
        tmp_path,
        callback=lambda: Watched(on_error="raise"),
        accumulate_grad_batches=4,
        val_check_interval=1,
        max_epochs=3,
    )
    assert max(seen) > 0


class SeveralOptimizers(Lit):
    """Manual optimization of backbone and head that zeroes after stepping, so gradients outlive a step."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        self.manual_backward(self.loss(batch))
        for optimizer in self.optimizers():
            optimizer.step()
            if batch_idx % 2:
                optimizer.zero_grad()

    def configure_optimizers(self):
        head = list(self.model.head.parameters())
        rest = [p for p in self.parameters() if all(p is not q for q in head)]
        return torch.optim.SGD(rest, 1e-2, momentum=0.9), torch.optim.AdamW(head, 1e-2)


class Lbfgs(Lit):
    """Calls its closure several times a step."""

    def configure_optimizers(self):
        return torch.optim.LBFGS(self.parameters(), 1e-2, max_iter=3)


class Scheduled(Lit):
    """Steps its learning rate by the validation loss."""

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), 1e-2)
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": plateau, "monitor": "val_loss"}}


class LogsInForward(Lit):
    """What its forward logs must not be logged by a look."""

    def forward(self, images):
        self.log("mean_logit", (logits := super().forward(images)).mean(), on_step=False, on_epoch=True)
        return logits


class ReadsAtTheEnd(Lit):
    """Collects over an epoch, as modules did before torchmetrics, and draws random numbers in between."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def validation_step(self, batch, batch_idx):
        self.seen.append(self(batch[0]) + torch.rand(()))

    def on_validation_epoch_end(self):
        self.log("mean", torch.cat(self.seen).mean())
        self.seen.clear()


@pytest.mark.parametrize("make", [SeveralOptimizers, Lbfgs, Scheduled, LogsInForward, ReadsAtTheEnd])
def test_modules(tmp_path, make):
    assert_finite(compare(tmp_path, 6, make=make, val_check_interval=1).looks)


@pytest.mark.parametrize("looks_first", [False, True])
def test_maps_are_those_of_averaged_weights(tmp_path, looks_first):
    """An averaging callback validates its own weights: looks show these, wherever it stands in the list."""
    from lightning.pytorch.callbacks import EMAWeightAveraging  # not in Lightning 2.5

    validated = []

    class Remembers(Lit):
        def validation_step(self, batch, batch_idx):
            super().validation_step(batch, batch_idx)
            if batch_idx == 0 and not self.trainer.sanity_checking:
                validated.append({name: value.clone() for name, value in self.state_dict().items()})

    def callbacks(looks):
        averaging = EMAWeightAveraging(decay=0.5)
        return [*looks, averaging] if looks_first else [averaging, *looks]

    outcome = compare(tmp_path, 2, make=Remembers, callbacks=callbacks)
    data, lit = Pictures(3), outcome.lit
    for look, weights in zip(outcome.looks, validated, strict=False):
        lit.load_state_dict(weights)
        expected = explain(lit.eval(), data.images, class_idx=data.labels).maps["hirescam"]
        assert_close(look.maps["hirescam"], expected, rtol=1e-5, atol=1e-7)


ALONE = {
    "validate": (lambda trainer, lit, _, val: trainer.validate(lit, val, verbose=False), 1),
    "test": (lambda trainer, lit, _, val: trainer.test(lit, val, verbose=False), 1),
    "predict": (lambda trainer, lit, _, val: trainer.predict(lit, val), 0),
    "fit without validation": (lambda trainer, lit, data, _: trainer.fit(lit, data), 0),
    # Its metrics stand one step after those of the last validation run of the fit, and so does its look.
    "validate after fit": (lambda t, lit, data, val: (t.fit(lit, data, val), t.validate(lit, val, verbose=False)), 3),
    "test after fit": (lambda t, lit, data, val: (t.fit(lit, data, val), t.test(lit, val, verbose=False)), 3),
}


class Predicts(Lit):
    def predict_step(self, batch, batch_idx):
        return self(batch[0])


@pytest.mark.parametrize("inference_mode", [True, False])
@pytest.mark.parametrize("name", ALONE)
def test_loops_alone(tmp_path, name, inference_mode):
    run, looks = ALONE[name]
    outcome = compare(tmp_path, looks, run=run, make=Predicts, inference_mode=inference_mode)
    assert_finite(outcome.looks)


def test_fast_dev_run(tmp_path):
    looked = []

    class Watched(TransformerCAMCallback):
        def _look(self, *args):
            super()._look(*args)
            looked.append(self._session.last_step)

    compare(tmp_path, 0, callback=lambda: Watched(on_error="raise"), fast_dev_run=2)
    assert len(looked) == 1  # everything is tried, nothing is written


def test_a_module_without_validation_step(tmp_path):
    class TrainOnly(Lit):
        validation_step = None

    compare(tmp_path, 0, make=TrainOnly, run=lambda trainer, lit, data, _: trainer.fit(lit, data))


LOADERS = {
    "sequential": lambda: [loader(count=6), loader(count=5, size=24)],
    "combined": lambda: CombinedLoader([loader(count=6), loader(count=5)], "min_size"),
    "combined by name": lambda: CombinedLoader({"a": loader(count=6), "b": loader(count=5)}, "max_size_cycle"),
    "combined in sequence": lambda: CombinedLoader([loader(count=6), loader(count=5)], "sequential"),
    "shuffled": lambda: loader(count=8, shuffle=True),
    "small": lambda: loader(count=2, batch_size=2),
    "single last": lambda: loader(count=5, batch_size=4),
    "single": lambda: loader(count=3, batch_size=1),
    "workers": lambda: loader(count=8, num_workers=1),
}


class Flexible(Lit):
    """Takes any of the batches."""

    def __init__(self):
        super().__init__(tiny_vit(drop_rate=0.1, dynamic_img_size=True))

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        parts = batch.values() if isinstance(batch, dict) else batch
        for part in parts if isinstance(next(iter(parts)), (list, tuple)) else [batch]:
            if part is not None:
                self.log(f"val_loss_{dataloader_idx}", self.loss(part), add_dataloader_idx=False, batch_size=1)


@pytest.mark.parametrize("name", LOADERS)
def test_validation_loaders(tmp_path, name):
    outcome = compare(tmp_path, 3, make=Flexible, val_loader=LOADERS[name], max_epochs=3)
    assert_finite(outcome.looks)
    images = outcome.trainer.callbacks[0]._session.probe.images
    assert len(images) == (2 if name == "small" else 3)
    if name != "shuffled":
        assert torch.equal(images, Pictures(len(images)).images)


def test_several_callbacks(tmp_path):
    outcome = compare(
        tmp_path,
        4,
        callback=lambda: [
            TransformerCAMCallback(name="one", methods=["hirescam", "eigencam"], on_error="raise"),
            TransformerCAMCallback(name="two", class_idx=1, every_n_epochs=1, on_error="raise"),
        ],
    )
    assert {name.split("/")[0] for look in outcome.looks for name in look.pictures} == {"one", "two"}


def test_a_custom_score_and_a_custom_forward(tmp_path):
    outcome = compare(
        tmp_path,
        2,
        callback=lambda: TransformerCAMCallback(score=_spread, forward="model", on_error="raise"),
    )
    assert_finite(outcome.looks)


def _spread(logits):
    return logits.float().std(1)


def test_the_same_callback_in_a_second_training(tmp_path):
    look = TransformerCAMCallback(num_samples=2, on_error="raise")
    first = train(tmp_path, look)
    second = train(tmp_path, look)
    assert first.steps() == second.steps() and len(second.looks) == 2
    assert_close(first.looks[-1].maps, second.looks[-1].maps, rtol=0, atol=0)


def test_a_second_fit_goes_on(tmp_path):
    def run(trainer, lit, *loaders):
        trainer.fit(lit, *loaders)
        trainer.fit_loop.max_epochs = 4
        trainer.fit(lit, *loaders)

    outcome = compare(tmp_path, 4, run=run)
    assert outcome.steps() == [2, 5, 8, 11]


def test_a_new_trainer_that_only_validates(tmp_path):
    """The history of a training does not keep a run of its own from being looked at."""
    look = TransformerCAMCallback(on_error="raise")
    train(tmp_path / "fit", look)
    assert len(train(tmp_path / "alone", look, run=ALONE["validate"][0]).looks) == 1


def test_each_new_trainer_begins_a_history(tmp_path):
    look = TransformerCAMCallback(on_error="raise")
    for index in range(2):  # both at step 0
        assert len(train(tmp_path / str(index), look, run=ALONE["validate"][0]).looks) == 1
    outcome = train(tmp_path / "fit", look)
    assert [one.step for one in outcome.before] == [0]
    assert look._session.history.steps == [0, *outcome.steps()]


def test_micro_batches_give_the_same_maps(tmp_path):
    methods = ["hirescam", "gradcam++", "eigencam"]
    sizes, seen = {}, []

    class Counts(nn.Module):
        def __init__(self):
            super().__init__()
            self.vit = tiny_vit()

        def forward(self, images):
            seen.append(len(images))
            return self.vit(images)

    for size in (None, 4, 7, 1):
        look = TransformerCAMCallback(methods=methods, num_samples=10, batch_size=size, on_error="raise")
        outcome = train(tmp_path, look, lambda: Lit(Counts()), val_loader=lambda: loader(10, 10), max_epochs=1)
        sizes[size] = outcome.looks[-1]
        assert size is None or max(seen[-2:]) <= size  # the last pass of the run is the look's
    for size in (4, 7, 1):
        assert_close(sizes[size].maps, sizes[None].maps, rtol=1e-4, atol=1e-6)
        assert torch.equal(sizes[size].class_idx, sizes[None].class_idx)


def test_looks_of_every_n_epochs(tmp_path):
    outcome = compare(
        tmp_path, 2, callback=lambda: TransformerCAMCallback(every_n_epochs=2, on_error="raise"), max_epochs=4
    )
    assert [look.epoch for look in outcome.looks] == [0, 2]
    assert outcome.looks[0].probabilities.shape[1] == CLASSES


def test_a_logger_without_a_folder_leaves_files_under_the_trainers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train(tmp_path / "root", TransformerCAMCallback(timelapse=None, on_error="raise"))
    assert {path.name for path in tmp_path.iterdir()} == {"root"}
    assert list((tmp_path / "root").rglob("cam_report.html"))
