#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# The kernel's own test of PCI endpoints, with the kernel's own driver, on an endpoint whose DMA
# is managed, in every mode.

# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$(readlink -f "$0")")"/lib.sh

program=$DIR/../../pci_endpoint/pci_endpoint_test

# Tests that must not be skipped: all that move data.
transfers=(pci_ep_data_transfer.{memcpy,dma}.{READ,WRITE,COPY}_TEST)

require
endpoint=$(endpoints | head -n 1)
[ -n "$endpoint" ] || skip_all "no endpoint (PCI 104c:b500)"
is_available pci_endpoint_test || skip_all "no module pci_endpoint_test (CONFIG_PCI_ENDPOINT_TEST)"
[ -x "$program" ] || skip_all "the kernel's pci_endpoint test is not installed"

ktap_print_header
for mode in "${MODES[@]}"; do
	mark_log
	test_result "$mode: apple_dma_pci loads" load_mode "$mode"
	test_result "$mode: pci_endpoint_test loads" load pci_endpoint_test
	test_result "$mode: the endpoint is managed" \
		grep -qFx "$endpoint" <(managed_devices)
	relay "$mode" "$program"
	for name in "${transfers[@]}"; do
		test_result "$mode: $name was not skipped" \
			grep -qE "^ok [0-9]+ $name *\$" <<<"$relayed"
	done
	unload pci_endpoint_test
	test_result "$mode: nothing is left" leave_mode "$mode"
done
ktap_finish_relayed
