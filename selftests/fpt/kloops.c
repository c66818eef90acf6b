// SPDX-License-Identifier: GPL-2.0
/*
 * The loops whose kernel instructions are counted. Each is done once unmeasured
 * (page cache, slab caches, pools) and then `-r` times between marks that the
 * counting plugin sees: `nopl disp32(%rax)` with a displacement of
 * 0x4650b100 | id to begin and 0x4650e100 | id to end. Without the plugin the
 * marks do nothing.
 *
 *   kloops [-r RUNS] [-q] [NAME...]    runs all loops, or those named
 *   kloops -l                          lists "ID NAME WHAT"
 *
 * -q divides all sizes and counts by 16, to see that everything works.
 * Contents are checked outside the marks. Exit code 0 only if all was right.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096UL
#define MIB (1UL << 20)
#define GIB (1UL << 30)
#define BASE 0x200000000000UL

/* The id is part of the instruction: one pair of functions per region. */
#define BEGIN(id) asm volatile(".byte 0x0f, 0x1f, 0x80, %c0, 0xb1, 0x50, 0x46" :: "i"(id) : "memory")
#define END(id) asm volatile(".byte 0x0f, 0x1f, 0x80, %c0, 0xe1, 0x50, 0x46" :: "i"(id) : "memory")

enum {
	TOUCH = 1, UNMAP, VFORK_EXEC, FORK_EXIT, FORK_BIG, MPROTECT, MREMAP, FILE_FAULT,
	SMALL_MMAP, NOTHING, SPARSE_TOUCH, SPARSE_UNMAP, SPARSE_MPROTECT, SPARSE_FORK, NR_REGIONS
};

static int shrink = 1;
static char tiny[4096];

static void die(const char *what)
{
	fprintf(stderr, "kloops: %s: %s\n", what, strerror(errno));
	exit(1);
}

static char *map(unsigned long addr, size_t len)
{
	char *p = mmap((void *)addr, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS |
		       MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);

	if (p != (char *)addr)
		die("mmap");
	/* the figures are about page tables: no huge pages whatever the policy */
	madvise(p, len, MADV_NOHUGEPAGE);
	return p;
}

static void touch(char *p, size_t len)
{
	size_t i;

	for (i = 0; i < len; i += PAGE)
		*(volatile char *)(p + i) = 1;
}

static void wait_ok(pid_t pid)
{
	int status = 0;

	if (pid < 0 || waitpid(pid, &status, 0) != pid)
		die("fork or wait");
	if (!WIFEXITED(status) || WEXITSTATUS(status)) {
		fprintf(stderr, "kloops: a child failed (status %#x)\n", status);
		exit(1);
	}
}

/*
 * The CPU's list of free pages grows to thousands. How many pages a region takes
 * from the page allocator proper, and how many it gives back to it, then depends
 * on what ran before: a quarter of a million instructions more or less, and the
 * page tables that munmap() frees may stay in the list. A short list holds 252.
 */
static void short_free_lists(bool on)
{
	const char *value = on ? "1000000" : "0";
	int fd = open("/proc/sys/vm/percpu_pagelist_high_fraction", O_WRONLY);

	if (fd < 0 || write(fd, value, strlen(value)) < 0)
		die("/proc/sys/vm/percpu_pagelist_high_fraction");
	close(fd);
}

/*
 * Freed tables, VMAs and tasks wait for RCU. Regions that free many wait for it
 * at both ends: what an earlier region left is not in the count, and all of what
 * this one leaves is. Two grace periods are 25 ms here; an idle CPU costs little.
 */
static void settle(void)
{
	usleep(100 * 1000);
}

/* `counted` is 0 in the run that warms up. */
static void touch_and_unmap(int counted)
{
	size_t len = GIB / shrink;
	char *p = map(BASE, len);

	short_free_lists(true);
	if (counted)
		BEGIN(TOUCH);
	touch(p, len);
	if (counted) {
		END(TOUCH);
		BEGIN(UNMAP);
	}
	munmap(p, len);
	if (counted)
		END(UNMAP);
	short_free_lists(false);
}

static void vfork_exec_once(void)
{
	pid_t pid = vfork();

	if (!pid) {
		execl(tiny, "fpt_tiny", NULL);
		_exit(99);
	}
	wait_ok(pid);
}

static void vfork_exec(int counted)
{
	int i, n = 100 / shrink ? 100 / shrink : 1;

	settle();
	if (counted)
		BEGIN(VFORK_EXEC);
	for (i = 0; i < n; i++)
		vfork_exec_once();
	settle();
	if (counted)
		END(VFORK_EXEC);
}

