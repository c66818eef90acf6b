// SPDX-License-Identifier: GPL-2.0
/*
 * One GiB, many hands: what threads and processes do to the tables of a flat span at
 * the same time. In mode l4l3-l2l1 software reads the index page of a node and
 * hardware the node, until an entry comes that only the index page can hold; each test
 * makes such an entry come while others make, free, move or read tables beside it.
 *
 * Memory must hold what was written, in any mode and on any kernel, and at the end of
 * each round fpt/check must find the tables in order.
 */
#include "fpt_util.h"
#include <sys/resource.h>
#include "../kselftest_harness.h"

FPT_FIXTURE

#define WINDOWS 512L		/* of 2 MiB, in a GiB */
#define SECONDS 5		/* of rounds, each test */

static volatile bool stop;
static volatile long wrong;
static pthread_barrier_t gate;

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec + ts.tv_nsec / 1e9;
}

static bool tables_ok(pid_t pid)
{
	const char *say = fpt_check(pid);

	if (say)
		fprintf(stderr, "# fpt/check: %s\n", say);
	return !say;
}

static unsigned int next(unsigned int *r)
{
	*r = *r * 1664525 + 1013904223;
	return *r >> 8;
}

/* Short enough to end anywhere in what the others do */
static void dawdle(unsigned int *r)
{
	volatile int i;

	for (i = next(r) % 20000; i > 0; i--)
		;
}

