"""What the parser and the library say of an argument, in the words of the command line."""

import difflib
import inspect
import os
import re
from collections.abc import Callable, Collection, Sequence
from types import NoneType, UnionType
from typing import Any, get_args

_EXPECTED: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    list[float]: "a list of numbers",
    list[str]: "a list as [a,b]",
    tuple[int, int]: "[height, width]",
    dict[str, Any]: "a mapping as {name: value}",
}


def of_the_parser(message: str, words: Sequence[str], command: Callable[..., Any], positional: bool) -> str:
    """Say in one plain sentence what the parser found wrong.

    Args:
        message: What it says.
        words: What was typed.
        command: The function of the command, whose parameters are its options.
        positional: Whether the parameters without a default are typed without their names.

    Example:
        >>> def command(path: str, *, size: int = 3) -> None: ...
        >>> of_the_parser('Parser key "size": Expected a <...>. Got value: x', ["--size", "x"], command, False)
        "--size: expected a whole number, got 'x'"
    """
    parameters = inspect.signature(command).parameters
    types = {name: parameter.annotation for name, parameter in parameters.items()} | {"config": str, "debug": bool}
    message = " ".join(message.split())
    if found := re.match(r"the following arguments are required: (.*)", message):
        names = [name.rpartition(".")[2] for name in found[1].split(", ")]
        return f"needed, and not given: {', '.join(n.upper() if positional else f'--{n}' for n in names)}"
    if found := re.match(r"unrecognized arguments: (-\S*)", message):
        return _no_option(found[1], types)
    if found := re.match(r"unrecognized arguments: (.*)", message):
        return _stray(found[1].split(), words, None if positional else next(iter(parameters), None))
    if found := re.match(r"Subcommand '\w+' does not accept option '(.*)'", message):
        return _no_option(f"--{found[1]}", types)
    if found := re.match(r"argument --(\w+): expected one argument", message):
        return f"--{found[1]}: expected {_expected(types.get(found[1], str))}, got nothing"
    if found := re.match(r'Parser key "(\w+)": .*(?:Got|Given) value: (.*)', message):
        return f"--{found[1]}: expected {_expected(types.get(found[1], str))}, got '{found[2]}'"
    if found := re.match(r'Parser key "config": File does not exist: (.*)', message):
        return f"--config: there is no file {found[1]}"
    return message


def of_the_library(message: str, options: Collection[str]) -> str:
    """Write arguments as they are typed: errors of the library begin with `class_idx: ` and advise `forward=`.

    Example:
        >>> of_the_library("mean, std: give both; or forward='head'", ["mean", "std", "forward"])
        "--mean, --std: give both; or --forward 'head'"
    """
    names = "|".join(options)
    message = message.replace(", or score= for an output that is no classes", "")  # it takes a function
    if found := re.match(rf"((?:{names})s?(?:, (?:{names}))*): ", message):
        given = ", ".join(f"--{name if name in options else name[:-1]}" for name in found[1].split(", "))
        message = f"{given}: {message[found.end() :]}"  # `methods` is --method here
    message = re.sub(rf"\b({names})=(?=[\w'\"\[])", r"--\1 ", message)  # with a value
    return re.sub(rf"\b({names})=", r"--\1", message)


def _no_option(word: str, options: Collection[str]) -> str:
    near = difflib.get_close_matches(re.split(r"[.=]", word.lstrip("-"))[0], options, n=1)
    return f"there is no option {word}{f'; the nearest is --{near[0]}' if near else ''}"


def _stray(left: Sequence[str], words: Sequence[str], first: str | None) -> str:
    """Say why words are left over; `first` is the option that a newcomer would not name."""
    if first and not any(word.partition("=")[0] == f"--{first}" for word in words):
        hint = f"; did you mean --{first} {left[0]}?"
    # Of an unquoted pattern the shell makes several words: the first is the option's value, the rest are left over.
    elif any(os.path.isfile(word) for word in left):
        hint = "; a pattern must be quoted, or the shell puts the files in its place"
    else:
        hint = ""
    return f"'{left[0]}' stands behind no option{hint}"


def _expected(annotation: Any) -> str:
    kinds = get_args(annotation) if isinstance(annotation, UnionType) else [annotation]
    return " or ".join(_EXPECTED.get(kind, "another kind of value") for kind in kinds if kind is not NoneType)
