"""Weights from files of every usual form, and what is said when they do not fit."""

import pickle

import numpy as np
import pytest
import timm
import torch
from lightning.pytorch import LightningModule
from safetensors.torch import save_file
from torch import nn

from lightning_cam.cli.checkpoints import load_file_of_weights, load_weights, read_checkpoint, state_dict_of
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


def named(prefix="", seed=0):
    return {prefix + name: tensor for name, tensor in network(seed).state_dict().items()}


@pytest.mark.parametrize(
    "content",
    [
        {"net": named()},
        {"params": named("module.")},
        {"ema": named()},
        {"model_ema": named("module.")},
        {"teacher": named("backbone."), "student": named("module.backbone.", seed=2)},
        {"student": named("module.backbone.")},
        {"model": {"state_dict": named("net.")}, "optimizer": {"lr": 0.1}},
        {"state_dict": {"model": named()}, "epoch": 1},
        {"model": named(), "model_ema": named(seed=2)},
    ],
)
def test_weights_are_found_under_usual_keys_and_one_within_another(tmp_path, content):
    torch.save(content, tmp_path / "weights.pt")
    model, loaded = load(tmp_path / "weights.pt")
    assert_loaded(model)
    assert loaded.missing == loaded.unexpected == []


@pytest.mark.parametrize("key", ["model_ema", "runs.best", "odd.name"])
def test_a_key_names_where_the_weights_stand(tmp_path, key):
    content = {"model": named(seed=2), "model_ema": named(), "runs": {"best": named()}, "odd.name": named()}
    torch.save(content, tmp_path / "weights.pt")
    model = network(seed=1)
    load_file_of_weights(model, tmp_path / "weights.pt", key)
    assert_loaded(model)


def test_a_key_without_weights_is_refused(tmp_path):
    torch.save({"model": named(), "epoch": 3}, tmp_path / "weights.pt")
    for key in ("epoch", "model.net", "none"):
        with pytest.raises(
            UsageError, match=f"--state-dict-key: no weights under '{key}'; the file contains model, epoch"
        ):
            load_file_of_weights(network(), tmp_path / "weights.pt", key)


def vit():
    options = {"img_size": 32, "patch_size": 16, "embed_dim": 16, "depth": 1, "num_heads": 2, "num_classes": 3}
    return timm.create_model("vit_tiny_patch16_224", **options)


def google_weights():
    """Arrays by the names of Google's files (github.com/google-research/vision_transformer), as its training wrote."""
    random = np.random.default_rng(0)
    block, attention = "Transformer/encoderblock_0", "Transformer/encoderblock_0/MultiHeadDotProductAttention_1"
    shapes = {
        "embedding/kernel": (16, 16, 3, 16),
        "embedding/bias": (16,),
        "cls": (1, 1, 16),
        "Transformer/posembed_input/pos_embedding": (1, 5, 16),
        "Transformer/encoder_norm/scale": (16,),
        "Transformer/encoder_norm/bias": (16,),
        "head/kernel": (16, 3),
        "head/bias": (3,),
        **{f"{block}/LayerNorm_{i}/{part}": (16,) for i in (0, 2) for part in ("scale", "bias")},
        **{f"{attention}/{part}/kernel": (16, 2, 8) for part in ("query", "key", "value")},
        **{f"{attention}/{part}/bias": (2, 8) for part in ("query", "key", "value")},
        f"{attention}/out/kernel": (2, 8, 16),
        f"{attention}/out/bias": (16,),
        f"{block}/MlpBlock_3/Dense_0/kernel": (16, 64),
        f"{block}/MlpBlock_3/Dense_0/bias": (64,),
        f"{block}/MlpBlock_3/Dense_1/kernel": (64, 16),
        f"{block}/MlpBlock_3/Dense_1/bias": (16,),
    }
    return {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def test_googles_arrays_load_through_timm(tmp_path):
    arrays = google_weights()
    np.savez(tmp_path / "ViT.npz", **arrays)
    model = vit()
    load_file_of_weights(model, tmp_path / "ViT.npz")
    state = model.state_dict()
    kernel = torch.from_numpy(arrays["embedding/kernel"])  # rows, columns, in, out
    assert torch.equal(state["patch_embed.proj.weight"], kernel.permute(3, 2, 0, 1))
    assert torch.equal(state["head.weight"], torch.from_numpy(arrays["head/kernel"]).T)
    assert torch.equal(state["cls_token"], torch.from_numpy(arrays["cls"]))


def test_arrays_that_do_not_fit_are_refused_in_a_sentence(tmp_path):
    np.savez(tmp_path / "ViT.npz", **google_weights())
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    (tmp_path / "broken.npz").write_bytes(b"no archive")
    with pytest.raises(UsageError, match="is in Google's format, but Sequential has no loader for it"):
        load_file_of_weights(network(), tmp_path / "ViT.npz")
    with pytest.raises(UsageError, match=r"other.npz does not fit the model"):
        load_file_of_weights(vit(), tmp_path / "other.npz")
    with pytest.raises(CommandError, match=r"broken.npz is corrupt"):
        load_file_of_weights(vit(), tmp_path / "broken.npz")
    with pytest.raises(UsageError, match="there is no file"):
        load_file_of_weights(vit(), tmp_path / "none.npz")


def test_safetensors_load(tmp_path):
    save_file({f"net.{name}": tensor for name, tensor in network().state_dict().items()}, tmp_path / "w.safetensors")
    model, loaded = load(tmp_path / "w.safetensors")
    assert_loaded(model)
    assert str(loaded) == "prefix 'net.' removed"


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
    with pytest.raises(UsageError, match=r"none of its names occur in the model; it has stem.conv"):
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
    with pytest.raises(UsageError, match="was not loaded, because loading it could run code"):
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
    with pytest.raises(CommandError, match="is corrupt") as caught:
        load(tmp_path / name)
    assert not isinstance(caught.value, UsageError)


@pytest.mark.parametrize("content", [b"junk", b"\x80abc", b"", pickle.dumps({"weight": 1.0})])
@pytest.mark.parametrize("trust", [False, True])
def test_what_is_no_checkpoint_is_called_so_and_not_to_be_trusted(tmp_path, content, trust):
    (tmp_path / "w.pt").write_bytes(content)
    with pytest.raises(CommandError, match=r"w\.pt is not a checkpoint that torch can read$") as caught:
        load(tmp_path / "w.pt", trust)
    assert not isinstance(caught.value, UsageError)


def test_a_missing_file_is_wrong_use(tmp_path):
    with pytest.raises(UsageError, match="--checkpoint: there is no file"):
        load(tmp_path / "none.pt")
