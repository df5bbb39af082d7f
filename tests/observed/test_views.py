"""A network that runs several times, or is given the image changed: every cell is shown where it lies in the image."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

from lightning_cam import explain
from lightning_cam.observe.origins import Origins
from lightning_cam.observe.places import undo_of
from tests.models import jitter
from tests.observed.data import Plain, loaders, vit
from tests.observed.run import fit

METHODS = ["hirescam", "attnlrp", "gradcam"]


class Calls(nn.Module):
    """Calls a network in ways of its own."""

    def __init__(self, calls, network=None):
        super().__init__()
        self.network, self.calls = jitter(vit()) if network is None else network, calls

    def forward(self, x):
        return self.calls(self.network, x)


def images():
    return torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def maps_of(network, x):
    return explain(network, x, METHODS, class_idx=1).maps


CHANGES = {
    "flipped": (lambda x: x.flip(-1), lambda maps: maps.flip(-1)),
    "upside down": (lambda x: x.flip((2,)), lambda maps: maps.flip(-2)),
    "turned": (lambda x: x.rot90(1, (2, 3)), lambda maps: maps.rot90(-1, (-2, -1))),
    "transposed": (lambda x: x.transpose(2, 3), lambda maps: maps.transpose(-1, -2)),
    "turned and flipped": (lambda x: x.rot90(1, (2, 3)).flip(3) - 0.5, lambda m: m.flip(-1).rot90(-1, (-2, -1))),
    "colors swapped": (lambda x: x.flip(1), lambda maps: maps),
    "smaller and larger": (
        lambda x: F.interpolate(F.interpolate(x, scale_factor=0.5), scale_factor=2.0),
        lambda maps: maps,
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_the_sum_over_calls_in_their_places(name):
    change, back = CHANGES[name]
    model, x = Calls(lambda network, x: network(x) + 0.5 * network(change(x))), images()
    found, plain, changed = maps_of(model, x), maps_of(model.network, x), maps_of(model.network, change(x))
    for method in ("hirescam", "attnlrp"):  # linear in the gradient
        assert_close(found[method], plain[method] + 0.5 * back(changed[method]), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", CHANGES)
def test_one_call_of_a_changed_image(name):
    change, back = CHANGES[name]
    model, x = Calls(lambda network, x: network(change(x))), images()
    found, changed = maps_of(model, x), maps_of(model.network, change(x))
    for method in METHODS:
        assert_close(found[method], back(changed[method]), rtol=1e-3, atol=1e-6)


def test_other_images_are_no_views():
    x = images()
    model = Calls(lambda network, x: network(torch.zeros_like(x)) - network(torch.ones(len(x), 3, 64, 64)) + network(x))
    found, plain = maps_of(model, x), maps_of(model.network, x)
    for method in ("hirescam", "attnlrp"):
        assert_close(found[method], plain[method], rtol=1e-3, atol=1e-6)


def test_a_cut_and_a_pad_leave_the_cells_where_they_are():
    x = images()
    cut = Calls(lambda network, x: network(F.interpolate(x[..., 16:48, 16:48], size=64)))
    inner = maps_of(cut.network, F.interpolate(x[..., 16:48, 16:48], size=64))["hirescam"]
    expected = torch.zeros(3, 8, 8)  # cells of 8 pixels, of which the network sees those in the middle
    expected[:, 2:6, 2:6] = inner
    assert_close(maps_of(cut, x)["hirescam"], expected, rtol=1e-3, atol=1e-6)
    padded = Calls(lambda network, x: network(F.pad(x[..., :48, :32], (16, 16, 0, 16))))
    inner = maps_of(padded.network, F.pad(x[..., :48, :32], (16, 16, 0, 16)))["hirescam"]
    expected = torch.zeros(3, 4, 4)
    expected[:, :3, :2] = inner[:, :3, 1:3]
    assert_close(maps_of(padded, x)["hirescam"], expected, rtol=1e-3, atol=1e-6)


def test_several_images_for_one_are_refused():
    def tiles(network, x):
        quarters = [x[..., i : i + 32, j : j + 32] for i in (0, 32) for j in (0, 32)]
        return network(F.interpolate(torch.cat(quarters), size=64)).view(4, len(x), -1).mean(0)

    model = Calls(tiles)
    with pytest.raises(ValueError, match=r"for 2 images, .*give forward=, a function that passes it each image once"):
        explain(model, images(), "hirescam")
    found = explain(model, images(), "hirescam", forward=model.network, class_idx=1).maps["hirescam"]
    assert_close(found, maps_of(model.network, images())["hirescam"], rtol=1e-3, atol=1e-6)


def test_methods_without_gradients_explain_the_image_as_it_is():
    model, x = Calls(lambda network, x: network(x.flip(-1)) + network(x)), images()
    found = explain(model, x, ["eigencam", "ablationcam"], class_idx=1).maps
    plain = explain(model.network, x, "eigencam").maps["eigencam"]
    assert_close(found["eigencam"], plain, rtol=1e-3, atol=1e-5)
    # What AblationCAM changes is the plain call; the other one adds the same to all scores.
    alone = explain(model.network, x, "ablationcam", class_idx=1).maps["ablationcam"]
    assert torch.nn.functional.cosine_similarity(found["ablationcam"].flatten(1), alone.flatten(1)).min() > 0.9


def test_the_model_is_left_as_it_was():
    model = Calls(lambda network, x: network(x) + network(x.flip(-1)))
    before = [{key: len(value) for key, value in vars(m).items() if key.endswith("_hooks")} for m in model.modules()]
    maps_of(model, images())
    after = [{key: len(value) for key, value in vars(m).items() if key.endswith("_hooks")} for m in model.modules()]
    assert before == after and "forward" not in vars(model.network)


class InForward(Plain):
    def forward(self, x):
        return (self.model(x) + self.model(x.flip(-1))) / 2


class InTheStep(Plain):
    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.log("val_loss", F.cross_entropy((self(x) + self(x.flip(-1))) / 2, y))


@pytest.mark.parametrize("cls", [InForward, InTheStep])
def test_flips_in_a_training(tmp_path, cls):
    made = cls(vit()), *loaders()
    result = fit(made, tmp_path)
    assert not result.off and result.found == 4
    x, y = made[2].dataset.x, made[2].dataset.y
    plain, flipped = (explain(made[0].model, v, "hirescam", class_idx=y).maps["hirescam"] for v in (x, x.flip(-1)))
    assert_close(result.maps(), (plain + flipped.flip(-1)) / 2, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x.gather(3, torch.arange(4).flip(0).expand(1, 1, 4, 4)),
        lambda x: x[..., ::2],
        lambda x: torch.cat([x, x.flip(-1)]),
        lambda x: x.flip(0),
    ],
)
def test_what_is_not_followed_is_known_not_to_be(change):
    image = torch.arange(16.0).view(1, 1, 4, 4)
    with Origins({"image": image}) as origins:
        origin = origins.of(change(image))
    assert origin is not None and undo_of(origin) is None
