"""Training is the same, and the maps are right, where models and data do awkward things."""

import copy
import io
import warnings

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback
from PIL import Image
from torch import nn
from torch.testing import assert_close
from torch.utils.data import DataLoader
from torchvision import transforms

from lightning_cam import TransformerCAMCallback, explain, find_target_layers
from lightning_cam.training.validated import InputComparison
from tests.training import CLASSES, SIZE, Lit, Pictures, compare, heard, loader, tiny_vit, train


def by_hand(model, count=3):
    data = Pictures(count)
    return explain(model, data.images, class_idx=data.labels).maps["hirescam"]


class BackwardOverTwoSteps(Lit):
    """A graph lives on while a validation runs."""

    automatic_optimization = False

    def __init__(self):
        super().__init__()
        self.kept = []

    def training_step(self, batch, batch_idx):
        images, labels = batch
        self.kept.append(self(images).softmax(1)[torch.arange(len(images)), labels])
        if batch_idx % 2:
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(-torch.stack(self.kept).log().mean())
            optimizer.step()
            self.kept.clear()


def test_a_graph_lives_across_a_validation(tmp_path):
    data = {"val_check_interval": 1, "train_loader": lambda: loader(16)}
    compare(tmp_path, make=BackwardOverTwoSteps, num_sanity_val_steps=0, **data)


class NormalizesInPlace(nn.Module):
    def __init__(self):
        super().__init__()
        self.vit = tiny_vit()

    def forward(self, images):
        return self.vit(images.sub_(0.3).div_(0.5))


def test_a_model_that_writes_into_its_images(tmp_path):
    outcome = compare(tmp_path, make=lambda: Lit(NormalizesInPlace()), max_epochs=4, looks=4)
    assert_close(outcome.looks[-1].maps["hirescam"], by_hand(outcome.lit.model))
    outcome = train(
        tmp_path,
        TransformerCAMCallback(faithfulness_every_n_looks=1, on_error="raise"),
        lambda: Lit(NormalizesInPlace()),
    )
    plain = outcome.lit.model.vit.eval()

    class Normalizes(nn.Module):
        def __init__(self):
            super().__init__()
            self.vit = plain

        def forward(self, images):
            return self.vit((images - 0.3) / 0.5)

    assert_close(
        outcome.looks[-1].maps["hirescam"], by_hand(Normalizes(), 6)[: len(outcome.looks[-1].maps["hirescam"])]
    )


class NormalizesInTheStep(Lit):
    def loss(self, batch):
        return super().loss((self.normalized(batch[0]), batch[1]))

    def normalized(self, images):
        return (images - 0.5) / 0.25

    def normalizing(self, images):
        return self(self.normalized(images))


@pytest.mark.parametrize("shuffled", [False, True])
def test_images_that_the_step_changes_are_explained_as_the_network_gets_them(tmp_path, shuffled):
    look = TransformerCAMCallback(on_error="raise")
    outcome = train(tmp_path, look, NormalizesInTheStep, val_loader=lambda: loader(4, shuffle=shuffled))
    probe, lit = look._session.probe, outcome.lit
    assert torch.equal(lit.normalized(probe.shown), probe.images)
    expected = explain(lit.model, probe.images, "hirescam", class_idx=probe.labels).maps["hirescam"]
    assert_close(outcome.looks[-1].maps["hirescam"], expected)


@pytest.mark.parametrize(("forward", "words"), [("model", ["something else"]), ("normalizing", [])])
@pytest.mark.parametrize("shuffled", [False, True])
def test_images_that_the_step_changes_for_a_given_forward_are_said_once(tmp_path, forward, words, shuffled):
    look = TransformerCAMCallback(forward=forward, on_error="raise")
    with heard() as said:
        train(tmp_path, look, NormalizesInTheStep, max_epochs=4, val_loader=lambda: loader(4, shuffle=shuffled))
    assert ["something else" for message in said if "got a different input" in message] == ([] if shuffled else words)


