# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
# Common parts of measurements of work that is much larger than the host can map, on a host that
# takes long for each entry: the time that it takes on a managed device, and on one of the same
# speed with direct mapping. Both take turns.
#
# DEVICE: name of the managed device. ROUNDS: of each measurement.

# parameters MODE MIB: prints the module's parameters for a mode that can map so many MiB.
parameters() {
	case $1 in
	never) echo 'whole_ram=0 copy=never' ;;
	copied) echo 'whole_ram=0 copy=auto' ;;
	strict) echo 'strict=1 copy=auto' ;;
	bounced) ;;
	esac
	echo "max_bytes=$(($2 << 20))"
}

# sent: prints the entries that the host was sent so far to map, to unmap, and the doorbells.
sent() {
	echo "$(counter "$DEVICE" companion/entries_mapped)" \
		"$(counter "$DEVICE" companion/entries_unmapped)" "$(doorbells "$DEVICE")"
}

# timed COMMAND...: leaves the milliseconds that a command takes in `ms`.
timed() {
	local start=${EPOCHREALTIME/./}
	"$@" || fail "$*"
	ms=$(((${EPOCHREALTIME/./} - start) / 1000))
}

# compare MODE CASE MIB COMMAND...: runs a command that moves so many MiB, with the last argument
# `ours` for the managed device and `theirs` for the other one.
compare() {
	local round which times before after
	for ((round = 0; round < ROUNDS; round++)); do
		times=()
		for which in ours theirs; do
			[[ $which == theirs ]] || read -ra before < <(sent)
			timed "${@:4}" "$which"
			times+=("$which=$ms")
			[[ $which == theirs ]] || read -ra after < <(sent)
		done
		figure "stream $1 $2 ${times[*]} mib=$3 mapped=$((after[0] - before[0]))" \
			"unmapped=$((after[1] - before[1])) doorbells=$((after[2] - before[2]))"
	done
}
