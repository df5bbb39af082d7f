"""The server's side of the tab: what it finds and serves, and that it never stands in TensorBoard's way."""

from __future__ import annotations

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
from tensorboard.plugins.base_plugin import TBContext
from werkzeug.test import Client

from lightning_cam.tensorboard_plugin.loader import CamTimelineLoader
from tests.review.records import Run


def client_of(logdir="", spec=""):
    plugin = CamTimelineLoader().load(TBContext(logdir=str(logdir), flags=SimpleNamespace(logdir_spec=spec)))
    apps = plugin.get_plugin_apps()
    routes = {route: Client(app) for route, app in apps.items()}
    return plugin, routes


def listed(routes):
    return json.loads(routes["/timelines"].get("/timelines").data)["timelines"]


def test_lists_each_record_with_its_run(tmp_path):
    Run(tmp_path / "b" / "version_0").look(0, 0.5)
    Run(tmp_path / "a").look(0, 0.5)
    Run(tmp_path / "a", name="val/second").look(0, 0.5)
    plugin, routes = client_of(tmp_path)
    assert plugin.is_active()
    assert [(entry["run"], entry["file"]) for entry in listed(routes)] == [
        ("a", "cam"),
        ("a", "val_second"),
        ("b/version_0", "cam"),
    ]


def test_hands_out_the_bytes_from_a_place_on(tmp_path):
    run = Run(tmp_path)
    run.look(0, 0.5)
    _, routes = client_of(tmp_path)
    (entry,) = listed(routes)
    assert entry["run"] == "." and entry["bytes"] == run.path.stat().st_size
    before = routes["/record"].get("/record", query_string={"id": entry["id"]}).data
    assert before == run.path.read_bytes()
    run.look(10, 0.6)
    after = routes["/record"].get("/record", query_string={"id": entry["id"], "from": len(before)}).data
    assert before + after == run.path.read_bytes()


def test_says_which_records_hold_no_look(tmp_path):
    run = Run(tmp_path / "a")
    whole = run.path.read_bytes()
    for n, written in enumerate((b"", whole[:20], whole[:-1])):  # a writer is at it
        (tmp_path / f"{n}.lcam").write_bytes(written)
    _, routes = client_of(tmp_path)
    assert [entry["empty"] for entry in listed(routes)] == [True] * 4
    run.look(0, 0.5)
    assert [entry["empty"] for entry in listed(routes)] == [True, True, True, False]


def test_serves_records_only(tmp_path):
    (tmp_path / "secret.txt").write_text("secret")
    run = tmp_path / "logs"
    Run(run)
    _, routes = client_of(run)
    for attempt in ("../secret.txt", "secret.txt", str(tmp_path / "secret.txt"), ""):
        assert routes["/record"].get("/record", query_string={"id": attempt}).status_code == 404
    for attempt in ("/static/../plugin.py", "/static/%2e%2e/plugin.py", "/static/plugin.py"):
        assert routes["/static/*"].get(attempt).status_code == 404
    page = routes["/static/*"].get("/static/main.js")
    assert page.status_code == 200 and page.content_type.startswith("text/javascript")


def test_inactive_without_records_and_without_a_directory(tmp_path):
    plugin, routes = client_of(tmp_path / "nowhere")
    assert not plugin.is_active() and listed(routes) == []
    plugin, _ = client_of()
    assert not plugin.is_active()


def test_logdir_spec_names_the_runs(tmp_path):
    Run(tmp_path / "x" / "v0")
    Run(tmp_path / "y")
    _, routes = client_of(spec=f"first:{tmp_path / 'x'},{tmp_path / 'y'}")
    assert sorted(entry["run"] for entry in listed(routes)) == [".", "first/v0"]


def test_a_circle_of_links_ends(tmp_path):
    Run(tmp_path / "a")
    (tmp_path / "a" / "again").symlink_to(tmp_path, target_is_directory=True)
    _, routes = client_of(tmp_path)
    assert [entry["run"] for entry in listed(routes)] == ["a"]


def test_an_error_is_answered_with_its_message(tmp_path, monkeypatch):
    plugin, routes = client_of(tmp_path)
    monkeypatch.setattr(plugin._finder, "paths", lambda: 1 / 0)
    answer = routes["/timelines"].get("/timelines")
    assert answer.status_code == 500 and b"ZeroDivisionError" in answer.data


def test_a_plugin_that_cannot_be_loaded_is_left_out_with_one_line(monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "lightning_cam.tensorboard_plugin.plugin", None)
    assert CamTimelineLoader().load(TBContext(logdir="x")) is None
    assert [record.message for record in caplog.records if "not available" in record.message] != []


@pytest.mark.parametrize("module", ["loader", "plugin"])
def test_importing_the_plugin_imports_neither_torch_nor_lightning(module):
    code = f"""
import sys, lightning_cam.tensorboard_plugin.{module}
unwanted = {{"torch", "lightning", "PIL", "tensorflow"}} & set(sys.modules)
assert not unwanted, unwanted
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_format_is_the_one_that_the_writer_uses():
    from lightning_cam.tensorboard_plugin import plugin, records
    from lightning_cam.timeline import format as file_format

    assert records.SUFFIX == file_format.SUFFIX and records.MAGIC == file_format.MAGIC
    assert file_format.FILE_HEADER.size == plugin._FILE_HEADER_BYTES
    assert file_format.RECORD_HEADER.size == plugin._RECORD_HEADER.size
