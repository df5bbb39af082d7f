"""What some tests need besides Python's packages."""

import os
from typing import NoReturn

import pytest


def skip_what_needs(missing: str) -> NoReturn:
    """Skip a test for something that is missing here; in CI, which installs it, the test fails."""
    if os.environ.get("CI"):
        pytest.fail(missing)
    pytest.skip(missing)
