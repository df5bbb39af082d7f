"""What holds for all tests."""

import logging
import os
from fnmatch import fnmatchcase

import pytest

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


@pytest.fixture(autouse=True)
def log_levels_kept():
    """What a demo or a benchmark makes quiet is heard again in the next test."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric", "lightning_cam")]
    levels = [logger.level for logger in loggers]
    yield
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)
