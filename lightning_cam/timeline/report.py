"""One HTML file with the page and the data inside: it opens from disk, without a server or a network."""

import base64
import gzip
import html
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from lightning_cam import tensorboard_plugin
from lightning_cam.timeline import find_timelines
from lightning_cam.timeline.format import SUFFIX, RecordError
from lightning_cam.timeline.index import Index, evenly
from lightning_cam.timeline.pace import Pace
from lightning_cam.timeline.remote import is_remote, local_copy

_MOST_LOOKS = 1000  # of a record
_MOST_BYTES = 32 * 2**20  # of all looks; the page is a little larger
_MOST_INLINE = 3 * 2**19  # of looks in a notebook, whose server passes on about 3 MB at once
_LARGEST_INLINE = 12 * 2**20  # characters, with the images
_BYTES_PER_SECOND = 5 * 2**20  # compressed and written, on a slow machine

_STATIC = Path(str(tensorboard_plugin.__file__)).parent / "static"
# The browser itself keeps the page from asking any host for anything.
_POLICY = "default-src 'none'; script-src 'unsafe-inline' data:; style-src 'unsafe-inline'; img-src data: blob:"

_FRAME = "width: 100%; height: 720px; border: 1px solid #8884; border-radius: 6px"  # of the page in a notebook

# In TensorBoard the page follows the page around it; in a notebook it must not, and cannot.
_ALONE = "<script>window.parent = window</script>"

_NOTE = """<style>
body {{ display: flex; flex-direction: column }}
body > .page {{ flex: 1; min-height: 0; height: auto }}
body > .note {{ padding: 4px 16px }}
</style>
<aside class="note" aria-label="What is left out">{text}</aside>"""

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
{notes}
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


