#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Exchanges of data while memory is scarce, and while allocations are made to fail. A mapping may
# fail then, but only with an error, and everything works again afterwards.

# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$(readlink -f "$0")")"/lib.sh

# Free memory to leave, in KiB: the tests' own need.
FLOOR=$((96 << 10))
filler=

available() { awk '/^MemAvailable:/ { print $2 }' /proc/meminfo; }

fill() {
	filler=/tmp/apple_dma_pci.$$
	mkdir "$filler" || return
	mount -t tmpfs -o size=100%,noswap none "$filler" || return
	while [ "$(available)" -gt "$FLOOR" ]; do
		dd if=/dev/zero of="$filler/fill" bs=1M count=8 oflag=append conv=notrunc \
			status=none || return
	done
}

drain() {
	[ -n "$filler" ] || return
	umount "$filler" 2>/dev/null
	rmdir "$filler"
	filler=
}

# Every allocation may fail, in every context: interrupts have no task to filter by.
prepare_injector() { # INJECTOR
	local knobs=$DEBUGFS/$1

	echo 0 >"$knobs/probability"
	echo 0 >"$knobs/verbose"
	echo 1 >"$knobs/interval"
	echo -1 >"$knobs/times"
	echo N >"$knobs/task-filter"
	echo N >"$knobs/ignore-gfp-wait"
	[ ! -e "$knobs/ignore-gfp-highmem" ] || echo N >"$knobs/ignore-gfp-highmem"
	[ ! -e "$knobs/min-order" ] || echo 0 >"$knobs/min-order"
}

# Runs a command while allocations fail. Only builtins run between the switches: a fork would fail
# as well.
command_injected() { # INJECTOR COMMAND
	local switch=$DEBUGFS/$1/probability failed=

	echo 20 >"$switch"
	{ echo "$2" >"$DEBUGFS/apple_dma_test/$engine/run"; } 2>/dev/null || failed=1
	until { echo 0 >"$switch"; } 2>/dev/null; do :; done
	verdict=$(cat "$DEBUGFS/apple_dma_test/$engine/run")
	# The file could not be opened, or its contents not be stored: the verdict is of the command
	# before, or there is none.
	case $failed$verdict in
	1ok* | 1nothing*) verdict="fail: ENOMEM" ;;
	esac
}

cleanup() {
	for injector in failslab fail_page_alloc; do
		[ ! -d "$DEBUGFS/$injector" ] || echo 0 >"$DEBUGFS/$injector/probability"
	done
	drain
	unload_all
}
trap cleanup EXIT

# Every command succeeds or fails with ENOMEM, and some do each.
test_injected() { # NAME INJECTOR
	local turn good=0 bad=0 commands=(
		"single len=1-64k off=0-4095 dir=any ctx=any"
		"sg n=1-128 len=1-4k dir=any ctx=any"
		"coherent len=8-64k ctx=any"
		"many n=32 len=1-64k"
	)

	if [ ! -d "$DEBUGFS/$2" ]; then
		ktap_test_skip "$1 (no fault injection in this kernel)"
		return
	fi
	prepare_injector "$2"
	for turn in $(seq 200); do
		command_injected "$2" "${commands[turn % ${#commands[@]}]} seed=$turn"
		case $verdict in
		ok*) good=$((good + 1)) ;;
		fail:*ENOMEM* | fail:*EAGAIN*) bad=$((bad + 1)) ;;
		# Error numbers, without CONFIG_SYMBOLIC_ERRNAME.
		fail:*Error\(12\)* | fail:*Error\(11\)*) bad=$((bad + 1)) ;;
		*)
			ktap_print_msg "$verdict"
			ktap_test_fail "$1"
			return
			;;
		esac
	done
	ktap_print_msg "$good commands succeeded, $bad ran out of memory"
	test_result "$1" test "$good" -gt 0 -a "$bad" -gt 0
}

require_engine
ktap_print_header
ktap_set_plan $((${#MODES[@]} * 10))
for mode in "${MODES[@]}"; do
	enter_engine_mode "$mode" || continue
	test_result "$mode: memory is filled" fill
	ktap_print_msg "$(available) KiB are available"
	test_command "$mode: mappings under pressure" \
		"single len=1-64k off=0-4095 dir=any ctx=any cpus=all iter=100"
	test_command "$mode: scatterlists under pressure" \
		"sg n=1-256 len=1-4k dir=any ctx=any iter=15"
	test_command "$mode: coherent memory under pressure" "coherent len=8-64k iter=50"
	test_command "$mode: everything under pressure" "stress iter=60"
	drain
	test_injected "$mode: failing slab allocations" failslab
	test_injected "$mode: failing page allocations" fail_page_alloc
	test_command "$mode: everything works again" "stress iter=40 seed=2"
	leave_engine_mode "$mode"
done
ktap_finished