def test_a_batch_that_cannot_be_read_stops_nothing(tmp_path):
    class Closed(dict):
        def items(self):
            raise RuntimeError("nobody reads me")

    class Reads(Lit):
        def transfer_batch_to_device(self, batch, device, dataloader_idx):
            return batch

        def loss(self, batch):
            return super().loss((batch["image"], batch["label"]))

        def on_train_start(self):
            self.kind = Closed  # what sanity checking saw was open

        kind = dict

        def on_after_batch_transfer(self, batch, dataloader_idx):
            return self.kind(image=batch[0], label=batch[1])

    with heard() as said:
        outcome = train(tmp_path, TransformerCAMCallback(cohort=None), Reads)
    assert outcome.trainer.state.finished
    assert not any("nobody reads me" in message for message in said)
    assert len(outcome.looks) == 2  # once the probe is there, no batch is read
    with heard() as said:
        outcome = train(tmp_path, TransformerCAMCallback(), Reads)
    assert len(outcome.looks) == 2  # what cannot be read for the cohort is said, and looks go on
    assert [message for message in said if "nobody reads me" in message] == [
        "cam: findings are switched off: nobody reads me"
    ]
    Reads.on_train_start = lambda lit: None
    Reads.kind = Closed
    with heard() as said:
        outcome = train(tmp_path, TransformerCAMCallback(), Reads)
    assert outcome.trainer.state.finished
    assert sum("nobody reads me" in message for message in said) == 1


def test_a_probe_of_another_size_is_said(tmp_path):
    class Resizes(Pictures):
        transform = transforms.Compose([transforms.CenterCrop(SIZE + 4), transforms.ToTensor()])

    Image.new("RGB", (40, 40)).save(tmp_path / "one.png")
    with heard() as said:
        look = TransformerCAMCallback(probe=str(tmp_path))
        train(tmp_path / "runs", look, val_loader=lambda: DataLoader(Resizes(6), 4), max_epochs=1)
    assert "are 20×20 after the validation transform, those of the validation batch 16×16" in said[0]


class LogsByAnotherName(nn.Module):
    def __init__(self, log):
        super().__init__()
        self.vit, self.note = tiny_vit(), log

    def forward(self, images):
        logits = self.vit(images)
        self.note("mean_logit", logits.mean(), on_step=False, on_epoch=True)
        return logits


def test_log_handed_to_the_network(tmp_path):
    class Hands(Lit):
        def __init__(self):
            super().__init__(nn.Identity())
            self.model = LogsByAnotherName(self.log)

    compare(tmp_path, make=Hands, max_epochs=3, looks=3)


def test_a_probe_folder_and_a_random_transform(tmp_path):
    for index in range(3):
        noise = np.random.default_rng(index).integers(0, 255, (20, 20, 3), np.uint8)
        Image.fromarray(noise).save(tmp_path / f"{index}.png")

    class Random(Pictures):
        transform = transforms.Compose([transforms.RandomResizedCrop(SIZE), transforms.ToTensor()])

    look = lambda: TransformerCAMCallback(probe=str(tmp_path), on_error="raise")  # noqa: E731
    compare(tmp_path / "runs", callback=look, num_sanity_val_steps=0, val_loader=lambda: DataLoader(Random(6), 4))


class ByHand(Lit):
    """Explains itself after each validation."""

    def __init__(self):
        super().__init__(tiny_vit(depth=4))
        self.expected = []

    def on_validation_end(self):
        self.expected.append(by_hand(self.model))


class AddsAHook(ByHand):
    def on_train_epoch_start(self):
        if self.current_epoch == 3:
            self.model.blocks[1].register_forward_hook(lambda module, inputs, output: 2 * output)


def assert_by_hand(outcome, looks):
    assert len(outcome.looks) == looks
    for look, expected in zip(outcome.looks, outcome.lit.expected, strict=True):
        assert_close(look.maps["hirescam"], expected)


def test_a_hook_that_comes_later_counts(tmp_path):
    look = TransformerCAMCallback(num_samples=3, on_error="raise")
    assert_by_hand(train(tmp_path, look, AddsAHook, max_epochs=6, num_sanity_val_steps=0), 6)


class LooksIntoItself(Lit):
    """Saves and copies its model in a validation step, where a hook must not be in the way."""

    def validation_step(self, batch, batch_idx):
        torch.save(self.model, io.BytesIO())
        self.twin = copy.deepcopy(self.model)
        super().validation_step(batch, batch_idx)


