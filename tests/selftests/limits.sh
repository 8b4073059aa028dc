#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Limits and refusals of the DMA API: masks, sizes, memory that cannot be mapped.
#
# The host, which chooses the addresses, decides which masks are possible. A mask that is not must
# be refused, and mappings with a possible one must be within it.

# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$(readlink -f "$0")")"/lib.sh

# Prints a number that "sizes" printed; hexadecimal ones in decimal.
size() { # NAME
	local value

	value=$(sed -n "s/.* $1=\([^ ]*\).*/\1/p" <<<"$verdict")
	case $value in
	0x*) printf '%u' "$value" ;;
	*) echo "$value" ;;
	esac
}

test_size() { # NAME CONDITION...
	local name=$1

	shift
	if "$@"; then
		ktap_test_pass "$name"
	else
		ktap_print_msg "$verdict"
		ktap_test_fail "$name"
	fi
}

require_engine
ktap_print_header
ktap_set_plan $((${#MODES[@]} * 13))
for mode in "${MODES[@]}"; do
	enter_engine_mode "$mode" || continue
	test_command "$mode: a mask of 64 bits" "mask bits=64 len=1-64k iter=4"
	for bits in 48 36 32; do
		test_command_or_refusal "$mode: a mask of $bits bits" "mask bits=$bits len=1-64k"
	done
	test_command "$mode: a mask of 20 bits is refused" "mask bits=20 expect=fail"
	test_command "$mode: the wide mask is back" "single len=1-64k dir=any iter=10"
	test_command "$mode: dma_map_resource is refused" "resource iter=10"
	test_command "$mode: dma_map_resource is refused, hardirq" "resource ctx=hardirq iter=10"

	command_engine sizes
	test_size "$mode: dma_max_mapping_size" test "$(size max_mapping_size)" -ge $((4 << 20))
	test_size "$mode: dma_opt_mapping_size" \
		test "$(size opt_mapping_size)" -le "$(size max_mapping_size)"
	test_size "$mode: dma_can_mmap" test "$(size can_mmap)" = true
	leave_engine_mode "$mode"
done
ktap_finished
