"""Images, labels and objects are found in whatever a loader yields."""

import time
from collections import namedtuple
from dataclasses import dataclass
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import Compose, Normalize, ToTensor

from lightning_cam import ProbeBatch
from lightning_cam.cli.images import find_images, read_image
from lightning_cam.model.normalization import find_normalization, stated_normalizations
from lightning_cam.training.data import find_class_names, find_transform
from lightning_cam.training.sources import images_of_folder

IMAGES = torch.rand(6, 3, 8, 10)
LABELS = torch.tensor([3, 1, 4, 1, 5, 0])
Sample = namedtuple("Sample", "index image target")


@dataclass
class Batch:
    meta: list
    img: torch.Tensor
    y: torch.Tensor


@pytest.mark.parametrize(
    "batch",
    [
        (IMAGES, LABELS),
        [IMAGES, LABELS],
        {"image": IMAGES, "label": LABELS},
        {"pixel_values": IMAGES, "labels": LABELS},
        {"id": torch.arange(6), "boxes": torch.zeros(6, 4), "image": IMAGES, "label": LABELS},
        Sample(torch.arange(6), IMAGES, LABELS),
        Batch(["a"], IMAGES, LABELS),
        ({"x": IMAGES}, {"y": LABELS, "weight": torch.ones(6)}),
        ("paths", IMAGES, LABELS),
        (torch.zeros(6, 2, 8, 8), IMAGES, torch.nn.functional.one_hot(LABELS)),
        [IMAGES, 0.05 + 0.7 * torch.nn.functional.one_hot(LABELS)],
        (IMAGES, torch.randn(6, 4), LABELS),
        {"depth": torch.zeros(6, 1, 8, 10), "image": IMAGES, "target": torch.nn.functional.one_hot(LABELS).float()},
    ],
    ids=lambda batch: type(batch).__name__,
)
def test_images_and_labels_are_found(batch):
    probe = ProbeBatch.from_batch(batch, num_samples=4)
    assert torch.equal(probe.images, IMAGES[:4])
    assert torch.equal(probe.labels, LABELS[:4])
    assert probe.num_labels == 5


BINARY = torch.tensor([0.0, 1, 1, 0, 1, 0])


@pytest.mark.parametrize(
    "batch",
    [
        (IMAGES, BINARY),
        {"image": IMAGES, "target": BINARY[:, None]},
        {"image": IMAGES, "target": BINARY.long()[:, None]},
        {"x": IMAGES, "weight": torch.full((6,), 0.5), "y": BINARY},
    ],
)
def test_labels_of_a_binary_classifier(batch):
    probe = ProbeBatch.from_batch(batch)
    assert torch.equal(probe.labels, BINARY.long()) and probe.num_labels == 2


def test_other_numbers_are_no_targets(caplog):
    batch = {"image": IMAGES, "weight": torch.ones(6), "quality": torch.rand(6)}
    assert ProbeBatch.from_batch(batch).labels is None and not caplog.records


@pytest.mark.parametrize(
    ("targets", "words"),
    [
        (torch.linspace(-1, 3, 6), "give score="),
        (torch.eye(6)[LABELS] + torch.eye(6)[0], "one class per image"),
    ],
    ids=["regression", "several labels"],
)
def test_targets_that_are_no_classes(targets, words, caplog):
    assert ProbeBatch.from_batch({"image": IMAGES, "label": targets}).labels is None
    assert words in caplog.text


def test_a_probe_is_a_clone():
    images = IMAGES.clone()
    probe = ProbeBatch.from_batch(images)
    images.zero_()
    assert torch.equal(probe.images, IMAGES) and probe.labels is None


def test_inference_tensors_become_plain_ones():
    with torch.inference_mode():
        probe = ProbeBatch.from_batch((IMAGES * 1, LABELS * 1))
    assert not probe.images.is_inference() and not probe.labels.is_inference()


def test_boxes_become_regions():
    boxes = torch.tensor([[2, 1, 5, 3]] * 6)
    probe = ProbeBatch.from_batch({"image": IMAGES, "boxes": boxes})
    expected = torch.zeros(8, 10, dtype=torch.bool)
    expected[1:3, 2:5] = True
    assert torch.equal(probe.regions, expected.expand(6, 8, 10))


def test_several_boxes_per_image():
    boxes = [torch.tensor([[0.0, 0, 1, 1], [9, 7, 10, 8]])] + [torch.zeros(0, 4)] * 5
    probe = ProbeBatch.from_batch({"image": IMAGES, "boxes": boxes})
    assert probe.regions[0].nonzero().tolist() == [[0, 0], [7, 9]]
    assert not probe.regions[1:].any()


