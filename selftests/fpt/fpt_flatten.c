// SPDX-License-Identifier: GPL-2.0
/*
 * MADV_FLATTEN and MADV_UNFLATTEN: tables of a range move into a node and out of it,
 * while others write, free, share, swap and fork what they map. Nobody may see it but
 * hardware: contents stay, no dirty or accessed bit gets lost, and at the end of each
 * round fpt/check must find the tables in order.
 */
#include "fpt_process.h"
#include <linux/userfaultfd.h>
#include <poll.h>
#include "../kselftest_harness.h"
#include "fpt_toggle.h"

FPT_FIXTURE

#define INJ "/sys/kernel/debug/fail_page_alloc/"

static char *gib;

/* --- errors --------------------------------------------------------------------------- */

FPT_TEST(errors_of_arguments)
{
	char *p = map_at(BASE, 4 * PAGE);

	ASSERT_NE(MAP_FAILED, p);
	NEED_FLATTEN;
	/* as any advice does */
	EXPECT_EQ(-EINVAL, flatten(p + 1, PAGE));
	EXPECT_EQ(-EINVAL, unflatten(p + 1, PAGE));
	EXPECT_EQ(-EINVAL, flatten(p, ~0UL - PAGE));
	EXPECT_EQ(-EINVAL, unflatten(p, ~0UL - PAGE));
	EXPECT_EQ(0, flatten(p, 0));
	EXPECT_EQ(0, unflatten(p, 0));
	ASSERT_EQ(0, munmap(p + PAGE, PAGE));
	EXPECT_EQ(-ENOMEM, flatten(p, 4 * PAGE));
	EXPECT_EQ(-ENOMEM, unflatten(p, 4 * PAGE));
	EXPECT_EQ(-ENOMEM, flatten(p + 4 * PAGE, PAGE));
	EXPECT_EQ(0, munmap(p, 4 * PAGE));
}

FPT_TEST(only_boots_without_such_nodes_refuse)
{
	char *p = map_at(BASE, GIB);

	ASSERT_NE(MAP_FAILED, p);
	if (!fpt_debugfs())
		SKIP(return, "a kernel without FPT has no MADV_FLATTEN");
	page_set(p, 1, 0);
	if (!flatten_why_not(self->mode)) {
		EXPECT_NE(-EOPNOTSUPP, flatten(p, GIB));
		EXPECT_EQ(0, unflatten(p, GIB));
		EXPECT_TRUE(page_ok(p, 1, 0));
		return;
	}
	EXPECT_EQ(-EOPNOTSUPP, flatten(p, GIB));
	EXPECT_EQ(-EOPNOTSUPP, unflatten(p, GIB));
	EXPECT_TRUE(page_ok(p, 1, 0));
}

FPT_TEST(over_a_cap)
{
	long cap = fpt_param("mm_cap"), percent = fpt_param("cap_percent");
	char *p = map_at(BASE, GIB);
	int err[2];

	NEED_FLATTEN;
	ASSERT_NE(MAP_FAILED, p);
	ASSERT_LE(0, percent);
	ASSERT_EQ(0, pgt_set(PGT_RADIX, PGT_NOW));
	fill(p, WINDOWS, HUGE, 1);
	ASSERT_TRUE(fpt_set_param("cap_percent", 0));
	err[0] = flatten(p, GIB);
	ASSERT_TRUE(fpt_set_param("cap_percent", percent));
	EXPECT_EQ(-ENOSPC, err[0]);
	/* of one process; 0 would be no limit */
	if (cap >= 0) {
		struct fpt_nodes n = fpt_nodes(0);

		if (n.root + n.mid + n.bottom > 0) {
			ASSERT_TRUE(fpt_set_param("mm_cap", n.root + n.mid + n.bottom));
			err[1] = flatten(p, GIB);
			ASSERT_TRUE(fpt_set_param("mm_cap", cap));
			EXPECT_EQ(-ENOSPC, err[1]);
		}
	}
	EXPECT_EQ(0, flatten(p, GIB));
	EXPECT_EQ(-1, bad(p, WINDOWS, HUGE, 1));
	EXPECT_TRUE(tables_ok(0));
}

