// SPDX-License-Identifier: GPL-2.0
/*
 * Traps that are laid for every implementation of flattened tables: what an
 * earlier one fell into, and what the other programs here do not try.
 * docs/reference/testing.md has the list with the tests for each.
 */
#include "fpt_util.h"
#include <sys/rseq.h>
#include "../kselftest_harness.h"

FPT_FIXTURE

/* Some of these take a while where guests share a CPU. */
#undef FPT_TEST
#define FPT_TEST(name) TEST_F_TIMEOUT(fpt, name, 300)

#define INJ "/sys/kernel/debug/fail_page_alloc/"
#define NT 8

/* --- allocations that fail, one after the other --------------------------- */

static int nth_fd = -1;

/*
 * The kernel writes to the rseq area when it returns from a preemption; without
 * memory for that, after a fork, it can but kill.
 */
static void without_rseq(void)
{
	void *area = (char *)__builtin_thread_pointer() + __rseq_offset;

	syscall(SYS_rseq, area, 32, RSEQ_FLAG_UNREGISTER, RSEQ_SIG);
}

/* From now on the n-th page that this thread allocates in the kernel is refused. */
static const char *inject_nth(void)
{
	without_rseq();
	nth_fd = open("/proc/thread-self/fail-nth", O_RDWR);
	if (nth_fd < 0 || access(INJ "min-order", W_OK))
		return "kernel without FAIL_PAGE_ALLOC";
	if (write_text(INJ "probability", "0") || write_text(INJ "verbose", "0") ||
	    write_text(INJ "min-order", "0") || write_text(INJ "ignore-gfp-wait", "N") ||
	    write_text(INJ "ignore-gfp-highmem", "N"))
		return "cannot set up fail_page_alloc";
	return NULL;
}

static void inject_end(void)
{
	write_text(INJ "min-order", "1");
	write_text(INJ "ignore-gfp-wait", "Y");
	write_text(INJ "ignore-gfp-highmem", "Y");
	if (nth_fd >= 0)
		close(nth_fd);
}

static bool fail_nth(int n)
{
	char num[16];
	int len = snprintf(num, sizeof(num), "%d", n);

	return pwrite(nth_fd, num, len, 0) == len;
}

/* Was there an n-th allocation?  Without one nothing was refused. */
static bool was_refused(void)
{
	char num[16] = "";

	if (pread(nth_fd, num, sizeof(num) - 1, 0) <= 0)
		return false;
	fail_nth(0);
	return !atoi(num);
}

#define MOST_ALLOCATIONS 2000

struct live {
	long root, mid, bottom;
};

static struct live live(void)
{
	fpt_calm();
	return (struct live){ fpt_stat0("root_live"), fpt_stat0("mid_live"), fpt_stat0("bottom_live") };
}

#define EXPECT_LIVE(l) do {						\
	EXPECT_EQ((l).root, fpt_settle("root_live", (l).root));		\
	EXPECT_EQ((l).mid, fpt_settle("mid_live", (l).mid));		\
	EXPECT_EQ((l).bottom, fpt_settle("bottom_live", (l).bottom));	\
	EXPECT_EQ(0, fpt_stat0("tainted"));				\
} while (0)

/*
 * A process whose root could not be flattened has tables of 4 KiB there in every
 * respect: walked, filled, forked and freed as such.
 */
