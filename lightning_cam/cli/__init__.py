"""The command `lightning-cam`."""

import inspect
import io
import logging
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import App, CycloptsError, Group, MissingArgumentError, Parameter, UnusedCliTokensError

from lightning_cam.cli import commands
from lightning_cam.cli.config import options_of
from lightning_cam.cli.errors import CommandError, UsageError, as_typed, one_line

_COMMANDS: dict[str, Callable[..., None]] = {
    "explain": commands.explain_images,
    "replay": commands.replay_checkpoints,
    "layers": commands.show_layers,
    "methods": commands.show_methods,
    "board": commands.start_board,
    "report": commands.make_report,
    "findings": commands.show_findings,
}
_OPTIONS = {option for command in _COMMANDS.values() for option in inspect.signature(command).parameters}


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line and exit with 0, 1 where something failed, or 2 where the command was used wrongly.

    Args:
        args: The words after `lightning-cam`; by default those of this process.
    """
    _set_up_output()
    try:
        _app().meta(sys.argv[1:] if args is None else list(args))
    except CycloptsError as error:
        sys.exit(_say(_sentence(error), 2))


def _app() -> App:
    app = App(
        "lightning-cam",
        help="Show where a vision model looks: class activation maps.",
        help_format="plaintext",
        default_parameter=Parameter(
            negative_iterable=(), allow_repeating=True
        ),  # no --empty-method; the last value wins
        result_action="return_value",
        print_error=False,
        exit_on_error=False,
        suppress_keyboard_interrupt=False,
    )
    app.meta.group_parameters = Group("Options for all commands", sort_key=1)
    for name, function in _COMMANDS.items():
        app.command(function, name=name)
    app.register_install_completion_command()

    @app.meta.default
    def run(
        *words: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
        config: Annotated[
            Path | None, Parameter(help="A YAML file with options; the command line overrides it.")
        ] = None,
        debug: Annotated[bool, Parameter(negative=(), help="Show the traceback of an error.")] = False,
    ) -> None:
        command = next(iter(app.parse_commands(words)[0]), "")
        try:
            if config is not None:
                app.config = options_of(config, command)
            function, bound = _parse(app, words)
            function(*bound.args, **bound.kwargs)
        except KeyboardInterrupt:
            hint = "; run the same command again to continue" if command == "explain" else ""
            sys.exit(_say(f"interrupted{hint}", 130))
        except CycloptsError:
            raise
        except Exception as error:
            if debug:
                raise
            # In this package a ValueError is an argument that does not fit.
            status = 2 if isinstance(error, (UsageError, ValueError)) else 1
            known = isinstance(error, (CommandError, ValueError, OSError))
            message = as_typed(str(error), _OPTIONS) if isinstance(error, ValueError) else str(error)
            if not known:
                message = f"{type(error).__name__}: {message} (--debug shows the traceback)"
            sys.exit(_say(message, status))

    return app


def _parse(app: App, words: Sequence[str]) -> tuple[Callable[..., None], inspect.BoundArguments]:
    """Find the command and its arguments; where the parser itself fails, the words are wrong."""
    try:
        function, bound, _ = app.parse_args(words)
    except (CycloptsError, CommandError):
        raise
    except Exception as error:  # such as for `--model-args.a 1 --model-args.a.b 2`
        raise UsageError(f"these options cannot be combined ({type(error).__name__}: {error})") from error
    return function, bound


def _set_up_output() -> None:
    """See to it that whatever is named can be printed, and that a file's damage is told once."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    handler = logging.StreamHandler()
    handler.setFormatter(_OneLine())
    logging.basicConfig(handlers=[handler])
    logging.getLogger("PIL").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", module=r"PIL\.")


class _OneLine(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return one_line(super().format(record))


def _sentence(error: CycloptsError) -> str:
    """What was typed wrongly, in the parser's words but for words that belong to no option."""
    stray = next((word for word in error.unused_tokens or () if not word.startswith("-")), None)
    if isinstance(error, UnusedCliTokensError):
        # Of an unquoted pattern the shell makes several words: the first is the option's value, the rest are left over.
        is_file = any(os.path.isfile(word) for word in error.unused_tokens or ())
        hint = "; quote a pattern, or the shell expands it" if is_file else ""
        return f"unexpected argument {stray!r}{hint}"
    if isinstance(error, MissingArgumentError) and error.keyword is not None:
        error.unused_tokens = None  # for --class_idx it would ask whether --class-idx was meant
    elif isinstance(error, MissingArgumentError) and stray is not None:
        return f"{error} Unexpected argument {stray!r}."
    return str(error)


def _say(message: str, status: int) -> int:
    """Print a message in one line, and return the status."""
    print(f"lightning-cam: {one_line(message)}", file=sys.stderr)
    return status
