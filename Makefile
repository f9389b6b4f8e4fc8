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
GPU_TRAINING = --device cuda --workers 14 --seed 3 --num-latents 200000 --cache $(OUT)/cache \
  --batch-size 1024 --learning-rate 2e-3
GPU_BENCH := --device cuda --dtype bfloat16 --modes eager,compiled --batch-size 8 --repeats 7
BASE_PYTHON ?= python3
RUN := $(VENV)/bin/python

.PHONY: help demo test test-all soak screenshots examples benchmarks text-benchmarks refiners tables lint format gpu gpu-tests gpu-benchmarks gpu-classes gpu-texts eval-env eval-test clean

help:
	@echo "make demo      install what is needed and start the page on http://127.0.0.1:7860"
	@echo "make test      all tests but the slow ones and those that need a GPU"
	@echo "               make test ORDER=7: in a random order, always the same of one seed"
	@echo "make test-all  the slow tests too"
	@echo "make soak      50 clients and 1,000 requests: memory, files and the server's end (minutes)"
	@echo "make screenshots  take the README's pictures of the page again"
	@echo "make examples  make again the pictures that the page opens with"
	@echo "make benchmarks  measure again what assets/benchmarks holds (hours)"
	@echo "make tables    write the tables of the README and of docs/ from assets/benchmarks"
	@echo "make lint      check the style;  make format  mend it"
	@echo "make gpu PYTHON=python3 [MINUTES=20]  tests, timings and training on a GPU"
	@echo "make eval-env  an environment for FID and its like, in $(VENV)-eval;  make eval-test  its tests"

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

# Three processes of one thread each: most tests wait, or have little to compute. Each takes a third
# in order, as tests of a file share models and pages, and at its end some of another's. ORDER
# shuffles the files, and the tests of each: no test may need another before it.
test: $(VENV)/test.stamp $(VENV)/chromium.stamp
	OMP_NUM_THREADS=1 $(RUN) -m pytest -q -n 3 --dist worksteal -m "not slow and not gpu" \
	  $(if $(ORDER),--random-order-bucket=module --random-order-seed=$(ORDER))

test-all: test
	$(RUN) -m pytest -q -m "slow and not gpu"

# Day after day in minutes, over loopback alone; assets/benchmarks/soak.json holds what it measured.
soak: $(VENV)/test.stamp
	$(RUN) -m tests.soak $(ARGS)

# The pictures of the page that the README shows, taken by the browser's tests.
screenshots: $(VENV)/test.stamp $(VENV)/chromium.stamp
	FLOWTURBO_SCREENSHOTS=assets/screenshots $(RUN) -m pytest -q tests/demo -k screenshots

# What the page opens with: with nothing else running, as it says what they took.
examples: $(VENV)/demo.stamp
	$(RUN) -m demo.service.make_examples

lint: $(VENV)/test.stamp
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

format: $(VENV)/test.stamp
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

# What assets/benchmarks holds, measured again: hours on a CPU, with nothing else running.
BENCHMARKS := assets/benchmarks/postcards-sit
TRADE := H8,H2P4R2,H1P5R3,H1P5R4,H1P6,H1P7,H2P5,E9
RIVALS := dpm++:9,fbc:16:0.2
# The best of them, and two that tuning found, beside all else that costs as much, up to H1P7.
TUNED := H2P3R5,H2P3R8
OTHERS := H1P5R4,$(TUNED),H2P4,H3P2,H3P3,H4,H4P1,E8
OTHER_RIVALS := ab2:9,unipc:9
# FlowTurbo's table 1 in pairs, table 2 component by component, and the orders of table 4.
PAIRS := H8,H2P4R2,H11,H2P8R2,H15,H5P7R3,H24,H8P9R5
COMPONENTS := H7,H7R1,H6P1R2,H4P3R2,H1P6R2,H1P5R3
ORDERS := P5H7R3,P5R7H3,H5R7P3,[H1P1R1]x3
benchmarks: $(VENV)/demo.stamp
	$(RUN) -m flowturbo_core evaluate --plans $(TRADE) --rivals $(RIVALS) --num-samples 2000 \
	  --json $(BENCHMARKS)-quality.json
	$(RUN) -m flowturbo_core evaluate --plans $(OTHERS) --rivals $(OTHER_RIVALS) \
	  --num-samples 2000 --json $(BENCHMARKS)-quality-others.json
	$(RUN) -m flowturbo_core evaluate --plans "$(PAIRS),$(COMPONENTS),$(ORDERS)" \
	  --num-samples 300 --metrics frechet,accuracy,solver,reference \
	  --json $(BENCHMARKS)-ablations.json
	$(RUN) -m flowturbo_core bench --plans $(TRADE),$(TUNED) --modes eager,compiled \
	  --rivals $(RIVALS),$(OTHER_RIVALS) --json $(BENCHMARKS)-speed.json
	$(MAKE) refiners
	$(RUN) -m flowturbo_core straightness --json $(BENCHMARKS)-straightness.json \
	  --plot $(BENCHMARKS)-straightness.png
	$(RUN) -m flowturbo_core tune
	$(MAKE) text-benchmarks
	$(MAKE) tables

