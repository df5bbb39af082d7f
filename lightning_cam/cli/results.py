"""What a run has done so far, kept so that a run that was cut off goes on; and `results.json` at its end."""

import json
import math
from pathlib import Path
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
        folder: Where pictures and results go; made where missing.
        options: What the pictures depend on. A folder with results of other options is not gone on with.

    Attributes:
        added: How many results came in since.

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
        lines = _whole_lines(progress)
        self._done: dict[str, dict[str, Any]] = {line["result"]["file"]: line for line in lines[1:]}
        if self._done:  # otherwise that run failed before its first result, as with a class that there is not
            self._compare(lines[0])
        # Written anew: a line that was cut off must not be gone on with.
        self._file = progress.open("w", encoding="utf-8")
        for line in [self._options, *self._done.values()]:
            self._write(line)

    def has(self, file: str, stamp: list[int]) -> bool:
        """Whether there is a result of a file with this stamp (size and time of its last change)."""
        return file in self._done and self._done[file]["stamp"] == stamp

    def add(self, result: dict[str, Any], stamp: list[int]) -> None:
        """Enter the result of one file, whose pictures are written."""
        line = {"stamp": stamp, "result": _as_json(result)}
        self._done[result["file"]] = line
        self._write(line)
        self.added += 1

    def finish(self, head: dict[str, Any], errors: list[dict[str, str]]) -> list[dict[str, Any]]:
        """Write `results.json`, images in order of their names.

        Returns:
            The results of all images, those of earlier runs included.
        """
        self._file.close()
        images = [self._done[name]["result"] for name in sorted(self._done)]
        text = json.dumps({**head, "options": self._options, "errors": errors, "images": images}, indent=1)
        (self._folder / RESULTS).write_text(text, encoding="utf-8")
        return images

    def _write(self, line: dict[str, Any]) -> None:
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()

    def _compare(self, earlier: dict[str, Any]) -> None:
        differing = [key for key in {**earlier, **self._options} if earlier.get(key) != self._options.get(key)]
        if differing:
            key = differing[0]
            raise UsageError(
                f"--output: {self._folder} holds results with another {key} ({earlier.get(key)}, now "
                f"{self._options.get(key)}); give another --output or --modelname, or delete that folder"
            )


def _whole_lines(file: Path) -> list[dict[str, Any]]:
    """The lines of an earlier run, up to the first that was cut off or is none of ours."""
    found: list[dict[str, Any]] = []
    for line in file.read_bytes().splitlines() if file.exists() else []:
        try:
            entry = json.loads(line)
        except ValueError:
            break
        match entry:
            case {"stamp": list(), "result": {"file": str()}} if found:
                found.append(entry)
            case dict() if not found:
                found.append(entry)
            case _:
                break
    return found


def _as_json(value: Any) -> Any:
    """The same as JSON holds it: a number that is not finite is null, what JSON does not know is text."""
    if isinstance(value, dict):
        return {str(key): _as_json(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_as_json(entry) for entry in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int) else str(value)
