"""`index.html`: all images of a run on one page that needs only the files next to it."""

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from lightning_cam.cli.results import INDEX, place_of
from lightning_cam.printable import printable

_TEMPLATE = Path(__file__).with_name("gallery.html")


def write_gallery(folder: Path, title: str, images: Iterable[dict[str, Any]], errors: Sequence[dict[str, str]]) -> None:
    """Write the page.

    Args:
        folder: Where the pictures are.
        title: Heading of the page.
        images: The entries of `results.json`.
        errors: Those of the images that failed.
    """
    failed = [{key: printable(text) for key, text in error.items()} for error in errors]
    before, _, after = _TEMPLATE.read_text(encoding="utf-8").partition("{{data}}")
    with (folder / INDEX).open("w", encoding="utf-8") as page:
        page.write(f'{before}{{"title": {_json(printable(title))}, "errors": {_json(failed)}, "images": [')
        for number, image in enumerate(images):
            page.write(("," if number else "") + _json(_shown(image)))
        page.write(f"]}}{after}")


def _shown(image: dict[str, Any]) -> dict[str, Any]:
    return {
        "file": printable(image["file"]),
        "place": quote(os.fsencode(place_of(image["file"]))),  # by its bytes: a name need not be UTF-8
        "prediction": printable(image["prediction"] or ""),
        "probability": image["probability"],
        "explained": printable(image["explained_class"] or ""),
        "methods": list(image["metrics"]),
    }


def _json(value: Any) -> str:
    """JSON within an element of a page, which `</script>` in a file's name would end."""
    return json.dumps(value).replace("<", "\\u003c")
