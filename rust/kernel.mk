# SPDX-License-Identifier: GPL-2.0
#
# Which kernels the modules can be built for, said in a sentence for those that they cannot; for
# Kbuild files, with $(linux_oldest) and $(linux_newest). What differs between these kernels is in
# compat.rs, which gets a configuration for each that changed something. docs/kernels.md has more.

linux_oldest := 7.2
linux_newest := 7.3

# linux-number VERSION: a number to compare.
linux-number = $(shell printf '%d%03d' $(subst ., ,$(1)))
linux := $(VERSION).$(PATCHLEVEL)
linux_number := $(call linux-number,$(linux))

# `make clean` comes here, too, and knows no configuration.
ifeq ($(CONFIG_MODULES),y)
ifeq ($(call test-ge,$(linux_number),$(call linux-number,$(linux_oldest))),)
$(error Linux $(linux) is too old: apple_dma_pci needs $(linux_oldest) or later, see docs/kernels.md)
endif
ifneq ($(call test-gt,$(linux_number),$(call linux-number,$(linux_newest))),)
$(warning Linux $(linux) is newer than what apple_dma_pci was made for, $(linux_oldest) to \
	$(linux_newest): it may not build, see docs/kernels.md)
endif
ifneq ($(CONFIG_RUST),y)
$(error This kernel was built without CONFIG_RUST: apple_dma_pci needs one that has it)
endif
ifeq ($(wildcard $(objtree)/rust/libkernel.rmeta),)
$(error $(objtree) has no rust/libkernel.rmeta: a Rust module needs a build directory with the \
	kernel's Rust metadata, see README.md)
endif
endif

rustflags-$(call test-ge,$(linux_number),$(call linux-number,7.3)) += --cfg since_linux_7_3