/* Not map_at(): that forbids huge pages. */
static char *map_plain(unsigned long addr, size_t len)
{
	return mmap((void *)addr, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS |
		    MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
}

/* Two pages of each window are enough to see where its table is. */
static char *page_of(char *gib, long window, int k)
{
	return gib + window * HUGE + (k ? HUGE - 3 * PAGE : 5 * PAGE);
}

static void set_window(char *gib, long window, uint64_t seed)
{
	page_set(page_of(gib, window, 0), seed, 2 * window);
	page_set(page_of(gib, window, 1), seed, 2 * window + 1);
}

static bool window_ok(char *gib, long window, uint64_t seed)
{
	return page_ok(page_of(gib, window, 0), seed, 2 * window) &&
	       page_ok(page_of(gib, window, 1), seed, 2 * window + 1);
}

/* KiB of all mappings of this process under that name in smaps */
static long smaps_sum(const char *name)
{
	char line[256];
	long sum = 0;
	FILE *f = fopen("/proc/self/smaps", "r");

	while (f && fgets(line, sizeof(line), f))
		if (!strncmp(line, name, strlen(name)))
			sum += find_value(line, name);
	if (f)
		fclose(f);
	return sum;
}

static void start(struct __test_metadata *_metadata, pthread_t *t, int n, void *(*fn)(void *),
		  void *arg)
{
	int i;

	for (i = 0; i < n; i++)
		ASSERT_EQ(0, pthread_create(&t[i], NULL, fn, arg));
}

/* --- huge faults beside new tables -------------------------------------------------- */

static char *gib;
static volatile int ids;

#define HUGE_EVERY 16	/* that many windows; 32 of them are huge */

static bool is_huge(long window)
{
	return window % HUGE_EVERY == 7;
}

static void *window_writer(void *arg)
{
	long id = __sync_fetch_and_add(&ids, 1), w;

	pthread_barrier_wait(&gate);
	for (w = id; w < WINDOWS; w += 3)
		if (!is_huge(w))
			set_window(gib, w, 1);
	for (w = id; w < WINDOWS; w += 3)
		if (!is_huge(w) && !window_ok(gib, w, 1))
			wrong++;
	return NULL;
}

/* Tables come from the node while leaves come beside them. */
FPT_TEST(huge_fault_in_flat)
{
	NEED_THP;
	long rounds = 0, unflat = fpt_stat0("unflat"), flat = 0, kb;
	double end = now() + SECONDS;
	unsigned int r = 1;
	pthread_t t[3];

	while (now() < end || rounds < 3) {
		struct fpt_nodes a, b;
		/* a child: after its first huge page a process gets nodes only where none is wanted */
		pid_t pid = fork();
		long w;

		if (pid) {
			ASSERT_EQ(0, reap(pid));
			rounds++;
			continue;
		}
		gib = map_at(BASE, GIB);
		CHILD_CHECK(gib != MAP_FAILED);
		a = fpt_nodes(0);
		set_window(gib, 0, 1);
		b = fpt_nodes(0);
		flat = b.bottom - a.bottom;
		CHILD_CHECK(flat + b.misses - a.misses >= (self->mode == L4L3_L2L1));
		unflat = fpt_stat0("unflat");
		ids = 0;
		pthread_barrier_init(&gate, NULL, 4);
		start(_metadata, t, 3, window_writer, NULL);
		pthread_barrier_wait(&gate);
		for (w = 0; w < WINDOWS; w++) {
			if (!is_huge(w))
				continue;
			dawdle(&r);
			CHILD_CHECK(!madvise(gib + w * HUGE, HUGE, MADV_HUGEPAGE));
			set_window(gib, w, 2);
		}
		for (w = 0; w < 3; w++)
			pthread_join(t[w], NULL);
		CHILD_CHECK(!wrong);
		for (w = 0; w < WINDOWS; w++)
			CHILD_CHECK(window_ok(gib, w, is_huge(w) ? 2 : 1));
		CHILD_CHECK(page_zero(gib + 7 * HUGE + 9 * PAGE));
		kb = smaps_sum("AnonHugePages");
		/* memory may be short of huge pages, but not of each */
		CHILD_CHECK(kb > 0);
		/* the first of them unflattens the node, the others find it so; it stays */
		CHILD_CHECK(fpt_stat0("unflat") == unflat + flat);
		CHILD_CHECK(fpt_nodes(0).bottom == b.bottom);
		CHILD_CHECK(tables_ok(0));
		CHILD_CHECK(!munmap(gib, GIB));
		CHILD_CHECK(tables_ok(0));
		_exit(0);
	}
	if (self->mode == L4L3_L2L1)
		EXPECT_LT(unflat, fpt_stat0("unflat"));
	TH_LOG("%ld rounds", rounds);
}

/* --- collapse ------------------------------------------------------------------------- */

#define STORM 12	/* windows, 24 MiB */

static volatile long collapsed;

static void *collapser(void *arg)
{
	long w;

	while (!stop)
		for (w = 0; w < STORM && !stop; w++)
			if (!madvise(gib + w * HUGE, HUGE, MADV_COLLAPSE))
				collapsed++;
	return NULL;
}

/* Writes what only it knows, and looks whether that is still there. */
static void *rewriter(void *arg)
{
	static uint64_t last[STORM * 512];
	unsigned int r = 7;
	uint64_t n;

	memset(last, 0, sizeof(last));
	for (n = 1; !stop; n++) {
		long i = next(&r) % (STORM * 512);
		volatile uint64_t *p = (uint64_t *)(gib + i * PAGE);

		if (p[7] != last[i])
			wrong++;
		p[7] = last[i] = n;
		/* now and then huge pages fall apart again: only this thread writes */
		if (n % 4096 == 0) {
			char *page = gib + i * PAGE;

			if (mprotect(page, PAGE, PROT_READ) || mprotect(page, PAGE, PROT_READ | PROT_WRITE))
				wrong++;
		}
	}
	return NULL;
}

/* GUP-fast, and what it pinned */
static void *pinner(void *arg)
{
	static char copy[PAGE];
	unsigned int r = 11;
	int ends[2];

	if (pipe(ends)) {
		wrong++;
		return NULL;
	}
	while (!stop) {
		long i = next(&r) % (STORM * 512);
		struct iovec v = { gib + i * PAGE, PAGE };

		if (vmsplice(ends[1], &v, 1, 0) != (ssize_t)PAGE ||
		    read(ends[0], copy, PAGE) != (ssize_t)PAGE || !page_ok(copy, 3, i))
			wrong++;
		dawdle(&r);
	}
	close(ends[0]);
	close(ends[1]);
	return NULL;
}

/* Tables are taken out of a node, and put away, while all this goes on. */
FPT_TEST(collapse_storm)
{
	NEED_THP;
	long rounds = 0, demotions = fpt_stat0("demotions"), forks = 0;
	double end = now() + SECONDS, until;
	pthread_t t[3];
	int i;

	while (now() < end) {
		gib = map_plain(BASE, GIB);
		ASSERT_NE(MAP_FAILED, gib);
		fill(gib, STORM * 512, PAGE, 3);
		stop = false;
		start(_metadata, t, 1, collapser, NULL);
		start(_metadata, t + 1, 1, rewriter, NULL);
		start(_metadata, t + 2, 1, pinner, NULL);
		for (until = now() + 0.5; now() < until; forks++) {
			pid_t pid = fork();

			if (!pid)
				_exit(bad(gib, STORM * 512, PAGE, 3) != -1);
			EXPECT_EQ(0, reap(pid));
		}
		stop = true;
		for (i = 0; i < 3; i++)
			pthread_join(t[i], NULL);
		EXPECT_EQ(0, wrong);
		EXPECT_EQ(-1, bad(gib, STORM * 512, PAGE, 3));
		EXPECT_TRUE(tables_ok(0));
		ASSERT_EQ(0, munmap(gib, GIB));
		rounds++;
	}
	EXPECT_TRUE(tables_ok(0));
	EXPECT_LT(0, collapsed);
	if (self->mode == L4L3_L2L1)
		EXPECT_LT(demotions, fpt_stat0("demotions"));
	TH_LOG("%ld rounds, %ld collapsed, %ld forks", rounds, collapsed, forks);
}

/* --- munmap beside hugetlb --------------------------------------------------------------- */

#define GOING 128	/* windows of small pages; every fourth stays */

static void *unmapper(void *arg)
{
	unsigned int r = (long)arg;
	long w;

	pthread_barrier_wait(&gate);
	for (w = 0; w < GOING; w++) {
		if (w % 4 == 0)
			continue;
		if (munmap(gib + w * HUGE, HUGE))
			wrong++;
		if (w % 8 == 1)
			dawdle(&r);
	}
	return NULL;
}

static void *refaulter(void *arg)
{
	long id = __sync_fetch_and_add(&ids, 1), i;

	pthread_barrier_wait(&gate);
	for (i = 0; i < 200; i++) {
		char *p = page_of(gib, i * 8 % GOING, 0) + (4 + id) * PAGE;

		page_set(p, 9, i);
		if (!page_ok(p, 9, i) || madvise(p, PAGE, MADV_DONTNEED) || !page_zero(p))
			wrong++;
	}
	return NULL;
}

/* Tables are on their way out of a node that is given up meanwhile. */
FPT_TEST(munmap_vs_hugetlb_fault)
{
	long rounds = 0, demotions = fpt_stat0("demotions");
	double end = now() + SECONDS;

	if (file_value("/proc/meminfo", "HugePages_Free") < 2)
		SKIP(return, "needs 2 huge pages");
	for (; now() < end || rounds < 3; rounds++) {
		pid_t pid = fork();
		unsigned int r = rounds * 977 + 5;
		pthread_t t[3];
		char *huge;
		long w;

		if (pid) {
			ASSERT_EQ(0, reap(pid));
			continue;
		}
		gib = map_at(BASE, GOING * HUGE);
		CHILD_CHECK(gib != MAP_FAILED);
		for (w = 0; w < GOING; w++)
			set_window(gib, w, 4);
		huge = mmap(gib + 300 * HUGE, 2 * HUGE, PROT_READ | PROT_WRITE, MAP_PRIVATE |
			    MAP_ANONYMOUS | MAP_HUGETLB | MAP_FIXED_NOREPLACE, -1, 0);
		CHILD_CHECK(huge == gib + 300 * HUGE);
		pthread_barrier_init(&gate, NULL, 4);
		start(_metadata, t, 1, unmapper, (void *)rounds);
		start(_metadata, t + 1, 2, refaulter, NULL);
		pthread_barrier_wait(&gate);
		for (w = next(&r) % 40; w > 0; w--)
			dawdle(&r);
		fill(huge, 1024, PAGE, 5);
		for (w = 0; w < 3; w++)
			pthread_join(t[w], NULL);
		CHILD_CHECK(!wrong);
		for (w = 0; w < GOING; w++) {
			if (w % 4 == 0)
				CHILD_CHECK(window_ok(gib, w, 4));
			else if (w % 16 == 3)
				CHILD_CHECK(try_access(page_of(gib, w, 0), false) == SIGSEGV);
		}
		CHILD_CHECK(bad(huge, 1024, PAGE, 5) == -1);
		CHILD_CHECK(tables_ok(0));
		CHILD_CHECK(!munmap(huge, 2 * HUGE));
		/* new tables where the others were */
		CHILD_CHECK(mmap(gib, GOING * HUGE, PROT_READ | PROT_WRITE, MAP_PRIVATE |
				 MAP_ANONYMOUS | MAP_FIXED, -1, 0) == gib);
		for (w = 0; w < GOING; w++) {
			CHILD_CHECK(page_zero(page_of(gib, w, 0)));
			set_window(gib, w, 6);
		}
		for (w = 0; w < GOING; w++)
			CHILD_CHECK(window_ok(gib, w, 6));
		CHILD_CHECK(tables_ok(0));
		_exit(0);
	}
	if (self->mode == L4L3_L2L1)
		EXPECT_LT(demotions, fpt_stat0("demotions"));
	TH_LOG("%ld rounds", rounds);
}

/* --- tables that move --------------------------------------------------------------------- */

#define OTHER (BASE + 4 * GIB)

static volatile long seen;

static void on_fault(int sig)
{
	if (!fault_armed) {
		signal(sig, SIG_DFL);
		return;
	}
	siglongjmp(fault_env, sig);
}

/* A page is at one of two places, or on its way; never another one, nor an empty one. */
static void *move_reader(void *arg)
{
	unsigned int r = (long)arg;

	while (!stop) {
		long w = next(&r) % WINDOWS;
		int k = next(&r) % 2;
		char *p = page_of((char *)(next(&r) % 2 ? BASE : OTHER), w, k);
		volatile bool ok = true;

		if (!sigsetjmp(fault_env, 1)) {
			fault_armed = 1;
			ok = page_ok(p, 7, 2 * w + k);
			seen++;
		}
		fault_armed = 0;
		if (!ok)
			wrong++;
	}
	return NULL;
}

static void *move_pinner(void *arg)
{
	static char copy[PAGE];
	unsigned int r = 3;
	int ends[2];

	if (pipe(ends)) {
		wrong++;
		return NULL;
	}
	while (!stop) {
		long w = next(&r) % WINDOWS;
		int k = next(&r) % 2;
		struct iovec v = { page_of((char *)(next(&r) % 2 ? BASE : OTHER), w, k), PAGE };

		if (vmsplice(ends[1], &v, 1, 0) != (ssize_t)PAGE)
			continue;
		if (read(ends[0], copy, PAGE) != (ssize_t)PAGE || !page_ok(copy, 7, 2 * w + k))
			wrong++;
		seen++;
	}
	close(ends[0]);
	close(ends[1]);
	return NULL;
}

static void move(struct __test_metadata *_metadata, unsigned long from, unsigned long to, size_t len)
{
	ASSERT_EQ((void *)to, mremap((void *)from, len, len, MREMAP_MAYMOVE | MREMAP_FIXED, to));
}

FPT_TEST(mremap_windows)
{
	struct sigaction sa = { .sa_handler = on_fault };
	/* windows, an odd number of them, half a GiB, a GiB */
	static const long sizes[] = { 1, 3, WINDOWS / 2, WINDOWS };
	long rounds = 0, moves = 0, i, k, w;
	double end = now() + SECONDS;
	pthread_t t[3];

	sigaction(SIGSEGV, &sa, NULL);
	sigaction(SIGBUS, &sa, NULL);
	start(_metadata, t, 1, move_reader, (void *)1);
	start(_metadata, t + 1, 1, move_reader, (void *)2);
	start(_metadata, t + 2, 1, move_pinner, NULL);
	for (; now() < end || rounds < 4; rounds++) {
		long n = sizes[rounds % 4];
		char *p, *keep[2];

		/* filled elsewhere, for the readers must never see a page that is still empty */
		p = map_at(BASE + 8 * GIB, GIB);
		ASSERT_NE(MAP_FAILED, p);
		for (w = 0; w < WINDOWS; w++)
			set_window(p, w, 7);
		move(_metadata, BASE + 8 * GIB, BASE, GIB);
		/* both GiBs have more in them than what moves; a whole one has nothing beside it */
		keep[0] = map_at(OTHER + GIB, PAGE);
		ASSERT_NE(MAP_FAILED, keep[0]);
		page_set(keep[0], 8, 0);
		for (i = 0; i < 6; i++) {
			for (k = 0; k < 4 && (k + 1) * n <= WINDOWS; k++, moves++) {
				unsigned long off = (i * 7 + k * n) % (WINDOWS - n + 1) * HUGE;

				if (n > 3)
					off = k * n * HUGE;
				move(_metadata, BASE + off, OTHER + off, n * HUGE);
				for (w = off / HUGE; w < (long)(off / HUGE) + n; w++)
					ASSERT_TRUE(window_ok((char *)OTHER, w, 7));
				move(_metadata, OTHER + off, BASE + off, n * HUGE);
			}
		}
		for (w = 0; w < WINDOWS; w++)
			ASSERT_TRUE(window_ok((char *)BASE, w, 7));
		EXPECT_TRUE(page_ok(keep[0], 8, 0));
		EXPECT_EQ(0, wrong);
		EXPECT_TRUE(tables_ok(0));
		ASSERT_EQ(0, munmap((void *)BASE, GIB));
		ASSERT_EQ(0, munmap(keep[0], PAGE));
	}
	stop = true;
	for (i = 0; i < 3; i++)
		pthread_join(t[i], NULL);
	EXPECT_EQ(0, wrong);
	EXPECT_LT(0, seen);
	EXPECT_TRUE(tables_ok(0));
	TH_LOG("%ld rounds, %ld moves there and back, %ld pages seen", rounds, moves, seen);
}

/* --- tables that two processes have ------------------------------------------------------------ */

#define SHARED 4	/* huge pages, spread over the GiB */

static volatile int *sharers;	/* processes that found the other's table */

static long faults(void)
{
	struct rusage u;

	getrusage(RUSAGE_SELF, &u);
	return u.ru_minflt;
}

static void neighbours(uint64_t seed)
{
	page_set(map_at(BASE, PAGE), seed, 0);
	page_set(map_at(BASE + 2 * GIB, PAGE), seed, 1);
}

static bool neighbours_ok(uint64_t seed)
{
	return page_ok((void *)BASE, seed, 0) && page_ok((void *)(BASE + 2 * GIB), seed, 1);
}

/* Who goes first must leave the other's table alone. */
static void share(bool parent_first)
{
	int fd = memfd_create("fpt", MFD_HUGETLB), up[2], down[2], i;
	char *p, c;
	pid_t pid;

	CHILD_CHECK(fd >= 0 && !ftruncate(fd, GIB) && !pipe(up) && !pipe(down));
	neighbours(1);
	p = mmap((void *)(BASE + GIB), GIB, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE |
		 MAP_FIXED_NOREPLACE, fd, 0);
	CHILD_CHECK(p == (char *)BASE + GIB);
	for (i = 0; i < SHARED; i++)
		page_set(p + i * GIB / SHARED, 2, i);
	pid = fork();
	if (!pid) {
		volatile char sum = 0;
		long n;

		close(up[1]);
		/* what a first call faults in is not to be counted */
		faults();
		n = faults();
		for (i = 0; i < SHARED; i++)
			sum += *(volatile char *)(p + i * GIB / SHARED);
		n = faults() - n;
		/* the first access finds the other's table, and with it all pages */
		if (n == 1)
			__sync_fetch_and_add(sharers, 1);
		for (i = 0; i < SHARED; i++)
			CHILD_CHECK(page_ok(p + i * GIB / SHARED, 2, i));
		CHILD_CHECK(tables_ok(0));
		CHILD_CHECK(write(down[1], "s", 1) == 1);
		/* until the parent has gone, or at once */
		if (parent_first)
			CHILD_CHECK(read(up[0], &c, 1) == 0);
		page_set(p + PAGE, 3, 0);
		CHILD_CHECK(!mprotect(p, HUGE, PROT_READ) && !mprotect(p, HUGE, PROT_READ | PROT_WRITE));
		for (i = 0; i < SHARED; i++)
			CHILD_CHECK(page_ok(p + i * GIB / SHARED, 2, i));
		CHILD_CHECK(page_ok(p + PAGE, 3, 0) && neighbours_ok(1) && tables_ok(0));
		_exit(0);
	}
	CHILD_CHECK(pid > 0);
	close(up[0]);
	close(down[1]);
	/* it finds our table, if we still have it */
	CHILD_CHECK(read(down[0], &c, 1) == 1);
	if (!parent_first) {
		CHILD_CHECK(reap(pid) == 0);
		for (i = 0; i < SHARED; i++)
			CHILD_CHECK(page_ok(p + i * GIB / SHARED, 2, i));
		CHILD_CHECK(page_ok(p + PAGE, 3, 0));
	}
	CHILD_CHECK(neighbours_ok(1) && tables_ok(0));
	_exit(0);
}

FPT_TEST(hugetlb_share)
{
	long available = file_value("/proc/meminfo", "HugePages_Free");
	int i, k, status;

	if (available < SHARED)
		SKIP(return, "needs %d huge pages", SHARED);
	sharers = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, sharers);
	/* whose parent goes first becomes our child */
	ASSERT_EQ(0, prctl(PR_SET_CHILD_SUBREAPER, 1));
	for (i = 0; i < 20; i++) {
		pid_t pid = fork();

		if (!pid)
			share(i % 2);
		EXPECT_EQ(0, reap(pid));
		while (wait(&status) > 0)
			EXPECT_EQ(0, status);
	}
	/* exit ends after it was told of */
	for (k = 0; k < 100 && file_value("/proc/meminfo", "HugePages_Free") != available; k++)
		msleep(20);
	EXPECT_EQ(available, file_value("/proc/meminfo", "HugePages_Free"));
	/*
	 * As on any kernel: flat spans beside it are no reason to have a table each. But in
	 * l3l2 the PMD table is a slice of this process's node, and goes with it.
	 */
	EXPECT_EQ(self->mode == L3L2 ? 0 : 20, *sharers);
	EXPECT_TRUE(tables_ok(0));
}

