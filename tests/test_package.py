"""What the package says of itself, and what comes with it."""

import re
import subprocess
import sys
from importlib.metadata import metadata
from importlib.resources import files
from pathlib import Path

import lightning_cam
from tests.newest import NEWEST

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # comes with pytest there

ROOT = Path(__file__).parent.parent


def test_the_version_is_that_of_the_installed_package():
    assert lightning_cam.__version__ == metadata("lightning-cam")["Version"]


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
        assert f"def {function}(" in (ROOT / file).read_text() and reason, name
