# Two commands are enough: `make demo` and `make test`. Each sets up everything it needs, inside this folder.
.DEFAULT_GOAL := help
.PHONY: help install demo kuairand test test-fast stubs docs audit lint clean

PYTHON ?= python3.11
# An installed uv is used; a missing one is put into this folder.
UV := $(or $(shell command -v uv),.uv/bin/uv)
RUN := .venv/bin
DATA ?= data/kuairand
# Extras for object stores and MLflow: make install STORES="s3 gcs hdfs mlflow"
STORES ?=
export TF_CPP_MIN_LOG_LEVEL = 3

help:  ## Print this list.
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

# Only a missing uv has a rule to make it.
.uv/bin/uv:
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is missing: install Python 3.11, or name it: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv .uv || { echo "on Debian: apt-get install python3.11-venv"; exit 1; }
	.uv/bin/pip install --quiet --disable-pip-version-check uv

install: $(UV)  ## Install the locked packages into .venv, compiled once: it halves the start of every command.
	$(UV) sync --locked --extra pipeline $(STORES:%=--extra %) --python $(PYTHON) --compile-bytecode --quiet

demo: install  ## Install and run the whole pipeline on MovieLens-100K (two to four minutes).
	$(RUN)/mixrank run movielens

kuairand: install  ## The same on KuaiRand-Pure: make kuairand DATA=/path/to/the/files
	$(RUN)/mixrank run kuairand --set data=$(DATA)

stubs: install  ## Generate the client's messages from tensorflow_serving.proto.
	$(RUN)/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. mixrank/serving/client/tensorflow_serving.proto

docs: $(UV)  ## Build the documentation site into site/, in an environment of its own.
	$(UV) run --locked --isolated --only-group docs --python $(PYTHON) mkdocs build --strict --quiet

audit: $(UV)  ## Look the locked packages up in the advisories of the package index.
	$(UV) export --locked --quiet --no-default-groups --extra pipeline --extra s3 --extra gcs --extra hdfs --extra mlflow \
		--no-emit-project --no-hashes \
		| $(UV) tool run pip-audit --requirement /dev/stdin --no-deps --disable-pip

lint: install  ## Style, types and import rules, those of the tests included.
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/mypy
	$(RUN)/lint-imports
	$(RUN)/deptry schemas layers serving components pipeline
	$(RUN)/python -m pytest -q tests/test_house.py

test-fast: install  ## The fast tests, in two processes.
	$(RUN)/python -m pytest -q -n 2 --dist loadfile -m "not slow"

test: lint  ## Install, check and run every test, in two processes.
	$(RUN)/python -m pytest -q -n 2 --dist loadfile

clean:  ## Remove what the other targets made, the packages excepted.
	rm -rf runs site .pytest_cache .mypy_cache .ruff_cache .hypothesis
