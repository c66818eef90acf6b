// SPDX-License-Identifier: GPL-2.0
/* mremap: every alignment of source and target, within and across spans. */
#include "fpt_util.h"
#include "../kselftest_harness.h"

FPT_FIXTURE

#define A (BASE)
#define B (BASE + 4 * SPAN)	/* another 512 GiB span */

/*
 * Moves len bytes with n patterned pages from src to dst and checks contents,
 * the empty source, page table bytes, and that memory at both is usable.
 */
static void move(struct __test_metadata *_metadata, unsigned long src, unsigned long dst,
		 size_t len, long n, bool target_exists)
{
	long start = vmpte_kb(0);
	size_t stride = len / n & ~(PAGE - 1);
	char *p = map_at(src, len), *q;
	long i;

	ASSERT_NE(MAP_FAILED, p);
	fill(p, n, stride, len ^ dst);
	if (target_exists) {
		q = map_at(dst, len);
		ASSERT_NE(MAP_FAILED, q);
		fill(q, n, stride, 99);
	}
	q = mremap(p, len, len, MREMAP_MAYMOVE | MREMAP_FIXED, dst);
	ASSERT_EQ((void *)dst, q);
	EXPECT_EQ(-1, bad(q, n, stride, len ^ dst));
	for (i = 0; i < n; i += n / 8 ? n / 8 : 1) {
		EXPECT_EQ(SIGSEGV, try_access(p + i * stride, false))
			TH_LOG("page %ld still mapped at the source", i);
	}
	/* write through the new address, then map the old one afresh */
	fill(q, n, stride, 5);
	p = map_at(src, len);
	ASSERT_NE(MAP_FAILED, p);
	EXPECT_EQ(-1, bad_zero(p, n, stride));
	fill(p, n, stride, 6);
	EXPECT_EQ(-1, bad(q, n, stride, 5));
	EXPECT_EQ(-1, bad(p, n, stride, 6));
	ASSERT_EQ(0, munmap(p, len));
	ASSERT_EQ(0, munmap(q, len));
	EXPECT_EQ(start, vmpte_kb(0));
}

