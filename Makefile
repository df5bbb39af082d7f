# Every target sets up what it needs in .venv; only Python (3.10 or later) and make are assumed.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-architectures test-oldest-tensorboard lint lint-page benchmark clean

demo: .venv/examples.stamp
	$(BIN)/python -m examples.demo

test: .venv/dev.stamp
	$(BIN)/python -m pytest -n auto

test-architectures: .venv/dev.stamp
	$(BIN)/python -m pytest -n auto -m architectures tests/architectures

# The page in the oldest TensorBoard that it is for.
test-oldest-tensorboard: .venv/dev.stamp .venv/tensorboard-2.12.stamp
	TENSORBOARD_PYTHON=$(CURDIR)/.venv/tensorboard-2.12/bin/python $(BIN)/python -m pytest -n auto tests/review

lint: .venv/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

# The types in the page's JavaScript. Not a part of lint: it needs npm and a network.
lint-page:
	npx --yes --package typescript@5.9 tsc

benchmark: .venv/dev.stamp
	$(BIN)/python -m benchmarks.speed

.venv/%.stamp: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[$*]'
	touch $@

# It wants older packages than the rest, so it has an environment of its own.
.venv/tensorboard-2.12.stamp: .venv/dev.stamp
	$(PYTHON) -m venv .venv/tensorboard-2.12
	.venv/tensorboard-2.12/bin/python -m pip install --quiet 'tensorboard==2.12.0' 'numpy<2' 'protobuf<4' 'setuptools<70' six
	.venv/tensorboard-2.12/bin/python -m pip install --quiet --no-deps --editable .
	touch $@

clean:
	rm -rf .venv