def test_models_can_be_copied_and_saved_while_they_are_listened_to(tmp_path):
    look = TransformerCAMCallback(forward="model", on_error="raise")
    lit = train(tmp_path, look, LooksIntoItself, max_epochs=3).lit
    kinds = {type(hook).__name__ for module in lit.twin.modules() for hook in module._forward_pre_hooks.values()}
    assert kinds <= {"_Deaf"} and not lit.model._forward_pre_hooks
    images = loader().dataset.images[:2]
    torch.testing.assert_close(lit.twin(images), lit.twin(images))


def test_compiled_code_is_not_listened_to():
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    images = torch.rand(2, 3, 4, 4)
    assert not InputComparison(model, images).is_done
    holder = nn.Module()
    holder.run = torch.compile(model.forward, backend="eager")
    in_place = nn.Sequential(nn.Linear(2, 2))
    in_place.compile(backend="eager")
    for compiled in (torch.compile(model, backend="eager"), holder, nn.Sequential(in_place)):
        assert InputComparison(compiled, images).is_done


def test_the_first_validation_loader_is_empty(tmp_path):
    class TwoLoaders(Lit):
        def validation_step(self, batch, batch_idx, dataloader_idx=0):
            super().validation_step(batch, batch_idx)

    loaders = lambda: [loader(0), loader(6)]  # noqa: E731
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compare(tmp_path, make=TwoLoaders, val_loader=loaders, looks=2)


def test_a_shallow_copy_has_a_history_of_its_own(tmp_path):
    look = TransformerCAMCallback(on_error="raise")
    train(tmp_path, look)
    steps = list(look._session.history.steps)
    assert len(steps) == 3
    train(tmp_path, copy.copy(look), max_epochs=1)
    assert look._session.history.steps == steps


def test_the_default_dtype_is_float64(tmp_path):
    class Doubles(Callback):
        def setup(self, trainer, pl_module, stage):
            torch.set_default_dtype(torch.float64)

        def on_exception(self, *args):
            torch.set_default_dtype(torch.float32)

        def teardown(self, trainer, pl_module, stage):
            torch.set_default_dtype(torch.float32)

    # The callback before it is torn down first, while the other default holds.
    look = TransformerCAMCallback(on_error="raise")
    train(tmp_path, look, callbacks=lambda looks: [*looks, Doubles()])
    assert list(tmp_path.rglob("*_timelapse.webp"))


class Modulation(nn.Module):
    """A norm with a condition as a second argument."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(24))

    def forward(self, tokens, condition):
        return nn.functional.layer_norm(tokens, tokens.shape[-1:]) * (self.weight + condition)


class Modulated(nn.Module):
    def __init__(self):
        super().__init__()
        self.vit, self.norms = tiny_vit(depth=3), nn.ModuleList([Modulation() for _ in range(3)])

    def forward(self, images):
        tokens = self.vit._pos_embed(self.vit.patch_embed(images))
        for block, norm in zip(self.vit.blocks, self.norms, strict=True):
            tokens = tokens + block.attn(norm(tokens, 0.1))
            tokens = tokens + block.mlp(block.norm2(tokens))
        return self.vit.forward_head(self.vit.norm(tokens))


def test_layers_of_two_arguments_are_passed_over():
    layers = [layer.name for layer in find_target_layers(Modulated(), torch.rand(2, 3, SIZE, SIZE))]
    assert layers and all(name.endswith("norm2") for name in layers)


class Branches(nn.Module):
    """Two towers run in turn: the block that was run before is of the other tower."""

    def __init__(self):
        super().__init__()
        self.towers = nn.ModuleList([tiny_vit(depth=2, num_classes=0) for _ in range(2)])
        self.head = nn.Linear(48, CLASSES)

    def forward(self, images):
        tokens = [tower._pos_embed(tower.patch_embed(images)) for tower in self.towers]
        for depth in range(2):
            tokens = [tower.blocks[depth](x) for tower, x in zip(self.towers, tokens, strict=True)]
        return self.head(torch.cat([x.mean(1) for x in tokens], 1))


def test_the_block_before_is_of_the_same_tower():
    layers = [layer.name for layer in find_target_layers(Branches(), torch.rand(2, 3, SIZE, SIZE))]
    assert layers == ["towers.1.blocks.0.norm1", "towers.1.blocks.1.norm1"]