FPT_TEST(root_that_could_not_be_flat)
{
	struct live before = live();
	int i;

	if (access(INJ "min-order", W_OK))
		SKIP(return, "kernel without FAIL_PAGE_ALLOC");
	write_text(INJ "verbose", "0");
	write_text(INJ "interval", "1");
	write_text(INJ "times", "-1");
	write_text(INJ "task-filter", "Y");
	write_text(INJ "min-order", "9");
	for (i = 0; i < 5; i++) {
		pid_t pid;

		write_text("/proc/self/make-it-fail", "1");
		write_text(INJ "probability", "100");
		fpt_drain();
		pid = fork();
		if (!pid) {
			char *p = map_at(BASE, 12 * SPAN);

			CHILD_CHECK(fpt_nodes(0).root == 0);
			CHILD_CHECK(p != MAP_FAILED);
			/* one half of the spans conventional, the other flat if the mode has it */
			fill(p, 6, SPAN, i);
			write_text("/proc/self/make-it-fail", "0");
			fill(p + 6 * SPAN, 6, SPAN, 100 + i);
			CHILD_CHECK(bad(p, 6, SPAN, i) == -1);
			CHILD_CHECK(bad(p + 6 * SPAN, 6, SPAN, 100 + i) == -1);
			pid = fork();
			if (!pid) {
				CHILD_CHECK(bad(p, 6, SPAN, i) == -1);
				CHILD_CHECK(munmap(p + 4 * SPAN, 4 * SPAN) == 0);
				execl("./fpt_tiny", "fpt_tiny", "11", NULL);
				_exit(99);
			}
			CHILD_CHECK(reap(pid) == 11);
			CHILD_CHECK(bad(p + 6 * SPAN, 6, SPAN, 100 + i) == -1);
			_exit(0);
		}
		write_text(INJ "probability", "100");
		write_text("/proc/self/make-it-fail", "0");
		EXPECT_EQ(0, reap(pid));
		write_text(INJ "probability", "0");
	}
	write_text(INJ "min-order", "1");
	EXPECT_LIVE(before);
}

/* Each page that fork asks for is refused once: no child, or a whole one. */
FPT_TEST(fork_that_runs_out_of_memory)
{
	char *p = map_at(BASE, 2 * SPAN);
	const char *why = inject_nth();
	struct live before;
	int n, none = 0;
	bool done = false;
	long pte;

	if (why)
		SKIP(return, "%s", why);
	ASSERT_NE(MAP_FAILED, p);
	fill(p, 4, SPAN / 2, 1);
	fill(p + GIB, 64, PAGE, 2);
	before = live();
	pte = vmpte_kb(0);
	for (n = 1; n < MOST_ALLOCATIONS && !done; n++) {
		pid_t pid;

		fpt_drain();
		ASSERT_TRUE(fail_nth(n));
		pid = fork();
		if (!pid) {
			CHILD_CHECK(bad(p, 4, SPAN / 2, 1) == -1);
			CHILD_CHECK(bad(p + GIB, 64, PAGE, 2) == -1);
			fill(p, 4, SPAN / 2, 3);
			_exit(0);
		}
		done = !was_refused();
		if (pid < 0)
			none++;
		else
			ASSERT_EQ(0, reap(pid)) TH_LOG("with allocation %d refused", n);
	}
	inject_end();
	EXPECT_TRUE(done);
	EXPECT_LT(0, none);
	TH_LOG("%d allocations, fork failed %d times", n - 2, none);
	EXPECT_EQ(-1, bad(p, 4, SPAN / 2, 1));
	EXPECT_EQ(-1, bad(p + GIB, 64, PAGE, 2));
	EXPECT_EQ(pte, vmpte_kb(0));
	EXPECT_LIVE(before);
}

/* The same for mremap: all pages are at one of the two places. */
static void moves_run_out(struct __test_metadata *_metadata, size_t len, size_t off, long pages)
{
	const char *why = inject_nth();
	unsigned long to = BASE + 4 * SPAN + off;
	int n, stayed = 0;
	bool done = false;
	long pte = vmpte_kb(0);

	if (why)
		SKIP(return, "%s", why);
	for (n = 1; n < MOST_ALLOCATIONS && !done; n++) {
		char *p = map_at(BASE, len), *q;

		ASSERT_NE(MAP_FAILED, p);
		fill(p, pages, len / pages, n);
		fpt_drain();
		ASSERT_TRUE(fail_nth(n));
		q = mremap(p, len, len, MREMAP_MAYMOVE | MREMAP_FIXED, to);
		done = !was_refused();
		if (q == MAP_FAILED) {
			stayed++;
			q = p;
		} else {
			ASSERT_EQ((void *)to, q);
			EXPECT_EQ(SIGSEGV, try_access(p, false));
		}
		ASSERT_EQ(-1, bad(q, pages, len / pages, n)) TH_LOG("with allocation %d refused", n);
		ASSERT_EQ(0, munmap(q, len));
		if (q == p)
			munmap((void *)to, len);
	}
	inject_end();
	EXPECT_TRUE(done);
	TH_LOG("%d allocations, mremap failed %d times", n - 2, stayed);
	EXPECT_EQ(pte, vmpte_kb(0));
}

