"""The cheap metrics by value: against slow references, scipy, and the edge cases that their docstrings state."""

import numpy as np
import pytest
import scipy.stats
import torch
import torch.nn.functional as F

from lightning_cam.metrics import (
    box_coverage,
    cosine_similarity,
    entropy,
    gini,
    mask_coverage,
    outlier_token_norm,
    pointing_game,
    rank_correlation,
    share_inside,
)
from tests.no_sync import forbid_sync

IMAGE = (24, 36)
GRID = (3, 4)
BOXES = torch.tensor([[5, 3, 20, 17], [0, 0, 36, 24], [30, 20, 50, 40], [-9, -9, 4, 30]])


def random_maps(count=4, seed=0, grid=GRID):
    return torch.randn(count, *grid, generator=torch.Generator().manual_seed(seed))


def pixels_inside(box):
    """`(H, W)` bool, pixel by pixel."""
    x1, y1, x2, y2 = box
    return np.array([[x1 <= x < x2 and y1 <= y < y2 for x in range(IMAGE[1])] for y in range(IMAGE[0])])


def at_pixels(maps):
    """Each cell's value at each of its pixels, `(B, H, W)` float64."""
    rows, columns = IMAGE[0] // GRID[0], IMAGE[1] // GRID[1]
    return np.kron(np.asarray(maps, dtype=np.float64), np.ones((rows, columns)))


def test_box_coverage_counts_pixels():
    expected = [pixels_inside(box).reshape(3, 8, 4, 9).mean(axis=(1, 3)) for box in BOXES.tolist()]
    np.testing.assert_allclose(box_coverage(BOXES, GRID, IMAGE), np.stack(expected), atol=1e-6)


def test_box_coverage_takes_fractions_of_a_pixel():
    coverage = box_coverage(torch.tensor([[0.25, 0.5, 1.0, 1.0]]), (1, 2), (1, 2))
    torch.testing.assert_close(coverage, torch.tensor([[[0.375, 0.0]]]))


@pytest.mark.parametrize("box", [[40, 30, 50, 40], [-20, -20, -5, -5], [8, 8, 8, 20], [20, 8, 10, 20]])
def test_a_box_outside_or_empty_covers_nothing_and_scores_zero(box):
    coverage = box_coverage(torch.tensor([box]), GRID, IMAGE)
    maps = random_maps(1)
    for metric in (share_inside, pointing_game):
        assert metric(maps, coverage).tolist() == [0.0], metric
    assert coverage.sum() == 0


def test_mask_coverage_counts_pixels():
    masks = torch.from_numpy(np.stack([pixels_inside(box) for box in BOXES.tolist()]))
    torch.testing.assert_close(mask_coverage(masks, GRID), box_coverage(BOXES, GRID, IMAGE))
    torch.testing.assert_close(mask_coverage(masks.byte() * 255, GRID), mask_coverage(masks, GRID))


def test_shapes_are_refused_by_name():
    with pytest.raises(ValueError, match=r"boxes: expected \(B, 4\).*got shape \(4,\)"):
        box_coverage(torch.zeros(4), GRID, IMAGE)
    with pytest.raises(ValueError, match=r"masks: expected \(B, H, W\), got shape \(1, 1, 2, 2\)"):
        mask_coverage(torch.zeros(1, 1, 2, 2), GRID)


def test_share_inside_equals_a_sum_over_pixels():
    maps = random_maps()
    energy = np.maximum(at_pixels(maps), 0)
    expected = [e[pixels_inside(box)].sum() / e.sum() for e, box in zip(energy, BOXES.tolist(), strict=True)]
    np.testing.assert_allclose(share_inside(maps, box_coverage(BOXES, GRID, IMAGE)), expected, atol=1e-6)


@pytest.mark.parametrize("factor", [1e-25, 1e25])
def test_share_inside_does_not_depend_on_magnitude(factor):
    coverage = box_coverage(BOXES, GRID, IMAGE)
    torch.testing.assert_close(share_inside(random_maps() * factor, coverage), share_inside(random_maps(), coverage))


def test_pointing_game_asks_where_the_peak_is():
    maps = torch.zeros(3, *GRID)
    maps[0, 1, 1] = maps[1, 2, 3] = maps[2, 0, 0] = 1.0
    boxes = torch.tensor([[9, 8, 18, 16]]).expand(3, 4)
    assert pointing_game(maps, box_coverage(boxes, GRID, IMAGE)).tolist() == [1.0, 0.0, 0.0]
    small = torch.tensor([[30, 18, 32, 20]]).expand(3, 4)  # 4 of the 72 pixels of cell (2, 3)
    assert pointing_game(maps, box_coverage(small, GRID, IMAGE)).tolist() == [0.0, 1.0, 0.0]


