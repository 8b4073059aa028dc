# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash disable=SC2016 # what inner shells are given, they expand
# Common parts of scenarios' scripts: messages to the runner, assertions, and finding and loading
# devices and modules. bash reads this file before every script. The runner's end is src/channel.rs.

# The port on which the runner listens and answers.
for lib_port in /sys/class/virtio-ports/*; do
	if [[ $(cat "$lib_port/name") == org.apple-dma-pci.runner ]]; then
		lib_port=/dev/${lib_port##*/}
		break
	fi
done

# --- talking to the runner --------------------------------------------------

# Execution of a program takes 20 ms in an emulated guest, so that what is called most does without.

# pause SECONDS: does nothing for that long. Nothing is ever written to the pipe.
exec {lib_pipe}<> <(:)
pause() { read -rt "$1" -u "$lib_pipe" || true; }

# open_port: opens the port as $port, once it is closed: only one process at a time can open it.
open_port() {
	until { exec {port}<>"$lib_port"; } 2>/dev/null; do
		pause 0.02
	done
}

close_port() { exec {port}>&-; }

# say LINE: sends the line to the runner, and prints it on the console for readers of its log.
say() {
	local now port _
	read -r now _ </proc/uptime
	printf '[%9s   ] @@%s\n' "$now" "$*"
	open_port
	printf '%s\n' "$*" >&"$port"
	close_port
}

ok() { say "ok $1"; }

# fail NAME REASON: reports a failed assertion.
fail() { say "fail $1: ${2//$'\n'/ }"; }

# info TEXT: reports every line of the text.
info() {
	local line
	while IFS= read -r line; do
		say "info $line"
	done <<<"$*"
}

