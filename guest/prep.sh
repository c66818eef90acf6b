#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# Puts the guest back into the state after boot before each test program.
#   fpt-prep save
#   fpt-prep reset HUGE_2M HUGE_1G SWAP   prints "ok", "skip: WHY", or why it could not
S=/run/fpt-state
knobs() {
	for f in /sys/kernel/mm/transparent_hugepage/enabled /sys/kernel/mm/transparent_hugepage/defrag \
		/sys/kernel/mm/transparent_hugepage/shmem_enabled /sys/kernel/mm/transparent_hugepage/use_zero_page \
		/sys/kernel/mm/transparent_hugepage/khugepaged/* /sys/kernel/mm/transparent_hugepage/hugepages-*/enabled \
		/sys/kernel/mm/ksm/run /sys/kernel/mm/ksm/pages_to_scan /sys/kernel/mm/ksm/sleep_millisecs \
		/sys/kernel/mm/ksm/use_zero_pages /sys/kernel/mm/ksm/max_page_sharing /sys/kernel/mm/ksm/merge_across_nodes \
		/proc/sys/vm/overcommit_memory /proc/sys/vm/overcommit_ratio /proc/sys/vm/nr_overcommit_hugepages \
		/proc/sys/vm/max_map_count /proc/sys/vm/swappiness /proc/sys/vm/unprivileged_userfaultfd \
		/proc/sys/kernel/shmmax /proc/sys/kernel/shmall /sys/module/fpt/parameters/* \
		/sys/kernel/debug/fail_page_alloc/task-filter /sys/kernel/debug/fail_page_alloc/min-order \
		/sys/kernel/debug/fail_page_alloc/ignore-gfp-wait /sys/kernel/debug/fail_page_alloc/interval \
		/sys/kernel/debug/fail_page_alloc/verbose \
		/sys/kernel/debug/fail_page_alloc/probability /sys/kernel/debug/fail_page_alloc/times \
		/sys/kernel/debug/failslab/probability; do
		# Root may "write" everything; what has no write bit is a counter.
		case $(ls -l "$f" 2>/dev/null) in -?w*) echo "$f" ;; esac
	done
}
# Without a process per file, for this runs before each program; but the shell reads byte by byte, and a sysctl
# gives its first byte alone to who asks so. The answer is in $v; of a choice, the word in brackets.
value() {
	v=
	case $1 in
	/proc/sys/*) v=$(cat "$1" 2>/dev/null) ;;
	*) read -r v <"$1" 2>/dev/null ;;
	esac
	case $v in *\[*\]*)
		v=${v#*\[}
		v=${v%%\]*}
		;;
	esac
}
hugepages() { # size in kB, count of free ones
	f=/sys/kernel/mm/hugepages/hugepages-$1kB
	if [ ! -d "$f" ]; then
		[ "$2" = 0 ] || echo "no $1 kB huge pages in this kernel"
		return
	fi
	# Nobody runs: what is not free was poisoned or never given back, and is in nobody's way.
	value "$f/nr_hugepages"
	all=$v
	value "$f/free_hugepages"
	[ "$v" = "$2" ] && return
	all=$((all - v + $2))
	echo "$all" >"$f/nr_hugepages"
	value "$f/free_hugepages"
	[ "$v" = "$2" ] || { echo 1 >/proc/sys/vm/compact_memory; echo "$all" >"$f/nr_hugepages"; value "$f/free_hugepages"; }
	[ "$v" = "$2" ] || echo "only $v of $2 huge pages of $1 kB"
}
case $1 in
save)
	mkdir -p $S
	for f in $(knobs); do
		value "$f"
		echo "$f $v"
	done >$S/knobs
	;;
reset)
	why=
	while read -r f old; do
		value "$f"
		[ "$v" = "$old" ] || echo "$old" >"$f" || why="$why cannot reset $f"
	done <$S/knobs 2>/dev/null
	grep -q zram0 /proc/swaps 2>/dev/null && { swapoff /dev/zram0; echo 1 >/sys/block/zram0/reset; }
	rm -rf /tmp/* /dev/shm/* 2>/dev/null
	[ -w /proc/sys/vm/drop_caches ] && echo 3 >/proc/sys/vm/drop_caches
	[ -w /proc/sys/vm/compact_memory ] && echo 1 >/proc/sys/vm/compact_memory
	why="$why$(hugepages 2048 "$2" 2>/dev/null)"
	# Not every machine has a free GiB in one piece: the caller may accept this one.
	big=$(hugepages 1048576 "$3" 2>/dev/null)
	if [ "$4" = 1 ]; then
		{ echo 512M >/sys/block/zram0/disksize && mkswap /dev/zram0 && swapon /dev/zram0; } >/dev/null 2>&1 ||
			why="$why no swap"
	fi
	if [ "$why" ]; then echo "$why"; elif [ "$big" ]; then echo "skip: $big"; else echo ok; fi
	;;
esac