FPT_TEST(no_block_of_2_mib)
{
	char *p = map_at(BASE, GIB), was[64];
	struct fpt_nodes a, b;
	int err;

	NEED_FLATTEN;
	if (read_text(INJ "probability", was, sizeof(was)) < 0)
		SKIP(return, "kernel without FAIL_PAGE_ALLOC");
	ASSERT_NE(MAP_FAILED, p);
	ASSERT_EQ(0, pgt_set(PGT_RADIX, PGT_NOW));
	fill(p, WINDOWS, HUGE, 1);
	a = fpt_nodes(0);
	ASSERT_TRUE(!write_text(INJ "task-filter", "Y") && !write_text(INJ "min-order", "9") &&
		    !write_text(INJ "times", "-1") && !write_text(INJ "interval", "1") &&
		    !write_text(INJ "verbose", "0") && !write_text(INJ "ignore-gfp-wait", "0") &&
		    !write_text(INJ "probability", "100"));
	fpt_drain();
	write_text("/proc/self/make-it-fail", "1");
	err = flatten(p, GIB);
	write_text("/proc/self/make-it-fail", "0");
	write_text(INJ "probability", was);
	b = fpt_nodes(0);
	EXPECT_EQ(-EAGAIN, err);
	EXPECT_EQ(a.bottom, b.bottom);
	EXPECT_EQ(-1, bad(p, WINDOWS, HUGE, 1));
	EXPECT_TRUE(tables_ok(0));
	EXPECT_EQ(0, flatten(p, GIB));
	EXPECT_EQ(-1, bad(p, WINDOWS, HUGE, 1));
}

FPT_TEST(huge_pages_in_the_span)
{
	NEED_THP;
	struct fpt_nodes a, b;
	char *p = map_at(BASE, GIB), *huge;

	NEED_FLATTEN;
	ASSERT_NE(MAP_FAILED, p);
	ASSERT_EQ(0, pgt_set(PGT_RADIX, PGT_NOW));
	fill(p, 8, HUGE, 1);
	huge = p + 16 * HUGE;
	ASSERT_EQ(0, madvise(huge, HUGE, MADV_HUGEPAGE));
	fill(huge, 512, PAGE, 2);
	if (file_value("/proc/self/smaps_rollup", "AnonHugePages") < 2048)
		SKIP(return, "no huge page was free");
	a = fpt_nodes(0);
	EXPECT_EQ(-EBUSY, flatten(p, GIB));
	/* the span is busy, wherever in it the range is */
	EXPECT_EQ(-EBUSY, flatten(p, PAGE));
	b = fpt_nodes(0);
	EXPECT_EQ(a.bottom, b.bottom);
	EXPECT_EQ(-1, bad(p, 8, HUGE, 1));
	EXPECT_EQ(-1, bad(huge, 512, PAGE, 2));
	/* in small pages it is no longer */
	ASSERT_EQ(0, madvise(huge, HUGE, MADV_NOHUGEPAGE));
	ASSERT_EQ(0, mprotect(huge + PAGE, PAGE, PROT_READ));
	EXPECT_EQ(0, flatten(p, GIB));
	EXPECT_EQ(-1, bad(p, 8, HUGE, 1));
	EXPECT_EQ(-1, bad(huge, 512, PAGE, 2));
	EXPECT_TRUE(tables_ok(0));
}

