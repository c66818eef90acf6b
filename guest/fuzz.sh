#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# The guest's side of `cargo xtask fuzz`.
#   fpt-fuzz setup | finish
K=/sys/kernel/mm/ksm

die() {
	echo "$*" >&2
	exit 1
}
put() { # value, file
	echo "$1" >"$2" || die "cannot write $1 to $2"
}

case $1 in
setup)
	# Pages that are advised out need somewhere to go.
	put 256M /sys/block/zram0/disksize
	{ mkswap /dev/zram0 && swapon /dev/zram0; } >/dev/null 2>&1 || die "no swap on zram"
	# The same layout for everything that is measured at start and end.
	put 0 /proc/sys/kernel/randomize_va_space
	;;
finish)
	[ -d $K ] && { put 2 $K/run; put 0 $K/run; }
	put 0 /proc/sys/vm/nr_hugepages
	swapoff /dev/zram0 || die "cannot swap off"
	put 1 /sys/block/zram0/reset
	rm -f /tmp/fpt_fuzz.*
	put 3 /proc/sys/vm/drop_caches
	put 1 /proc/sys/vm/compact_memory
	put 3 /proc/sys/vm/drop_caches
	;;
*) die "fpt-fuzz: unknown word '$1'" ;;
esac
