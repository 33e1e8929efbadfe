# Needs GNU make and Python 3.11 or newer; every target installs what it needs into .venv first.
#
# PyTorch is the big part. On Linux pip's default build brings CUDA along, several GB; the CPU build is
# about 200 MB and is all the notebooks need. To have it, look up the CPU index under "Get started" on
# pytorch.org and pass it on:   make lab PIP_ARGS="--extra-index-url <the CPU index>"
#
# Without make (conda, Windows): see CONTRIBUTING.md.

PYTHON ?= python3
PIP_ARGS ?=
LAB_ARGS ?=
APP_ARGS ?=
TEST_ARGS ?=
BENCH ?=

VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
STAMP := $(VENV)/.installed
LOCK := $(VENV)/.installing
NOTEBOOK := notebooks/01_first_look.ipynb
DEMO := runs/demo
# Jupyter refuses to run as root unless told; a container has only root.
ROOT_ARGS := $(if $(filter 0,$(shell id -u)),--allow-root)

# `!adaptwin` in a notebook means ours, and so does the kernel called python3.
lab demo app test test-all: export PATH := $(BIN):$(PATH)
export JUPYTER_PREFER_ENV_PATH := 1

.PHONY: help setup lab demo app test test-all lint docs bench clean
.DEFAULT_GOAL := help

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(firstword $(MAKEFILE_LIST)) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 18
	@echo 'Variables: PYTHON=python3.12  PIP_ARGS=...  LAB_ARGS=...  APP_ARGS=...  WORKERS=2  TEST_ARGS="-k words"  BENCH=name'

setup: $(STAMP) ## .venv with everything for users, tests and benchmarks

# An installation that was killed leaves $(LOCK) behind. What such a .venv holds is anybody's guess, so it
# is made again; pip has kept its downloads.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
	  "Python 3.11 or newer is needed, $(PYTHON) is %s; try: make PYTHON=python3.12 $(MAKECMDGOALS)" % sys.version.split()[0])'
	@if [ -e $(LOCK) ]; then \
	  if kill -0 "$$(cat $(LOCK))" 2>/dev/null; then \
	    echo "Another make is installing into $(VENV); wait for it, or delete $(LOCK) if that is not so." >&2; exit 1; fi; \
	  echo "The last installation was interrupted; making $(VENV) again."; rm -rf $(VENV); fi; \
	rm -f $(STAMP); mkdir -p $(VENV); echo $$$$ > $(LOCK); \
	$(PYTHON) -m venv $(VENV) && \
	$(BIN)/python -m pip install -c constraints.txt $(PIP_ARGS) -e '.[base,asterisk,video,datasets,ctranslate2,onnx,peft,vocabulary,cluster,app,docs,test,dev]' || \
	  { status=$$?; rm -f $(LOCK); exit $$status; }; \
	rm -f $(LOCK); touch $(STAMP)

lab: $(STAMP) ## JupyterLab with the first notebook
	$(BIN)/python -m jupyterlab $(ROOT_ARGS) $(LAB_ARGS) $(NOTEBOOK)

demo: $(STAMP) ## the same notebook without a browser; results in runs/demo
	mkdir -p $(DEMO)
	ADAPTWIN_RUNS=$(CURDIR)/$(DEMO) $(BIN)/python notebooks/make_results.py $(NOTEBOOK) -o $(DEMO)
	@echo && echo "Results:" && find $(DEMO) -name '*.ipynb' -o -name '*.html' | sort | sed 's/^/  /'

app: $(STAMP) ## the Studio as an app: code hidden, every visitor alone
	cd app && JUPYTER_PATH=$(CURDIR)/app/jupyter $(BIN)/python -m voila studio.ipynb $(APP_ARGS)

# Two files at a time with one thread each: two processes with two threads each would wait for one another.
WORKERS ?= 2
test test-all: export OMP_NUM_THREADS := 1
test: $(STAMP) ## the quick suite
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(TEST_ARGS)

test-all: $(STAMP) ## every test
	$(BIN)/python -m pytest -m "" -n $(WORKERS) --dist loadfile $(TEST_ARGS)

lint: $(STAMP) ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(STAMP) ## the documentation in site/, without a network; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	@echo "Open site/index.html"

# picture.py draws what somebody else measured and has to be told what; peers is a folder.
BENCHES := $(filter-out picture,$(patsubst benchmarks/%.py,%,$(wildcard benchmarks/[a-z]*.py))) \
  $(patsubst benchmarks/%/__main__.py,%,$(wildcard benchmarks/[a-z]*/__main__.py))
bench: $(STAMP) ## every benchmark, or one: make bench BENCH=decoding
	@set -e; for file in $(foreach name,$(or $(BENCH),$(BENCHES)),$(or $(wildcard benchmarks/$(name).py),benchmarks/$(name))); do \
	  echo "== $$file"; $(BIN)/python $$file; done

clean: ## remove everything that was made here, .venv too (not runs/)
	rm -rf $(VENV) build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