FPT_TEST(hugetlb_in_the_span)
{
	char *p = map_at(BASE, 16 * HUGE), *huge, *alone;

	NEED_FLATTEN;
	if (file_value("/proc/meminfo", "HugePages_Free") < 2)
		SKIP(return, "needs 2 huge pages");
	ASSERT_NE(MAP_FAILED, p);
	ASSERT_EQ(0, pgt_set(PGT_RADIX, PGT_NOW));
	fill(p, 16, HUGE, 1);
	huge = mmap(p + 32 * HUGE, 2 * HUGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS |
		    MAP_HUGETLB | MAP_FIXED_NOREPLACE, -1, 0);
	ASSERT_EQ(p + 32 * HUGE, huge);
	EXPECT_EQ(-EBUSY, flatten(p, 16 * HUGE));
	/* nor in a span that has nothing else, and not even that so far */
	alone = mmap(p + GIB, HUGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS |
		     MAP_NORESERVE | MAP_HUGETLB | MAP_FIXED_NOREPLACE, -1, 0);
	ASSERT_EQ(p + GIB, alone);
	EXPECT_EQ(-EBUSY, flatten(alone, HUGE));
	ASSERT_EQ(0, munmap(alone, HUGE));
	fill(huge, 1024, PAGE, 2);
	EXPECT_EQ(-EBUSY, flatten(p, 16 * HUGE));
	EXPECT_EQ(-EBUSY, flatten(huge, 2 * HUGE));
	EXPECT_EQ(-1, bad(p, 16, HUGE, 1));
	EXPECT_EQ(-1, bad(huge, 1024, PAGE, 2));
	ASSERT_EQ(0, munmap(huge, 2 * HUGE));
	EXPECT_EQ(0, flatten(p, 16 * HUGE));
	EXPECT_EQ(-1, bad(p, 16, HUGE, 1));
	EXPECT_TRUE(tables_ok(0));
}

/* --- what it does ------------------------------------------------------------------------ */

/* A dense, a sparse and an untouched span, by the bytes that /proc tells */
FPT_TEST(a_node_comes_and_goes)
{
	struct fpt_nodes a, b;
	char *p = map_at(BASE, 3 * GIB);
	long kb, flat;

	NEED_FLATTEN;
	ASSERT_NE(MAP_FAILED, p);
	ASSERT_EQ(0, pgt_set(PGT_RADIX, PGT_NOW));
	fill(p, WINDOWS, HUGE, 1);
	fill(p + GIB, 3, 100 * HUGE, 2);
	a = fpt_nodes(0);
	kb = vmpte_kb(0);
	ASSERT_EQ(0, flatten(p, 3 * GIB));
	b = fpt_nodes(0);
	flat = vmpte_kb(0);
	EXPECT_EQ(a.bottom + 3, b.bottom);
	EXPECT_EQ(a.root, b.root);
	EXPECT_EQ(a.mid, b.mid);
	/* 512 tables became slices; of 3 and of none there are 512 all the same */
	EXPECT_LE(kb + 2 * 2048 - 3 * 4, flat);
	EXPECT_GE(kb + 2 * 2048 - 3 * 4 + 8, flat) TH_LOG("%ld kB of tables were %ld", flat, kb);
	EXPECT_EQ(-1, bad(p, WINDOWS, HUGE, 1));
	EXPECT_EQ(-1, bad(p + GIB, 3, 100 * HUGE, 2));
	EXPECT_TRUE(page_zero(p + 2 * GIB));
	EXPECT_TRUE(tables_ok(0));
	/* twice is once */
	EXPECT_EQ(0, flatten(p, 3 * GIB));
	EXPECT_EQ(b.bottom, fpt_nodes(0).bottom);
	/* a page of the range says which span */
	EXPECT_EQ(0, unflatten(p + GIB + 7 * PAGE, PAGE));
	EXPECT_EQ(a.bottom + 2, fpt_nodes(0).bottom);
	EXPECT_EQ(0, unflatten(p, 3 * GIB));
	EXPECT_EQ(0, unflatten(p, 3 * GIB));
	EXPECT_EQ(a.bottom, fpt_nodes(0).bottom);
	EXPECT_EQ(-1, bad(p, WINDOWS, HUGE, 1));
	EXPECT_EQ(-1, bad(p + GIB, 3, 100 * HUGE, 2));
	EXPECT_TRUE(page_zero(p + 2 * GIB + PAGE));
	EXPECT_TRUE(tables_ok(0));
	/* the tables of the third span are new since */
	EXPECT_LE(vmpte_kb(0), kb + 8);
	ASSERT_EQ(0, munmap(p, 3 * GIB));
	EXPECT_TRUE(tables_ok(0));
}

