#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# The kernel's benchmark of DMA mappings, with the kernel's own tool, on the simulated engine. The
# test is that it succeeds; the times are for the reader.

# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$(readlink -f "$0")")"/lib.sh

DRIVER=/sys/bus/pci/drivers/dma_map_benchmark

bind() {
	load map_benchmark || is_builtin || return
	echo dma_map_benchmark >"$PCI/$engine/driver_override"
	echo "$engine" >"$DRIVER/bind"
}

unbind() {
	[ ! -e "$DRIVER/$engine" ] || echo "$engine" >"$DRIVER/unbind"
	echo >"$PCI/$engine/driver_override"
	is_builtin || unload map_benchmark
}

is_builtin() {
	[ -d "$DRIVER" ] && ! is_loaded map_benchmark
}

# Not every host can satisfy the default mask of 32 bits.
test_benchmark() { # NAME OPTION...
	local name=$1 output

	shift
	if output=$("$DIR"/dma_map_benchmark -b 64 -s 1 "$@" 2>&1); then
		# shellcheck disable=SC2001 # every line
		sed 's/^/# /' <<<"$output"
		ktap_test_pass "$name"
	else
		ktap_print_msg "$output"
		ktap_test_fail "$name"
	fi
}

require_engine
is_available map_benchmark || is_builtin ||
	skip_all "no dma_map_benchmark (CONFIG_DMA_MAP_BENCHMARK)"
[ -x "$DIR/dma_map_benchmark" ] || skip_all "the kernel's tool dma_map_benchmark is not installed"

ktap_print_header
ktap_set_plan $((${#MODES[@]} * 9))
for mode in "${MODES[@]}"; do
	mark_log
	test_result "$mode: apple_dma_pci loads" load_mode "$mode"
	test_result "$mode: the engine is managed" grep -qFx "$engine" <(managed_devices)
	if ! bind; then
		ktap_test_fail "$mode: the benchmark takes the engine"
		continue
	fi
	ktap_test_pass "$mode: the benchmark takes the engine"
	test_benchmark "$mode: single, a page, both ways" -m 0 -g 1 -d 0
	test_benchmark "$mode: single, 256 pages, to the device" -m 0 -g 256 -d 1
	test_benchmark "$mode: single, 4 threads, from the device" -m 0 -g 4 -t 4 -d 2
	test_benchmark "$mode: scatterlist of 128 pages" -m 1 -g 128
	test_benchmark "$mode: scatterlists of 1024 pages, 4 threads" -m 1 -g 1024 -t 4
	unbind
	test_result "$mode: nothing is left" leave_mode "$mode"
done
ktap_finished
