# Two commands do everything on a machine with Python 3.11 or 3.12, make and git: `make demo` and `make test`.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:

# The first of these that runs and is 3.11 or 3.12 (a version manager's shim may exist and not run).
PYTHON ?= $(shell for p in python3.12 python3.11 python3 python; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' 2>/dev/null && echo $$p && break; done)
UV_VERSION := 0.13.8
RECIPE ?= demo
DATA ?=
RUNS ?= runs/$(RECIPE)
BUNDLE ?= $(RUNS)/bundle
PORT ?= 8000
ONLY ?=

.PHONY: install demo test check bench serve lock clean
install: .venv/.done

.venv/uv/bin/uv:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or 3.12 is needed and none was found; set PYTHON=/path/to/python3.11" >&2; exit 1; }
	$(PYTHON) -m venv .venv/uv
	.venv/uv/bin/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

.venv/.done: requirements.lock pyproject.toml | .venv/uv/bin/uv
	.venv/uv/bin/uv venv --quiet --allow-existing --python $(PYTHON) .venv
	DS_BUILD_OPS=0 .venv/uv/bin/uv pip sync --quiet --python .venv/bin/python --require-hashes requirements.lock
	.venv/uv/bin/uv pip install --quiet --python .venv/bin/python --no-deps --no-build-isolation --editable .
	touch $@

# The S3 server of the tests (OpenStack Swift) has pins of its own.
.venv-s3/.done: tests/system/s3server.lock | .venv/uv/bin/uv
	.venv/uv/bin/uv venv --quiet --allow-existing --python $(PYTHON) .venv-s3
	.venv/uv/bin/uv pip sync --quiet --python .venv-s3/bin/python --require-hashes tests/system/s3server.lock
	touch $@

demo: .venv/.done
	.venv/bin/python -m eegdecode.runtime.demo --recipe $(RECIPE) --set compute.data_uri=$(DATA) --set compute.runs_uri=$(RUNS)

test: .venv/.done .venv-s3/.done
	.venv/bin/python -m pytest

check: .venv/.done
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy eegdecode jobs

# The libraries that `make bench` compares with have pins of their own, too. Without them, or without the S3 server, the
# benchmark says which figures are left out.
.venv-bench/.done: tests/bench/peers.lock | .venv/uv/bin/uv
	.venv/uv/bin/uv venv --quiet --allow-existing --python $(PYTHON) .venv-bench
	.venv/uv/bin/uv pip sync --quiet --python .venv-bench/bin/python --require-hashes tests/bench/peers.lock
	touch $@

bench: .venv/.done
	$(if $(filter-out stream,$(ONLY)),,-$(MAKE) --keep-going .venv-bench/.done .venv-s3/.done)
	.venv/bin/python tests/bench/run.py $(ONLY)

serve: .venv/.done
	.venv/bin/python -m eegdecode.runtime.serve --bundle $(BUNDLE) --port $(PORT)

# After a change of the dependencies in pyproject.toml; writes no download address.
lock: .venv/uv/bin/uv
	.venv/uv/bin/uv pip compile pyproject.toml --quiet --all-extras --group dev --universal --python-version 3.11 \
		--generate-hashes --no-emit-index-url --no-annotate --no-header --output-file requirements.lock
	.venv/uv/bin/uv pip compile tests/bench/peers.in --quiet --universal --python-version 3.11 \
		--generate-hashes --no-emit-index-url --no-annotate --no-header --output-file tests/bench/peers.lock

clean:
	rm -rf .venv .venv-s3 .venv-bench runs .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
