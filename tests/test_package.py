"""What the package says of itself, and what comes with it."""

import subprocess
import sys
from importlib.metadata import metadata
from importlib.resources import files

import lightning_cam


def test_the_version_is_that_of_the_installed_package():
    assert lightning_cam.__version__ == metadata("lightning-cam")["Version"]


def test_importing_the_package_imports_no_torch():
    code = "import sys, lightning_cam; assert not {'torch', 'lightning', 'numpy', 'PIL'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_type_checkers_are_told_that_it_is_typed():
    assert (files("lightning_cam") / "py.typed").is_file()
