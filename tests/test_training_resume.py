"""A run that is stopped and resumed looks at the same images, goes on with its filmstrip, and ends the same."""

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.testing import assert_close

from lightning_cam import TransformerCAMCallback
from tests.training import Lit, Pictures, assert_same, heard, loader, tiny_vit, train


def deterministic():
    """Without dropout: Lightning does not keep random states in a checkpoint."""
    return Lit(tiny_vit())


def _saving(path):
    return lambda looks: [*looks, ModelCheckpoint(path, filename="last", save_on_train_epoch_end=True)]


def _fit(tmp_path, look, max_epochs, resume_from=None, **options):
    def run(trainer, lit, *loaders):
        trainer.fit(lit, *loaders, ckpt_path=resume_from)

    options = {"callbacks": _saving(tmp_path), "make": deterministic, **options}
    return train(
        tmp_path, look, max_epochs=max_epochs, run=run, enable_checkpointing=True, train_loader=loader, **options
    )


def _look(**options):
    return TransformerCAMCallback(num_samples=2, on_error="raise", **options)


@pytest.mark.parametrize("same_object", [False, True])
def test_resume(tmp_path, same_object):
    look = _look()
    first = _fit(tmp_path / "first", look, 2)
    second = _fit(
        tmp_path / "second",
        look if same_object else _look(),
        4,
        tmp_path / "first" / "last.ckpt",
        # A shuffled loader: without the checkpoint other images would be looked at.
        val_loader=lambda: loader(6, shuffle=True),
    )
    whole = _fit(tmp_path / "whole", _look(), 4)
    without = _fit(tmp_path / "without", None, 4)
    assert first.steps() + second.steps() == whole.steps() == [2, 5, 8, 11]
    assert_close(second.lit.state_dict(), whole.lit.state_dict(), rtol=0, atol=0)
    assert_close(second.lit.state_dict(), without.lit.state_dict(), rtol=0, atol=0)
    for one, other in zip([*first.looks, *second.looks], whole.looks, strict=True):
        assert one.step == other.step and one.epoch == other.epoch
        assert_close(one.maps, other.maps, rtol=0, atol=0)
        assert one.pictures.keys() == other.pictures.keys()
        for tag in one.pictures:  # the filmstrip too: all looks of the whole training stand in it
            assert torch.equal(one.pictures[tag], other.pictures[tag])
        # What is held against chance at the first and the last look of each run.
        assert_close(*({tag: x for tag, x in look.scalars.items() if "gain" not in tag} for look in (one, other)))


def test_resume_in_the_middle_of_an_epoch(tmp_path):
    """There Lightning begins the epoch's data anew, so the run to compare with is one resumed without the callback."""

    def saving(looks):
        return [*looks, ModelCheckpoint(tmp_path, filename="middle", every_n_train_steps=4)]

    stopped = _fit(tmp_path / "stopped", _look(), -1, max_steps=4, val_check_interval=1, callbacks=saving)
    runs = [
        _fit(tmp_path / str(look), look, 3, tmp_path / "middle.ckpt", val_check_interval=1) for look in (_look(), None)
    ]
    assert_same(*runs)
    assert stopped.steps() == [0, 1, 2, 3]
    assert runs[0].steps() == sorted(set(runs[0].steps())) and runs[0].steps()[0] == 4
    # The checkpoint was written before the validation run of its step: three looks traveled in it.
    assert _widths(runs[0])[0] == _widths(stopped)[3] > _widths(stopped)[2]


def _widths(outcome):
    return [look.pictures["cam/hirescam/filmstrip"].shape[2] for look in outcome.looks]


def test_a_checkpoint_is_the_same_but_for_the_callbacks_own_state(tmp_path):
    _fit(tmp_path / "with", _look(), 1)
    _fit(tmp_path / "without", None, 1)
    one, other = (torch.load(tmp_path / name / "last.ckpt", weights_only=False) for name in ("with", "without"))
    own = [key for key in one["callbacks"] if key.startswith("TransformerCAMCallback")]
    assert len(own) == 1 and torch.equal(one["callbacks"].pop(own[0])["probe"]["images"], Pictures(2).images)
    for part in ("state_dict", "optimizer_states", "epoch", "global_step"):
        assert_close(one[part], other[part], rtol=0, atol=0)
    assert one.keys() == other.keys() and one["loops"] == other["loops"]


def test_a_checkpoint_loads_without_the_callback_and_by_weights_only(tmp_path):
    _fit(tmp_path / "with", _look(), 1)
    torch.load(tmp_path / "with" / "last.ckpt", weights_only=True)
    resumed = _fit(tmp_path / "resumed", None, 2, tmp_path / "with" / "last.ckpt")
    assert_close(resumed.lit.state_dict(), _fit(tmp_path / "plain", None, 2).lit.state_dict(), rtol=0, atol=0)


def test_a_checkpoint_without_the_callback_is_resumed_with_it(tmp_path):
    _fit(tmp_path / "without", None, 1)
    resumed = _fit(tmp_path / "resumed", _look(), 3, tmp_path / "without" / "last.ckpt")
    assert resumed.steps() == [5, 8]
    assert_close(resumed.lit.state_dict(), _fit(tmp_path / "plain", None, 3).lit.state_dict(), rtol=0, atol=0)


def test_what_is_too_large_for_a_checkpoint_is_taken_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "lightning_cam.training.saved._MAX_BYTES", 6200
    )  # the probe has 6144 and its labels 16, a look 128
    with heard() as said:
        first = _fit(tmp_path / "first", TransformerCAMCallback(num_samples=2), 3)
    assert sum("not saved in checkpoints" in message for message in said) == 1
    saved = torch.load(tmp_path / "first" / "last.ckpt", weights_only=True)["callbacks"]
    assert not any(key.startswith("TransformerCAMCallback") and value for key, value in saved.items())
    resumed = _fit(tmp_path / "second", _look(), 4, tmp_path / "first" / "last.ckpt")
    assert resumed.steps() == [11] and len(first.looks) == 3


def test_a_state_that_cannot_be_read_is_said_and_costs_no_run(tmp_path):
    _fit(tmp_path / "first", _look(), 1)
    path = tmp_path / "first" / "last.ckpt"
    checkpoint = torch.load(path, weights_only=False)
    for key in checkpoint["callbacks"]:
        if key.startswith("TransformerCAMCallback"):
            checkpoint["callbacks"][key] = {"something": "else"}
    torch.save(checkpoint, path)
    with heard() as said:
        resumed = _fit(tmp_path / "second", TransformerCAMCallback(), 2, path)
    assert "uses a new probe: the state of this callback cannot be read" in "".join(said) and resumed.looks
    assert_same(resumed, _fit(tmp_path / "third", None, 2, path))
