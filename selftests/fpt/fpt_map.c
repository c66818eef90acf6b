// SPDX-License-Identifier: GPL-2.0
/* mmap, munmap, mprotect, madvise over and across spans. */
#include "fpt_util.h"
#include "../kselftest_harness.h"

FPT_FIXTURE

#define NODES(n) ((n).mid + (n).bottom)

/* Sixteen two-page islands over two 512 GiB spans, unmapped in a given order. */
static void islands(struct __test_metadata *_metadata, const int *order)
{
	static const unsigned long off[16] = {
		0, PAGE * 8, HUGE, HUGE + 8 * PAGE, GIB - HUGE, GIB, GIB + HUGE, 2 * GIB,
		100 * GIB, 101 * GIB - 2 * PAGE, SPAN - GIB, SPAN - 2 * PAGE, SPAN, SPAN + HUGE,
		SPAN + GIB, SPAN + 511 * GIB,
	};
	struct fpt_nodes a = fpt_nodes(0), b;
	long before = vmpte_kb(0);
	int i, j;

	for (i = 0; i < 16; i++) {
		char *p = map_at(BASE + off[i], 2 * PAGE);

		ASSERT_NE(MAP_FAILED, p);
		fill(p, 2, PAGE, i);
	}
	for (i = 0; i < 16; i++) {
		for (j = i; j < 16; j++)
			EXPECT_EQ(-1, bad((void *)(BASE + off[order[j]]), 2, PAGE, order[j]))
				TH_LOG("island %d after %d were unmapped", order[j], i);
		ASSERT_EQ(0, munmap((void *)(BASE + off[order[i]]), 2 * PAGE));
		EXPECT_EQ(SIGSEGV, try_access((void *)(BASE + off[order[i]]), false));
	}
	b = fpt_nodes(0);
	EXPECT_EQ(NODES(a), NODES(b));
	EXPECT_EQ(before, vmpte_kb(0));
}

FPT_TEST(munmap_upwards)
{
	static const int o[] = { 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15 };

	islands(_metadata, o);
}

FPT_TEST(munmap_downwards)
{
	static const int o[] = { 15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0 };

	islands(_metadata, o);
}

FPT_TEST(munmap_in_odd_order)
{
	static const int o[] = { 7, 0, 12, 3, 15, 10, 1, 6, 9, 14, 2, 11, 5, 8, 4, 13 };

	islands(_metadata, o);
}

FPT_TEST(munmap_from_the_inside_out)
{
	static const int o[] = { 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15, 0 };

	islands(_metadata, o);
}

FPT_TEST(munmap_one_range_over_all)
{
	struct fpt_nodes a = fpt_nodes(0), b;
	long before = vmpte_kb(0);
	int i;

	for (i = 0; i < 24; i++) {
		char *p = map_at(BASE + i * (50 * GIB + HUGE), PAGE);

		ASSERT_NE(MAP_FAILED, p);
		page_set(p, 1, i);
	}
	ASSERT_EQ(0, munmap((void *)BASE, 3 * SPAN));
	b = fpt_nodes(0);
	EXPECT_EQ(NODES(a), NODES(b));
	EXPECT_EQ(before, vmpte_kb(0));
	for (i = 0; i < 24; i++)
		EXPECT_EQ(SIGSEGV, try_access((void *)(BASE + i * (50 * GIB + HUGE)), false));
}

FPT_TEST(munmap_a_hole_in_one_mapping)
{
	char *p = map_at(BASE, 4 * GIB);
	long n = 4 * GIB / (16 * MIB), i;

	ASSERT_NE(MAP_FAILED, p);
	fill(p, n, 16 * MIB, 2);
	ASSERT_EQ(0, munmap(p + GIB / 2, 2 * GIB));
	for (i = 0; i < n; i++) {
		char *q = p + i * 16 * MIB;

		if (q >= p + GIB / 2 && q < p + GIB / 2 + 2 * GIB) {
			EXPECT_EQ(SIGSEGV, try_access(q, false));
		} else {
			EXPECT_TRUE(page_ok(q, 2, i));
		}
	}
	/* and new memory in the hole starts as zeroes */
	ASSERT_NE(MAP_FAILED, map_at(BASE + GIB / 2, 2 * GIB));
	for (i = 0; i < n; i++) {
		char *q = p + i * 16 * MIB;

		if (q >= p + GIB / 2 && q < p + GIB / 2 + 2 * GIB)
			EXPECT_TRUE(page_zero(q));
	}
}

