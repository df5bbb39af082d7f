"""`lightning-cam findings`, and the findings of a replay."""

import json

import numpy as np
import pytest

from lightning_cam.timeline import TimelineWriter
from lightning_cam.timeline.found import Found, FoundEntry
from tests.test_cli_explain import run

MEANS = {"border": 0.5, "center": 0.25, "spread": 0.9, "inside": None, "agreement": 0.5}
ROW = {"by": "class", "classes": [3], "images": 8, **MEANS, "inside": np.nan, "regions": [1 / 9] * 9}


def write(folder, name="cam", steps=(1, 2)):
    writer = TimelineWriter(folder, name)
    writer.probe(np.zeros((2, 3, 32, 32), np.uint8))
    for step in steps:
        writer.append(step, 0, {"attnlrp": np.ones((2, 4, 4))})
        text = f"Class \x1b[31m: a mark at step {step}."
        finding = FoundEntry("shortcut", text, "confirmed", step, [3], [5], {"share": 0.5})
        writer.add_findings(Found(step, [finding], statistics=[ROW]))
    writer.close()


def test_the_newest_findings_are_printed(tmp_path, capsys):
    write(tmp_path / "a")
    write(tmp_path / "b")
    assert run("findings", tmp_path) == 0
    assert capsys.readouterr().out.splitlines() == [
        "a/cam.lcam, step 2:",
        "  - Class \\x1b[31m: a mark at step 2.",
        "b/cam.lcam, step 2:",
        "  - Class \\x1b[31m: a mark at step 2.",
    ]


def test_all_looks_as_json(tmp_path, capsys):
    write(tmp_path)
    assert run("findings", tmp_path, "--json") == 0
    (record,) = json.loads(capsys.readouterr().out)
    assert record["record"] == "cam.lcam" and [look["step"] for look in record["looks"]] == [1, 2]
    assert record["looks"][1]["findings"] == [
        {
            "kind": "shortcut",
            "text": "Class \x1b[31m: a mark at step 2.",
            "status": "confirmed",
            "since": 2,
            "classes": [3],
            "images": [5],
            "numbers": {"share": 0.5},
        }
    ]
    assert record["looks"][1]["statistics"] == [
        {"by": "class", "classes": [3], "images": 8, **MEANS, "regions": [0.1111] * 9}
    ]


@pytest.mark.parametrize(("steps", "status", "words"), [((), 1, "no findings"), (None, 2, "no CAM timeline")])
def test_where_there_are_none(tmp_path, capsys, steps, status, words):
    if steps is not None:
        write(tmp_path, steps=steps)
    assert run("findings", tmp_path) == status
    assert words in capsys.readouterr().err