FPT_TEST(move_that_runs_out_of_memory) { moves_run_out(_metadata, 4 * HUGE, HUGE / 2, 256); }
FPT_TEST(move_of_gibs_that_runs_out_of_memory) { moves_run_out(_metadata, 2 * GIB, GIB, 64); }

/* A page fault that is refused memory is taken again, and maps one page. */
FPT_TEST(fault_that_runs_out_of_memory)
{
	const char *why = inject_nth();
	int n, refused = 0;
	bool done = false;

	if (why)
		SKIP(return, "%s", why);
	for (n = 1; n < MOST_ALLOCATIONS && !done; n++) {
		/* in a process of its own: its exit checks the counts of pages and tables */
		pid_t pid;
		int code;

		fpt_drain();
		pid = fork();
		if (!pid) {
			char *p = map_at(BASE, SPAN), *f;
			int fd;

			close(nth_fd);
			nth_fd = open("/proc/thread-self/fail-nth", O_RDWR);
			fd = memfd_create("fpt", 0);
			CHILD_CHECK(ftruncate(fd, 16 * PAGE) == 0);
			f = mmap((void *)(BASE + SPAN), 16 * PAGE, PROT_READ | PROT_WRITE,
				 MAP_PRIVATE | MAP_FIXED_NOREPLACE, fd, 0);
			CHILD_CHECK(f == (char *)BASE + SPAN && nth_fd >= 0);
			CHILD_CHECK(fail_nth(n));
			fill(p, 4, GIB, n);
			fill(f, 4, PAGE, n);
			done = !was_refused();
			CHILD_CHECK(bad(p, 4, GIB, n) == -1);
			CHILD_CHECK(bad(f, 4, PAGE, n) == -1);
			CHILD_CHECK(munmap(p, SPAN) == 0);
			_exit(done ? 3 : 0);
		}
		code = reap(pid);
		ASSERT_TRUE(code == 0 || code == 3)
			TH_LOG("with allocation %d refused: exit code %d", n, code);
		done = code == 3;
		refused += !done;
	}
	inject_end();
	EXPECT_TRUE(done);
	EXPECT_LT(8, refused);
}

/* --- threads that meet ---------------------------------------------------- */

struct meet {
	pthread_barrier_t bar;
	char *p;
	long pages, stride, rounds;
	void *(*map)(struct meet *m);
	long wrong;
};

struct meeting {
	struct meet *m;
	int id;
};

/* All threads write their byte into every page, at once; none may be lost. */
static void *each_its_byte(void *arg)
{
	struct meeting *me = arg;
	struct meet *m = me->m;
	long r, i, wrong = 0;

	for (r = 0; r < m->rounds; r++) {
		if (!me->id) {
			m->p = m->map(m);
			if (m->p == MAP_FAILED)
				m->wrong++;
		}
		pthread_barrier_wait(&m->bar);
		if (m->p == MAP_FAILED)
			break;
		for (i = 0; i < m->pages; i++)
			((volatile char *)m->p)[i * m->stride + me->id] = me->id + 1;
		pthread_barrier_wait(&m->bar);
		for (i = 0; i < m->pages; i++)
			wrong += ((volatile char *)m->p)[i * m->stride + me->id] != me->id + 1;
		pthread_barrier_wait(&m->bar);
		if (!me->id)
			munmap(m->p, m->pages * m->stride);
	}
	__sync_fetch_and_add(&m->wrong, wrong);
	return NULL;
}

static long meet(struct meet *m)
{
	struct meeting me[NT];
	pthread_t t[NT];
	int i;

	pthread_barrier_init(&m->bar, NULL, NT);
	for (i = 0; i < NT; i++) {
		me[i] = (struct meeting){ m, i };
		if (pthread_create(&t[i], NULL, each_its_byte, &me[i]))
			return -1;
	}
	for (i = 0; i < NT; i++)
		pthread_join(t[i], NULL);
	return m->wrong;
}

static void *map_private(struct meet *m)
{
	return map_at(BASE, m->pages * m->stride);
}

static int file = -1;

