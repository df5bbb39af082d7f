"""What holds for all tests."""

import os
from fnmatch import fnmatchcase

from tests.newest import NEWEST

# Set before torch is imported: the tests run side by side, and more threads each would only get in each other's way.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_addoption(parser):
    parser.addoption("--oldest", action="store_true", help="leave out the tests of tests/newest.py")


def pytest_collection_modifyitems(config, items):
    if config.getoption("oldest"):
        patterns = [name.replace("[", "[[]") for name in NEWEST]
        left_out = [item for item in items if any(fnmatchcase(item.nodeid, pattern) for pattern in patterns)]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
