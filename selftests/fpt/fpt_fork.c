// SPDX-License-Identifier: GPL-2.0
/* fork, copy on write, exec and exit over flat tables. */
#include "fpt_util.h"
#include "../kselftest_harness.h"

FPT_FIXTURE

#define NODES(n) ((n).mid + (n).bottom)

FPT_TEST(child_sees_and_child_writes)
{
	char *p = map_at(BASE, 2 * HUGE);
	pid_t pid;

	ASSERT_NE(MAP_FAILED, p);
	fill(p, 1024, PAGE, 1);
	pid = fork();
	if (!pid) {
		CHILD_CHECK(bad(p, 1024, PAGE, 1) == -1);
		fill(p, 1024, PAGE, 2);
		CHILD_CHECK(bad(p, 1024, PAGE, 2) == -1);
		_exit(0);
	}
	EXPECT_EQ(0, reap(pid));
	EXPECT_EQ(-1, bad(p, 1024, PAGE, 1));
}

FPT_TEST(parent_writes_first)
{
	char *p = map_at(BASE + SPAN - HUGE, 2 * HUGE);
	int go[2];
	pid_t pid;
	char c;

	ASSERT_NE(MAP_FAILED, p);
	ASSERT_EQ(0, pipe(go));
	fill(p, 1024, PAGE, 3);
	pid = fork();
	if (!pid) {
		CHILD_CHECK(read(go[0], &c, 1) == 1);
		CHILD_CHECK(bad(p, 1024, PAGE, 3) == -1);
		_exit(0);
	}
	fill(p, 1024, PAGE, 4);
	ASSERT_EQ(1, write(go[1], "x", 1));
	EXPECT_EQ(0, reap(pid));
	EXPECT_EQ(-1, bad(p, 1024, PAGE, 4));
}

/* Each generation checks, rewrites, forks the next and checks again. */
static int generation(char *p, int depth)
{
	pid_t pid;

	if (bad(p, 64, GIB / 16, depth) != -1)
		return 1;
	if (!depth)
		return 0;
	pid = fork();
	if (!pid) {
		fill(p, 64, GIB / 16, depth - 1);
		_exit(generation(p, depth - 1));
	}
	if (reap(pid))
		return 2;
	return bad(p, 64, GIB / 16, depth) == -1 ? 0 : 3;
}

FPT_TEST(nested_forks)
{
	char *p = map_at(BASE + SPAN - 2 * GIB, 4 * GIB);

	ASSERT_NE(MAP_FAILED, p);
	fill(p, 64, GIB / 16, 8);
	EXPECT_EQ(0, generation(p, 8));
}

FPT_TEST(child_has_the_parents_nodes)
{
	struct fpt_nodes mine, a = fpt_nodes(0);
	int up[2], down[2];
	struct fpt_nodes theirs;
	pid_t pid;
	char c;
	int i;

	for (i = 0; i < 4; i++) {
		char *p = map_at(BASE + i * SPAN, PAGE);

		ASSERT_NE(MAP_FAILED, p);
		page_set(p, 5, i);
	}
	mine = fpt_nodes(0);
	EXPECT_NEW_NODES(a, mine, fpt_expected(self->mode, 4, 4));
	ASSERT_EQ(0, pipe(up));
	ASSERT_EQ(0, pipe(down));
	pid = fork();
	if (!pid) {
		for (i = 0; i < 4; i++)
			CHILD_CHECK(page_ok((void *)(BASE + i * SPAN), 5, i));
		CHILD_CHECK(write(up[1], "x", 1) == 1);
		CHILD_CHECK(read(down[0], &c, 1) == 1);
		_exit(0);
	}
	ASSERT_EQ(1, read(up[0], &c, 1));
	theirs = fpt_nodes(pid);
	if (theirs.misses == mine.misses) {
		EXPECT_EQ(mine.root, theirs.root);
		EXPECT_EQ(NODES(mine), NODES(theirs));
	} else {
		EXPECT_GE(NODES(mine), NODES(theirs));
	}
	ASSERT_EQ(1, write(down[1], "x", 1));
	EXPECT_EQ(0, reap(pid));
	EXPECT_EQ(NODES(mine), NODES(fpt_nodes(0)));
}

FPT_TEST(child_unmaps_parent_keeps)
{
	char *p = map_at(BASE, 3 * SPAN);
	pid_t pid;

	ASSERT_NE(MAP_FAILED, p);
	fill(p, 48, SPAN / 16, 6);
	pid = fork();
	if (!pid) {
		CHILD_CHECK(munmap(p, 3 * SPAN) == 0);
		CHILD_CHECK(map_at(BASE, 3 * SPAN) != MAP_FAILED);
		CHILD_CHECK(bad_zero(p, 48, SPAN / 16) == -1);
		_exit(0);
	}
	EXPECT_EQ(0, reap(pid));
	EXPECT_EQ(-1, bad(p, 48, SPAN / 16, 6));
}

