"""Trainings on two processes: nobody waits for a look in vain, and weights end the same on each rank."""

import pytest
import torch
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.loggers import TensorBoardLogger
from numpy.testing import assert_allclose
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.testing import assert_close

from lightning_cam import TransformerCAMCallback, explain, read_timeline
from tests.distributed.launched import launch, once
from tests.distributed.scenarios import KINDS, METHODS, ON_TRAIN, OPTIONS, SAMPLES, fresh_vit
from tests.self_supervised import Views, vit
from tests.training import Lit, Pictures, loader, options

SCENARIOS = [(kind, name) for kind, names in KINDS.items() for name in names]
LOOKS = ("looks", "shares", "shares in micro-batches")
HERE, ELSEWHERE = "only here", "another rank"
FAULTS = {
    ("ddp", "shares and fails"): (1, [ELSEWHERE, HERE]),
    ("ddp", "shares and cannot begin"): (0, [ELSEWHERE, HERE]),
    **{
        (kind, name): fault
        for kind in ("fsdp", "fsdp1", "deepspeed")
        if kind in KINDS
        for name, fault in {
            "cannot begin": (0, [ELSEWHERE, HERE]),
            "cannot begin on the first rank": (0, [HERE, ELSEWHERE]),
            "fails": (1, [ELSEWHERE, HERE]),
            "cannot show": (0, [HERE, ELSEWHERE]),
        }.items()
    },
}


@pytest.fixture(scope="module")
def records(tmp_path_factory, worker_id):
    """What each scenario left on each rank."""
    return _read(once(tmp_path_factory, worker_id, "ranks", lambda folder: _launch(folder, "cpu")))


def _read(folder):
    return {path.stem: torch.load(path, weights_only=False) for path in folder.glob("*.pt")}


def _launch(folder, accelerator):
    # DeepSpeed sets up its processes in its own way, and not where others have been.
    for kinds in ([kind for kind in KINDS if kind != "deepspeed"], [kind for kind in KINDS if kind == "deepspeed"]):
        if kinds:
            launch("tests.distributed.scenarios", str(folder), accelerator, *kinds, timeout=240)


@pytest.mark.parametrize(("kind", "name"), SCENARIOS)
def test_training_is_the_same_on_each_rank(records, kind, name):
    for rank in (0, 1):
        with_callback, without = records[f"{kind} {name} {rank}"], records[f"{kind} alone {rank}"]
        assert with_callback["plain"] == without["plain"]
        assert_close(with_callback["same"], without["same"], rtol=0, atol=0)


@pytest.mark.parametrize(("kind", "name"), [pair for pair in SCENARIOS if pair[1] in LOOKS])
def test_the_first_rank_logs_and_all_see_the_same_maps(records, kind, name):
    here, other = (records[f"{kind} {name} {rank}"] for rank in (0, 1))
    assert here["said"] == other["said"] == other["looks"] == []
    expected = records["ddp looks 0"]["looks"]
    if kind == "tp":  # the data are not split; at the first look the weights are still the initial ones
        assert [look[0] for look in here["looks"]] == [0, 1, 2, 3]
        seed_everything(0, verbose=False)
        data = Pictures(SAMPLES)
        alone = explain(fresh_vit(), data.images, METHODS, class_idx=data.labels)
        here["looks"] = here["looks"][:1]
        expected = [(0, alone.maps, alone.class_idx, alone.logits.softmax(1))]
    assert [look[0] for look in here["looks"]] == [look[0] for look in expected]
    if kind == "deepspeed":  # sums gradients in an order of its own, so that weights part after the first step
        here["looks"], expected = here["looks"][:1], expected[:1]
    for (_, maps, classes, probabilities), (_, reference, *others) in zip(here["looks"], expected, strict=True):
        assert maps["hirescam"].shape == (SAMPLES, 4, 4) and set(maps) == set(METHODS)
        assert_close(maps, reference, rtol=1e-4, atol=1e-5)
        assert_close([classes, probabilities], others, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("kind", "name"), FAULTS)
