"""`index.html`: all images of a run in one page that needs nothing but the files beside it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

INDEX = "index.html"
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
            "file": image["file"],
            "prediction": image["prediction"],
            "probability": image["probability"],
            "explained": image["explained_class"],
            "methods": list(image["metrics"]),
        }
        for image in images
    ]
    # `</script>` in a file's name would end the element that the data stands in.
    data = json.dumps({"title": title, "images": shown, "errors": errors}).replace("<", "\\u003c")
    (folder / INDEX).write_text(_TEMPLATE.read_text(encoding="utf-8").replace("{{data}}", data), encoding="utf-8")
