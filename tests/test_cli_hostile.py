"""`lightning-cam explain` on folders whose files, names and sizes are not as they should be."""

import json
import os
import re
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageFont

from lightning_cam.cli.explainer import Explainer
from lightning_cam.cli.images import find_images
from lightning_cam.cli.pictures import _resized, contact_sheet, draw_overlay
from lightning_cam.cli.preprocessing import Preprocessing
from lightning_cam.cli.results import Results
from lightning_cam.printable import printable
from lightning_cam.render import caption
from tests.drawn import forget_fonts
from tests.hostile import NAMES, one_color, png, write_bad_files, write_no_files, write_odd_images
from tests.test_cli_explain import run

MODEL = ["--model", "tests.models:class_token_vit", "--image-size", "32", "--mean", "0.5", "--std", "0.5"]
PLAIN = [*MODEL, "--method", "hirescam", "--device", "cpu", "--modelname", "m"]
SHOWN = {"image.jpg", "hirescam.jpg", "contact.jpg"}


def explain(folder, out, *more, workers=0):
    return run("explain", "--path", folder, *PLAIN, "--output", out, "--workers", workers, *more)


def results_of(out):
    return json.loads((out / "m" / "results.json").read_text(), parse_constant=pytest.fail)


def pictures_in(out):
    """Every picture that was written, below the folder of the run."""
    found = {}
    for folder, _, files in os.walk(out):
        if folder != str(out / "m"):
            found[os.path.relpath(folder, out / "m")] = set(files)
    return {folder: files for folder, files in found.items() if files}


def test_names_of_any_kind(tmp_path, capsys):
    for name in NAMES:
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(png())
    (tmp_path / "in" / "bad\n\x1b[31m\udce9.png").write_bytes(b"x")
    assert explain(tmp_path / "in", tmp_path / "out") == 1
    assert [image["file"] for image in results_of(tmp_path / "out")["images"]] == sorted(NAMES)
    written = pictures_in(tmp_path / "out")
    assert len(written) == len(NAMES) and all(files == SHOWN for files in written.values())
    assert set(os.listdir(tmp_path)) == {"in", "out"} and os.listdir(tmp_path / "out") == ["m"]
    err = capsys.readouterr().err.splitlines()
    assert err[-2].startswith(r"bad\n\x1b[31m\udce9.png: UnidentifiedImageError: ")
    assert err[-1] == f"lightning-cam: 1 of {len(NAMES) + 1} images failed, see above"
    assert explain(tmp_path / "in", tmp_path / "out") == 1  # gone on with: all names are found again
    assert f"{len(NAMES)} of them in an earlier run" in capsys.readouterr().out


@pytest.mark.timeout(120)
def test_bad_files_are_named_and_the_rest_is_explained(tmp_path, capfd):
    (tmp_path / "in").mkdir()
    bad, odd = write_bad_files(tmp_path / "in"), write_odd_images(tmp_path / "in")
    write_no_files(tmp_path / "in")
    assert explain(tmp_path / "in", tmp_path / "out", "--resize", "40", workers=1) == 1
    results = results_of(tmp_path / "out")
    assert [image["file"] for image in results["images"]] == odd
    assert [error["file"] for error in results["errors"]] == bad
    assert dict(pictures_in(tmp_path / "out")) == dict.fromkeys(odd, SHOWN)
    err = [line for line in capfd.readouterr().err.splitlines() if "weights of" not in line and "image/s" not in line]
    assert len(err) == len(bad) + 1  # no warning of Pillow's in between


def test_a_path_that_is_not_utf8(tmp_path):
    folder = tmp_path / "caf\udce9\n"
    folder.mkdir()
    (folder / "a.png").write_bytes(png())
    words = ["explain", *PLAIN, "--workers", "0"]
    code = f"import sys; from lightning_cam.cli import main; main({words!r} + sys.argv[1:])"
    args = ["--path", folder / "a.png", "--output", folder / "out"]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].endswith(rb"/caf\udce9\n/out/m/index.html")


