#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# Page-table memory of an idle shell, of 100 of them and of a process with 4 GiB in use, and
# what the pools hold. For a guest:
#   cargo xtask run --mode M --mem 6G --append fpt.policy=eager --share selftests/fpt -- sh /host/ptbytes.sh
set -e
stats=/sys/kernel/debug/fpt/stats
kb() { awk -v k="$1:" '$1 == k {print $2}' "$2"; }
pools() { [ ! -e $stats ] || awk '/_pool_nodes/ {n += $2} END {print n * 2048}' $stats; }
dir=$(mktemp -d)
mkfifo "$dir/idle" "$dir/data"
# Nobody writes: readers wait.
exec 8<>"$dir/idle" 9<>"$dir/data"

sh -c 'read x' <"$dir/idle" &
shell=$!
sleep 1
echo "shell: VmPTE $(kb VmPTE /proc/$shell/status) kB"
kill $shell

before=$(kb PageTables /proc/meminfo)
i=0
while [ $i -lt 100 ]; do
	sh -c 'read x' <"$dir/idle" &
	all="$all $!"
	i=$((i + 1))
done
sleep 5
echo "100 shells: PageTables +$(($(kb PageTables /proc/meminfo) - before)) kB, pools $(pools) kB"
# shellcheck disable=SC2086 # one word for each shell
kill $all
wait 2>/dev/null || :

# dd fills a buffer of 4 GiB, then waits for a reader.
dd bs=4096M count=1 iflag=fullblock if=/dev/zero of="$dir/data" 2>/dev/null &
dd=$!
n=0
while [ "$(kb VmRSS /proc/$dd/status)" -lt 4190000 ]; do
	sleep 1
	n=$((n + 1))
	[ $n -lt 600 ] || { echo "dd does not fill its buffer"; exit 1; }
done
sleep 1
echo "dd: VmRSS $(kb VmRSS /proc/$dd/status) kB, VmPTE $(kb VmPTE /proc/$dd/status) kB"
kill -9 $dd
sleep 1
echo "pools at the end: $(pools) kB"
