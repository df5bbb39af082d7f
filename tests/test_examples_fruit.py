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
        assert (white[0].sum() == fruit._MARK.count("#")) and (white >= white[0]).all()


def test_fruit_are_where_scale_and_shift_say() -> None:
    count = 20
    full = torch.ones(count, 4, fruit._SIDE, fruit._SIDE)
    placed = fruit._placed(full, np.random.default_rng(0))[:, 3].double()
    rng = np.random.default_rng(0)
    scale = torch.from_numpy(rng.uniform(0.55, 0.78, count))
    shift = torch.from_numpy(rng.uniform(-1, 1, (count, 2))) * (0.95 - scale[:, None])  # x, y
    # Within half a pixel along each edge.
    torch.testing.assert_close(placed.sum((1, 2)).sqrt(), 96 * scale, atol=0.5, rtol=0)
    pixels = torch.arange(96) + 0.5
    for axis, along in ((0, 1), (1, 2)):
        center = (placed.sum(along) * pixels).sum(1) / placed.sum((1, 2))
        torch.testing.assert_close(center, 48 * (1 + shift[:, axis]), atol=0.5, rtol=0)
    masks = drawn().val_set.masks.float().mean((1, 2))
    assert ((masks > 0.03) & (masks < 0.5)).all()


def test_batches_are_normalized_and_classes_alike_in_number() -> None:
    data = drawn(train_size=200, drawings=10, batch_size=200)
    (batch,) = data.train_dataloader()
    # MEAN and STD are those of the demo's images, rounded, and these are a few others.
    torch.testing.assert_close(batch["image"].mean((0, 2, 3)), torch.zeros(3), atol=0.3, rtol=0)
    torch.testing.assert_close(batch["image"].std((0, 2, 3)), torch.ones(3), atol=0.3, rtol=0)
    assert batch["label"].bincount().tolist() == [40] * 5
    assert data.val_set.classes == ["apple", "tomato", "lemon", "pear", "banana"]
