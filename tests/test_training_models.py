"""Training is the same bit for bit with and without the callback, whatever the model is made of."""

import copy
from collections import namedtuple
from dataclasses import dataclass

import pytest
import timm
import torch
from PIL import Image
from torch import nn
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint
from torchmetrics import CatMetric, MeanMetric
from transformers import ViTConfig, ViTForImageClassification
from transformers.modeling_outputs import ImageClassifierOutput

from lightning_cam import TransformerCAMCallback, explain
from tests.models import jitter
from tests.training import CLASSES, SIZE, Lit, Pictures, assert_finite, compare, loader, tiny_vit


def head_only(model):
    model.requires_grad_(False)
    model.head.requires_grad_(True)
    return model


class Probe(nn.Module):
    """A linear probe: the backbone runs under `no_grad`, in eval mode."""

    def __init__(self):
        super().__init__()
        self.backbone = tiny_vit(num_classes=0).requires_grad_(False)
        self.head = nn.Linear(24, CLASSES)

    def train(self, mode=True):
        super().train(mode)
        self.backbone.eval()
        return self

    def forward(self, images):
        with torch.no_grad():
            features = self.backbone(images)
        return self.head(features)


class Lora(nn.Module):
    """A frozen linear layer and a low-rank one beside it."""

    def __init__(self, frozen):
        super().__init__()
        self.frozen = frozen.requires_grad_(False)
        self.down = nn.Linear(frozen.in_features, 2, bias=False)
        self.up = nn.Linear(2, frozen.out_features, bias=False)

    def forward(self, x):
        return self.frozen(x) + self.up(self.down(x))


def lora():
    model = tiny_vit().requires_grad_(False)
    for block in model.blocks:
        block.attn.qkv = Lora(block.attn.qkv)
    return model


class Hybrid(nn.Module):
    """Convolutions with BatchNorm before the blocks; `frozen` holds their statistics in training."""

    def __init__(self, frozen):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU())
        self.vit = tiny_vit(drop_path_rate=0.2)
        self.frozen = frozen
        self.stem[1].requires_grad_(not frozen)

    def train(self, mode=True):
        super().train(mode)
        if self.frozen:
            self.stem[1].eval()
        return self

    def forward(self, images):
        return self.vit(self.stem(images))


class Checkpointed(nn.Module):
    """Runs each block under activation checkpointing of one of both kinds."""

    def __init__(self, use_reentrant):
        super().__init__()
        self.vit = tiny_vit(drop_path_rate=0.1, drop_rate=0.1)
        self.use_reentrant = use_reentrant

    def forward(self, images):
        x = self.vit._pos_embed(self.vit.patch_embed(images))
        for block in self.vit.blocks:
            x = checkpoint(block, x, use_reentrant=self.use_reentrant)
        return self.vit.forward_head(self.vit.norm(x))


def built_in_checkpoints():
    model = tiny_vit()
    model.set_grad_checkpointing()
    return model


class Stateful(nn.Module):
    """Counts its calls, keeps its last features, draws random numbers even in eval mode."""

    def __init__(self):
        super().__init__()
        self.vit = tiny_vit()
        self.calls, self.seen, self.last = 0, [], None
        self.register_buffer("mean", torch.zeros(CLASSES))

    def forward(self, images):
        logits = self.vit(images + 0.01 * torch.rand_like(images))
        self.calls += 1
        self.seen.append(float(logits.detach().sum()))
        self.last = logits.detach()
        self.mean.lerp_(logits.detach().mean(0), 0.1)
        return logits - self.mean


class Metered(nn.Module):
    """Counts with torchmetrics in its forward, as `validation_step` does with the whole batch."""

    def __init__(self):
        super().__init__()
        self.vit = tiny_vit()
        self.mean, self.all = MeanMetric(), CatMetric()

    def forward(self, images):
        logits = self.vit(images)
        self.mean.update(logits.detach())
        self.all.update(logits.detach())
        return logits + self.mean.compute() + self.all.compute().mean()


def timm_model(name, **options):
    return jitter(timm.create_model(name, num_classes=CLASSES, **options))


def levit():
    return timm_model(
        "levit_128s", img_size=128, embed_dim=(16, 16, 32), depth=(1, 1, 1), num_heads=(2, 2, 2), key_dim=8
    )


def tiny_vit_with_cache():
    return timm_model(
        "tiny_vit_5m_224",
        embed_dims=(8, 16, 16, 32),
        depths=(1, 1, 1, 1),
        num_heads=(1, 2, 2, 2),
        window_sizes=(4, 4, 4, 2),
    )


def eva():
    return timm_model("eva02_tiny_patch14_224", img_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=2)


def dinov3():
    return timm_model("vit_small_patch16_dinov3", img_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=2)


def dinov2():
    return timm_model("vit_small_patch14_reg4_dinov2", img_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=2)


def swin():
    return timm_model(
        "swin_tiny_patch4_window7_224",
        img_size=32,
        patch_size=4,
        window_size=4,
        embed_dim=16,
        depths=(1, 2),
        num_heads=(2, 2),
        drop_path_rate=0.2,
    )


