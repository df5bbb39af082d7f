"""The progress of a run, kept so that an interrupted run can continue; and `results.json` at its end."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from textwrap import indent
from typing import Any

from lightning_cam.cli.errors import UsageError

_PROGRESS = "progress.jsonl"
RESULTS = "results.json"
INDEX = "index.html"


def place_of(name: str) -> str:
    """Where in the folder of a run the pictures of an image go: by the image's name, unless it is that of a file there.

    Example:
        >>> place_of("cats/a.png"), place_of("index.html/a.png"), place_of("index.html_/a.png")
        ('cats/a.png', 'index.html_/a.png', 'index.html__/a.png')
    """
    first, slash, rest = name.partition("/")
    ours = first.rstrip("_").lower() in (_PROGRESS, RESULTS, INDEX)
    return f"{first}_{slash}{rest}" if ours else name


class Results:
    """The results of a run, one line per image in `progress.jsonl`; the line comes after the pictures are written.

    Args:
        folder: Where pictures and results go; created if missing.
        options: What the pictures depend on. A folder with results of other options is not continued.

    Attributes:
        added: How many results were added in this run.

    Raises:
        UsageError: The folder holds results of other options.

    Example:
        >>> import tempfile
        >>> folder = tempfile.mkdtemp()
        >>> Results(Path(folder), {"method": "all"}).add({"file": "a.jpg"}, [1, 2])
        >>> Results(Path(folder), {"method": "all"}).has("a.jpg", [1, 2])
        True
    """

    def __init__(self, folder: Path, options: dict[str, Any]) -> None:
        self._options = _as_json(options)
        self.added = 0
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        progress = folder / _PROGRESS
        self._file = progress.open("r+b" if progress.exists() else "w+b")
        # By file its stamp and where its line begins: results stay on the disk, for there may be very many.
        self._done: dict[str, tuple[list[int], int]] = {}
        earlier: dict[str, Any] = {}
        end = 0
        for line in self._file:
            match _entry(line):
                case {"stamp": list(stamp), "result": {"file": str(name)}} if end:
                    self._done[name] = stamp, end
                case dict(entry) if not end:
                    earlier = entry
                case _:  # cut off, or none of ours
                    break
            end += len(line)
        if self._done:
            self._compare(earlier)
        else:  # that run failed before its first result, as with a class that there is not
            end = 0
        self._file.seek(end)
        self._file.truncate()
        if not end:
            self._write(self._options)

    def __len__(self) -> int:
        return len(self._done)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield the results, those of earlier runs included, in order of the images' names."""
        with (self._folder / _PROGRESS).open("rb") as file:
            for name in sorted(self._done):
                file.seek(self._done[name][1])
                yield json.loads(file.readline())["result"]

    def has(self, file: str, stamp: list[int]) -> bool:
        """Whether there is a result of a file with this stamp (size and time of its last change)."""
        return file in self._done and self._done[file][0] == stamp

    def add(self, result: dict[str, Any], stamp: list[int]) -> None:
        """Enter the result of one file, whose pictures are written."""
        self._done[result["file"]] = stamp, self._file.tell()
        self._write({"stamp": stamp, "result": _as_json(result)})
        self.added += 1

    def finish(self, head: dict[str, Any], errors: list[dict[str, str]]) -> None:
        """Write `results.json`; nothing is added after that."""
        self._file.close()
        start = json.dumps({**head, "options": self._options, "errors": errors, "images": []}, indent=1)
        with (self._folder / RESULTS).open("w", encoding="utf-8") as file:
            file.write(start.removesuffix("]\n}"))
            for number, image in enumerate(self):
                file.write((",\n" if number else "\n") + indent(json.dumps(image, indent=1), "  "))
            file.write("\n ]\n}")

    def _write(self, line: dict[str, Any]) -> None:
        self._file.write(json.dumps(line).encode() + b"\n")
        self._file.flush()

    def _compare(self, earlier: dict[str, Any]) -> None:
        differing = [key for key in {**earlier, **self._options} if earlier.get(key) != self._options.get(key)]
        if differing:
            key = differing[0]
            raise UsageError(
                f"--output: {self._folder} contains results with a different {key} ({earlier.get(key)}, now "
                f"{self._options.get(key)}); give another --output or --modelname, or delete that folder"
            )


def _entry(line: bytes) -> Any:
    """What a whole line holds, None if it was cut off or is no JSON."""
    try:
        return json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return None


def _as_json(value: Any) -> Any:
    """The same as JSON holds it: a number that is not finite is null, what JSON does not know is text."""
    if isinstance(value, dict):
        return {str(key): _as_json(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_as_json(entry) for entry in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int) else str(value)
