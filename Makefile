# Two commands for a fresh machine: `make quickstart` and `make test`. Each does all its set-up first.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
OUT    ?= quickstart

# Modules are compiled when they are imported, which few of the packages' 20,000 files ever are. The first process keeps
# them for all later ones, each of which would else compile PyTorch anew, which doubles the seconds of its start.
unexport PYTHONDONTWRITEBYTECODE
INSTALL := $(BIN)/pip install --no-compile

# Two tests at a time, a file's tests in one process.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

# Once, where many processes at a time would each do it: kernels, and the modules that a run imports.
COMPILE := $(BIN)/python -c "import seer.data.crops.kernel, seer.data.crops.resize, tests.kit.warm"

.PHONY: quickstart test quick check bench gpu clean

quickstart: $(VENV)/.installed          ## embedded photographs → shards → SwAV → scores → report
	$(BIN)/seer quickstart --out $(OUT)

test: $(VENV)/.dev                      ## the whole test suite
	$(COMPILE)
	$(BIN)/python -m pytest tests/slurm
	$(PYTEST) --ignore tests/slurm

quick: $(VENV)/.dev                     ## in two minutes: the tests of what differs from main, and what looks at everything
	$(COMPILE)
	$(PYTEST) -m "not slow" $$($(BIN)/python -m tests.kit.changed)

check: $(VENV)/.dev                     ## lint, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy seer shards launch

bench: $(VENV)/.dev                     ## the README's figures, each against its peer; CIFAR10=DIR, PHOTOGRAPHS=DIR
	$(BIN)/python benchmarks/step.py --json step.json
	$(BIN)/python benchmarks/plan.py --json plan.json
	$(BIN)/python benchmarks/order_scale.py --json order_scale.json
	$(BIN)/python benchmarks/checkpoint.py --json checkpoint.json
	$(BIN)/python benchmarks/build.py --json build.json
	test -z "$(PHOTOGRAPHS)" || $(BIN)/python benchmarks/loader.py "$(PHOTOGRAPHS)" --json loader.json
	test -z "$(PHOTOGRAPHS)" || $(BIN)/python benchmarks/multicrop.py "$(PHOTOGRAPHS)" --json multicrop.json
	test -z "$(CIFAR10)" || $(BIN)/python benchmarks/cifar.py "$(CIFAR10)" --json cifar.json

gpu:                                    ## what only a GPU can prove, in eight minutes, without installation; PHOTOGRAPHS=DIR, CIFAR10=DIR
	$(PYTHON) benchmarks/gpu/run.py $(if $(PHOTOGRAPHS),--data "$(PHOTOGRAPHS)") $(if $(CIFAR10),--cifar "$(CIFAR10)")

clean:
	rm -rf $(VENV) build *.egg-info

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "seer needs Python 3.11 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: setup.py | $(VENV)/bin/python
	$(INSTALL) --editable .
	touch $@

$(VENV)/.dev: setup.py | $(VENV)/bin/python
	$(INSTALL) --editable '.[dev]'
	touch $@ $(VENV)/.installed