# FlowTurbo's table 1b: Heun's plans, each before the one that is to take its place; then prompts
# of combinations that were not trained on; and what an evaluation of the refiner costs.
TEXT_MODEL := postcards-t2i
TEXT_BENCHMARKS := assets/benchmarks/$(TEXT_MODEL)
TEXT_PLANS := H4,H1P2R2,H5,H1P4R2,H8,H1P6R3,H10,H3P6R3
text-benchmarks: $(VENV)/demo.stamp
	$(RUN) -m flowturbo_core evaluate --model $(TEXT_MODEL) --plans $(TEXT_PLANS) \
	  --num-samples 1000 --metrics frechet,accuracy --json $(TEXT_BENCHMARKS)-quality.json
	$(RUN) -m flowturbo_core evaluate --model $(TEXT_MODEL) --plans H1P6R3 --scenes held_out \
	  --num-samples 1000 --metrics accuracy --json $(TEXT_BENCHMARKS)-held-out.json
	$(RUN) -m flowturbo_core bench --model $(TEXT_MODEL) --plans $(TEXT_PLANS) \
	  --modes eager,compiled --repeats 11 --json $(TEXT_BENCHMARKS)-speed.json

# The ranges of steps of table 3: the bundled refiner, trained on by as many updates on each;
# "guided" on velocities guided as at sampling.
REFINER := assets/models/postcards-sit
REFINER_RUNS ?= runs/refiners
define train_on
$(RUN) -m flowturbo_core train refiner --init $(REFINER)/refiner --predictor $(REFINER)/predictor \
  --steps 300 --learning-rate 5e-4 --seed 1 --num-latents 60000 --output $(REFINER_RUNS)/$(1)
endef
refiners: $(VENV)/demo.stamp
	$(call train_on,up-to-0.06) --max-dt 0.06
	$(call train_on,up-to-0.12) --max-dt 0.12
	$(call train_on,up-to-0.25) --max-dt 0.25
	$(call train_on,guided) --max-dt 0.12 --guidance-scale 1.5
	$(RUN) -m flowturbo_core compare-refiners --plans H1P5R3,H1P5R4,H2P3R5 --refiners \
	  $(REFINER)/refiner,$(REFINER)/refiner:released,$(REFINER_RUNS)/up-to-0.06/model,$(REFINER_RUNS)/up-to-0.12/model,$(REFINER_RUNS)/up-to-0.25/model,$(REFINER_RUNS)/guided/model \
	  --json $(BENCHMARKS)-refiners.json

# The tables of the README and of docs/, from what `evaluate` and `bench` wrote to assets/benchmarks.
tables: $(VENV)/demo.stamp
	$(RUN) -m flowturbo_core.evaluation.tables

# Nothing is installed here: PYTHON brings torch and the rest. MINUTES of training, beside the
# tests, the timings and the drawing of the data; each run has a folder of its own.
gpu: OUT := $(OUT)/$(shell date +%Y%m%d-%H%M%S)
gpu: gpu-tests gpu-benchmarks gpu-classes gpu-texts

gpu-tests:
	mkdir -p $(OUT)
	$(PYTHON) -m pytest -q -m gpu -p no:timeout tests/core/test_gpu.py 2>&1 | tee $(OUT)/tests.log

gpu-benchmarks:
	$(PYTHON) -m flowturbo_core bench --architecture sd-1-5 $(GPU_BENCH) \
	  --plans $(TEXT_PLANS) --json $(OUT)/sd-1-5-speed.json
	$(PYTHON) -m flowturbo_core bench --architecture sit-xl-2 $(GPU_BENCH) \
	  --plans H8,H2P4R2,H1P5R3 --rivals dpm++:8,unipc:8 --json $(OUT)/sit-xl-2-speed.json

gpu-classes:
	$(PYTHON) -m flowturbo_core train flow --output $(OUT)/predictor \
	  --init $(REFINER)/predictor --minutes $(call share,0.35) $(GPU_TRAINING)
	$(PYTHON) -m flowturbo_core train refiner --output $(OUT)/refiner --init $(REFINER)/refiner \
	  --predictor $(OUT)/predictor/model --minutes $(call share,0.1) $(GPU_TRAINING)
	$(PYTHON) -m flowturbo_core evaluate --device cuda --dtype bfloat16 --batch-size 250 \
	  --plans H8,H2P4R2,H1P5R3,H1P6,H1P7 --num-samples 2000 --json $(OUT)/evaluation.json

gpu-texts:
	$(PYTHON) -m flowturbo_core train text-flow --output $(OUT)/text \
	  --init assets/models/$(TEXT_MODEL) --minutes $(call share,0.45) $(GPU_TRAINING)
	$(PYTHON) -m flowturbo_core train text-refiner --output $(OUT)/text-refiner \
	  --init assets/models/$(TEXT_MODEL)/refiner --predictor $(OUT)/text/model \
	  --minutes $(call share,0.1) $(GPU_TRAINING)

# Apart from the rest, for torchvision's sake: requirements-eval.txt says why.
eval-env: $(VENV)-eval/eval.stamp

$(VENV)-eval/eval.stamp: requirements-eval.txt requirements.txt constraints.txt
	test -x $(VENV)-eval/bin/python || $(BASE_PYTHON) -m venv $(VENV)-eval
	$(VENV)-eval/bin/python -m pip install --quiet -r requirements-eval.txt -c constraints.txt
	@touch $@

# What the main environment skips: beside torch-fidelity itself.
eval-test: $(VENV)-eval/eval.stamp
	$(VENV)-eval/bin/python -m pytest -q tests/core/evaluation/test_fidelity.py

clean:
	rm -rf $(VENV) $(VENV)-eval .pytest_cache .ruff_cache
