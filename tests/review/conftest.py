"""A browser and a TensorBoard for the tests of the page."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lightning_cam.timeline.report import write_report
from tests.missing import skip_what_needs
from tests.review.driving import ENTRY, IN_TENSORBOARD

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)


@contextlib.contextmanager
def tensorboard(logdir: Path, *arguments: str) -> Iterator[str]:
    """Run a TensorBoard, that of the environment TENSORBOARD_PYTHON if set, and give its address."""
    command = [os.environ.get("TENSORBOARD_PYTHON", sys.executable), "-m", "tensorboard.main", "--port=0", *arguments]
    if not any(argument.startswith("--logdir") for argument in arguments):
        command.append(f"--logdir={logdir}")
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    try:
        assert process.stderr is not None
        said = ""
        for line in process.stderr:
            said += line
            if found := re.search(r"(http://localhost:\d+\S*)", line):
                break
        else:
            pytest.fail(f"TensorBoard ended with {process.wait()}:\n{said}")
        yield found[1].rstrip("/")
    finally:
        process.kill()
        process.communicate()


@contextlib.contextmanager
def everywhere(logdir: Path) -> Iterator[dict[str, str]]:
    """The page alone, TensorBoard with the page in its frame, and the report from disk, as addresses."""
    with tensorboard(logdir) as address:
        report = write_report(logdir, logdir / "report.html").as_uri()
        yield {"tab": address + ENTRY, "tensorboard": address + IN_TENSORBOARD, "report": report}


def chromium() -> str | None:
    """Return the path of an installed Chromium."""
    return next(filter(None, map(shutil.which, CHROMIUM)), None)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    path = chromium()
    if path is None:
        skip_what_needs("no Chromium here: the page cannot be tested (apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(ARGUMENTS))
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Any) -> Iterator[Callable[..., Any]]:
    """Open an address in a fresh profile, the page's grid if it says no view; an error on the page fails the test."""
    with contextlib.ExitStack() as stack:
        errors: list[str] = []

        def open_page(address: str, **options: Any) -> Any:
            context = browser.new_context(viewport={"width": 1400, "height": 900}, **options)
            stack.callback(context.close)
            page = context.new_page()
            page.on("pageerror", lambda error: errors.append(str(error)))
            page.on("dialog", lambda dialog: errors.append(f"dialog: {dialog.message}"))
            page.requested = []
            page.on("request", lambda request: page.requested.append(request.url))
            page.goto(address if "#" in address else f"{address}#view=grid")
            return page

        yield open_page
        assert errors == []


@pytest.fixture
def page(server: str, open_page: Callable[..., Any]) -> Any:
    """The tab alone, on the records that a test module's `server` serves, with its tiles drawn."""
    page = open_page(server + ENTRY)
    page.wait_for_selector(".tile")
    return page
