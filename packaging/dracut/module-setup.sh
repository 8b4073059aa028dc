#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# The root file system may be on a passed-through disk: dracut(8) puts the module into the initial
# root file system of every kernel that has it, and its order before the drivers of such disks.
# Sourced by dracut, which sets the variables and has the functions.

# shellcheck disable=SC2154
check() {
	grep -qs '/apple_dma_pci\.ko' "${srcmods:-/lib/modules/$kernel}/modules.dep"
}

depends() {
	# Copies what modprobe.d is made of, and runs depmod.
	echo kernel-modules
}

installkernel() {
	hostonly='' instmods apple_dma_pci
}

# Order and parameters: files of the administrator's are not copied otherwise in images that are not
# made for one host.
install() {
	local file
	for file in /etc/modprobe.d/*.conf /usr/lib/modprobe.d/*.conf /lib/modprobe.d/*.conf; do
		if grep -qs 'apple[_-]dma[_-]pci' "$file"; then
			inst_simple "$file"
		fi
	done
}