FPT_TEST(tables_go_with_the_last_vma_of_a_span)
{
	struct fpt_nodes a = fpt_nodes(0), b, c;
	char *p = map_at(BASE + HUGE, PAGE), *q = map_at(BASE + GIB - HUGE, PAGE);

	ASSERT_NE(MAP_FAILED, p);
	ASSERT_NE(MAP_FAILED, q);
	page_set(p, 3, 0);
	page_set(q, 3, 1);
	b = fpt_nodes(0);
	EXPECT_NEW_NODES(a, b, fpt_expected(self->mode, 1, 1));
	ASSERT_EQ(0, munmap(p, PAGE));
	c = fpt_nodes(0);
	EXPECT_EQ(NODES(b), NODES(c));
	EXPECT_TRUE(page_ok(q, 3, 1));
	ASSERT_EQ(0, munmap(q, PAGE));
	c = fpt_nodes(0);
	EXPECT_EQ(NODES(a), NODES(c));
}

FPT_TEST(map_fixed_over_existing)
{
	char *p = map_at(BASE, 8 * HUGE);
	long n = 8 * HUGE / PAGE, i;

	ASSERT_NE(MAP_FAILED, p);
	fill(p, n, PAGE, 4);
	/* within a table, over whole tables, and unaligned over a table border */
	ASSERT_EQ(p + 3 * PAGE, mmap(p + 3 * PAGE, 5 * PAGE, PROT_READ | PROT_WRITE,
		  MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
	ASSERT_EQ(p + 2 * HUGE, mmap(p + 2 * HUGE, 2 * HUGE, PROT_READ | PROT_WRITE,
		  MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
	ASSERT_EQ(p + 6 * HUGE - 7 * PAGE, mmap(p + 6 * HUGE - 7 * PAGE, 14 * PAGE, PROT_READ,
		  MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
	for (i = 0; i < n; i++) {
		bool fresh = (i >= 3 && i < 8) || (i >= 1024 && i < 2048) ||
			     (i >= 6 * 512 - 7 && i < 6 * 512 + 7);

		if (fresh) {
			ASSERT_TRUE(page_zero(p + i * PAGE)) TH_LOG("page %ld", i);
		} else {
			ASSERT_TRUE(page_ok(p + i * PAGE, 4, i)) TH_LOG("page %ld", i);
		}
	}
}

FPT_TEST(map_fixed_over_many_spans)
{
	long before = vmpte_kb(0);
	char *p = map_at(BASE, 2 * SPAN);
	long n = 32;

	ASSERT_NE(MAP_FAILED, p);
	fill(p, n, 32 * GIB, 5);
	ASSERT_EQ(p, mmap(p, 2 * SPAN, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS |
		  MAP_NORESERVE | MAP_FIXED, -1, 0));
	EXPECT_EQ(before, vmpte_kb(0));
	EXPECT_EQ(-1, bad_zero(p, n, 32 * GIB));
}

FPT_TEST(remap_the_same_place_again_and_again)
{
	long before = vmpte_kb(0);
	int i;

	for (i = 0; i < 200; i++) {
		char *p = map_at(BASE + SPAN - HUGE, 2 * HUGE);

		ASSERT_NE(MAP_FAILED, p);
		ASSERT_TRUE(page_zero(p + HUGE));
		fill(p, 16, HUGE / 8, i);
		ASSERT_EQ(-1, bad(p, 16, HUGE / 8, i));
		ASSERT_EQ(0, munmap(p, 2 * HUGE));
	}
	EXPECT_EQ(before, vmpte_kb(0));
}

FPT_TEST(mprotect_pages)
{
	char *p = map_at(BASE, 2 * HUGE);
	long n = 1024;

	ASSERT_NE(MAP_FAILED, p);
	fill(p, n, PAGE, 6);
	ASSERT_EQ(0, mprotect(p + 500 * PAGE, 24 * PAGE, PROT_READ));
	EXPECT_EQ(0, try_access(p + 499 * PAGE, true));
	EXPECT_EQ(SIGSEGV, try_access(p + 500 * PAGE, true));
	EXPECT_EQ(SIGSEGV, try_access(p + 523 * PAGE, true));
	EXPECT_EQ(0, try_access(p + 524 * PAGE, true));
	ASSERT_EQ(0, mprotect(p, 2 * HUGE, PROT_NONE));
	EXPECT_EQ(SIGSEGV, try_access(p, false));
	EXPECT_EQ(SIGSEGV, try_access(p + 2 * HUGE - 1, false));
	ASSERT_EQ(0, mprotect(p, 2 * HUGE, PROT_READ | PROT_WRITE));
	EXPECT_EQ(-1, bad(p, n, PAGE, 6));
	fill(p, n, PAGE, 7);
	EXPECT_EQ(-1, bad(p, n, PAGE, 7));
}

FPT_TEST(mprotect_across_spans)
{
	char *p = map_at(BASE + SPAN - 2 * GIB, 4 * GIB);
	long n = 64, i;

	ASSERT_NE(MAP_FAILED, p);
	fill(p, n, GIB / 16, 8);
	ASSERT_EQ(0, mprotect(p + GIB, 2 * GIB, PROT_READ));
	for (i = 0; i < n; i++)
		EXPECT_EQ(i >= 16 && i < 48 ? SIGSEGV : 0, try_access(p + i * (GIB / 16), true))
			TH_LOG("sixteenth %ld", i);
	ASSERT_EQ(0, mprotect(p, 4 * GIB, PROT_NONE));
	for (i = 0; i < n; i++)
		EXPECT_EQ(SIGSEGV, try_access(p + i * (GIB / 16), false));
	ASSERT_EQ(0, mprotect(p, 4 * GIB, PROT_READ | PROT_WRITE));
	EXPECT_EQ(-1, bad(p, n, GIB / 16, 8));
}

FPT_TEST(mprotect_does_not_touch_neighbours)
{
	char *p = map_at(BASE, PAGE), *q = map_at(BASE + GIB, PAGE), *r = map_at(BASE + SPAN, PAGE);

	ASSERT_NE(MAP_FAILED, p);
	ASSERT_NE(MAP_FAILED, q);
	ASSERT_NE(MAP_FAILED, r);
	page_set(p, 9, 0);
	page_set(q, 9, 1);
	page_set(r, 9, 2);
	ASSERT_EQ(0, mprotect(q, PAGE, PROT_NONE));
	EXPECT_EQ(0, try_access(p, true));
	EXPECT_EQ(SIGSEGV, try_access(q, false));
	EXPECT_EQ(0, try_access(r, true));
}

FPT_TEST(no_execute)
{
	static const unsigned char ret[] = { 0xc3 };
	char *p = map_at(BASE + GIB, 2 * PAGE);
	pid_t pid;

	ASSERT_NE(MAP_FAILED, p);
	memcpy(p, ret, 1);
	ASSERT_EQ(0, mprotect(p, PAGE, PROT_READ | PROT_EXEC));
	((void (*)(void))p)();
	ASSERT_EQ(0, mprotect(p, PAGE, PROT_READ));
	pid = fork();
	if (!pid) {
		signal(SIGSEGV, SIG_DFL);
		((void (*)(void))p)();
		_exit(0);
	}
	EXPECT_EQ(128 + SIGSEGV, reap(pid));
}

FPT_TEST(dontneed_gives_zeroes)
{
	char *p = map_at(BASE + SPAN - HUGE, 2 * HUGE);
	long n = 1024, i;

	ASSERT_NE(MAP_FAILED, p);
	fill(p, n, PAGE, 10);
	ASSERT_EQ(0, madvise(p + 100 * PAGE, 800 * PAGE, MADV_DONTNEED));
	for (i = 0; i < n; i++)
		if (i >= 100 && i < 900) {
			ASSERT_TRUE(page_zero(p + i * PAGE)) TH_LOG("page %ld", i);
		} else {
			ASSERT_TRUE(page_ok(p + i * PAGE, 10, i)) TH_LOG("page %ld", i);
		}
}

FPT_TEST(madvise_free_cold_and_populate)
{
	char *p = map_at(BASE, 4 * HUGE);
	long n = 4 * 512, i;

	ASSERT_NE(MAP_FAILED, p);
	ASSERT_EQ(0, madvise(p, 4 * HUGE, MADV_POPULATE_WRITE));
	EXPECT_EQ(-1, bad_zero(p, n, PAGE));
	fill(p, n, PAGE, 11);
	ASSERT_EQ(0, madvise(p, 4 * HUGE, MADV_COLD));
	EXPECT_EQ(-1, bad(p, n, PAGE, 11));
	ASSERT_EQ(0, madvise(p, 4 * HUGE, MADV_FREE));
	/* each page is either still there or zero */
	for (i = 0; i < n; i++)
		EXPECT_TRUE(page_ok(p + i * PAGE, 11, i) || page_zero(p + i * PAGE));
	fill(p, n, PAGE, 12);
	EXPECT_EQ(-1, bad(p, n, PAGE, 12));
}

FPT_TEST(populate_64_mib)
{
	size_t len = 64 * MIB;
	char *p = mmap((void *)BASE, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS |
		       MAP_POPULATE | MAP_FIXED_NOREPLACE, -1, 0);

	ASSERT_EQ((void *)BASE, p);
	EXPECT_EQ(-1, bad_zero(p, len / PAGE, PAGE));
	fill(p, len / PAGE, PAGE, 13);
	EXPECT_EQ(-1, bad(p, len / PAGE, PAGE, 13));
}

FPT_TEST(sparse_reservation)
{
	size_t len = 4 * SPAN;
	char *p = map_prot(BASE, len, PROT_NONE);
	long before, i;

	ASSERT_NE(MAP_FAILED, p);
	before = vmpte_kb(0);
	for (i = 0; i < 16; i++) {
		char *q = p + i * (len / 16) + i * HUGE;

		ASSERT_EQ(0, mprotect(q, PAGE, PROT_READ | PROT_WRITE));
		page_set(q, 14, i);
	}
	for (i = 0; i < 16; i++) {
		EXPECT_TRUE(page_ok(p + i * (len / 16) + i * HUGE, 14, i));
		EXPECT_EQ(SIGSEGV, try_access(p + i * (len / 16) + i * HUGE + PAGE, false));
	}
	ASSERT_EQ(0, munmap(p, len));
	EXPECT_EQ(before, vmpte_kb(0));
}

FPT_TEST(shared_file_mapping)
{
	int fd = memfd_create("fpt", 0);
	char *a, *b;
	long n = 1024;

	ASSERT_LE(0, fd);
	ASSERT_EQ(0, ftruncate(fd, 2 * HUGE));
	a = mmap((void *)(BASE + GIB - HUGE), 2 * HUGE, PROT_READ | PROT_WRITE, MAP_SHARED |
		 MAP_FIXED_NOREPLACE, fd, 0);
	b = mmap((void *)(BASE + SPAN - HUGE), 2 * HUGE, PROT_READ, MAP_SHARED |
		 MAP_FIXED_NOREPLACE, fd, 0);
	ASSERT_EQ((void *)(BASE + GIB - HUGE), a);
	ASSERT_EQ((void *)(BASE + SPAN - HUGE), b);
	fill(a, n, PAGE, 15);
	EXPECT_EQ(-1, bad(b, n, PAGE, 15));
	/* truncation unmaps both views through the page cache's list of mappings */
	ASSERT_EQ(0, ftruncate(fd, HUGE + PAGE));
	EXPECT_EQ(0, try_access(a + HUGE, false));
	EXPECT_EQ(SIGBUS, try_access(a + HUGE + PAGE, false));
	EXPECT_EQ(SIGBUS, try_access(b + HUGE + PAGE, false));
	ASSERT_EQ(0, ftruncate(fd, 2 * HUGE));
	EXPECT_EQ(-1, bad_zero(b + HUGE + PAGE, 511, PAGE));
	ASSERT_EQ(0, fallocate(fd, 3 /* PUNCH_HOLE | KEEP_SIZE */, 8 * PAGE, 8 * PAGE));
	EXPECT_EQ(-1, bad_zero(b + 8 * PAGE, 8, PAGE));
	EXPECT_EQ(-1, bad(b, 8, PAGE, 15));
}

FPT_TEST(private_file_mapping)
{
	int fd = memfd_create("fpt", 0);
	char *a, *b, *w;
	long n = 1024;

	ASSERT_LE(0, fd);
	ASSERT_EQ(0, ftruncate(fd, 2 * HUGE));
	w = mmap(NULL, 2 * HUGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	ASSERT_NE(MAP_FAILED, w);
	fill(w, n, PAGE, 16);
	a = mmap((void *)(BASE + GIB - HUGE), 2 * HUGE, PROT_READ | PROT_WRITE, MAP_PRIVATE |
		 MAP_FIXED_NOREPLACE, fd, 0);
	ASSERT_EQ((void *)(BASE + GIB - HUGE), a);
	b = mmap((void *)(BASE + SPAN), 2 * HUGE, PROT_READ, MAP_PRIVATE | MAP_FIXED_NOREPLACE, fd, 0);
	ASSERT_EQ((void *)(BASE + SPAN), b);
	EXPECT_EQ(-1, bad(a, n, PAGE, 16));
	fill(a, n, PAGE, 17);
	EXPECT_EQ(-1, bad(a, n, PAGE, 17));
	EXPECT_EQ(-1, bad(b, n, PAGE, 16));
	EXPECT_EQ(-1, bad(w, n, PAGE, 16));
}

FPT_TEST(heap_grows_and_shrinks)
{
	long before = vmpte_kb(0);
	char *p = sbrk(16 * MIB);
	long n = 16 * MIB / PAGE - 1;

	ASSERT_NE((void *)-1, p);
	p = (char *)(((unsigned long)p + PAGE - 1) & ~(PAGE - 1));
	fill(p, n, PAGE, 18);
	EXPECT_EQ(-1, bad(p, n, PAGE, 18));
	ASSERT_NE((void *)-1, sbrk(-16 * (long)MIB));
	EXPECT_GE(before + 16, vmpte_kb(0));
}

static long deep(int depth)
{
	volatile char frame[4096];

	frame[0] = depth;
	frame[4095] = depth;
	if (depth == 0)
		return 0;
	return deep(depth - 1) + (frame[0] == (char)depth) + (frame[4095] == (char)depth);
}

FPT_TEST(stack_grows)
{
	EXPECT_EQ(2000, deep(1000));	/* about 4 MiB: across PTE tables */
}

FPT_TEST(locked_memory)
{
	char *p = map_at(BASE + GIB - HUGE / 2, HUGE);

	ASSERT_NE(MAP_FAILED, p);
	if (mlock(p, HUGE))
		SKIP(return, "mlock: %s", strerror(errno));
	EXPECT_EQ(-1, bad_zero(p, 512, PAGE));
	fill(p, 512, PAGE, 19);
	EXPECT_EQ(0, munlock(p + 5 * PAGE, PAGE));
	EXPECT_EQ(-1, bad(p, 512, PAGE, 19));
	EXPECT_EQ(0, munlock(p, HUGE));
}

FPT_TEST(splitting_a_vma_unaligned)
{
	/* vma_adjust_trans_huge looks at the PMD of each unaligned border */
	char *p = map_at(BASE, 16 * HUGE);
	long i;

	ASSERT_NE(MAP_FAILED, p);
	madvise(p, 16 * HUGE, MADV_HUGEPAGE);
	fill(p, 16 * 8, HUGE / 8, 20);
	for (i = 1; i < 16; i++)
		ASSERT_EQ(0, mprotect(p + i * HUGE + i * PAGE, PAGE, PROT_READ));
	for (i = 1; i < 16; i++)
		EXPECT_EQ(SIGSEGV, try_access(p + i * HUGE + i * PAGE, true));
	EXPECT_EQ(-1, bad(p, 16 * 8, HUGE / 8, 20));
	for (i = 1; i < 16; i += 2)
		ASSERT_EQ(0, munmap(p + i * HUGE + 64 * PAGE, 128 * PAGE));
	EXPECT_EQ(0, munmap(p, 16 * HUGE));
}

TEST_HARNESS_MAIN
