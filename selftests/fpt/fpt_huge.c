// SPDX-License-Identifier: GPL-2.0
/*
 * Huge pages of 2 MiB beside and inside flat spans: THP and hugetlb. Whatever the
 * tables are, every call and every access ends as on a kernel without FPT: a span
 * that is flat makes room when the entry is stored, and nobody has to ask for it.
 */
#include "fpt_util.h"
#include <sys/time.h>
#include "../kselftest_harness.h"

FPT_FIXTURE

static long free_hugepages(void)
{
	return file_value("/proc/meminfo", "HugePages_Free");
}

static void *hugetlb_at(unsigned long addr, size_t len, int flags)
{
	return mmap((void *)addr, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS |
		    MAP_HUGETLB | flags, -1, 0);
}

#define NEED_HUGE(n) do {							\
	if (free_hugepages() < (n))						\
		SKIP(return, "needs %d huge pages, %ld are free", n, free_hugepages()); \
} while (0)

/* A hugetlb mapping in a span that is flat already. */
static void hugetlb_in_touched(struct __test_metadata *_metadata, enum fpt_mode mode,
			       unsigned long touched, unsigned long addr, int flags)
{
	long demotions = fpt_stat0("demotions");
	struct fpt_nodes a = fpt_nodes(0), b;
	char *t = map_at(touched, PAGE), *p;
	bool stays;

	NEED_HUGE(4);
	ASSERT_NE(MAP_FAILED, t);
	page_set(t, 1, 0);
	b = fpt_nodes(0);
	/* A node covers a GiB, and goes with the last mapping in it. */
	stays = b.bottom > a.bottom && touched / GIB == addr / GIB && touched != addr;
	p = hugetlb_at(addr, 2 * HUGE, flags);
	ASSERT_EQ(addr, (unsigned long)p) TH_LOG("%s", strerror(errno));
	/* nothing but the first huge page takes the table from the node */
	EXPECT_EQ(demotions, fpt_stat0("demotions"));
	fill(p, 1024, PAGE, 2);
	EXPECT_EQ(-1, bad(p, 1024, PAGE, 2));
	if (stays)
		EXPECT_EQ(demotions + 1, fpt_stat0("demotions"));
	EXPECT_EQ(0, munmap(p, 2 * HUGE));
	if (touched != addr)
		EXPECT_TRUE(page_ok(t, 1, 0));
}

static void ignore_signal(int sig)
{
	(void)sig;
}

static long reserved_hugepages(void)
{
	return file_value("/proc/meminfo", "HugePages_Rsvd");
}

/* "Huge pages if there are any, else small ones": a mapping that failed changes nothing. */
FPT_TEST(failed_hugetlb_forbids_nothing)
{
	struct fpt_nodes a = fpt_nodes(0), b, c;
	size_t len = (free_hugepages() + 1) * HUGE;
	long reserved = reserved_hugepages();
	char *before, *p;
	pid_t pid;

	before = map_at(BASE, 600 * PAGE);
	ASSERT_NE(MAP_FAILED, before);
	fill(before, 600, PAGE, 1);
	b = fpt_nodes(0);
	EXPECT_NEW_NODES(a, b, fpt_expected(self->mode, 1, 1));

	p = hugetlb_at(BASE + 8 * HUGE, len, MAP_FIXED_NOREPLACE);
	EXPECT_EQ(MAP_FAILED, p);
	EXPECT_EQ(ENOMEM, errno);
	EXPECT_EQ(reserved, reserved_hugepages());
	c = fpt_nodes(0);
	EXPECT_EQ(b.mid, c.mid);
	EXPECT_EQ(b.bottom, c.bottom);
	EXPECT_EQ(-1, bad(before, 600, PAGE, 1));

	/* nodes here, and in children */
	p = map_at(BASE + SPAN, 2 * GIB);
	ASSERT_NE(MAP_FAILED, p);
	fill(p, 2, GIB, 2);
	EXPECT_NEW_NODES(c, fpt_nodes(0), fpt_expected(self->mode, 1, 2));
	pid = fork();
	if (!pid) {
		char *q;

		a = fpt_nodes(0);
		q = map_at(BASE + 2 * SPAN, 2 * GIB);
		CHILD_CHECK(q != MAP_FAILED);
		fill(q, 2, GIB, 3);
		b = fpt_nodes(0);
		CHILD_CHECK(b.mid + b.bottom + b.misses - a.misses >=
			    a.mid + a.bottom + fpt_expected(self->mode, 1, 2));
		_exit(0);
	}
	EXPECT_EQ(0, reap(pid));
}

