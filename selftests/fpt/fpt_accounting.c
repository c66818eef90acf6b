// SPDX-License-Identifier: GPL-2.0
/* What was taken is given back: nodes, VmPTE, PageTables, memory. */
#include "fpt_util.h"
#include "../kselftest_harness.h"

FPT_FIXTURE

struct totals {
	long root, mid, bottom, bytes, pagetables_kb;
};

static struct totals totals(void)
{
	struct totals t;

	fpt_let_go();
	fpt_drain();
	t.root = fpt_stat0("root_live");
	t.mid = fpt_stat0("mid_live");
	t.bottom = fpt_stat0("bottom_live");
	t.bytes = fpt_stat0("flat_bytes");
	t.pagetables_kb = all_tables_kb();
	return t;
}

static struct totals start(void)
{
	fpt_calm();
	return totals();
}

/* Exit finishes after the parent was told of it: give it time. */
static struct totals settle(struct totals want)
{
	struct totals t;
	int i;

	for (i = 0; i < 100; i++) {
		t = totals();
		if (t.root == want.root && t.mid == want.mid && t.bottom == want.bottom &&
		    t.bytes == want.bytes && t.pagetables_kb <= want.pagetables_kb + 64)
			break;
		msleep(50);
	}
	return t;
}

#define EXPECT_BACK(a) do {						\
	struct totals _b = settle(a);					\
	EXPECT_EQ((a).root, _b.root);					\
	EXPECT_EQ((a).mid, _b.mid);					\
	EXPECT_EQ((a).bottom, _b.bottom);				\
	EXPECT_EQ((a).bytes, _b.bytes);					\
	EXPECT_GE((a).pagetables_kb + 64, _b.pagetables_kb);		\
	EXPECT_EQ(0, fpt_stat0("tainted"));				\
} while (0)

static void child_touches(size_t stride, long n)
{
	char *p = map_at(BASE, n * stride);

	CHILD_CHECK(p != MAP_FAILED);
	fill(p, n, stride, 1);
	CHILD_CHECK(bad(p, n, stride, 1) == -1);
}

FPT_TEST(after_exit)
{
	struct totals a = start();
	pid_t pid = fork();

	if (!pid) {
		child_touches(SPAN + GIB, 8);
		_exit(0);
	}
	ASSERT_EQ(0, reap(pid));
	EXPECT_BACK(a);
}

FPT_TEST(after_munmap_in_the_same_process)
{
	struct totals a = start();
	long pte = vmpte_kb(0);
	int i;

	for (i = 0; i < 5; i++) {
		char *p = map_at(BASE, 4 * SPAN);

		ASSERT_NE(MAP_FAILED, p);
		fill(p, 16, SPAN / 4, i);
		ASSERT_EQ(0, munmap(p, 4 * SPAN));
		EXPECT_EQ(pte, vmpte_kb(0));
	}
	EXPECT_BACK(a);
}

FPT_TEST(after_exec)
{
	struct totals a = start();
	pid_t pid = fork();

	if (!pid) {
		child_touches(SPAN + GIB, 8);
		execl("./fpt_tiny", "fpt_tiny", "9", NULL);
		_exit(99);
	}
	ASSERT_EQ(9, reap(pid));
	EXPECT_BACK(a);
}

FPT_TEST(after_kill)
{
	struct totals a = start();
	int up[2];
	pid_t pid;
	char c;

	ASSERT_EQ(0, pipe(up));
	pid = fork();
	if (!pid) {
		child_touches(3 * GIB, 40);
		CHILD_CHECK(write(up[1], "x", 1) == 1);
		pause();
	}
	ASSERT_EQ(1, read(up[0], &c, 1));
	kill(pid, SIGKILL);
	ASSERT_EQ(128 + SIGKILL, reap(pid));
	EXPECT_BACK(a);
}

FPT_TEST(after_a_fork_storm)
{
	struct totals a = start();
	int i, j;

	for (i = 0; i < 10; i++) {
		pid_t pid[10];

		for (j = 0; j < 10; j++) {
			pid[j] = fork();
			if (!pid[j]) {
				child_touches(GIB + HUGE, 1 + j);
				_exit(0);
			}
		}
		for (j = 0; j < 10; j++)
			ASSERT_EQ(0, reap(pid[j]));
	}
	EXPECT_BACK(a);
}

FPT_TEST(after_an_exec_storm)
{
	struct totals a = start();
	int i;

	for (i = 0; i < 200; i++) {
		pid_t pid = vfork();

		if (!pid) {
			execl("./fpt_tiny", "fpt_tiny", "9", NULL);
			_exit(99);
		}
		ASSERT_EQ(9, reap(pid));
	}
	EXPECT_BACK(a);
}

