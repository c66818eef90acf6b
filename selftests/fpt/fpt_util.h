/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Helpers of the flattened page table selftests.
 *
 * The same programs run in every mode, on a kernel without FPT too: without
 * debugfs/fpt the mode counts as radix, and in radix mode no flat node may
 * exist. What a test expects of nodes is computed from the mode; everything
 * else (contents, errors, signals) must not depend on it.
 */
#ifndef FPT_UTIL_H
#define FPT_UTIL_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef MAP_FIXED_NOREPLACE
#define MAP_FIXED_NOREPLACE 0x100000
#endif
#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP 4
#endif
#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#define MADV_POPULATE_WRITE 23
#endif
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif
#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT 21
#endif

#define PAGE	4096UL
#define MIB	(1UL << 20)
#define HUGE	(2 * MIB)	/* what one PMD entry maps */
#define GIB	(1UL << 30)	/* what one PUD entry maps: span of an L2L1 node */
#define SPAN	(1UL << 39)	/* what one PGD entry maps: span of an L3L2 node */

/* Aligned to every span, far from where the kernel puts anything by itself. */
#define BASE	0x100000000000UL

#define FPT_DEBUGFS "/sys/kernel/debug/fpt/"
#define FPT_PARAMS "/sys/module/fpt/parameters/"

/*
 * What the kernel was booted with. MIXED is no mode: each process has its own there, and
 * one that asks for nothing gets L2L1 nodes when it is large, and nothing before.
 */
enum fpt_mode { RADIX, L4L3, L3L2, L4L3_L2L1, MIXED, MODE_UNKNOWN };

static const char *const fpt_mode_names[] = {
	"radix", "l4l3", "l3l2", "l4l3-l2l1", "mixed", "unknown",
};

static inline int read_text(const char *path, char *buf, size_t size)
{
	int fd = open(path, O_RDONLY);
	ssize_t n, len = 0;

	if (fd < 0)
		return -errno;
	while ((n = read(fd, buf + len, size - 1 - len)) > 0)
		len += n;
	close(fd);
	buf[len] = 0;
	return n < 0 ? -errno : len;
}

static inline int write_text(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY);
	int err = 0;

	if (fd < 0)
		return -errno;
	if (write(fd, text, strlen(text)) != (ssize_t)strlen(text))
		err = errno ? -errno : -EIO;
	close(fd);
	return err;
}

/* The number behind `name` in a file of "name value" lines; -1: no such line. */
static inline long find_value(const char *text, const char *name)
{
	size_t len = strlen(name);
	const char *p = text;

	while (p && *p) {
		if (!strncmp(p, name, len) && strchr(" \t:", p[len])) {
			p += len;
			while (*p == ':' || *p == ' ' || *p == '\t')
				p++;
			return strtol(p, NULL, 10);
		}
		p = strchr(p, '\n');
		if (p)
			p++;
	}
	return -1;
}

static inline long file_value(const char *path, const char *name)
{
	static __thread char buf[65536];

	if (read_text(path, buf, sizeof(buf)) < 0)
		return -1;
	return find_value(buf, name);
}

/* Each CPU keeps a part of what /proc/meminfo and /proc/zoneinfo show. */
static inline void sum_up_counters(void)
{
	write_text("/proc/sys/vm/stat_refresh", "1");
}

/* KiB of page tables of all processes */
static inline long all_tables_kb(void)
{
	sum_up_counters();
	return file_value("/proc/meminfo", "PageTables");
}

/* A kernel with KASAN keeps what was freed in quarantine, and pools of nodes unused. */
static inline bool has_kasan(void)
{
	FILE *f = fopen("/proc/kallsyms", "r");
	bool found = false;
	char line[256];

	while (f && !found && fgets(line, sizeof(line), f))
		found = strstr(line, " kasan_report\n");
	if (f)
		fclose(f);
	return found;
}

static inline bool fpt_debugfs(void)
{
	return access(FPT_DEBUGFS "mode", R_OK) == 0;
}

static inline enum fpt_mode fpt_mode_of(const char *word)
{
	int i;

	for (i = RADIX; i < MODE_UNKNOWN; i++)
		if (!strcmp(word, fpt_mode_names[i]))
			return i;
	return MODE_UNKNOWN;
}

static inline enum fpt_mode fpt_mode(void)
{
	char buf[64];

	if (read_text(FPT_DEBUGFS "mode", buf, sizeof(buf)) < 0)
		return RADIX;
	buf[strcspn(buf, "\n ")] = 0;
	return fpt_mode_of(buf);
}