FPT_TEST(child_remaps_parent_keeps)
{
	char *p = map_at(BASE, GIB);
	pid_t pid;

	ASSERT_NE(MAP_FAILED, p);
	fill(p, 64, GIB / 64, 7);
	pid = fork();
	if (!pid) {
		char *q = mremap(p, GIB, GIB, MREMAP_MAYMOVE | MREMAP_FIXED, BASE + SPAN);

		CHILD_CHECK(q == (char *)BASE + SPAN);
		CHILD_CHECK(bad(q, 64, GIB / 64, 7) == -1);
		fill(q, 64, GIB / 64, 8);
		_exit(0);
	}
	EXPECT_EQ(0, reap(pid));
	EXPECT_EQ(-1, bad(p, 64, GIB / 64, 7));
}

FPT_TEST(shared_memory_is_shared)
{
	char *p = mmap((void *)BASE, 4 * HUGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS |
		       MAP_FIXED_NOREPLACE, -1, 0);
	pid_t pid;

	ASSERT_EQ((void *)BASE, p);
	fill(p, 1024, PAGE, 9);
	pid = fork();
	if (!pid) {
		CHILD_CHECK(bad(p, 1024, PAGE, 9) == -1);
		fill(p, 2048, PAGE, 10);
		_exit(0);
	}
	EXPECT_EQ(0, reap(pid));
	EXPECT_EQ(-1, bad(p, 2048, PAGE, 10));
}

FPT_TEST(dontfork_and_wipeonfork)
{
	char *p = map_at(BASE, 3 * HUGE);
	pid_t pid;

	ASSERT_NE(MAP_FAILED, p);
	fill(p, 3 * 512, PAGE, 11);
	ASSERT_EQ(0, madvise(p + HUGE, HUGE, MADV_DONTFORK));
	ASSERT_EQ(0, madvise(p + 2 * HUGE, HUGE, MADV_WIPEONFORK));
	pid = fork();
	if (!pid) {
		CHILD_CHECK(bad(p, 512, PAGE, 11) == -1);
		CHILD_CHECK(try_access(p + HUGE, false) == SIGSEGV);
		CHILD_CHECK(bad_zero(p + 2 * HUGE, 512, PAGE) == -1);
		_exit(0);
	}
	EXPECT_EQ(0, reap(pid));
	EXPECT_EQ(-1, bad(p, 3 * 512, PAGE, 11));
}

FPT_TEST(read_only_and_no_access)
{
	char *p = map_at(BASE, 2 * HUGE);
	pid_t pid;

	ASSERT_NE(MAP_FAILED, p);
	fill(p, 1024, PAGE, 12);
	ASSERT_EQ(0, mprotect(p, HUGE, PROT_READ));
	ASSERT_EQ(0, mprotect(p + HUGE, HUGE, PROT_NONE));
	pid = fork();
	if (!pid) {
		CHILD_CHECK(bad(p, 512, PAGE, 12) == -1);
		CHILD_CHECK(try_access(p, true) == SIGSEGV);
		CHILD_CHECK(try_access(p + HUGE, false) == SIGSEGV);
		CHILD_CHECK(mprotect(p, 2 * HUGE, PROT_READ | PROT_WRITE) == 0);
		CHILD_CHECK(bad(p, 1024, PAGE, 12) == -1);
		fill(p, 1024, PAGE, 13);
		_exit(0);
	}
	EXPECT_EQ(0, reap(pid));
	ASSERT_EQ(0, mprotect(p, 2 * HUGE, PROT_READ));
	EXPECT_EQ(-1, bad(p, 1024, PAGE, 12));
}

FPT_TEST(fork_exit_storm)
{
	char *p = map_at(BASE, 8 * HUGE);
	int i, j;

	ASSERT_NE(MAP_FAILED, p);
	fill(p, 8 * 512, PAGE, 14);
	for (i = 0; i < 20; i++) {
		pid_t pid[8];

		for (j = 0; j < 8; j++) {
			pid[j] = fork();
			if (!pid[j]) {
				fill(p + j * HUGE, 64, HUGE / 64, 100 + j);
				CHILD_CHECK(bad(p + j * HUGE, 64, HUGE / 64, 100 + j) == -1);
				_exit(0);
			}
		}
		for (j = 0; j < 8; j++)
			ASSERT_EQ(0, reap(pid[j]));
	}
	EXPECT_EQ(-1, bad(p, 8 * 512, PAGE, 14));
}

FPT_TEST(vfork_exec_storm)
{
	int i;

	for (i = 0; i < 100; i++) {
		pid_t pid = vfork();

		if (!pid) {
			execl("./fpt_tiny", "fpt_tiny", "21", NULL);
			_exit(99);
		}
		ASSERT_EQ(21, reap(pid));
	}
}