FPT_TEST(windows_after_it_come_from_the_node)
{
	struct fpt_nodes a, b;
	char *p = map_at(BASE, GIB);
	long w, kb;

	NEED_FLATTEN;
	ASSERT_NE(MAP_FAILED, p);
	ASSERT_EQ(0, pgt_set(PGT_RADIX, PGT_NOW));
	fill(p, WINDOWS / 2, 2 * HUGE, 1);
	ASSERT_EQ(0, flatten(p, GIB));
	a = fpt_nodes(0);
	kb = vmpte_kb(0);
	for (w = 0; w < WINDOWS / 2; w++)
		page_set(p + (2 * w + 1) * HUGE, 2, w);
	b = fpt_nodes(0);
	EXPECT_EQ(a.bottom, b.bottom);
	EXPECT_EQ(kb, vmpte_kb(0));
	EXPECT_EQ(-1, bad(p, WINDOWS / 2, 2 * HUGE, 1));
	EXPECT_EQ(-1, bad(p + HUGE, WINDOWS / 2, 2 * HUGE, 2));
	EXPECT_TRUE(tables_ok(0));
	ASSERT_EQ(0, munmap(p, GIB));
	EXPECT_EQ(a.bottom - 1, fpt_nodes(0).bottom);
}

/* --- races --------------------------------------------------------------------------------- */

#define PER 64L		/* pages of each writer, one in each eighth window */

static volatile int ids;

/* Writes what only it knows, and looks whether that is still there. */
static void *writer(void *arg)
{
	long id = __sync_fetch_and_add(&ids, 1);
	uint64_t last[PER] = { 0 }, n;
	unsigned int r = 5 + id;

	for (n = 1; !stop; n++) {
		long i = next(&r) % PER;
		volatile uint64_t *p = (uint64_t *)(gib + i * 8 * HUGE + id * PAGE);

		if (p[3] != last[i])
			wrong++;
		p[3] = last[i] = n;
		if (n % 512 == 0) {
			if (madvise((void *)p, PAGE, MADV_DONTNEED) || p[3])
				wrong++;
			last[i] = 0;
		}
	}
	return NULL;
}

static void start(struct __test_metadata *_metadata, pthread_t *t, int n, void *(*fn)(void *))
{
	int i;

	for (i = 0; i < n; i++)
		ASSERT_EQ(0, pthread_create(&t[i], NULL, fn, NULL));
}

static void join(pthread_t *t, int n)
{
	int i;

	for (i = 0; i < n; i++)
		pthread_join(t[i], NULL);
}

RACE_TEST(while_threads_write)
{
	double end = seconds() + SECONDS;
	pthread_t t[3];

	NEED_FLATTEN;
	gib = map_at(BASE, GIB);
	ASSERT_NE(MAP_FAILED, gib);
	start_toggling(_metadata, BASE, 0, 0, 0);
	ids = 0;
	start(_metadata, t, 3, writer);
	while (go_on(end)) {
		EXPECT_TRUE(tables_ok(0));
		msleep(50);
	}
	end_toggling(_metadata);
	join(t, 3);
	EXPECT_EQ(0, wrong);
	ASSERT_EQ(0, munmap(gib, GIB));
}

/* Both find what the other has just made, and what it has just begun to take away. */
RACE_TEST(two_at_once)
{
	double end = seconds() + SECONDS;
	pthread_t other, t[2];

	NEED_FLATTEN;
	gib = map_at(BASE, GIB);
	ASSERT_NE(MAP_FAILED, gib);
	start_toggling(_metadata, BASE, 0, 0, 0);
	ASSERT_EQ(0, pthread_create(&other, NULL, toggler, NULL));
	ids = 0;
	start(_metadata, t, 2, writer);
	while (go_on(end)) {
		EXPECT_TRUE(tables_ok(0));
		msleep(50);
	}
	stop = true;
	pthread_join(other, NULL);
	end_toggling(_metadata);
	join(t, 2);
	EXPECT_EQ(0, wrong);
	ASSERT_EQ(0, munmap(gib, GIB));
}

