"""`index.html` of `lightning-cam explain` in a browser, for images and classes of any name."""

from __future__ import annotations

import json
import os
from urllib.parse import unquote_to_bytes

import pytest
from PIL import Image

from lightning_cam.cli.gallery import write_gallery
from lightning_cam.cli.results import INDEX, place_of
from tests.hostile import NAMES

HOSTILE = "</script><img src=x onerror=alert(1)>\u202e\n"


@pytest.fixture
def run_folder(tmp_path):
    """What a run over images of all names leaves."""
    images = []
    for name in sorted(NAMES):
        place = tmp_path / "m" / place_of(name)
        place.mkdir(parents=True)
        for picture in ("image", "gradcam++", "contact"):
            Image.new("RGB", (8, 8)).save(place / f"{picture}.jpg")
        images.append(
            {
                "file": name,
                "prediction": HOSTILE,
                "probability": None,
                "explained_class": "b",
                "metrics": {"gradcam++": {}},
            }
        )
    errors = [{"file": HOSTILE, "error": HOSTILE}]
    write_gallery(tmp_path / "m", HOSTILE, images, errors)
    return tmp_path / "m"


def test_every_picture_is_shown_and_nothing_in_a_name_runs(run_folder, open_page):
    page = open_page((run_folder / INDEX).as_uri())
    pictures = page.locator("article img").evaluate_all(
        "all => Promise.all(all.map((image) => { image.loading = 'eager'; return image.decode().then(() => true); }))"
    )
    assert pictures == [True] * 2 * len(NAMES)  # each one is there
    shown = page.locator("article h2").all_text_contents()
    assert len(shown) == len(NAMES) and all("\u202e" not in text and "\n" not in text for text in shown)
    assert any(text.startswith(r"a\nb.png") for text in shown)
    assert all(r"onerror=alert(1)>\u202e\n ?, explained: b" in text for text in shown)
    assert page.title() == page.inner_text("h1") == r"</script><img src=x onerror=alert(1)>\u202e\n"
    assert page.locator("script").count() == 2 and page.locator("li img, h1 img, h2 img").count() == 0
    page.locator("input[type=search]").fill("caf")
    assert page.locator("article").count() == 1


def test_links_lead_to_the_pictures_and_nowhere_else(run_folder, open_page):
    page = open_page((run_folder / INDEX).as_uri())
    links = page.locator("article a").evaluate_all("all => all.map((link) => link.href)")
    assert len(links) == 3 * len(NAMES)
    for link in links:
        assert link.startswith(run_folder.as_uri() + "/")
        path = os.path.realpath(unquote_to_bytes(link.removeprefix("file://")))
        assert path.startswith(os.fsencode(run_folder) + b"/") and os.path.isfile(path)
    assert all(url.startswith(run_folder.as_uri()) for url in page.requested)


def test_what_the_page_holds_is_json_and_no_markup(run_folder):
    text = (run_folder / INDEX).read_text(encoding="utf-8")
    data = text.split('type="application/json">')[1].split("</script>")[0]
    assert "<" not in data and len(json.loads(data)["images"]) == len(NAMES)
