"""Training without classes: which network is shown on what, and that the training does not notice."""

import copy
import logging

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from PIL import Image
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.testing import assert_close
from torchvision.models import VisionTransformer
from torchvision.transforms.functional import to_tensor
from transformers import ViTConfig, ViTMAEConfig, ViTMAEForPreTraining, ViTModel

from lightning_cam import TransformerCAMCallback, explain
from lightning_cam.model.untouched import looking
from lightning_cam.timeline import read_timeline
from lightning_cam.training.sources import images_of_folder
from lightning_cam.training.watch import StepWatch
from tests import self_supervised
from tests.self_supervised import DINO, MAE, SimCLR, Views, loader
from tests.training import Lit, MemoryLogger, compare, heard, options, train
from tests.training import loader as classes_loader


def on_train(**changes):
    given = dict(on="train", num_samples=3, on_error="raise", report=False, timelapse=None)
    return TransformerCAMCallback(**{**given, **changes})


def probe_of(callback):
    return callback.state_dict()["probe"]["images"]


EVERY = {"cls_attention", "cls_similarity", "pca"}
KINDS = {  # what is shown, and what the card says
    "DINO": ("teacher_backbone", EVERY, ["`DINOLoss` reads", "`student_backbone`, of the same form", "class token"]),
    "SimCLR": ("backbone", EVERY - {"cls_attention"}, ["`NTXentLoss` reads", "their mean, as there is no class token"]),
    "MAE": ("backbone", EVERY, ["`MSELoss` reads", "parts of it, such as `backbone.vit.patch_embed`"]),
    "IBOT": ("teacher_backbone", EVERY, ["`student_backbone`, of the same form"]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_training_is_the_same_bit_for_bit(tmp_path, kind):
    name, methods, words = KINDS[kind]
    made = []

    def callback():
        made.append(on_train())
        return made[-1]

    outcome = compare(tmp_path, 2, callback, make=getattr(self_supervised, kind), train_loader=loader)
    (card,) = (run.text for run in outcome.runs)
    assert f"Explained is `{name}`, on the batch's images as they are" in card
    assert all(word in card for word in words) and "features, no class" in card
    network, images = outcome.lit.get_submodule(name), probe_of(made[0])
    look = outcome.looks[-1]
    assert set(look.maps) == methods and outcome.steps() == [3, 6]
    assert look.probabilities is None and look.class_idx is None and look.values is None
    # The images are those of the first batch, as the network got them, and the maps those of the network alone.
    torch.manual_seed(0)
    everything = Views().images
    assert all((image == everything).flatten(1).all(1).any() for image in images)
    with looking(outcome.lit):
        expected = explain(network, images, sorted(methods - {"pca"})).maps
    for method in methods - {"pca"}:
        assert_close(look.maps[method], expected[method], rtol=1e-3, atol=1e-5)
    scalars = {tag.removeprefix("cam/") for tag in look.scalars}
    assert scalars == {
        *(f"{method}/entropy" for method in methods - {"pca"}),
        *(f"{method}/similarity_to_{other}" for method in methods for other in ("previous", "first")),
    }


def test_the_other_network_and_other_methods(tmp_path):
    shown = {}
    for name in ("student_backbone", "teacher_backbone"):
        callback = on_train(methods=["cls_similarity"], forward=name)
        outcome = train(tmp_path / name, callback, DINO, train_loader=loader)
        shown[name] = outcome.looks[-1].maps["cls_similarity"]
        assert f"Explained is `{name}`" in outcome.runs[0].text
        with looking(outcome.lit):
            expected = explain(outcome.lit.get_submodule(name), probe_of(callback), "cls_similarity").maps
        assert_close(shown[name], expected["cls_similarity"], rtol=1e-3, atol=1e-5)
    assert (shown["student_backbone"] - shown["teacher_backbone"]).abs().max() > 1e-3


def test_a_network_that_does_not_learn_has_the_same_picture(tmp_path):
    class Still(DINO):
        def configure_optimizers(self):
            return torch.optim.SGD(self.student_head.parameters(), 0.0)

    outcome = train(tmp_path, on_train(methods="pca"), Still, train_loader=loader, max_epochs=3)
    for look in outcome.looks[1:]:
        assert_close(look.maps["pca"], outcome.looks[0].maps["pca"], rtol=1e-4, atol=1e-5)
        assert_close(look.scalars["cam/pca/similarity_to_previous"], torch.tensor(1.0))
    (first, *others) = (look.pictures["cam/pca"].int() for look in outcome.looks)
    assert all((other - first).abs().max() <= 1 for other in others)


def test_epochs_between_looks_and_accumulated_gradients(tmp_path):
    outcome = compare(
        tmp_path,
        2,
        lambda: on_train(every_n_epochs=2, methods=["pca", "cls_attention"]),
        make=DINO,
        train_loader=loader,
        max_epochs=4,
        accumulate_grad_batches=2,
    )
    assert [look.epoch for look in outcome.looks] == [0, 2]


def test_steps_are_seen_until_the_probe_is_there(tmp_path, monkeypatch):
    """And no longer: to see a step takes time."""
    seen = []
    watched = StepWatch.begin
    monkeypatch.setattr(
        StepWatch, "begin", lambda self, batch, *rest: (seen.append(rest[0]), watched(self, batch, *rest))
    )
    train(tmp_path, on_train(num_samples=6), DINO, train_loader=lambda: loader(20))  # of batches of 4
    assert seen == [0, 1]
    given = Views(5).images[:5]
    outcome = train(tmp_path / "given", on_train(probe=given, num_samples=5), DINO, train_loader=loader)
    assert seen == [0, 1, 0] and all(len(maps) == 5 for maps in outcome.looks[-1].maps.values())


def test_resume(tmp_path):
    """Goes on with the images, the colors and the filmstrip of the run before."""

    def run(folder, callback, epochs, ckpt=None):
        logger = MemoryLogger()
        saver = ModelCheckpoint(folder, filename="{epoch}", save_top_k=-1)
        settings = options(folder, logger=logger, max_epochs=epochs, enable_checkpointing=True)
        torch.manual_seed(0)
        trainer = Trainer(callbacks=[callback, saver], **settings)
        module = SimCLR()  # in which nothing is drawn at random, or a resumed run would draw other numbers
        data = torch.utils.data.DataLoader(Views(), 4)
        trainer.fit(module, data, ckpt_path=ckpt)
        return logger.looks, module

    whole, trained = run(tmp_path / "whole", on_train(), 4)
    run(tmp_path / "parts", on_train(), 2)
    callback = on_train()
    rest, resumed = run(tmp_path / "parts", callback, 4, tmp_path / "parts" / "epoch=1.ckpt")
    assert [look.step for look in rest] == [look.step for look in whole[2:]]
    assert rest[-1].strip.headings == whole[-1].strip.headings
    assert_close(dict(resumed.state_dict()), dict(trained.state_dict()), rtol=0, atol=0)
    assert_close(rest[-1].maps, whole[-1].maps, rtol=1e-4, atol=1e-5)
    assert_close(rest[-1].strip.maps["pca"][:2], whole[-1].strip.maps["pca"][:2], rtol=0, atol=0)


def test_a_teacher_that_cannot_be_watched(tmp_path):
    """PyTorch's own attention takes fused kernels in evaluation, where nobody listens: it is not listened to."""

    class Evaluated(DINO):
        def __init__(self):
            super().__init__()
            for name in ("student_backbone", "teacher_backbone"):
                network = VisionTransformer(32, 8, 2, 2, self_supervised.WIDTH, 48)
                network.heads = nn.Identity()
                setattr(self, name, network.requires_grad_(name == "student_backbone"))

        def on_train_epoch_start(self):
            self.teacher_backbone.eval()

        def loss(self, batch):
            return super().loss([batch[0][:2], *batch[1:]])

    with heard() as said:
        train(tmp_path / "off", on_train(on_error="warn"), Evaluated, train_loader=loader)
    assert "was not seen to give images to a network" in "".join(said) and "give forward=" in "".join(said)
    named = compare(tmp_path, 2, lambda: on_train(forward="teacher_backbone"), make=Evaluated, train_loader=loader)
    assert set(named.looks[-1].maps) == EVERY and "nothing was seen that reads classes" in named.runs[0].text


def test_a_folder_through_a_transform_that_makes_views(tmp_path):
    pixels = (torch.rand(3, 40, 40, 3) * 255).byte().numpy()
    for index, array in enumerate(pixels):
        Image.fromarray(array).save(tmp_path / f"{index}.png")
    found = images_of_folder(tmp_path, transform=lambda image: [to_tensor(image)[:, :32, :32], to_tensor(image)])
    assert_close(found.images, torch.from_numpy(pixels).permute(0, 3, 1, 2)[:, :, :32, :32] / 255)


def test_what_is_recorded(tmp_path):
    """Colors, one map per channel, read back from the file; charts and captions of classes are not there."""
    train(tmp_path, on_train(report=True, timelapse="webp"), MAE, train_loader=loader)
    (path,) = tmp_path.rglob("*.lcam")
    timeline = read_timeline(path)
    assert timeline.maps["pca"].shape == (2, 3, 3, 4, 4) and timeline.maps["cls_attention"].shape == (2, 3, 4, 4)
    assert (timeline.top_classes == -1).all() and (timeline.labels == -1).all() and not timeline.findings
    assert set(timeline.metrics) >= {"train_loss_epoch", "cam/pca/similarity_to_previous"}
    assert not any("probability" in tag or "cohort" in tag or "conservation" in tag for tag in timeline.metrics)
    assert list(tmp_path.rglob("*_report.html")) and list(tmp_path.rglob("*_timelapse.webp"))


def test_validation_that_compares_features(tmp_path):
    """No `on=` is needed where there is a validation: it says no class either."""

    class Validated(DINO):
        def validation_step(self, batch, batch_idx):
            views = batch[0]
            out = [self.forward(view) for view in views[:2]]
            self.log("val_loss", -torch.nn.functional.cosine_similarity(*out).mean())

    callback = TransformerCAMCallback(num_samples=3, on_error="raise", report=False, timelapse=None)
    outcome = train(tmp_path, callback, Validated, train_loader=loader, val_loader=loader)
    assert set(outcome.looks[-1].maps) == EVERY
    assert "Explained is `student_backbone`" in outcome.runs[0].text and "no class" in outcome.runs[0].text


class InOne(self_supervised.SelfSupervised):
    """One module is given all views, and returns the loss; its networks have names of their own."""

    def __init__(self):
        super().__init__()
        self.model = InOneModel()

    def loss(self, batch):
        return self.model(batch[0])

    @torch.no_grad()
    def on_train_batch_end(self, *args):
        for kept, new in zip(self.model.kept.parameters(), self.model.online.parameters(), strict=True):
            kept.lerp_(new, 0.1)


class InOneModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.online = self_supervised.vit(dynamic_img_size=True)
        self.kept = copy.deepcopy(self.online).requires_grad_(False)

    def forward(self, views):
        with torch.no_grad():
            targets = [self.kept(view).softmax(1) for view in views[:2]]
        outputs = [self.online(view) for view in views]
        pairs = [(t, o) for i, t in enumerate(targets) for j, o in enumerate(outputs) if i != j]
        return sum(-(target * output.log_softmax(1)).sum(1).mean() for target, output in pairs)


class Watched(self_supervised.SelfSupervised):
    """A classifier on detached features says how good they are, as in lightly's benchmarks."""

    def __init__(self):
        super().__init__()
        self.backbone, self.classifier = self_supervised.vit(), nn.Linear(self_supervised.WIDTH, 3)

    def loss(self, batch):
        features = self.backbone(torch.cat(batch[0][:2]))
        one, other = nn.functional.normalize(features, dim=1).chunk(2)
        logits = self.classifier(features.chunk(2)[0].detach())
        return -(one * other).sum(1).mean() + nn.functional.cross_entropy(logits, batch[1])


class Averaged(self_supervised.SelfSupervised):
    """PyTorch's own average is the teacher, and the optimizer is called by hand."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.net = self_supervised.vit()
        self.average = AveragedModel(self.net, multi_avg_fn=get_ema_multi_avg_fn(0.9))

    def training_step(self, batch, batch_idx):
        with torch.no_grad():
            target = self.average(batch[0][0]).softmax(1)
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(-(target * self.net(batch[0][1]).log_softmax(1)).sum(1).mean())
        optimizer.step()

    def on_train_batch_end(self, *args):
        self.average.update_parameters(self.net)


@pytest.mark.parametrize(
    ("make", "name", "twin"),
    [(InOne, "model.kept", "model.online"), (Watched, "backbone", None), (Averaged, "average", "net")],
)
def test_the_network_is_found_however_the_module_is_written(tmp_path, make, name, twin):
    callbacks = []

    def callback():
        callbacks.append(on_train())
        return callbacks[-1]

    outcome = compare(tmp_path, 2, callback, make=make, train_loader=loader)
    assert f"Explained is `{name}`" in outcome.runs[0].text and "features, no class" in outcome.runs[0].text
    assert twin is None or f"`{twin}`" in outcome.runs[0].text
    with looking(outcome.lit):
        expected = explain(outcome.lit.get_submodule(name), probe_of(callbacks[0]), ["cls_attention", "cls_similarity"])
    for method, maps in expected.maps.items():
        assert_close(outcome.looks[-1].maps[method], maps, rtol=1e-3, atol=1e-5)


def test_an_autoencoder_that_masks_wherever_it_is_called(tmp_path):
    """Hugging Face's: what is shown are all patches, in their places."""

    class Module(self_supervised.SelfSupervised):
        def __init__(self):
            super().__init__()
            sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
            self.model = ViTMAEForPreTraining(
                ViTMAEConfig(image_size=32, patch_size=8, **sizes, **{f"decoder_{key}": v for key, v in sizes.items()})
            )

        def loss(self, batch):
            return self.model(pixel_values=batch[0][0]).loss

    callbacks = []

    def callback():
        callbacks.append(on_train())
        return callbacks[-1]

    outcome = compare(tmp_path, 2, callback, make=Module, train_loader=loader)
    assert "no patch masked" in outcome.runs[0].text and outcome.lit.model.config.mask_ratio == 0.75
    vit = ViTModel(ViTConfig(**{**outcome.lit.model.config.to_dict(), "model_type": "vit"}), add_pooling_layer=False)
    vit.load_state_dict(outcome.lit.model.vit.state_dict())
    with torch.no_grad():
        tokens = vit.eval()(probe_of(callbacks[0])).last_hidden_state.double()
    for number, one in enumerate(tokens):
        slow = torch.stack([nn.functional.cosine_similarity(patch, one[0], dim=0) for patch in one[1:]]).view(4, 4)
        assert_close(outcome.looks[-1].maps["cls_similarity"][number].double(), slow, rtol=1e-3, atol=1e-5)
    assert outcome.looks[-1].maps["cls_attention"].shape == (3, 4, 4)


def test_classes_on_training_batches(tmp_path):
    """A classifier without a validation loop: the same maps as in validation, of training images."""
    callbacks = []

    def callback():
        callbacks.append(on_train(methods="hirescam"))
        return callbacks[-1]

    outcome = compare(tmp_path, 2, callback, limit_val_batches=0, train_loader=lambda: classes_loader(6))
    look, probe = outcome.looks[-1], callbacks[0].state_dict()["probe"]
    assert "Class activation maps of fixed training images" in outcome.runs[0].text
    with looking(outcome.lit):
        expected = explain(outcome.lit.model, probe["images"], "hirescam", class_idx=probe["labels"])
    assert_close(look.maps["hirescam"], expected.maps["hirescam"], rtol=1e-3, atol=1e-6)
    assert sorted(probe["labels"].tolist()) == [0, 1, 2]  # spread over the classes, as they pass


def test_what_cannot_be_shown_says_so(tmp_path):
    with heard() as said:
        train(tmp_path / "validation", TransformerCAMCallback(), DINO, train_loader=loader)
    assert sum('Give on="train"' in text for text in said) == 1
    with heard() as said:
        outcome = train(tmp_path / "class", on_train(methods="hirescam", on_error="warn"), DINO, train_loader=loader)
    (text,) = (text for text in said if "switched itself off" in text)
    assert not outcome.looks and "methods: hirescam explain a class" in text and "score=" in text
    with heard() as said:
        outcome = train(tmp_path / "both", on_train(methods=["gradcam", "pca"]), DINO, train_loader=loader)
    assert set(outcome.looks[-1].maps) == {"pca"} and "gradcam explain a class, and there is none" in "".join(said)
    with pytest.raises(ValueError, match="on: expected 'validation' or 'train', got 'test'"):
        TransformerCAMCallback(on="test")


def test_a_collapsed_network_is_said_and_drawn(tmp_path):
    class Collapsed(DINO):
        def on_train_batch_end(self, outputs, batch, batch_idx):
            if self.current_epoch == 1:
                self.teacher_backbone.requires_grad_(False).norm.weight.zero_()

    with heard() as said:
        outcome = train(tmp_path, on_train(), Collapsed, train_loader=loader, max_epochs=3)
    assert (outcome.looks[1].maps["pca"] == 0).all() and outcome.looks[2].maps["pca"].isfinite().all()
    (text,) = (text for text in said if "collapsed" in text)
    assert "features that cls_similarity, pca shows are the same everywhere at step 6" in text


def test_feature_maps_beside_those_of_a_class(tmp_path):
    """Of a supervised model: nothing is found by colors, and no check asks them for a class."""
    with heard() as said:
        callback = TransformerCAMCallback(
            methods=["pca", "cls_attention", "hirescam"], num_samples=3, on_error="raise", report=False, timelapse=None,
            faithfulness_every_n_looks=1, cohort=6,
        )  # fmt: skip
        outcome = compare(tmp_path, 2, lambda: callback)
    tags = set(outcome.looks[-1].scalars)
    assert "cam/hirescam/deletion_auc" in tags and "cam/pca/deletion_auc" not in tags
    assert "cam/hirescam/gain_over_chance" in tags and not any("the same for another class" in text for text in said)


def test_the_card_is_one_line_of_the_log(tmp_path, caplog):
    caplog.set_level(logging.INFO, "lightning_cam")
    train(tmp_path, on_train(), Lit, train_loader=lambda: classes_loader(6), limit_val_batches=0)
    assert caplog.text.count("`cross_entropy` reads its output as softmax classes") == 1
