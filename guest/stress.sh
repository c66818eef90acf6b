#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# The guest's side of `cargo xtask stress`, and fault injection for `selftest --mixed`.
#   fpt-stress setup | finish
#   fpt-stress inject PERCENT
#   fpt-stress ready SCENARIO             prints "ok", or why this kernel cannot do it
#   fpt-stress compact|hotplug|demote|ksm|check SECONDS    prints "NAME COUNT" lines at its end
#   fpt-stress image [swap|user] CMD...   CMD in the image; in a small memory cgroup, or not as root
D=/sys/kernel/debug
I=$D/fail_page_alloc
G=/sys/fs/cgroup/fpt-stress
K=/sys/kernel/mm/ksm
M=/sys/devices/system/memory
ROOT=/mnt
# Times that are counted down: the difference is the number of injected failures.
TIMES=1000000000

die() {
	echo "$*" >&2
	exit 1
}
up() {
	read -r u _ </proc/uptime
	u=${u%.*}
}
# While SECONDS have not passed. The last step must end in time: the host waits only a little longer.
going() {
	up
	[ "$u" -lt "$END" ]
}
put() { # value, file
	echo "$1" >"$2" || die "cannot write $1 to $2"
}

setup() {
	mount -t ext4 -o ro /dev/vda $ROOT || die "no image on /dev/vda"
	for d in proc sys dev; do
		mount --bind /$d $ROOT/$d || die "cannot bind /$d"
	done
	mkdir -p /dev/shm
	mount --bind /dev/shm $ROOT/dev/shm || die "cannot bind /dev/shm"
	for d in tmp run etc; do
		cp -a $ROOT/$d /run/$d 2>/dev/null
		mount -t tmpfs -o mode=1777,size=40% stress $ROOT/$d || die "no tmpfs on $d"
		cp -a /run/$d/. $ROOT/$d/ 2>/dev/null
	done
	chmod 1777 $ROOT/tmp
	ln -sf /proc/mounts $ROOT/etc/mtab
	# For su, which the image has not
	cp /bin/busybox $ROOT/run/busybox || die "no busybox"
	# A file system on a block device: swap files can be on it.
	if [ -b /dev/ram0 ]; then
		{ mke2fs /dev/ram0 && mount -t ext4 /dev/ram0 $ROOT/var/tmp; } >/dev/null 2>&1 ||
			die "no file system on /dev/ram0"
	fi
	put 512M /sys/block/zram0/disksize
	{ mkswap /dev/zram0 && swapon /dev/zram0; } >/dev/null 2>&1 || die "no swap on zram"
	if [ -f /sys/fs/cgroup/cgroup.controllers ]; then
		put +memory /sys/fs/cgroup/cgroup.subtree_control
		mkdir -p $G
		put 96M $G/memory.max
	fi
	# The same layout for everything that is measured at start and end.
	put 0 /proc/sys/kernel/randomize_va_space
}