RACE_TEST(while_windows_come_and_go)
{
	NEED_THP;
	double end = seconds() + SECONDS;
	unsigned int r = 1;
	long rounds = 0, w;

	NEED_FLATTEN;
	gib = map_at(BASE, GIB);
	ASSERT_NE(MAP_FAILED, gib);
	start_toggling(_metadata, BASE, 0, -ENOMEM, 0);
	for (; go_on(end) || rounds < 3; rounds++) {
		for (w = 0; w < WINDOWS; w++)
			page_set(gib + w * HUGE, rounds, w);
		for (w = next(&r) % 4; w < WINDOWS; w += 4) {
			ASSERT_EQ(0, munmap(gib + w * HUGE, HUGE));
			ASSERT_EQ(gib + w * HUGE,
				  mmap(gib + w * HUGE, HUGE, PROT_READ | PROT_WRITE, MAP_PRIVATE |
				       MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0));
			ASSERT_EQ(0, madvise(gib + w * HUGE, HUGE, MADV_NOHUGEPAGE));
			EXPECT_TRUE(page_zero(gib + w * HUGE));
			page_set(gib + w * HUGE, rounds, w);
		}
		EXPECT_EQ(-1, bad(gib, WINDOWS, HUGE, rounds));
		EXPECT_TRUE(tables_ok(0));
	}
	end_toggling(_metadata);
	ASSERT_EQ(0, munmap(gib, GIB));
}

RACE_TEST(while_it_forks)
{
	double end = seconds() + SECONDS;
	long forks = 0;

	NEED_FLATTEN;
	gib = map_at(BASE, GIB);
	ASSERT_NE(MAP_FAILED, gib);
	fill(gib, 128, 4 * HUGE, 1);
	start_toggling(_metadata, BASE, 0, 0, 0);
	for (; go_on(end) || forks < 5; forks++) {
		pid_t pid = fork();

		if (!pid) {
			CHILD_CHECK(bad(gib, 128, 4 * HUGE, 1) == -1);
			fill(gib, 128, 4 * HUGE, 2);
			CHILD_CHECK(bad(gib, 128, 4 * HUGE, 2) == -1);
			CHILD_CHECK(tables_ok(0));
			_exit(0);
		}
		EXPECT_EQ(0, reap(pid));
		if (forks % 8 == 0)
			fill(gib, 128, 4 * HUGE, 1);
		ASSERT_EQ(-1, bad(gib, 128, 4 * HUGE, 1));
	}
	end_toggling(_metadata);
	TH_LOG("%ld forks", forks);
	ASSERT_EQ(0, munmap(gib, GIB));
}

RACE_TEST(while_windows_move)
{
	double end = seconds() + SECONDS;
	unsigned long other = BASE + 4 * GIB;
	unsigned int r = 3;
	long moves = 0, w;
	char *keep;

	NEED_FLATTEN;
	gib = map_at(BASE, GIB);
	keep = map_at(other, HUGE);
	ASSERT_NE(MAP_FAILED, gib);
	ASSERT_NE(MAP_FAILED, keep);
	page_set(keep, 9, 0);
	fill(gib, WINDOWS, HUGE, 1);
	/* the first page of each stays where it is */
	start_toggling(_metadata, BASE, other, 0, 0);
	for (; go_on(end) || moves < 20; moves++) {
		long n = 1L << next(&r) % 8;
		unsigned long off;

		w = 1 + next(&r) % (WINDOWS - n);
		off = w * HUGE;
		ASSERT_EQ((void *)(other + off),
			  mremap(gib + off, n * HUGE, n * HUGE, MREMAP_MAYMOVE | MREMAP_FIXED,
				 other + off));
		for (; w < (long)(off / HUGE) + n; w++)
			ASSERT_TRUE(page_ok((char *)other + w * HUGE, 1, w));
		ASSERT_EQ(gib + off,
			  mremap((void *)(other + off), n * HUGE, n * HUGE,
				 MREMAP_MAYMOVE | MREMAP_FIXED, gib + off));
		ASSERT_EQ(-1, bad(gib, WINDOWS, HUGE, 1));
	}
	EXPECT_TRUE(page_ok(keep, 9, 0));
	end_toggling(_metadata);
	TH_LOG("%ld moves there and back", moves);
	ASSERT_EQ(0, munmap(gib, GIB));
	ASSERT_EQ(0, munmap(keep, HUGE));
}

