"""What the docs name is there."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_each_guarantee_names_a_test():
    file, count = "", 0
    for own, test in re.findall(r"`(test_\w+\.py)?(?:::(\w+))?`", (ROOT / "docs/guarantees.md").read_text()):
        file = own or file
        if own or test:
            source = next((ROOT / "tests").rglob(file)).read_text()
            assert not test or f"def {test}(" in source, f"{file}::{test}"
            count += 1
    assert count > 50
