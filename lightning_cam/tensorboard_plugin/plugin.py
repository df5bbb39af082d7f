"""The server side of the tab: it lists the records under the log directory and serves their bytes.

The page reads the records itself (`static/record.js`), so that it works the same on a live run, where it asks
only for what was appended, and in the report, which has the bytes inside.
"""

import logging
import re
import struct
from collections.abc import Callable
from pathlib import Path

from tensorboard.backend import http_util
from tensorboard.plugins import base_plugin
from werkzeug import Request, Response

from lightning_cam.tensorboard_plugin.records import SUFFIX, NoRecordError, RecordFinder, status_of
from lightning_cam.tensorboard_plugin.remote import is_remote

_log = logging.getLogger(__name__)

STATIC = Path(__file__).parent / "static"
# As in lightning_cam.timeline.format, from which nothing else is needed here.
_FILE_HEADER_BYTES = 16
_RECORD_HEADER = struct.Struct("<II")
_CONTENT_TYPES = {".js": "text/javascript", ".css": "text/css"}

_MOST_BYTES = 4 * 2**20  # of a record in one answer: so much memory a request takes
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    # None of the answers is a page: opened as one, it may do nothing.
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; sandbox",
    "Cross-Origin-Resource-Policy": "same-origin",
}


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
        self._finder = RecordFinder(self._roots)

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
        for key in self._finder.paths():
            try:
                with self._finder.open(key) as file:
                    file.seek(0)
                    start, (size, modified) = file.read(_FILE_HEADER_BYTES + _RECORD_HEADER.size), status_of(file)
            except (NoRecordError, OSError):  # deleted since it was found
                continue
            run, _, file_name = key.rpartition("/")
            listed.append(
                {
                    "id": key,
                    "run": run or ".",
                    "file": file_name.removesuffix(SUFFIX),
                    "uid": start[8:_FILE_HEADER_BYTES].hex(),
                    "bytes": size,
                    "empty": _is_empty(start, size),
                    "modified": modified,
                }
            )
        where = ",".join(str(root) for _, root in self._roots)
        content = {"logdir": where, "timelines": listed, "notes": self._finder.notes}
        return http_util.Respond(request, content, "application/json")

    def _record(self, request: Request) -> Response:
        begin = _number(request, "from", low=0, default=0)
        size = min(_number(request, "limit", low=1, default=_MOST_BYTES), _MOST_BYTES)
        try:
            with self._finder.open(request.args.get("id", "")) as file:
                file.seek(min(begin, status_of(file)[0]))
                return http_util.Respond(request, file.read(size), "application/octet-stream")
        except (NoRecordError, OSError):
            return http_util.Respond(request, "no such timeline, or it cannot be read", "text/plain", code=404)

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


def _roots(context: base_plugin.TBContext) -> list[tuple[str, Path | str]]:
    """Return the directories to look through, each with the run name it stands for."""
    if context.logdir:
        return [("", _root(context.logdir))]
    spec = getattr(context.flags, "logdir_spec", "") or ""
    roots = []
    for part in filter(None, spec.split(",")):
        name, colon, path = part.partition(":")
        named = colon and not path.startswith("//")  # or the colon is that of an address
        roots.append((name, _root(path)) if named else ("", _root(part)))
    return roots


def _root(path: str) -> Path | str:
    return path if is_remote(path) else Path(path).expanduser()


class _BadRequestError(Exception):
    """A parameter that cannot be; the message says what is expected."""


def _number(request: Request, name: str, low: int, default: int) -> int:
    """Return a parameter that is a number of bytes."""
    given = request.args.getlist(name)
    if not given:
        return default
    if len(given) > 1 or not re.fullmatch("[0-9]{1,18}", given[0]) or int(given[0]) < low:
        raise _BadRequestError(f"{name}: expected one number of bytes, at least {low} and below 10^18")
    return int(given[0])


def _is_of_this_origin(request: Request) -> bool:
    """Tell whether a page of TensorBoard's own asks, or a person: browsers say if it is a page of somebody else."""
    if request.headers.get("Sec-Fetch-Site", "none") not in ("same-origin", "none"):
        return False
    origin = request.headers.get("Origin")
    return origin is None or origin.rpartition("://")[2] == request.host


def _guarded(serve: Callable[[Request], Response]) -> Callable:
    """Answer an error with a message that the page can show, and nothing to pages of other origins."""

    def answer(request: Request) -> Response:
        if request.method not in ("GET", "HEAD"):
            return http_util.Respond(request, "only GET and HEAD are supported", "text/plain", code=405)
        try:
            if not _is_of_this_origin(request):
                return http_util.Respond(request, "requests from other origins are refused", "text/plain", code=403)
            return serve(request)
        except _BadRequestError as error:
            return http_util.Respond(request, str(error), "text/plain", code=400)
        except Exception as error:
            _log.exception("CAM Timeline: %s failed", request.path)
            return http_util.Respond(request, f"{type(error).__name__}: {error}", "text/plain", code=500)

    @Request.application
    def application(request: Request) -> Response:
        response = answer(request)
        response.headers.update(_HEADERS)
        return response

    return application
