# `make quickstart` and `make test` need Python 3.11 or later and nothing else: each
# makes its own environment, again whenever the requirements change.

PYTHON ?= python3
VENV ?= .venv
KERAS_BACKEND ?= tensorflow
BACKENDS ?= tensorflow jax torch
# Processes that share the tests of a backend.
JOBS ?= 2

REQUIREMENTS := setup.cfg pyproject.toml constraints.txt
STAMP := $(VENV)/.installed
QUICKSTART_VENV := $(VENV)-quickstart-$(KERAS_BACKEND)
QUICKSTART_STAMP := $(QUICKSTART_VENV)/.installed
TF217_VENV := $(VENV)-tf217
OLDEST_VENV := $(VENV)-oldest
RELEASE_VENV := $(VENV)-release
PIP_INSTALL := -m pip install --quiet --no-compile --progress-bar off --constraint constraints.txt

.PHONY: venv quickstart test test-all test-tf217 test-oldest figures lint release-check clean

# The environment of the tests. timm comes for its augmentation alone, which the tests compare
# with: the package as a whole needs torchvision, which has no CPU build for this torch.
venv: $(STAMP)

$(STAMP): $(REQUIREMENTS)
	$(PYTHON) -m venv --clear $(VENV)
	$(VENV)/bin/python $(PIP_INSTALL) --editable ".[dev]"
	$(VENV)/bin/python $(PIP_INSTALL) --no-deps timm
	@touch $@

$(QUICKSTART_STAMP): $(REQUIREMENTS)
	$(PYTHON) -m venv --clear $(QUICKSTART_VENV)
	$(QUICKSTART_VENV)/bin/python $(PIP_INSTALL) --editable ".[train,$(KERAS_BACKEND)]"
	@touch $@

# Trains, saves, loads and predicts on scikit-learn's handwritten digits.
quickstart: $(QUICKSTART_STAMP)
	KERAS_BACKEND=$(KERAS_BACKEND) $(QUICKSTART_VENV)/bin/python examples/quickstart.py

# Lint and the tests on each backend, but for those marked `thorough`, which repeat at length what
# others hold: `make test-all` has them, too. Goes on after a failure, to tell all. In halves, by the
# files' first letters: processes that run all of it grow to 6 GB each, and JAX gets slower.
test: TESTS = not thorough
test-all: TESTS =
test test-all: $(STAMP)
	@status=0; summary=; \
	check() { \
	  name=$$1; shift; \
	  printf '\n== %s\n' "$$name"; \
	  if "$$@"; then result=passed; else result=FAILED; status=1; fi; \
	  summary="$$summary$$(printf '%-16s%s' "$$name" "$$result")\n"; \
	}; \
	check lint $(MAKE) --no-print-directory lint; \
	for backend in $(BACKENDS); do \
	  for letters in a-e f-z; do \
	    check "$$backend $$letters" env KERAS_BACKEND="$$backend" $(VENV)/bin/python -m pytest -q \
	      -m "$(TESTS)" -n $(JOBS) --dist loadfile --no-loadscope-reorder \
	      tests/test_[$$letters]*.py; \
	  done; \
	done; \
	printf "\n== summary\n$$summary"; \
	exit $$status

# SavedModels, and what is said of TF-TRT, in TensorFlow 2.17, the last with TensorRT: it cannot
# be installed beside this package, and needs Python 3.9 to 3.12.
test-tf217: $(STAMP) $(TF217_VENV)/.installed
	KERAS_SEPVIT_TF217=$(TF217_VENV) $(VENV)/bin/python -m pytest -q tests/test_export_tftrt.py

$(TF217_VENV)/.installed:
	$(PYTHON) -m venv --clear $(TF217_VENV)
	$(TF217_VENV)/bin/python -m pip install --quiet --progress-bar off "tensorflow-cpu==2.17.*"
	@touch $@

# The lowest versions that setup.cfg allows, together, in an environment of their own; what they
# require themselves is the newest. The tests are those of files that hold a package's interface:
# layers and saved files on each backend; pictures, commands, recipes, weights, data and exports
# once. KerasHub and KerasCV have no older version for this Keras.
OLDEST_tests = layers numerics checkpoint files_of_0_1_0 $(OLDEST_$*)
OLDEST_tensorflow = runtime export_cli export_litert
OLDEST_jax = export_stablehlo
OLDEST_torch = cli pictures recipe weights pytorch_checkpoints training_data evaluation \
  detection_scores visualize export_onnx export_torch

test-oldest: test-oldest-tensorflow test-oldest-jax test-oldest-torch

test-oldest-%: $(OLDEST_VENV)/.installed
	KERAS_BACKEND=$* $(OLDEST_VENV)/bin/python -m pytest -q -W ignore \
	  $(OLDEST_tests:%=tests/test_%.py)

$(OLDEST_VENV)/.installed: setup.cfg pyproject.toml tests/oldest.py
	$(PYTHON) -m venv --clear $(OLDEST_VENV)
	$(PYTHON) tests/oldest.py > $(OLDEST_VENV)/constraints.txt
	$(OLDEST_VENV)/bin/python -m pip install --quiet --progress-bar off \
	  --constraint $(OLDEST_VENV)/constraints.txt \
	  --editable ".[tensorflow,jax,torch,train,export,convert,detection]" pytest
	@touch $@

# All tables of the pages that are measured; `benchmarks/figures.py --list` says how long each takes.
figures: $(STAMP)
	$(VENV)/bin/python benchmarks/figures.py

lint: $(STAMP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

# What users would get: the wheel, in an environment of its own and outside of the checkout, runs
# the quick start.
release-check:
	rm -rf dist
	$(PYTHON) -m venv --clear $(RELEASE_VENV)
	$(RELEASE_VENV)/bin/python $(PIP_INSTALL) --upgrade pip
	$(RELEASE_VENV)/bin/python -m pip wheel --quiet --no-deps --wheel-dir dist .
	$(RELEASE_VENV)/bin/python $(PIP_INSTALL) "$$(echo dist/*.whl)[train,$(KERAS_BACKEND)]"
	folder=$$(mktemp -d) && cp examples/quickstart.py $$folder && cd $$folder && \
	  KERAS_BACKEND=$(KERAS_BACKEND) $(abspath $(RELEASE_VENV))/bin/python quickstart.py

clean:
	rm -rf $(VENV) $(VENV)-quickstart-* $(RELEASE_VENV) $(TF217_VENV) $(OLDEST_VENV)
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache
