"""Planes of volumes, videos and bags: which are shown, what is said of them, and that none runs into another."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from lightning_cam import explain
from lightning_cam.explanation.picture import picture_of_planes
from lightning_cam.render import Captions, filmstrip, overlay_grid
from lightning_cam.render.caption import draw_lines
from lightning_cam.render.filmstrip import TILE as FILM_TILE
from lightning_cam.render.grid import TILE
from lightning_cam.render.planes import evidence_of, laid, leading, of_planes, planes_or_none, side_by_side
from lightning_cam.resolve.planes import kind_of_planes
from lightning_cam.timeline import TimelineWriter, read_timeline
from lightning_cam.timeline.planes import Planes
from lightning_cam.timeline.timelapse import write_timelapse
from lightning_cam.training.draw import draw
from lightning_cam.training.look import Look, Strip
from lightning_cam.training.planes import pictures_by_evidence
from lightning_cam.training.run_info import RunInfo
from lightning_cam.training.sinks import TimelineSink

NUMBERS = (3, 8, 13, 18, 23, 28)
SLICES = Planes("slice", 32, NUMBERS)
BEST = (4, 1, 5)  # the plane with most evidence of three images


def planted(depth=6, grid=4):
    """Maps (3, depth, grid, grid) with evidence for it in one plane, less in the next, against it everywhere else."""
    maps = torch.full((3, depth, grid, grid), -0.5)
    for image, best in enumerate(BEST):
        maps[image, best * depth // 6, 0, 1] = 6
        maps[image, (best * depth // 6 + 1) % depth, 2, 2] = 2
    return maps


def images_of(count=6):
    """(3, count, 3, 16, 16) uint8: all of a plane has the gray that tells its number."""
    grays = (torch.arange(count) * 40 + 20).to(torch.uint8)
    return grays.view(1, -1, 1, 1, 1).expand(3, count, 3, 16, 16).contiguous()


def look_of(maps, planes):
    below = {"m": maps.flatten(1, 2)}
    probabilities = torch.eye(3)
    strip = Strip(
        ["epoch 0", "epoch 1"],
        {"m": torch.stack([below["m"] / 2, below["m"]])},
        torch.arange(3).repeat(2, 1),
        torch.ones(2, 3),
    )
    look = Look(5, 1, {}, below, probabilities, torch.arange(3), strip=strip, evidence={"m": evidence_of(maps)})
    info = RunInfo("cam", ["m"], "", images_of(), torch.arange(3), None, ["a", "b", "c"], planes=planes)
    return look, info


def test_evidence_is_what_speaks_for_the_class():
    shares = evidence_of(planted())
    slow = np.zeros((3, 6))
    for image in range(3):
        for plane in range(6):
            slow[image, plane] = sum(max(0.0, value) for value in planted()[image, plane].flatten().tolist())
    assert_close(shares.double(), torch.from_numpy(slow / slow.sum(1, keepdims=True)))
    assert not evidence_of(-planted().abs()).any() and not evidence_of(torch.full((1, 2, 2, 2), torch.nan)).any()


def test_which_planes_lead():
    shares = evidence_of(planted())
    assert leading(shares, "slice")[:, 0].tolist() == list(BEST)
    assert leading(torch.zeros(1, 7), "slice").tolist() == [[3]]
    assert leading(shares, "instance")[:, :2].tolist() == [[4, 5], [1, 2], [5, 0]]
    many = torch.rand(2, 40, generator=torch.Generator().manual_seed(0))
    slow = [sorted(range(40), key=lambda k: -row[k])[:16] for row in many.tolist()]
    assert leading(many, "instance").tolist() == slow  # the top ones, not evenly spaced
    assert leading(many, "frame")[0].tolist() == [int((k + 0.5) * 40 / 16) for k in range(16)]


@pytest.mark.parametrize("depth", [6, 3])
def test_a_tile_is_the_slice_with_most_evidence(depth):
    """Also where a map has fewer planes than there are pictures: three pictures belong to each two planes then."""
    maps = planted(depth)
    shown = pictures_by_evidence(images_of(), maps.flatten(1, 2), evidence_of(maps), SLICES)
    per_plane = 6 // depth
    for image, best in enumerate(BEST):
        plane = best // per_plane
        picture = plane * per_plane  # the first of those that belong to it
        assert shown.images[image].unique().tolist() == [picture * 40 + 20]
        assert torch.equal(shown.maps[image], maps[image, plane])
        assert shown.notes[image] == f"slice {NUMBERS[picture]} · 75%"


def test_instances_stand_in_the_order_of_their_evidence():
    maps = planted()
    shown = pictures_by_evidence(
        images_of(), maps.flatten(1, 2), evidence_of(maps), Planes("instance", 6, (1, 2, 3, 4, 5, 6))
    )
    assert shown.lines[0][:3] == ["5 · 75%", "6 · 25%", "1"] and shown.notes[1] == "instance 2 · 75%"
    assert shown.images[:, :2, 0, 0, 0].tolist() == [[180, 220], [60, 100], [220, 20]]
    assert torch.equal(shown.maps[2, 0], maps[2, 5]) and torch.equal(shown.maps[2, 1], maps[2, 0])


def test_the_grid_shows_the_slice_and_says_its_number():
    look, info = look_of(planted(), SLICES)
    grid = draw(look, info).pictures["cam/m"]
    heat = planted().relu() / 6
    expected = overlay_grid(
        torch.stack([images_of()[k, best] for k, best in enumerate(BEST)]) / 255,
        torch.stack([heat[k, best] for k, best in enumerate(BEST)]),
        Captions(["a", "b", "c"]), preds=torch.arange(3), probs=torch.ones(3), labels=torch.arange(3),
        notes=[f"slice {NUMBERS[best]} · 75%" for best in BEST],
    )  # fmt: skip
    assert (grid.int() - expected.int()).abs().max() <= 1


def test_all_looks_of_a_filmstrip_show_the_slice_of_the_newest():
    look, info = look_of(planted(), SLICES)
    earlier = planted().roll(2, 1)  # another slice had the evidence
    look.strip.maps["m"][0] = earlier.flatten(1, 2)
    strip = draw(look, info).pictures["cam/m/filmstrip"]
    chosen = torch.tensor(BEST)[:, None]
    expected = filmstrip(
        of_planes(images_of() / 255, chosen)[:, 0],
        torch.stack([of_planes(earlier, chosen)[:, 0], of_planes(planted(), chosen)[:, 0]]),
        ["epoch 0", "epoch 1"], Captions(["a", "b", "c"]), preds=torch.arange(3).repeat(2, 1), probs=torch.ones(2, 3),
        labels=torch.arange(3), notes=[f"slice {NUMBERS[best]} · 75% at the newest look; all show it" for best in BEST],
    )  # fmt: skip
    assert torch.equal(strip, expected)


@pytest.mark.parametrize("kind", ["frame", "instance"])
def test_several_planes_of_a_tile_do_not_run_into_each_other(kind):
    """All of one plane is hot: its neighbors are as cold at the border as in their middle."""
    maps = torch.zeros(3, 6, 4, 4)
    maps[:, 0] = 1
    maps[:, 1:, 3, 3] = 1e-3
    look, info = look_of(maps, Planes(kind, 6, (1, 2, 3, 4, 5, 6)))
    hot = planes_or_none(images_of() / 255, maps)
    for plane in range(1, 6):
        alone = planes_or_none(images_of()[:, plane : plane + 1] / 255, maps[:, plane : plane + 1] + 1e-9)
        assert (hot[:, plane, :, :12, :4].int() - alone[:, 0, :, :12, :4].int()).abs().max() <= 8
    pictures = draw(look, info).pictures
    assert pictures["cam/m"].shape[2] > 3 * (TILE - 32) and pictures["cam/m/filmstrip"].shape[2] > 3 * (FILM_TILE - 32)


def test_under_each_plane_stands_its_line():
    planes = torch.zeros(1, 4, 3, 60, 60, dtype=torch.uint8)
    with_lines, without = laid(planes, [["5 · 34%", "2 · 20%", "1", "4"]]), laid(planes)
    more = draw_lines(["5"], 10, 60).shape[-2]
    assert with_lines.shape[-2] == without.shape[-2] + 2 * more
    assert with_lines[0, :, 60 : 60 + more, :60].max() == 235 and with_lines[0, :, :60, :60].max() == 0


def test_planes_side_by_side():
    maps = torch.arange(20.0).view(1, 20, 1, 1)
    assert side_by_side(maps[:, :16]).shape == (1, 4, 4)
    assert side_by_side(maps[:, :5])[0].tolist() == [[0, 1, 2], [3, 4, 0]]


class Ordered(nn.Module):
    """Means of planes, with weights of their places that begin at zero, as embeddings of time do."""

    def __init__(self, is_ordered):
        super().__init__()
        self.head, self.is_ordered = nn.Linear(4, 3), is_ordered
        self.time = nn.Parameter(torch.zeros(6, 4))

    def forward(self, x):
        features = self.head.weight.new_zeros(len(x), 6, 4) + x.mean((1, 3, 4))[..., None]
        features = features * (1 + self.time) if self.is_ordered else features
        return self.head(features.square().mean(1))


def test_a_bag_is_known_by_its_order_making_no_difference():
    torch.manual_seed(0)
    volumes, videos = torch.rand(2, 1, 6, 8, 8), torch.rand(2, 3, 6, 8, 8)
    assert kind_of_planes(Ordered(False), volumes, Ordered(False)) == "instance"
    for model, images, kind in ((Ordered(True), volumes, "slice"), (Ordered(True), videos, "frame")):
        assert kind_of_planes(model, images, model) == kind
        assert not model.time.any()  # it is left as it was
    constant = Ordered(False)
    assert kind_of_planes(constant, volumes, lambda x: constant(0 * x)) == "slice"  # of that nothing can be told


def write_record(folder, planes=SLICES, steps=(10, 20)):
    writer = TimelineWriter(folder)
    path = writer.probe(images_of().numpy(), labels=[0, 1, 2], class_names=["a", "b", "c"], planes=planes)
    maps = planted()
    for step in steps:
        writer.append(
            step, step // 10, {"m": maps.numpy() * step, "coarse": maps[:, :3].numpy()},
            probabilities=np.eye(3), evidence={"m": evidence_of(maps).numpy(), "coarse": np.full((3, 3), 0.25)},
            class_idx=np.arange(3),
        )  # fmt: skip
    writer.close()
    return path


def test_a_record_holds_planes_their_numbers_and_their_evidence(tmp_path):
    write_record(tmp_path)
    timeline = read_timeline(tmp_path)
    assert timeline.planes == SLICES and timeline.size == (16, 16)
    assert timeline.images.shape == (3, 6, 16, 16, 3)
    assert np.abs(timeline.images.astype(int) - images_of().movedim(2, -1).numpy()).max() <= 3
    assert timeline.maps["m"].shape == (2, 3, 6, 4, 4) and timeline.maps["coarse"].shape == (2, 3, 3, 4, 4)
    np.testing.assert_allclose(timeline.maps["m"][1], 20 * planted().numpy(), atol=120 / 254)  # half a step
    np.testing.assert_allclose(timeline.evidence["m"], np.stack([evidence_of(planted())] * 2), atol=1e-5)
    np.testing.assert_allclose(timeline.evidence["coarse"], 0.25, atol=1e-5)  # a quarter is in planes left out
    assert timeline.predictions.tolist() == [[0, 1, 2]] * 2
    assert write_timelapse(tmp_path).stat().st_size > 0
    assert read_timeline(write_record(tmp_path, steps=(30,))).steps.tolist() == [10, 20, 30]  # it goes on


def test_images_without_planes_have_none(tmp_path):
    writer = TimelineWriter(tmp_path)
    writer.probe(images_of()[:, 0].numpy())
    writer.append(1, 0, {"m": planted()[:, 0].numpy()})
    timeline = read_timeline(tmp_path)
    assert timeline.planes is None and not timeline.evidence and timeline.images.shape == (3, 16, 16, 3)
    with pytest.raises(ValueError, match=r"images must be \(B, 6, 3, H, W\)"):
        writer.probe(images_of()[:, 0].numpy(), planes=SLICES)


def test_the_sink_writes_what_the_look_says(tmp_path):
    look, info = look_of(planted(), SLICES)
    sink = TimelineSink(tmp_path, report=False)
    sink.open(info)
    sink.write(look)
    sink.close()
    timeline = read_timeline(tmp_path)
    np.testing.assert_allclose(timeline.maps["m"][0], planted().numpy(), atol=6 / 254)
    assert timeline.evidence["m"][0].argmax(1).tolist() == list(BEST)
    assert [timeline.planes.numbers[k] for k in BEST] == [23, 8, 28]


class OfInstances(nn.Module):
    """The sum of what an encoder says of each instance, which is an answer for the class alone of bright pixels."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 4, 4)
        self.head = nn.Linear(4, 3)

    def forward(self, bags):
        features = self.conv(bags.flatten(0, 1)).relu().mean((2, 3)).unflatten(0, bags.shape[:2])
        return self.head(features.square().sum(1))


