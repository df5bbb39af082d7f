# Every target sets up what it needs in .venv; only Python (3.10 or later) and make are assumed.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-architectures test-oldest lint lint-page docs dist benchmark clean

demo: .venv/examples.stamp
	$(BIN)/python -m examples.demo

test: .venv/dev.stamp
	$(BIN)/python -m pytest -n auto

test-architectures: .venv/dev.stamp
	$(BIN)/python -m pytest -n auto -m architectures tests/architectures

# The lowest versions that pyproject.toml allows, and in the oldest TensorBoard that the page is for, what depends on it:
# how it serves and frames the page, keeps its address and follows runs. The rest of the page is the browser's work.
IN_OLDEST_TENSORBOARD := $(addprefix tests/review/test_,callback_logs.py plugin.py plugin_hostile.py page.py \
	page_address.py page_hostile.py page_save.py page_special.py)
test-oldest: .venv/dev.stamp .venv/oldest.stamp
	.venv/oldest/bin/python -m pytest -n auto --oldest --ignore tests/review
	TENSORBOARD_PYTHON=$(CURDIR)/.venv/oldest/bin/python $(BIN)/python -m pytest -n auto $(IN_OLDEST_TENSORBOARD)

lint: .venv/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

# The types in the page's JavaScript. Not a part of lint: it needs npm and a network.
lint-page:
	npx --yes --package typescript@5.9 tsc

# The documentation, in build/site. A broken link, an undocumented parameter or a page that loads something fails it.
docs: .venv/docs.stamp
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

# What a release uploads, in dist.
dist: .venv/release.stamp
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/python -m twine check --strict dist/*

benchmark: .venv/dev.stamp
	$(BIN)/python -m benchmarks.speed

.venv/%.stamp: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[$*]'
	touch $@

# It wants older packages than the rest, so it has an environment of its own. They need Python 3.10 or 3.11.
OLDEST_PYTHON ?= $(PYTHON)
.venv/oldest.stamp: pyproject.toml tests/oldest-requirements.txt
	$(OLDEST_PYTHON) -m venv --clear .venv/oldest
	.venv/oldest/bin/python -m pip install --quiet --requirement tests/oldest-requirements.txt
	.venv/oldest/bin/python -m pip install --quiet --no-deps --editable .
	.venv/oldest/bin/python -m pip check
	touch $@

clean:
	rm -rf .venv
