"""Random words on the command line and in a file of options: the status is 0, 1 or 2, and what is said is one line.

For more than the few seconds of a test: `FUZZ_SECONDS=300 python -m pytest tests/test_cli_fuzz.py --timeout 0`.
"""

import os
import random
import time
from functools import wraps

import pytest

from lightning_cam import cli
from lightning_cam.cli import main
from lightning_cam.printable import printable

SECONDS = float(os.environ.get("FUZZ_SECONDS", "4"))
SEED = int(os.environ.get("FUZZ_SEED", "0"))

COMMANDS = {
    "explain": ["--path", "x", "--model", "y"],
    "replay": ["--checkpoints", "x", "--module", "y"],
    "layers": ["y"],
    "methods": [],
    "board": ["x"],
    "report": ["x"],
}
OPTIONS = [
    *sorted(f"--{name}" for name in cli._OPTIONS),
    *sorted(f"--{name.replace('_', '-')}" for name in cli._OPTIONS),
    *("--config", "--help", "-h", "--version", "--shell", "--no-aug-smooth", "--no-config", "--empty-method"),
    *("--model-args.a", "--model-args.a.b", "--model-args.", "--model_args.a.", "--", "-", "---", "--=", "--=x", "-x"),
]
VALUES = [
    *("", "0", "-1", "1e9", "1e400", "nan", "-inf", "9" * 400, "1" * 5000, "0x", "0b", "1_000", "2001-13-01"),
    *("x", "a,b", "[a, b]", "[", "]", "{", "{a: 1}", "[1,[2]]", "['a", '"', "[[[[" * 400, "{a: " * 300, "- a"),
    *("null", "true", "~", "&a [*a]", "*a", "<<: 1", "? [1]", "!!python/object:os.system x", "!!int x", "!!binary x"),
    *("!!timestamp x", "!!bool x", "!!set {a}", "a: b: c", "\0", "\n", "\udce9", "\u202e", "é", "🤖", "\x1b[31m"),
    *("%s", "%", "{}", "{0}", "[bold]", "[/bold]", "[link=x]", "..", "/", "~nouser", "a=b", "=", "all", "explain"),
]
CONTENTS = [
    *(b"", b"a", b"- a", b"1", b"{}", b"\xff", b"\0", b"\t", b"[", b"a: {", b"a: 1\na: 2\n", b"[" * 3000),
    *(b"a: &x [1]\nb: *x", b"? [1]\n: 2", b"? 1\n: 2", b"2001-01-01: x", b"%YAML 9", b"--- a\n--- b"),
    *(b"a: !!python/object/apply:os.system [x]", b"model: [1, 2]", b"x" * (2**20 + 1)),
]
ENTRIES = [
    *("1", "null", "true", "[]", "[1, 2]", "{a: 1}", "{}", "{1: 2}", "{2001-01-01: 1}", "2001-01-01", "!!binary aGk="),
    *("!!set {a}", "!!omap [a: 1]", "1e400", ".nan", "-.inf", "''", r'"\0"', r'"\ud800"', "[[1]]", "[{a: 1}]", "1:30"),
    *("{a: {b: {c: 1}}}", "{'': 1}", "{a.b: 1}", "9" * 400, "'" + "x" * 5000 + "'", "[null]", "{null: 1}", "{a: null}"),
    *("{true: 1}", "{[1]: 2}", "{{a: 1}: 2}", "*a", "0x10", "2001-01-01 10:00:00"),
]


def word(rng):
    kind = rng.random()
    if kind < 0.5:
        return rng.choice(OPTIONS)
    if kind < 0.85:
        return rng.choice(VALUES)
    if kind < 0.95:
        return rng.choice(OPTIONS) + rng.choice("=.") + rng.choice(VALUES)
    return "".join(chr(rng.randrange(rng.choice([128, 0x300, 0x110000]))) for _ in range(rng.randrange(8)))


def options_file(rng):
    if rng.random() < 0.2:
        return rng.choice(CONTENTS)
    lines = (f"{rng.choice(OPTIONS)[2:] or 'x'}: {rng.choice(ENTRIES)}\n" for _ in range(rng.randrange(1, 5)))
    content = bytearray("".join(lines).encode())
    if rng.random() < 0.3:
        for _ in range(3):
            content[rng.randrange(len(content))] = rng.randrange(256)
    return bytes(content)


@pytest.mark.timeout(SECONDS + 60)
def test_any_words_end_in_a_status_and_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name, function in cli._COMMANDS.items():  # read as typed, but nothing is done
        monkeypatch.setitem(cli._COMMANDS, name, wraps(function)(lambda *args, **options: None))
    rng, statuses = random.Random(SEED), dict.fromkeys((0, 2), 0)
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        name = rng.choice(list(COMMANDS))
        args = [name, *(COMMANDS[name] if rng.random() < 0.7 else [])] if rng.random() < 0.9 else []
        args += [word(rng) for _ in range(rng.randrange(5))]
        if rng.random() < 0.4:
            (tmp_path / "x.yaml").write_bytes(content := options_file(rng))
            args += ["--config", "x.yaml"]
        else:
            content = None
        try:
            main(list(args))
            status = 0
        except SystemExit as ended:
            status = ended.code
        err = capsys.readouterr().err
        assert status in statuses, (status, args, content)
        assert err.count("\n") == (status != 0) and err.startswith("lightning-cam: " * (status != 0)), (args, content)
        assert printable(err.removesuffix("\n")) == err.removesuffix("\n"), (args, content)
        statuses[status] += 1
    assert all(statuses.values())
