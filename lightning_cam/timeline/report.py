"""One HTML file with the page and the data inside: it opens from disk, without a server or a network."""

import base64
import gzip
import html
import json
import os
import re
from itertools import islice
from pathlib import Path

from lightning_cam import tensorboard_plugin
from lightning_cam.timeline import find_timelines
from lightning_cam.timeline.format import FILE_HEADER, SUFFIX, decode_records

_STATIC = Path(str(tensorboard_plugin.__file__)).parent / "static"
# The browser itself keeps the page from asking any host for anything.
_POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
_IMPORT = re.compile(r'^import [^;]*? from "\./([\w.]+)";\n', re.MULTILINE)

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>{title}</title>
<style>
{style}
</style>
</head>
<body>
{records}
<script type="module">
{script}
start(embeddedSource());
</script>
</body>
</html>
"""


def write_report(logdir: str | os.PathLike[str], path: str | os.PathLike[str] | None = None) -> Path:
    """Write the CAM Timeline page of one or several runs as one HTML file.

    Args:
        logdir: A record, or a directory; all records in it and below that hold a look go into the report.
        path: The file to write; by default `cam_report.html` in that directory.

    Returns:
        The file written.

    Raises:
        FileNotFoundError: There is no record with a look.
        ValueError: A newer version of this package wrote one of the records.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from lightning_cam.timeline import TimelineWriter
        >>> writer = TimelineWriter(tempfile.mkdtemp())
        >>> record = writer.probe(np.zeros((2, 3, 28, 28), np.uint8))
        >>> writer.append(0, epoch=0, maps={"hirescam": np.ones((2, 7, 7))})
        >>> write_report(record).name
        'cam_report.html'
    """
    logdir = Path(logdir)
    found = {record: record.read_bytes() for record in find_timelines(logdir)}
    # The probe images come first, then the looks.
    found = {
        record: data for record, data in found.items() if len([*islice(decode_records(data, str(record)), 2)]) == 2
    }
    if not found:
        raise FileNotFoundError(f"no CAM timeline (*{SUFFIX}) with a look in {logdir}")
    root = logdir.parent if logdir.is_file() else logdir
    page = _PAGE.format(
        policy=_POLICY,
        title=html.escape(f"CAM Timeline · {root.resolve().name}"),
        style=(_STATIC / "style.css").read_text(encoding="utf-8"),
        records="\n".join(_embedded(record, data, root) for record, data in found.items()),
        script=_bundle("main.js", []),
    )
    path = root / "cam_report.html" if path is None else Path(path)
    path.write_text(page, encoding="utf-8")
    return path


def _bundle(name: str, done: list[str]) -> str:
    """Return a module of the page and, before it, those it imports, as one script; each only once.

    A file opened from disk may not import others. The modules import by name only and their names differ, so
    that taking `import` and `export` away is enough.
    """
    if name in done:
        return ""
    done.append(name)
    source = (_STATIC / name).read_text(encoding="utf-8")
    before = "".join(_bundle(imported, done) for imported in _IMPORT.findall(source))
    return before + re.sub(r"^export ", "", _IMPORT.sub("", source), flags=re.MULTILINE)


def _embedded(record: Path, data: bytes, root: Path) -> str:
    relative = record.relative_to(root)
    run = relative.parent.as_posix()
    entry = {
        "id": relative.as_posix(),
        "run": root.resolve().name if run == "." else run,
        "file": record.name.removesuffix(SUFFIX),
        "uid": data[8 : FILE_HEADER.size].hex(),
        "bytes": len(data),
        "modified": record.stat().st_mtime,
    }
    about = html.escape(json.dumps(entry))
    packed = base64.b64encode(gzip.compress(data, mtime=0)).decode()
    return f'<script type="application/octet-stream" data-timeline="{about}">{packed}</script>'