@pytest.mark.parametrize("shape", [(6, 8, 10), (6, 1, 8, 10), (6, 4, 5)])
def test_masks_become_regions(shape):
    masks = torch.zeros(shape, dtype=torch.uint8)
    masks[:, ..., : shape[-2] // 2, :] = 1
    probe = ProbeBatch.from_batch({"image": IMAGES, "masks": masks})
    assert probe.regions.shape == (6, 8, 10)
    assert probe.regions[:, :4].all() and not probe.regions[:, 4:].any()


def test_a_batch_without_images_says_what_was_there():
    with pytest.raises(ValueError, match=r"has none .* it has vectors \(4, 7\)\); give forward= and probe="):
        ProbeBatch.from_batch({"vectors": torch.zeros(4, 7)})


def test_state_of_a_probe_is_the_probe():
    probe = ProbeBatch.from_batch({"image": IMAGES, "label": LABELS, "boxes": torch.ones(6, 4)})
    again = ProbeBatch(**probe.state_dict())
    for name in ("images", "labels", "regions"):
        assert torch.equal(getattr(again, name), getattr(probe, name))
    assert again.num_labels == 6 and probe.num_bytes == IMAGES.nbytes + LABELS.nbytes + 6 * 8 * 10


def test_a_folder_is_read_whatever_type_its_images_have(tmp_path):
    suffixes = ["bmp", "gif", "jpeg", "jpg", "png", "tif", "tiff", "webp"]
    for index, suffix in enumerate(suffixes):
        Image.new("RGB", (8, 8), (25 * index,) * 3).save(tmp_path / f"{index}.{suffix}")
    images = images_of_folder(tmp_path).images
    assert (images.mean((1, 2, 3)) * 255).tolist() == pytest.approx([25 * index for index in range(8)], abs=2)
    assert [file.suffix[1:] for file in find_images(str(tmp_path))[1]] == suffixes  # the command line's too


def test_of_an_animation_the_first_picture_is_taken(tmp_path):
    first, *rest = (Image.new("RGB", (8, 8), color) for color in ("red", "lime", "blue"))
    first.save(tmp_path / "a.gif", save_all=True, append_images=rest)
    assert images_of_folder(tmp_path).images[0, :, 0, 0].tolist() == [1, 0, 0]
    assert read_image(tmp_path / "a.gif").getpixel((0, 0)) == (255, 0, 0)


def test_a_folder_goes_through_the_transform(tmp_path):
    for name, value in (("b.png", 100), ("a/c.jpg", 200), ("d.txt", 0)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("L", (10, 8), value).save(tmp_path / name, format="PNG")
    transform = Compose([ToTensor(), Normalize(0.5, 0.25)])
    probe = images_of_folder(tmp_path, transform=transform)
    assert probe.images.shape == (2, 3, 8, 10)
    torch.testing.assert_close(probe.images[:, 0, 0, 0], (torch.tensor([200, 100]) / 255 - 0.5) / 0.25)
    assert torch.equal(images_of_folder(tmp_path, 1).images[0, 0, 0, 0], torch.tensor(200) / 255)


def test_a_broken_file_is_left_out(tmp_path, caplog):
    (tmp_path / "a.png").write_bytes(b"no image")
    for name, value in (("b", 100), ("c", 200)):
        Image.new("RGB", (8, 8), (value,) * 3).save(tmp_path / f"{name}.png")
    probe = images_of_folder(tmp_path, 1)
    torch.testing.assert_close(probe.images, torch.full((1, 3, 8, 8), 100 / 255))
    assert "a.png is skipped" in caplog.text


@pytest.mark.parametrize(("folder", "message"), [("empty", "contains no images"), ("nowhere", "is not a folder")])
def test_a_folder_without_images(tmp_path, folder, message):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=f"probe: .*{message}"):
        images_of_folder(tmp_path / folder)


def test_a_folder_of_different_sizes(tmp_path):
    for size in (8, 9):
        Image.new("RGB", (size, size)).save(tmp_path / f"{size}.png")
    with pytest.raises(ValueError, match=r"differ in size .*\(3, 8, 8\), \(3, 9, 9\).* not set"):
        images_of_folder(tmp_path)
    with pytest.raises(ValueError, match=r"differ in size .* in the validation transform"):
        images_of_folder(tmp_path, transform=ToTensor())


class Inner:
    classes = ("cat", "dog")

    def __init__(self, transform):
        self.transform = transform


class Outer:
    def __init__(self, dataset):
        self.dataset = dataset


NORMALIZE = Normalize((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))


@pytest.mark.parametrize(
    "transform", [NORMALIZE, Compose([ToTensor(), NORMALIZE]), torch.nn.Sequential(NORMALIZE), {"val": [NORMALIZE]}]
)
def test_normalization_is_found_in_the_transforms(transform):
    source = [Outer(Outer(Inner(transform)))]
    mean, std = find_normalization(NORMALIZE(IMAGES), stated_normalizations(source, torch.nn.Identity()))
    torch.testing.assert_close(mean, torch.tensor([0.5, 0.4, 0.3]))
    torch.testing.assert_close(std, torch.tensor([0.2, 0.3, 0.4]))


def test_normalization_that_does_not_fit_is_not_taken():
    model = torch.nn.Identity()
    model.pretrained_cfg = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4)}
    plain = find_normalization(IMAGES, stated_normalizations(None, model))
    torch.testing.assert_close(plain, (torch.zeros(3), torch.ones(3)))
    torch.testing.assert_close(
        find_normalization(NORMALIZE(IMAGES), stated_normalizations(None, model))[0], torch.tensor([0.5, 0.4, 0.3])
    )


