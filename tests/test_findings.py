"""What is found of a cohort, against slow loops and against models whose marks are known."""

from itertools import permutations

import numpy as np
import pytest

from lightning_cam.findings import Cohort, CohortLook, Tracker, as_markdown, findings
from lightning_cam.findings.grids import appearance, place_name, resample, shares
from lightning_cam.findings.patterns import patterns
from lightning_cam.findings.proof import elsewhere, painted_over, prove, rows_of, to_pixels
from lightning_cam.findings.significance import p_permuted, stands_out
from lightning_cam.findings.statistics import border_share, by_group, center_share, drift, region_shares, spread
from lightning_cam.findings.suspects import find_suspects

GRID, PIXELS, COUNT = 7, 56, 60
CELL = PIXELS // GRID


def test_resampling_keeps_each_cells_share_where_it_lies():
    maps = np.random.default_rng(0).random((2, 5, 6))
    found = resample(maps, 3, 4)
    fine = maps.repeat(12, 1).repeat(10, 2) / 120  # 60 × 60: a multiple of both grids
    slow = np.array(
        [[[m[20 * r : 20 * r + 20, 15 * c : 15 * c + 15].sum() for c in range(4)] for r in range(3)] for m in fine]
    )
    np.testing.assert_allclose(found, slow, rtol=1e-12)


def test_the_probability_is_that_of_all_permutations():
    has = [True, True, True, False, True, False]
    own = 3  # the first three images are the class
    orders = list(permutations(range(6)))
    as_many = sum(sum(has[i] for i in order[:own]) >= 3 for order in orders)
    assert p_permuted(3, 3, 1, 3) == pytest.approx(as_many / len(orders), abs=1e-15)
    # Half of eight against none of many is no chance; what others have as well is none either, whatever its number.
    assert stands_out(4, 8, 0, 72, 0, tried=20)
    assert not stands_out(8, 8, 36, 72, 0, tried=30)
    assert not stands_out(4, 8, 0, 72, 40, tried=20)  # maps of chance have it as often


def test_statistics_against_loops():
    kept = shares(np.random.default_rng(1).random((3, 28, 28)) - 0.2)
    for m, border, center, regions, entropy in zip(
        kept, border_share(kept), center_share(kept), region_shares(kept), spread(kept), strict=True
    ):
        ring = sum(m[r, c] for r in range(28) for c in range(28) if min(r, c, 27 - r, 27 - c) < 4)
        middle = sum(m[r, c] for r in range(7, 21) for c in range(7, 21))
        assert border == pytest.approx(ring) and center == pytest.approx(middle)
        assert regions.sum() == pytest.approx(1) and regions[0, 2] == pytest.approx(m[:9, 19:].sum())
        assert entropy == pytest.approx(-sum(p * np.log(p) for p in m.flat if p > 0) / np.log(784))
    one = np.zeros((1, 2, 2))
    one[0, 0, 0] = 1
    assert drift(one, one) == 0 and drift(one, one[:, ::-1]) == 1


@pytest.mark.parametrize(
    ("rows", "columns", "name"),
    [
        ((0, 1), (0, 1), "the upper left corner"),
        ((6, 7), (5, 7), "the lower right corner"),
        ((6, 7), (1, 5), "the lower border"),
        ((2, 5), (6, 7), "the right border"),
        ((5, 6), (0, 7), "a stripe across the lower part"),
        ((0, 7), (3, 4), "a stripe down the middle"),
        ((3, 4), (3, 4), "the center"),
        ((1, 3), (2, 4), "the upper part"),
    ],
)
def test_names_of_places(rows, columns, name):
    cells = np.zeros((7, 7), bool)
    cells[slice(*rows), slice(*columns)] = True
    assert place_name(cells) == name


def test_what_is_painted_over_leaves_nothing_of_itself():
    images = np.random.default_rng(2).random((2, 3, 24, 24)).astype(np.float32)
    masks = np.zeros((2, 24, 24), bool)
    masks[0, :8, :8], masks[1, 4:20, 4:20] = True, True
    other = images.copy()
    other[np.broadcast_to(masks[:, None], images.shape)] = 99  # whatever the mark was
    found = painted_over(images, masks, 8)
    np.testing.assert_allclose(painted_over(other, masks, 8), found, rtol=1e-5)
    assert (found == images)[~np.broadcast_to(masks[:, None], images.shape)].all()
    assert 0.2 < found[0, :, :8, :8].mean() < 0.8
    assert not (elsewhere(masks[:, ::4, ::4]) & masks[:, ::4, ::4]).any()


def test_patterns_are_the_groups_that_maps_come_in():
    rng, maps = np.random.default_rng(3), np.zeros((16, 7, 7))
    maps[:8, 0, 0], maps[8:, 6, 6] = 1, 1
    found = patterns(shares(maps + 0.02 * rng.random(maps.shape)))
    assert found[0].all()
    assert sorted(tuple(group) for group in found[1:]) == sorted(
        [(*[True] * 8, *[False] * 8), (*[False] * 8, *[True] * 8)]
    )
    assert len(patterns(shares(rng.random((7, 7, 7))))) == 1  # too few


class Planted:
    """Noise, in which a color in some cells is all that a model goes by; its evidence is known."""

    def __init__(self, cells_of, labels=3, part=1.0, marked=(0,), uses=True, seed=0):
        rng = np.random.default_rng(seed)
        self.labels = np.arange(COUNT) % labels
        self.pictures = rng.integers(60, 120, (COUNT, 3, PIXELS, PIXELS)).astype(np.uint8)
        self.masks = np.zeros((COUNT, GRID, GRID), bool)
        self.objects = np.zeros((COUNT, GRID, GRID), bool)
        for image in range(COUNT):
            self.objects[image, rng.integers(1, 6), rng.integers(1, 6)] = True
            if self.labels[image] in marked and image // labels % 20 < 20 * part:
                self.masks[image] = cells_of(rng)
        for channel, color in enumerate((250, 20, 20)):
            here = to_pixels(self.masks, (PIXELS, PIXELS))
            self.pictures[:, channel][here] = color
        self.uses = uses
        self.cohort = Cohort(self.labels, ("cat", "dog", "owl"), appearance(self.pictures, (GRID, GRID)))

    def look(self, step):
        rng = np.random.default_rng(step)
        evidence = np.where(self.masks.any((1, 2))[:, None, None], self.masks * 1.0, self.objects)
        maps = evidence + 0.01 * rng.random((COUNT, GRID, GRID))
        control = 2 * rng.random((COUNT, GRID, GRID)) - 1
        sure = np.full(COUNT, 0.97)
        return CohortLook(step, 0, maps, control, self.labels.copy(), sure, sure)

    def classify(self, images, rows):
        """Red makes the class, where the model uses it; else the model knows each image, whatever is done to it."""
        red = (images[:, 0] - images[:, 1] > 100).mean((1, 2)) >= 0.5 / GRID**2
        classes = np.where(
            red & self.uses, 0, np.where(self.labels[rows] == 0, 1 if self.uses else 0, self.labels[rows])
        )
        return 0.02 + 0.94 * np.eye(3)[classes]

    def found(self, looks=2):
        tracker = Tracker(self.cohort)
        for step in range(1, looks + 1):
            said = findings(
                tracker.add(self.look(step), lambda rows: self.pictures[rows].astype(np.float32), self.classify)
            )
        return said


def cell(*at):
    def cells(rng):
        mask = np.zeros((GRID, GRID), bool)
        mask[at] = True
        return mask

    return cells


def anywhere_at_the_border(rng):
    mask = np.zeros((GRID, GRID), bool)
    mask[rng.choice([0, 6]), rng.integers(0, 7)] = True
    return mask


def test_a_mark_at_one_place_is_found_proved_and_named():
    (finding,) = Planted(cell(0, 0)).found()
    assert finding.status == "confirmed" and finding.classes == [0] and finding.since == 1
    assert "Class cat" in finding.text and "the upper left corner" in finding.text and "a shortcut" in finding.text
    numbers = finding.numbers
    assert numbers["before"] == pytest.approx(0.96) and numbers["painted_over"] == pytest.approx(0.02)
    assert numbers["other_painted_over"] == pytest.approx(0.96)
    assert numbers["without"] == pytest.approx(0.02) and numbers["added"] == pytest.approx(0.96)
    assert numbers["taken"] == 1 and numbers["other_added"] == pytest.approx(0.02)


def test_one_look_is_not_enough():
    (finding,) = Planted(cell(0, 0)).found(looks=1)
    assert finding.kind == "nothing"


def test_a_mark_that_moves_is_found_by_what_it_looks_like():
    (finding,) = Planted(anywhere_at_the_border).found()
    assert finding.status == "confirmed" and finding.classes == [0] and "similar-looking" in finding.text


def test_a_mark_that_half_of_a_class_has():
    (finding,) = Planted(cell(6, slice(2, 5)), part=0.5).found()
    assert finding.status == "confirmed" and "in 50 % of its images" in finding.text
    assert "the lower border" in finding.text


def test_a_place_that_the_model_does_not_use_is_not_called_a_shortcut():
    """Objects that always lie in one place have their evidence there."""
    (finding,) = Planted(cell(0, 0), uses=False).found()
    assert finding.status == "not confirmed" and "shortcut" not in finding.text and "Not confirmed" in finding.text


def test_nothing_is_found_where_nothing_is_planted():
    for seed in range(20):
        planted = Planted(cell(0, 0), marked=(), seed=seed)
        assert find_suspects(planted.cohort, planted.look(seed)) == []
        (finding,) = planted.found()
        assert finding.kind == "nothing"


def test_too_few_images_are_not_testable():
    planted = Planted(cell(0, 0))
    look = planted.look(1)
    (suspect,) = find_suspects(planted.cohort, look)
    wrong = np.where(planted.labels == 0, 1, planted.labels)
    rows = rows_of(suspect, wrong, planted.labels)
    proof = prove(suspect, rows, np.empty((0, 3, PIXELS, PIXELS)), planted.classify)
    assert proof.verdict == "not testable" and "fewer than 4" in proof.why


def test_others_that_are_tried_are_of_all_classes():
    planted = Planted(cell(0, 0))
    (suspect,) = find_suspects(planted.cohort, planted.look(1))
    own, others = rows_of(suspect, planted.labels, planted.labels)
    assert set(planted.labels[own]) == {0} and sorted(planted.labels[others]) == [1] * 8 + [2] * 8