static void *map_file(struct meet *m, int flags)
{
	if (file >= 0)
		close(file);
	file = memfd_create("fpt", 0);
	if (file < 0 || ftruncate(file, m->pages * m->stride))
		return MAP_FAILED;
	return mmap((void *)(BASE + SPAN - HUGE), m->pages * m->stride, PROT_READ | PROT_WRITE,
		    flags | MAP_FIXED_NOREPLACE, file, 0);
}

static void *map_shared_file(struct meet *m) { return map_file(m, MAP_SHARED); }
static void *map_private_file(struct meet *m) { return map_file(m, MAP_PRIVATE); }

/* In a child: at its exit the kernel compares its pages with its count of them. */
static int meet_in_child(void *(*map)(struct meet *m), long pages, long stride, long rounds)
{
	pid_t pid = fork();

	if (!pid) {
		struct meet m = { .map = map, .pages = pages, .stride = stride, .rounds = rounds };

		CHILD_CHECK(meet(&m) == 0);
		_exit(0);
	}
	return reap(pid);
}

FPT_TEST(every_thread_faults_the_same_pages)
{
	EXPECT_EQ(0, meet_in_child(map_private, 512, PAGE, 6));
	EXPECT_EQ(0, meet_in_child(map_private, 8, GIB, 6));
}

FPT_TEST(every_thread_faults_the_same_file_pages)
{
	EXPECT_EQ(0, meet_in_child(map_shared_file, 512, PAGE, 4));
	EXPECT_EQ(0, meet_in_child(map_private_file, 512, PAGE, 4));
}

/* What the page allocator has, with the lists of each CPU, which are not in MemFree. */
static long free_kb(void)
{
	long n, pages = 0;
	char line[256];
	FILE *f;

	fpt_drain();
	fpt_let_go();
	sum_up_counters();
	f = fopen("/proc/zoneinfo", "r");
	if (!f)
		return -1;
	while (fgets(line, sizeof(line), f))
		if (sscanf(line, " nr_free_pages %ld", &n) == 1 || sscanf(line, " count: %ld", &n) == 1)
			pages += n;
	fclose(f);
	return pages * (PAGE / 1024);
}

/* Who loses the race for a span gives the whole block back, not one page of it. */
FPT_TEST(lost_races_give_their_memory_back)
{
	const long wanted = self->mode == L3L2 || self->mode == L4L3_L2L1 ? 16 : 0;
	struct meet m = { .map = map_private, .pages = 8, .stride = SPAN, .rounds = 6 };
	long races, start, less, n, try;

	EXPECT_EQ(0, meet(&m));	/* stacks of the threads */
	/* Others take memory too, but hardly each time. */
	for (try = 0; try < 4; try++) {
		less = free_kb();
		ASSERT_LT(0, less);
		start = fpt_stat0("mid_races") + fpt_stat0("bottom_races");
		for (races = 0, n = 0; n < 8 || (races < wanted && n < 200); n++) {
			ASSERT_EQ(0, meet(&m));
			races = fpt_stat0("mid_races") + fpt_stat0("bottom_races") - start;
		}
		less -= free_kb();
		TH_LOG("%ld lost races in %ld rounds, %ld KiB less", races, n, less);
		if (less < races * 1024 + 4 * 1024)
			break;
	}
	/* of 2 MiB each */
	EXPECT_GT(races * 1024 + 4 * 1024, less);
}

/* --- lockless walkers ----------------------------------------------------- */

static ssize_t splice_from(int fd, void *p, size_t len)
{
	struct iovec v = { p, len };

	return vmsplice(fd, &v, 1, 0);
}

/* Pages before a hole are had, in order, and nothing behind it. */
static void stops_at(struct __test_metadata *_metadata, char *p, long first, char *hole, size_t len)
{
	char buf[PAGE];
	int fd[2];
	long i;

	ASSERT_EQ(0, pipe(fd));
	fcntl(fd[1], F_SETPIPE_SZ, 64 * PAGE);
	ASSERT_EQ(0, munmap(hole, len));
	ASSERT_EQ((hole - p) + 0L, splice_from(fd[1], p, hole - p + len + 4 * PAGE));
	for (i = 0; i < (hole - p) / (long)PAGE; i++) {
		ASSERT_EQ(PAGE, read(fd[0], buf, PAGE));
		EXPECT_TRUE(page_ok(buf, 1, first + i)) TH_LOG("page %ld", i);
	}
	close(fd[0]);
	close(fd[1]);
}

