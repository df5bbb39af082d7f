"""The commands that show and start something: layers, methods, board, report."""

import subprocess
import sys

import numpy as np
import pytest

from lightning_cam import METHODS
from lightning_cam.timeline import TimelineWriter
from tests.test_cli_explain import run


def test_layers_says_once_what_is_looked_at_and_what_was_left_out(capsys, caplog):
    assert run("layers", "vit_tiny_patch16_224", "--model-args.depth", "2", "--model-args.reg_tokens", "4") == 0
    assert caplog.messages == []  # which would go to stderr
    *lines, left_out = capsys.readouterr().out.splitlines()
    assert lines == [
        "images of 224×224",
        "target layer: blocks.0.norm1 (LayerNorm): NLC 14×14, 5 prefix tokens",
        "target layer: blocks.1.norm1 (LayerNorm): NLC 14×14, 5 prefix tokens",
        "  the norm before the last token mixing where the logits still depend on the patches",
        "  and the same norm one block earlier",
    ]
    assert left_out.startswith("left out, ") and left_out.endswith(": blocks.1.norm2, norm")


def test_layers_names_the_norms_that_live_too(capsys):
    assert run("layers", "tests.models:average_pool_vit", "--image-size", "[32,32]") == 0
    out = capsys.readouterr().out
    assert [line for line in out.splitlines() if ":" in line] == [
        "target layer: blocks.1.norm1 (LayerNorm): NLC 4×4",
        "target layer: blocks.2.norm1 (LayerNorm): NLC 4×4",
        "also has a gradient: blocks.2.norm2 (LayerNorm): NLC 4×4",
        "left out, no patch-specific gradient: fc_norm",
    ]


@pytest.mark.parametrize("given", ["[layers.1.blocks.0.norm2]", "layers.1.blocks.0.norm2"])
def test_layers_takes_given_names(capsys, given):
    assert run("layers", "tests.models:swin", "--image-size", "64", "--target-layers", given) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["images of 64×64", "target layer: layers.1.blocks.0.norm2 (LayerNorm): NLC 8×8"]


def test_layers_of_a_size_that_the_model_does_not_take(capsys):
    assert run("layers", "tests.models:class_token_vit", "--image-size", "48") == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("lightning-cam: the model fails on images of 3×48×48 (AssertionError: Input height (48) ")
    assert "; set what it takes with --image-size. " in line


def test_layers_of_a_model_without_places_is_one_line(capsys):
    assert run("layers", "tests.architectures.user_models:VectorMLP", "--image-size", "64") == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("lightning-cam: no attention, other token mixing")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["layers"], 'Command "layers" parameter --model requires an argument.'),
        (["board"], 'Command "board" parameter --logdir requires an argument.'),
        (["layers", "a", "b"], "unexpected argument 'b'"),
        (["layers", "b", "--modle_args.a", "2"], "Unknown option: --modle_args.a. Did you mean --model-args?"),
        (["report", "a", "--output", "b", "--port", "3"], "Unknown option: --port."),
        (["reprot"], 'Unknown command "reprot". Did you mean "report"?'),
    ],
)  # fmt: skip
def test_options_are_named_as_typed(capsys, args, message):
    assert run(*args) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"lightning-cam: {message}") and err.count("\n") == 1


def test_a_model_can_stand_in_a_file(tmp_path, capsys):
    (tmp_path / "layers.yaml").write_text("model: tests.models:swin\nimage-size: [64, 64]\n")
    assert run("layers", "--config", tmp_path / "layers.yaml", "--target-layers", "layers.1.blocks.0.norm2") == 0
    assert capsys.readouterr().out.splitlines()[0] == "images of 64×64"


def test_methods_lists_each_with_its_cost_and_paper(capsys):
    assert run("methods") == 0
    out = " ".join(capsys.readouterr().out.split())
    for method in METHODS.values():
        assert f"{method.name} {method.summary} extra forward passes: {method.cost}; {method.paper}" in out


def test_board_starts_tensorboard_so_that_all_steps_are_kept(tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr(subprocess, "call", lambda command: started.append(command) or 0)
    assert run("board", tmp_path, "--port", "7007") == 0
    [command] = started
    assert command[:3] == [sys.executable, "-m", "tensorboard.main"]
    assert command[3:9] == ["--logdir", str(tmp_path), "--port", "7007", "--host", "localhost"]
    assert command[9:] == ["--samples_per_plugin", "images=1000000,scalars=1000000"]


def test_board_ends_as_tensorboard_does(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(subprocess, "call", lambda command: 3)
    assert run("board", tmp_path) == 1
    assert capsys.readouterr().err == "lightning-cam: TensorBoard exited with status 3\n"


def test_tensorboard_knows_the_options_of_board():
    from tensorboard import default, program

    board = program.TensorBoard(plugins=default.get_static_plugins())
    board.configure(logdir="x", port=7007, host="localhost", samples_per_plugin={"images": 1000000, "scalars": 1000000})
    assert board.flags.samples_per_plugin["images"] == 1000000


@pytest.mark.parametrize("given", [False, True])
def test_report_is_written_from_a_log_directory(tmp_path, capsys, given):
    writer = TimelineWriter(tmp_path)
    writer.probe(np.zeros((2, 3, 28, 28), np.uint8))
    writer.append(0, epoch=0, maps={"hirescam": np.ones((2, 7, 7))})
    writer.close()
    path = tmp_path / ("own.html" if given else "cam_report.html")
    assert run("report", tmp_path, *(["--output", path] if given else [])) == 0
    assert capsys.readouterr().out == f"{path}\n"
    assert "<title>CAM Timeline" in path.read_text()


def test_a_folder_without_a_record_is_wrong_use(tmp_path, capsys):
    assert run("report", tmp_path) == 2
    assert capsys.readouterr().err == f"lightning-cam: no CAM timeline (*.lcam) with a look in {tmp_path}\n"
    assert run("board", tmp_path / "none") == 2