def test_the_evidence_of_an_explanation_and_its_picture(tmp_path):
    torch.manual_seed(0)
    model, bags = OfInstances().eval(), torch.rand(2, 20, 3, 16, 16) * 0.1
    bags[0, 13], bags[1, 6] = 1, 1
    explanation = explain(model, bags, "hirescam", class_idx=0)
    maps = explanation.maps["hirescam"]
    sign = maps.flatten(2).sum(2).abs().argmax(1)
    assert sign.tolist() == [13, 6] and explanation.planes == "instance"
    positive = maps.relu().flatten(2).sum(2)
    assert_close(explanation.evidence("hirescam"), positive / positive.sum(1, keepdim=True).clamp_min(1e-30))
    with pytest.raises(ValueError, match="was not computed"):
        explanation.evidence("gradcam")
    assert explanation.save(tmp_path / "bag.png").stat().st_size > 0
    known = explain(model, bags, "hirescam", class_idx=0, target_layers=explanation.layers)
    assert known.planes == "" and known.save(tmp_path / "known.png").stat().st_size > 0


def test_the_picture_of_a_bag_has_the_ranked_instances_for_each_method():
    """Of 20 instances the 16 with most evidence, by their shares; the first method gives the order of the images."""
    grays = torch.arange(20).float() / 20
    bags = grays.view(1, 1, 20, 1, 1).expand(1, 3, 20, 8, 8)
    shares = {"a": (torch.arange(20).float() + 1).flip(0)[None] / 210, "b": (torch.arange(20).float() + 1)[None] / 210}
    none = {name: torch.full((1, 20, 2, 2), 1e-9) for name in shares}
    sheet = np.asarray(picture_of_planes(bags, [(torch.zeros(3), torch.ones(3))], none, ["x"], shares, "instance"))
    side, line = 192 // 4 - 2, draw_lines(["5"], 9, 46).shape[-2]
    top = draw_lines(["image"], 14, 100).shape[-2]
    for column, order in enumerate((range(20), range(20), range(19, -1, -1))):
        for n, k in enumerate(list(order)[:16]):
            y = top + n // 4 * (side + line + 2) + side // 2
            x = 4 + column * (4 * (side + 2) + 4) + n % 4 * (side + 2) + side // 2
            assert abs(int(sheet[y, x, 0]) - 255 * k / 20 * (1 if column == 0 else 0.8)) <= 3, (column, n)
