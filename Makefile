# Every command of the book. `make` alone lists them. Works with GNU make 3.81, which macOS still ships.
.DEFAULT_GOAL := help
.PHONY: help setup book test sync execute html pdf serve check bench gpu mutants standalone bench-site bench-live links spelling package lock address clean

# The first of these that is new enough makes .venv; 3.14 comes last because it is newer than those that the tests run on.
PYTHON ?= python3
PYTHONS = $(PYTHON) python3.13 python3.12 python3.11 python3.14
BIN := .venv/bin
PY := $(BIN)/python

# Chapters run in the environment's own kernel, and draw where a notebook draws, whatever the caller's shell says. Only
# `make execute` lets them write trained models.
unexport MPLBACKEND JUPYTER_PATH DDPM_NB_WRITE_WEIGHTS
export JUPYTER_PREFER_ENV_PATH := 1
# Python's own warnings about the debugger in frozen modules are noise in every kernel start.
export PYDEVD_DISABLE_FILE_VALIDATION := 1

# A chapter shows the authors' weights where it can reach the hub (143 MB); here nothing is fetched, so that every run is the same.
export HF_HUB_OFFLINE := 1

# Stored outputs are a CPU's, and are compared with a CPU's: what else the machine has stays hidden (`pytest tests/gpu` is
# for that).
export CUDA_VISIBLE_DEVICES :=
export ACCELERATE_TORCH_DEVICE := cpu

# Two processes at a time, of one thread each: on two cores torch's two threads stall, waiting for one another.
book test execute: export OMP_NUM_THREADS := 1
PARALLEL = -n 2 --dist loadfile

# A clock for the last line of a command; it starts after the set-up.
START = @mkdir -p _build && date +%s > _build/started

# The site is always built from a copy in _build/src, from nothing: leftovers would hide a warning. A build that "works" but
# leaves no page is a failure too (tools/report.py).
COPY = @rm -rf _build/src && mkdir -p _build/src && cp -Rp book _config.yml _toc.yml _build/src/
BUILD_SITE = @rm -rf _build/html _build/.doctrees _build/jupyter_execute && \
	$(BIN)/jupyter-book build _build/src --path-output . -W -n --keep-going

# nbval's strict mode. The longest cell trains for two minutes on two cores; a slow machine may take several times that. The
# tests' own rules on warnings are not for nbval: the cells run in another process.
NBVAL = $(PY) -m pytest -q --nbval --nbval-current-env --nbval-cell-timeout=1800 --nbval-kernel-startup-timeout=120 \
	-p no:cacheprovider -o filterwarnings=default -o testpaths=

# What torch needs for CUDA is not locked: torch pins it itself. uv takes its index from pip's configuration.
BY_TORCH = ^(nvidia-|cuda-|triton|pytorch-triton)
UV_COMPILE = UV_DEFAULT_INDEX="$${PIP_INDEX_URL:-$$($(PY) -m pip config get global.index-url 2>/dev/null)}" \
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-annotate --no-header

help: ## list the commands
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' Makefile | awk -F'|' '{ printf "%-17s %s\n", $$1, $$2 }'

setup: ## make or renew .venv (the other commands do it themselves)
	@for python in $(PYTHONS); do \
		$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && exec $$python tools/setup_env.py; \
	done; \
	echo "setup: Python 3.11 or newer is needed; $(PYTHON) is $$($(PYTHON) -V 2>&1), and no newer one is on" \
		"the PATH. If you have one elsewhere: make PYTHON=/path/to/it" >&2; exit 1

book: setup ## run copies of all chapters and build the site from them (changes no tracked file)
	$(START)
	$(COPY)
	@$(PY) -m tools.execute _build/src
	$(BUILD_SITE)
	@$(PY) -m tools.report book

test: setup ## every check: the site, the tests, every chapter run and compared with its stored outputs
	$(START)
	$(COPY)
	$(BUILD_SITE)
	@echo "== tests"
	@$(PY) -m pytest -q -rs $(PARALLEL)
	@echo "== chapters installed and imported in an environment that has what Colab has"
	@$(PY) -m tools.standalone --quick
	@echo "== chapters run, each alone in a folder, and compared with their stored outputs"
	@rm -rf _build/alone
	@for chapter in book/*.ipynb; do \
		folder=_build/alone/$$(basename $$chapter .ipynb); mkdir -p $$folder && cp $$chapter $$folder || exit 1; \
	done
	@$(NBVAL) $(PARALLEL) _build/alone/*/*.ipynb
	@$(PY) -m tools.report test