def test_a_fault_on_one_rank_switches_all_off_and_stops_none(records, kind, name):
    looks, reasons = FAULTS[kind, name]
    for rank, reason in enumerate(reasons):
        (said,) = records[f"{kind} {name} {rank}"]["said"]
        assert reason in said
    assert len(records[f"{kind} {name} 0"]["looks"]) == looks


def test_the_ranks_differ(records):
    """The comparison above means something: ranks hold other parameters and see other images."""
    one, other = (records[f"fsdp alone {rank}"]["same"]["weights"] for rank in (0, 1))
    assert any(not torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("name", ON_TRAIN)
def test_looks_at_training_batches(records, name):
    """The first rank shows images of its own, once an epoch, and neither rank's training knows of it."""
    here, other = (records[f"train {name} looks {rank}"] for rank in (0, 1))
    for rank, one in enumerate((here, other)):
        alone = records[f"train {name} alone {rank}"]
        assert one["plain"] == alone["plain"] and one["said"] == []
        assert_close(one["same"], alone["same"], rtol=0, atol=0)
    assert_close(here["same"]["weights"], other["same"]["weights"], rtol=0, atol=0)
    steps = 2 if "accumulated" in name else 3  # of batches of 2 on each rank; the last of an epoch is not waited for
    assert [look[0] for look in here["looks"]] == [steps, 2 * steps] and other["looks"] == []
    assert here["probe"] is not None and other["probe"] is None
    everything = Views().images
    assert all((image == everything).flatten(1).all(1).any() for image in here["probe"].float())
    teacher = vit(dynamic_img_size=True)
    weights = here["same"]["weights"].items()
    teacher.load_state_dict({key.removeprefix("teacher."): v for key, v in weights if key.startswith("teacher.")})
    methods = ["cls_attention", "cls_similarity"]
    expected = explain(teacher.eval(), here["probe"].float(), methods).maps
    tolerance = 2e-2 if "bf16" in name else 1e-4
    for method in methods:
        assert_close(here["looks"][-1][1][method], expected[method], rtol=tolerance, atol=tolerance)


class Synced(Lit):
    """Its validation loss is the mean over all ranks, which all of them work out together."""

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        self.log("val_loss", self.loss(batch), sync_dist=True)


def test_spawned_processes(records, tmp_path):
    """The callback travels to spawned processes; the first writes the event file, and what all ranks measured."""
    seed_everything(0, verbose=False)
    lit = Synced(fresh_vit())
    trainer = Trainer(
        strategy="ddp_spawn",
        devices=2,
        callbacks=[TransformerCAMCallback(methods=METHODS, num_samples=SAMPLES, on_error="raise")],
        logger=TensorBoardLogger(tmp_path),
        **options(tmp_path, **{key: value for key, value in OPTIONS.items() if key != "val_loader"}),
    )
    trainer.fit(lit, loader(shuffle=True), OPTIONS["val_loader"]())
    assert_close(lit.state_dict(), records["ddp alone 0"]["same"]["weights"], rtol=0, atol=0)
    (folder,) = {path.parent for path in tmp_path.rglob("events.*")}
    log = EventAccumulator(str(folder), {"images": 0}).Reload()
    assert [event.step for event in log.Images("cam/hirescam")] == [0, 0, 1]  # the first before the training
    losses = {event.step: event.value for event in log.Scalars("val_loss")}
    assert_allclose(read_timeline(tmp_path).metrics["val_loss"], [losses[0], losses[1]], rtol=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_two_gpus(tmp_path):
    _launch(tmp_path, "gpu")
    records = _read(tmp_path)
    for kind, name in SCENARIOS:
        test_training_is_the_same_on_each_rank(records, kind, name)
        if name in LOOKS:
            test_the_first_rank_logs_and_all_see_the_same_maps(records, kind, name)
    for kind, name in FAULTS:
        test_a_fault_on_one_rank_switches_all_off_and_stops_none(records, kind, name)
