# make reproduce: the default experiment, from an empty machine to figures
# make test:      the quick tests
PYTHON ?= python3
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
# --no-input: never wait for a person; hashes in the lock are checked for every package
INSTALL := $(BIN)/python -m pip install --quiet --no-input --disable-pip-version-check

.PHONY: help reproduce pull push record test test-slow test-slurm test-browser test-gpu bench lint types format stages lock audit clean

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

reproduce: .venv/installed
	$(BIN)/snakemake --cores all
	$(BIN)/snakemake --report results/stamps/report.html

# make pull:      fetch what a run made from the DVC remote, instead of computing it
pull: .venv/installed
	$(BIN)/dvc pull
	@$(BIN)/dvc status --quiet || { echo "dvc.lock belongs to other code or another config: see" \
	    "'dvc status'. 'git checkout' the revision that you want, or run snakemake."; exit 1; }
	$(BIN)/snakemake --touch --forceall --cores 1 --quiet all

# make push:      finish the run, record its bytes in dvc.lock, send them to the DVC remote
push: .venv/installed
	$(BIN)/snakemake --cores all
	$(BIN)/dvc commit --force --quiet
	$(BIN)/dvc push

# make record:    put what readers look at into results/recorded, which git keeps
RECORDED := results/recorded/stamps
record: .venv/installed
	$(BIN)/snakemake --cores all
	$(BIN)/dvc commit --force --quiet
	mkdir -p $(RECORDED)/tables $(RECORDED)/figures
	cp results/stamps/*.csv results/stamps/*.json results/stamps/config.yaml $(RECORDED)
	cp results/stamps/tables/* $(RECORDED)/tables
	cp results/stamps/figures/*.png $(RECORDED)/figures

# Tests side by side; each then has its share of the cores.
TESTERS ?= 2

test: .venv/installed
	$(BIN)/python -m pytest -n $(TESTERS)

# make test-slow: what takes minutes: whole runs of the workflow
test-slow: .venv/installed
	$(BIN)/python -m pytest -m slow -n $(TESTERS) --dist loadfile

# make test-slurm: a run on a real Slurm of one node; needs root, installs it with apt-get
test-slurm: .venv/installed
	$(BIN)/python -m pytest -m slurm tests/test_slurm.py

# make test-browser: the page of reco app in a headless Chromium; as root, apt-get installs it
test-browser: .venv/installed
	$(BIN)/python -m pytest -m browser tests/test_app.py

# make test-gpu:  what needs a GPU; no other test does
test-gpu: .venv/installed
	$(BIN)/python -m pytest -m gpu

# make bench:     time ours beside the released code's way; on a machine with nothing else to do
BENCHMARKS := cosegment retrieve embed crf scale figure
bench: .venv/installed
	$(BIN)/snakemake --cores all --quiet all -- compose weights
	for name in $(BENCHMARKS); do $(BIN)/python benchmarks/$$name.py || exit 1; done

# make lint:      style of code and workflow, and which way imports run
lint: .venv/installed
	$(BIN)/nbstripout --verify notebooks/*.ipynb
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports --no-cache
	$(BIN)/snakefmt --check Snakefile workflow
	@# Jobs use the Python that runs Snakemake; the linter would have an environment for each rule.
	! $(BIN)/snakemake --lint 2>&1 | grep '^    \* ' | grep -v 'Specify a conda environment'

# make types:     check the types
types: .venv/installed
	$(BIN)/mypy

# make format:    mend the style
format: .venv/installed
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	$(BIN)/snakefmt Snakefile workflow

# make stages:    write the code that each stage depends on into dvc.yaml
stages: .venv/installed
	$(BIN)/python workflow/scripts/stages.py

# make lock:      newest versions of all dependencies into requirements.lock
lock:
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/pip install --quiet uv
	.venv-lock/bin/uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 \
	    --generate-hashes --no-emit-index-url --no-emit-find-links --no-annotate --no-header \
	    --upgrade --quiet --output-file requirements.lock
	rm -r .venv-lock

# make audit:     look the locked versions up in the database of known vulnerabilities
audit:
	$(PYTHON) -m venv .venv-audit
	.venv-audit/bin/pip install --quiet pip-audit
	.venv-audit/bin/pip-audit --requirement requirements.lock --no-deps --disable-pip
	rm -r .venv-audit

# make clean:     remove what experiments made, and no other file: not downloads, models, packages,
#                 photographs of yours, nor what git has
clean:
	rm -rf data/store data/photographs
	for made in data/*/config/images.json data/*/embeddings/index.json; do \
	    name=$${made#data/}; name=$${name%%/*}; \
	    test -f "$$made" || continue; \
	    rm -rf "data/$$name"; \
	    test -d "results/$$name" || continue; \
	    find "results/$$name" ! -type d ! -path results/stamps/config.yaml -delete; \
	    find "results/$$name" -type d -empty -delete; \
	done

.venv/installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "Python 3.11 or newer is needed: make PYTHON=python3.11 ..."; exit 1; }
	$(PYTHON) -m venv .venv
	@echo "Installing the locked dependencies into .venv: some GB, a few minutes ..."
	$(INSTALL) --require-hashes -r requirements.lock
	$(INSTALL) --no-deps --editable .
	@touch $@
