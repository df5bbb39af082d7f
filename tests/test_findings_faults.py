"""Real faults of data: a copyright tag, a ruler, a hospital's marker, snow, a camera's border.

Each is drawn into images, and a model is made that provably goes by it: it looks for it, and for nothing else. Its maps
are those of occlusion. What is found must be of the right class, confirmed, and lie where the fault is.
"""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from lightning_cam.findings import Cohort, CohortLook, Tracker, findings
from lightning_cam.findings.grids import appearance

SIZE, GRID, COUNT = 112, 14, 48
CELL = SIZE // GRID
NAMES = ("first", "second", "third")


class Fault:
    """Images, one class of which has the fault, and a model that goes by nothing else."""

    def __init__(self, ground, draw, sees, labels=2):
        self.labels = np.arange(COUNT) % labels
        pictures = []
        for image in range(COUNT):
            rng = np.random.default_rng(image)
            picture = Image.fromarray(ground(rng, image))
            if self.labels[image] == 0:
                picture = draw(picture, rng)
            pictures.append(np.asarray(picture.convert("RGB")).transpose(2, 0, 1))
        self.pictures, self.sees, self.count = np.stack(pictures), sees, labels
        self.cohort = Cohort(self.labels, NAMES, appearance(self.pictures, (GRID, GRID)))

    def score(self, images):
        """How much of the fault is in each image, from 0 to 1."""
        return np.clip(self.sees(images.astype(np.float32)), 0, 1)

    def classify(self, images, rows):
        own = 1 / (1 + np.exp(-12 * (self.score(images) - 0.5)))
        rest = np.eye(self.count)[np.where(self.labels[rows] == 0, 1, self.labels[rows])]
        return own[:, None] * np.eye(self.count)[0] + (1 - own)[:, None] * rest

    def look(self, step):
        """The maps of occlusion: what each cell, grayed, takes from the score of the image's class."""
        sign = np.where(self.labels == 0, 1, -1)
        before, maps = self.score(self.pictures), np.zeros((COUNT, GRID, GRID))
        for row in range(GRID):
            for column in range(GRID):
                gray = self.pictures.copy()
                gray[:, :, row * CELL : (row + 1) * CELL, column * CELL : (column + 1) * CELL] = 110
                maps[:, row, column] = sign * (before - self.score(gray))
        rows = np.arange(COUNT)
        found = self.classify(self.pictures, rows)
        control = 2 * np.random.default_rng(step).random(maps.shape) - 1
        own = found[rows, self.labels]
        return CohortLook(step, 0, maps + 1e-4, control, found.argmax(1), found.max(1), own)

    def found(self):
        tracker, look = Tracker(self.cohort), self.look(1)
        for step in (1, 2):
            given = CohortLook(step, 0, *(getattr(look, name) for name in FIELDS))
            state = tracker.add(given, lambda rows: self.pictures[rows].astype(np.float32), self.classify)
        return [finding for finding in findings(state) if finding.kind == "shortcut"]


FIELDS = ("maps", "control", "predictions", "probabilities", "label_probabilities")


def meadow(rng, image):
    """Green and brown below a blue sky, with a dark animal somewhere."""
    ground = rng.integers(60, 140, (SIZE, SIZE, 3)) + np.array([0, 30, -20])
    sky = SIZE // 3 + int(rng.integers(-6, 6))
    ground[:sky] = rng.integers(-6, 6, (sky, SIZE, 3)) + np.array([90, 130, 190])
    picture = Image.fromarray(ground.clip(0, 255).astype(np.uint8))
    x, y = rng.integers(10, 45), rng.integers(25, 45)
    ImageDraw.Draw(picture).ellipse([x, y, x + 52, y + 40], fill=(70, 45, 30))
    return np.asarray(picture)


def skin(rng, image):
    """A lesion on skin."""
    ground = rng.integers(-8, 8, (SIZE, SIZE, 3)) + np.array([214, 170, 150])
    picture = Image.fromarray(ground.clip(0, 255).astype(np.uint8))
    x, y = rng.integers(35, 50, 2)
    ImageDraw.Draw(picture).ellipse([x, y, x + 28, y + 24], fill=(110, 60, 45))
    return np.asarray(picture)


def chest(rng, image):
    """A gray X-ray: two dark lungs."""
    ground = rng.integers(90, 120, (SIZE, SIZE))
    picture = Image.fromarray(ground.astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    for x in (22, 64):
        draw.ellipse([x, 24, x + 28 + rng.integers(0, 4), 92], fill=45)
    return np.stack([np.asarray(picture)] * 3, -1)


def tag(picture, rng):
    ImageDraw.Draw(picture).text((2, SIZE - 12), "(c) J. Doe", fill=(255, 255, 255))
    return picture


def ruler(picture, rng):
    draw, y = ImageDraw.Draw(picture), int(rng.choice([2, 94]))  # above the lesion, or below it
    draw.rectangle([0, y, SIZE, y + 15], fill=(240, 240, 60))
    for x in range(0, SIZE, 4):
        draw.line([x, y, x, y + (12 if x % 20 == 0 else 6)], fill=(0, 0, 0))
    return picture


def marker(picture, rng):
    draw = ImageDraw.Draw(picture)
    draw.rectangle([SIZE - 17, 0, SIZE - 1, 15], fill=(235, 235, 235))
    draw.text((SIZE - 11, 2), "L", fill=(20, 20, 20))
    return picture


def snow(picture, rng):
    """The meadow behind the animal is white."""
    pixels = np.asarray(picture).copy()
    green = (pixels[..., 1] > pixels[..., 2] + 5) & (pixels != (70, 45, 30)).any(-1) | (np.arange(SIZE) > 44)[:, None]
    animal = (pixels == (70, 45, 30)).all(-1)
    white = rng.integers(225, 250, (SIZE, SIZE, 1)).repeat(3, -1)
    return Image.fromarray(np.where((green & ~animal)[..., None], white, pixels).astype(np.uint8))


def border(picture, rng):
    pixels = np.asarray(picture).copy()
    pixels[:, :8] = 0
    return Image.fromarray(pixels)


def white(images):
    return images.min(1) > 215


FAULTS = {
    "copyright tag": (meadow, tag, lambda images: white(images[:, :, 96:, :64]).mean((1, 2)) / 0.04, "lower"),
    "ruler": (
        skin,
        ruler,
        lambda images: ((images[:, 0] > 200) & (images[:, 2] < 100)).mean((1, 2)) / 0.125,
        "border",
    ),
    "hospital marker": (
        chest,
        marker,
        lambda images: white(images).mean((1, 2)) / 0.021,
        "the upper right corner",
    ),
    "snow": (meadow, snow, lambda images: white(images).mean((1, 2)) / 0.59, "varying positions"),
    "camera border": (
        meadow,
        border,
        lambda images: (images[:, :, :, :8].max(1) < 12).mean((1, 2)),
        "the left border",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize("labels", [2, 3])
def test_real_faults_are_found_and_confirmed(name, labels):
    ground, draw, sees, place = FAULTS[name]
    fault = Fault(ground, draw, sees, labels)
    own = fault.labels == 0
    assert fault.score(fault.pictures)[own].min() > 0.6 > 0.2 > fault.score(fault.pictures)[~own].max()
    said = fault.found()
    assert [(finding.classes, finding.status) for finding in said] == [([0], "confirmed")]
    assert place in said[0].text and "a shortcut" in said[0].text


@pytest.mark.parametrize("name", FAULTS)
def test_without_the_fault_nothing_is_found(name):
    ground, _, sees, _ = FAULTS[name]
    assert Fault(ground, lambda picture, rng: picture, sees).found() == []
