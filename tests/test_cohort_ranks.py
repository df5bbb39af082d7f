"""A cohort that two processes share: the same is found as on one, a fault on one stops none, scalars reach both."""

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from numpy.testing import assert_allclose
from torch.testing import assert_close
from torch.utils.data import DataLoader, Subset

from lightning_cam import read_timeline
from tests.distributed.cohorts import FAULTS, UNEVEN, look, still
from tests.distributed.launched import launch, once
from tests.marked import marked, small_vit
from tests.training import Lit, options


@pytest.fixture(scope="module")
def folder(tmp_path_factory, worker_id):
    """What each scenario left on each rank."""

    def run(folder):
        torch.manual_seed(0)
        lit = Lit(small_vit(), lambda parameters, lr: torch.optim.AdamW(parameters, 1e-3))
        trainer = Trainer(**options(folder, max_epochs=5, logger=False))
        trainer.fit(lit, DataLoader(marked(192, 0), 16, shuffle=True))
        torch.save(lit.model.state_dict(), folder / "weights.pt")
        launch("tests.distributed.cohorts", str(folder), timeout=480)

    return once(tmp_path_factory, worker_id, "cohorts", run)


@pytest.fixture
def weights(folder):
    """Of a model that goes by the mark."""
    return torch.load(folder / "weights.pt", weights_only=True)


def ranks(folder, name):
    return [torch.load(folder / f"{name} {rank}.pt", weights_only=False) for rank in (0, 1)]


def assert_same_findings(folder, reference, looks=3):
    here, there = read_timeline(folder), read_timeline(reference)
    assert here.steps.tolist() == there.steps.tolist() and len(here.findings) == looks
    tags = {tag for tag in there.metrics if "/cohort/" in tag}
    assert len(tags) >= 7 and tags == {tag for tag in here.metrics if "/cohort/" in tag}
    for tag in tags:
        assert_allclose(here.metrics[tag], there.metrics[tag], rtol=1e-4, atol=1e-6, err_msg=tag)
    for one, other in zip(here.findings, there.findings, strict=True):
        assert one.class_means.keys() == other.class_means.keys() == {0, 1, 2}
        for label, mean in other.class_means.items():
            assert_allclose(one.class_means[label], mean, atol=1.01 * mean.max() / 255)
        assert one.images.tolist() == other.images.tolist()
        for own, kept in zip(one.maps, other.maps, strict=True):
            assert_allclose(own, kept, atol=1.01 * kept.max() / 255)
        for finding, expected in zip(one.findings, other.findings, strict=True):
            assert (finding.kind, finding.status, finding.classes) == (
                expected.kind,
                expected.status,
                expected.classes,
            )
            assert list(finding.images) == list(expected.images)
            assert finding.numbers == pytest.approx(expected.numbers, rel=1e-3, abs=1e-4, nan_ok=True)
    return here.findings


@pytest.mark.parametrize(
    ("name", "cohort", "order"),
    [
        ("shared", 48, range(60)),
        # The ranks take turns, and one has more images than the other.
        ("uneven", 60, [k for pair in zip(range(24), range(36, 60), strict=True) for k in pair] + [*range(24, 36)]),
        ("one", 48, range(60)),
        ("auto", 60, range(60)),
    ],
)
def test_what_ranks_find_together_is_what_one_finds(folder, weights, tmp_path, name, cohort, order):
    """Scalars, maps and proofs, by the same images validated on one process."""
    assert sorted(order) == list(range(60)) and sum(map(len, UNEVEN)) == 60
    data = DataLoader(Subset(marked(60, 1), list(order)), 8)
    still(tmp_path, weights, look(cohort=cohort), data, ranks=False)
    found = assert_same_findings(folder / name, tmp_path)
    (shortcut,) = [finding for finding in found[-1].findings if finding.kind == "shortcut"]
    assert shortcut.status == "confirmed" and shortcut.classes == [0]


def test_a_validation_alone_is_shared_too(folder, weights, tmp_path):
    """Where nothing is trained, batches are tensors of inference mode."""
    still(tmp_path, weights, look(cohort=48), ranks=False, trains=False)
    assert_same_findings(folder / "alone", tmp_path, looks=1)


@pytest.mark.parametrize("name", [*FAULTS, "off"])
def test_a_fault_on_one_rank_ends_the_cohort_on_all_and_stops_no_training(folder, name):
    looks = {"explaining on the second rank": 1, "explaining on the first rank": 1, "off": 1}.get(name, 0)
    timeline = read_timeline(folder / name)
    assert len(timeline.findings) == looks and len(timeline.steps) == (1 if name == "off" else 3)
    (here, steps), (other, others) = ranks(folder, name)
    here, other = ([said for said in heard if "switched" in said] for heard in (here, other))
    assert steps == others == 6
    message, elsewhere = "cam: findings are switched off: only here", " (on rank 1)"
    if name == "off":
        assert here == ["TransformerCAMCallback switched itself off: only here"] and other == []
    elif "first" in name or name == "finding":
        assert here == [message] and other == []
    elif "collecting" in name:
        assert here == ["cam: findings are switched off: the cohort was switched off (on rank 1)"]
        assert other[0] == message
    else:
        assert here == [message + elsewhere] and other == [message]


@pytest.mark.parametrize("name", ["cohort", "probe shared", "none"])
def test_training_is_the_same_on_each_rank(folder, name):
    for rank, (one, alone) in enumerate(zip(ranks(folder, name), ranks(folder, "alone"), strict=True)):
        assert one["plain"] == alone["plain"], rank
        assert_close(one["same"], alone["same"], rtol=0, atol=0)
        assert one["metrics"] == {}  # which are asked for with `log_metrics`


def test_ranks_wait_for_one_another_only_where_they_share_something(folder):
    for alone, none, cohort in zip(*(ranks(folder, name) for name in ("alone", "none", "cohort")), strict=True):
        assert none["exchanges"] == alone["exchanges"] and cohort["exchanges"] != alone["exchanges"]


def test_checkpoints_and_early_stopping_act_alike_on_all_ranks(folder):
    one, other = ranks(folder, "monitored")
    assert one["stopped"] == other["stopped"] and one["best"] == other["best"]
    assert one["metrics"] == other["metrics"] and {"cam/cohort/spread", "cam/attnlrp/entropy"} <= one["metrics"].keys()
    assert 0 < one["stopped"][0] < 5 and one["best"][0].startswith("epoch=")
    assert_close(one["same"]["weights"], other["same"]["weights"], rtol=0, atol=0)


@pytest.mark.parametrize(("name", "tag"), [("plateau", "cam/attnlrp/entropy"), ("sharded", "cam/hirescam/entropy")])
def test_schedulers_act_alike_on_all_ranks(folder, name, tag):
    """Also where no cohort is shared, at validations without a look, and where parameters are split."""
    one, other = ranks(folder, name)
    assert one["lr"] == other["lr"] < 1e-2
    assert one["metrics"] == other["metrics"] and tag in one["metrics"]


def test_scalars_are_on_all_ranks_what_is_logged(folder):
    one, other = ranks(folder, "shared")
    logged = read_timeline(folder / "shared").metrics
    assert one == other
    for tag in ("cam/cohort/border_share", "cam/cohort/accuracy", "cam/attnlrp/entropy"):
        assert np.isclose(one[tag], logged[tag][-1], rtol=1e-5)
