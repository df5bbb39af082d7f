"""Training is the same bit for bit where the Trainer is steered from outside, and where there is none."""

import pytest
import torch
from lightning.fabric import Fabric
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import BatchSizeFinder, LearningRateFinder, ModelCheckpoint
from torch import nn
from torch.testing import assert_close

from lightning_cam import explain
from tests.by_hand import ByHand, assert_maps_by_hand
from tests.training import Pictures, assert_finite, compare, loader, options, tiny_vit


class Tuned(ByHand):
    """Has the loaders and the attributes that a tuner sets."""

    def __init__(self):
        super().__init__()
        self.lr, self.batch_size = 1e-2, 2

    def train_dataloader(self):
        return loader(12, self.batch_size, shuffle=True)

    def val_dataloader(self):
        return loader(6, self.batch_size + 1)

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), self.lr)


def fit_alone(trainer, lit, *_):
    trainer.fit(lit)


@pytest.mark.parametrize("looks_first", [False, True])
def test_a_learning_rate_is_found(tmp_path, looks_first):
    def callbacks(looks):
        finder = LearningRateFinder(num_training_steps=15, early_stop_threshold=None)  # it leaves out 11 of them
        return [*looks, finder] if looks_first else [finder, *looks]

    arguments = {"make": Tuned, "run": fit_alone, "callbacks": callbacks, "enable_checkpointing": True}
    outcome = compare(tmp_path, 3, max_epochs=3, **arguments)
    assert outcome.lit.lr != 1e-2
    assert_finite(outcome.looks)


@pytest.mark.parametrize("looks_first", [False, True])
def test_a_batch_size_is_found(tmp_path, looks_first):
    def callbacks(looks):
        finder = BatchSizeFinder(steps_per_trial=1, max_trials=2)
        return [*looks, finder] if looks_first else [finder, *looks]

    outcome = compare(tmp_path, 2, make=Tuned, run=fit_alone, callbacks=callbacks, enable_checkpointing=True)
    assert outcome.lit.batch_size == 4
    assert_finite(outcome.looks)


def stateful(shuffle=True):
    from torchdata.stateful_dataloader import StatefulDataLoader

    return StatefulDataLoader(Pictures(12), 4, shuffle=shuffle)


def test_stateful_loaders(tmp_path):
    """A run that is stopped within an epoch goes on with the batches that it had not seen."""

    def saving(looks):
        return [*looks, ModelCheckpoint(tmp_path, filename="middle", every_n_train_steps=2)]

    data = {"train_loader": stateful, "val_loader": lambda: stateful(shuffle=False), "val_check_interval": 1}
    data |= {"enable_checkpointing": True, "make": lambda: ByHand(tiny_vit())}
    assert_maps_by_hand(compare(tmp_path / "stopped", 2, callbacks=saving, max_steps=2, max_epochs=-1, **data))

    def resume(trainer, lit, *loaders):
        trainer.fit(lit, *loaders, ckpt_path=tmp_path / "middle.ckpt", weights_only=False)

    assert_maps_by_hand(compare(tmp_path / "resumed", run=resume, max_epochs=2, **data))


def test_loaders_that_are_made_anew(tmp_path):
    class Grows(Tuned):
        def val_dataloader(self):
            return loader(3 + self.current_epoch, 3)

    make = {"make": Grows, "run": fit_alone}
    assert_maps_by_hand(compare(tmp_path, 3, **make, reload_dataloaders_every_n_epochs=1, max_epochs=3))


def _validate_between(trainer, lit, *loaders):
    trainer.validate(lit, loaders[1], verbose=False)
    trainer.fit(lit, *loaders)
    trainer.validate(lit, loaders[1], verbose=False)
    trainer.fit_loop.max_epochs = 4
    trainer.fit(lit, *loaders)


def test_validation_between_fits(tmp_path):
    outcome = compare(tmp_path, run=_validate_between)
    assert_finite(outcome.looks)
    assert outcome.steps() == sorted(set(outcome.steps()))


class ValidatesItself(Callback):
    """Runs the validation loop of the fit once more, before each epoch."""

    def on_train_epoch_start(self, trainer, module):
        trainer.validating = True
        trainer.fit_loop.epoch_loop.val_loop.run()
        trainer.training = True


class ValidatesElsewhere(Callback):
    """Validates the module with another trainer in the middle of an epoch, with the callback under test in it too."""

    def __init__(self, root, looks):
        self.root, self.looks = root, looks

    def on_train_epoch_end(self, trainer, module):
        inner = Trainer(**options(self.root, logger=False), callbacks=self.looks)
        with torch.random.fork_rng(devices=[]):
            inner.validate(module, loader(4), verbose=False)
        module.trainer = trainer
        module.train()


def test_validation_from_a_callback(tmp_path):
    outcome = compare(tmp_path, callbacks=lambda looks: [*looks, ValidatesItself()])
    assert_finite(outcome.looks)


def test_validation_by_another_trainer(tmp_path):
    outcome = compare(tmp_path, 2, callbacks=lambda looks: [*looks, ValidatesElsewhere(tmp_path, [])])
    assert_finite(outcome.looks)


# -- Fabric -----------------------------------------------------------------------------------------------------------


def _train_with_fabric(precision, methods=()):
    torch.manual_seed(0)
    fabric = Fabric(accelerator="cpu", devices=1, precision=precision)
    model = tiny_vit(drop_rate=0.1).train()
    model, optimizer = fabric.setup(model, torch.optim.AdamW(model.parameters(), 1e-2))
    losses, maps = [], []
    for index, (images, labels) in enumerate(fabric.setup_dataloaders(loader(12, shuffle=True))):
        losses.append(nn.functional.cross_entropy(model(images).float(), labels))
        fabric.backward(losses[-1] / 2)
        if methods:  # in the middle of an accumulation, in training mode
            maps.append(explain(model, images, methods, class_idx=labels).maps)
        if index % 2:
            optimizer.step()
            optimizer.zero_grad()
    state = {
        "losses": losses,
        "weights": model.state_dict(),
        "gradients": [parameter.grad for parameter in model.parameters()],
        "optimizer": optimizer.state_dict()["state"],
        "random": torch.get_rng_state(),
        "modes": [module.training for module in model.modules()],
        "flags": [parameter.requires_grad for parameter in model.parameters()],
    }
    return state, maps


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true", "64-true"])
def test_fabric(precision):
    state, maps = _train_with_fabric(precision, ["hirescam", "gradcam++", "eigencam"])
    expected, _ = _train_with_fabric(precision)
    assert_close(state, expected, rtol=0, atol=0)
    for found in maps:
        for method in found.values():
            assert method.dtype == torch.float32 and method.isfinite().all() and method.any()
