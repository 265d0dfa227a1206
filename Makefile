# `make quickstart` and `make test` work on a bare machine with Python, git and make.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do command -v $$p && break; done)
BIN := .venv/bin
READY := .venv/.ready
OUTPUT ?= output/quickstart
QUICK_CONFIG := configs/quick/shapes_panoptic_lvt.py
export DETECTRON2_DATASETS ?= datasets
# Threads that wait sleep, which is fairer to other programs on the machine, and faster beside them.
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: help venv quickstart test test-slow results lint format clean

help:  ## show the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

venv: $(READY)  ## create .venv with pinned versions

$(READY): setup.py constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test,lint]'
	@touch $@

quickstart: $(READY)  ## generate data, train, evaluate and draw, on the CPU or one GPU
	$(BIN)/python datasets/make_shapes.py
	$(BIN)/python tools/lazyconfig_train_net.py --config-file $(QUICK_CONFIG) \
		--num-gpus $$($(BIN)/python -c 'import torch; print(min(1, torch.cuda.device_count()))') \
		train.output_dir=$(OUTPUT)
	@echo "Pictures: $(OUTPUT)/inference/pictures"

test: $(READY)  ## run the tests
	$(BIN)/python -m pytest

results: $(READY)  ## write the result tables of the documents from docs/results.json
	$(BIN)/python tools/render_results.py

test-slow: $(READY)  ## run the tests that take minutes
	$(BIN)/python -m pytest -m slow

lint: $(READY)  ## check style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(READY)  ## mend style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove what was built
	rm -rf .venv build *.egg-info .pytest_cache .ruff_cache