/* Huge pages come, fall apart and go while it is tried. */
RACE_TEST(while_huge_pages_come_and_go)
{
	NEED_THP;
	double end = seconds() + SECONDS;
	long rounds = 0, huge = 0, w;

	NEED_FLATTEN;
	gib = map_at(BASE, GIB);
	ASSERT_NE(MAP_FAILED, gib);
	fill(gib, WINDOWS, HUGE, 1);
	start_toggling(_metadata, BASE, 0, -EBUSY, 0);
	for (; go_on(end) || rounds < 5; rounds++) {
		for (w = 8; w < WINDOWS; w += 128) {
			char *p = gib + w * HUGE;

			ASSERT_EQ(0, madvise(p, HUGE, MADV_DONTNEED));
			ASSERT_EQ(0, madvise(p, HUGE, MADV_HUGEPAGE));
			fill(p, 512, PAGE, rounds);
			EXPECT_EQ(-1, bad(p, 512, PAGE, rounds));
			ASSERT_EQ(0, madvise(p, HUGE, MADV_NOHUGEPAGE));
			/* a part of it: it falls apart */
			ASSERT_EQ(0, madvise(p + 7 * PAGE, PAGE, MADV_DONTNEED));
			EXPECT_TRUE(page_zero(p + 7 * PAGE));
			page_set(p + 7 * PAGE, rounds, 7);
			EXPECT_EQ(-1, bad(p, 512, PAGE, rounds));
			page_set(p, 1, w);
			huge++;
		}
		EXPECT_EQ(-1, bad(gib, WINDOWS, HUGE, 1));
		EXPECT_TRUE(tables_ok(0));
	}
	end_toggling(_metadata);
	TH_LOG("%ld huge pages asked for", huge);
	ASSERT_EQ(0, munmap(gib, GIB));
}

RACE_TEST(while_pages_are_merged)
{
	const char *ksm = "/sys/kernel/mm/ksm/run";
	double end = seconds() + SECONDS;
	long i, rounds = 0;
	char was[16];

	NEED_FLATTEN;
	if (read_text(ksm, was, sizeof(was)) < 0)
		SKIP(return, "kernel without KSM");
	gib = map_at(BASE, GIB);
	ASSERT_NE(MAP_FAILED, gib);
	ASSERT_EQ(0, madvise(gib, GIB, MADV_MERGEABLE));
	write_text("/sys/kernel/mm/ksm/sleep_millisecs", "5");
	write_text("/sys/kernel/mm/ksm/pages_to_scan", "2000");
	ASSERT_EQ(0, write_text(ksm, "1"));
	start_toggling(_metadata, BASE, 0, 0, 0);
	for (; go_on(end) || rounds < 3; rounds++) {
		for (i = 0; i < 256; i++)
			page_set(gib + i * 2 * HUGE, 7, rounds);
		msleep(200);
		for (i = 0; i < 256; i += 3)
			page_set(gib + i * 2 * HUGE, 8, i);
		for (i = 0; i < 256; i++)
			ASSERT_TRUE(i % 3 ? page_ok(gib + i * 2 * HUGE, 7, rounds) :
					    page_ok(gib + i * 2 * HUGE, 8, i));
	}
	end_toggling(_metadata);
	ASSERT_EQ(0, madvise(gib, GIB, MADV_UNMERGEABLE));
	for (i = 0; i < 256; i++)
		ASSERT_TRUE(i % 3 ? page_ok(gib + i * 2 * HUGE, 7, rounds - 1) :
				    page_ok(gib + i * 2 * HUGE, 8, i));
	EXPECT_TRUE(tables_ok(0));
	write_text(ksm, was);
	ASSERT_EQ(0, munmap(gib, GIB));
}