/* However such a call ends, it keeps what it maps, and nothing else. */
FPT_TEST(interrupted_hugetlb_keeps_no_reserve)
{
	struct itimerval tick = { { 0, 500 }, { 0, 500 } }, off = { 0 };
	struct sigaction nothing = { .sa_handler = ignore_signal, .sa_flags = SA_RESTART };
	long reserved = reserved_hugepages(), available = free_hugepages(), i, round;
	const long maps = 3000;

	NEED_HUGE(2);
	sigaction(SIGALRM, &nothing, NULL);
	for (round = 0; round < 20; round++) {
		pid_t pid = fork();

		if (!pid) {
			char *p;

			/* neighbours in the flat span, whose tables must not be in the way */
			for (i = 0; i < maps; i++) {
				p = mmap((void *)(BASE + 2 * i * PAGE), PAGE, PROT_READ | PROT_WRITE,
					 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
				CHILD_CHECK(p != MAP_FAILED);
				page_set(p, 1, i);
			}
			setitimer(ITIMER_REAL, &tick, NULL);
			p = hugetlb_at(BASE + 512 * HUGE - 4 * HUGE, 2 * HUGE, MAP_FIXED_NOREPLACE);
			setitimer(ITIMER_REAL, &off, NULL);
			CHILD_CHECK(p != MAP_FAILED);
			CHILD_CHECK(reserved_hugepages() == reserved + 2);
			CHILD_CHECK(munmap(p, 2 * HUGE) == 0);
			for (i = 0; i < maps; i++)
				CHILD_CHECK(page_ok((void *)(BASE + 2 * i * PAGE), 1, i));
			_exit(0);
		}
		EXPECT_EQ(0, reap(pid));
		EXPECT_EQ(reserved, reserved_hugepages());
		EXPECT_EQ(available, free_hugepages());
	}
}

FPT_TEST(hugetlb_in_an_untouched_span)
{
	char *p;

	NEED_HUGE(4);
	p = hugetlb_at(BASE, 4 * HUGE, MAP_FIXED_NOREPLACE);
	ASSERT_EQ((void *)BASE, p);
	EXPECT_EQ(-1, bad_zero(p, 2048, PAGE));
	fill(p, 2048, PAGE, 3);
	EXPECT_EQ(-1, bad(p, 2048, PAGE, 3));
	ASSERT_EQ(0, munmap(p + HUGE, HUGE));
	EXPECT_EQ(SIGSEGV, try_access(p + HUGE, false));
	EXPECT_EQ(-1, bad(p, 512, PAGE, 3));
	EXPECT_TRUE(page_ok(p + 2 * HUGE, 3, 1024));
}

FPT_TEST(hugetlb_in_a_touched_gib)
{
	hugetlb_in_touched(_metadata, self->mode, BASE, BASE + 8 * HUGE, MAP_FIXED_NOREPLACE);
}

FPT_TEST(hugetlb_in_a_touched_span)
{
	hugetlb_in_touched(_metadata, self->mode, BASE, BASE + 8 * GIB, MAP_FIXED_NOREPLACE);
}

FPT_TEST(hugetlb_fixed_over_small_pages)
{
	hugetlb_in_touched(_metadata, self->mode, BASE + 8 * HUGE, BASE + 8 * HUGE, MAP_FIXED);
}

FPT_TEST(small_pages_fixed_over_hugetlb)
{
	char *p, *q;

	NEED_HUGE(4);
	p = hugetlb_at(BASE, 4 * HUGE, MAP_FIXED_NOREPLACE);
	ASSERT_EQ((void *)BASE, p);
	fill(p, 2048, PAGE, 4);
	q = mmap(p + HUGE, HUGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	ASSERT_EQ(p + HUGE, q);
	EXPECT_EQ(-1, bad_zero(q, 512, PAGE));
	fill(q, 512, PAGE, 5);
	EXPECT_EQ(-1, bad(p, 512, PAGE, 4));
	EXPECT_EQ(-1, bad(q, 512, PAGE, 5));
	EXPECT_TRUE(page_ok(p + 3 * HUGE, 4, 1536));
}

FPT_TEST(hugetlb_where_the_kernel_likes)
{
	char *t = map_at(0, PAGE), *p;

	NEED_HUGE(4);
	ASSERT_NE(MAP_FAILED, t);
	page_set(t, 6, 0);
	/* the kernel chooses the place: it must choose one that works */
	p = mmap(NULL, 2 * HUGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
	ASSERT_NE(MAP_FAILED, p) TH_LOG("%s", strerror(errno));
	EXPECT_EQ(0, try_access(p, true));
	fill(p, 1024, PAGE, 6);
	EXPECT_EQ(-1, bad(p, 1024, PAGE, 6));
}

FPT_TEST(hugetlb_fork_and_cow)
{
	char *p;
	pid_t pid;

	NEED_HUGE(8);
	p = hugetlb_at(BASE, 4 * HUGE, MAP_FIXED_NOREPLACE);
	ASSERT_EQ((void *)BASE, p);
	fill(p, 2048, PAGE, 7);
	pid = fork();
	if (!pid) {
		CHILD_CHECK(bad(p, 2048, PAGE, 7) == -1);
		fill(p, 2048, PAGE, 8);
		CHILD_CHECK(bad(p, 2048, PAGE, 8) == -1);
		_exit(0);
	}
	EXPECT_EQ(0, reap(pid));
	EXPECT_EQ(-1, bad(p, 2048, PAGE, 7));
}

FPT_TEST(hugetlb_mprotect_and_mremap)
{
	char *p, *q;

	NEED_HUGE(4);
	p = hugetlb_at(BASE, 4 * HUGE, MAP_FIXED_NOREPLACE);
	ASSERT_EQ((void *)BASE, p);
	fill(p, 2048, PAGE, 9);
	ASSERT_EQ(0, mprotect(p, 4 * HUGE, PROT_READ));
	EXPECT_EQ(SIGSEGV, try_access(p + HUGE, true));
	ASSERT_EQ(0, mprotect(p, 4 * HUGE, PROT_READ | PROT_WRITE));
	q = mremap(p, 4 * HUGE, 4 * HUGE, MREMAP_MAYMOVE | MREMAP_FIXED, BASE + SPAN + GIB - 2 * HUGE);
	ASSERT_EQ((void *)(BASE + SPAN + GIB - 2 * HUGE), q);
	EXPECT_EQ(-1, bad(q, 2048, PAGE, 9));
	/* splits the VMA for good: hugetlb VMAs do not merge */
	ASSERT_EQ(0, mprotect(q + HUGE, HUGE, PROT_READ));
	EXPECT_EQ(SIGSEGV, try_access(q + HUGE, true));
	EXPECT_EQ(0, try_access(q, true));
	EXPECT_EQ(0, try_access(q + 2 * HUGE, true));
}

FPT_TEST(hugetlb_shared_by_processes)
{
	/* what shares PMD tables on other kernels: a whole GiB, aligned */
	int fd = memfd_create("fpt", MFD_HUGETLB), i;
	char *p;
	pid_t pid;

	NEED_HUGE(8);
	ASSERT_LE(0, fd);
	ASSERT_EQ(0, ftruncate(fd, GIB));
	p = mmap((void *)BASE, GIB, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE |
		 MAP_FIXED_NOREPLACE, fd, 0);
	if (p == MAP_FAILED)
		SKIP(return, "mmap: %s", strerror(errno));
	for (i = 0; i < 4; i++)
		page_set(p + i * GIB / 4, 10, i);
	pid = fork();
	if (!pid) {
		for (i = 0; i < 4; i++)
			CHILD_CHECK(page_ok(p + i * GIB / 4, 10, i));
		page_set(p + HUGE, 11, 0);
		CHILD_CHECK(munmap(p, GIB / 2) == 0);
		CHILD_CHECK(page_ok(p + GIB / 2, 10, 2));
		_exit(0);
	}
	EXPECT_EQ(0, reap(pid));
	for (i = 0; i < 4; i++)
		EXPECT_TRUE(page_ok(p + i * GIB / 4, 10, i));
	EXPECT_TRUE(page_ok(p + HUGE, 11, 0));
	EXPECT_EQ(0, munmap(p + GIB / 2, GIB / 2));
	EXPECT_TRUE(page_ok(p + HUGE, 11, 0));
}

FPT_TEST(thp_in_an_untouched_span)
{
	NEED_THP;
	char *p = mmap((void *)BASE, 8 * HUGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS |
		       MAP_FIXED_NOREPLACE, -1, 0);

	ASSERT_EQ((void *)BASE, p);
	ASSERT_EQ(0, madvise(p, 8 * HUGE, MADV_HUGEPAGE));
	fill(p, 4096, PAGE, 12);
	EXPECT_EQ(-1, bad(p, 4096, PAGE, 12));
	/* split, unmap, discard parts */
	ASSERT_EQ(0, mprotect(p + HUGE + 3 * PAGE, PAGE, PROT_READ));
	ASSERT_EQ(0, munmap(p + 2 * HUGE + 3 * PAGE, PAGE));
	ASSERT_EQ(0, madvise(p + 3 * HUGE + 3 * PAGE, PAGE, MADV_DONTNEED));
	EXPECT_EQ(SIGSEGV, try_access(p + HUGE + 3 * PAGE, true));
	EXPECT_EQ(SIGSEGV, try_access(p + 2 * HUGE + 3 * PAGE, false));
	EXPECT_TRUE(page_zero(p + 3 * HUGE + 3 * PAGE));
	EXPECT_EQ(-1, bad(p, 1024, PAGE, 12));
	EXPECT_TRUE(page_ok(p + 2 * HUGE + 4 * PAGE, 12, 1028));
	EXPECT_TRUE(page_ok(p + 3 * HUGE + 4 * PAGE, 12, 1540));
}

FPT_TEST(thp_in_a_touched_span)
{
	NEED_THP;
	char *t = map_at(BASE, PAGE), *p;
	pid_t pid;

	ASSERT_NE(MAP_FAILED, t);
	page_set(t, 13, 0);
	p = mmap((void *)(BASE + 8 * HUGE), 8 * HUGE, PROT_READ | PROT_WRITE, MAP_PRIVATE |
		 MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	ASSERT_EQ((void *)(BASE + 8 * HUGE), p);
	ASSERT_EQ(0, madvise(p, 8 * HUGE, MADV_HUGEPAGE));
	fill(p, 4096, PAGE, 13);
	EXPECT_EQ(-1, bad(p, 4096, PAGE, 13));
	pid = fork();
	if (!pid) {
		CHILD_CHECK(bad(p, 4096, PAGE, 13) == -1);
		fill(p, 4096, PAGE, 14);
		_exit(0);
	}
	EXPECT_EQ(0, reap(pid));
	EXPECT_EQ(-1, bad(p, 4096, PAGE, 13));
	EXPECT_TRUE(page_ok(t, 13, 0));
}

FPT_TEST(collapse_on_request)
{
	NEED_THP;
	char *t = map_at(BASE, PAGE), *p;
	int i;

	ASSERT_NE(MAP_FAILED, t);
	page_set(t, 15, 0);
	p = mmap((void *)(BASE + 8 * HUGE), 2 * HUGE, PROT_READ | PROT_WRITE, MAP_PRIVATE |
		 MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	ASSERT_EQ((void *)(BASE + 8 * HUGE), p);
	fill(p, 1024, PAGE, 15);
	/* it may be refused, it must not lose anything */
	for (i = 0; i < 3; i++)
		madvise(p, 2 * HUGE, MADV_COLLAPSE);
	EXPECT_EQ(-1, bad(p, 1024, PAGE, 15));
	EXPECT_TRUE(page_ok(t, 15, 0));
	fill(p, 1024, PAGE, 16);
	EXPECT_EQ(-1, bad(p, 1024, PAGE, 16));
}

FPT_TEST(collapse_of_a_file)
{
	NEED_THP;
	int fd = memfd_create("fpt", 0);
	char *p;

	ASSERT_EQ(0, ftruncate(fd, 2 * HUGE));
	p = mmap((void *)(BASE + GIB - HUGE), 2 * HUGE, PROT_READ | PROT_WRITE, MAP_SHARED |
		 MAP_FIXED_NOREPLACE, fd, 0);
	ASSERT_EQ((void *)(BASE + GIB - HUGE), p);
	fill(p, 1024, PAGE, 17);
	madvise(p, 2 * HUGE, MADV_COLLAPSE);
	EXPECT_EQ(-1, bad(p, 1024, PAGE, 17));
	fill(p, 1024, PAGE, 18);
	EXPECT_EQ(-1, bad(p, 1024, PAGE, 18));
}

TEST_HARNESS_MAIN
