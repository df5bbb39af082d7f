"""Processes that train together, started once for all tests that read what they leave."""

import os
import subprocess
import sys
import time
from pathlib import Path
from subprocess import DEVNULL, PIPE

ROOT = Path(__file__).parent.parent.parent


def once(tmp_path_factory, worker_id, name, run):
    """The folder in which `run` left something. Test processes that run side by side share one run."""
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / name
    try:
        folder.mkdir()
    except FileExistsError:
        deadline = time.monotonic() + 480
        while not (folder / "done").exists() and time.monotonic() < deadline:
            time.sleep(0.2)
    else:
        try:
            run(folder)
        finally:
            (folder / "done").touch()
    return folder


def launch(module, *arguments, timeout):
    """Run a module, whose first Trainer starts the other processes."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", module, *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path},
        timeout=timeout,
        stdout=DEVNULL,
        stderr=PIPE,
    )
    assert done.returncode == 0, done.stderr.decode()[-3000:]