MODELS = {
    "dropout": (lambda: tiny_vit(drop_rate=0.2, attn_drop_rate=0.2, drop_path_rate=0.2), SIZE),
    "average pool": (lambda: tiny_vit(global_pool="avg", class_token=False), SIZE),
    "frozen but head": (lambda: head_only(tiny_vit()), SIZE),
    "frozen but norms": (lambda: _norms_only(tiny_vit()), SIZE),
    "linear probe": (Probe, SIZE),
    "lora": (lora, SIZE),
    "batch norm": (lambda: Hybrid(frozen=False), SIZE),
    "frozen batch norm": (lambda: Hybrid(frozen=True), SIZE),
    "checkpoints": (lambda: Checkpointed(use_reentrant=False), SIZE),
    "reentrant checkpoints": (lambda: Checkpointed(use_reentrant=True), SIZE),
    "built-in checkpoints": (built_in_checkpoints, SIZE),
    "stateful": (Stateful, SIZE),
    "metrics": (Metered, SIZE),
    "levit": (levit, 128),
    "tiny_vit": (tiny_vit_with_cache, 64),
    "eva02": (eva, 32),
    "dinov3": (dinov3, 32),
    "dinov2 with registers": (dinov2, 32),
    "swin": (swin, 32),
}


def _norms_only(model):
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("norm" in name)
    return model


@pytest.mark.parametrize("name", MODELS)
def test_models(tmp_path, name):
    make, size = MODELS[name]
    outcome = compare(
        tmp_path,
        2,
        make=lambda: Lit(make()),
        train_loader=lambda: loader(8, size=size),
        val_loader=lambda: loader(4, size=size),
        accumulate_grad_batches=2,
        val_check_interval=1,
    )
    assert_finite(outcome.looks)
    copy.deepcopy(outcome.lit.model)


# -- batches and outputs ----------------------------------------------------------------------------------------------

Named = namedtuple("Named", ["meta", "image", "label"])


@dataclass
class Record:
    image: torch.Tensor
    label: torch.Tensor


def _records(items):
    images, labels = zip(*items, strict=True)
    return Record(torch.stack(images), torch.stack(labels))


BATCHES = {
    "tuple": ({}, lambda batch: batch),
    "labels first": ({"pack": lambda image, label: (label, image)}, lambda batch: batch[::-1]),
    "dict": ({"pack": lambda image, label: {"image": image, "label": label}}, lambda b: (b["image"], b["label"])),
    "named tuple": ({"pack": lambda image, label: Named(0, image, label)}, lambda b: (b.image, b.label)),
    "dataclass": ({"collate_fn": _records}, lambda b: (b.image, b.label)),
    "nested": (
        {"pack": lambda image, label: {"index": label, "data": ({"view": image}, [label])}},
        lambda b: (b["data"][0]["view"], b["data"][1][0]),
    ),
    "hugging face": (
        {"pack": lambda image, label: {"pixel_values": image, "labels": label}},
        lambda b: (b["pixel_values"], b["labels"]),
    ),
    "one-hot": (
        {"pack": lambda image, label: {"image": image, "label": nn.functional.one_hot(label, CLASSES)}},
        lambda b: (b["image"], b["label"].argmax(1)),
    ),
    "without labels": ({"pack": lambda image, label: [image]}, lambda b: (b[0], torch.zeros(len(b[0])).long())),
}


class InPlace(Lit):
    """Writes into its batch in every validation step, and unpacks it first."""

    def __init__(self, unpack, **options):
        super().__init__(**options)
        self.unpack = unpack

    def loss(self, batch):
        images, labels = self.unpack(batch)
        loss = super().loss((images, labels))
        if not self.training:
            images.fill_(0.5)
            labels.zero_()
        return loss


@pytest.mark.parametrize("inference_mode", [True, False])
@pytest.mark.parametrize("name", BATCHES)
def test_batches(tmp_path, name, inference_mode):
    options, unpack = BATCHES[name]
    alone = {"run": lambda trainer, lit, _, val: trainer.validate(lit, val, verbose=False)} if inference_mode else {}
    outcome = compare(
        tmp_path,
        1,
        make=lambda: InPlace(unpack),
        train_loader=lambda: loader(**options),
        val_loader=lambda: loader(6, **options),
        max_epochs=1,
        **alone,
    )
    assert_finite(outcome.looks)
    probe = outcome.trainer.callbacks[0]._session.probe
    assert torch.equal(probe.images, Pictures(3).images)
    # Where the batch has none, the step makes them.
    assert torch.equal(probe.labels, torch.zeros(3).long() if name == "without labels" else Pictures(3).labels)


class Returns(nn.Module):
    def __init__(self, form):
        super().__init__()
        self.vit, self.form = tiny_vit(), form

    def forward(self, images):
        return self.form(self.vit(images))


class ReadsLogits(Lit):
    def __init__(self, model, read):
        super().__init__(model)
        self.read = read

    def loss(self, batch):
        return nn.functional.cross_entropy(self.read(self(batch[0])), batch[1])