FPT_TEST(after_mremap)
{
	struct totals a = start();
	pid_t pid = fork();

	if (!pid) {
		char *p;

		child_touches(GIB / 16, 64);
		p = mremap((void *)BASE, GIB, GIB, MREMAP_MAYMOVE | MREMAP_FIXED, BASE + 8 * SPAN);
		CHILD_CHECK(p == (char *)BASE + 8 * SPAN);
		p = mremap((void *)(BASE + GIB), 3 * GIB, 3 * GIB, MREMAP_MAYMOVE | MREMAP_FIXED,
			   BASE + 8 * SPAN + GIB + HUGE);
		CHILD_CHECK(p == (char *)BASE + 8 * SPAN + GIB + HUGE);
		_exit(0);
	}
	ASSERT_EQ(0, reap(pid));
	EXPECT_BACK(a);
}

FPT_TEST(after_threads_exit_together)
{
	struct totals a = start();
	pid_t pid = fork();

	if (!pid) {
		pthread_t t;

		child_touches(SPAN / 2, 8);
		for (int i = 0; i < 8; i++)
			CHILD_CHECK(!pthread_create(&t, NULL, (void *(*)(void *))(void *)pause, NULL));
		_exit(0);
	}
	ASSERT_EQ(0, reap(pid));
	EXPECT_BACK(a);
}

FPT_TEST(vmpte_of_a_child_equals_ours)
{
	char *p = map_at(BASE, 4 * SPAN);
	struct fpt_nodes n = fpt_nodes(0), ours, childs;
	long pte, theirs;
	int up[2], down[2];
	pid_t pid;
	char c;

	ASSERT_NE(MAP_FAILED, p);
	fill(p, 64, SPAN / 16, 1);
	pte = vmpte_kb(0);
	ASSERT_EQ(0, pipe(up));
	ASSERT_EQ(0, pipe(down));
	pid = fork();
	if (!pid) {
		CHILD_CHECK(write(up[1], "x", 1) == 1);
		CHILD_CHECK(read(down[0], &c, 1) == 1);
		_exit(0);
	}
	ASSERT_EQ(1, read(up[0], &c, 1));
	theirs = vmpte_kb(pid);
	ours = fpt_nodes(0);
	childs = fpt_nodes(pid);
	ASSERT_EQ(1, write(down[1], "x", 1));
	ASSERT_EQ(0, reap(pid));
	/*
	 * File pages are not copied at fork: a few PTE tables less. Where order-9
	 * allocations fail, a child may have a root that its parent could not get.
	 */
	if (ours.root == childs.root && ours.mid == childs.mid && ours.bottom == childs.bottom)
		EXPECT_GE(pte, theirs);
	if (fpt_nodes(0).misses == n.misses)
		EXPECT_LE(pte - 2048 - 64, theirs);
}

/* Who has a file of /proc open keeps the address space, but not its tables. */
FPT_TEST(what_a_dead_process_leaves)
{
	enum { CHILDREN = 64 };
	struct totals a = start(), b;
	int fd[CHILDREN], up[2], i;
	char path[64], c;

	for (i = 0; i < CHILDREN; i++) {
		pid_t pid;

		ASSERT_EQ(0, pipe(up));
		pid = fork();
		if (!pid) {
			close(up[1]);
			child_touches(GIB, 2);
			CHILD_CHECK(read(up[0], &c, 1) == 1);
			_exit(0);
		}
		snprintf(path, sizeof(path), "/proc/%d/maps", pid);
		fd[i] = open(path, O_RDONLY);
		ASSERT_LE(0, fd[i]);
		ASSERT_EQ(1, write(up[1], "x", 1));
		ASSERT_EQ(0, reap(pid));
		close(up[0]);
		close(up[1]);
	}
	b = settle(a);
	EXPECT_EQ(a.root, b.root);
	EXPECT_EQ(a.mid, b.mid);
	EXPECT_EQ(a.bottom, b.bottom);
	EXPECT_EQ(a.bytes, b.bytes);
	EXPECT_GE(a.pagetables_kb + 64, b.pagetables_kb);
	for (i = 0; i < CHILDREN; i++) {
		EXPECT_GE(0, read(fd[i], &c, 1));
		close(fd[i]);
	}
	EXPECT_BACK(a);
}

FPT_TEST(flat_bytes_are_whole_nodes)
{
	if (!fpt_debugfs())
		SKIP(return, "kernel without FPT");
	EXPECT_EQ(0, fpt_stat("flat_bytes") % (long)HUGE);
}

TEST_HARNESS_MAIN
