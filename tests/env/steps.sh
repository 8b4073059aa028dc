# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
# Steps that fill the cache: each is repeated when its inputs have changed, shows its progress, and
# gives a hint when it fails. Sourced, never run.

# shellcheck source-path=SCRIPTDIR source=common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

check_only=
hint=

# Directory of the sources of the kernels in question, and of their version: the cache for the usual
# series, a directory in it for another one.
kernels=$cache

# Prints the version of Debian's kernel that was picked.
kernel_version() { cat "$kernels/kernel-version"; }

# kernel_release FLAVOUR: prints its release, e.g. of arm64 or rt-arm64.
kernel_release() {
	local version
	version=$(kernel_version)
	echo "${version%%-*}+deb13-$1"
}

# kernel_packages FLAVOUR ARCH: prints the names of packages for apt-get, one to a line.
kernel_packages() {
	local part
	for part in base headers binary modules; do
		echo "linux-$part-$(kernel_release "$1"):$2=$(kernel_version)"
	done
}

hash_of() { sha256sum <<<"$*" | cut -c1-32; }

# step NAME SECONDS TEXT KEY...: runs do_NAME, or do_NAME ARCH for NAME.ARCH, unless it ran before
# with the same body and the same keys. With check_only, its status only tells whether it did. hint
# is printed when it fails.
step() {
	local name=$1 seconds=$2 text=$3 log=$logs/$1.log key
	shift 3
	key=$(hash_of "$(declare -f "do_${name%%.*}")" "$@")
	[[ $(cat "$stamps/$name" 2>/dev/null) != "$key" ]] || return 0
	[[ ! $check_only ]] || exit 1
	rm -f "$stamps/$name"
	say "$text (usually $seconds s)"

	local start=$SECONDS next=15 pid line
	(
		set -x
		"do_${name%%.*}" "${name#*.}"
	) >"$log" 2>&1 </dev/null &
	pid=$!
	while kill -0 "$pid" 2>/dev/null; do
		sleep 0.2
		if ((SECONDS - start >= next)); then
			line=$(sed '/^+/d' "$log" | tail -n 1 | tr -d '\r' | tr '\t' ' ')
			printf '    %s: %d s: %s\n' "$name" "$next" "${line:0:90}"
			((next += 15))
		fi
	done
	if ! wait "$pid"; then
		{
			tail -n 15 "$log" | sed 's/^/    | /'
			say "failed: $text"
			say "$hint Then run it again: it goes on from here."
			say "the whole log is $log"
		} >&2
		exit 1
	fi
	printf '    %s: done in %d s\n' "$name" $((SECONDS - start))
	echo "$key" >"$stamps/$name"
}

# The release of Debian.
suite=trixie

# The mirror from which this machine's apt gets Debian; none elsewhere.
mirror() {
	# shellcheck disable=SC2016 # expanded by apt
	apt-get indextargets --format '$(ORIGIN) $(LABEL) $(REPO_URI)' 'Created-By: Packages' |
		awk '$1 == "Debian" && $2 == "Debian" { print $3; exit }'
}

# bootstrap DIR VARIANT ARCHITECTURES PACKAGES [OPTION]...
bootstrap() {
	local dir=$1 variant=$2 architectures=$3 packages=$4 from
	shift 4
	from=$(mirror)
	rm -rf --one-file-system "$dir"
	mmdebstrap --mode=root --variant="$variant" --architectures="$architectures" \
		--aptopt='Acquire::Check-Valid-Until "false"' --aptopt='Acquire::Retries "3"' \
		--include="$packages" "$@" "$suite" "$dir" ${from:+"$from"}
}

# emulate_arm64: has this machine run programs for arm64, also those in other roots, until the
# calling shell ends. Replaces its trap for EXIT.
emulate_arm64() {
	local formats=/proc/sys/fs/binfmt_misc name=apple-dma-pci-$BASHPID
	mountpoint --quiet $formats || mount -t binfmt_misc binfmt_misc $formats
	# The header of a program: 64-bit little-endian ELF, with what differs masked, and the type,
	# executable or shared, and the processor.
	printf ':%s:M::%s%s:%s%s:%s:F' "$name" \
		'\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00' '\x02\x00\xb7\x00' \
		'\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff' \
		'\xfe\xff\xff\xff' "$cache/emulator/qemu-aarch64" >$formats/register
	# shellcheck disable=SC2064 # as it is now
	trap "echo -1 >$formats/$name" EXIT
}

join() { # WORD...: with commas
	local IFS=,
	echo "$*"
}