def hugging_face():
    return jitter(
        ViTForImageClassification(
            ViTConfig(
                hidden_size=24,
                num_hidden_layers=2,
                num_attention_heads=2,
                intermediate_size=48,
                image_size=SIZE,
                patch_size=4,
                num_labels=CLASSES,
                hidden_dropout_prob=0.1,
            )
        )
    )


OUTPUTS = {
    "tuple": (lambda: Returns(lambda logits: (logits, logits.mean())), lambda output: output[0]),
    "dict": (lambda: Returns(lambda logits: {"logits": logits, "aux": logits * 2}), lambda output: output["logits"]),
    "object": (lambda: Returns(lambda logits: ImageClassifierOutput(logits=logits)), lambda output: output.logits),
    "hugging face": (hugging_face, lambda output: output.logits),
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_outputs(tmp_path, name):
    make, read = OUTPUTS[name]
    assert_finite(compare(tmp_path, 1, make=lambda: ReadsLogits(make(), read), max_epochs=1).looks)


# -- precision --------------------------------------------------------------------------------------------------------

# Largest difference of a map to that of the same weights in float32, as a part of the map's largest value.
PRECISIONS = {"32-true": 1e-5, "64-true": 1e-5, "bf16-mixed": 0.1, "bf16-true": 0.1, "16-mixed": 0.1}


ON_GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


@pytest.mark.parametrize("accelerator", ["cpu", pytest.param("gpu", marks=ON_GPU)])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_precisions(tmp_path, precision, accelerator):
    """On a CPU Lightning runs `16-mixed` as `bf16-mixed`."""
    methods, layer, tolerance = ["hirescam", "gradcam++", "eigencam"], "model.blocks.1.norm1", PRECISIONS[precision]
    outcome = compare(
        tmp_path,
        2,
        callback=lambda: TransformerCAMCallback(methods=methods, target_layers=layer, num_samples=3, on_error="raise"),
        precision=precision,
        accelerator=accelerator,
        devices=1,
        # After the last look the weights stay as they are.
        limit_train_batches=1,
        val_check_interval=1,
    )
    assert_finite(outcome.looks)
    look, lit = outcome.looks[-1], outcome.lit.float().cpu().eval()
    assert look.probabilities.dtype == torch.float32
    data = Pictures(3)
    expected = explain(lit, data.images, methods, class_idx=data.labels, target_layers=layer)
    for method, maps in expected.maps.items():
        share = maps / maps.abs().amax((1, 2), keepdim=True)
        error = (look.maps[method] / maps.abs().amax((1, 2), keepdim=True) - share).abs().amax((1, 2))
        if method == "eigencam":  # where the largest and the smallest value tie, rounding decides the sign
            tied = (share.amax((1, 2)) + share.amin((1, 2))).abs() <= tolerance
            assert not tied.all()
            error = error[~tied]
        assert error.max() <= tolerance, f"{method}: {error}"
    assert_close(look.probabilities, expected.logits.softmax(1), rtol=0, atol=tolerance)


def test_a_look_runs_at_the_trainers_precision(tmp_path):
    """The forward is autocast as in validation, the arithmetic of the maps is not."""
    kinds = []

    class Watched(nn.Module):
        def __init__(self):
            super().__init__()
            self.vit = tiny_vit()

        def forward(self, images):
            logits = self.vit(images)
            kinds.append(logits.dtype)
            return logits

    def score(logits):
        kinds.append((torch.is_autocast_enabled("cpu"), logits.dtype))
        return logits.float().std(1)

    compare(
        tmp_path,
        1,
        callback=lambda: TransformerCAMCallback(score=score, on_error="raise"),
        make=lambda: Lit(Watched()),
        precision="bf16-mixed",
        max_epochs=1,
    )
    assert set(kinds) == {torch.bfloat16, (False, torch.bfloat16)}


def test_a_folder_of_images_is_brought_to_the_trainers_precision(tmp_path):
    for index in range(3):
        Image.new("RGB", (SIZE, SIZE), (80 * index, 20, 60)).save(tmp_path / f"{index}.png")
    make = lambda: TransformerCAMCallback(probe=str(tmp_path), on_error="raise")  # noqa: E731
    outcome = compare(tmp_path / "runs", 1, callback=make, precision="bf16-true", max_epochs=1)
    assert outcome.trainer.callbacks[0]._session.probe.images.dtype == torch.bfloat16
    assert_finite(outcome.looks)


def test_the_normalization_is_found_in_full_precision(tmp_path):
    """`bf16-true` makes bfloat16 the default type of a forward; a picture's mean must not be rounded to it."""
    make = lambda: TransformerCAMCallback(mean=[0.485] * 3, std=[0.229] * 3, on_error="raise")  # noqa: E731
    outcome = compare(tmp_path, 1, callback=make, precision="bf16-true", max_epochs=1, train_loader=loader)
    expected = (Pictures(6).images.bfloat16().float() * 0.229 + 0.485).clamp(0, 1)
    assert_close(outcome.runs[0].images.float() / 255, expected, rtol=0, atol=0.51 / 255)