def write_report(
    logdir: str | os.PathLike[str], path: str | os.PathLike[str] | None = None, *, pace: Pace | None = None
) -> Path:
    """Write the CAM Timeline page of one or several runs as one HTML file.

    It holds at most 1,000 looks of a run and 32 MiB of all runs, evenly spaced, with the first and the newest; if looks
    are missing, the log and the page say so. A file that is not a record, or is damaged, is skipped with a warning.

    Args:
        logdir: A record, or a directory; all records in it and below that hold a look go into the report.
        path: The file to write; by default `cam_report.html` in that directory.
        pace: Limits the time and logs what is skipped; by default there is no limit.

    Returns:
        The file written.

    Raises:
        FileNotFoundError: There is no record with a look.
        ValueError: The only record is damaged, or a newer version of this package wrote it.
        TooSlow: `pace` has no time for it.

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
    if is_remote(logdir) and path is None:
        raise ValueError(f"path: expected a file to write, because {logdir} is not on this machine")
    logdir = local_copy(logdir)
    with _said(pace) as pace:
        page, notes = _page(logdir, pace, _MOST_BYTES)
        root = logdir.parent if logdir.is_file() else logdir
        path = root / "cam_report.html" if path is None else Path(path)
        path.write_text(page, encoding="utf-8")
        if notes:
            pace.note(f"{path} does not contain all looks: {'; '.join(notes)}")
    return path


def inline_page(record: Path) -> str:
    """The page of one record as HTML that a notebook shows below a cell, offline.

    It stands in a frame of its own, that has no part in the notebook's page: names of runs and classes are not trusted.
    Of a long run as many looks are taken, evenly, as a notebook's server passes on at once.

    Args:
        record: The file.

    Raises:
        FileNotFoundError: The record is gone, or holds no look.
        ValueError: It is damaged, a newer version of this package wrote it, or its images alone are too large.
    """
    with Pace() as pace:
        page, _ = _page(record, pace, _MOST_INLINE)
    page = page.replace("<body>", f"<body>\n{_ALONE}", 1)
    if len(page) > _LARGEST_INLINE:
        raise ValueError(
            f"the page is {len(page) / 2**20:.0f} MiB, too large for a notebook; write a file with write_report"
        )
    return (
        '<iframe sandbox="allow-scripts allow-downloads" allow="clipboard-write; fullscreen" loading="lazy" '
        f'title="CAM Timeline" style="{_FRAME}" srcdoc="{html.escape(page)}"></iframe>'
    )


def _page(logdir: Path, pace: Pace, most_bytes: int) -> tuple[str, list[str]]:
    """The page with all records of a folder, or one, inside, and what is left out."""
    root = logdir.parent if logdir.is_file() else logdir
    found = _read_all(logdir, pace)
    notes, records = [], []
    for record, index in found:
        looks = _chosen(index, most_bytes, len(found), pace)
        if len(looks) < len(index):
            notes.append(f"{record.relative_to(root)}: {len(looks):,} of {len(index):,} looks, evenly spaced")
        records.append(_embedded(record, index, looks, root))
    note = f"This report does not contain all looks. {'; '.join(notes)}."
    page = _PAGE.format(
        policy=_POLICY,
        title=html.escape(f"CAM Timeline · {_text(root.resolve().name)}"),
        style=(_STATIC / "style.css").read_text(encoding="utf-8"),
        notes=_NOTE.format(text=html.escape(note)) if notes else "",
        records="\n".join(records),
        import_map=json.dumps({"imports": _modules()}),
    )
    return page, notes


@contextmanager
def _said(pace: Pace | None) -> Iterator[Pace]:
    """The given pace, which says its notes later, or one that does so now."""
    if pace is not None:
        yield pace
    else:
        with Pace() as own:
            yield own


def _read_all(logdir: Path, pace: Pace) -> list[tuple[Path, Index]]:
    """Look through the records that hold a look; those that cannot be read are said and left out."""
    found, faults = [], []
    records = [record for record in find_timelines(logdir) if record.is_file()]  # a pipe never ends
    pace.begin(sum(record.stat().st_size for record in records), "reading the records")
    for record in records:
        try:
            with record.open("rb") as file:
                index = Index(file, record, pace.advance)
        except (RecordError, OSError) as error:
            faults.append(error)
            continue
        if len(index):  # the probe images may be all that is there
            found.append((record, index))
        if index.gaps:
            pace.note(f"{record} is damaged in {index.gaps} place(s), which are skipped")
    if not found and len(records) == len(faults) == 1:
        raise faults[0]
    for fault in faults:
        pace.note(f"skipped: {fault}")
    if not found:
        raise FileNotFoundError(f"no CAM timeline (*{SUFFIX}) with a look in {logdir}")
    return found


def _chosen(index: Index, most_bytes: int, num_records: int, pace: Pace) -> np.ndarray:
    """The looks of a record that go into the report."""
    every = np.arange(len(index))
    room = min(most_bytes, _BYTES_PER_SECOND * max(0.0, pace.left)) / num_records
    chosen = evenly(len(index), min(_MOST_LOOKS, int(len(index) * room / index.size_of(every))))
    # Few looks have maps of blocks; where there is room for them, none is left out.
    with_blocks = np.union1d(chosen, index.looks_with_blocks)
    return with_blocks if index.size_of(with_blocks) <= room else chosen


def _text(name: str) -> str:
    """Return a file's name as text: names are bytes, which need not be UTF-8."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


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


def _embedded(record: Path, index: Index, looks: np.ndarray, root: Path) -> str:
    relative = record.relative_to(root)
    run = _text(relative.parent.as_posix())
    with record.open("rb") as file:
        data = index.read_records(file, looks)
    entry = {
        "id": relative.as_posix(),
        "run": _text(root.resolve().name) if run == "." else run,
        "file": record.name.removesuffix(SUFFIX),
        "uid": index.uid.hex(),
        "bytes": len(data),
        "modified": record.stat().st_mtime,
    }
    about = html.escape(json.dumps(entry))
    packed = base64.b64encode(gzip.compress(data, 6, mtime=0)).decode()
    return f'<script type="application/octet-stream" data-timeline="{about}">{packed}</script>'
