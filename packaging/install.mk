# SPDX-License-Identifier: GPL-2.0
#
# The targets that install, with DKMS or without, and that make packages; included by the top-level
# Makefile.

.PHONY: install uninstall install-boot uninstall-boot install-tree install-sources install-common
.PHONY: install-dkms deb modules-deb install-help

pkgversion := $(shell sed -n 's/^.define APPLE_DMA_PCI_VERSION "\(.*\)"/\1/p' $(CURDIR)/rust/version.h)

# --- without a package: the order of modules, for the system and its initial root file system --

modprobe_d := /etc/modprobe.d/apple-dma-pci.conf
initramfs_hook := /etc/initramfs-tools/hooks/apple-dma-pci
dracut_module := /usr/lib/dracut/modules.d/80apple-dma-pci
mkinitcpio_conf := /etc/mkinitcpio.conf.d/apple-dma-pci.conf
# Only what generators are there for.
has = $(if $(DESTDIR),true,test -e $(1))

install-boot:
	install -D -m 644 packaging/modprobe.conf '$(DESTDIR)$(modprobe_d)'
	! $(call has,/etc/initramfs-tools) || \
		install -D -m 755 packaging/initramfs-hook '$(DESTDIR)$(initramfs_hook)'
	! $(call has,/usr/lib/dracut) || \
		install -D -m 755 packaging/dracut/module-setup.sh '$(DESTDIR)$(dracut_module)/module-setup.sh'
	! $(call has,/etc/mkinitcpio.conf) || \
		install -D -m 644 packaging/mkinitcpio.conf '$(DESTDIR)$(mkinitcpio_conf)'

uninstall-boot:
	rm -f '$(DESTDIR)$(modprobe_d)' '$(DESTDIR)$(initramfs_hook)' '$(DESTDIR)$(mkinitcpio_conf)'
	rm -rf '$(DESTDIR)$(dracut_module)'

# --- without DKMS, for one kernel -------------------------------------------

installed = $(DESTDIR)/lib/modules/$(KVER)/updates/apple_dma_pci.ko

install: modules install-boot
	install -D -m 644 apple_dma_pci.ko '$(installed)'
	$(if $(DESTDIR),,depmod '$(KVER)')
	$(if $(DESTDIR),,packaging/refresh-initramfs '$(KVER)')

# What other kernels have stays usable: the order goes with the last one.
uninstall:
	rm -f '$(installed)'
	rmdir --ignore-fail-on-non-empty '$(dir $(installed))' 2>/dev/null || true
	ls $(DESTDIR)/lib/modules/*/updates/apple_dma_pci.ko >/dev/null 2>&1 || \
		$(MAKE) --no-print-directory uninstall-boot
	$(if $(DESTDIR),,packaging/rust-metadata remove '$(KVER)')
	$(if $(DESTDIR),,depmod '$(KVER)')
	$(if $(DESTDIR),,packaging/refresh-initramfs --always '$(KVER)')

# --- for packages -----------------------------------------------------------

PREFIX ?= /usr
sources := $(PREFIX)/src/apple-dma-pci-$(pkgversion)
library := $(DESTDIR)$(PREFIX)/lib/apple-dma-pci
# Kinds of initial root file systems, and of hooks for kernels; a distribution's package picks some.
BOOT ?= initramfs-tools dracut
HOOKS ?= debian

# All that builds the module, with DKMS or without: a DKMS tree, in TREE.
install-tree:
	install -d '$(TREE)'
	cp -R --parents Makefile Kbuild apple_dma_pci.rs dkms.conf rust uapi packaging/dkms-build \
		packaging/rust-metadata '$(TREE)/'
	find '$(TREE)' \( -name '*.o' -o -name '*.cmd' -o -name '*_generated.rs' \) -delete

# All that packages have but their documentation.
install-sources: install-common install-dkms

# However the module comes.
install-common: $(addprefix install-boot-,$(BOOT))
	install -D -m 755 packaging/refresh-initramfs '$(library)/refresh-initramfs'
	install -D -m 644 packaging/modprobe.conf \
		'$(DESTDIR)$(PREFIX)/lib/modprobe.d/apple-dma-pci.conf'

install-dkms: $(addprefix install-hooks-,$(HOOKS))
	$(MAKE) --no-print-directory install-tree TREE='$(DESTDIR)$(sources)'
	install -d '$(library)'
	ln -sfr '$(DESTDIR)$(sources)/packaging/rust-metadata' '$(library)/'

install-boot-initramfs-tools:
	install -D -m 755 packaging/initramfs-hook \
		'$(DESTDIR)$(PREFIX)/share/initramfs-tools/hooks/apple-dma-pci'

install-boot-dracut:
	install -D -m 755 packaging/dracut/module-setup.sh \
		'$(DESTDIR)$(PREFIX)/lib/dracut/modules.d/80apple-dma-pci/module-setup.sh'

install-boot-mkinitcpio:
	install -D -m 644 packaging/mkinitcpio.conf '$(DESTDIR)$(mkinitcpio_conf)'

install-hooks-debian:
	install -D -m 755 packaging/kernel-hook \
		'$(DESTDIR)$(PREFIX)/share/kernel/postinst.d/apple-dma-pci'
	install -D -m 755 packaging/kernel-hook \
		'$(DESTDIR)$(PREFIX)/share/kernel/header_postinst.d/apple-dma-pci'
	install -D -m 755 packaging/headers-hook \
		'$(DESTDIR)$(PREFIX)/share/kernel/header_postinst.d/zz-apple-dma-pci'
	install -D -m 755 packaging/kernel-removed \
		'$(DESTDIR)$(PREFIX)/share/kernel/postrm.d/apple-dma-pci'

install-hooks-kernel-install:
	install -D -m 755 packaging/kernel-install \
		'$(DESTDIR)$(PREFIX)/lib/kernel/install.d/95-apple-dma-pci.install'

# --- Debian's packages ------------------------------------------------------

deb:
	@packaging/deb

# With the module itself, for machines without compilers.
modules-deb: modules
	@packaging/modules-package '$(KVER)' apple_dma_pci.ko build/deb

help: install-help
install-help:
	@echo 'make install [KVER=RELEASE]    for one kernel, without DKMS; make uninstall'
	@echo 'make install-boot              with DKMS but without a package: the order of modules'
	@echo 'make deb                       the Debian packages, in build/deb'
	@echo 'make modules-deb [KVER=…]      a Debian package of the module for one kernel, for'
	@echo '                               machines without compilers'