static void fork_exit(int counted)
{
	int i, n = 100 / shrink ? 100 / shrink : 1;

	settle();
	if (counted)
		BEGIN(FORK_EXIT);
	for (i = 0; i < n; i++) {
		pid_t pid = fork();

		if (!pid)
			_exit(0);
		wait_ok(pid);
	}
	settle();
	if (counted)
		END(FORK_EXIT);
}

static void fork_big(int counted)
{
	size_t len = 512 * MIB / shrink;
	char *p = map(BASE, len);
	pid_t pid;

	touch(p, len);
	if (counted)
		BEGIN(FORK_BIG);
	pid = fork();
	if (!pid)
		_exit(0);
	wait_ok(pid);
	if (counted)
		END(FORK_BIG);
	munmap(p, len);
}

static void protect(int counted)
{
	size_t len = 512 * MIB / shrink;
	char *p = map(BASE, len);

	touch(p, len);
	if (counted)
		BEGIN(MPROTECT);
	if (mprotect(p, len, PROT_READ) || mprotect(p, len, PROT_READ | PROT_WRITE))
		die("mprotect");
	if (counted)
		END(MPROTECT);
	munmap(p, len);
}

static void remap(int counted)
{
	size_t len = 512 * MIB / shrink;
	char *p = map(BASE, len), *q;

	touch(p, len);
	p[len / 2] = 77;
	if (counted)
		BEGIN(MREMAP);
	q = mremap(p, len, len, MREMAP_MAYMOVE | MREMAP_FIXED, BASE + 64 * GIB);
	if (counted)
		END(MREMAP);
	if (q != (char *)(BASE + 64 * GIB) || q[len / 2] != 77)
		die("mremap");
	munmap(q, len);
}

static void file_fault(int counted)
{
	static int fd = -1;
	size_t len = 64 * MIB / shrink, i;
	char *p;

	if (fd < 0) {
		static char zero[MIB];

		fd = memfd_create("kloops", 0);
		for (i = 0; i < len; i += MIB)
			if (write(fd, zero, MIB) != (ssize_t)MIB)
				die("write");
	}
	if (counted)
		BEGIN(FILE_FAULT);
	p = mmap((void *)BASE, len, PROT_READ, MAP_SHARED | MAP_FIXED_NOREPLACE, fd, 0);
	if (p != (char *)BASE)
		die("mmap of a file");
	for (i = 0; i < len; i += PAGE)
		(void)*(volatile char *)(p + i);
	munmap(p, len);
	if (counted)
		END(FILE_FAULT);
}

static void small_mmap(int counted)
{
	int i, n = 10000 / shrink;

	settle();
	if (counted)
		BEGIN(SMALL_MMAP);
	for (i = 0; i < n; i++) {
		char *p = mmap((void *)BASE, 4 * PAGE, PROT_READ | PROT_WRITE,
			       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);

		*(volatile char *)p = 1;
		munmap(p, 4 * PAGE);
	}
	settle();
	if (counted)
		END(SMALL_MMAP);
}

/* What two marks cost by themselves: nothing in the kernel. */
static void nothing(int counted)
{
	if (counted) {
		BEGIN(NOTHING);
		END(NOTHING);
	}
}

/* A page in each GiB: what walks cost that have next to nothing to find */
#define SPARSE_GIBS (64 / shrink)

static char *sparse_map(int counted)
{
	char *p = map(BASE, SPARSE_GIBS * GIB);
	int i;

	if (counted)
		BEGIN(SPARSE_TOUCH);
	for (i = 0; i < SPARSE_GIBS; i++)
		*(volatile char *)(p + i * GIB) = i + 1;
	if (counted)
		END(SPARSE_TOUCH);
	return p;
}

static void sparse_touch(int counted)
{
	char *p = sparse_map(counted);
	int i;

	for (i = 0; i < SPARSE_GIBS; i++)
		if (p[i * GIB] != (char)(i + 1))
			die("contents of a sparse mapping");
	if (counted)
		BEGIN(SPARSE_UNMAP);
	munmap(p, SPARSE_GIBS * GIB);
	if (counted)
		END(SPARSE_UNMAP);
}

static void sparse_walk(int counted)
{
	char *p = sparse_map(0);
	pid_t pid;

	if (counted)
		BEGIN(SPARSE_MPROTECT);
	if (mprotect(p, SPARSE_GIBS * GIB, PROT_READ) ||
	    mprotect(p, SPARSE_GIBS * GIB, PROT_READ | PROT_WRITE))
		die("mprotect");
	if (counted) {
		END(SPARSE_MPROTECT);
		BEGIN(SPARSE_FORK);
	}
	pid = fork();
	if (!pid)
		_exit(0);
	wait_ok(pid);
	if (counted)
		END(SPARSE_FORK);
	munmap(p, SPARSE_GIBS * GIB);
}

