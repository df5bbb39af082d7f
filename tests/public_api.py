"""The public interface as lines of text: what docs/api names and the commands, with all parameters and defaults.

At a release, `python -m tests.public_api > tests/public_api.txt` rewrites the listing that changes are compared with.
"""

import inspect
import re
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from lightning_cam.cli import _COMMANDS

ROOT = Path(__file__).parent.parent
LISTING = ROOT / "tests" / "public_api.txt"


def documented() -> list[str]:
    """The names on the pages of the API reference."""
    pages = (ROOT / "docs" / "api").glob("*.md")
    return sorted(name for page in pages for name in re.findall(r"(?m)^::: (\S+)$", page.read_text()))


def listed() -> list[str]:
    """Of each name, method, attribute and parameter one line."""
    public = {name: _find(name) for name in documented()}
    public |= {f"lightning-cam {name}": function for name, function in _COMMANDS.items()}
    return [line for name, value in public.items() for line in _lines(name, value)]


def unsaid(before: Sequence[str], now: Sequence[str], changelog: str) -> list[str]:
    """What differs from the last release, and stands in backticks nowhere in the changelog's part of what is new."""
    _, _, unreleased = changelog.partition("\n## [Unreleased]\n")
    unreleased, _, _ = unreleased.partition("\n## [")
    differing = [line for line in before if line not in now] + [line for line in now if line not in before]
    return [line for line in differing if f"`{line}`" not in unreleased]


def _find(name: str) -> Any:
    module, _, attribute = name.rpartition(".")
    return getattr(import_module(module), attribute)


def _lines(name: str, value: Any) -> Iterator[str]:
    yield name
    parameters = list(inspect.signature(value).parameters.values()) if callable(value) else []
    for place, parameter in enumerate(p for p in parameters if p.name != "self"):
        yield f"{name}({_written(parameter, place)})"
    if isinstance(value, dict):  # a registry
        yield from (f"{name}[{key!r}]" for key in value)
    if isinstance(value, type):
        known = {attribute for base in value.__bases__ for attribute in dir(base)} | {p.name for p in parameters}
        for attribute in vars(value):
            if not attribute.startswith("_") and attribute not in known:
                member = getattr(value, attribute)
                yield from _lines(f"{name}.{attribute}", member if inspect.isroutine(member) else None)


def _written(parameter: inspect.Parameter, place: int) -> str:
    """A parameter without its type: `#0 x=1` where its place counts, `*, x=1` where its name does, `*xs`, `**xs`."""
    default = parameter.default
    text = "" if default is parameter.empty else f"={default.__qualname__ if callable(default) else repr(default)}"
    before = {parameter.KEYWORD_ONLY: "*, ", parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}
    return before.get(parameter.kind, f"#{place} ") + parameter.name + text


if __name__ == "__main__":
    print("\n".join(listed()))