def test_peak_memory_with_one_worker(tmp_path):
    (tmp_path / "in").mkdir()
    write_bad_files(tmp_path / "in")
    (tmp_path / "in" / "a.png").write_bytes(one_color(5000, 5000))
    code = (
        "import resource, sys; from lightning_cam.cli import main\n"
        f"try: main(['explain', *{PLAIN!r}, '--workers', '1', *sys.argv[1:]])\n"
        "except SystemExit: pass\n"
        # The ru_maxrss of a process counts what the one held that began it: here, all tests so far.
        "own = next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM'))\n"
        "print(own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    args = ["--path", tmp_path / "in", "--output", tmp_path / "out"]
    done = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, check=True)
    assert len(results_of(tmp_path / "out")["images"]) == 1
    assert sum(map(int, done.stdout.split()[-2:])) < 2 << 20  # KiB


def test_overlays_have_at_most_8192_pixels_a_side(tmp_path):
    (tmp_path / "a.png").write_bytes(one_color(20000, 3))
    assert explain(tmp_path / "a.png", tmp_path / "out") == 0
    with Image.open(tmp_path / "out" / "m" / "a.png" / "hirescam.jpg") as picture:
        assert picture.size == (8192, 1)


@pytest.mark.parametrize("evidence", [True, False])
def test_a_large_picture_is_drawn_as_small_ones_are(monkeypatch, evidence):
    image = Image.effect_noise((70, 90), 50).convert("RGB")
    heat = torch.rand(4, 5, generator=torch.Generator().manual_seed(0))
    whole = draw_overlay(image, heat, (5, 10, 65, 80), evidence)
    monkeypatch.setattr("lightning_cam.cli.pictures._STRIP", 200)
    assert np.array_equal(np.asarray(draw_overlay(image, heat, (5, 10, 65, 80), evidence)), np.asarray(whole))


@pytest.mark.parametrize("size", [(1, 1), (7, 5), (40, 30), (3, 100)])
def test_rows_of_heat_are_those_of_all_of_it(size):
    heat = torch.rand(14, 9, generator=torch.Generator().manual_seed(0))
    height, width = size
    expected = F.interpolate(heat[None, None], size=size, mode="bilinear")[0, 0]
    columns = _resized(heat.T, width, range(width)).T
    rows = [_resized(columns, height, range(start, min(start + 3, height))) for start in range(0, height, 3)]
    torch.testing.assert_close(torch.cat(rows), expected)


def test_no_evidence_in_a_large_picture_is_written_large():
    drawn = np.asarray(draw_overlay(Image.new("RGB", (4096, 3000)), torch.zeros(1, 1), (0, 0, 4096, 3000), False))
    words = (drawn > 200).any((1, 2)).nonzero()[0]
    assert 20 < np.ptp(words) < 100 and abs(words.mean() - 1500) < 20


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (1, 5000), (5000, 1), (3, 2)])
@pytest.mark.parametrize("prepare", [Preprocessing((32, 32), 400), Preprocessing((32, 32), 40), Preprocessing((9, 32))])
def test_the_part_that_is_seen_has_a_pixel(size, prepare):
    left, top, right, bottom = prepare.seen(size)
    assert left < right and top < bottom
    image = Image.new("RGB", size[::-1])
    assert prepare(image).isfinite().all()
    assert draw_overlay(image, torch.ones(2, 2), (left, top, right, bottom), True).size == image.size


def test_of_a_very_thin_picture_only_the_middle_is_resized():
    image = Image.new("L", (100_000, 2), 255)
    image.paste(0, (49_999, 0, 50_001, 2))
    pixels = Preprocessing((8, 64), 8, (0.0,), (1.0,), "bilinear")(image)
    assert pixels.shape == (1, 8, 64) and pixels[0, 0, 0] == 1 and pixels[0, 0, 32] < 0.2
    assert pixels[0, 0].tolist() == pytest.approx(pixels[0, 0].flip(0).tolist())


