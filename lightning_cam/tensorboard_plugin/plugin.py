"""The server's side of the tab: it lists the records under the log directory and hands out their bytes.

The page reads the records itself (`static/record.js`), so that it works the same on a live run, where it asks
only for what was appended, and in the report, which has the bytes inside.
"""

import logging
import os
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tensorboard.backend import http_util
from tensorboard.plugins import base_plugin
from werkzeug import Request, Response

_log = logging.getLogger(__name__)

STATIC = Path(__file__).parent / "static"
# As in lightning_cam.timeline.format, from which nothing else is needed here.
_SUFFIX = ".lcam"
_FILE_HEADER_BYTES = 16
_RECORD_HEADER = struct.Struct("<II")
_CONTENT_TYPES = {".js": "text/javascript", ".css": "text/css"}


class CamTimelinePlugin(base_plugin.TBPlugin):
    """Serve the page and the records.

    Reads the files itself instead of asking TensorBoard's loaders: these read every byte of the event files,
    pictures included, and keep only a sample of the steps.

    Args:
        context: TensorBoard's context; its `logdir` or `--logdir_spec` is looked through.
    """

    plugin_name = "cam_timeline"

    def __init__(self, context: base_plugin.TBContext) -> None:
        self._roots = _roots(context)
        self._finder = _Finder(self._roots)

    def get_plugin_apps(self) -> dict[str, Callable]:
        """Return what is served under `data/plugin/cam_timeline/`."""
        return {
            "/timelines": _guarded(self._timelines),
            "/record": _guarded(self._record),
            "/static/*": _guarded(self._static),
        }

    def is_active(self) -> bool:
        """Tell whether there is a record to show."""
        return bool(self._finder.paths())

    def frontend_metadata(self) -> base_plugin.FrontendMetadata:
        """Name the tab and the page's module."""
        return base_plugin.FrontendMetadata(
            es_module_path="/static/main.js", tab_name="CAM Timeline", disable_reload=True
        )

    def _timelines(self, request: Request) -> Response:
        listed = []
        for key, path in self._finder.paths().items():
            try:
                with open(path, "rb") as file:
                    start, status = file.read(_FILE_HEADER_BYTES + _RECORD_HEADER.size), os.fstat(file.fileno())
            except OSError:  # deleted since it was found
                continue
            run, _, file_name = key.rpartition("/")
            listed.append(
                {
                    "id": key,
                    "run": run or ".",
                    "file": file_name.removesuffix(_SUFFIX),
                    "uid": start[8:_FILE_HEADER_BYTES].hex(),
                    "bytes": status.st_size,
                    "empty": _is_empty(start, status.st_size),
                    "modified": status.st_mtime,
                }
            )
        where = ",".join(str(root) for _, root in self._roots)
        return http_util.Respond(request, {"logdir": where, "timelines": listed}, "application/json")

    def _record(self, request: Request) -> Response:
        path = self._finder.paths().get(request.args.get("id", ""))
        if path is None:
            return http_util.Respond(request, "no such timeline", "text/plain", code=404)
        with open(path, "rb") as file:
            file.seek(max(0, request.args.get("from", 0, type=int)))
            return http_util.Respond(request, file.read(), "application/octet-stream")

    def _static(self, request: Request) -> Response:
        served = {path.name: path for path in STATIC.iterdir() if path.suffix in _CONTENT_TYPES}
        path = served.get(request.path.rpartition("/")[2])
        if path is None:
            return http_util.Respond(request, "no such file", "text/plain", code=404)
        return http_util.Respond(request, path.read_bytes(), _CONTENT_TYPES[path.suffix])


def _is_empty(start: bytes, size: int) -> bool:
    """Tell from a file's first bytes and its size whether nothing follows the probe images: there is no look."""
    if len(start) < _FILE_HEADER_BYTES + _RECORD_HEADER.size:
        return True
    length, _ = _RECORD_HEADER.unpack_from(start, _FILE_HEADER_BYTES)
    return size <= len(start) + length


class _Finder:
    """Look through directories for records, not more often than the looking takes time."""

    def __init__(self, roots: list[tuple[str, Path]]) -> None:
        self._roots = roots
        self._found: dict[str, Path] = {}
        self._fresh_until = 0.0

    def paths(self) -> dict[str, Path]:
        """Return each record by its run and file name, `run/file.lcam`."""
        started = time.monotonic()
        if started >= self._fresh_until:
            found = {}
            for prefix, root in self._roots:
                for path in sorted(_walk(root)):
                    found["/".join(filter(None, (prefix, path.relative_to(root).as_posix())))] = path
            self._found = found
            ended = time.monotonic()
            self._fresh_until = ended + max(1.0, 10 * (ended - started))
        return self._found


def _walk(root: Path) -> Iterator[Path]:
    """Yield the records below `root`, following links as TensorBoard does, each directory once."""
    seen = set()
    for folder, folders, files in os.walk(root, followlinks=True):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        yield from (Path(folder, name) for name in files if name.endswith(_SUFFIX))


def _roots(context: base_plugin.TBContext) -> list[tuple[str, Path]]:
    """Return the directories to look through, each with the run name it stands for."""
    if context.logdir:
        return [("", Path(context.logdir).expanduser())]
    spec = getattr(context.flags, "logdir_spec", "") or ""
    roots = []
    for part in filter(None, spec.split(",")):
        name, colon, path = part.partition(":")
        roots.append((name, Path(path).expanduser()) if colon else ("", Path(part).expanduser()))
    return roots


def _guarded(serve: Callable[[Request], Response]) -> Callable:
    """Answer an error with a message that the page can show."""

    @Request.application
    def application(request: Request) -> Response:
        try:
            return serve(request)
        except Exception as error:
            _log.exception("CAM Timeline: %s failed", request.path)
            return http_util.Respond(request, f"{type(error).__name__}: {error}", "text/plain", code=500)

    return application