FPT_TEST(pinning_stops_at_a_hole)
{
	char *p = map_at(BASE + GIB - 16 * PAGE, 64 * PAGE);

	ASSERT_NE(MAP_FAILED, p);
	fill(p, 64, PAGE, 1);
	/* a page; then from the border of a GiB on */
	stops_at(_metadata, p, 0, p + 5 * PAGE, PAGE);
	stops_at(_metadata, p + 6 * PAGE, 6, p + 16 * PAGE, 20 * PAGE);
}

FPT_TEST(pinning_keeps_the_order_over_untouched_pages)
{
	char *p = map_at(BASE + GIB - 32 * PAGE, 64 * PAGE), buf[PAGE];
	int fd[2], i;

	ASSERT_NE(MAP_FAILED, p);
	for (i = 0; i < 48; i++)
		if (i % 5 && i % 7)
			page_set(p + i * PAGE, 2, i);
	ASSERT_EQ(0, pipe(fd));
	fcntl(fd[1], F_SETPIPE_SZ, 64 * PAGE);
	ASSERT_EQ(48 * PAGE, splice_from(fd[1], p, 48 * PAGE));
	for (i = 0; i < 48; i++) {
		ASSERT_EQ(PAGE, read(fd[0], buf, PAGE));
		EXPECT_TRUE(i % 5 && i % 7 ? page_ok(buf, 2, i) : page_zero(buf))
			TH_LOG("page %d", i);
	}
}

static volatile bool stop;
static volatile long wrong, hits[3];

#define ISLAND (BASE + SPAN + 3 * GIB + 5 * HUGE)

/* A span with one island, so its tables go and come with it. */
static void *comes_and_goes(void *arg)
{
	long r;

	for (r = 0; !stop; r++) {
		char *p = map_at(ISLAND, 4 * PAGE);

		if (p == MAP_FAILED) {
			wrong++;
			break;
		}
		fill(p, 4, PAGE, 77);
		hits[0]++;
		if (r % 4 == 0)
			sched_yield();
		munmap(p, 4 * PAGE);
		if (r % 8 == 0)
			fpt_drain();	/* to the page allocator, not to a pool */
	}
	return NULL;
}

static bool right_or_new(const char *page)
{
	uint64_t a = *(volatile uint64_t *)page;

	return a == pat(77, 1) || a == 0;
}

static void *pins(void *arg)
{
	static char buf[PAGE];
	int fd[2];

	if (pipe(fd)) {
		wrong++;
		return NULL;
	}
	while (!stop) {
		if (splice_from(fd[1], (void *)(ISLAND + PAGE), PAGE) != (ssize_t)PAGE)
			continue;
		if (read(fd[0], buf, PAGE) != (ssize_t)PAGE || !right_or_new(buf))
			wrong++;
		hits[1]++;
	}
	return NULL;
}

static void *loads(void *arg)
{
	while (!stop) {
		if (!sigsetjmp(fault_env, 1)) {
			fault_armed = 1;
			if (!right_or_new((void *)(ISLAND + PAGE)))
				wrong++;
			hits[2]++;
		}
		fault_armed = 0;
	}
	return NULL;
}

/* Takes what was freed and fills it with what would pass for entries. */
static void *takes_free_memory(void *arg)
{
	while (!stop) {
		char *p = map_at(0, 8 * MIB);
		long i;

		if (p == MAP_FAILED)
			continue;
		for (i = 0; i < (long)(8 * MIB / PAGE); i++) {
			uint64_t *q = (void *)(p + i * PAGE);
			int k;

			for (k = 0; k < 512; k++)
				q[k] = 0x100067 + ((uint64_t)k << 12);
		}
		munmap(p, 8 * MIB);
	}
	return NULL;
}

/* What a CPU may still be walking is neither freed nor used again. */
FPT_TEST(tables_are_freed_after_the_flush)
{
	void *(*fn[])(void *) = { comes_and_goes, pins, loads, takes_free_memory };
	struct sigaction sa = { .sa_handler = fault_handler };
	pthread_t t[4];
	int i;

	/* the threads' stacks and heaps must not be in the island's span */
	sigaction(SIGSEGV, &sa, NULL);
	for (i = 0; i < 4; i++)
		ASSERT_EQ(0, pthread_create(&t[i], NULL, fn[i], NULL));
	for (i = 0; i < 30 && !wrong; i++)
		msleep(100);
	stop = true;
	for (i = 0; i < 4; i++)
		pthread_join(t[i], NULL);
	EXPECT_EQ(0, wrong);
	TH_LOG("%ld times mapped, pinned %ld times, loaded %ld times", hits[0], hits[1], hits[2]);
	EXPECT_LT(0, hits[0]);
	EXPECT_LT(0, hits[1]);
	EXPECT_LT(0, hits[2]);
}