static inline long fpt_stat(const char *name)
{
	return file_value(FPT_DEBUGFS "stats", name);
}

static inline long fpt_stat0(const char *name)
{
	long v = fpt_stat(name);

	return v < 0 ? 0 : v;
}

/* Can this kernel turn a flat span into a conventional one? */
static inline bool fpt_can_demote(void)
{
	return fpt_stat("can_demote") > 0;
}

/* All nodes below the root of a process, or the one that covers addr. */
static inline int fpt_demote(pid_t pid, unsigned long addr)
{
	char b[64];

	if (addr)
		snprintf(b, sizeof(b), "%d %#lx\n", pid, addr);
	else
		snprintf(b, sizeof(b), "%d\n", pid);
	return write_text(FPT_DEBUGFS "demote", b);
}

/*
 * What debugfs fpt/check says of a process's tables: NULL if they are as they must be,
 * if the process has none any more, or if the kernel has no such file; else its first
 * bad line. The file remembers one pid for everybody: hence the lock.
 */
static inline const char *fpt_check(pid_t pid)
{
	static __thread char buf[8192];
	char *line, *end, num[16];
	int fd = open(FPT_DEBUGFS "check", O_RDWR);
	ssize_t n, len = 0;
	bool gone;

	if (fd < 0)
		return errno == ENOENT && !fpt_debugfs() ? NULL : "cannot open fpt/check";
	flock(fd, LOCK_EX);
	snprintf(num, sizeof(num), "%d", pid ? pid : getpid());
	n = write(fd, num, strlen(num));
	while (n > 0 && len < (ssize_t)sizeof(buf) - 1) {
		n = pread(fd, buf + len, sizeof(buf) - 1 - len, len);
		if (n > 0)
			len += n;
	}
	gone = n < 0 && errno == ESRCH;
	close(fd);
	buf[len] = 0;
	if (gone)
		return NULL;
	if (n < 0)
		return "cannot read fpt/check";
	for (line = buf; *line; line = end) {
		bool ok = !strncmp(line, "ok nodes ", 9);

		end = line + strcspn(line, "\n");
		if (*end)
			*end++ = 0;
		if (ok)
			return NULL;
		if (!strncmp(line, "BAD ", 4) || !strncmp(line, "FAIL ", 5))
			return line;
	}
	return "fpt/check says neither ok nor FAIL";
}

static inline void fpt_drain(void)
{
	write_text(FPT_DEBUGFS "drain", "1");
}

/*
 * Two keep an address space after its last process: a CPU that went idle in it,
 * and khugepaged, if it was the next to be scanned, for up to ten seconds.
 */
static inline void fpt_let_go(void)
{
	const char *wake = "/sys/kernel/mm/transparent_hugepage/khugepaged/scan_sleep_millisecs";
	cpu_set_t all, one;
	char same[32];
	int cpu;

	if (read_text(wake, same, sizeof(same)) > 0)
		write_text(wake, same);

	if (sched_getaffinity(0, sizeof(all), &all))
		return;
	for (cpu = 0; cpu < CPU_SETSIZE; cpu++) {
		if (!CPU_ISSET(cpu, &all))
			continue;
		CPU_ZERO(&one);
		CPU_SET(cpu, &one);
		sched_setaffinity(0, sizeof(one), &one);
	}
	sched_setaffinity(0, sizeof(all), &all);
}

struct fpt_nodes {
	long root, mid, bottom, conventional;
	long misses;	/* spans that could have been flat and are not, in all mms */
};

/* Nodes of one process; zeroes on a kernel without FPT. */
static inline struct fpt_nodes fpt_nodes(pid_t pid)
{
	struct fpt_nodes n = { 0 };
	char buf[256] = "";
	ssize_t len;
	int fd;

	fd = open(FPT_DEBUGFS "mm", O_RDWR);
	if (fd < 0)
		return n;
	len = snprintf(buf, sizeof(buf), "%d", pid ? pid : getpid());
	if (write(fd, buf, len) == len) {
		lseek(fd, 0, SEEK_SET);
		len = read(fd, buf, sizeof(buf) - 1);
		if (len > 0) {
			char *p;

			buf[len] = 0;
			for (p = buf; (p = strchr(p, '\n')); )
				*p = ' ';
			p = strstr(buf, "root ");
			if (p)
				n.root = strtol(p + 5, NULL, 10);
			p = strstr(buf, "mid ");
			if (p)
				n.mid = strtol(p + 4, NULL, 10);
			p = strstr(buf, "bottom ");
			if (p)
				n.bottom = strtol(p + 7, NULL, 10);
			p = strstr(buf, "conventional_spans ");
			if (p)
				n.conventional = strtol(p + 19, NULL, 10);
		}
	}
	close(fd);
	n.misses = fpt_stat0("mid_fallbacks") + fpt_stat0("bottom_fallbacks") +
		   fpt_stat0("refused_cap") + fpt_stat0("refused_policy");
	return n;
}