def test_unknown_normalization_spans_the_range():
    images = IMAGES * 200 - 30
    mean, std = find_normalization(images, stated_normalizations(None, torch.nn.Identity()))
    shown = images * std[:, None, None] + mean[:, None, None]
    torch.testing.assert_close((shown.min(), shown.max()), (torch.tensor(0.0), torch.tensor(1.0)), atol=1e-5, rtol=0)


def test_class_names_and_transform_are_found():
    source = [Outer(Inner(NORMALIZE))]
    assert find_class_names([None, source]) == ["cat", "dog"]
    assert find_transform(source) is NORMALIZE
    assert find_class_names([None, Outer(None)]) is None and find_transform(None) is None


def test_labels_that_are_none(caplog):
    assert ProbeBatch.from_batch((IMAGES, torch.arange(6), LABELS)).labels is None
    assert ProbeBatch.from_batch({"image": IMAGES, "label": LABELS - 2}).labels is None
    assert ["it is unclear which are labels" in r.message or "below 0" in r.message for r in caplog.records] == [
        True
    ] * 2


def test_whole_numbers_are_no_images():
    with pytest.raises(ValueError, match=r"it has image \(6, 3, 8, 10\) uint8"):
        ProbeBatch.from_batch({"image": (IMAGES * 255).byte()})


def test_a_folder_is_read_as_the_command_line_reads_it(tmp_path):
    gray = np.full((4, 4), 65535 // 2, np.uint16)
    Image.fromarray(gray).save(tmp_path / "a.png")
    Image.new("RGBA", (4, 4), (0, 0, 0, 0)).save(tmp_path / "b.png")
    sixteen_bit, transparent = images_of_folder(tmp_path).images
    assert sixteen_bit.mean() == pytest.approx(0.5, abs=0.01) and transparent.min() == 1


def test_a_damaged_file_in_a_folder_is_named_and_left_out(tmp_path, caplog):
    Image.new("RGB", (4, 4), "red").save(tmp_path / "whole.png")
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 40)
    (tmp_path / "b.tif").write_bytes(b"II*\0" + b"\xff" * 60)
    assert len(images_of_folder(tmp_path).images) == 1
    assert sum("is skipped" in message for message in caplog.messages) == 2


class Lazy:
    """A lazily evaluated expression, as of a remote object store: each attribute is a new node."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return Lazy()


class Refuses:
    def __getattr__(self, name):
        raise RuntimeError("call setup() first")


class Store(dict):
    def values(self):
        raise MemoryError("400 GB")


class Slow:
    @property
    def dataset(self):
        time.sleep(0.3)
        return Slow()


class Holder:
    def __init__(self, dataset):
        self.dataset = dataset


@pytest.mark.parametrize(
    "dataset",
    [
        [(IMAGES[0], 1)] * 1_000_000,
        [[image] for image in range(300_000)],
        Lazy(),
        MagicMock(),
        Refuses(),
        Store(),
        Slow(),
    ],
    ids=["a list", "a list of lists", "lazy", "mock", "refuses", "store", "slow"],
)
def test_the_walk_through_a_dataset_is_bounded(dataset):
    began = time.monotonic()
    find_class_names([Holder(dataset)])
    find_transform(Holder(dataset))
    find_normalization(IMAGES - 0.5, stated_normalizations(Holder(dataset), torch.nn.Identity()))
    assert time.monotonic() - began < 4


NO_BOXES = [3, 1.5, torch.tensor(2.0), "boxes", object(), [None] * 6, {"a": 1}, [], torch.zeros(6, 5)]
NO_BOXES += [torch.zeros(6, 4, dtype=torch.complex64), torch.zeros(6, 4, device="meta")]


@pytest.mark.parametrize("boxes", NO_BOXES, ids=range(len(NO_BOXES)))
def test_what_goes_by_the_name_of_boxes_and_is_none_is_passed_over(boxes):
    probe = ProbeBatch.from_batch({"image": IMAGES, "boxes": boxes})
    assert probe.regions is None and len(probe.images) == 6


def test_stated_normalizations_are_those_with_numbers():
    model = torch.nn.Sequential(torch.nn.Identity(), torch.nn.Identity())
    model[0].pretrained_cfg = {"mean": (0.5, 0.25), "std": torch.tensor(0.5)}
    model[1].pretrained_cfg = {"mean": None, "std": (1.0,)}
    stated = stated_normalizations([Normalize((0.25,), (0.75,)), object(), torch.mean], model)
    assert stated == [((0.25,), (0.75,)), ((0.5, 0.25), (0.5,))]
