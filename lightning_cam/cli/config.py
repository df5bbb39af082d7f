"""`--config`: a command's options from a YAML file."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cyclopts import App, ArgumentCollection, Token
from cyclopts.config import Dict

from lightning_cam.cli.errors import UsageError
from lightning_cam.cli.yaml_text import load_yaml

_MAX_BYTES = 2**20  # of a file of options; a device such as /dev/zero never ends


def options_of(file: Path, command: str) -> Callable[[App, tuple[str, ...], ArgumentCollection], None]:
    """Read a YAML file with the options of a command, for `App.config`; the command line overrides it.

    Args:
        file: The file.
        command: The command that is run.

    Raises:
        UsageError: There is no such file, or it holds no options.
    """
    # A list and what stands in a mapping reach the options as JSON: there text stays text, and a list of one a list.
    options = {
        name: {str(key): json.dumps(entry, default=str) for key, entry in value.items()}
        if isinstance(value, dict)
        else json.dumps(value, default=str)
        if isinstance(value, list)
        else value
        for name, value in _read(file).items()
    }

    def fill(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
        for name, value in options.items():
            if isinstance(value, dict):
                _complete(name, value, str(file), arguments)
        Dict({command: options}, source=str(file))(app, commands, arguments)

    return fill


def _read(file: Path) -> dict[str, Any]:
    try:
        with open(file, "rb") as opened:
            data = opened.read(_MAX_BYTES + 1)
        if len(data) > _MAX_BYTES:
            raise UsageError(f"--config: {str(file)!r} is larger than {_MAX_BYTES >> 20} MiB")
        content = load_yaml(data.decode())
    except OSError as error:
        raise UsageError(f"--config: {str(file)!r} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"--config: {str(file)!r} is not UTF-8 text") from error
    except ValueError as error:
        raise UsageError(f"--config: {str(file)!r} is not valid YAML: {error}") from error
    if not isinstance(content, dict | None):
        raise UsageError(f"--config: {str(file)!r} contains no options; write each as `name: value`")
    return {str(name): value for name, value in (content or {}).items()}


def _complete(name: str, value: dict[str, str], source: str, arguments: ArgumentCollection) -> None:
    """Add to `--model-args.a 1` what else the file's mapping holds; the library would leave all of it out."""
    try:
        argument, *_ = arguments.match(f"--{name}")
    except ValueError:  # there is no such option, which is told when the options are filled in
        return
    typed = {token.keys[:1] for token in argument.tokens}
    if typed and () not in typed:
        for key, text in value.items():
            if (key,) not in typed:
                argument.append(Token(keyword=f"[{name}][{key}]", value=text, keys=(key,), source=source))
