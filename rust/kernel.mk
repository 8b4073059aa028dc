# SPDX-License-Identifier: GPL-2.0
#
# The kernels that the modules can be built for, $(linux_oldest) to $(linux_newest), and an error in
# one sentence for others. Included by Kbuild files. The differences between these kernels are in
# compat.rs, which gets a configuration for each kernel that changed something; see docs/kernels.md.

linux_oldest := 7.2
linux_newest := 7.3

# linux-number VERSION: the version as a number that can be compared.
linux-number = $(shell printf '%d%03d' $(subst ., ,$(1)))
linux := $(VERSION).$(PATCHLEVEL)
linux_number := $(call linux-number,$(linux))

# `make clean` reads this file, too, but has no configuration.
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

# C code may rely on layouts that no header has where they were compared with the kernel's sources.
ccflags-$(call test-le,$(linux_number),$(call linux-number,$(linux_newest))) += \
	-DAPPLE_DMA_LINUX_IS_KNOWN
