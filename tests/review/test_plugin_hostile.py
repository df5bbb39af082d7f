"""What the server hands out, asked through a real TensorBoard: records, to its own page, in bounded pieces."""

from __future__ import annotations

import http.client
import json
import os
import socket
import time
from urllib.parse import urlencode, urlsplit

import pytest

from lightning_cam.tensorboard_plugin import records
from tests.review.conftest import tensorboard
from tests.review.records import Run
from tests.review.test_plugin import client_of, listed

BASE = "/data/plugin/cam_timeline"
PIECE = 4 * 2**20


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """A TensorBoard on a log directory with one record, and with much that is none."""
    folder = tmp_path_factory.mktemp("hostile")
    logdir, outside = folder / "logs", folder / "logs-of-others"
    run = Run(logdir / "run").looks(3)
    Run(outside / "theirs").looks(1)
    (folder / "secret.key").write_bytes(b"-----BEGIN PRIVATE KEY-----\n")
    (logdir / "run" / "key.lcam").symlink_to(folder / "secret.key")
    (logdir / "run" / "record.lcam").symlink_to(outside / "theirs" / "cam.lcam")
    (logdir / "run" / "nothing.lcam").symlink_to(folder / "nothing")
    (logdir / "linked").symlink_to(outside, target_is_directory=True)
    (logdir / "run" / "notes.lcam").write_text("no record at all")
    os.link(folder / "secret.key", logdir / "run" / "hard.lcam")
    (logdir / "run" / "folder.lcam").mkdir()
    (logdir / "run" / "null.lcam").symlink_to("/dev/zero")
    os.mkfifo(logdir / "run" / "pipe.lcam")
    with socket.socket(socket.AF_UNIX) as bound:
        here = os.getcwd()
        os.chdir(logdir / "run")  # the path of a socket is short
        bound.bind("socket.lcam")
        os.chdir(here)
    with tensorboard(logdir) as address:
        yield address, run


def get(address, path, method="GET", **headers):
    parts = urlsplit(address)
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=20)
    connection.request(method, BASE + path, headers={name.replace("_", "-"): value for name, value in headers.items()})
    answer = connection.getresponse()
    return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()


def record_of(address, key, **parameters):
    return get(address, f"/record?{urlencode({'id': key, **parameters})}")


def test_only_records_in_the_log_directory_are_listed_and_served(hostile):
    address, run = hostile
    status, _, body = get(address, "/timelines")
    content = json.loads(body)
    assert status == 200 and [entry["id"] for entry in content["timelines"]] == ["run/cam.lcam"]
    assert record_of(address, "run/cam.lcam")[::2] == (200, run.path.read_bytes())
    others = ("key", "record", "nothing", "notes", "hard", "folder", "null", "pipe", "socket")
    for key in (*(f"run/{name}.lcam" for name in others), "linked/theirs/cam.lcam"):
        assert record_of(address, key)[0] == 404, key
    outside, unreadable = content["notes"]
    assert outside == (
        "Skipped, because they link outside the log directory: linked, run/key.lcam, run/nothing.lcam and 2 more."
    )
    assert unreadable.startswith("Skipped, because they are not readable CAM timelines: run/hard.lcam")


TRAVERSALS = (
    "../secret.key",
    "run/../../secret.key",
    "/etc/passwd",
    "run/%2e%2e/%2e%2e/secret.key",
    "..%2fsecret.key",
    "run/cam.lcam/../../../secret.key",
    "file:///etc/passwd",
    "run\\..\\..\\secret.key",
    "run/cam.lcam\0",
    "x" * 50_000,
)


@pytest.mark.parametrize("key", TRAVERSALS, ids=lambda key: key[:20].encode("unicode_escape").decode())
def test_no_way_leads_out_of_the_log_directory(hostile, key):
    address, _ = hostile
    assert record_of(address, key)[0] == 404
    if len(key) < 100 and "\0" not in key:
        assert get(address, f"/record?id={key}")[0] == 404
        assert get(address, f"/static/{key}")[0] == 404


@pytest.mark.parametrize(
    "parameters",
    ["from=-1", "from=abc", "from=", "from=1e3", "from=9223372036854775808", f"from={'9' * 5000}", "from=0&from=5",
     "from=%D9%A3", "from=%00", "from=1.0", "from=+1", "limit=0", "limit=-1", "limit=all", "limit=1&limit=2"],
)  # fmt: skip
def test_a_parameter_that_cannot_be_is_answered_with_what_is_expected(hostile, parameters):
    status, headers, body = get(hostile[0], f"/record?id=run/cam.lcam&{parameters}")
    assert status == 400 and headers["content-type"].startswith("text/plain")
    assert f"{parameters[:5].rstrip('=')}: expected one number of bytes" in body.decode()


def test_a_place_behind_the_end_has_no_bytes(hostile):
    assert record_of(hostile[0], "run/cam.lcam", **{"from": 10**17})[::2] == (200, b"")


