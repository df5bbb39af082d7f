"""A checkpoint's entry of the callback may be damaged, of another version or of other images: the run goes on."""

import copy
import warnings

import pytest
import torch

from lightning_cam import TransformerCAMCallback
from tests.test_training_resume import _fit
from tests.training import assert_same, heard

DAMAGED = {
    "a later version's field": lambda s: s["probe"].update(future=1),
    "num_labels is missing": lambda s: s["probe"].pop("num_labels"),
    "num_labels is huge": lambda s: s["probe"].update(num_labels=10**12),
    "history is missing": lambda s: s.pop("histories"),
    "history has another form": lambda s: s["histories"][""].update(maps=[1, 2]),
    "images of another size": lambda s: s["probe"].update(images=torch.rand(3, 3, 24, 24)),
    "images of one channel": lambda s: s["probe"].update(images=torch.rand(3, 1, 16, 16)),
    "images of five channels": lambda s: s["probe"].update(images=torch.rand(3, 5, 16, 16)),
    "images that are not finite": lambda s: s["probe"].update(images=torch.full((3, 3, 16, 16), torch.nan)),
    "labels outside": lambda s: s["probe"].update(labels=torch.tensor([7, 8, 9])),
    "targets outside": lambda s: s["probe"]["targets"].update({"": torch.tensor([7, 8, 9])}),
    "targets of another number": lambda s: s["probe"]["targets"].update({"": torch.tensor([0])}),
    "labels of another number": lambda s: s["probe"].update(labels=torch.tensor([0])),
    "labels are text": lambda s: s["probe"].update(labels="cat"),
    "steps of the future": lambda s: s["histories"][""].update(steps=[10**6], epochs=[3]),
    "steps are text": lambda s: s["histories"][""].update(steps=["a"]),
    "maps of another grid": lambda s: s["histories"][""].update(maps={"hirescam": torch.rand(2, 3, 7, 7)}),
    "predictions of another number": lambda s: s["histories"][""].update(preds=torch.zeros(1, 9, dtype=torch.long)),
    "a list": lambda s: [1, 2],
    "a text": lambda s: "x",
}
STILL_GOOD = {
    "a later version's field",
    "num_labels is missing",
    "num_labels is huge",
    "maps of another grid",
    "labels outside",  # those that the loss was seen to read count
}


def look(**options):
    return TransformerCAMCallback(**{"num_samples": 3, **options})


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("first")
    _fit(folder, look(), 1)
    return torch.load(folder / "last.ckpt", weights_only=False)


def edited(checkpoint, edit, path):
    content = copy.deepcopy(checkpoint)
    (key,) = (key for key in content["callbacks"] if key.startswith("TransformerCAMCallback"))
    other = edit(content["callbacks"][key])
    if isinstance(other, (list, str)) and other in ([1, 2], "x"):
        content["callbacks"][key] = other
    torch.save(content, path)
    return path


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_entry_is_said_ignored_and_trained_on(tmp_path, checkpoint, name):
    path = edited(checkpoint, DAMAGED[name], tmp_path / "edited.ckpt")
    with heard() as said:
        resumed = _fit(tmp_path / "resumed", look(), 4, path)
    assert_same(resumed, _fit(tmp_path / "plain", None, 4, path))
    assert len(resumed.looks) >= 2 and not any("switched itself off" in message for message in said)
    assert any("uses a new probe" in message for message in said) == (name not in STILL_GOOD)


@pytest.mark.parametrize("options", [{"num_samples": 2}, {"probe": "folder"}])
def test_other_images_asked_for_are_taken_and_that_is_said(tmp_path, checkpoint, options, monkeypatch):
    from PIL import Image

    (tmp_path / "folder").mkdir()
    Image.new("RGB", (16, 16), "red").save(tmp_path / "folder" / "a.png")
    monkeypatch.chdir(tmp_path)
    path = edited(checkpoint, lambda state: None, tmp_path / "edited.ckpt")
    with heard() as said:
        resumed = _fit(tmp_path / "resumed", look(**options), 3, path)
    assert sum("other values of probe= or num_samples=" in message for message in said) == 1
    assert len(resumed.looks[-1].maps["hirescam"]) == options.get("num_samples", 1)


@pytest.mark.parametrize("methods", ["hirescam", "all"])
def test_warnings_that_are_errors_stop_no_look(tmp_path, methods):
    with warnings.catch_warnings(), heard() as said:
        warnings.simplefilter("error")
        # Lightning's own advice on loaders, logging intervals and checkpoints.
        warnings.filterwarnings("ignore", module="lightning")
        warnings.filterwarnings("ignore", message=r".*(isinstance\(treespec|LeafSpec|litlogger)")
        outcome = _fit(tmp_path, TransformerCAMCallback(methods=methods, num_samples=3), 2)
    assert len(outcome.looks) == 2 and not any("switched itself off" in message for message in said)
