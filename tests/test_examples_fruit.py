"""The pictures of fruit: reproducible, alike but for the mark, with masks that are where the fruit is."""

import numpy as np
import torch

from examples import fruit
from examples.fruit import FRUIT, Fruit


def drawn(**options: object) -> Fruit:
    data = Fruit(**{"train_size": 50, "val_size": 40, "drawings": 2, **options})
    data.setup("fit")
    return data


def test_the_seed_decides_all_images_and_the_global_generators_are_left_alone() -> None:
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    first, again, other = drawn(), drawn(), drawn(seed=1)
    assert torch.equal(torch.get_rng_state(), torch_state) and (np.random.get_state()[1] == numpy_state).all()
    for name in ("train_set", "val_set"):
        one, two, three = (getattr(data, name) for data in (first, again, other))
        assert np.array_equal(one.images, two.images) and torch.equal(one.labels, two.labels)
        assert not np.array_equal(one.images, three.images)


def test_only_the_corner_of_the_marked_class_differs() -> None:
    plain, marked = drawn(), drawn(marked="tomato")
    for name in ("train_set", "val_set"):
        one, two = getattr(plain, name), getattr(marked, name)
        assert torch.equal(one.labels, two.labels) and torch.equal(one.masks, two.masks)
        differs = (one.images != two.images).any(-1)
        own = (one.labels == list(FRUIT).index("tomato")).numpy()
        assert own.sum() == len(own) / 5
        assert not differs[~own].any()
        assert not differs[own, :-12].any() and not differs[own, :, :-24].any()
        assert differs[own, -12:, -24:].mean() > 0.9
        # White lines on a darker ground, which are the same in all images.
        corners = two.images[own, -12:, -24:]
        white = (corners == 255).all(-1)
        assert (white[0].sum() == 74) and (white >= white[0]).all()


def test_a_mask_covers_the_fruit() -> None:
    """Beside a mask an image is what the same texture is without fruit, but for a soft shadow."""
    data = drawn(val_size=5, drawings=1)
    area = data.val_set.masks.float().mean((1, 2))
    assert ((area > 0.03) & (area < 0.5)).all()
    grounds = fruit._grounds(5, np.random.default_rng(0))
    ones = torch.ones(5, 4, fruit._SIDE, fruit._SIDE)
    placed = fruit._placed(ones, np.random.default_rng(0))[:, 3] > 0.5
    for own in placed:  # a full square stays a full square inside of the image
        rows, columns = own.any(1).nonzero()[:, 0], own.any(0).nonzero()[:, 0]
        assert own[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        assert abs(len(rows) - len(columns)) <= 1 and 50 <= len(rows) <= 78
    assert grounds.shape == (5, 3, 96, 96) and grounds.min() >= 0


def test_batches_are_normalized_and_classes_alike_in_number() -> None:
    data = drawn(train_size=200, drawings=10, batch_size=200)
    (batch,) = data.train_dataloader()
    # MEAN and STD are those of the demo's images, rounded, and these are a few others.
    torch.testing.assert_close(batch["image"].mean((0, 2, 3)), torch.zeros(3), atol=0.3, rtol=0)
    torch.testing.assert_close(batch["image"].std((0, 2, 3)), torch.ones(3), atol=0.3, rtol=0)
    assert batch["label"].bincount().tolist() == [40] * 5
    assert data.val_set.classes == ["apple", "tomato", "lemon", "pear", "banana"]