/* How many M and B nodes a fresh touch of that many spans and GiBs makes at once. */
static inline long fpt_expected(enum fpt_mode mode, long spans, long gibs)
{
	if (mode == L3L2)
		return spans;
	if (mode == L4L3_L2L1)
		return gibs;
	return 0;
}

/*
 * Nodes that came between two readings must be the expected number; where an
 * allocation failed or the cap spoke, that many fewer are right too. Under MIXED
 * the kernel may have made some meanwhile, when it found the process large.
 */
#define EXPECT_NEW_NODES(before, after, want) do {				\
	long _got = (after).mid + (after).bottom - (before).mid - (before).bottom; \
	long _missed = (after).misses - (before).misses;			\
	if (self->mode != MIXED)						\
		EXPECT_LE(_got, (long)(want))					\
			TH_LOG("expected %ld new flat nodes in mode %s, found %ld",	\
		       (long)(want), fpt_mode_names[self->mode], _got);		\
	EXPECT_GE(_got + _missed, (long)(want))					\
		TH_LOG("expected %ld new flat nodes in mode %s, found %ld and %ld refusals or fallbacks", \
		       (long)(want), fpt_mode_names[self->mode], _got, _missed);\
	if (self->mode == RADIX)						\
		EXPECT_EQ(0, (after).root + (after).mid + (after).bottom);	\
} while (0)

static inline long proc_kb(pid_t pid, const char *file, const char *name)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/%s", pid ? pid : getpid(), file);
	return file_value(path, name);
}

static inline long vmpte_kb(pid_t pid)
{
	return proc_kb(pid, "status", "VmPTE");
}

/* --- memory ------------------------------------------------------------- */

static inline void *map_prot(unsigned long addr, size_t len, int prot)
{
	void *p = mmap((void *)addr, len, prot, MAP_PRIVATE | MAP_ANONYMOUS |
		       MAP_NORESERVE | (addr ? MAP_FIXED_NOREPLACE : 0), -1, 0);

	if (p != MAP_FAILED && addr && p != (void *)addr) {
		munmap(p, len);
		errno = EEXIST;
		return MAP_FAILED;
	}
	/* Huge pages have tests of their own; elsewhere they hide the tables. */
	if (p != MAP_FAILED)
		madvise(p, len, MADV_NOHUGEPAGE);
	return p;
}

static inline void *map_at(unsigned long addr, size_t len)
{
	return map_prot(addr, len, PROT_READ | PROT_WRITE);
}

static inline uint64_t pat(uint64_t seed, uint64_t i)
{
	uint64_t x = (seed << 32) ^ (i * 0x9e3779b97f4a7c15ULL);

	x ^= x >> 29;
	x *= 0xbf58476d1ce4e5b9ULL;
	return x ^ (x >> 32) ^ 1;
}

/* Two words of a page: enough to tell every page from every other. */
static inline void page_set(void *page, uint64_t seed, uint64_t i)
{
	volatile uint64_t *p = page;

	p[0] = pat(seed, i);
	p[511] = ~pat(seed, i);
}

static inline bool page_ok(const void *page, uint64_t seed, uint64_t i)
{
	const volatile uint64_t *p = page;

	return p[0] == pat(seed, i) && p[511] == ~pat(seed, i);
}

static inline bool page_zero(const void *page)
{
	const volatile uint64_t *p = page;

	return p[0] == 0 && p[255] == 0 && p[511] == 0;
}

/* n pages, one every `stride` bytes */
static inline void fill(void *base, long n, size_t stride, uint64_t seed)
{
	long i;

	for (i = 0; i < n; i++)
		page_set((char *)base + i * stride, seed, i);
}

