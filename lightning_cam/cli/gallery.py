"""`index.html`: all images of a run in one page that needs nothing but the files beside it."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from lightning_cam.cli.results import INDEX, place_of
from lightning_cam.printable import printable

_TEMPLATE = Path(__file__).with_name("gallery.html")


def write_gallery(folder: Path, title: str, images: Sequence[dict[str, Any]], errors: Sequence[dict[str, str]]) -> None:
    """Write the page.

    Args:
        folder: Where the pictures are.
        title: Heading of the page.
        images: The entries of `results.json`.
        errors: Those of the images that failed.
    """
    shown = [
        {
            "file": printable(image["file"]),
            "place": quote(os.fsencode(place_of(image["file"]))),  # by its bytes: a name need not be UTF-8
            "prediction": printable(image["prediction"]),
            "probability": image["probability"],
            "explained": printable(image["explained_class"]),
            "methods": list(image["metrics"]),
        }
        for image in images
    ]
    failed = [{key: printable(text) for key, text in error.items()} for error in errors]
    # `</script>` in a file's name would end the element that the data stands in.
    data = json.dumps({"title": printable(title), "images": shown, "errors": failed}).replace("<", "\\u003c")
    (folder / INDEX).write_text(_TEMPLATE.read_text(encoding="utf-8").replace("{{data}}", data), encoding="utf-8")