/* --- what an address space costs ------------------------------------------ */

static void shrink_slabs(void)
{
	static const char *const size[] = { "8", "16", "32", "64", "96", "128", "192", "256", "512",
		"1k", "2k", "4k", "8k" };
	char path[64];
	size_t i;

	for (i = 0; i < ARRAY_SIZE(size); i++) {
		snprintf(path, sizeof(path), "/sys/kernel/slab/kmalloc-%s/shrink", size[i]);
		write_text(path, "1");
	}
}

/* KiB of slab memory that stay after so many address spaces */
static long slab_growth(long n)
{
	long before, i;

	shrink_slabs();
	before = file_value("/proc/meminfo", "SUnreclaim");
	for (i = 0; i < n; i++) {
		pid_t pid = fork();

		if (!pid)
			_exit(0);
		reap(pid);
	}
	fpt_let_go();
	msleep(200);
	shrink_slabs();
	return file_value("/proc/meminfo", "SUnreclaim") - before;
}

FPT_TEST(nothing_stays_of_an_address_space)
{
	const long n = 600;
	long kb, i;

	if (has_kasan())
		SKIP(return, "KASAN: freed objects stay in quarantine");
	slab_growth(50);
	/* An object of 16 bytes would show; others allocate too, but hardly each time. */
	for (i = 0; i < 3; i++) {
		kb = slab_growth(n);
		if (kb * 1024 < n * 16)
			break;
	}
	EXPECT_GT(n * 16, kb * 1024) TH_LOG("%ld KiB of slabs after %ld forks", kb, n);
}

/* Every table of a process is in its VmPTE, and in PageTables once. */
FPT_TEST(every_table_is_counted_once)
{
	long before, more = 0, pte = 0, nodes = 0, try;
	int up[2], down[2];
	pid_t pid;
	char c;

	ASSERT_EQ(0, pipe(up));
	ASSERT_EQ(0, pipe(down));
	for (try = 0; try < 5; try++) {
		struct fpt_nodes f;

		fpt_let_go();
		msleep(100);
		before = all_tables_kb();
		pid = fork();
		if (!pid) {
			char *p = map_at(BASE, 8 * SPAN);

			fill(p, 8, SPAN, 1);
			CHILD_CHECK(write(up[1], "x", 1) == 1);
			CHILD_CHECK(read(down[0], &c, 1) == 1);
			_exit(0);
		}
		ASSERT_EQ(1, read(up[0], &c, 1));
		more = all_tables_kb() - before;
		pte = vmpte_kb(pid);
		f = fpt_nodes(pid);
		nodes = f.root + f.mid + f.bottom;
		ASSERT_EQ(1, write(down[1], "x", 1));
		ASSERT_EQ(0, reap(pid));
		if (more >= pte - 64 && more <= pte + 64)
			break;
	}
	TH_LOG("%ld nodes, VmPTE %ld KiB, PageTables grew by %ld KiB", nodes, pte, more);
	EXPECT_LE(nodes * 2048, pte);
	EXPECT_GE(nodes * 2048 + 1024, pte);
	EXPECT_LE(pte - 64, more);
	EXPECT_GE(pte + 64, more);
}

/* Under policy size a small process has conventional tables only. */
FPT_TEST(small_process_under_policy_size)
{
	char policy[16];
	struct fpt_nodes n;
	long pte = 0;
	pid_t pid;

	if (read_text(FPT_PARAMS "policy", policy, sizeof(policy)) < 0)
		SKIP(return, "kernel without FPT");
	policy[strcspn(policy, "\n")] = 0;
	ASSERT_EQ(0, write_text(FPT_PARAMS "policy", "size"));
	pid = vfork();
	if (!pid) {
		execl("/bin/sleep", "sleep", "60", NULL);
		_exit(99);
	}
	msleep(300);
	n = fpt_nodes(pid);
	pte = vmpte_kb(pid);
	kill(pid, SIGKILL);
	EXPECT_EQ(128 + SIGKILL, reap(pid));
	EXPECT_EQ(0, write_text(FPT_PARAMS "policy", policy));
	EXPECT_EQ(0, n.mid + n.bottom);
	EXPECT_LT(0, pte);
	/* a root, should it be flat, is all that may be big */
	EXPECT_GT(n.root * 2048 + 128, pte);
}

