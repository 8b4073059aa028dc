# SPDX-License-Identifier: GPL-2.0
#
# Targets for setup and tests; included by the top-level Makefile. The scripts in tests/env do the
# work, in a root of their own: the machine needs apt, root and make.

env := $(CURDIR)/tests/env
in_root := $(env)/in-root

.PHONY: setup setup-all update demo check check-all check-unit check-guest check-kernel check-package matrix release fuzz
.PHONY: soak kselftest bench lint test-help

setup:
	@$(env)/setup

setup-all:
	@$(env)/setup --all

update:
	@$(env)/setup --update --all

# Its guests are of one architecture.
demo:
	@$(env)/setup arm64
	@$(in_root) $(env)/guest demo

# PARTS as for check-all, without the long forms.
check: setup
	@$(env)/check $(PARTS)

# With the long forms, all devices, all kernels, and the soak: hours. PARTS picks some of
# lint, unit, refusals, fuzz, guest, devices, package, matrix and soak.
check-all: setup-all
	@$(env)/check --all $(PARTS)

check-unit: setup
	@$(env)/check unit

# FILTER=REGEX picks cases by name, ARCH/SCENARIO.
check-guest: $(if $(FILTER),setup-all,setup)
	@$(env)/check guest -- $(if $(FILTER),--filter '$(FILTER)')

# The guest tests that do not have a kernel of their own, on kernel NAME: see tests/env/kernel.
check-kernel: setup-all
	@$(env)/check guest -- --kernel '$(NAME)' $(if $(ARCH),--arch '$(ARCH)') \
		$(if $(FILTER),--filter '$(FILTER)')

# Tests of the package, and of guests with an installed package.
check-package: setup
	@$(env)/check --all package

# KERNELS=REGEX picks those that modules are packaged for, by ARCH/NAME.
release: setup
	@packaging/release $(if $(KERNELS),--kernels '$(KERNELS)')

# The core of the guest tests on each supported kernel; FILTER=REGEX picks some, by ARCH/NAME.
matrix: setup
	@$(in_root) $(env)/matrix $(if $(FILTER),'$(FILTER)')

# At least half an hour, and ten million accesses.
soak: setup
	@$(env)/check soak

# SECONDS for each target; build/fuzz/ receives the results.
SECONDS ?= 600
fuzz: setup
	@$(in_root) $(env)/fuzz $(SECONDS)

# In a booted guest; for a guest of your own see tests/selftests/README.md.
kselftest: setup
	@$(env)/check guest -- --filter '/kselftest'

# FILTER=REGEX picks guests of tests/guest/bench.toml.
bench: setup-all
	@$(in_root) $(env)/guest bench $(if $(FILTER),--filter '$(FILTER)')

lint: setup
	@$(in_root) $(env)/lint

help: test-help
test-help:
	@echo 'make demo                 a disk in a guest without the module, and with it'
	@echo 'make check                what must hold of every commit; check-unit and'
	@echo '                          check-guest [FILTER=REGEX]: parts of it'
	@echo 'make check-all            with all devices, all kernels, long forms and the soak: hours'
	@echo 'make check-kernel NAME=debug ARCH=amd64   guests on another kernel, e.g. 7.3 or 16k'
	@echo 'make release              all packages and their sources, made twice and compared'
	@echo 'make check-package        installs, upgrades and removes them, and boots the result'
	@echo 'make matrix               the core of the guest tests on every supported kernel'
	@echo 'make soak                 a guest at work for half an hour, with frequent disturbances'
	@echo 'make bench                cost of mapping next to direct mapping; figures in build/bench.json'
	@echo 'make fuzz [SECONDS=N]     fuzzes the reply decoder and the engine, 600 s each'
	@echo 'make kselftest            the kselftest, in guests'
	@echo 'make lint                 formatting, lints and style'
	@echo 'make setup, setup-all     prerequisites of these, done first; make update: newer packages'
