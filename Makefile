# make demo    train the default model on the synthetic data set, measure it, show it
# make base    the larger model that later stages start from, into outputs/base (about 45 minutes with bf16)
# make lifecycle  from pretrain over preferences to a student of few steps, in outputs/chain/lifecycle, and a page that compares them
# make test    linters, import contracts, types and the tests
# make proof   what takes longer, 30 minutes at most: killed runs, hostile files, thousands of command lines
# make mutants which small changes of the mathematics the fast tests notice (slow: about a second of a core for each of 1,500)
# make setup   only the environment, in .venv
PYTHON ?= python3
PY := .venv/bin/python
STAMP := .venv/.installed
MINUTES ?= 30

.PHONY: demo base lifecycle test proof fast mutants lint setup assets clean

demo: $(STAMP)
	@echo "== training, measuring and drawing; images appear under outputs/ as it goes"
	@$(PY) -m t2ilab

base: $(STAMP)
	@$(PY) -m t2ilab recipe=base run_dir=outputs/base

lifecycle: $(STAMP)
	@$(PY) -m t2ilab recipe=lifecycle

test: lint
	OMP_NUM_THREADS=1 $(PY) -m pytest -q -n 2 --dist worksteal -m "not dist and not proof"
	OMP_NUM_THREADS=1 $(PY) -m pytest -q -m "dist and not proof"

proof: $(STAMP)
	OMP_NUM_THREADS=1 PROOF_MINUTES=$(MINUTES) $(PY) -m pytest -q -n 2 --dist worksteal -rs -m proof || \
		(echo "== what failed beside others, once more and alone"; \
		OMP_NUM_THREADS=1 $(PY) -m pytest -q -m proof --last-failed --last-failed-no-failures none)

fast: lint
	OMP_NUM_THREADS=1 $(PY) -m pytest -q -n 2 --dist worksteal -m "not slow and not dist and not gpu and not proof"

mutants: $(STAMP)
	OMP_NUM_THREADS=1 nice $(PY) -m tests.mutants

lint: $(STAMP)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	.venv/bin/lint-imports

setup: $(STAMP)

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed (PYTHON=python3.12 make ...), found " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	@echo "== installing into .venv (once; a few minutes and about 6 GB, most of it torch)"
	@test -x $(PY) || $(PYTHON) -m venv .venv
	$(PY) -m pip install --disable-pip-version-check --progress-bar on -e '.[dev]'
	@touch $@

assets: $(STAMP)
	$(PY) -m t2ilab recipe=assets_autoencoder
	$(PY) -m t2ilab recipe=assets_decoder
	$(PY) -m t2ilab recipe=assets_encoder
	$(PY) -m t2ilab.foundations outputs/assets/decoder outputs/assets/encoder

clean:
	rm -rf .venv .pytest_cache .ruff_cache .mypy_cache .import_linter_cache