finish() {
	# Blocks that were taken out come back, else the kernel has less memory than at the start.
	for b in "$M"/memory*/state; do
		[ -f "$b" ] || continue
		read -r s <"$b"
		[ "$s" = offline ] && put online_movable "$b"
	done
	put 0 $I/probability
	[ -d $K ] && { put 2 $K/run; put 0 $K/run; }
	put 0 /proc/sys/kernel/randomize_va_space
	swapoff /dev/zram0 || die "cannot swap off"
	put 1 /sys/block/zram0/reset
	rm -rf $ROOT/tmp/* $ROOT/var/tmp/* /dev/shm/* /tmp/* 2>/dev/null
	[ -d $G ] && rmdir $G
	put 3 /proc/sys/vm/drop_caches
	put 1 /proc/sys/vm/compact_memory
	put 3 /proc/sys/vm/drop_caches
}

# Allocations that may not wait are those of nodes; that ignore-gfp-wait stays on spares the huge pages
# that a program was promised.
inject() {
	[ -d $I ] || die "kernel without FAIL_PAGE_ALLOC"
	put N $I/task-filter
	put 9 $I/min-order
	put Y $I/ignore-gfp-wait
	put 0 $I/verbose
	put 1 $I/interval
	put 0 $I/space
	put $TIMES $I/times
	put "$1" $I/probability
}

ready() {
	case $1 in
	compact) [ -w /proc/sys/vm/compact_memory ] && echo ok || echo "kernel without COMPACTION" ;;
	ksm) [ -d $K ] && echo ok || echo "kernel without KSM" ;;
	check) [ -w $D/fpt/check ] && echo ok || echo "kernel without fpt/check" ;;
	demote)
		while read -r name n; do
			[ "$name" = can_demote ] && [ "$n" = 1 ] && echo ok && return
		done 2>/dev/null <$D/fpt/stats
		echo "kernel without demotion"
		;;
	hotplug)
		[ -d $M ] || { echo "kernel without MEMORY_HOTPLUG"; return; }
		# Its shadow is taken from the end of memory, where the movable zone is: reserved pages.
		grep -q " kasan_report$" /proc/kallsyms && { echo "with KASAN no memory block can be taken out"; return; }
		ls $M/memory0/state >/dev/null 2>&1 || { echo "no memory blocks in sysfs"; return; }
		blocks >/dev/null && echo ok || echo "no memory block can be taken out (is there a movable zone?)"
		;;
	*) echo ok ;;
	esac
}

compact() {
	n=0
	while going; do
		put 1 /proc/sys/vm/compact_memory
		n=$((n + 1))
		usleep 300000
	done
	echo "compactions $n"
}

# Blocks of the movable zone
blocks() {
	any=1
	for b in "$M"/memory*; do
		[ -f "$b/valid_zones" ] || continue
		read -r z <"$b/valid_zones" 2>/dev/null
		case $z in Movable*) echo "$b"; any=0 ;; esac
	done
	return $any
}

hotplug() {
	out=0 busy=0
	renice -n -5 -p $$ >/dev/null 2>&1
	while going; do
		for b in $(blocks | shuf | head -n 2); do
			# Taking a block out goes on until a signal comes while a page in it cannot move.
			if timeout 20 sh -c "echo offline >$b/state" 2>/dev/null; then
				out=$((out + 1))
				usleep 200000
				put online_movable "$b/state"
			else
				busy=$((busy + 1))
			fi
			going || break
		done
		usleep 300000
	done
	echo "offlined $out"
	echo "busy $busy"
}

demote() {
	n=0
	while going; do
		for p in /proc/[0-9]*; do
			p=${p#/proc/}
			# Process 1 is what remains: its tables are compared with those at the start.
			[ "$p" = 1 ] && continue
			echo "$p" >"$D/fpt/demote" && n=$((n + 1))
		done 2>/dev/null
		usleep 500000
	done
	echo "demote_requests $n"
}

# The page tables of every process, once a second; the first that are wrong end it. Who is
# gone meanwhile, and kernel threads, have none.
check() {
	n=0
	while going; do
		for p in /proc/[0-9]*; do
			p=${p#/proc/}
			{ echo "$p" >$D/fpt/check; } 2>/dev/null || continue
			bad=
			while read -r word rest; do
				case $word in
				ok) n=$((n + 1)) ;;
				*) bad="$bad$word $rest
" ;;
				esac
			done 2>/dev/null <$D/fpt/check
			[ -z "$bad" ] && continue
			echo "checks $n"
			read -r name 2>/dev/null <"/proc/$p/comm"
			echo "process $p ($name): the tables are wrong"
			echo "$bad"
			exit 1
		done
		usleep 1000000
	done
	echo "checks $n"
}

# Merging, and from time to time everything unmerged again
ksm() {
	most=0 rounds=0
	read -r before <$K/pages_scanned
	# It is the last in the queue by default, and in a crowd never gets round.
	renice -n -5 -p "$(pidof ksmd)" >/dev/null 2>&1
	while going; do
		put 2000 $K/pages_to_scan
		put 10 $K/sleep_millisecs
		put 1 $K/run
		for _ in 1 2 3 4 5 6 7 8 9 10; do
			usleep 900000
			read -r n <$K/pages_sharing
			[ "$n" -gt "$most" ] && most=$n
			going || break
		done
		put 2 $K/run
		rounds=$((rounds + 1))
	done
	read -r n <$K/pages_scanned
	echo "ksm_scanned $((n - before))"
	echo "ksm_pages $most"
	echo "ksm_rounds $rounds"
}

image() {
	if [ "$1" = swap ]; then
		shift
		put $$ $G/cgroup.procs
	fi
	if [ "$1" = user ]; then
		shift
		exec chroot $ROOT /run/busybox su -s /bin/sh user -c "cd /tmp && exec $*"
	fi
	exec chroot $ROOT "$@"
}

word=$1
shift
# What keeps the run going must not be what the kernel kills when memory is short; stressors set their own.
echo -1000 >/proc/self/oom_score_adj 2>/dev/null
case $word in
setup | finish) $word ;;
inject | ready) $word "$1" ;;
compact | hotplug | demote | ksm | check)
	up
	END=$((u + $1))
	$word
	;;
image) image "$@" ;;
*) die "fpt-stress: unknown word '$word'" ;;
esac
