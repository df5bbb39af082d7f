"""The command `lightning-cam`."""

import logging
import sys
from collections.abc import Callable, Sequence
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser, set_parsing_settings

from lightning_cam.cli import commands, wording
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
    words = sys.argv[1:] if args is None else list(args)
    try:
        namespace = _parser().parse_args(words)
    except ArgumentError as error:
        message, name = str(error), next(iter(words), "")
        if name in _COMMANDS:
            message = wording.of_the_parser(message, words[1:], _COMMANDS[name], name in _POSITIONAL)
        sys.exit(_say(message, 2))
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
        message = wording.of_the_library(str(error), options) if isinstance(error, ValueError) else str(error)
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


def _say(message: object, status: int) -> int:
    """Print a message in one line, and return the status."""
    print(f"lightning-cam: {' '.join(str(message).split())}", file=sys.stderr)
    return status