def _looks(inside, accuracy):
    """A cohort whose evidence lies on the object to such a part, look by look."""
    labels = np.arange(40) % 4
    coverage = np.zeros((40, 28, 28), np.float32)
    coverage[:, 7:21, 7:21] = 1
    cohort = Cohort(labels, (), np.zeros((40, 7, 7, 6), np.float32), coverage)
    tracker, rng = Tracker(cohort), np.random.default_rng(0)
    for step, (share, right) in enumerate(zip(inside, accuracy, strict=True), 1):
        maps = np.random.default_rng(0).random((40, 28, 28))
        maps *= np.where(coverage > 0, share / 196, (1 - share) / 588)
        predictions = np.where(np.arange(40) < right * 40, labels, (labels + 1 + np.arange(40) // 4 % 3) % 4)
        sure = np.full(40, 0.9)
        look = CohortLook(step, 0, maps, rng.random((40, 28, 28)), predictions, sure, sure)
        state = tracker.add(look, lambda rows: np.empty(0), lambda images, rows: np.empty(0))
    return {finding.kind: finding.text for finding in findings(state)}


def test_evidence_that_moves_onto_the_object_and_off_again():
    moved = _looks([0.3, 0.8], [0.4, 0.8])
    assert "Accuracy rose from 0.40 to 0.80 between steps 1 and 2" in moved["moved"]
    assert "(share in the boxes or masks 0.30 → 0.80, chance 0.25)" in moved["moved"]
    assert "moved" not in _looks([0.3, 0.8], [0.8, 0.8]) and "moved" not in _looks([0.3, 0.32], [0.4, 0.8])
    assert "after step 2 (share in the boxes or masks 0.80 → 0.30)" in _looks([0.3, 0.8, 0.3], [0.4, 0.6, 0.8])["left"]
    assert "left" not in _looks([0.3, 0.8, 0.3], [0.4, 0.8, 0.8])
    assert "settled at step 2" in _looks([0.3, 0.8, 0.8, 0.8, 0.8], [0.4, 0.8, 0.8, 0.8, 0.8])["settled"]
    assert (
        "36 of 40 images are classified correctly with a probability above 0.8"
        in _looks([0.1, 0.1], [0.9, 0.9])["outside"]
    )


def test_confused_classes_and_a_cell_that_is_always_hottest():
    labels = np.arange(60) % 3
    cohort = Cohort(labels, ("cat", "dog", "owl"), np.zeros((60, 7, 7, 6), np.float32))
    predictions = np.where((labels == 0) & (np.arange(60) < 24), 2, labels)
    maps = np.random.default_rng(0).random((60, 7, 7))
    maps[:40, 3, 5] = 2
    sure = np.full(60, 0.9)
    tracker = Tracker(cohort)
    look = CohortLook(1, 0, maps, maps, predictions, sure, sure)
    said = {f.kind: f for f in findings(tracker.add(look, lambda rows: np.empty(0), lambda images, rows: np.empty(0)))}
    assert "cat is mistaken for owl in 8 of 20 images" in said["confused"].text
    assert said["confused"].images == [0, 3, 6, 9, 12, 15, 18, 21]
    assert "The same cell is hottest" in said["same_cell"].text and said["same_cell"].numbers["images"] >= 40


def _confused(of_errors, count=20):
    """Two classes of 40 images; of the first class `count` are taken for the second, with this evidence for it."""
    labels = np.repeat([0, 1], 40)
    predictions = np.where(np.arange(80) < count, 1, labels)
    maps = np.random.default_rng(0).random((80, 14, 14))
    maps[:40, 7:] += 4  # what speaks for the first class lies below, for the second one above
    maps[40:, :7] += 4
    cohort, sure = Cohort(labels, ("four", "nine"), np.zeros((80, 7, 7, 6), np.float32)), np.full(80, 0.9)
    look = CohortLook(1, 0, maps, maps, predictions, sure, sure, None, np.arange(16), of_errors[:16])
    said = findings(Tracker(cohort).add(look, lambda rows: np.empty(0), lambda images, rows: np.empty(0)))
    return next(f for f in said if f.kind == "confused"), shares(maps), shares(of_errors)


def test_what_speaks_for_the_wrong_class_is_held_against_what_speaks_for_the_label():
    for_wrong = np.random.default_rng(1).random((20, 14, 14))
    for_wrong[:, :7] += 4
    found, maps, wrong = _confused(for_wrong)
    there = wrong[:16, :7].sum((1, 2)).mean(), maps[:16, :7].sum((1, 2)).mean(), maps[40:, :7].sum((1, 2)).mean()
    numbers = found.numbers["for_prediction"], found.numbers["for_label"], found.numbers["right"]
    np.testing.assert_allclose(numbers, there, rtol=1e-9)
    assert found.numbers["p"] == pytest.approx(6 / 2**16)
    percents = [f"{100 * share:.0f} %" for share in there]
    assert found.text == (
        f"four is mistaken for nine in 20 of 40 images at step 1: in these, {percents[0]} of the evidence for nine "
        f"lies on the upper half, as in correct images of nine ({percents[2]}), but {percents[1]} of that for four "
        "(share of the area: 50 %)."
    )


def test_a_contrast_that_chance_would_give_is_not_said():
    everywhere = np.random.default_rng(1).random((20, 14, 14))
    assert _confused(everywhere)[0].text == "four is mistaken for nine in 20 of 40 images at step 1."
    for_wrong = everywhere + np.where(np.arange(14) < 7, 4, 0)[:, None]
    assert _confused(for_wrong, count=8)[0].text == "four is mistaken for nine in 8 of 40 images at step 1."


def test_statistics_of_groups_are_means_over_their_images():
    rng = np.random.default_rng(2)
    labels, predictions = np.array([0, 0, 1, 1, 1, -1]), np.array([0, 1, 1, 1, 0, 1])
    maps = rng.random((6, 28, 28))
    maps[3] = -1  # without evidence
    coverage = (rng.random((6, 28, 28)) > 0.5).astype(np.float32)
    cohort = Cohort(labels, (), np.zeros((6, 7, 7, 6), np.float32), coverage)
    look = CohortLook(1, 0, maps, maps, predictions, np.ones(6), np.ones(6), np.arange(6) / 6)
    groups = {(group.by, *group.classes): group for group in by_group(cohort, look)}
    rows = {
        ("class", 0): [0, 1],
        ("class", 1): [2, 3, 4],
        ("prediction", 0): [0, 4],
        ("prediction", 1): [1, 2, 3, 5],
        ("confusion", 0, 1): [1],
        ("confusion", 1, 0): [4],
    }
    assert groups.keys() == rows.keys()
    for key, members in rows.items():
        group, there = groups[key], [row for row in members if row != 3]
        kept = [look.kept[row] for row in there]
        assert group.images == len(members)
        assert group.inside == pytest.approx(
            np.mean([(m * coverage[r]).sum() for m, r in zip(kept, there, strict=True)])
        )
        assert group.border == pytest.approx(np.mean([m.sum() - m[4:-4, 4:-4].sum() for m in kept]))
        assert group.regions[2] == pytest.approx(np.mean([m[:9, 19:].sum() for m in kept]))
        assert group.agreement == pytest.approx(np.mean([row / 6 for row in there]))


def test_names_of_classes_are_text():
    planted = Planted(cell(0, 0))
    planted.cohort = Cohort(planted.labels, ("<b>*x*</b>\n# y", "dog", "owl"), planted.cohort.appearance)
    text = as_markdown(planted.found())
    assert text.count("\n") == 0 and "\\<b\\>\\*x\\*" in text
