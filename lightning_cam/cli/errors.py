"""Errors that end a command with one line instead of a traceback."""

from collections.abc import Collection

from lightning_cam.printable import printable


class CommandError(Exception):
    """Something outside this program is wrong: exit status 1."""


class UsageError(CommandError):
    """The command was used incorrectly, as the message explains: exit status 2."""


def one_line(message: str) -> str:
    r"""Write a message in one line, without control characters that a terminal would interpret.

    Example:
        >>> one_line("Error in layer:  size\n    mismatch")
        'Error in layer: size mismatch'
    """
    return printable(" ".join(message.split()))


def as_typed(message: str, options: Collection[str]) -> str:
    """Name arguments as options: the library's messages begin with `class_idx: ` and advise `forward=`.

    Args:
        message: What a ValueError of this package says.
        options: The arguments that are options of a command.

    Example:
        >>> as_typed("mean, std: give both; or forward='head', or layout=", ["mean", "std", "forward"])
        "--mean, --std: give both; or --forward 'head', or layout= (in Python)"
    """

    def option(name: str) -> str:
        return "--" + name.replace("_", "-")

    def spelled(word: str) -> str:
        name, sign, value = word.partition("=")
        alone = value[:1] in ("", *",;.)")  # no value: what follows is the sentence's
        if sign and name in options:
            return f"{option(name)}{'' if alone else ' '}{value}"
        return f"{name}= (in Python){value}" if sign and name.isidentifier() and alone else word

    names, colon, rest = message.partition(": ")
    if colon and all(name in options for name in names.split(", ")):
        message = f"{', '.join(map(option, names.split(', ')))}: {rest}"
    return " ".join(map(spelled, message.split(" ")))