/* --- fork ------------------------------------------------------------------------------------- */

#define LEAVES 6

static void *splitter(void *arg)
{
	unsigned int r = 17;

	while (!stop) {
		/* the middle of huge pages: nobody writes there */
		char *p = gib + (next(&r) % LEAVES * 2 + 1) * HUGE + HUGE / 2;

		if (mprotect(p, PAGE, PROT_READ) || mprotect(p, PAGE, PROT_READ | PROT_WRITE))
			wrong++;
		dawdle(&r);
	}
	return NULL;
}

static void *small_writer(void *arg)
{
	unsigned int r = (long)arg;

	while (!stop) {
		long w = next(&r) % LEAVES * 2;
		char *p = gib + w * HUGE + 100 * PAGE + (long)arg * PAGE;

		page_set(p, 12, w);
		if (!page_ok(p, 12, w) || madvise(p, PAGE, MADV_DONTNEED))
			wrong++;
	}
	return NULL;
}

/* Leaves and tables of one GiB are copied while leaves become tables. */
FPT_TEST(thp_fork)
{
	NEED_THP;
	double end = now() + SECONDS, until;
	long forks = 0, huge = 0, w;
	pthread_t t[3];

	while (now() < end) {
		gib = map_at(BASE, GIB);
		ASSERT_NE(MAP_FAILED, gib);
		/* tables and leaves in turn */
		for (w = 0; w < 2 * LEAVES; w++) {
			if (w % 2)
				ASSERT_EQ(0, madvise(gib + w * HUGE, HUGE, MADV_HUGEPAGE));
			set_window(gib, w, 11);
		}
		huge += smaps_sum("AnonHugePages");
		stop = false;
		start(_metadata, t, 1, splitter, NULL);
		start(_metadata, t + 1, 1, small_writer, (void *)1);
		start(_metadata, t + 2, 1, small_writer, (void *)2);
		for (until = now() + 0.5; now() < until; forks++) {
			pid_t pid = fork();

			if (!pid) {
				for (w = 0; w < 2 * LEAVES; w++)
					CHILD_CHECK(window_ok(gib, w, 11));
				for (w = 0; w < 2 * LEAVES; w++)
					set_window(gib, w, 13);
				for (w = 0; w < 2 * LEAVES; w++)
					CHILD_CHECK(window_ok(gib, w, 13));
				CHILD_CHECK(tables_ok(0));
				_exit(0);
			}
			EXPECT_EQ(0, reap(pid));
		}
		stop = true;
		for (w = 0; w < 3; w++)
			pthread_join(t[w], NULL);
		EXPECT_EQ(0, wrong);
		for (w = 0; w < 2 * LEAVES; w++)
			EXPECT_TRUE(window_ok(gib, w, 11));
		EXPECT_TRUE(tables_ok(0));
		ASSERT_EQ(0, munmap(gib, GIB));
	}
	EXPECT_TRUE(tables_ok(0));
	EXPECT_LT(0, huge);
	TH_LOG("%ld forks", forks);
}

