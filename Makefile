# Everything a person or a machine does with this project; `make help` lists it.
# Each target makes its own environment, and is quick when nothing has changed.

SHELL := /bin/bash -o pipefail
VENV := .venv
# The interpreter for `make gpu`, with torch and the project's other needs already there.
PYTHON ?= $(VENV)/bin/python
MINUTES ?= 20
OUT ?= runs/gpu
# $(call share,0.2): that part of MINUTES.
share = $(shell $(PYTHON) -c "print($(MINUTES) * $(1))")
GPU_TRAINING := --recipe postcards --device cuda --workers 14
BASE_PYTHON ?= python3
RUN := $(VENV)/bin/python

.PHONY: help demo test test-all screenshots lint format gpu clean

help:
	@echo "make demo      install what is needed and start the page on http://127.0.0.1:7860"
	@echo "make test      all tests but the slow ones and those that need a GPU"
	@echo "make test-all  the slow tests too"
	@echo "make screenshots  take the README's pictures of the page again"
	@echo "make lint      check the style;  make format  mend it"
	@echo "make gpu PYTHON=python3 [MINUTES=20]  tests, timings and training on a GPU"

$(VENV)/demo.stamp: requirements.txt constraints.txt
	@$(BASE_PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or later is needed; $(BASE_PYTHON) is older." >&2; exit 1; }
	@test -x $(RUN) || $(BASE_PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet -r requirements.txt -c constraints.txt
	@touch $@

$(VENV)/test.stamp: $(VENV)/demo.stamp requirements-dev.txt
	$(RUN) -m pip install --quiet -r requirements-dev.txt -c constraints.txt
	@touch $@

# The browser's tests use Debian's Chromium; elsewhere, any one already installed.
$(VENV)/chromium.stamp: | $(VENV)/test.stamp
	@command -v chromium chromium-browser google-chrome >/dev/null \
	  || { echo "installing chromium for the browser's tests"; \
	       (apt-get update -qq && apt-get install -y -qq chromium) >/dev/null 2>&1; } \
	  || echo "chromium cannot be installed here: the browser's tests will fail, say so" >&2
	@command -v chromium chromium-browser google-chrome >/dev/null && touch $@ || true

demo: $(VENV)/demo.stamp
	$(RUN) app.py $(ARGS)

test: $(VENV)/test.stamp $(VENV)/chromium.stamp
	$(RUN) -m pytest -q -m "not slow and not gpu"

test-all: $(VENV)/test.stamp $(VENV)/chromium.stamp
	$(RUN) -m pytest -q -m "not gpu"

# The pictures of the page that the README shows, taken by the browser's tests.
screenshots: $(VENV)/test.stamp $(VENV)/chromium.stamp
	FLOWTURBO_SCREENSHOTS=assets/screenshots $(RUN) -m pytest -q tests/demo/test_browser.py -k screenshots

lint: $(VENV)/test.stamp
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

format: $(VENV)/test.stamp
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

# Nothing is installed here: PYTHON brings torch and the rest. MINUTES of training, beside the
# tests, the timings and the drawing of the data; each run has a folder of its own.
gpu: OUT := $(OUT)/$(shell date +%Y%m%d-%H%M%S)
gpu:
	mkdir -p $(OUT)
	$(PYTHON) -m pytest -q -m gpu -p no:timeout 2>&1 | tee $(OUT)/tests.log
	$(PYTHON) -m flowturbo_core bench --architecture sit-xl-2 --device cuda --dtype bfloat16 \
	  --plans H8,H2P4R2,H1P5R3 --batch-size 8 --repeats 7 --json $(OUT)/bench-sit-xl-2.json
	$(PYTHON) -m flowturbo_core train autoencoder --output $(OUT)/autoencoder \
	  --minutes $(call share,0.2) $(GPU_TRAINING) --batch-size 128 --learning-rate 1e-3
	$(PYTHON) -m flowturbo_core train flow --output $(OUT)/predictor \
	  --autoencoder $(OUT)/autoencoder/model --num-latents 400000 --cache $(OUT)/cache \
	  --minutes $(call share,0.6) $(GPU_TRAINING) --batch-size 1024 --learning-rate 2e-3
	$(PYTHON) -m flowturbo_core train refiner --output $(OUT)/refiner \
	  --autoencoder $(OUT)/autoencoder/model --predictor $(OUT)/predictor/model \
	  --num-latents 400000 --cache $(OUT)/cache \
	  --minutes $(call share,0.2) $(GPU_TRAINING) --batch-size 1024 --learning-rate 2e-3

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache
