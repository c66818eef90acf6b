// SPDX-License-Identifier: GPL-2.0
/*
 * Order-9 allocations that fail: tables are then a mixture of flat nodes and
 * conventional ones, and nothing but the counters may tell.
 */
#include "fpt_util.h"
#include "../kselftest_harness.h"

#define INJ "/sys/kernel/debug/fail_page_alloc/"

FIXTURE(fpt) { enum fpt_mode mode; const char *why; };

static const char *inject(int probability)
{
	char num[16];

	if (access(INJ "min-order", W_OK))
		return "kernel without FAIL_PAGE_ALLOC";
	snprintf(num, sizeof(num), "%d", probability);
	if (write_text(INJ "task-filter", "Y") || write_text(INJ "min-order", "9") ||
	    write_text(INJ "times", "-1") || write_text(INJ "interval", "1") ||
	    write_text(INJ "verbose", "0") || write_text(INJ "probability", num))
		return "cannot set up fail_page_alloc";
	return NULL;
}

/* For this process and children that it forks from now on. */
static void fail_me(bool on)
{
	write_text("/proc/self/make-it-fail", on ? "1" : "0");
	if (on)
		fpt_drain();	/* a pool would hide the failing allocator */
}

FIXTURE_SETUP(fpt)
{
	self->mode = fpt_mode();
	self->why = inject(100);
}

FIXTURE_TEARDOWN(fpt)
{
	fail_me(false);
	if (!self->why)
		inject(0);
}

#define NEED_INJECTION do { if (self->why) SKIP(return, "%s", self->why); } while (0)
#define FLAT(n) ((n).mid + (n).bottom)

FPT_TEST(no_node_no_error)
{
	struct fpt_nodes a, b;
	char *p = map_at(BASE, 4 * SPAN);
	long before;

	NEED_INJECTION;
	ASSERT_NE(MAP_FAILED, p);
	a = fpt_nodes(0);
	before = vmpte_kb(0);
	fail_me(true);
	fill(p, 16, SPAN / 4, 1);
	b = fpt_nodes(0);
	fail_me(false);
	EXPECT_EQ(FLAT(a), FLAT(b));
	EXPECT_EQ(-1, bad(p, 16, SPAN / 4, 1));
	if (self->mode == L3L2)
		EXPECT_LE(4, b.misses - a.misses);
	if (self->mode == L4L3_L2L1)
		EXPECT_LE(16, b.misses - a.misses);
	ASSERT_EQ(0, munmap(p, 4 * SPAN));
	EXPECT_EQ(before, vmpte_kb(0));
}

/* Spans 0 2 4 .. are made without failure, 1 3 5 .. with. */
static char *mixed(struct __test_metadata *_metadata, enum fpt_mode mode, size_t span, int n)
{
	struct fpt_nodes a, b;
	char *p = map_at(BASE, n * span);
	int i;

	if (p == MAP_FAILED)
		return p;
	a = fpt_nodes(0);
	for (i = 0; i < n; i++) {
		fail_me(i & 1);
		fill(p + i * span, 8, span / 8, i);
	}
	fail_me(false);
	b = fpt_nodes(0);
	if (mode == L3L2 && span == SPAN)
		EXPECT_EQ((n + 1) / 2, FLAT(b) - FLAT(a));
	if (mode == L4L3_L2L1 && span == GIB)
		EXPECT_EQ((n + 1) / 2, FLAT(b) - FLAT(a));
	return p;
}

static long mixed_bad(char *p, size_t span, int n)
{
	int i;

	for (i = 0; i < n; i++)
		if (bad(p + i * span, 8, span / 8, i) != -1)
			return i;
	return -1;
}

FPT_TEST(mixed_spans)
{
	struct fpt_nodes a = fpt_nodes(0), b;
	long before = vmpte_kb(0);
	char *p;

	NEED_INJECTION;
	p = mixed(_metadata, self->mode, SPAN, 6);
	ASSERT_NE(MAP_FAILED, p);
	EXPECT_EQ(-1, mixed_bad(p, SPAN, 6));
	ASSERT_EQ(0, mprotect(p, 6 * SPAN, PROT_READ));
	EXPECT_EQ(-1, mixed_bad(p, SPAN, 6));
	EXPECT_EQ(SIGSEGV, try_access(p + SPAN, true));
	EXPECT_EQ(SIGSEGV, try_access(p + 2 * SPAN, true));
	ASSERT_EQ(0, munmap(p + SPAN / 2, 3 * SPAN));
	EXPECT_EQ(SIGSEGV, try_access(p + SPAN, false));
	EXPECT_EQ(SIGSEGV, try_access(p + 2 * SPAN, false));
	EXPECT_EQ(0, try_access(p + 4 * SPAN, false));
	ASSERT_EQ(0, munmap(p, 6 * SPAN));
	b = fpt_nodes(0);
	EXPECT_EQ(FLAT(a), FLAT(b));
	EXPECT_EQ(before, vmpte_kb(0));
}

FPT_TEST(mixed_gibs)
{
	long before = vmpte_kb(0);
	char *p;

	NEED_INJECTION;
	p = mixed(_metadata, self->mode, GIB, 9);
	ASSERT_NE(MAP_FAILED, p);
	EXPECT_EQ(-1, mixed_bad(p, GIB, 9));
	ASSERT_EQ(0, madvise(p, 9 * GIB, MADV_COLD));
	EXPECT_EQ(-1, mixed_bad(p, GIB, 9));
	ASSERT_EQ(0, munmap(p, 9 * GIB));
	EXPECT_EQ(before, vmpte_kb(0));
}

/* fork walks two trees in lock step: flat beside conventional, both ways round. */
static void fork_mixed(struct __test_metadata *_metadata, enum fpt_mode mode, size_t span, bool child_fails)
{
	char *p = mixed(_metadata, mode, span, 6);
	pid_t pid;

	ASSERT_NE(MAP_FAILED, p);
	fail_me(child_fails);
	pid = fork();
	if (!pid) {
		CHILD_CHECK(mixed_bad(p, span, 6) == -1);
		for (int i = 0; i < 6; i++)
			fill(p + i * span, 8, span / 8, 50 + i);
		CHILD_CHECK(munmap(p + span, 2 * span) == 0);
		CHILD_CHECK(bad(p + 3 * span, 8, span / 8, 53) == -1);
		CHILD_CHECK(bad(p, 8, span / 8, 50) == -1);
		_exit(0);
	}
	fail_me(false);
	EXPECT_EQ(0, reap(pid));
	EXPECT_EQ(-1, mixed_bad(p, span, 6));
}

FPT_TEST(fork_mixed_spans) { NEED_INJECTION; fork_mixed(_metadata, self->mode, SPAN, false); }
FPT_TEST(fork_mixed_gibs) { NEED_INJECTION; fork_mixed(_metadata, self->mode, GIB, false); }
FPT_TEST(fork_to_a_conventional_child) { NEED_INJECTION; fork_mixed(_metadata, self->mode, SPAN, true); }
FPT_TEST(fork_to_a_conventional_child_gibs) { NEED_INJECTION; fork_mixed(_metadata, self->mode, GIB, true); }

FPT_TEST(flat_parent_conventional_child)
{
	char *p = map_at(BASE, 2 * SPAN);
	pid_t pid;

	NEED_INJECTION;
	ASSERT_NE(MAP_FAILED, p);
	fill(p, 64, SPAN / 32, 1);
	fill(p + PAGE, 8, PAGE, 2);
	fail_me(true);
	pid = fork();
	if (!pid) {
		struct fpt_nodes n = fpt_nodes(0);

		CHILD_CHECK(FLAT(n) == 0 && n.root == 0);
		CHILD_CHECK(bad(p, 64, SPAN / 32, 1) == -1);
		CHILD_CHECK(bad(p + PAGE, 8, PAGE, 2) == -1);
		fill(p, 64, SPAN / 32, 3);
		_exit(0);
	}
	fail_me(false);
	EXPECT_EQ(0, reap(pid));
	EXPECT_EQ(-1, bad(p, 64, SPAN / 32, 1));
}

FPT_TEST(conventional_parent_flat_child)
{
	char *p = map_at(BASE, 2 * SPAN);
	pid_t pid;

	NEED_INJECTION;
	ASSERT_NE(MAP_FAILED, p);
	fail_me(true);
	fill(p, 64, SPAN / 32, 1);
	fail_me(false);
	pid = fork();
	if (!pid) {
		CHILD_CHECK(bad(p, 64, SPAN / 32, 1) == -1);
		fill(p, 64, SPAN / 32, 3);
		CHILD_CHECK(bad(p, 64, SPAN / 32, 3) == -1);
		_exit(0);
	}
	EXPECT_EQ(0, reap(pid));
	EXPECT_EQ(-1, bad(p, 64, SPAN / 32, 1));
}

FPT_TEST(huge_pages_forked_into_the_other_shape)
{
	char *p;
	pid_t pid;

	NEED_INJECTION;
	p = map_at(BASE, 4 * HUGE);
	ASSERT_NE(MAP_FAILED, p);
	madvise(p, 4 * HUGE, MADV_HUGEPAGE);
	fill(p, 2048, PAGE, 5);
	for (int failing = 0; failing < 2; failing++) {
		fail_me(failing);
		pid = fork();
		if (!pid) {
			CHILD_CHECK(bad(p, 2048, PAGE, 5) == -1);
			fill(p, 2048, PAGE, 6);
			CHILD_CHECK(bad(p, 2048, PAGE, 6) == -1);
			_exit(0);
		}
		fail_me(false);
		EXPECT_EQ(0, reap(pid));
	}
	EXPECT_EQ(-1, bad(p, 2048, PAGE, 5));
}

static void move_mixed(struct __test_metadata *_metadata, bool from_flat, size_t len, size_t off)
{
	char *p = map_at(BASE + off, len), *q = map_at(BASE + 2 * SPAN + off - PAGE, PAGE);
	long n = len / HUGE * 4;

	ASSERT_NE(MAP_FAILED, p);
	ASSERT_NE(MAP_FAILED, q);
	fail_me(!from_flat);
	fill(p, n, len / n, 1);
	fail_me(from_flat);
	page_set(q, 2, 0);	/* makes the tables of the target's span */
	p = mremap(p, len, len, MREMAP_MAYMOVE | MREMAP_FIXED, BASE + 2 * SPAN + off);
	fail_me(false);
	ASSERT_EQ((void *)(BASE + 2 * SPAN + off), p);
	EXPECT_EQ(-1, bad(p, n, len / n, 1));
	EXPECT_TRUE(page_ok(q, 2, 0));
	EXPECT_EQ(SIGSEGV, try_access((void *)(BASE + off), false));
}

FPT_TEST(pmds_move_from_flat) { NEED_INJECTION; move_mixed(_metadata, true, 4 * HUGE, 2 * HUGE); }
FPT_TEST(pmds_move_to_flat) { NEED_INJECTION; move_mixed(_metadata, false, 4 * HUGE, 2 * HUGE); }
FPT_TEST(gib_moves_from_flat) { NEED_INJECTION; move_mixed(_metadata, true, GIB, GIB); }
FPT_TEST(gib_moves_to_flat) { NEED_INJECTION; move_mixed(_metadata, false, GIB, GIB); }

FPT_TEST(every_second_allocation_fails)
{
	long before = vmpte_kb(0);
	int round;

	NEED_INJECTION;
	ASSERT_EQ(NULL, inject(50));
	fail_me(true);
	for (round = 0; round < 8; round++) {
		char *p = map_at(BASE, 8 * SPAN);
		pid_t pid;

		ASSERT_NE(MAP_FAILED, p);
		fill(p, 32, SPAN / 4, round);
		pid = fork();
		if (!pid) {
			CHILD_CHECK(bad(p, 32, SPAN / 4, round) == -1);
			fill(p, 32, SPAN / 4, 100);
			_exit(0);
		}
		ASSERT_EQ(0, reap(pid));
		ASSERT_EQ(-1, bad(p, 32, SPAN / 4, round));
		ASSERT_EQ(0, munmap(p, 8 * SPAN));
	}
	fail_me(false);
	EXPECT_EQ(before, vmpte_kb(0));
}

FPT_TEST(exec_without_nodes)
{
	pid_t pid;
	int i;

	NEED_INJECTION;
	fail_me(true);
	for (i = 0; i < 10; i++) {
		pid = fork();
		if (!pid) {
			execl("./fpt_tiny", "fpt_tiny", "33", NULL);
			_exit(99);
		}
		ASSERT_EQ(33, reap(pid));
	}
	fail_me(false);
}

TEST_HARNESS_MAIN
