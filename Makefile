# Every target sets up .venv itself; nothing but Python 3.11, pip, venv and make is needed.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
DEMO := runs/demo
# Bytecode is made on import, for what is used; making it for whole packages takes longer.  Many
# processes import the same, so it is kept even where the environment says otherwise.
unexport PYTHONDONTWRITEBYTECODE
PIP_INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --no-compile
# For another machine, as: make bench BENCH_FLAGS="--dtype=bfloat16 --box_batch=16 --against=torch"
BENCH_FLAGS ?= --canvas=800x1088

.PHONY: demo ablation test faults door parity hosts accelerators bench docs lint clean

demo: .venv/ready                 ## the whole method on the embedded dataset, then runs/demo/report.html
	$(BIN)/python -m rkd_jax.demo --root=$(DEMO)

ablation: .venv/ready             ## all rows of all tables on the embedded dataset, three seeds
	$(BIN)/python -m rkd_jax.recipe demo --root=$(DEMO) --rows=all --seeds=0,1,2 --workers=2

test: .venv/ready-dev
	$(BIN)/python -m pytest -n 2 --dist=loadfile --no-loadscope-reorder

faults: .venv/ready-dev           ## damaged files, killed runs, full disks, hostile and malformed input
	$(BIN)/python -m pytest -n 2 --dist=loadfile --no-loadscope-reorder -m faults

door: .venv/ready-door            ## own data, prediction, pages and exports, from end to end
	$(BIN)/python -m pytest -n 2 --dist=loadfile --no-loadscope-reorder -m door

parity: .venv/ready-dev           ## all published networks, compiled as in use, against the originals
	$(BIN)/python -m pytest -n 2 --dist=loadfile --no-loadscope-reorder --full \
	  tests/models tests/predict_published_test.py tests/machine/parts_test.py

hosts: .venv/ready-dev            ## several processes on this machine train, stop and evaluate as one
	$(BIN)/python -m pytest -m hosts

accelerators: .venv-compilers/ready  ## small programs through the compilers for TPUs and GPUs
	.venv-compilers/bin/python -m pytest -n 2 tests/plan/programs_test.py --topology=v5e:2x2
	.venv-compilers/bin/python -m pytest -n 2 tests/plan/programs_test.py --topology=h100:4

bench: .venv/ready                ## the published detectors by stage, at full size, on synthetic batches
	$(BIN)/python -m rkd_jax.benchmark --config=configs/coco/rkd_ils_weight_transfer.py \
	  --output=runs/bench/coco.json $(BENCH_FLAGS)
	$(BIN)/python -m rkd_jax.benchmark --config=configs/lvis/rkd_ils_weight_transfer.py \
	  --output=runs/bench/lvis.json $(BENCH_FLAGS)

docs: .venv/ready-docs           ## pages to read in a browser, runs/site/index.html
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet
	@echo runs/site/index.html

lint: .venv/ready-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo
	$(BIN)/pyright --pythonpath $(BIN)/python

.venv/ready: requirements.txt
	$(PYTHON) -m venv .venv
	$(PIP_INSTALL) -r requirements.txt
# CLIP's vocabulary, where requirements.txt has no package that brings it.
	$(BIN)/pip show --quiet instant-clip-tokenizer || $(PIP_INSTALL) --no-deps open_clip_torch==3.3.0
	touch $@

.venv/ready-dev: .venv/ready requirements-dev.txt
	$(PIP_INSTALL) -r requirements-dev.txt
	touch $@

.venv/ready-door: .venv/ready-dev requirements-door.txt
	$(PIP_INSTALL) -r requirements-door.txt
	touch $@

.venv/ready-docs: .venv/ready requirements-docs.txt
	$(PIP_INSTALL) -r requirements-docs.txt
	touch $@

.venv-compilers/ready: requirements.txt requirements-dev.txt requirements-compilers.txt
	$(PYTHON) -m venv .venv-compilers
	.venv-compilers/bin/pip install --quiet --disable-pip-version-check --no-compile \
	  -r requirements.txt -r requirements-dev.txt -r requirements-compilers.txt
	touch $@

clean:
	rm -rf .venv .venv-compilers runs