@pytest.mark.parametrize("blank", [torch.zeros(2, *GRID), -torch.ones(2, *GRID)], ids=["zeros", "negative"])
def test_a_map_without_positive_relevance(blank):
    everything = torch.ones(2, *GRID)
    for metric in (share_inside, pointing_game):
        assert metric(blank, everything).tolist() == [0.0, 0.0], metric
    torch.testing.assert_close(entropy(blank), torch.ones(2))
    torch.testing.assert_close(gini(blank), torch.zeros(2))


def test_a_zero_map_is_like_nothing():
    zeros, maps = torch.zeros(2, *GRID), random_maps(2)
    for metric in (cosine_similarity, rank_correlation):
        assert metric(zeros, maps).tolist() == [0.0, 0.0]
        assert metric(zeros, zeros).tolist() == [0.0, 0.0]


def test_a_grid_of_one_cell():
    maps, coverage = torch.tensor([[[2.0]], [[0.0]]]), torch.tensor([[[0.25]], [[0.25]]])
    assert share_inside(maps, coverage).tolist() == [0.25, 0.0]
    assert pointing_game(maps, coverage).tolist() == [1.0, 0.0]
    assert entropy(maps).tolist() == [0.0, 0.0]
    assert gini(maps).tolist() == [0.0, 0.0]
    assert cosine_similarity(maps, maps).tolist() == [1.0, 0.0]


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_non_finite_map_is_nan_and_leaves_its_neighbor_alone(bad):
    maps = random_maps(2)
    broken = maps.clone()
    broken[0, 1, 1] = bad
    coverage = box_coverage(BOXES[:2], GRID, IMAGE)
    for metric in (share_inside, pointing_game):
        result = metric(broken, coverage)
        assert result[0].isnan(), metric
        assert result[1] == metric(maps, coverage)[1], metric
    for metric in (cosine_similarity, rank_correlation):
        result = metric(broken, random_maps(2, seed=1))
        assert result[0].isnan(), metric
        assert result[1] == metric(maps, random_maps(2, seed=1))[1], metric
    for metric in (entropy, gini):
        assert metric(broken)[0].isnan(), metric
        assert metric(broken)[1] == metric(maps)[1], metric


@pytest.mark.parametrize("factor", [1e-35, 1.0, 1e35])
def test_entropy_equals_scipy(factor):
    maps = random_maps()
    expected = [scipy.stats.entropy(np.maximum(m.numpy().ravel(), 0), base=12) for m in maps]
    np.testing.assert_allclose(entropy(maps * factor), expected, atol=1e-5)


def test_gini_equals_the_mean_difference():
    """The definition: half the relative mean absolute difference, over pairs of different cells."""
    maps = random_maps()
    for got, m in zip(gini(maps), maps, strict=True):
        x = np.maximum(m.double().numpy().ravel(), 0)
        pairs = [abs(a - b) for i, a in enumerate(x) for j, b in enumerate(x) if i != j]
        np.testing.assert_allclose(got, np.mean(pairs) / (2 * x.mean()), atol=1e-6)


@pytest.mark.parametrize("factor", [1e-30, 1.0, 1e30])
def test_cosine_similarity_equals_torch(factor):
    maps, others = random_maps(), random_maps(seed=1)
    expected = F.cosine_similarity(maps.flatten(1).double(), others.flatten(1).double())
    torch.testing.assert_close(cosine_similarity(maps * factor, others), expected.float())


def test_rank_correlation_equals_scipy_with_ties():
    maps, others = random_maps(), random_maps(seed=1).round()
    maps[:, 0] = 0.0
    expected = [
        scipy.stats.spearmanr(m.ravel(), o.ravel()).statistic for m, o in zip(maps.numpy(), others.numpy(), strict=True)
    ]
    np.testing.assert_allclose(rank_correlation(maps, others), expected, atol=1e-6)


def test_outlier_token_norm():
    activations = torch.ones(2, 4, 3, 3)
    activations[0, :, 1, 1] = 10.0
    torch.testing.assert_close(outlier_token_norm(activations), torch.tensor([10.0, 1.0]))
    assert outlier_token_norm(torch.zeros(1, 4, 3, 3)).tolist() == [1.0]


def test_no_metric_waits_for_the_device():
    maps, others, boxes, masks = random_maps(), random_maps(seed=1), BOXES.clone(), torch.ones(4, *IMAGE)
    with forbid_sync():
        coverage = box_coverage(boxes, GRID, IMAGE)
        mask_coverage(masks, GRID)
        for metric in (share_inside, pointing_game):
            metric(maps, coverage)
        for metric in (entropy, gini):
            metric(maps)
        for metric in (cosine_similarity, rank_correlation):
            metric(maps, others)
        outlier_token_norm(maps[:, None])
