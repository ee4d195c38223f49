# The short way in; CMake does the work. BUILD, PREFIX, DESTDIR, CMAKE_FLAGS and ARGS may be given.
BUILD ?= build
PREFIX ?= /usr/local
JOBS ?= $(shell nproc)
ARGS ?=
CMAKE_FLAGS ?=

C_FILES = $(shell git ls-files 'src/*.c' 'src/*.h' 'tests/*.c' 'tests/*.h')
LUA_FILES = $(wildcard lua envs recipes models tests)

.PHONY: build setup run test bench lint format clean install

build: setup
	@cmake -S . -B $(BUILD) $(CMAKE_FLAGS) >$(BUILD).log 2>&1 || { cat $(BUILD).log; exit 1; }
	@cmake --build $(BUILD) -j $(JOBS)

# installs the packages of .ci/packages that are missing
setup:
	@.ci/setup build

run: build
	$(BUILD)/rl4vlm recipes/points24.lua $(ARGS)

test: build
	@.ci/test $(BUILD) $(JOBS) $(ARGS)

bench: build
	tests/bench/run $(BUILD)/rl4vlm $(ARGS)

lint:
	@.ci/setup ci
	clang-format --dry-run -Werror $(C_FILES)
	luacheck -q --no-color $(LUA_FILES)

format:
	@.ci/setup ci
	clang-format -i $(C_FILES)

install: build
	cmake --install $(BUILD) --prefix $(PREFIX)

clean:
	rm -rf $(BUILD) $(BUILD).log