/* --- a file whose tables go in all processes --------------------------------------------------- */

#define PIECES 3	/* windows of the file */

/* Reads and writes through tables that another process's request takes away. */
static void other_process(int fd, enum fpt_mode mode, const int *tell, const int *hear)
{
	struct fpt_nodes a, b;
	char *p, c;
	long i;

	page_set(map_at(BASE, PAGE), 21, 0);
	p = mmap((void *)(BASE + 64 * HUGE), PIECES * HUGE, PROT_READ | PROT_WRITE, MAP_SHARED |
		 MAP_FIXED_NOREPLACE, fd, 0);
	CHILD_CHECK(p != MAP_FAILED);
	CHILD_CHECK(bad(p, PIECES * 512, PAGE, 20) == -1);
	a = fpt_nodes(0);
	CHILD_CHECK(write(tell[1], "r", 1) == 1);
	fcntl(hear[0], F_SETFL, O_NONBLOCK);
	for (i = 0; read(hear[0], &c, 1) != 1; i++) {
		long k = i * 61 % (PIECES * 512);

		CHILD_CHECK(page_ok(p + k * PAGE, 20, k));
		*(volatile uint64_t *)(p + k * PAGE + 64) = i;
	}
	CHILD_CHECK(bad(p, PIECES * 512, PAGE, 20) == -1);
	CHILD_CHECK(page_ok((void *)BASE, 21, 0));
	b = fpt_nodes(0);
	/* its table was in use here: the node could not stay */
	if (mode == L4L3_L2L1 && a.misses == b.misses)
		CHILD_CHECK(b.bottom < a.bottom);
	CHILD_CHECK(smaps_sum("ShmemPmdMapped") == PIECES * 2048);
	CHILD_CHECK(tables_ok(0));
	_exit(0);
}