/* --- the kernel's half ---------------------------------------------------- */

/* The kernel's mappings as seen from these tables; the user's part is left out. */
static char *kernel_map(const char *name, size_t *len)
{
	size_t size = 4 << 20, n = 0;
	char path[64], *buf = malloc(size), *p;
	ssize_t got;
	int fd;

	snprintf(path, sizeof(path), "/sys/kernel/debug/page_tables/%s", name);
	fd = open(path, O_RDONLY);
	if (fd < 0 || !buf)
		return NULL;
	while (n < size - 1 && (got = read(fd, buf + n, size - 1 - n)) > 0)
		n += got;
	close(fd);
	buf[n] = 0;
	p = strstr(buf, "\n0xffff8");
	if (!p)
		return NULL;
	*len = strlen(p);
	return p;
}

static int same_kernel_half(void)
{
	size_t a, b;
	char *x, *y;
	int i;

	/* it may change between the two readings */
	for (i = 0; i < 10; i++) {
		x = kernel_map("kernel", &a);
		y = kernel_map("current_kernel", &b);
		if (!x || !y)
			return -1;
		if (a == b && !memcmp(x, y, a))
			return 1;
		for (; *x && *x == *y; x++, y++)
			;
		while (*x != '\n')
			x--, y--;
		fprintf(stderr, "# kernel: %.100s\n# here:   %.100s\n", x + 1, y + 1);
	}
	return 0;
}

FPT_TEST(kernel_half_is_everyones)
{
	int go[2], i;
	pid_t pid;
	char c;

	if (access("/sys/kernel/debug/page_tables/current_kernel", R_OK))
		SKIP(return, "kernel without PTDUMP_DEBUGFS");
	ASSERT_EQ(0, pipe(go));
	pid = fork();
	if (!pid) {
		/* an address space that is older than what the kernel maps meanwhile */
		CHILD_CHECK(read(go[0], &c, 1) == 1);
		CHILD_CHECK(same_kernel_half() == 1);
		_exit(0);
	}
	for (i = 0; i < 64; i++) {
		int fd[2];

		ASSERT_EQ(0, pipe(fd));
		fcntl(fd[0], F_SETPIPE_SZ, MIB);
	}
	EXPECT_EQ(1, same_kernel_half());
	ASSERT_EQ(1, write(go[1], "x", 1));
	EXPECT_EQ(0, reap(pid));
}

/* --- translations --------------------------------------------------------- */

/* More processes than a CPU has names for, with other memory at the same place. */
FPT_TEST(processes_never_see_each_others_memory)
{
	pid_t pid[12];
	int i, r;

	for (i = 0; i < 12; i++) {
		pid[i] = fork();
		if (!pid[i]) {
			cpu_set_t one;
			char *p = map_at(BASE, 2 * GIB);

			CPU_ZERO(&one);
			CPU_SET(0, &one);
			sched_setaffinity(0, sizeof(one), &one);
			CHILD_CHECK(p != MAP_FAILED);
			fill(p, 8, GIB / 4, i);
			for (r = 1; r < 40; r++) {
				sched_yield();
				CHILD_CHECK(bad(p, 8, GIB / 4, i + (r - 1) * 100) == -1);
				if (r % 8 == 0)
					CHILD_CHECK(madvise(p, 2 * GIB, MADV_DONTNEED) == 0);
				fill(p, 8, GIB / 4, i + r * 100);
			}
			_exit(0);
		}
	}
	for (i = 0; i < 12; i++)
		EXPECT_EQ(0, reap(pid[i]));
}

