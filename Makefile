# Each target starts from nothing but Python 3.11 or later and make: the environment is built when it is absent,
# half built, or older than the files it follows from. Nothing needs to be activated.

PYTHON ?= python3
PIP = .venv/bin/python -m pip
# a process a core, each with its own share of the tests in their order, so that what a file sets up is set up once;
# bytecode of the tests is kept whatever the machine says, or each process would compile them anew
PYTEST = PYTHONDONTWRITEBYTECODE= .venv/bin/python -m pytest -q -n auto --maxprocesses 8 --dist worksteal
TORCH = $(shell sed -n 's/^torch==/torch==/p' constraints.txt)

.PHONY: help demo test check docs shipped clean

help:  ## say what the targets do (the default)
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1\t\2/p' Makefile

demo: .venv/.stamp  ## make a clip from a prompt with the packaged model: demo.mp4
	.venv/bin/videodit sample --prompt "face with tears of joy on a blue background" --out demo.mp4

test: .venv/.stamp  ## run all tests
	$(PYTEST)

check: .venv/.stamp  ## format, lint, types, fast tests: what a change must pass
	.venv/bin/python -m ruff format --check .
	.venv/bin/python -m ruff check .
	.venv/bin/python -m mypy & types=$$!; $(PYTEST) -m "not slow"; tests=$$?; wait $$types && exit $$tests

docs: .venv/.stamp  ## build the site of docs/ into site/, where a warning is an error
	NO_MKDOCS_2_WARNING=1 .venv/bin/python -m mkdocs build --strict

shipped: .venv/.stamp  ## train the packaged models anew (hours on two cores) into runs/shipped
	.venv/bin/videodit train-vae --config configs/shapes.yaml
	.venv/bin/videodit train --config configs/shapes.yaml
	.venv/bin/videodit convert --from runs/shapes/pipeline --to runs/shipped/shapes --dtype float16
	.venv/bin/videodit train --config configs/emoji.yaml
	.venv/bin/videodit average --from runs/emoji/stage_2/pipeline runs/emoji/pipeline --to runs/emoji/mean
	.venv/bin/videodit convert --from runs/emoji/mean --to runs/shipped/emoji --dtype float16

clean:  ## remove the environment, caches and demo.mp4 (runs/ stays)
	rm -rf .venv build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis demo.mp4 demo.json
	find videodit tools tests -type d -name __pycache__ -prune -exec rm -rf {} +

# .building marks an installation that did not end: it is thrown away. torch comes first and alone, so that pip
# picks the build found for this machine before anything else that wants torch has a say.
.venv/.stamp: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make PYTHON=...")'
	@if [ -e .venv/.building ] || ! .venv/bin/python -m pip --version >/dev/null 2>&1; then \
		rm -rf .venv && $(PYTHON) -m venv .venv; \
	fi
	@echo "installing into .venv: some minutes the first time"
	@touch .venv/.building
	@$(PIP) install -q -c constraints.txt $(TORCH)
	@$(PIP) install -q -c constraints.txt -e ".[dev]"
	@rm .venv/.building
	@touch $@
