// SPDX-License-Identifier: GPL-2.0
/*
 * 1 GiB hugetlb pages. Hardware does not read the PUD entries of an L3L2 node, and an
 * L2L1 node has its FLAT entry where such a page would go. In every mode the mapping
 * works as on a kernel without FPT; the node is given up at the first access.
 */
#include "fpt_util.h"
#include "../kselftest_harness.h"

#ifndef MAP_HUGE_1GB
#define MAP_HUGE_1GB (30 << 26)
#endif

#define DIR "/sys/kernel/mm/hugepages/hugepages-1048576kB/"

FPT_FIXTURE

static long free_1g(void)
{
	char b[32];

	return read_text(DIR "free_hugepages", b, sizeof(b)) < 0 ? 0 : atol(b);
}

static void *map_1g(unsigned long addr, int flags)
{
	return mmap((void *)addr, GIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS |
		    MAP_HUGETLB | MAP_HUGE_1GB | flags, -1, 0);
}

#define NEED_1G do { if (free_1g() < 1) SKIP(return, "no free 1 GiB page"); } while (0)

FPT_TEST(untouched_span)
{
	char *p;

	NEED_1G;
	p = map_1g(BASE, MAP_FIXED_NOREPLACE);
	ASSERT_EQ((void *)BASE, p);
	fill(p, 64, GIB / 64, 1);
	EXPECT_EQ(-1, bad(p, 64, GIB / 64, 1));
	EXPECT_EQ(0, munmap(p, GIB));
	EXPECT_EQ(1, free_1g());
}

static void touched(struct __test_metadata *_metadata, unsigned long small, unsigned long huge)
{
	long demotions = fpt_stat0("demotions");
	struct fpt_nodes a = fpt_nodes(0), b;
	/* keeps the span flat when the huge page replaces the small one */
	char *t = map_at(small, PAGE), *keep = map_at(BASE + 9 * GIB, PAGE), *p;
	bool flat;

	NEED_1G;
	ASSERT_NE(MAP_FAILED, t);
	ASSERT_NE(MAP_FAILED, keep);
	page_set(t, 2, 0);
	page_set(keep, 2, 1);
	b = fpt_nodes(0);
	/*
	 * An M node covers the huge page's place if it is of the same 512 GiB. A B
	 * node at that place had nothing but the page that is replaced.
	 */
	flat = b.mid > a.mid && huge / SPAN == BASE / SPAN;
	p = map_1g(huge, MAP_FIXED);
	ASSERT_EQ((void *)huge, p) TH_LOG("%s", strerror(errno));
	EXPECT_EQ(demotions, fpt_stat0("demotions"));
	fill(p, 64, GIB / 64, 3);
	EXPECT_EQ(-1, bad(p, 64, GIB / 64, 3));
	if (flat)
		EXPECT_EQ(demotions + 1, fpt_stat0("demotions"));
	EXPECT_EQ(0, munmap(p, GIB));
	if (small / GIB != huge / GIB)
		EXPECT_TRUE(page_ok(t, 2, 0));
	EXPECT_TRUE(page_ok(keep, 2, 1));
	EXPECT_EQ(1, free_1g());
}

FPT_TEST(same_span_other_gib) { touched(_metadata, BASE, BASE + 4 * GIB); }
FPT_TEST(same_gib_replaced) { touched(_metadata, BASE + 4 * GIB + HUGE, BASE + 4 * GIB); }
FPT_TEST(other_span) { touched(_metadata, BASE, BASE + SPAN); }

FPT_TEST(small_pages_after_the_huge_one)
{
	char *p, *t;

	NEED_1G;
	p = map_1g(BASE, MAP_FIXED_NOREPLACE);
	ASSERT_EQ((void *)BASE, p);
	page_set(p, 4, 0);
	t = map_at(BASE + GIB, HUGE);
	ASSERT_NE(MAP_FAILED, t);
	fill(t, 512, PAGE, 5);
	EXPECT_TRUE(page_ok(p, 4, 0));
	EXPECT_EQ(-1, bad(t, 512, PAGE, 5));
	ASSERT_EQ(0, munmap(p, GIB));
	EXPECT_EQ(-1, bad(t, 512, PAGE, 5));
	EXPECT_EQ(SIGSEGV, try_access(p, false));
}

FPT_TEST(fork_of_a_shared_one)
{
	int fd = memfd_create("fpt", MFD_HUGETLB | MAP_HUGE_1GB);
	char *p;
	pid_t pid;

	NEED_1G;
	ASSERT_LE(0, fd);
	ASSERT_EQ(0, ftruncate(fd, GIB));
	p = mmap((void *)BASE, GIB, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED_NOREPLACE, fd, 0);
	ASSERT_EQ((void *)BASE, p);
	fill(p, 64, GIB / 64, 6);
	pid = fork();
	if (!pid) {
		CHILD_CHECK(bad(p, 64, GIB / 64, 6) == -1);
		fill(p, 64, GIB / 64, 7);
		_exit(0);
	}
	EXPECT_EQ(0, reap(pid));
	EXPECT_EQ(-1, bad(p, 64, GIB / 64, 7));
}

TEST_HARNESS_MAIN