FPT_TEST(killed_in_the_middle)
{
	long live, now;
	int i;

	fpt_calm();
	live = fpt_stat0("mid_live") + fpt_stat0("bottom_live");
	for (i = 0; i < 10; i++) {
		pid_t pid = fork();

		if (!pid) {
			unsigned long a;

			for (a = BASE; ; a += GIB + HUGE) {
				char *p = map_at(a, HUGE);

				if (p == MAP_FAILED)
					pause();
				fill(p, 8, HUGE / 8, a);
				if (a > BASE + 40 * GIB)
					pause();
			}
		}
		msleep(20 + 7 * i);
		kill(pid, SIGKILL);
		ASSERT_EQ(128 + SIGKILL, reap(pid));
	}
	for (i = 0; i < 40; i++) {
		now = fpt_stat0("mid_live") + fpt_stat0("bottom_live");
		if (now <= live)
			break;
		msleep(50);
	}
	EXPECT_EQ(live, now);
}

FPT_TEST(address_space_shared_by_clone_vm)
{
	/* vfork shares the mm: what the child maps stays */
	struct fpt_nodes a = fpt_nodes(0), b;
	volatile bool *ok = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	pid_t pid = vfork();

	if (!pid) {
		char *p = map_at(BASE + 3 * GIB, HUGE);

		if (p != MAP_FAILED)
			fill(p, 512, PAGE, 15);
		*ok = p != MAP_FAILED;
		_exit(0);
	}
	ASSERT_EQ(0, reap(pid));
	ASSERT_TRUE(*ok);
	b = fpt_nodes(0);
	EXPECT_NEW_NODES(a, b, fpt_expected(self->mode, 1, 1));
	EXPECT_EQ(-1, bad((void *)(BASE + 3 * GIB), 512, PAGE, 15));
}

static volatile bool stop;

static void *toucher(void *arg)
{
	char *p = arg;
	long i;

	while (!stop)
		for (i = 0; i < 256 && !stop; i++)
			*(volatile char *)(p + i * (GIB / 64)) += 1;
	return NULL;
}

FPT_TEST(fork_while_threads_touch)
{
	char *p = map_at(BASE + SPAN - 2 * GIB, 4 * GIB), *q = map_at(BASE + 2 * SPAN, HUGE);
	pthread_t t;
	int i;

	ASSERT_NE(MAP_FAILED, p);
	ASSERT_NE(MAP_FAILED, q);
	fill(q, 512, PAGE, 16);
	ASSERT_EQ(0, pthread_create(&t, NULL, toucher, p));
	for (i = 0; i < 30; i++) {
		pid_t pid = fork();

		if (!pid) {
			CHILD_CHECK(bad(q, 512, PAGE, 16) == -1);
			CHILD_CHECK(munmap(p, 4 * GIB) == 0);
			_exit(0);
		}
		ASSERT_EQ(0, reap(pid));
		if (i & 1)
			ASSERT_EQ(0, madvise(p, 4 * GIB, MADV_DONTNEED));
	}
	stop = true;
	pthread_join(t, NULL);
	EXPECT_EQ(-1, bad(q, 512, PAGE, 16));
}

FPT_TEST(fork_of_huge_pages)
{
	char *p = map_at(BASE, 4 * HUGE);
	pid_t pid;

	ASSERT_NE(MAP_FAILED, p);
	madvise(p, 4 * HUGE, MADV_HUGEPAGE);
	fill(p, 2048, PAGE, 17);
	pid = fork();
	if (!pid) {
		CHILD_CHECK(bad(p, 2048, PAGE, 17) == -1);
		fill(p + HUGE, 512, PAGE, 18);
		CHILD_CHECK(mprotect(p + HUGE / 2, PAGE, PROT_READ) == 0);
		CHILD_CHECK(bad(p + HUGE, 512, PAGE, 18) == -1);
		_exit(0);
	}
	EXPECT_EQ(0, reap(pid));
	EXPECT_EQ(-1, bad(p, 2048, PAGE, 17));
}

FPT_TEST(fork_of_huge_pages_beside_small_ones)
{
	/* a span touched by a small page first, huge pages madvised later */
	char *s = map_at(BASE, PAGE), *p;
	pid_t pid;

	ASSERT_NE(MAP_FAILED, s);
	page_set(s, 19, 0);
	p = map_at(BASE + 8 * HUGE, 4 * HUGE);
	ASSERT_NE(MAP_FAILED, p);
	madvise(p, 4 * HUGE, MADV_HUGEPAGE);
	fill(p, 2048, PAGE, 19);
	pid = fork();
	if (!pid) {
		CHILD_CHECK(bad(p, 2048, PAGE, 19) == -1);
		CHILD_CHECK(page_ok(s, 19, 0));
		fill(p, 2048, PAGE, 20);
		_exit(0);
	}
	EXPECT_EQ(0, reap(pid));
	EXPECT_EQ(-1, bad(p, 2048, PAGE, 19));
	EXPECT_TRUE(page_ok(s, 19, 0));
}

TEST_HARNESS_MAIN
