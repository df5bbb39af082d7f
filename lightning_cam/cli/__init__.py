"""The command `lightning-cam`."""

import logging
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser, set_parsing_settings

from lightning_cam.cli import commands
from lightning_cam.cli.errors import CommandError, UsageError

_COMMANDS: dict[str, Callable[..., None]] = {
    "explain": commands.explain_images,
    "replay": commands.replay_checkpoints,
    "layers": commands.show_layers,
    "methods": commands.show_methods,
    "board": commands.start_board,
    "report": commands.make_report,
}

_POSITIONAL = ("layers", "board", "report")  # what they are about needs no option before it


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line and exit with 0, 1 where something failed, or 2 where the command was used wrongly.

    Args:
        args: The words after `lightning-cam`; by default those of this process.
    """
    logging.basicConfig(format="%(message)s")
    try:
        namespace = _parser().parse_args(args)
    except ArgumentError as error:
        # Of an unquoted pattern the shell makes several words: the first is the option's value, the rest are left over.
        unquoted = any(Path(word).is_file() for word in str(error).split())
        hint = "; a pattern must be quoted, or the shell puts the files in its place" if unquoted else ""
        sys.exit(_say(f"{error}{hint}", 2))
    options = namespace[namespace.subcommand].as_dict()
    options.pop("config")
    debug = options.pop("debug")
    try:
        _COMMANDS[namespace.subcommand](**options)
    except KeyboardInterrupt:
        hint = "; the same command goes on from here" if namespace.subcommand == "explain" else ""
        sys.exit(_say(f"interrupted{hint}", 130))
    except Exception as error:
        if debug:
            raise
        # In this package a ValueError is an argument that does not fit.
        status = 2 if isinstance(error, (UsageError, ValueError)) else 1
        known = isinstance(error, (CommandError, ValueError, OSError))
        hint = "" if known else " (--debug true shows where)"
        message = _with_options(str(error), options) if isinstance(error, ValueError) else str(error)
        sys.exit(_say(f"{'' if known else type(error).__name__ + ': '}{message}{hint}", status))


def _parser() -> ArgumentParser:
    set_parsing_settings(add_print_completion_argument=True)
    parser = ArgumentParser(prog="lightning-cam", description="Where a vision transformer looks.", exit_on_error=False)
    chosen = parser.add_subcommands(required=True, dest="subcommand")
    for name, function in _COMMANDS.items():
        command = ArgumentParser(description=_summary(function), exit_on_error=False)
        command.add_argument("--config", action="config", help="A YAML file with these options.")
        command.add_function_arguments(function, as_positional=name in _POSITIONAL)
        command.add_argument("--debug", type=bool, default=False, help="Show the traceback of an error.")
        chosen.add_subcommand(name, command, help=_summary(function))
    return parser


def _summary(function: Callable[..., Any]) -> str:
    return (function.__doc__ or "").partition("\n")[0]


def _with_options(message: str, options: Iterable[str]) -> str:
    """Write arguments as on the command line: errors of the library begin with `class_idx: ` and advise `forward=`."""
    names = "|".join(options)
    message = re.sub(rf"^({names})s?: ", r"--\1: ", message)  # `methods` is --method here
    message = re.sub(rf"\b({names})=(?=[\w'\"\[])", r"--\1 ", message)  # with a value
    return re.sub(rf"\b({names})=", r"--\1", message)


def _say(message: object, status: int) -> int:
    """Print a message in one line, and return the status."""
    print(f"lightning-cam: {' '.join(str(message).split())}", file=sys.stderr)
    return status
