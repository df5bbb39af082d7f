"""The examples of other libraries run as they are, and the callback explains what they predict."""

import runpy
from pathlib import Path

import numpy as np
import pytest

from lightning_cam import read_timeline


@pytest.mark.parametrize("name", ["huggingface", "lightly_probe", "monai_vit"])
def test_the_example_runs_and_is_explained(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    runpy.run_module(f"examples.{name}", run_name="__main__")
    timeline = read_timeline(tmp_path / "example_logs")
    assert timeline.maps["attnlrp"].shape == timeline.maps["hirescam"].shape == (3, 16, 8, 8)
    assert np.isfinite(timeline.maps["attnlrp"]).all()
    assert (timeline.class_idx == timeline.labels).all()  # the label is explained
    assert timeline.class_names == ["apple", "tomato", "lemon", "pear", "banana"]
    assert len(timeline.findings) == 2  # a look at the cohort at each epoch
