"""The digits on photographs: reproducible, boxes right, training and held-out images apart."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from examples import data
from examples.data import DigitsOnPhotos


def drawn(**options: int) -> DigitsOnPhotos:
    module = DigitsOnPhotos(**{"train_size": 300, "val_size": 100, **options})
    module.setup("fit")
    return module


def in_box(boxes: Tensor, size: int) -> Tensor:
    """(N, size, size) bool, by slicing."""
    mask = torch.zeros(len(boxes), size, size, dtype=torch.bool)
    for i, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
        mask[i, y1:y2, x1:x2] = True
    return mask


def test_the_seed_decides_all_images_and_the_global_generator_is_left_alone() -> None:
    state = torch.get_rng_state()
    first, again, other = drawn(), drawn(), drawn(seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    for name in ("train_set", "val_set"):
        one, two, three = (getattr(module, name) for module in (first, again, other))
        assert np.array_equal(one.images, two.images) and torch.equal(one.boxes, two.boxes)
        assert not np.array_equal(one.images, three.images)


@pytest.mark.parametrize("size", [56, 224])
def test_boxes_lie_in_the_image_and_cover_a_quarter_of_it(size: int) -> None:
    boxes = drawn(image_size=size).train_set.boxes
    x1, y1, x2, y2 = boxes.unbind(1)
    assert torch.equal(x2 - x1, y2 - y1)
    assert boxes.min() >= 0 and boxes.max() <= size
    assert in_box(boxes, size).float().mean() == pytest.approx(0.25, abs=0.01)


def test_a_digit_fills_its_box_and_nothing_else() -> None:
    digits = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0))
    boxes = torch.tensor([[0, 0, 24, 24], [5, 20, 37, 52], [30, 31, 55, 56]])
    expected = torch.zeros(3, 56, 56)
    for canvas, digit, (x1, y1, x2, y2) in zip(expected, digits, boxes.tolist(), strict=True):
        canvas[y1:y2, x1:x2] = F.interpolate(digit[None, None], size=(y2 - y1, x2 - x1), mode="bilinear")[0, 0]
    torch.testing.assert_close(data._place(digits, boxes, 56), expected, atol=1e-5, rtol=0)


def test_held_out_images_share_neither_digits_nor_photographs(monkeypatch: pytest.MonkeyPatch) -> None:
    ink = np.full((1_797, 8, 8), 16.0)
    ink[data.TRAIN_DIGITS :] = 8.0  # held-out digits are half as bright
    photo = np.broadcast_to(np.linspace(0, 255, 427).astype(np.uint8)[:, None, None], (427, 640, 3))
    monkeypatch.setattr(data, "load_digits", lambda: SimpleNamespace(images=ink, target=np.zeros(1_797)))
    monkeypatch.setattr(data, "load_sample_images", lambda: SimpleNamespace(images=[photo, photo]))
    module = drawn()
    train, val = module.train_set, module.val_set
    inside_train, inside_val = in_box(train.boxes, 56), in_box(val.boxes, 56)
    assert (train.images[inside_train.numpy()] == 255).all()
    assert (val.images[inside_val.numpy()] < 255).all()
    # Photographs grow brighter downwards: training crops end where the held-out ones begin.
    border = 0.6 * data.PHOTO_BRIGHTNESS * 255
    assert train.images[~inside_train.numpy()].max() <= border
    assert val.images[~inside_val.numpy()].min() >= border - 2  # whole rows, whole gray values
    assert val.images[~inside_val.numpy()].max() > border + 20


def test_batches_are_normalized_and_labeled() -> None:
    module = drawn(train_size=1_000, batch_size=1_000)
    (batch,) = module.train_dataloader()
    # MEAN and STD are rounded to two digits, and 1,000 images are a sample of all.
    torch.testing.assert_close(batch["image"].mean((0, 2, 3)), torch.zeros(3), atol=0.1, rtol=0)
    torch.testing.assert_close(batch["image"].std((0, 2, 3)), torch.ones(3), atol=0.1, rtol=0)
    assert batch["label"].unique().tolist() == list(range(10)) and module.classes[3] == "3"
    first = module.val_set[0]
    pixels = torch.from_numpy(module.val_set.images[0]).permute(2, 0, 1) / 255
    unnormalized = first["image"] * torch.tensor(data.STD)[:, None, None] + torch.tensor(data.MEAN)[:, None, None]
    torch.testing.assert_close(unnormalized, pixels)
