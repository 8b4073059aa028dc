# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
# Common parts of scripts in which allocations fail, on a kernel that can have them fail.

injectors=(/sys/kernel/debug/failslab /sys/kernel/debug/fail_page_alloc)

for injector in "${injectors[@]}"; do
	echo 0 >"$injector/probability"
	echo 0 >"$injector/verbose"
	echo 32 >"$injector/stacktrace-depth"
	echo N >"$injector/ignore-gfp-wait"
done
echo N >"${injectors[1]}/ignore-gfp-highmem"
echo 0 >"${injectors[1]}/min-order"

# below START END: restricts failures to allocations with code of this range on the stack.
below() {
	local injector
	for injector in "${injectors[@]}"; do
		echo "0x$1" >"$injector/require-start"
		echo "0x$2" >"$injector/require-end"
	done
}

# below_function NAME: the range is that of a function of the kernel. The shell's own allocations
# are not below it.
below_function() {
	local range
	range=$(sort /proc/kallsyms | awk -v name="$1" '
		start && $1 != start { print start, $1; exit }
		$3 == name { start = $1 }')
	below "${range% *}" "${range#* }"
}

# below_module NAME: the range is the module's code, up to its last function.
below_module() {
	local range
	range=$(sort /proc/kallsyms | awk -v name="[$1]" '
		$4 == name && $2 ~ /[tT]/ { if (!start) start = $1; end = $1 }
		END { print start, end }')
	below "${range% *}" "${range#* }"
}

# put TEXT FILE NTH: writes the text to the file; of the allocations of that, the one with that
# number fails. Between the switches are only builtins: a fork would be hit as well.
put() {
	local status=0
	echo "$3" >/proc/self/fail-nth
	{ echo "$1" >"$2"; } 2>/dev/null || status=1
	echo 0 >/proc/self/fail-nth
	return $status
}
