"""Which images are looked at: spread over the classes, the same in every run, or those that the user names."""

import pytest
import torch
from PIL import Image
from torch import nn
from torch.testing import assert_close
from torch.utils.data import DataLoader
from torchvision import transforms

from lightning_cam import TransformerCAMCallback, explain
from lightning_cam.training.collect import Collector
from lightning_cam.training.probe import ProbeBatch
from tests.observed.data import Patchy, Plain, loaders, vit
from tests.observed.run import fit
from tests.observed.test_inputs import Normalizes


def look(**options):
    return TransformerCAMCallback(methods="hirescam", report=False, timelapse=None, **options)


class Sorted(Patchy):
    """An ImageFolder that is not shuffled: one class after the other."""

    def __init__(self, **options):
        super().__init__(**options)
        order = self.y.argsort(stable=True)
        self.x, self.y, self.cells = self.x[order], self.y[order], self.cells[order]


def sorted_loaders(batch=16):
    train, _ = loaders(n=32)
    return train, DataLoader(Sorted(n=96, seed=2), batch)


def test_sixteen_images_of_all_classes(tmp_path):
    first = fit((Plain(vit()), *sorted_loaders()), tmp_path / "first")
    assert sorted(torch.bincount(first.probe.labels).tolist()) == [5, 5, 6]
    assert "16 images, 3 of 3 classes" in first.runs[0].text
    assert any("Trainer(num_sanity_val_steps=-1)" in text for text in first.said)
    assert [one.epoch for one in first.looks] == [0]  # the sanity check saw one class
    # The same, however the model and the batches are, and with what was advised a look before the training.
    other = fit((Plain(vit(depth=2)), *sorted_loaders(7)), tmp_path / "other", num_sanity_val_steps=-1)
    assert torch.equal(other.probe.images, first.probe.images)
    assert [one.epoch for one in other.looks] == [-1, 0]


def test_batches_of_one(tmp_path):
    result = fit((Plain(vit()), *loaders(val_batch=1)), tmp_path)
    assert len(result.probe.images) == 16 and len(result.looks) == 1 and not result.off


def test_the_weights_of_the_first_look_are_those_that_were_validated(tmp_path):
    made = Plain(vit()), *loaders(val_batch=3)
    result = fit(made, tmp_path, num_sanity_val_steps=0)
    expected = explain(made[0].model, result.probe.images, "hirescam", class_idx=result.probe.labels).maps
    assert_close(result.maps(), expected["hirescam"], rtol=1e-3, atol=1e-6)


def test_the_look_before_the_training_shows_where_it_began(tmp_path):
    made = Plain(vit()), *loaders(val_batch=16)
    with torch.no_grad():
        before = made[0].model.eval()(made[2].dataset.x).softmax(1)
    result = fit(made, tmp_path)
    assert [(one.step, one.epoch) for one in result.looks] == [(0, -1), (1, 0)]
    assert_close(result.looks[0].probabilities, before, rtol=1e-3, atol=1e-5)
    assert result.looks[-1].strip.headings == ["start", "epoch 0"]


def test_no_batch_is_read_from_a_loader(tmp_path):
    made = Plain(vit()), *loaders(val_batch=4)
    iterations = []
    iterate = DataLoader.__iter__

    class Counts(DataLoader):
        def __iter__(self):
            iterations.append(1)
            return iterate(self)

    val = Counts(made[2].dataset, 4)
    fit((made[0], made[1], val), tmp_path)
    assert len(iterations) == 2  # the sanity check and the validation