#define PAGES 4096L	/* 16 MiB in 128 windows */

RACE_TEST(while_pages_are_swapped)
{
	double end = seconds() + SECONDS;
	long rounds = 0, out = file_value("/proc/vmstat", "pswpout"), i;

	NEED_FLATTEN;
	if (file_value("/proc/meminfo", "SwapFree") < 65536)
		SKIP(return, "needs 64 MiB of swap");
	gib = map_at(BASE, GIB);
	ASSERT_NE(MAP_FAILED, gib);
	start_toggling(_metadata, BASE, 0, 0, 0);
	for (; go_on(end) || rounds < 3; rounds++) {
		for (i = 0; i < PAGES; i++)
			page_set(gib + i / 32 * 4 * HUGE + i % 32 * PAGE, rounds, i);
		ASSERT_EQ(0, madvise(gib, GIB, MADV_PAGEOUT));
		for (i = 0; i < PAGES; i++)
			ASSERT_TRUE(page_ok(gib + i / 32 * 4 * HUGE + i % 32 * PAGE, rounds, i));
	}
	end_toggling(_metadata);
	EXPECT_LT(out, file_value("/proc/vmstat", "pswpout"));
	TH_LOG("%ld rounds", rounds);
	ASSERT_EQ(0, munmap(gib, GIB));
}

/* --- userfaultfd ------------------------------------------------------------------------------ */

static void *answer(void *arg)
{
	int fd = *(int *)arg;
	static char page[PAGE] __attribute__((aligned(4096)));

	while (!stop) {
		struct pollfd pfd = { fd, POLLIN, 0 };
		struct uffd_msg m;
		struct uffdio_copy c = { .len = PAGE };

		if (poll(&pfd, 1, 100) <= 0 || read(fd, &m, sizeof(m)) != sizeof(m) ||
		    m.event != UFFD_EVENT_PAGEFAULT)
			continue;
		c.dst = m.arg.pagefault.address & ~(PAGE - 1);
		c.src = (unsigned long)page;
		page_set(page, 6, (c.dst - BASE) / HUGE);
		if (ioctl(fd, UFFDIO_COPY, &c) && errno != EEXIST)
			wrong++;
	}
	return NULL;
}

RACE_TEST(while_a_handler_fills)
{
	struct uffdio_api api = { .api = UFFD_API };
	int fd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	struct uffdio_register reg = { .mode = UFFDIO_REGISTER_MODE_MISSING };
	double end = seconds() + SECONDS;
	long rounds = 0, w;
	pthread_t t;

	NEED_FLATTEN;
	if (fd < 0)
		SKIP(return, "no userfaultfd");
	gib = map_at(BASE, GIB);
	ASSERT_NE(MAP_FAILED, gib);
	ASSERT_EQ(0, ioctl(fd, UFFDIO_API, &api));
	reg.range.start = BASE;
	reg.range.len = GIB;
	ASSERT_EQ(0, ioctl(fd, UFFDIO_REGISTER, &reg));
	start_toggling(_metadata, BASE, 0, 0, 0);
	ASSERT_EQ(0, pthread_create(&t, NULL, answer, &fd));
	for (; go_on(end) || rounds < 2; rounds++) {
		for (w = 0; w < WINDOWS; w += 4)
			ASSERT_TRUE(page_ok(gib + w * HUGE, 6, w));
		ASSERT_EQ(0, madvise(gib, GIB, MADV_DONTNEED));
	}
	end_toggling(_metadata);
	pthread_join(t, NULL);
	EXPECT_EQ(0, wrong);
	close(fd);
	TH_LOG("%ld rounds", rounds);
	ASSERT_EQ(0, munmap(gib, GIB));
}

TEST_HARNESS_MAIN