/* Index of the first page that does not hold its pattern; -1: all right. */
static inline long bad(const void *base, long n, size_t stride, uint64_t seed)
{
	long i;

	for (i = 0; i < n; i++)
		if (!page_ok((const char *)base + i * stride, seed, i))
			return i;
	return -1;
}

static inline long bad_zero(const void *base, long n, size_t stride)
{
	long i;

	for (i = 0; i < n; i++)
		if (!page_zero((const char *)base + i * stride))
			return i;
	return -1;
}

/* A memfd of n pages, each with its pattern */
static inline int patterned_file(int n, uint64_t seed)
{
	int fd = memfd_create("fpt", MFD_CLOEXEC), i;
	char page[PAGE];

	for (i = 0; i < n; i++) {
		memset(page, 0, sizeof(page));
		page_set(page, seed, i);
		if (pwrite(fd, page, PAGE, i * PAGE) != (ssize_t)PAGE)
			return -1;
	}
	return fd;
}

/* --- faults that are wanted --------------------------------------------- */

static __thread sigjmp_buf fault_env;
static __thread volatile int fault_armed;

static void fault_handler(int sig)
{
	if (!fault_armed) {
		signal(sig, SIG_DFL);
		return;
	}
	siglongjmp(fault_env, sig);
}

/* Signal that reading (writing) the address raises; 0: none. */
static inline int try_access(volatile void *addr, bool write)
{
	struct sigaction sa = { .sa_handler = fault_handler }, old[2];
	int sig;

	sigaction(SIGSEGV, &sa, &old[0]);
	sigaction(SIGBUS, &sa, &old[1]);
	sig = sigsetjmp(fault_env, 1);
	if (!sig) {
		fault_armed = 1;
		if (write)
			*(volatile char *)addr = *(volatile char *)addr;
		else
			(void)*(volatile char *)addr;
	}
	fault_armed = 0;
	sigaction(SIGSEGV, &old[0], NULL);
	sigaction(SIGBUS, &old[1], NULL);
	return sig;
}

/* --- processes ---------------------------------------------------------- */

/* Exit code of a child; 128 + n if signal n ended it. */
static inline int reap(pid_t pid)
{
	int status;

	if (pid < 0)
		return 255;
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return 254;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/*
 * In a forked child: leave with a code that names the line (modulo 125), so
 * that the parent's "Expected 0" shows which check of the child failed. The
 * harness's own ASSERT must not be used there.
 */
#define CHILD_CHECK(cond) do {							\
	if (!(cond)) {								\
		fprintf(stderr, "# child: line %d: expected %s\n", __LINE__, #cond); \
		_exit(1 + __LINE__ % 125);					\
	}									\
} while (0)

static inline void msleep(long ms)
{
	struct timespec ts = { ms / 1000, ms % 1000 * 1000000 };

	nanosleep(&ts, NULL);
}

/*
 * Until what ran before is gone, exit ends after the parent was told of it: the
 * numbers of nodes rest for 60 ms. At most five seconds.
 */
static inline void fpt_calm(void)
{
	const char *const kinds[] = { "root_live", "mid_live", "bottom_live" };
	long sum, last = -1;
	int i, k, same = 0;

	for (i = 0; i < 250 && same < 3; i++) {
		fpt_let_go();
		for (sum = 0, k = 0; k < 3; k++)
			sum += fpt_stat0(kinds[k]);
		same = sum == last ? same + 1 : 0;
		last = sum;
		msleep(20);
	}
}

/* Waits up to five seconds until a debugfs counter has a value. */
static inline long fpt_settle(const char *name, long want)
{
	long v = 0;
	int i;

	for (i = 0; i < 100; i++) {
		fpt_let_go();
		v = fpt_stat0(name);
		if (v == want)
			break;
		msleep(50);
	}
	return v;
}

/* A kernel with PREEMPT_RT has none. */
#define NEED_THP do {								\
	if (access("/sys/kernel/mm/transparent_hugepage/enabled", F_OK))	\
		SKIP(return, "the kernel has no transparent huge pages");	\
} while (0)

#define FPT_FIXTURE						\
	FIXTURE(fpt) { enum fpt_mode mode; };			\
	FIXTURE_SETUP(fpt) { self->mode = fpt_mode(); }		\
	FIXTURE_TEARDOWN(fpt) { }

/* Emulated machines are slow: the harness's 30 s are not enough. */
#define FPT_TEST(name) TEST_F_TIMEOUT(fpt, name, 120)

#endif
