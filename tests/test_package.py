"""What the package says of itself, and what comes with it."""

import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import metadata
from importlib.resources import files
from pathlib import Path
from zipfile import ZipFile

import pytest

import lightning_cam
from tests.newest import NEWEST

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # comes with pytest there

ROOT = Path(__file__).parent.parent


def test_the_version_is_that_of_the_installed_package():
    assert lightning_cam.__version__ == metadata("lightning-cam")["Version"]


def test_the_version_stands_in_one_place():
    assert f"\nversion: {lightning_cam.__version__}\n" in (ROOT / "CITATION.cff").read_text()  # which has no way to ask
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dynamic"] == ["version"]


def test_importing_the_package_imports_no_torch():
    code = "import sys, lightning_cam; assert not {'torch', 'lightning', 'numpy', 'PIL'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_type_checkers_are_told_that_it_is_typed():
    assert (files("lightning_cam") / "py.typed").is_file()


def test_the_lowest_versions_are_those_that_are_tested():
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    lowest = dict(re.fullmatch(r"(.+)>=(.+)", dependency).groups() for dependency in dependencies)
    pinned = dict(re.findall(r"(?m)^([^#\s]+)==(\S+)", (ROOT / "tests/oldest-requirements.txt").read_text()))
    lowest["lightning"] = lowest.pop("lightning[pytorch-extra]")  # of the extra, jsonargparse is enough
    assert lowest == {name: pinned.get(name) for name in lowest}


def test_what_is_left_out_with_the_lowest_versions_is_there():
    for name, reason in NEWEST.items():
        file, *_, function = name.partition("[")[0].split("::")
        written = [part for part in function.split("*") if part] if "*" in function else [f"def {function}("]
        assert all(part in (ROOT / file).read_text() for part in written) and reason, name


@pytest.fixture(scope="module")
def dist(tmp_path_factory):
    """The source distribution and the wheel made of it, as a release has them."""
    source, made = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in ("README.md", "LICENSE", "pyproject.toml"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "lightning_cam", source / "lightning_cam", ignore=shutil.ignore_patterns("__pycache__"))
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", made, source)
    return made


@pytest.fixture(scope="module")
def installed(dist, tmp_path_factory):
    """The folder that the wheel is installed into."""
    target = tmp_path_factory.mktemp("installed")
    (wheel,) = dist.glob("*.whl")
    run(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", target, wheel)
    return target


def run(*command, **options):
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def outside(installed, *command):
    """Run a Python with the installed package, far from the source tree."""
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    return run(sys.executable, *command, cwd=installed.parent, env=environment)


def test_the_wheel_is_small_and_holds_all_that_the_package_reads(dist):
    (wheel,) = dist.glob("*.whl")
    assert wheel.stat().st_size < 1_000_000
    with ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if name.startswith("lightning_cam/")}
    package = ROOT / "lightning_cam"
    there = {str(path.relative_to(ROOT)) for path in package.rglob("*") if path.is_file() and path.suffix != ".pyc"}
    assert held == there


def test_package_indexes_take_the_distributions(dist):
    run(sys.executable, "-m", "twine", "check", "--strict", *dist.iterdir())


def test_the_installed_wheel_runs_without_the_source_tree(installed):
    where = outside(installed, "-c", "import lightning_cam; print(lightning_cam.__file__)")
    assert Path(where.strip()) == installed / "lightning_cam" / "__init__.py"
    assert "explain" in outside(installed, installed / "bin" / "lightning-cam", "--help")


def test_the_installed_tab_hands_out_its_files(installed):
    code = """
import sys
from types import SimpleNamespace
from tensorboard.plugins.base_plugin import TBContext
from werkzeug.test import Client
from lightning_cam.tensorboard_plugin.loader import CamTimelineLoader

context = TBContext(logdir="", flags=SimpleNamespace(logdir_spec=""))
client = Client(CamTimelineLoader().load(context).get_plugin_apps()["/static/*"])
for name in sys.argv[1:]:
    assert client.get(f"/static/{name}").status_code == 200, name
"""
    static = ROOT / "lightning_cam" / "tensorboard_plugin" / "static"
    outside(installed, "-c", code, *(path.name for path in static.iterdir()))
