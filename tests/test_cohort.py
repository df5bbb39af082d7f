"""The cohort in a training: what is collected, what it costs, what is logged, and that training stays the same."""

import logging

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.utils.data import DataLoader

from lightning_cam import TransformerCAMCallback, explain, metrics, read_timeline
from lightning_cam.timeline import TimelineWriter
from lightning_cam.timeline.found import Found, FoundEntry
from lightning_cam.training import allowance, cohort, cohort_part
from lightning_cam.training.cohort import CohortLooker
from lightning_cam.training.cohort_part import CohortCollector, CohortPart
from lightning_cam.training.collect import balanced
from lightning_cam.training.probe import ProbeBatch
from tests.marked import marked, small_vit
from tests.test_callback import Blobs, Lit, loaders, trainer
from tests.training import assert_same, compare, heard, train

MEANS = ("border", "center", "spread", "inside", "agreement")


class Tuples(Lit):
    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self.model(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", nn.functional.cross_entropy(self.model(batch[0]), batch[1]))

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), 1e-3)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A training on images with a mark: what was said, and where it is logged."""
    folder = tmp_path_factory.mktemp("marked")
    torch.manual_seed(0)
    messages = []
    handler = logging.Handler(logging.INFO)
    handler.emit = lambda record: messages.append(record.getMessage())
    logger = logging.getLogger("lightning_cam.training.look_logger")
    logger.addHandler(handler)
    before, _ = logger.level, logger.setLevel(logging.INFO)
    try:
        callback = TransformerCAMCallback(cohort=48, class_names=["red", "a", "b"], on_error="raise")
        fitted = trainer(folder, callback, max_epochs=5)
        data = DataLoader(marked(192, 0), 16, shuffle=True), DataLoader(marked(60, 1), 16)
        lit = Tuples(small_vit())
        fitted.fit(lit, *data)
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
    return folder, messages, lit


def test_a_mark_is_found_and_said(run):
    folder, messages, _ = run
    found = read_timeline(folder).findings
    assert [one.step for one in found] == [11, 23, 35, 47, 59]
    (finding,) = [f for f in found[-1].findings if f.kind == "shortcut"]
    assert finding.status == "confirmed" and finding.classes == [0] and finding.since is not None
    assert "Class red" in finding.text and "the upper left corner" in finding.text
    assert finding.numbers["painted_over"] < 0.5 < finding.numbers["before"]
    assert {marked(60, 1)[image][1].item() for image in finding.images} == {0}
    lines = [message for message in messages if "Class red" in message or "Nothing unusual" in message]
    assert len(lines) >= 3 and finding.text in lines[-1]


def test_what_is_logged_of_it(run):
    folder, _, lit = run
    file = next(folder.rglob("events.*"))
    log = EventAccumulator(str(file.parent), {"images": 0, "tensors": 0}).Reload()
    steps = [event.step for event in log.Scalars("val_loss")]
    names = ("images", "accuracy", "border_share", "center_share", "spread", "agreement", "without_evidence")
    for tag in (*names, "region/upper_left", "border_share_of/red", "center_share_of/b"):
        assert [event.step for event in log.Scalars(f"cam/cohort/{tag}")] == steps
    assert [event.step for event in log.Images("cam/class_means")] == steps
    cards = [event.tensor_proto.string_val[0].decode() for event in log.Tensors("cam/findings/text_summary")]
    assert len(cards) == 5 and "the upper left corner" in cards[-1]
    # The numbers are those of the final model on these images.
    images, labels = marked(60, 1).tensors
    rows = torch.arange(48)  # as many of each class as there are, in the order they came
    with torch.no_grad():
        right = (lit.model.eval()(images[rows]).argmax(1) == labels[rows]).float().mean()
    assert log.Scalars("cam/cohort/accuracy")[-1].value == pytest.approx(right.item())
    maps = explain(lit.model, images[rows], ["attnlrp", "hirescam"], class_idx=labels[rows]).maps
    agreement = metrics.shared_evidence(maps["attnlrp"], maps["hirescam"]).mean()
    assert log.Scalars("cam/cohort/agreement")[-1].value == pytest.approx(agreement.item(), abs=1e-4)
    mean = read_timeline(folder).findings[-1].class_means[0]
    energy = maps["attnlrp"][labels[rows] == 0].relu()
    shares = (energy / energy.sum((1, 2), keepdim=True)).mean(0)
    fine = shares.repeat_interleave(7, 0).repeat_interleave(7, 1) / 49
    np.testing.assert_allclose(mean, fine, atol=mean.max() / 255)


@pytest.mark.parametrize(
    "options", [{"cohort": 5}, {"cohort": "auto"}, {"cohort": None}, {"cohort": 4, "log_metrics": True}]
)
def test_training_is_the_same_bit_for_bit(tmp_path, options):
    def callback():
        return TransformerCAMCallback(num_samples=3, on_error="raise", **options)

    if "log_metrics" not in options:
        compare(tmp_path, callback=callback)
        return
    one, other = train(tmp_path / "with", callback()), train(tmp_path / "without")
    added = {name: one.same["results"].pop(name) for name in [*one.same["results"]] if name.startswith("cam/")}
    assert_same(one, other)
    assert {"cam/attnlrp/entropy", "cam/cohort/accuracy", "cam/cohort/drift"} <= set(added)


def test_metrics_that_checkpoints_act_on(tmp_path):
    best = ModelCheckpoint(tmp_path / "best", monitor="cam/cohort/border_share", save_top_k=1)
    look = TransformerCAMCallback(cohort=8, log_metrics=True, on_error="raise")
    trainer(tmp_path, look, best, enable_checkpointing=True).fit(Lit(), *loaders())
    values = read_timeline(next(tmp_path.rglob("*.lcam"))).metrics["cam/cohort/border_share"]
    assert best.best_model_score.item() == pytest.approx(values.min(), abs=1e-5)


class Known(Callback):
    """What the trainer knows at the end of each validation, before other callbacks act on it."""

    def __init__(self):
        self.values = []

    def on_validation_end(self, trainer, pl_module):
        if not trainer.sanity_checking:
            self.values.append({tag: float(value) for tag, value in trainer.callback_metrics.items()})


def test_what_was_last_known_stays_where_no_look_is_paid_for(tmp_path, monkeypatch):
    known, paid = Known(), iter([True, False, False, True])
    monkeypatch.setattr(CohortLooker, "_is_paid_for", lambda *args: next(paid))
    looks = TransformerCAMCallback(cohort=8, log_metrics=True, on_error="raise")
    trainer(tmp_path, known, looks, max_epochs=4).fit(Lit(), *loaders())
    values = [known["cam/cohort/spread"] for known in known.values]
    assert values[0] == values[1] == values[2] != values[3]
    assert len({known["cam/attnlrp/entropy"] for known in known.values}) == 4
    recorded = read_timeline(tmp_path).metrics["cam/cohort/spread"]  # of the looks alone
    np.testing.assert_allclose(recorded, [values[0], np.nan, np.nan, values[3]], rtol=1e-5)


def test_what_was_last_known_is_there_in_a_run_that_is_resumed(tmp_path):
    """At its first validation there is no look."""

    def run(epochs, path=None):
        known, looks = Known(), TransformerCAMCallback(cohort=8, log_metrics=True, every_n_epochs=2, on_error="raise")
        saves = ModelCheckpoint(tmp_path, "last", save_top_k=1, enable_version_counter=False)
        fitted = trainer(tmp_path / str(epochs), known, looks, saves, max_epochs=epochs, enable_checkpointing=True)
        fitted.fit(Lit(), *loaders(), ckpt_path=path)
        return known.values

    (first,) = run(1)
    second, third = run(3, tmp_path / "last.ckpt")
    assert {"cam/cohort/spread", "cam/attnlrp/entropy"} <= first.keys()
    for tag in ("cam/cohort/spread", "cam/attnlrp/entropy"):
        assert second[tag] == first[tag] != third[tag]


def test_without_a_cohort_nothing_is_found(tmp_path):
    trainer(tmp_path, TransformerCAMCallback(cohort=None, on_error="raise")).fit(Lit(), *loaders())
    timeline = read_timeline(tmp_path)
    assert timeline.findings == [] and not any("cohort" in tag for tag in timeline.metrics)


def test_steps_are_watched_no_longer_than_the_probe_needs(tmp_path, monkeypatch):
    """What the network gets is read off the batch, where it was seen to stand there."""
    from lightning_cam.training import finder

    watched = []

    class Counted(finder.StepWatch):
        def begin(self, batch, *rest):
            watched.append(rest[0])
            super().begin(batch, *rest)

    monkeypatch.setattr(finder, "StepWatch", Counted)
    looks = TransformerCAMCallback(num_samples=4, cohort=24, on_error="raise")
    trainer(tmp_path, looks, num_sanity_val_steps=0).fit(Lit(), *loaders(4))
    assert read_timeline(tmp_path).metrics["cam/cohort/images"].tolist() == [24] * 3
    assert watched == [0] or max(watched) < 6 - 1


def test_images_that_the_step_changes_are_explained_as_the_network_gets_them(tmp_path):
    class Halved(Lit):
        def validation_step(self, batch, batch_idx):
            self.log("val_loss", nn.functional.cross_entropy(self.model(batch["image"] / 2), batch["label"]))

    lit, looks = Halved(), TransformerCAMCallback(cohort=24, on_error="raise")
    trainer(tmp_path, looks, max_epochs=1).fit(lit, *loaders())
    data = Blobs()
    with torch.no_grad():
        right = (lit.model.eval()(data.images / 2).argmax(1) == data.labels).float().mean()
    assert read_timeline(tmp_path).metrics["cam/cohort/accuracy"][-1] == pytest.approx(right.item())


def test_a_fault_ends_the_cohort_and_not_the_looks(tmp_path, monkeypatch):
    def fails(*args):
        raise RuntimeError("no room")

    monkeypatch.setattr(CohortLooker, "look", fails)
    with heard() as messages:
        trainer(tmp_path, TransformerCAMCallback(cohort=8)).fit(Lit(), *loaders())
    assert len(read_timeline(tmp_path).steps) == 3
    assert [message for message in messages if "no room" in message] == ["cam: findings are switched off: no room"]


@pytest.mark.parametrize(("images", "each", "count"), [(96, 2.0, 16), (480, 2.0, 32), (96, 0.05, 68)])
def test_no_validation_passes_by_which_a_tenth_of_the_time_is_overspent(tmp_path, monkeypatch, images, each, count):
    """By a clock that only work for the cohort moves: the first look and what is collected count too."""
    now, balance, validation = [0.0], [], images * 0.5

    class Clock:
        perf_counter = staticmethod(lambda: now[0])

    def slower(function, seconds):
        def timed(self, *args):
            now[0] += seconds(args)
            return function(self, *args)

        return timed

    monkeypatch.setattr(cohort, "time", Clock)
    monkeypatch.setattr(cohort_part, "time", Clock)
    monkeypatch.setattr(allowance, "time", Clock)
    monkeypatch.setattr(CohortPart, "_explain", slower(CohortPart._explain, lambda args: each * len(args[0])))
    monkeypatch.setattr(CohortLooker, "_cohort", slower(CohortLooker._cohort, lambda args: each))
    monkeypatch.setattr(CohortCollector, "add", slower(CohortCollector.add, lambda args: 0.01))
    looks = TransformerCAMCallback(on_error="raise", num_samples=4, report=False, timelapse=None)
    look = looks._session.look_at_cohort

    def known(trainer, module, seconds):
        look(trainer, module, validation)
        balance.append(0.1 * validation * (len(balance) + 1) - now[0])

    monkeypatch.setattr(looks._session, "look_at_cohort", known)
    few = {"limit_train_batches": 1, "num_sanity_val_steps": 0, "log_every_n_steps": 100}
    trainer(tmp_path, looks, max_epochs=16, **few).fit(Lit(), *loaders(validation=Blobs(images)))
    found = read_timeline(tmp_path)
    assert min(balance) >= 0 and np.nanmax(found.metrics["cam/cohort/images"]) == count
    tenth, trial = 0.1 * validation, 4 * validation / (images / 8)  # four batches' time is saved for the first trial
    left = 16 - np.ceil((trial + 0.01 * images / 8) / tenth)  # validations after it
    assert min(left, left * tenth / (1.4 * each * count)) - 1 <= len(found.findings)  # what is saved is used
    assert len(found.findings) <= min(16, 16 * tenth / (each * count))


def test_what_is_collected_is_spread_over_classes_and_known_by_its_place():
    collector, seen = CohortCollector(8), []
    for labels in ([0] * 6, [0, 0, 1, 1, 1, 1], [2, 2, 0, 0, 1, 2]):
        images = torch.arange(len(seen), len(seen) + 6).float()[:, None, None, None].expand(-1, 3, 4, 4)
        seen += labels
        collector.add(ProbeBatch(images, torch.tensor(labels)), labels)
    probe, keys, places = collector.found
    assert sorted(keys) == [0, 0, 0, 1, 1, 1, 2, 2]
    assert [seen[place] for place in places] == keys == probe.labels.tolist()
    assert probe.images[:, 0, 0, 0].tolist() == places
    assert sorted(np.array([0, 0, 0, 1, 2, 2])[balanced([0, 0, 0, 1, 2, 2], 4)]) == [0, 0, 1, 2]


def test_what_speaks_for_predictions_is_asked_of_the_rank_that_holds_the_image():
    looker = CohortLooker.__new__(CohortLooker)
    looker._sizes, looker._order = [3, 2], np.array([3, 0, 4, 1, 2])  # the first image is the second rank's first

    def ask(question, *, each):
        assert question == "explain_for"
        return [
            np.array([[[rank, row, label]] for row, label in wanted]) if wanted else None
            for rank, wanted in enumerate(each)
        ]

    found = looker._for_predictions(ask, np.array([4, 2, 0]), np.array([10, 11, 12, 13, 14]))
    assert found.tolist() == [[[0, 2, 14]], [[1, 1, 12]], [[1, 0, 10]]]
    assert looker._for_predictions(ask, np.array([1]), np.arange(5)).tolist() == [[[0, 0, 1]]]


def test_a_look_keeps_at_most_256_kilobytes(tmp_path):
    rng = np.random.default_rng(0)
    writer = TimelineWriter(tmp_path)
    path = writer.probe(np.zeros((2, 3, 32, 32), np.uint8))
    writer.append(1, 0, {"attnlrp": np.ones((2, 4, 4))})
    before = path.stat().st_size
    means = {label: rng.random((28, 28)) / 784 for label in range(1000)}
    maps, images = rng.random((1024, 28, 28)) / 784, np.arange(1024) * 3
    entries = [FoundEntry("shortcut", "x" * 1000, "confirmed", 1, [0], [3], {"share": 0.5}) for _ in range(40)]
    groups = [{"by": "class", "classes": [c], "images": 9, **dict.fromkeys(MEANS, 0.3)} for c in range(1000)]
    noise = {image: rng.integers(0, 256, (3, 64, 64), np.uint8) for image in range(100)}
    rows = [{**group, "regions": [0.1] * 9} for group in groups]
    writer.add_findings(Found(1, entries, means, images, maps, rows, noise))
    assert path.stat().st_size - before <= 256 * 2**10
    (found,) = read_timeline(path).findings
    for label, mean in found.class_means.items():
        np.testing.assert_allclose(mean, means[label], atol=means[label].max() / 255)
    for image, kept in zip(found.images, found.maps, strict=True):
        np.testing.assert_allclose(kept, maps[image // 3], atol=maps[image // 3].max() / 255)
    assert len(found.findings) == 40 and found.findings[0].numbers == {"share": 0.5}
    assert found.statistics == rows[: len(found.statistics)] and len(found.statistics) == 96
    assert len(found.pictures) >= 8 and {picture.shape for picture in found.pictures.values()} == {(3, 64, 64)}


def test_a_record_keeps_pictures_once_and_maps_of_all_at_fewer_and_fewer_looks(run):
    folder, _, _ = run
    found = read_timeline(folder).findings
    named = [{image for finding in one.findings for image in finding.images} for one in found]
    assert [len(one.images) > len(names) for one, names in zip(found, named, strict=True)] == [
        True,
        True,
        False,
        True,
        False,
    ]
    assert set().union(*named) == set().union(*(one.pictures for one in found)) and named[-1]
    assert sum(len(one.pictures) for one in found) == len(set().union(*named))
    images, _ = marked(60, 1).tensors
    for image, picture in [pair for one in found for pair in one.pictures.items()]:
        assert set(named[-1]) <= set(found[-1].images)
        shown = np.corrcoef(picture.mean(0).ravel(), images[image].mean(0).numpy().ravel())[0, 1]
        assert shown > 0.8, image  # WebP keeps little of the colors of noise


def test_any_logger_gets_it(tmp_path):
    trainer(tmp_path, TransformerCAMCallback(cohort=8, on_error="raise"), logger=CSVLogger(tmp_path)).fit(
        Lit(), *loaders()
    )
    assert next(tmp_path.rglob("cam/findings.md")).read_text().startswith("Step 8\n\n- ")
    assert len(list(tmp_path.rglob("cam/class_means/*.jpg"))) == 3
    assert "cam/cohort/border_share" in next(tmp_path.rglob("cam/metrics.csv")).read_text()


@pytest.mark.parametrize("cohort", [0, -1, "all", 1.5, True])
def test_arguments(cohort):
    with pytest.raises(ValueError, match="cohort: expected 'auto', None or at least 1"):
        TransformerCAMCallback(cohort=cohort)


def test_maps_without_evidence_are_a_picture_too(tmp_path):
    class Dead(Lit):
        def __init__(self):
            super().__init__()
            nn.init.zeros_(self.model.head.weight)
            self.model.head.requires_grad_(False)

    looks = TransformerCAMCallback(methods="hirescam", cohort=8, on_error="raise", target_layers="model.blocks.1.norm1")
    trainer(tmp_path, looks, max_epochs=1).fit(Dead(), *loaders())
    assert read_timeline(tmp_path).metrics["cam/cohort/without_evidence"].tolist() == [1]
    assert read_timeline(tmp_path).findings[0].class_means == {}