@pytest.mark.parametrize("pattern", ["**/*.png", "**", "*/*.png", "*.png"])
@pytest.mark.timeout(60)
def test_patterns_do_not_follow_links_in_circles(tmp_path, pattern):
    (tmp_path / "sub").mkdir()
    for name in ("a.png", "sub/b.png"):
        (tmp_path / name).write_bytes(png())
    write_no_files(tmp_path)
    (tmp_path / "sub" / "up").symlink_to(tmp_path)
    files = {file.relative_to(tmp_path).as_posix() for file in find_images(f"{tmp_path}/{pattern}")[1]}
    expected = {"*.png": {"a.png"}, "**": {"a.png", "sub/b.png"}, "**/*.png": {"a.png", "sub/b.png"}}
    if pattern == "*/*.png":
        assert "sub/b.png" in files  # links are followed where the pattern names a folder
    else:
        assert files == expected[pattern]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--path", "{folder}/*/../a.png"], "--path: expected no '..' after a wildcard"),
        (["--path", "{folder}/pipe.png"], "--path: no image"),
        (["--path", "/dev/zero"], "--path: no image"),
        (["--path", "{folder}", "--modelname", "../x"], "--modelname: expected the name of a folder in --output"),
        (["--path", "{folder}", "--modelname", ".."], "--modelname: expected the name of a folder in --output"),
        (["--path", "{folder}", "--resize", "1000000"], "--resize: expected 1 to 16384 pixels, got '1000000'"),
        (["--path", "{folder}", "--image-size", "0"], "--image-size: expected 1 to 16384 pixels, got '32 0'"),
        (["--path", "{folder}", "--mean", "nan"], "--mean: expected finite numbers, got '0.5 nan'"),
        (["--path", "{folder}", "--mean", "[0,0]", "--std", "[1,0]"], "--std: expected numbers above 0, got [0.5, 1.0"),
        (["--path", "{folder}", "--class-names", "x" * 300], "--class-names: there is no file 'xxx"),
        (["--path", "{folder}", "--class-names", "{folder}/a.png"], "a.png' is not UTF-8 text"),
        (["--path", "{folder}", "--method", "../x"], "--method: "),
    ],
)
@pytest.mark.timeout(60)
def test_what_leads_out_of_bounds_is_refused(tmp_path, capsys, options, message):
    (tmp_path / "a.png").write_bytes(png())
    os.mkfifo(tmp_path / "pipe.png")
    args = [option.format(folder=tmp_path) for option in options]
    assert run("explain", *PLAIN, "--output", tmp_path / "out", "--workers", "0", *args) == 2
    err = capsys.readouterr().err.splitlines()
    assert message in err[-1]
    assert set(os.listdir(tmp_path)) == {"a.png", "pipe.png"}


def test_a_file_that_goes_away_is_named(tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    for name in ("a.png", "b.png"):
        (tmp_path / "in" / name).write_bytes(png())
    find = Explainer.find_layers
    monkeypatch.setattr(Explainer, "find_layers", lambda self: ((tmp_path / "in" / "b.png").unlink(), find(self))[1])
    assert explain(tmp_path / "in", tmp_path / "out") == 1
    results = results_of(tmp_path / "out")
    assert [image["file"] for image in results["images"]] == ["a.png"]
    assert results["errors"] == [{"file": "b.png", "error": "OSError: there is no such file"}]


def test_numbers_that_are_not_finite_are_null(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(png())
    call = Explainer.__call__

    def broken(self, images, layers):
        explanation = call(self, images, layers)
        explanation.logits.fill_(torch.nan)
        explanation.layer_maps["hirescam"][0].fill_(torch.nan)
        return explanation

    monkeypatch.setattr(Explainer, "__call__", broken)
    assert explain(tmp_path / "a.png", tmp_path / "out", "--model-args.drop_rate", ".0") == 0
    [image] = results_of(tmp_path / "out")["images"]
    assert image["probability"] is None and image["metrics"]["hirescam"]["entropy"] is None


@pytest.mark.parametrize(
    "content", [b"\xff\n", b"[]\n", b"{}\n{}\n", b'{}\n{"result": 1, "stamp": []}\n', b"3", b"\0" * 99]
)
def test_a_record_of_progress_that_is_none_is_begun_anew(tmp_path, content):
    (tmp_path / "progress.jsonl").write_bytes(content)
    results = Results(tmp_path, {"mean": float("nan"), "model_args": {1: {2: {3}}}})
    results.add({"file": "a\n\udce9.png"}, [1, 2])
    assert Results(tmp_path, {"mean": float("nan"), "model_args": {1: {2: {3}}}}).has("a\n\udce9.png", [1, 2])


def test_results_stay_on_the_disk(tmp_path):
    metrics = {f"method {n}": {"entropy": n / 7, "gini": n / 9} for n in range(20)}
    results = Results(tmp_path, {})
    tracemalloc.start()
    try:
        for number in range(500):
            results.add({"file": f"{number}.png", "metrics": metrics}, [number, number])
        results.finish({}, [{"file": "a.png", "error": "x"}])
        assert tracemalloc.get_traced_memory()[1] < 500 * 1000  # bytes; a line has 1500
    finally:
        tracemalloc.stop()
    written = json.loads((tmp_path / "results.json").read_text())
    assert (written["options"], written["errors"]) == ({}, [{"file": "a.png", "error": "x"}])
    assert written["images"] == [
        {"file": f"{number}.png", "metrics": metrics} for number in sorted(range(500), key=str)
    ]
    assert len(Results(tmp_path, {})) == 500


def test_a_module_that_ends_the_program_does_not_end_this_one_unsaid(tmp_path, monkeypatch, capsys):
    (tmp_path / "ends_the_program.py").write_text("import sys; sys.exit(57)")
    monkeypatch.syspath_prepend(tmp_path)
    assert run("layers", "ends_the_program:net") == 2
    assert capsys.readouterr().err == (
        "lightning-cam: --model: cannot import 'ends_the_program': it exits the program (SystemExit: 57)\n"
    )


def test_records_that_are_logged_are_one_line(capfd):
    code = (
        "import logging; from lightning_cam.cli import main, _set_up_output; _set_up_output()\n"
        "logging.getLogger('lightning_cam').warning('%s is left out', 'a\\n\\x1b[31m.png')"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert capfd.readouterr().err == "a \\x1b[31m.png is left out\n"


CLASSES = [
    *NAMES,
    "",
    "\n",
    "\0",
    "a\n",
    "\ud83d\ude00",
    "é" * 300,
    "ا" * 300,
    "a\u0301" * 200,
    "\u0301" * 50,
    "x\u2029y",
]


@pytest.mark.parametrize("raqm", [True, False])
def test_any_text_is_drawn(monkeypatch, raqm):
    """Pillow lays out text with raqm where it is installed, which refuses other texts than its own layout does."""
    monkeypatch.setattr(ImageFont.core, "HAVE_RAQM", raqm and ImageFont.core.HAVE_RAQM)
    forget_fonts()
    try:
        generator = np.random.default_rng(0)
        points = generator.integers(0, 0x110000, (40, 30)) >> generator.integers(0, 14, (40, 1))
        for text in [*CLASSES, *("".join(map(chr, row)) for row in points)]:
            sheet = contact_sheet([("image", Image.new("RGB", (8, 8)))] * 2, f"{text}: 3 50%")
            assert sheet.width < 700
        caption.Captions(CLASSES).label(torch.arange(len(CLASSES)), 12, 90)
    finally:
        forget_fonts()


def test_what_is_printable_stays():
    for text in ("plain.png", "Ünïcödé ñ 日本 فارسی می‌روم", "👩‍👩‍👧", "C:\\photos\\a.png", "a\xa0b"):
        assert printable(text) == text
    hidden = "".join(map(chr, [*range(32), *range(127, 160), 0x200E, 0x202E, 0x2028, 0x2066, 0xFEFF, 0xDCE9]))
    assert re.fullmatch(r"(\\(x[0-9a-f]{2}|u[0-9a-f]{4}|[nrt]))+", printable(hidden))