# ask QUESTION: prints the runner's answer, see src/channel.rs.
ask() {
	local answer port
	open_port
	printf '%s\n' "$*" >&"$port"
	# A short answer at most; bash reads a byte at a time.
	IFS= read -rn 64 answer <&"$port"
	[[ ${#answer} -lt 64 ]] || answer+=$(head -n 1 <&"$port")
	close_port
	printf '%s\n' "$answer"
	[[ $answer != error:* ]]
}

# cut_power: resets the machine, as if its power were cut. No other process waits for an answer
# meanwhile, which the next boot would read.
cut_power() {
	local port
	open_port
	echo cut >&"$port"
	sleep 60
	close_port
	fail 'power cut' 'the machine is still running'
}

# counter DEVICE POINTER: prints a counter of the simulated Mac, e.g. nvme0 device/faults.
counter() { ask "stat /devices/$1/$2"; }

# mapped_in DEVICE START END [MIN]: prints the number of mappings of the device, of at least MIN
# bytes, that overlap the range.
mapped_in() {
	local count=0 line gpa len
	while IFS= read -r line; do
		gpa=${line#*\"gpa\":} gpa=${gpa%%,*}
		len=${line#*\"len\":} len=${len%%[,\}]*}
		((gpa >= $3 || gpa + len <= $2 || len < ${4:-0})) || ((count += 1))
	done < <(ask "mac {\"cmd\":\"mappings\",\"device\":\"$1\"}" | grep -o '{"gpa":[^}]*}')
	echo $count
}

# --- assertions -------------------------------------------------------------

# check NAME COMMAND...: asserts that the command succeeds.
check() {
	local name=$1 output
	shift
	if output=$("$@" 2>&1); then
		[[ ! $output ]] || printf '%s\n' "$output"
		ok "$name"
	else
		printf '%s\n' "$output"
		fail "$name" "$(tail -n 1 <<<"$output")"
		return 1
	fi
}

# refuse NAME COMMAND...: asserts that the command fails.
refuse() {
	local name=$1
	shift
	if "$@"; then
		fail "$name" "'$*' succeeded"
		return 1
	fi
	ok "$name"
}

# is NAME GOT WANTED: asserts that they are the same.
is() {
	if [[ $2 == "$3" ]]; then
		ok "$1"
	else
		fail "$1" "got '$2', not '$3'"
		return 1
	fi
}

# The factor by which a busy machine may be slower than one that has nothing else to do.
lib_patience=5

# within SECONDS COMMAND...: waits until the command succeeds, as long as that may take on a busy
# machine.
within() {
	local until=$((SECONDS + $1 * lib_patience))
	shift
	until "$@"; do
		if ((SECONDS >= until)); then
			echo "not within the time: $*"
			return 1
		fi
		pause 0.1
	done
}

# random SEED N: prints the Nth number, below 32768, of a sequence.
random() {
	local number=$1 i
	for ((i = 0; i <= $2; i++)); do
		((number = (number * 1103515245 + 12345) & 0x7fffffff))
	done
	echo $((number >> 16))
}

# --- drivers and devices ----------------------------------------------------

# suspend_devices NAME: asserts that all devices are suspended, in all of their phases, and resumed
# a second later; processes are frozen meanwhile. The machine itself does not sleep: from s2idle the
# clock does not wake up amd64 guests, and what they reset in sleep includes VT-d.
suspend_devices() {
	local before
	check "$1: there is a test of sleep" grep -w platform /sys/power/pm_test
	echo platform >/sys/power/pm_test
	echo s2idle >/sys/power/mem_sleep
	echo 1 >/sys/module/suspend/parameters/pm_test_delay
	before=$(dmesg | grep -c 'suspend debug: Waiting') || true
	check "$1: devices are suspended and resumed" eval 'echo mem >/sys/power/state'
	is "$1: they were" "$(dmesg | grep -c 'suspend debug: Waiting')" $((before + 1))
}

# page_size: prints the kernel's page size, in bytes, as every process is told (AT_PAGESZ).
page_size() { od -An -v -w16 -t u8 /proc/self/auxv | awk '$1 == 6 { print $2 }'; }

# load: loads our module with the scenario's parameters; COPY is its default for the parameter copy.
load() {
	# shellcheck disable=SC2086 # words
	insmod /test/modules/apple_dma_pci.ko ${COPY:+"$COPY"} $PARAMETERS && look_for_races
}

# look_for_races: enables KCSAN, if the kernel has it, for our modules' C and for the helpers of
# Rust's atomics. The kernel has races of its own.
look_for_races() {
	local races=/sys/kernel/debug/kcsan name
	[[ -e $races ]] || return 0
	awk '$4 ~ /^\[apple_dma/ && $3 ~ /^(apple_)?dma_/ { print $3 }
		$3 ~ /^rust_helper_atomic/ { print $3 }' /proc/kallsyms | while read -r name; do
		echo "!$name" >$races
	done
	echo whitelist >$races
	# Of so many accesses one is watched: often, since a guest makes few.
	echo 1000 >/sys/module/kcsan/parameters/skip_watch
	echo on >$races
}

unload() { rmmod apple_dma_pci; }

# manage, release: assert that our module loads and unloads; in a control, which has none, nothing.
manage() { [[ $MODE == control ]] || check 'apple_dma_pci loads' load; }
release() { [[ $MODE == control ]] || check 'apple_dma_pci unloads' unload; }

# poisoned: succeeds if the kernel fills pages when they are freed, and checks that pattern when
# they are allocated. Its log has this line only with both parameters.
poisoned() {
	grep -qw page_poison=1 /proc/cmdline &&
		dmesg | grep 'mem auto-init: CONFIG_PAGE_POISONING is on, will take precedence'
}

# module_counter COMPANION NAME: prints a counter of our module, from debugfs.
module_counter() {
	awk -v name="$2" '$1 == name { print $2 }' "/sys/kernel/debug/apple_dma_pci/$1/counters"
}

# companions: prints the PCI addresses of all, one to a line.
companions() { pci_ids 0x1b36 0x0015; }

# pci_ids VENDOR DEVICE: prints the PCI addresses of all such devices.
pci_ids() {
	local device
	for device in /sys/bus/pci/devices/*; do
		if [[ $(<"$device/vendor") == "$1" && $(<"$device/device") == "$2" ]]; then
			echo "${device##*/}"
		fi
	done
}

# bound ADDRESS DRIVER: succeeds if the driver is bound to the device.
bound() { [[ $(readlink "/sys/bus/pci/devices/$1/driver") == */"$2" ]]; }

# disk ADDRESS: prints the block device of the NVMe controller at a PCI address.
disk() {
	local path
	for path in /sys/bus/pci/devices/"$1"/nvme/nvme*/nvme*n*; do
		[[ -e $path && -b /dev/${path##*/} ]] || continue
		echo "/dev/${path##*/}"
		return
	done
	echo "no disk at $1"
	return 1
}

# interface ADDRESS: prints the name of the network interface of the PCI device.
interface() {
	local path
	for path in /sys/bus/pci/devices/"$1"/net/* /sys/bus/pci/devices/"$1"/virtio*/net/*; do
		[[ -e $path ]] || continue
		echo "${path##*/}"
		return
	done
	echo "no interface of $1"
	return 1
}

# await_disk ADDRESS: waits for the block device, and prints it.
await_disk() {
	if ! within 30 disk "$1" >/dev/null; then
		fail "disk at $1" 'it does not come up' >&2
		return 1
	fi
	disk "$1"
}

# load_kernel OPTION...: loads the kernel that this guest booted, for kexec. Without its checksum,
# which a kernel to be started verifies with the caches off: for half a minute.
load_kernel() {
	local file
	modprobe virtio_blk
	for file in kernel initrd; do
		grep -l "^$file\$" /sys/block/vd*/serial | while IFS=/ read -r _ _ _ disk _; do
			cat "/dev/$disk" >"/tmp/$file"
		done
	done
	kexec "$@" --no-checks /tmp/kernel --initrd=/tmp/initrd --reuse-cmdline
	rm /tmp/kernel /tmp/initrd
}

# logged PATTERN: succeeds if the kernel's log has a line that matches.
logged() { dmesg | grep -E -- "$1"; }

# load_engine: loads the test driver of DMA engines.
load_engine() { insmod /test/modules/apple_dma_test.ko && look_for_races; }

# engine ADDRESS COMMAND...: runs a command of the test driver, see tests/driver/README.md,
# and prints its verdict.
engine() {
	local run=/sys/kernel/debug/apple_dma_test/$1/run failed=
	shift
	# The driver counts as bound before its probe has finished.
	within 5 test -e "$run" >/dev/null || true
	echo "$*" >"$run" || failed=1
	cat "$run"
	[[ ! $failed ]]
}

# --- the doctor -------------------------------------------------------------

# doctor [ARGUMENT]...: prints the status of apple-dma-pci doctor, then SEVERITY CHECK: TEXT of each
# finding in its JSON.
doctor() {
	local status=0
	apple-dma-pci --json doctor "$@" >/run/doctor.json || status=$?
	echo "status $status"
	sed -En 's/^ *"(check|severity|found)": "(.*)",?$/\1 \2/p' /run/doctor.json | awk '
		$1 == "check" { check = $2 }
		$1 == "severity" { severity = $2 }
		$1 == "found" { sub(/^found /, ""); print severity, check ": " $0 }'
}

# finds NAME STATUS [REGEX]...: asserts that the doctor ends with that status, has a finding for
# each REGEX, and no other problem, warning, or check that was not possible.
finds() {
	local name=$1 status=$2 regex found others
	shift 2
	found=$(doctor --root /)
	is "$name: status" "$(head -n 1 <<<"$found")" "status $status"
	for regex; do
		check "$name: '$regex'" grep -Eq -- "^$regex" <<<"$found"
	done
	others=$(sed 1d <<<"$found" | grep -v '^ok ' |
		grep -Ev -- "^($(IFS='|'; echo "${*:-nothing}"))") || true
	is "$name: nothing else" "$others" ''
	# Every finding that is not ok has advice.
	is "$name: advice" "$(grep -c '"advice":' /run/doctor.json)" \
		"$(sed 1d <<<"$found" | grep -vc '^ok ')"
}

# --- measuring --------------------------------------------------------------

# figure GROUP MODE CASE KEY=VALUE...: reports a measurement, see src/bench/.
figure() { say "figure $*"; }

# reload ENGINE PARAMETER...: loads our module again, with a host that has nothing mapped; waits
# until the test driver is bound to the engine at that PCI address.
reload() {
	local engine=$1
	shift
	! grep -q '^apple_dma_pci ' /proc/modules || unload
	PARAMETERS=$* load
	within 20 bound "$engine" apple_dma_test
}

# doorbells DEVICE: prints the number of doorbells of the device's companion so far.
doorbells() { counter "$1" companion/doorbells; }

# field NAME TEXT: prints the value of NAME=VALUE in the text.
field() {
	local text=" $2"
	text=${text##* "$1"=}
	echo "${text%% *}"
}

# per COUNT NUMBER: prints COUNT divided by NUMBER, with four digits.
per() { awk -v count="$1" -v number="$2" 'BEGIN { printf "%.4f\n", count / number }'; }
