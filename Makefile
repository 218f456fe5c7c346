# Everything runs in .venv, which is made, and made again, whenever it is missing or older than
# what it was made from. Needs Python 3.11 or newer with pip and venv; nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
COCO ?= ../shared/data/coco

FLOOR_TESTS ?= tests/unit tests/cli
FLOOR_EXTRAS := quantize,onnxruntime,openvino,search,ray,report,app

.PHONY: demo test test-slow test-floors arm64 lint format bench screenshots docs docs-site clean

demo: $(READY)  ## quantize and score the shipped models, simulated and on real engines; writes quantsam-demo/report.html
	$(BIN)/quantsam demo --out quantsam-demo

test: $(READY) lint  ## lint, types, layers and the tests
	$(BIN)/python -m pytest -m "not slow" -n 2 --dist loadfile --max-worker-restart 0

test-slow: $(READY)  ## the long tests alone
	$(BIN)/python -m pytest -m slow

arm64: $(READY)  ## bring an Arm Python and its engines, for the slow tests under an emulator; Debian, root
	tests/arm64.sh $(BIN)/python

test-floors: .venv-floors/.ready  ## the tests of what other packages do for us, with the lowest versions declared
	.venv-floors/bin/python -m pytest -m "not slow" -n 2 --dist loadfile --max-worker-restart 0 $(FLOOR_TESTS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY)  ## mend what can be mended by machine
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY)  ## measure; writes benchmarks/results/
	$(BIN)/python benchmarks/speed.py
	$(BIN)/python benchmarks/memory.py
	$(BIN)/python benchmarks/accuracy.py --coco $(COCO)
	$(BIN)/python benchmarks/engines.py
	$(BIN)/python benchmarks/operators.py
	$(BIN)/python benchmarks/agreement.py --coco $(COCO)
	$(BIN)/python benchmarks/processors.py
	$(BIN)/python benchmarks/processors_l0.py
	$(BIN)/python benchmarks/saturation.py
	$(BIN)/python benchmarks/causes.py --coco $(COCO)
	$(BIN)/python benchmarks/repair.py
	$(BIN)/python benchmarks/repair_scores.py --coco $(COCO)
	$(BIN)/python benchmarks/search.py --coco $(COCO)
	$(BIN)/python benchmarks/sensitivity.py
	$(BIN)/python benchmarks/sweep.py
	$(BIN)/python benchmarks/distributions.py
	$(BIN)/python benchmarks/report.py
	$(BIN)/python benchmarks/starting.py

screenshots: $(READY)  ## take the images of docs/img/ anew; needs Chromium
	$(BIN)/python docs/screenshots.py

docs: $(READY)  ## fill the tables of README.md and docs/ from benchmarks/results/, and the samples of output from the commands
	$(BIN)/python benchmarks/tables.py
	$(BIN)/python docs/command_samples.py

docs-site: $(READY)  ## build the documentation into site/, links checked; open site/index.html
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

$(READY): pyproject.toml constraints.txt Makefile
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "quantsam needs Python 3.11 or newer")'
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

.venv-floors/.ready: pyproject.toml constraints-floors.txt Makefile
	rm -rf .venv-floors
	$(PYTHON) -m venv .venv-floors
	PIP_CONSTRAINT=constraints-floors.txt .venv-floors/bin/python -m pip install --quiet --disable-pip-version-check \
	  -e '.[$(FLOOR_EXTRAS)]' pytest pytest-timeout pytest-xdist hypothesis httpx httpx2
	touch $@

clean:
	rm -rf $(VENV) .venv-floors build dist site quantsam-demo src/*.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