FPT_TEST(retract_two_mms)
{
	NEED_THP;
	long rounds, demotions = fpt_stat0("demotions");
	double end = now() + SECONDS;

	for (rounds = 0; now() < end || rounds < 2; rounds++) {
		int fd = patterned_file(PIECES * 512, 20), tell[2], hear[2], i, n;
		pid_t pid, me;
		char c;

		ASSERT_LE(0, fd);
		ASSERT_EQ(0, pipe(tell));
		ASSERT_EQ(0, pipe(hear));
		pid = fork();
		if (!pid)
			other_process(fd, self->mode, tell, hear);
		/* a process of its own: after a huge page the policy looks before it makes a node */
		me = fork();
		if (!me) {
			char *p;

			page_set(map_at(BASE, PAGE), 22, 0);
			p = mmap((void *)(BASE + 64 * HUGE), PIECES * HUGE, PROT_READ | PROT_WRITE,
				 MAP_SHARED | MAP_FIXED_NOREPLACE, fd, 0);
			CHILD_CHECK(p != MAP_FAILED);
			CHILD_CHECK(bad(p, PIECES * 512, PAGE, 20) == -1);
			CHILD_CHECK(read(tell[0], &c, 1) == 1);
			for (i = 0, n = 0; i < PIECES; i++) {
				int try;

				/* another may hold a page for a moment */
				for (try = 0; try < 100; try++) {
					if (!madvise(p + i * HUGE, HUGE, MADV_COLLAPSE))
						break;
					msleep(1);
				}
				n += try < 100;
			}
			CHILD_CHECK(n == PIECES);
			CHILD_CHECK(bad(p, PIECES * 512, PAGE, 20) == -1);
			CHILD_CHECK(page_ok((void *)BASE, 22, 0));
			CHILD_CHECK(tables_ok(0));
			_exit(0);
		}
		EXPECT_EQ(0, reap(me));
		ASSERT_EQ(1, write(hear[1], "e", 1));
		EXPECT_EQ(0, reap(pid));
		close(fd);
		for (i = 0; i < 2; i++) {
			close(tell[i]);
			close(hear[i]);
		}
	}
	if (self->mode == L4L3_L2L1)
		EXPECT_LT(demotions, fpt_stat0("demotions"));
	TH_LOG("%ld rounds", rounds);
}

TEST_HARNESS_MAIN
