# Every target sets up what it needs in .venv; only Python (3.10 or later) and make are assumed.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-architectures lint benchmark clean

demo: .venv/examples.stamp
	$(BIN)/python -m examples.demo

test: .venv/dev.stamp
	$(BIN)/python -m pytest -n auto

test-architectures: .venv/dev.stamp
	$(BIN)/python -m pytest -n auto -m architectures tests/architectures

lint: .venv/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

benchmark: .venv/dev.stamp
	$(BIN)/python -m benchmarks.speed

.venv/%.stamp: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[$*]'
	touch $@

clean:
	rm -rf .venv
