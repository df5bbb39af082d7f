"""A look on the validation forward that runs anyway: the same maps, untouched outputs, a pass of its own in doubt."""

import copy
import io

import pytest
import torch
from lightning.pytorch import Callback
from torch import nn

from lightning_cam import TransformerCAMCallback, explain, find_target_layers
from lightning_cam.training.ride import Ride, Trunk
from tests.models import average_pool_vit, class_token_vit, swin
from tests.test_callback import Blobs, Lit, events, loaders, trainer


def listened(model, images):
    """A trunk that listened to a forward of `images` for the first four of them, and that forward's output."""
    layers = find_target_layers(model, images)
    trunk = Trunk(model, model, images[:2], layers)
    trunk.listen(images[:4], model)
    with torch.no_grad():
        output = model(images)
    trunk.stop()
    return trunk, layers, output


@pytest.mark.parametrize("make", [class_token_vit, average_pool_vit, swin])
def test_the_same_maps_without_the_trunk(make):
    size = 64 if make is swin else 32
    model, images = make(), torch.randn(6, 3, size, size)
    probe = images[:4].clone()
    own = explain(model, probe, ["hirescam", "ablationcam"], class_idx=1)
    expected = model(images)
    trunk, layers, output = listened(model, images)
    assert torch.equal(output, expected)
    assert trunk.matches()
    calls = []
    first = model.blocks[0] if hasattr(model, "blocks") else model.layers[0]
    first.register_forward_hook(lambda *_: calls.append(1))
    first.forward = lambda *_: pytest.fail("the trunk ran")
    with trunk.replayed():
        ridden = explain(model, probe, ["hirescam", "ablationcam"], class_idx=1, target_layers=layers)
    for method in own.maps:
        torch.testing.assert_close(ridden.maps[method], own.maps[method], rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(ridden.logits, own.logits, rtol=1e-4, atol=1e-5)


def test_only_what_is_needed_is_kept():
    trunk, *_ = listened(class_token_vit(), torch.randn(2, 3, 32, 32))
    assert len(trunk._outputs) == 1  # the last block before the target's


def test_whatever_is_unusual_is_no_match():
    model, images = class_token_vit(), torch.randn(4, 3, 32, 32)
    probe = images[:2].clone()

    def matches(during):
        trunk = Trunk(model, model, probe, find_target_layers(model, probe))
        trunk.listen(probe, model)
        with torch.no_grad():
            during(trunk)
        trunk.stop()
        return trunk.matches()

    assert matches(lambda trunk: model(images))
    assert not matches(lambda trunk: None)
    assert not matches(lambda trunk: model(images.flip(3)))
    assert not matches(lambda trunk: model(images[:1]))
    assert not matches(lambda trunk: (model(images), model(images)))
    assert not matches(lambda trunk: (model(images), next(iter(trunk._outputs.values()))[0].output.add_(1)))
    with torch.inference_mode():
        assert not matches(lambda trunk: model(images))


def test_a_model_that_uses_its_trunk_elsewhere_keeps_it_all():
    class Skips(nn.Module):
        """Its head reads the embedding too."""

        def __init__(self):
            super().__init__()
            self.vit = class_token_vit(num_classes=0)
            self.head = nn.Linear(24, 5)

        def forward(self, images):
            early = self.vit.patch_embed(images)
            tokens = self.vit.pos_drop(self.vit._pos_embed(early))
            for block in self.vit.blocks:
                tokens = block(tokens)
            return self.head(self.vit.norm(tokens)[:, 0] + early.mean(1))

    model, images = Skips().eval(), torch.randn(3, 3, 32, 32)
    own = explain(model, images, class_idx=0)
    trunk, layers, _ = listened(model, images)
    assert len(trunk._outputs) > 1 and trunk.matches()
    with trunk.replayed():
        ridden = explain(model, images, class_idx=0, target_layers=layers)
    torch.testing.assert_close(ridden.maps, own.maps, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(ridden.logits, own.logits)


def test_from_the_third_look_on_the_trunk_runs_for_one_image_more_than_without_the_callback(tmp_path):
    lit, seen, by_epoch = Lit(), [], []
    lit.model.patch_embed.proj.register_forward_hook(lambda m, a, out: None if m.training else seen.append(len(out)))

    class Tally(Callback):
        def on_validation_end(self, trainer, module):
            by_epoch.append(sum(seen))
            seen.clear()

    looks = TransformerCAMCallback(on_error="raise", timelapse=None)
    trainer(tmp_path, looks, Tally(), max_epochs=5, num_sanity_val_steps=0).fit(lit, *loaders())
    without, probe = len(Blobs()), 8
    assert by_epoch[0] > without + probe  # layers are found, and the trunk
    assert by_epoch[1:] == [without + probe + 1, without + 1, without + 1, without + 1]  # one image confirms
    assert len(events(tmp_path).Images("cam/hirescam")) == 5


@pytest.mark.parametrize("shuffled", [False, True])
def test_the_logged_maps_are_those_of_the_validated_weights(tmp_path, shuffled):
    class Keeps(Lit):
        def on_validation_end(self):
            if not self.trainer.sanity_checking:
                shares.append(explain(self.model, Blobs(8).images, class_idx=Blobs(8).labels).logits.softmax(1))

    shares = []
    train, validation = loaders()
    if shuffled:
        validation = torch.utils.data.DataLoader(Blobs(), 8, shuffle=True)
    looks = TransformerCAMCallback(on_error="raise", timelapse=None)
    trainer(tmp_path, looks, max_epochs=5).fit(Keeps(), train, validation)
    logged = [event.value for event in events(tmp_path).Scalars("cam/hirescam/target_probability")]
    if not shuffled:
        labels = Blobs(8).labels
        expected = [p[torch.arange(8), labels].mean().item() for p in shares]
        assert logged == pytest.approx(expected, abs=1e-5)
    assert len(logged) == 5


class Unusual(Lit):
    """Does things with the model in a validation step that a hook must not be in the way of."""

    def validation_step(self, batch, batch_idx):
        torch.save(self.model, io.BytesIO())
        self.twin = copy.deepcopy(self.model)
        self.model(batch["image"])


def test_models_can_be_copied_and_saved_while_they_are_listened_to(tmp_path):
    lit = Unusual()
    trainer(tmp_path, TransformerCAMCallback(on_error="raise", timelapse=None), max_epochs=3).fit(lit, *loaders())
    left = {
        type(hook).__name__ for m in (*lit.twin.modules(), *lit.model.modules()) for hook in m._forward_hooks.values()
    }
    assert left <= {"_Deaf"}
    torch.testing.assert_close(lit.twin(Blobs(2).images), lit.twin(Blobs(2).images))


def test_an_input_of_an_unusual_kind_does_not_stop_the_pass():
    model, images = class_token_vit(), torch.randn(2, 3, 32, 32)
    trunk = Trunk(model, model, images, find_target_layers(model, images))

    class Odd(torch.Tensor):
        def __eq__(self, other):
            raise RuntimeError("not to be compared")

    trunk.listen(images, model)
    with torch.no_grad():
        model(images.as_subclass(Odd))
    trunk.stop()
    assert not trunk.matches()


@pytest.mark.parametrize("change", ["weights", "dropout", "flip"])
def test_a_pass_that_a_look_would_not_repeat_is_no_match(change):
    model, images = class_token_vit(proj_drop_rate=0.5), torch.randn(2, 3, 32, 32)
    trunk = Trunk(model, model, images, find_target_layers(model, images))
    before = [parameter.detach().clone() for parameter in model.parameters()]
    trunk.listen(images, model)
    with torch.no_grad():
        if change == "weights":
            for parameter in model.parameters():
                parameter.mul_(1.5)
        if change == "dropout":
            for module in model.modules():
                module.training = isinstance(module, nn.Dropout)
        if change == "flip":
            model.patch_embed(images)  # the images are seen here
            model.patch_embed.register_forward_pre_hook(lambda m, args: (args[0].flip(-1),))
        model(images)
        for parameter, value in zip(model.parameters(), before, strict=True):
            parameter.copy_(value)
    trunk.stop()
    model.patch_embed._forward_pre_hooks.clear()
    assert not trunk.matches()


class Picky(nn.Module):
    """Writes into its patch embedding's output, or looks at values on the way."""

    def __init__(self, kind):
        super().__init__()
        self.vit, self.kind = class_token_vit(depth=5), kind

    def forward(self, images):
        tokens = self.vit.patch_embed(images)
        if self.kind == "writes":
            tokens += 1
        tokens = self.vit._pos_embed(tokens)
        for block in self.vit.blocks:
            tokens = block(tokens)
            if self.kind == "checks":
                assert torch.isfinite(tokens).all()
        return self.vit.forward_head(self.vit.norm(tokens))


@pytest.mark.parametrize("kind", ["writes", "checks"])
def test_a_model_that_writes_to_its_outputs_or_checks_them(kind):
    model, images = Picky(kind).eval(), torch.rand(4, 3, 32, 32)
    trunk, layers, _ = listened(model, images)
    expected = explain(model, images, target_layers=layers).maps["hirescam"]
    if trunk.matches():
        with trunk.replayed():
            torch.testing.assert_close(explain(model, images, target_layers=layers).maps["hirescam"], expected)
    assert trunk.matches() == (kind == "checks")
    ablated = explain(model, images, "ablationcam", target_layers=layers[-1:]).maps["ablationcam"]
    assert ablated.abs().amax((1, 2)).min() > 0


def test_a_ride_that_fails_gives_way_to_a_pass_of_its_own():
    model, images = class_token_vit(), torch.rand(4, 3, 32, 32)
    trunk, layers, _ = listened(model, images)
    ride = Ride(trunk, None)
    calls = []

    def run():
        calls.append("forward" in vars(model.patch_embed))  # whether the trunk is handed out
        if calls == [False, True, True]:
            raise RuntimeError("values that the model refuses")
        return explain(model, images, target_layers=layers)

    maps = []
    for _ in range(3):
        ride.begin(images, None)
        with torch.no_grad():
            model(images)
        ride.arrive()
        maps.append(ride.explain(run).maps["hirescam"])
    assert calls == [False, True, True, False, False]
    torch.testing.assert_close(maps, maps[:1] * 3, rtol=0, atol=0)