@pytest.mark.parametrize("seed", range(20))
def test_a_settled_collection_never_changes(seed):
    """Against keeping everything: what is taken before the end of the data is what is taken of all of it."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 5, (300,), generator=generator).tolist()
    whole = Collector(12)
    settled = None
    for start in range(0, 300, 7):
        rows = labels[start : start + 7]
        images = torch.arange(start, start + len(rows)).float().view(-1, 1, 1, 1)
        whole.add(ProbeBatch(images), rows)
        assert len(whole.keys) <= 12
        if settled is None and whole.is_settled(5):
            settled = whole.probe.images.clone()
    assert settled is not None and torch.equal(settled, whole.probe.images)
    counts = torch.bincount(torch.tensor(whole.keys))
    assert counts.max() - counts.min() <= 1
    assert [labels[int(index)] for index in whole.probe.images.flatten()] == whole.keys


def folder_of(tmp_path, transform_size=64):
    for index, (name, color) in enumerate([("cat", "red"), ("cat", "green"), ("dog", "blue"), ("hen", "white")]):
        (tmp_path / "images" / name).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (transform_size, transform_size), color).save(tmp_path / "images" / name / f"{index}.png")
    return str(tmp_path / "images")


class Files(Patchy):
    transform = transforms.ToTensor()


def with_transform(train, val, **attributes):
    dataset = Files(seed=2)
    vars(dataset).update(attributes)
    return train, DataLoader(dataset, 8)


def test_a_folder_with_classes(tmp_path):
    made = Plain(vit()), *with_transform(*loaders())
    result = fit(made, tmp_path / "run", callback=look(probe=folder_of(tmp_path)))
    assert not result.off
    # One of each subfolder in turn.
    assert result.probe.names == ("0.png", "2.png", "3.png", "1.png")
    assert result.probe.labels.tolist() == [0, 1, 2, 0]
    assert result.runs[0].class_names == ["cat", "dog", "hen"]
    assert result.runs[0].texts == ["0.png cat", "2.png dog", "3.png hen", "1.png cat"]
    assert result.looks[-1].class_idx.tolist() == [0, 1, 2, 0]
    assert [one.epoch for one in result.looks] == [-1, 0]


def test_a_folder_of_known_classes(tmp_path):
    made = Plain(vit()), *with_transform(*loaders(), classes=["dog", "fox", "cat"])
    result = fit(made, tmp_path / "run", callback=look(probe=folder_of(tmp_path)))
    assert result.probe.labels.tolist() == [2, 0, -1, 2]  # no hen is known
    predicted = result.looks[-1].probabilities.argmax(1)
    assert result.looks[-1].class_idx.tolist() == [2, 0, int(predicted[2]), 2]


def test_a_folder_goes_through_what_the_step_does(tmp_path):
    """Bytes in the batch, normalized in the step: so are the folder's."""
    train, _ = loaders(pack=lambda x, y, i: ((x * 255).byte(), y))
    dataset = Patchy(seed=2, pack=lambda x, y, i: ((x * 255).byte(), y))
    dataset.transform = transforms.PILToTensor()
    made = Normalizes(vit()), train, DataLoader(dataset, 8)
    result = fit(made, tmp_path / "run", callback=look(probe=folder_of(tmp_path)))
    assert not result.off, result.said
    red = torch.tensor([255.0, 0, 0]).view(3, 1, 1).expand(3, 64, 64)
    assert_close(result.probe.images[0], made[0].normalized(red), rtol=0, atol=1e-5)
    assert torch.equal(result.runs[0].images[0].float(), red)


def test_indices(tmp_path):
    made = Plain(vit()), *loaders()
    result = fit(made, tmp_path, callback=look(probe=[5, 0, 11]))
    assert not result.off
    assert_close(result.probe.images, made[2].dataset.x[[5, 0, 11]])
    assert result.probe.labels.tolist() == made[2].dataset.y[[5, 0, 11]].tolist()


def test_indices_that_are_not_there(tmp_path):
    result = fit((Plain(vit()), *loaders()), tmp_path, callback=look(probe=[500]))
    assert result.off
    (said,) = (text for text in result.said if "switched itself off" in text)
    assert (
        "probe: the validation dataset (Patchy) cannot return the items [500]" in said and "give indices below" in said
    )


def test_a_tensor(tmp_path):
    given = torch.rand(5, 3, 64, 64, generator=torch.Generator().manual_seed(9))
    result = fit((Plain(vit()), *loaders()), tmp_path, callback=look(probe=given))
    assert not result.off and torch.equal(result.probe.images, given) and result.probe.labels is None


def test_a_batch(tmp_path):
    given = torch.rand(5, 3, 64, 64, generator=torch.Generator().manual_seed(9)), torch.tensor([0, 1, 2, 2, 1])
    result = fit((Plain(vit()), *loaders()), tmp_path, callback=look(probe=given))
    assert not result.off and torch.equal(result.probe.images, given[0])
    assert result.probe.labels.tolist() == [0, 1, 2, 2, 1]


def test_a_probe_of_other_things_than_images(tmp_path):
    class Vectors(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(5, 3)

        def forward(self, x):
            return self.layer(x)

    made = Plain(Vectors()), *loaders(pack=lambda x, y, i: (x.flatten()[:5], y))
    result = fit(made, tmp_path)
    assert result.off
    (said,) = (text for text in result.said if "switched itself off" in text)
    assert "no network was seen to receive images" in said and len(said) < 400
