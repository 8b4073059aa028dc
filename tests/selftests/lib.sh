# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash disable=SC2034 # the variables are for the scripts that source this file
#
# Common parts of the tests of apple_dma_pci: finding devices, loading modules, and running commands
# of the test driver as KTAP tests. Sourced, never run.

set -u
export LC_ALL=C

DIR=$(dirname "$(readlink -f "$0")")
# shellcheck source=/dev/null
. "$DIR"/../../kselftest/ktap_helpers.sh

PCI=/sys/bus/pci/devices
DEBUGFS=/sys/kernel/debug

# The PCI devices that the tests know.
companions() { pci_devices 0x1b36 0x0015; }
engines() { pci_devices 0x1234 0xd3a0; }
endpoints() { pci_devices 0x104c 0xb500; }

# Modes of the module in which all tests are run, or those in APPLE_DMA_PCI_MODES.
read -ra MODES <<<"${APPLE_DMA_PCI_MODES:-whole_ram=1 whole_ram=0 strict=1}"
loaded_here=()
verdict=
relayed=
engine=
log_mark=

# A test: the command succeeds.
test_result() { # NAME COMMAND...
	local name=$1

	shift
	if "$@"; then
		ktap_test_pass "$name"
	else
		ktap_test_fail "$name"
	fi
}

skip_all() {
	ktap_skip_all "$*"
	exit "$KSFT_SKIP"
}

# Prints the addresses of all PCI devices with these IDs.
pci_devices() { # VENDOR DEVICE
	local device

	for device in "$PCI"/*; do
		if [ "$(cat "$device/vendor") $(cat "$device/device")" = "$1 $2" ]; then
			echo "${device##*/}"
		fi
	done
}

# Prints the devices whose DMA a companion manages now.
managed_devices() {
	local link

	for link in "$PCI"/*/supplier:pci:*; do
		[ -e "$link" ] || continue
		companions | grep -qFx "${link##*supplier:pci:}" && basename "$(dirname "$link")"
	done
}

# The mode in which the engine's DMA is managed now.
engine_mode() {
	local companion files

	for companion in $(companions); do
		files=$PCI/$companion/apple_dma_pci
		if [ "$(cat "$files/managed" 2>/dev/null)" = "$engine" ]; then
			cat "$files/mode"
			return
		fi
	done
	echo none
}

driver_of() { # ADDRESS
	basename "$(readlink "$PCI/$1/driver")"
}

is_loaded() { # MODULE
	[ -d "/sys/module/$1" ]
}

# Loads a module: the one that was built with the tests, or else the installed one.
load() { # MODULE [PARAMETER]...
	local file=$DIR/modules/$1.ko

	is_loaded "$1" && return
	if [ -e "$file" ]; then
		insmod "$file" "${@:2}" || return
	else
		modprobe "$@" || return
	fi
	loaded_here+=("$1")
}

# Succeeds if load() has a module to load.
is_available() { # MODULE
	is_loaded "$1" || [ -e "$DIR/modules/$1.ko" ] || modprobe -n -q "$1"
}

unload() { # MODULE
	local module rest=()

	for module in "${loaded_here[@]}"; do
		[ "$module" = "$1" ] || rest+=("$module")
	done
	loaded_here=("${rest[@]}")
	rmmod "$1"
}

# Unloads the modules that were loaded here, the last one first.
unload_all() {
	while [ ${#loaded_here[@]} -gt 0 ]; do
		unload "${loaded_here[-1]}"
	done
}
trap unload_all EXIT

# Prerequisites of all tests.
require() {
	[ "$(id -u)" = 0 ] || skip_all "needs root"
	[ -n "$(companions)" ] || skip_all "no apple-dma-pci companion (PCI 1b36:0015)"
	is_available apple_dma_pci || skip_all "no module apple_dma_pci"
}

# Tests with data need an engine, and its driver. Sets engine.
require_engine() {
	require
	engine=$(engines | head -n 1)
	[ -n "$engine" ] || skip_all "no simulated DMA engine (PCI 1234:d3a0)"
	[ -d "$DEBUGFS" ] || skip_all "no debugfs (CONFIG_DEBUG_FS)"
	[ -n "$(ls "$DEBUGFS")" ] || mount -t debugfs none "$DEBUGFS"
	is_available apple_dma_test || skip_all "no module apple_dma_test"
}

# The modes to test in. A module that was loaded before may serve a device in use, and stays.
if is_loaded apple_dma_pci; then
	MODES=("loaded")
fi

load_mode() { # MODE
	if [ "$1" = "loaded" ]; then
		return
	fi
	load apple_dma_pci "$1"
}

# Prints the lines of the kernel's log since the last mark.
mark_log() {
	log_mark="kselftest: apple_dma_pci: mark $$.$RANDOM.$RANDOM"
	echo "$log_mark" >/dev/kmsg
}

log_since_mark() {
	dmesg | awk -v mark="$log_mark" '
		{ line[NR] = $0 }
		index($0, mark) { from = NR }
		END { for (i = from + 1; i <= NR; i++) print line[i] }'
}

# Messages of the kernel and the module about errors.
TROUBLE="WARNING:|BUG:|Oops|[Cc]all trace|rcu: INFO|blocked for more|invalid reply"
TROUBLE+="|driver bug|failed to unmap"

# Prints the counters of every companion that are not 0, where there is a debugfs.
print_counters() {
	local file

	for file in "$DEBUGFS"/apple_dma_pci/*/counters; do
		[ -r "$file" ] || continue
		ktap_print_msg "$(basename "$(dirname "$file")"):" \
			"$(awk '$2 != 0 { printf "%s=%s ", $1, $2 }' "$file")"
	done
}

