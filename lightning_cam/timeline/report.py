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
_POLICY = "default-src 'none'; script-src 'unsafe-inline' data:; style-src 'unsafe-inline'; img-src data: blob:"

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
<script type="importmap">{import_map}</script>
<script type="module">
import {{ start }} from "main.js";
import {{ embeddedSource }} from "source.js";
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
        import_map=json.dumps({"imports": _modules()}),
    )
    path = root / "cam_report.html" if path is None else Path(path)
    path.write_text(page, encoding="utf-8")
    return path


def _modules() -> dict[str, str]:
    """Return the modules of the page, each as a URL with its whole text inside, by the name to import it under.

    A file opened from disk may not import other files. It may import `data:` URLs, and as each one is a module of its
    own, with its own scope, no two of them can get into each other's way. Relative names mean nothing inside such a
    URL, so that `"./x.js"` becomes `"x.js"`, which the page's import map resolves. Browsers know import maps since
    Chrome 89, Firefox 108 and Safari 16.4; unpacking the records (DecompressionStream) needs Chrome 80, Firefox 113
    and Safari 16.4 anyway.
    """
    modules = {}
    for path in sorted(_STATIC.glob("*.js")):
        source = re.sub(r'\b(from|import) "\./', r'\1 "', path.read_text(encoding="utf-8"))
        named = f"{source}\n//# sourceURL={path.name}\n"  # what the browser's messages call it
        modules[path.name] = f"data:text/javascript;base64,{base64.b64encode(named.encode()).decode()}"
    return modules


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
