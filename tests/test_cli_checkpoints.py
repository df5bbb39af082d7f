"""Weights from files of every usual form, and what is said when they do not fit."""

import pickle

import pytest
import torch
from lightning.pytorch import LightningModule
from safetensors.torch import save_file
from torch import nn

from lightning_cam.cli.checkpoints import load_weights, read_checkpoint, state_dict_of
from lightning_cam.cli.errors import CommandError, UsageError


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))


class Custom:
    """Not among what a file may hold without trust."""


class Evil:
    """Unpickling this writes a file."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return open, (str(self.target), "w")


def load(path, trust=False):
    model = network(seed=1)
    return model, load_weights(model, state_dict_of(read_checkpoint(path, trust)))


def assert_loaded(model):
    expected = network(seed=0).state_dict()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, expected[name]), name


@pytest.mark.parametrize("prefix", ["", "model.", "net.", "module.", "model.net.", "model._orig_mod."])
@pytest.mark.parametrize("key", [None, "state_dict", "model_state_dict", "model"])
def test_a_state_dict_loads_under_any_prefix_and_key(tmp_path, prefix, key):
    state = {prefix + name: tensor for name, tensor in network().state_dict().items()}
    torch.save(state if key is None else {key: state, "epoch": 3}, tmp_path / "weights.pt")
    model, loaded = load(tmp_path / "weights.pt")
    assert_loaded(model)
    assert loaded.missing == loaded.unexpected == []
    assert loaded.prefix == prefix.replace("_orig_mod.", "")


def test_safetensors_load(tmp_path):
    save_file({f"net.{name}": tensor for name, tensor in network().state_dict().items()}, tmp_path / "w.safetensors")
    model, loaded = load(tmp_path / "w.safetensors")
    assert_loaded(model)
    assert str(loaded) == "the prefix 'net.' taken off"


def test_a_lightning_checkpoint_loads(tmp_path):
    class Lit(LightningModule):
        def __init__(self):
            super().__init__()
            self.net = network()
            self.loss = nn.CrossEntropyLoss(weight=torch.ones(2))

    lit = Lit()
    torch.save(
        {"state_dict": lit.state_dict(), "epoch": 1, "global_step": 7, "callbacks": {}, "hyper_parameters": {"lr": 1}},
        tmp_path / "last.ckpt",
    )
    model, loaded = load(tmp_path / "last.ckpt")
    assert_loaded(model)
    assert loaded.missing == [] and loaded.unexpected == ["loss.weight"]


def test_missing_and_unexpected_names_are_told(tmp_path):
    state = network().state_dict()
    del state["1.weight"], state["1.bias"]
    state["head.weight"] = torch.zeros(1)
    torch.save(state, tmp_path / "w.pt")
    _, loaded = load(tmp_path / "w.pt")
    assert loaded.missing == ["1.weight", "1.bias"] and loaded.unexpected == ["head.weight"]
    assert str(loaded) == "2 missing (1.weight, 1.bias), 1 unexpected (head.weight)"


def test_a_differing_shape_is_refused_and_nothing_loaded(tmp_path):
    torch.save({**network().state_dict(), "2.weight": torch.zeros(7, 4)}, tmp_path / "w.pt")
    model = network(seed=1)
    with pytest.raises(
        UsageError, match=r"2.weight is \(7, 4\) in the checkpoint and \(2, 4\) in the model.*num_classes"
    ):
        load_weights(model, state_dict_of(read_checkpoint(tmp_path / "w.pt")))
    assert torch.equal(model[0].weight, network(seed=1)[0].weight)


def test_weights_of_another_model_are_refused(tmp_path):
    torch.save({"stem.conv": torch.zeros(1)}, tmp_path / "w.pt")
    with pytest.raises(UsageError, match=r"no name in it is one of the model's; it has stem.conv"):
        load(tmp_path / "w.pt")


def test_a_pickle_that_needs_a_class_is_refused_with_its_name_unless_trusted(tmp_path):
    torch.save({"state_dict": network().state_dict(), "config": Custom()}, tmp_path / "w.ckpt")
    with pytest.raises(UsageError, match=r"it needs .*\.Custom.* --trust-checkpoint"):
        load(tmp_path / "w.ckpt")
    assert_loaded(load(tmp_path / "w.ckpt", trust=True)[0])


@pytest.mark.parametrize("old_format", [False, True])
def test_code_in_a_pickle_does_not_run(tmp_path, old_format):
    target = tmp_path / "ran"
    content = {"state_dict": network().state_dict(), "evil": Evil(target)}
    torch.save(content, tmp_path / "w.pt", _use_new_zipfile_serialization=not old_format)
    with pytest.raises(UsageError, match="is not loaded, because that could run code from it"):
        load(tmp_path / "w.pt")
    assert not target.exists()


def test_a_whole_pickled_model_loads_when_trusted(tmp_path):
    torch.save(network(), tmp_path / "model.pt")
    with pytest.raises(UsageError, match="--trust-checkpoint"):
        load(tmp_path / "model.pt")
    assert_loaded(load(tmp_path / "model.pt", trust=True)[0])


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
def test_a_broken_file_is_called_broken(tmp_path, name):
    torch.save(network().state_dict(), tmp_path / "whole.pt")
    (tmp_path / name).write_bytes((tmp_path / "whole.pt").read_bytes()[:500])
    with pytest.raises(CommandError, match="is broken") as caught:
        load(tmp_path / name)
    assert not isinstance(caught.value, UsageError)


@pytest.mark.parametrize("content", [b"junk", b"\x80abc", b"", pickle.dumps({"weight": 1.0})])
@pytest.mark.parametrize("trust", [False, True])
def test_what_is_no_checkpoint_is_called_so_and_not_to_be_trusted(tmp_path, content, trust):
    (tmp_path / "w.pt").write_bytes(content)
    with pytest.raises(CommandError, match=r"w\.pt is no checkpoint that torch can read$") as caught:
        load(tmp_path / "w.pt", trust)
    assert not isinstance(caught.value, UsageError)


def test_a_missing_file_is_wrong_use(tmp_path):
    with pytest.raises(UsageError, match="--checkpoint: there is no file"):
        load(tmp_path / "none.pt")