#define MOVE(name, src, dst, len, n)					\
	FPT_TEST(name) { move(_metadata, src, dst, len, n, false); }	\
	FPT_TEST(name##_over_existing) { move(_metadata, src, dst, len, n, true); }

MOVE(page_in_one_table, A, A + 16 * PAGE, 8 * PAGE, 8)
MOVE(pages_across_tables, A + HUGE - 4 * PAGE, A + 5 * HUGE - 2 * PAGE, 8 * PAGE, 8)
MOVE(pmd_aligned_in_a_gib, A, A + 8 * HUGE, 2 * HUGE, 256)
MOVE(pmd_unaligned_target, A, A + 8 * HUGE + PAGE, 2 * HUGE, 256)
MOVE(pmd_unaligned_source, A + 3 * PAGE, A + 8 * HUGE, 2 * HUGE, 256)
MOVE(pmd_same_offset, A + 3 * PAGE, A + 8 * HUGE + 3 * PAGE, 3 * HUGE, 256)
MOVE(pmd_aligned_across_gib, A + GIB - 2 * HUGE, A + 5 * GIB - HUGE, 4 * HUGE, 256)
MOVE(pmd_aligned_across_span, A + SPAN - 2 * HUGE, B - 2 * HUGE, 4 * HUGE, 256)
MOVE(pmd_aligned_to_another_span, A, B, 4 * HUGE, 256)
MOVE(pages_to_another_span, A + 5 * PAGE, B + 9 * PAGE, 64 * PAGE, 64)
MOVE(whole_gib_in_a_span, A, A + 8 * GIB, GIB, 512)
MOVE(whole_gib_to_another_span, A + GIB, B + 3 * GIB, GIB, 512)
MOVE(whole_gib_unaligned, A + HUGE, B + 3 * GIB, GIB, 512)
MOVE(whole_gib_pmd_offset, A + HUGE, B + 3 * GIB + HUGE, GIB, 512)
MOVE(two_and_a_half_gib, A + GIB / 2, B + GIB / 2, 2 * GIB + GIB / 2, 320)
MOVE(gibs_across_span_border, A + SPAN - GIB, B - 2 * GIB, 3 * GIB, 384)
MOVE(sixty_four_mib_dense, A + GIB - 32 * MIB, B + GIB - 32 * MIB, 64 * MIB, 16384)

FPT_TEST(a_whole_span)
{
	move(_metadata, A, B, SPAN, 64, false);
}

FPT_TEST(neighbours_of_a_moved_gib_stay)
{
	char *p = map_at(A, 3 * GIB), *q;

	ASSERT_NE(MAP_FAILED, p);
	fill(p, 48, GIB / 16, 1);
	q = mremap(p + GIB, GIB, GIB, MREMAP_MAYMOVE | MREMAP_FIXED, B);
	ASSERT_EQ((void *)B, q);
	EXPECT_EQ(-1, bad(p, 16, GIB / 16, 1));
	for (int i = 0; i < 16; i++) {
		EXPECT_TRUE(page_ok(q + i * (GIB / 16), 1, 16 + i));
		EXPECT_TRUE(page_ok(p + 2 * GIB + i * (GIB / 16), 1, 32 + i));
		EXPECT_EQ(SIGSEGV, try_access(p + GIB + i * (GIB / 16), false));
	}
}

FPT_TEST(neighbours_of_a_moved_pmd_stay)
{
	char *p = map_at(A + GIB - 2 * HUGE, 4 * HUGE), *q;

	ASSERT_NE(MAP_FAILED, p);
	fill(p, 2048, PAGE, 2);
	q = mremap(p + HUGE, HUGE, HUGE, MREMAP_MAYMOVE | MREMAP_FIXED, A + 7 * GIB);
	ASSERT_EQ((void *)(A + 7 * GIB), q);
	EXPECT_EQ(-1, bad(p, 512, PAGE, 2));
	for (int i = 0; i < 512; i++) {
		ASSERT_TRUE(page_ok(q + i * PAGE, 2, 512 + i));
		ASSERT_TRUE(page_ok(p + 2 * HUGE + i * PAGE, 2, 1024 + i));
		ASSERT_TRUE(page_ok(p + 3 * HUGE + i * PAGE, 2, 1536 + i));
	}
}

FPT_TEST(target_span_holds_other_memory)
{
	/* the target's tables exist already and hold pages on both sides */
	char *l = map_at(B, HUGE), *r = map_at(B + 2 * HUGE, HUGE), *p = map_at(A, HUGE), *q;

	ASSERT_NE(MAP_FAILED, l);
	ASSERT_NE(MAP_FAILED, r);
	ASSERT_NE(MAP_FAILED, p);
	fill(l, 512, PAGE, 3);
	fill(r, 512, PAGE, 4);
	fill(p, 512, PAGE, 5);
	q = mremap(p, HUGE, HUGE, MREMAP_MAYMOVE | MREMAP_FIXED, B + HUGE);
	ASSERT_EQ((void *)(B + HUGE), q);
	EXPECT_EQ(-1, bad(l, 512, PAGE, 3));
	EXPECT_EQ(-1, bad(q, 512, PAGE, 5));
	EXPECT_EQ(-1, bad(r, 512, PAGE, 4));
}

FPT_TEST(grow_in_place_over_a_span_border)
{
	char *p = map_at(A + SPAN - HUGE, HUGE);

	ASSERT_NE(MAP_FAILED, p);
	fill(p, 512, PAGE, 6);
	ASSERT_EQ(p, mremap(p, HUGE, 2 * GIB, 0));
	EXPECT_EQ(-1, bad(p, 512, PAGE, 6));
	EXPECT_EQ(-1, bad_zero(p + HUGE, 32, GIB / 32));
	ASSERT_EQ(p, mremap(p, 2 * GIB, HUGE, 0));
	EXPECT_EQ(-1, bad(p, 512, PAGE, 6));
	EXPECT_EQ(SIGSEGV, try_access(p + HUGE, false));
}

FPT_TEST(grow_by_moving)
{
	char *p = map_at(A, HUGE), *q;

	ASSERT_NE(MAP_FAILED, p);
	ASSERT_NE(MAP_FAILED, map_at(A + HUGE, PAGE));
	fill(p, 512, PAGE, 7);
	q = mremap(p, HUGE, 3 * HUGE, MREMAP_MAYMOVE);
	ASSERT_NE(MAP_FAILED, q);
	ASSERT_NE(p, q);
	EXPECT_EQ(-1, bad(q, 512, PAGE, 7));
	EXPECT_EQ(-1, bad_zero(q + HUGE, 1024, PAGE));
}

FPT_TEST(shrink_while_moving)
{
	char *p = map_at(A, 4 * HUGE), *q;

	ASSERT_NE(MAP_FAILED, p);
	fill(p, 2048, PAGE, 8);
	q = mremap(p, 4 * HUGE, HUGE, MREMAP_MAYMOVE | MREMAP_FIXED, B + GIB - HUGE);
	ASSERT_EQ((void *)(B + GIB - HUGE), q);
	EXPECT_EQ(-1, bad(q, 512, PAGE, 8));
	EXPECT_EQ(SIGSEGV, try_access(p, false));
	EXPECT_EQ(SIGSEGV, try_access(p + 3 * HUGE, false));
}

FPT_TEST(dontunmap)
{
	char *p = map_at(A, 2 * HUGE), *q;

	ASSERT_NE(MAP_FAILED, p);
	fill(p, 1024, PAGE, 9);
	q = mremap(p, 2 * HUGE, 2 * HUGE, MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP, B);
	ASSERT_EQ((void *)B, q);
	EXPECT_EQ(-1, bad(q, 1024, PAGE, 9));
	EXPECT_EQ(-1, bad_zero(p, 1024, PAGE));
}

FPT_TEST(there_and_back_many_times)
{
	char *p = map_at(A + GIB, GIB);
	long start, moved = 0;
	int i;

	ASSERT_NE(MAP_FAILED, p);
	fill(p, 128, GIB / 128, 10);
	start = vmpte_kb(0);
	for (i = 0; i < 20; i++) {
		unsigned long to = i & 1 ? A + GIB : B + 5 * GIB;

		p = mremap(p, GIB, GIB, MREMAP_MAYMOVE | MREMAP_FIXED, to);
		ASSERT_EQ((void *)to, p);
		ASSERT_EQ(-1, bad(p, 128, GIB / 128, 10));
		if (i == 1)
			moved = vmpte_kb(0);
	}
	/*
	 * Below an L3L2 node the GiB's PMD table was a part of the node. It moves as a
	 * table of its own, and is one more where it comes to; once, not each time.
	 */
	EXPECT_LE(moved, start + (self->mode == L3L2 ? 4 : 0));
	EXPECT_EQ(moved, vmpte_kb(0));
	EXPECT_EQ(NULL, fpt_check(0)) TH_LOG("%s", fpt_check(0));
}

FPT_TEST(shared_file_mapping_moves)
{
	int fd = memfd_create("fpt", 0);
	char *p, *q, *w;

	ASSERT_LE(0, fd);
	ASSERT_EQ(0, ftruncate(fd, 4 * HUGE));
	p = mmap((void *)A, 4 * HUGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED_NOREPLACE, fd, 0);
	ASSERT_EQ((void *)A, p);
	fill(p, 2048, PAGE, 11);
	q = mremap(p, 4 * HUGE, 4 * HUGE, MREMAP_MAYMOVE | MREMAP_FIXED, B + GIB - 2 * HUGE);
	ASSERT_EQ((void *)(B + GIB - 2 * HUGE), q);
	EXPECT_EQ(-1, bad(q, 2048, PAGE, 11));
	w = mmap(NULL, 4 * HUGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	ASSERT_NE(MAP_FAILED, w);
	fill(w, 2048, PAGE, 12);
	EXPECT_EQ(-1, bad(q, 2048, PAGE, 12));
	/* old size 0 duplicates a shared mapping */
	p = mremap(q, 0, 4 * HUGE, MREMAP_MAYMOVE | MREMAP_FIXED, A);
	ASSERT_EQ((void *)A, p);
	EXPECT_EQ(-1, bad(p, 2048, PAGE, 12));
}

FPT_TEST(huge_page_moves)
{
	char *p = map_at(A, 4 * HUGE), *q;

	ASSERT_NE(MAP_FAILED, p);
	madvise(p, 4 * HUGE, MADV_HUGEPAGE);
	fill(p, 2048, PAGE, 13);
	q = mremap(p, 4 * HUGE, 4 * HUGE, MREMAP_MAYMOVE | MREMAP_FIXED, B + 8 * HUGE);
	ASSERT_EQ((void *)(B + 8 * HUGE), q);
	EXPECT_EQ(-1, bad(q, 2048, PAGE, 13));
	p = mremap(q + HUGE / 2, HUGE, HUGE, MREMAP_MAYMOVE | MREMAP_FIXED, A + 5 * PAGE);
	ASSERT_EQ((void *)(A + 5 * PAGE), p);
	for (int i = 0; i < 512; i++)
		ASSERT_TRUE(page_ok(p + i * PAGE, 13, 256 + i));
	EXPECT_EQ(-1, bad(q, 256, PAGE, 13));
}

FPT_TEST(huge_page_moves_into_a_touched_span)
{
	char *t = map_at(B, PAGE), *p, *q;

	ASSERT_NE(MAP_FAILED, t);
	page_set(t, 14, 0);
	p = map_at(A, 2 * HUGE);
	ASSERT_NE(MAP_FAILED, p);
	madvise(p, 2 * HUGE, MADV_HUGEPAGE);
	fill(p, 1024, PAGE, 14);
	q = mremap(p, 2 * HUGE, 2 * HUGE, MREMAP_MAYMOVE | MREMAP_FIXED, B + 2 * HUGE);
	ASSERT_EQ((void *)(B + 2 * HUGE), q);
	EXPECT_EQ(-1, bad(q, 1024, PAGE, 14));
	EXPECT_TRUE(page_ok(t, 14, 0));
}

FPT_TEST(moved_memory_is_forked_right)
{
	char *p = map_at(A, GIB), *q;
	pid_t pid;

	ASSERT_NE(MAP_FAILED, p);
	fill(p, 64, GIB / 64, 15);
	q = mremap(p, GIB, GIB, MREMAP_MAYMOVE | MREMAP_FIXED, B + GIB);
	ASSERT_EQ((void *)(B + GIB), q);
	pid = fork();
	if (!pid) {
		CHILD_CHECK(bad(q, 64, GIB / 64, 15) == -1);
		fill(q, 64, GIB / 64, 16);
		CHILD_CHECK(mremap(q, GIB, GIB, MREMAP_MAYMOVE | MREMAP_FIXED, A) == (void *)A);
		CHILD_CHECK(bad((void *)A, 64, GIB / 64, 16) == -1);
		_exit(0);
	}
	EXPECT_EQ(0, reap(pid));
	EXPECT_EQ(-1, bad(q, 64, GIB / 64, 15));
}

FPT_TEST(bad_requests_change_nothing)
{
	char *p = map_at(A, HUGE);

	ASSERT_NE(MAP_FAILED, p);
	fill(p, 512, PAGE, 17);
	EXPECT_EQ(MAP_FAILED, mremap(p, HUGE, HUGE, MREMAP_MAYMOVE | MREMAP_FIXED, A + HUGE / 2));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_EQ(MAP_FAILED, mremap(p, HUGE, HUGE, MREMAP_MAYMOVE | MREMAP_FIXED, B + 1));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_EQ(MAP_FAILED, mremap(p, HUGE, HUGE, MREMAP_FIXED, B));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_EQ(-1, bad(p, 512, PAGE, 17));
}

TEST_HARNESS_MAIN
