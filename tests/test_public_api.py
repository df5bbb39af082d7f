"""No public name, parameter or default changes before the changelog says so."""

import subprocess
import sys

import lightning_cam
from tests.public_api import LISTING, ROOT, _lines, documented, unsaid

CHANGELOG = (ROOT / "CHANGELOG.md").read_text()
RELEASED = LISTING.read_text().splitlines()


def test_what_differs_from_the_last_release_stands_in_the_changelog():
    # In a process of its own: here other tests may have registered what is theirs.
    done = subprocess.run([sys.executable, "-m", "tests.public_api"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    left = unsaid(RELEASED, done.stdout.splitlines(), CHANGELOG)
    assert not left, (
        "The public interface differs from tests/public_api.txt, the listing of the last release. Take these changes "
        "back, or name each line in CHANGELOG.md under [Unreleased], in backticks as it is written here:\n"
        + "\n".join(f"`{line}`" for line in left)
    )


def test_all_public_names_are_documented():
    assert {f"lightning_cam.{name}" for name in lightning_cam.__all__} <= set(documented())


def test_a_change_fails_until_the_changelog_says_so():
    before = ["a.explain", "a.explain(#0 model)", "a.explain(*, size=1)", "a.old"]
    now = ["a.explain", "a.explain(#0 model)", "a.explain(*, size=2)", "a.new"]
    changed = ["a.explain(*, size=1)", "a.old", "a.explain(*, size=2)", "a.new"]
    empty = "# Changelog\n\n## [Unreleased]\n\n## [0.1.0]\n" + " ".join(f"`{line}`" for line in changed)
    assert unsaid(before, now, empty) == changed  # said of an earlier release is not said of this one
    said = empty.replace(
        "## [Unreleased]\n", "## [Unreleased]\n\n- `a.explain(*, size=1)` is `a.explain(*, size=2)`.\n"
    )
    assert unsaid(before, now, said) == ["a.old", "a.new"]
    assert unsaid(before, before, empty) == []


def test_a_parameter_that_moves_is_a_change():
    def before(a, b=1): ...
    def after(b=1, a=None): ...

    assert list(_lines("f", before)) == ["f", "f(#0 a)", "f(#1 b=1)"]
    assert list(_lines("f", after)) == ["f", "f(#0 b=1)", "f(#1 a=None)"]