/* A change of a whole huge page's entry is stored. */
FPT_TEST(protection_of_whole_huge_pages)
{
	char *t = map_at(BASE, PAGE), *p;
	int r;

	page_set(t, 1, 0);
	p = mmap((void *)(BASE + 8 * HUGE), 4 * HUGE, PROT_READ | PROT_WRITE, MAP_PRIVATE |
		 MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	ASSERT_EQ((void *)(BASE + 8 * HUGE), p);
	madvise(p, 4 * HUGE, MADV_HUGEPAGE);
	fill(p, 2048, PAGE, 2);
	for (r = 0; r < 4; r++) {
		ASSERT_EQ(0, mprotect(p + HUGE, 2 * HUGE, PROT_READ));
		EXPECT_EQ(SIGSEGV, try_access(p + HUGE, true));
		EXPECT_EQ(SIGSEGV, try_access(p + 3 * HUGE - PAGE, true));
		EXPECT_EQ(0, try_access(p + HUGE - PAGE, true));
		EXPECT_EQ(0, try_access(p + 3 * HUGE, true));
		ASSERT_EQ(0, mprotect(p + HUGE, 2 * HUGE, PROT_NONE));
		EXPECT_EQ(SIGSEGV, try_access(p + 2 * HUGE, false));
		ASSERT_EQ(0, mprotect(p + HUGE, 2 * HUGE, PROT_READ | PROT_WRITE));
		EXPECT_EQ(0, try_access(p + 2 * HUGE, true));
	}
	EXPECT_EQ(-1, bad(p, 2048, PAGE, 2));
	EXPECT_TRUE(page_ok(t, 1, 0));
}

#define LRU_GEN "/sys/kernel/mm/lru_gen/enabled"

/* Code is patched through an address space of its own, also while others fault. */
FPT_TEST(kernel_text_is_patched_beside_faults)
{
	char old[32], now[32];
	int i;

	if (read_text(LRU_GEN, old, sizeof(old)) <= 0)
		SKIP(return, "kernel without LRU_GEN");
	old[strcspn(old, "\n")] = 0;
	for (i = 0; i < 16; i++) {
		char *p = map_at(BASE + i * GIB, 16 * PAGE);

		ASSERT_NE(MAP_FAILED, p);
		/* static keys: some dozen places in the kernel's text */
		ASSERT_EQ(0, write_text(LRU_GEN, i % 2 ? "0" : "7"));
		ASSERT_LT(0, read_text(LRU_GEN, now, sizeof(now)));
		EXPECT_EQ(i % 2 == 0, strtol(now, NULL, 16) != 0);
		fill(p, 16, PAGE, i);
		EXPECT_EQ(-1, bad(p, 16, PAGE, i));
	}
	EXPECT_EQ(0, write_text(LRU_GEN, old));
	for (i = 0; i < 16; i++)
		EXPECT_EQ(-1, bad((char *)BASE + i * GIB, 16, PAGE, i));
}

/* --- flushes -------------------------------------------------------------- */

static long flushes(void)
{
	return file_value("/proc/vmstat", "nr_tlb_local_flush_all") +
	       file_value("/proc/vmstat", "nr_tlb_local_flush_one");
}

/* Page by page moves flush once a table, not once a page. */
FPT_TEST(moved_pages_are_flushed_together)
{
	size_t len = 4 * HUGE;
	char *p, *q;
	long n, best = 1 << 30, i;

	if (file_value("/proc/vmstat", "nr_tlb_local_flush_all") < 0)
		SKIP(return, "kernel without DEBUG_TLBFLUSH");
	for (i = 0; i < 3; i++) {
		p = map_at(BASE + 5 * PAGE, len);
		ASSERT_NE(MAP_FAILED, p);
		fill(p, len / PAGE, PAGE, 1);
		n = flushes();
		q = mremap(p, len, len, MREMAP_MAYMOVE | MREMAP_FIXED, BASE + SPAN + 9 * PAGE);
		n = flushes() - n;
		ASSERT_EQ((void *)(BASE + SPAN + 9 * PAGE), q);
		EXPECT_EQ(-1, bad(q, len / PAGE, PAGE, 1));
		ASSERT_EQ(0, munmap(q, len));
		best = n < best ? n : best;
	}
	TH_LOG("%ld flushes for %zu pages", best, len / PAGE);
	EXPECT_GT((long)(len / PAGE) / 8, best);
}

TEST_HARNESS_MAIN
