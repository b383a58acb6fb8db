#!/bin/sh
# Install the Debian packages that are missing, as root; as a user, name them in one line.
# Needed: without them nothing builds.  Optional: without them less is measured or tested.
set -eu
# Where Debian keeps what a user's PATH does not find.
PATH=$PATH:/usr/sbin:/sbin

missing=
optional=

# need COMMAND-THAT-TESTS PACKAGE
need() {
	sh -c "$1" >/dev/null 2>&1 || missing="$missing $2"
}
want() {
	sh -c "$1" >/dev/null 2>&1 || optional="$optional $2"
}

python=${PYTHON:-python3}
need 'command -v cc' gcc
need 'command -v ld' binutils
need 'echo "#include <linux/kvm.h>" | cc -E -' linux-libc-dev
need "$python -c 'import ensurepip, venv'" python3-venv
need "$python -c 'import os, sysconfig; os.stat(sysconfig.get_path(\"include\") + \"/Python.h\")'" python3-dev
want 'command -v perf' linux-perf
want 'command -v bpftool' bpftool
# For the lab.
want 'command -v qemu-system-x86_64' qemu-system-x86
want 'command -v bochs' bochs
want 'test -f /usr/share/bochs/BIOS-bochs-latest' bochsbios
want 'test -f /usr/share/vgabios/vgabios.bin' vgabios
want 'ls /usr/lib/*/bochs/plugins/libbx_term_gui.so' bochs-term
want 'busybox --list | grep -qx insmod' busybox-static
want 'command -v depmod' kmod
# For kernels built from source.
want 'command -v git' git
want 'command -v flex' flex
want 'command -v bison' bison
want 'command -v bc' bc
want 'echo "#include <gelf.h>" | cc -E -' libelf-dev
want 'command -v pahole' pahole
want 'command -v ccache' ccache
# For the report's tests.
want 'command -v chromium' chromium

[ -n "$missing$optional" ] || exit 0
if ! command -v apt-get >/dev/null 2>&1; then
	echo "packages: missing by Debian's names:$missing$optional; install them by this system's own means" >&2
elif [ "$(id -u)" = 0 ]; then
	echo "packages: installing$missing$optional" >&2
	export DEBIAN_FRONTEND=noninteractive
	apt-get update -qq
	[ -z "$missing" ] || apt-get install -qq -y --no-install-recommends $missing >&2
	[ -z "$optional" ] || apt-get install -qq -y --no-install-recommends $optional >&2 ||
		echo "packages: going on without$optional" >&2
	exit 0
else
	echo "packages: missing:$missing$optional; as root: apt-get install$missing$optional" >&2
fi
[ -z "$missing" ]