# Ends a mode. Unloading must find no mapping, and the log must have no error.
leave_mode() { # MODE
	local bad

	if [ "$1" != "loaded" ]; then
		print_counters
		unload apple_dma_pci || return
		if ! log_since_mark | grep -q "apple_dma_pci .*: released, "; then
			ktap_print_msg "no device was released"
			return 1
		fi
	fi
	bad=$(log_since_mark | grep -E "$TROUBLE")
	[ -z "$bad" ] && return
	ktap_print_msg "$bad"
	return 1
}

# Runs a command of the test driver, see tests/driver/README.md; sets verdict.
command_engine() { # COMMAND
	local run=$DEBUGFS/apple_dma_test/$engine/run status=0

	echo "$1" 2>/dev/null >"$run" || status=1
	verdict=$(cat "$run")
	return $status
}

# A test: the engine's command succeeds.
test_command() { # NAME COMMAND
	if command_engine "$2"; then
		ktap_test_pass "$1"
	else
		ktap_print_msg "$2"
		ktap_print_msg "$verdict"
		ktap_test_fail "$1"
	fi
}

# A test for an entry point that need not be supported, but must be refused cleanly then.
test_command_or_refusal() { # NAME COMMAND
	if command_engine "$2"; then
		ktap_print_msg "met: $1"
		ktap_test_pass "$1"
	else
		test_command "$1" "$2 expect=fail"
	fi
}

# Runs another test and reports its tests as ours. Sets relayed to its output. The number of tests
# is known only afterwards: ktap_finish_relayed() ends such a file.
relay() { # PREFIX PROGRAM
	local line name tests=0 status=0

	relayed=$(cd "$(dirname "$2")" && "./$(basename "$2")" 2>&1) || status=$?
	while IFS= read -r line; do
		case $line in
		ok\ *\#*SKIP*)
			name=${line#ok * }
			ktap_test_skip "$1: ${name%%#*}(${name##*SKIP })"
			;;
		ok\ *)
			ktap_test_pass "$1: ${line#ok * }"
			;;
		not\ ok\ *)
			ktap_test_fail "$1: ${line#not ok * }"
			;;
		*)
			[ -z "$line" ] || echo "# $line"
			continue
			;;
		esac
		tests=$((tests + 1))
	done <<<"$relayed"
	# A test without a verdict, or with another one than its subtests.
	if [ "$tests" = 0 ] || { [ $status != 0 ] && ! grep -q '^not ok ' <<<"$relayed"; }; then
		ktap_test_fail "$1: $(basename "$2") ended with status $status"
	fi
}

ktap_finish_relayed() {
	ktap_set_plan $((KTAP_TESTNO - 1))
	ktap_finished
}

# Runs a C test, which uses the engine, in every mode.
relay_in_modes() { # PROGRAM
	local mode

	require_engine
	ktap_print_header
	for mode in "${MODES[@]}"; do
		enter_engine_mode "$mode" || continue
		relay "$mode" "$DIR/$1"
		leave_engine_mode "$mode"
	done
	ktap_finish_relayed
}

# Sets ROWS from lines "NAME: COMMAND", or "NAME: SKIP REASON", on standard input.
read_rows() {
	mapfile -t ROWS < <(grep -v '^$')
}

# Runs ROWS in every mode, with two tests around them.
run_rows() {
	local mode row

	ktap_print_header
	ktap_set_plan $((${#MODES[@]} * (${#ROWS[@]} + 2)))
	for mode in "${MODES[@]}"; do
		enter_engine_mode "$mode" || continue
		for row in "${ROWS[@]}"; do
			case ${row#*: } in
			SKIP\ *) ktap_test_skip "$mode: ${row%%: *} (${row#*: SKIP })" ;;
			*) test_command "$mode: ${row%%: *}" "${row#*: }" ;;
			esac
		done
		leave_engine_mode "$mode"
	done
	ktap_finished
}

# A test: the engine is managed, and bound to the test driver.
enter_engine_mode() { # MODE
	mark_log
	if load_mode "$1" && managed_devices | grep -qFx "$engine" && load apple_dma_test &&
	   [ "$(driver_of "$engine")" = apple_dma_test ]; then
		ktap_test_pass "$1: the engine is managed"
		return
	fi
	log_since_mark | tail -n 5 | sed 's/^/# /'
	ktap_test_fail "$1: the engine is managed"
	unload_all
	return 1
}

leave_engine_mode() { # MODE
	unload apple_dma_test
	test_result "$1: nothing is left" leave_mode "$1"
}