def test_large_records_come_in_pieces(hostile):
    address, run = hostile
    path = run.path.with_name("large.lcam")
    path.write_bytes(b"LCAM" + bytes(range(256)) * 4 * 2**12)
    with path.open("r+b") as file:
        file.truncate(2**40)  # sparse
    time.sleep(2.5)  # until it is found
    try:
        status, _, first = record_of(address, "run/large.lcam", limit=2**40)
        assert status == 200 and len(first) == PIECE
        assert len(record_of(address, "run/large.lcam")[2]) == PIECE
        assert record_of(address, "run/large.lcam", **{"from": 3, "limit": 4})[2] == b"M\x00\x01\x02"
    finally:
        path.unlink()
    assert record_of(address, "run/large.lcam")[0] == 404


PATHS = ("/timelines", "/record?id=run/cam.lcam", "/record?id=x", "/record?id=x&from=x", "/static/main.js", "/static/x")


@pytest.mark.parametrize("path", PATHS)
def test_every_answer_says_what_browsers_may_do_with_it(hostile, path):
    for method in ("GET", "HEAD", "POST"):
        _, headers, body = get(hostile[0], path, method)
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["content-security-policy"].startswith("default-src 'none'")
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert not [name for name in headers if name.startswith("access-control")]
        assert method != "HEAD" or body == b""


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost:1"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},  # another port of this machine
        {"Origin": "http://[", "Sec_Fetch_Site": "same-origin"},
    ],
    ids=str,
)
@pytest.mark.parametrize("path", PATHS[:2] + PATHS[4:5])
def test_pages_of_other_origins_get_no_answer(hostile, path, headers):
    status, _, body = get(hostile[0], path, **headers)
    assert (status, body) == (403, b"requests from other origins are refused")


def test_its_own_page_and_people_get_an_answer(hostile):
    address, _ = hostile
    own = f"http://{urlsplit(address).netloc}"
    for headers in ({}, {"Origin": own, "Sec_Fetch_Site": "same-origin"}, {"Sec_Fetch_Site": "none"}, {"Origin": own}):
        assert get(address, "/timelines", **headers)[0] == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
def test_nothing_can_be_written(hostile, method):
    assert get(hostile[0], "/record?id=run/cam.lcam", method)[0] == 405


def test_links_within_the_log_directory_are_followed(tmp_path):
    Run(tmp_path / "logs" / "b").look(0, 0.5)
    (tmp_path / "logs" / "a").symlink_to(tmp_path / "logs" / "b", target_is_directory=True)
    (tmp_path / "logs" / "newest.lcam").symlink_to("b/cam.lcam")
    (tmp_path / "link").symlink_to(tmp_path / "logs", target_is_directory=True)
    for logdir in ("logs", "link"):  # the log directory may itself be a link
        _, routes = client_of(tmp_path / logdir)
        assert [entry["id"] for entry in listed(routes)] == ["b/cam.lcam", "newest.lcam"]


def test_a_link_from_one_log_directory_to_another_is_followed(tmp_path):
    Run(tmp_path / "b").look(0, 0.5)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").symlink_to(tmp_path / "b", target_is_directory=True)
    _, routes = client_of(spec=f"x:{tmp_path / 'a'},y:{tmp_path / 'b'}")
    assert [entry["run"] for entry in listed(routes)] == ["x/b"]


def test_a_record_that_became_a_link_is_no_longer_served(tmp_path):
    (tmp_path / "secret").write_bytes(b"LCAM of somebody else")
    run = Run(tmp_path / "logs")
    run.look(0, 0.5)
    plugin, routes = client_of(tmp_path / "logs")
    assert plugin.is_active()
    run.path.unlink()
    run.path.symlink_to(tmp_path / "secret")
    assert routes["/record"].get("/record?id=cam.lcam").status_code == 404
    assert listed(routes) == []


def test_names_that_are_not_utf8_have_a_text_that_can_be_asked_for(tmp_path):
    folder = os.fsdecode(os.fsencode(tmp_path) + b"/r\xffn\n1")
    Run(tmp_path / folder).look(0, 0.5)
    _, routes = client_of(tmp_path)
    (entry,) = listed(routes)
    assert entry["id"] == "r\\xffn\n1/cam.lcam"
    answer = routes["/record"].get("/record", query_string={"id": entry["id"].encode().decode()})
    assert len(answer.data) == entry["bytes"]


@pytest.mark.parametrize("limit", ["_MOST_FOLDERS", "_MOST_RECORDS", "_MOST_SECONDS"])
def test_the_walk_ends_and_says_so_once(tmp_path, monkeypatch, caplog, limit):
    for n in range(5):
        Run(tmp_path / f"{n}").look(0, 0.5)
    monkeypatch.setattr(records, limit, 0 if limit == "_MOST_SECONDS" else 3)
    plugin, routes = client_of(tmp_path)
    for _ in range(2):
        assert len(listed(routes)) < 5
        assert "too large to search" in json.loads(routes["/timelines"].get("/timelines").data)["notes"][0]
        plugin._finder._fresh_until = 0
    assert len([record for record in caplog.records if "too large" in record.message]) == 1


def test_a_name_with_a_new_line_begins_none_in_the_log(tmp_path, caplog):
    (tmp_path / "x\nWARNING: forged.lcam").write_text("no record")
    client_of(tmp_path)[0].is_active()
    assert "x�WARNING: forged.lcam" in caplog.text
