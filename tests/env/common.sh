# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash disable=SC2034
# Common parts of the environment scripts: paths and messages. Sourced, never run; sourcing changes
# nothing on the machine.

set -euo pipefail

env_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
repo=$(cd "$env_dir/../.." && pwd -P)
cache=${APPLE_DMA_PCI_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/apple-dma-pci}
root=$cache/root
stamps=$cache/stamps
logs=$cache/log
# Created in the root, so that a script can tell where it runs.
in_root_marker=/etc/apple-dma-pci-root

case $cache$repo in
*[[:space:]:]*)
	printf '%s: paths with blanks or colons do not work with Kbuild: %s, %s\n' \
		"${0##*/}" "$cache" "$repo" >&2
	exit 1
	;;
/*) ;;
*)
	printf '%s: APPLE_DMA_PCI_CACHE must be an absolute path: %s\n' "${0##*/}" "$cache" >&2
	exit 1
	;;
esac

say() { printf '%s: %s\n' "${0##*/}" "$*"; }
die() {
	printf '%s: %s\n' "${0##*/}" "$*" >&2
	exit 1
}

# kernel_arch ARCH: prints the kernel's name of a Debian architecture.
kernel_arch() {
	case $1 in
	arm64) echo arm64 ;;
	amd64) echo x86_64 ;;
	*) die "unknown architecture '$1': arm64 or amd64" ;;
	esac
}

# cross_compile ARCH: prints the prefix of the C compiler on an amd64 machine.
cross_compile() {
	case $1 in
	arm64) echo aarch64-linux-gnu- ;;
	*) echo ;;
	esac
}

# The target and flags of the tool for guests of amd64: one file that needs no libraries. The tool's
# tests are compiled for the same, so that they share the crates.
tool_target=x86_64-unknown-linux-gnu
tool_flags='-C target-feature=+crt-static'

# kernel_build ARCH [NAME]: prints the directory to build modules against, for Debian's kernel or
# for the kernel of tests/kernels/NAME-ARCH.config.
kernel_build() {
	if [[ ${2:-} ]]; then
		echo "$cache/kernel-$2-$1"
	else
		echo "$cache/build-$1"
	fi
}

# kernel_configs ARCH NAME: prints the files that together are the configuration of a kernel of
# tests/kernels/: those that its own file includes, and that file. None if there is no such file.
kernel_configs() {
	local file=$repo/tests/kernels/$2-$1.config included
	[[ -e $file ]] || return 0
	read -ra included < <(sed -n 's/^# includes: //p' "$file")
	printf '%s\n' "${included[@]/#/$repo/tests/kernels/}" | sed 's/$/.config/'
	echo "$file"
}

# seed_rust ARCH OUT: copies crates from Debian's kernel, if the same compiler made them, to one
# whose configuration is complete: those of Rust's macros, which run on this machine, and those that
# read no option of the kernel. They take a minute and a half to make. Kbuild makes those again that
# it would make with another command, or of other sources.
seed_rust() {
	local from file compiler crate
	from=$(kernel_build "$1")
	[[ $from != "$2" && -e $from/.config ]] || return 0
	compiler=$(grep '^CONFIG_RUSTC_VERSION_TEXT=' "$2/.config")
	grep -qxF "$compiler" "$from/.config" || return 0
	mkdir -p "$2/rust"
	for file in "$from"/rust/lib{proc_macro2,quote,syn}.rlib "$from"/rust/lib*.so; do
		[[ ! -e $file ]] || cp "$file" "$from/rust/.${file##*/}.cmd" "$2/rust/"
	done
	# Each depends on the one before.
	for crate in core compiler_builtins zerocopy; do
		[[ -e $from/rust/$crate.o ]] || break
		cp "$from/rust/$crate.o" "$from/rust/lib$crate.rmeta" "$2/rust/"
		sed "s|OBJTREE=$from |OBJTREE=$2 |" "$from/rust/.$crate.o.cmd" \
			>"$2/rust/.$crate.o.cmd"
	done
}

# compilers ARCH CONFIG: prints the argument of make that selects the compiler of this
# configuration.
compilers() {
	if grep -qx CONFIG_CC_IS_CLANG=y "$2"; then
		echo LLVM=1
	else
		echo "CROSS_COMPILE=$(cross_compile "$1")"
	fi
}

# bind_into ROOT SOURCE [TARGET [KIND]]: makes a file or directory visible in a root.
bind_into() {
	local to=$1${3:-$2}
	if [[ -d $2 ]]; then mkdir -p "$to"; else touch "$to"; fi
	mount "${4:---bind}" "$2" "$to"
}

# mount_system ROOT: mounts the file systems that programs expect, in a private mount namespace.
# Certificates and name resolution are the host's, for hosts behind a proxy too.
mount_system() {
	bind_into "$1" /dev /dev --rbind
	mount -t proc none "$1/proc"
	mount -t sysfs -o ro none "$1/sys"
	mount -t tmpfs none "$1/tmp"
	mount -t tmpfs none "$1/run"
	[[ ! -e /etc/resolv.conf ]] ||
		bind_into "$1" "$(realpath /etc/resolv.conf)" /etc/resolv.conf
	[[ ! -e /etc/ssl/certs/ca-certificates.crt ]] ||
		bind_into "$1" /etc/ssl/certs/ca-certificates.crt
}

# enter_root ROOT VARIABLE=VALUE... -- COMMAND...: runs the command in the root, in the current
# directory if the root has it.
enter_root() {
	local to=$1 name variables=(
		HOME=/root USER=root LANG=C.UTF-8 TERM="${TERM:-dumb}"
		PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
	)
	shift
	for name in {http,https,no}_proxy {HTTP,HTTPS,NO}_PROXY CARGO_INCREMENTAL; do
		[[ ! -v $name ]] || variables+=("$name=${!name}")
	done
	while [[ $1 != -- ]]; do
		variables+=("$1")
		shift
	done
	shift
	# shellcheck disable=SC2016 # expanded by the inner shell
	chroot "$to" env -i "${variables[@]}" sh -c 'cd "$0" 2>/dev/null || cd /; exec "$@"' \
		"$PWD" "$@"
}