sync: setup ## bring the two views of each chapter together (book/x.ipynb and ddpm_nb/x.py)
	@$(PY) -m tools.sync $(if $(FROM),--from $(FROM))
	@$(PY) -m tools.index

execute: setup ## run all chapters (or CHAPTERS="forward loss") and store their outputs and models
	@$(PY) -m tools.sync
	@DDPM_NB_WRITE_WEIGHTS=1 $(PY) -m tools.execute . $(CHAPTERS)
	@$(PY) -m tools.pictures

html: setup ## build the site from the stored outputs
	$(START)
	$(COPY)
	$(BUILD_SITE)
	@$(PY) -m tools.report html

pdf: html ## the whole book as one PDF: _build/book.pdf
	@$(PY) -m tools.pdf

serve: ## show the built site at http://localhost:8000
	@$(PY) -m http.server --bind 127.0.0.1 --directory _build/html 8000

check: setup ## the fast checks: pairs, lint, types, spelling, links, alt text
	$(START)
	@$(PY) -m tools.sync --check
	@$(PY) -m tools.index --check
	@$(PY) -m ruff check --quiet
	@$(PY) -m ruff format --check --quiet || { echo "make check: run .venv/bin/ruff format, then make sync"; exit 1; }
	@$(PY) -m mypy --strict
	@$(PY) -m codespell_lib
	@$(PY) -m pytest -q -m fast
	@$(PY) -m tools.report check

bench: setup ## time the U-Net side by side with diffusers (or BENCH="train --rounds 3", BENCH=--ablate)
	@$(PY) -m benchmarks $(BENCH)

gpu: setup ## test and time everything on this machine's GPU, at most 20 minutes (or PARTS="peak,training" MINUTES=6)
	@env $(if $(CUDA_VISIBLE_DEVICES),,-u CUDA_VISIBLE_DEVICES) -u ACCELERATE_TORCH_DEVICE \
		$(PY) -m benchmarks.gpu $(if $(PARTS),--only $(PARTS)) $(if $(MINUTES),--minutes $(MINUTES))

mutants: setup ## break the package in every small way and see a test fail (hours; goes on where it stopped; or ROOMS="loss vae:rest")
	@$(PY) -m tools.mutants $(ROOMS)

standalone: setup ## run each notebook alone, in an empty folder, with what Colab has (or CHAPTERS="forward loss")
	@$(PY) -m tools.standalone $(CHAPTERS)

bench-site: html ## bytes and times of the site against jupyter-book's stock build (npm fetches MathJax)
	@$(PY) -m benchmarks.site

bench-live: html ## the live figures: long tasks, 64 digits, and Firefox beside Chromium (npm fetches puppeteer-core)
	@$(PY) -m benchmarks.live

links: setup ## ask every address on other hosts that the pages name (needs the network)
	$(COPY)
	@rm -rf _build/linkcheck && $(BIN)/jupyter-book build _build/src --path-output . --builder linkcheck

spelling: setup ## the spelling of everything
	@$(PY) -m codespell_lib

package: setup ## the files of a release (TAG=v0.1.0 must be the package's version)
	@$(PY) -m tools.package $(TAG)

lock: setup ## renew requirements.txt and requirements.lock with the newest versions that pyproject.toml allows
	@mkdir -p _build/lock && cat pyproject.toml tools/lock.toml > _build/lock/pyproject.toml
	@$(UV_COMPILE) pyproject.toml --directory _build/lock --upgrade --fork-strategy fewest \
		$(patsubst %,--extra %,train hub book test dev) -o pins
	@{ grep '^#' requirements.txt; grep -Ev '$(BY_TORCH)' _build/lock/pins | sed 's/ ;.*//'; } > _build/lock/requirements.txt
	@mv _build/lock/requirements.txt requirements.txt
	@$(UV_COMPILE) requirements.txt --no-deps --no-emit-package torch --generate-hashes -o requirements.lock
	@echo "make lock: $$(grep -c == requirements.txt) versions written to requirements.txt and requirements.lock; next: make test"

address: setup ## set the repository's address everywhere: make address REPO=owner/name
	@$(PY) -m tools.address "$(REPO)"

clean: ## remove what was built (the environment stays; remove .venv by hand)
	@rm -rf _build .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
	@find book ddpm_nb tools tests -name __pycache__ -type d -prune -exec rm -rf {} +
	@echo "make clean: what was built is gone"
