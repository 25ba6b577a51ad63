# Everything runs from .venv, which `make install` fills; each target sets up what it needs.
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: install demo test torture fuzz bench check samples clean

install: $(INSTALLED)

$(INSTALLED): pyproject.toml
	python3 -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

demo: $(INSTALLED)
	$(BIN)/toolkit run --task whisper-asr

test: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses=logical --dist=loadfile --no-loadscope-reorder

torture: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.torture.torture --kills 30

fuzz: $(INSTALLED)
	FUZZ_CASES=3000 OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/integration/test_fuzz.py

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(INSTALLED)
	$(BIN)/python -m benchmarks

samples: $(INSTALLED)
	$(BIN)/python scripts/make_samples.py

clean:
	rm -rf $(VENV) dist build runs .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