static const struct loop {
	void (*run)(int counted);
	const char *name;
	int id[2];
	const char *region[2], *what[2];
} loops[] = {
	{ touch_and_unmap, "touch", { TOUCH, UNMAP }, { "touch_1gib", "munmap_1gib" },
	  { "first touch of 1 GiB", "munmap of it" } },
	{ vfork_exec, "vfork_exec", { VFORK_EXEC }, { "vfork_exec_exit" },
	  { "100 x vfork+exec+exit of a static program" } },
	{ fork_exit, "fork_exit", { FORK_EXIT }, { "fork_exit" }, { "100 x fork+exit" } },
	{ fork_big, "fork_big", { FORK_BIG }, { "fork_512mib" }, { "fork+exit with 512 MiB touched" } },
	{ protect, "mprotect", { MPROTECT }, { "mprotect_512mib" }, { "mprotect twice over 512 MiB" } },
	{ remap, "mremap", { MREMAP }, { "mremap_512mib" }, { "mremap of 512 MiB" } },
	{ file_fault, "file_fault", { FILE_FAULT }, { "file_64mib" },
	  { "map, read and unmap 64 MiB of a cached file" } },
	{ small_mmap, "small_mmap", { SMALL_MMAP }, { "mmap_munmap" },
	  { "10,000 x mmap+touch+munmap of 16 KiB" } },
	{ sparse_touch, "sparse_touch", { SPARSE_TOUCH, SPARSE_UNMAP },
	  { "sparse_touch", "sparse_munmap" },
	  { "first touch of a page in each of 64 GiB", "munmap of them" } },
	{ sparse_walk, "sparse_walk", { SPARSE_MPROTECT, SPARSE_FORK },
	  { "sparse_mprotect", "sparse_fork" },
	  { "mprotect twice over 64 GiB with a page each", "fork+exit with them" } },
	{ nothing, "nothing", { NOTHING }, { "nothing" }, { "two marks: must be 0" } },
};

#define NR_LOOPS (sizeof(loops) / sizeof(loops[0]))

static int wanted(int argc, char **argv, const char *name)
{
	int i;

	for (i = 0; i < argc; i++)
		if (!strcmp(argv[i], name))
			return 1;
	return argc == 0;
}

int main(int argc, char **argv)
{
	int runs = 3, opt, i, j, r;
	ssize_t n;
	char *slash;

	while ((opt = getopt(argc, argv, "r:ql")) != -1) {
		switch (opt) {
		case 'r':
			runs = atoi(optarg);
			if (runs < 1) {
				fprintf(stderr, "kloops: -r wants a number from 1 on\n");
				return 2;
			}
			break;
		case 'q':
			shrink = 16;
			break;
		case 'l':
			for (i = 0; i < (int)NR_LOOPS; i++)
				for (j = 0; j < 2 && loops[i].id[j]; j++)
					printf("%d %s %s\n", loops[i].id[j], loops[i].region[j],
					       loops[i].what[j]);
			return 0;
		default:
			fprintf(stderr, "usage: kloops [-r RUNS] [-q] [-l] [NAME...]\n");
			return 2;
		}
	}
	for (i = optind; i < argc; i++) {
		for (j = 0; j < (int)NR_LOOPS; j++)
			if (!strcmp(argv[i], loops[j].name))
				break;
		if (j == (int)NR_LOOPS) {
			fprintf(stderr, "kloops: no loop '%s'; there are:", argv[i]);
			for (j = 0; j < (int)NR_LOOPS; j++)
				fprintf(stderr, " %s", loops[j].name);
			fprintf(stderr, "\n");
			return 2;
		}
	}
	n = readlink("/proc/self/exe", tiny, sizeof(tiny) - 16);
	if (n < 0)
		die("/proc/self/exe");
	tiny[n] = 0;
	slash = strrchr(tiny, '/');
	strcpy(slash ? slash + 1 : tiny, "fpt_tiny");
	if (access(tiny, X_OK))
		die(tiny);

	for (i = 0; i < (int)NR_LOOPS; i++) {
		if (!wanted(argc - optind, argv + optind, loops[i].name))
			continue;
		loops[i].run(0);
		for (r = 0; r < runs; r++)
			loops[i].run(1);
		printf("%s: %d runs\n", loops[i].name, runs);
		fflush(stdout);
	}
	return 0;
}
