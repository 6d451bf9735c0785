# `make train` and `make test` are all that a newcomer needs; `make check` is the whole gate.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --constraint constraints.txt

.PHONY: train test serve check format benchmark-loop benchmark-training benchmark-studies benchmark-search benchmark-coverage benchmark-inference benchmark-serve benchmark-scale proofs frontier ablations documents readme docs size clean

train: $(VENV)/installed  ## train the default network; makes the environment first
	$(BIN)/tinydigits train

test: $(VENV)/installed-dev  ## all but the slow tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal

serve: $(VENV)/installed-serve  ## a page to draw on, and an HTTP interface
	$(BIN)/tinydigits serve

check: $(VENV)/installed-dev  ## style, types, tests: exactly what CI runs
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(MAKE) test

format: $(VENV)/installed-dev
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

benchmark-loop: $(VENV)/installed  ## speed and size of one training run -> results/loop.json
	$(BIN)/python -m benchmarks.loop

benchmark-training: $(VENV)/installed  ## training speed beside others -> results/training.json, docs/performance.md
	$(BIN)/python -m benchmarks.training
	$(BIN)/python -m docs.performance

benchmark-studies: $(VENV)/installed  ## what a study costs beside its runs -> results/studies.json
	$(BIN)/python -m benchmarks.studies

benchmark-search: $(VENV)/installed-search  ## a search under a course's budget -> results/search.json
	$(BIN)/python -m benchmarks.search

benchmark-coverage: $(VENV)/installed  ## how often the intervals hold -> results/coverage.json, docs/statistics.md
	$(BIN)/python -m benchmarks.coverage

benchmark-inference: $(VENV)/installed-bench  ## exported networks against each other -> results/inference.json
	$(BIN)/python -m benchmarks.inference

benchmark-serve: $(VENV)/installed-serve  ## the HTTP server under load, good and bad -> results/serve.json
	$(BIN)/python -m benchmarks.serve

benchmark-scale: $(VENV)/installed-ray  ## many runs, on processes and on Ray -> results/scale.json, docs/scale.md
	$(BIN)/python -m benchmarks.scale

proofs: $(VENV)/installed  ## the studies behind shipped weights and verdicts -> results/proofs
	$(BIN)/python -m benchmarks.proofs

frontier: $(VENV)/installed  ## the best networks of each size -> results/frontier.json
	$(BIN)/python -m benchmarks.frontier

ablations: $(VENV)/installed  ## what the documents' proposals are worth -> results/ablations.json
	$(BIN)/python -m benchmarks.ablations

documents: $(VENV)/installed  ## the pages on the five documents -> docs/documents
	$(BIN)/python -m docs.documents

readme: $(VENV)/installed-serve  ## the figures, captures and pictures of README.md and docs/, made again
	$(BIN)/python -m docs.readme

docs: export NO_MKDOCS_2_WARNING := 1
docs: $(VENV)/installed-docs  ## the site -> site/, without a network; open site/index.html
	$(BIN)/python -m docs.commands
	$(BIN)/python -m mkdocs build --strict

$(VENV)/python:
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/installed: $(VENV)/python pyproject.toml constraints.txt
	$(INSTALL) --editable .
	touch $@

$(VENV)/installed-%: $(VENV)/installed
	$(INSTALL) --editable '.[$*]'
	touch $@

$(VENV)/installed-bench: $(VENV)/installed-dev
	$(INSTALL) emx-onnx-cgen==1.4.0
	touch $@

size:  ## lines of Python by package, beside those of the last tag
	@$(PYTHON) benchmarks/size.py

clean:
	rm -rf $(VENV) build dist site src/*.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
