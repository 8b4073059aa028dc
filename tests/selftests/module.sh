#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# The module with the managed devices of the guest: it loads, manages, releases and unloads. Needs
# nothing but a companion. A module that is loaded already stays loaded.
#
# usage: module.sh [DIRECTORY]
# With a DIRECTORY on a managed disk, a file is written there and read back.

# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$(readlink -f "$0")")"/lib.sh

directory=${1:-}
before=
! is_loaded apple_dma_pci || before="the module was loaded before"

all_bound() {
	local companion

	for companion in $(companions); do
		[ "$(driver_of "$companion")" = apple_dma_pci ] && continue
		ktap_print_msg "$companion has no driver"
		return 1
	done
}

# Each has one device that depends on it.
all_manage() {
	local companion consumers

	for companion in $(companions); do
		consumers=("$PCI/$companion"/consumer:pci:*)
		[ -e "${consumers[0]}" ] && [ ${#consumers[@]} = 1 ] && continue
		ktap_print_msg "$companion manages nothing"
		return 1
	done
}

# A device without a driver has an available link, one with a driver an active link.
links_right() {
	local device status expected

	for device in $(managed_devices); do
		status=$(cat "$PCI/$device"/supplier:pci:*/status)
		expected=available
		[ ! -e "$PCI/$device/driver" ] || expected=active
		[ "$status" = "$expected" ] && continue
		ktap_print_msg "$device: its link is '$status', not '$expected'"
		return 1
	done
}

announced() {
	local device

	for device in $(managed_devices); do
		log_since_mark | grep -q "apple_dma_pci .*: manages $device: " && continue
		ktap_print_msg "the log does not say that $device is managed"
		return 1
	done
}

# Devices that have drivers, of those that will be managed.
with_driver() {
	local device

	for device in $candidates; do
		[ ! -e "$PCI/$device/driver" ] || echo "$device"
	done
}

drivers_back() {
	local device

	for device in $had_driver; do
		[ -e "$PCI/$device/driver" ] && continue
		ktap_print_msg "$device lost its driver"
		return 1
	done
}

# Unloading logs the release of every managed device. One that had a driver had windows.
all_released() {
	local device

	for device in $were_managed; do
		if ! log_since_mark | grep -q "apple_dma_pci .*: $device: released, "; then
			ktap_print_msg "$device was not released"
			return 1
		fi
		if grep -qFx "$device" <<<"$had_driver" &&
		   log_since_mark | grep -q "$device: released, 0 windows unmapped"; then
			ktap_print_msg "nothing was mapped for $device"
			return 1
		fi
	done
}

# Succeeds if a file is on a managed device.
on_managed_device() { # FILE
	local number major minor device path

	number=$(stat -c %d "$1") || return
	major=$((number >> 8 & 0xfff))
	minor=$((number & 0xff | number >> 12 & 0xfff00))
	path=$(readlink -f "/sys/dev/block/$major:$minor")
	for device in $(managed_devices); do
		case $path in
		*/"$device"/*) return ;;
		esac
	done
	ktap_print_msg "$1 is not on a managed device: $path"
	return 1
}

# An odd size, and read from the device, not from the page cache.
file_roundtrip() {
	local file=$directory/apple_dma_pci.$$ sum status=0

	sum=$(head -c 50000003 /dev/urandom | tee "$file" | sha256sum)
	if ! sync "$file" || ! echo 1 >/proc/sys/vm/drop_caches ||
	   [ "$(stat -c %s "$file")" != 50000003 ] || [ "$(sha256sum <"$file")" != "$sum" ]; then
		status=1
	fi
	rm -f "$file"
	return $status
}

# A test that is possible only for a module that was loaded here.
test_own() { # NAME COMMAND...
	if [ -n "$before" ]; then
		ktap_test_skip "$1 ($before)"
	else
		test_result "$@"
	fi
}

reload() {
	unload apple_dma_pci && load apple_dma_pci && all_bound && all_manage
}

require
candidates=$(cd "$PCI" && echo *)
had_driver=
[ -n "$before" ] || had_driver=$(with_driver)
[ -n "$before" ] || mark_log

ktap_print_header
ktap_set_plan 11
test_result "the module loads" load apple_dma_pci
test_result "every companion has the driver" all_bound
test_result "every companion manages a device" all_manage
test_result "the links between devices are right" links_right
test_own "the log says what is managed" announced
test_own "every device has its driver back" drivers_back
if [ -z "$directory" ]; then
	ktap_test_skip "a file on a managed disk (no DIRECTORY was given)"
	ktap_test_skip "a file's way to the disk and back (no DIRECTORY was given)"
else
	test_result "$directory is on a managed disk" on_managed_device "$directory"
	test_result "a file's way to the disk and back" file_roundtrip
fi
test_own "it can be reloaded" reload
were_managed=$(managed_devices)
had_driver=$(with_driver)
test_own "it unloads, and nothing is left" leave_mode "reloaded"
test_own "it has released every device" all_released
ktap_finished
