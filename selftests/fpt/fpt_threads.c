// SPDX-License-Identifier: GPL-2.0
/* Threads that meet in one span. */
#include "fpt_util.h"
#include "../kselftest_harness.h"

FPT_FIXTURE

#define NT 8

struct job {
	pthread_barrier_t *bar;
	int id, round;
	char *p;
	long wrong;
};

/* The same first page of the same span, by all at once. */
static void *same_page(void *arg)
{
	struct job *j = arg;
	int r;

	for (r = 0; r < j->round; r++) {
		volatile char *p = j->p + r * SPAN / 8;

		pthread_barrier_wait(j->bar);
		p[j->id] = j->id + 1;
		pthread_barrier_wait(j->bar);
		for (int i = 0; i < NT; i++)
			j->wrong += p[i] != i + 1;
	}
	return NULL;
}

/* Pages of its own in every GiB. */
static void *own_pages(void *arg)
{
	struct job *j = arg;

	pthread_barrier_wait(j->bar);
	for (int r = 0; r < j->round; r++)
		fill(j->p + j->id * PAGE + r * HUGE, 1, PAGE, j->id * 1000 + r);
	pthread_barrier_wait(j->bar);
	for (int r = 0; r < j->round; r++)
		for (int i = 0; i < NT; i++)
			j->wrong += !page_ok(j->p + i * PAGE + r * HUGE, i * 1000 + r, 0);
	return NULL;
}

/* Maps, touches and unmaps an island in the span that all others use too. */
static void *islander(void *arg)
{
	struct job *j = arg;
	unsigned long a = (unsigned long)j->p + j->id * (HUGE / 2);

	pthread_barrier_wait(j->bar);
	for (int r = 0; r < j->round; r++) {
		char *p = map_at(a, 16 * PAGE);

		if (p == MAP_FAILED) {
			j->wrong++;
			break;
		}
		j->wrong += bad_zero(p, 16, PAGE) != -1;
		fill(p, 16, PAGE, r);
		sched_yield();
		j->wrong += bad(p, 16, PAGE, r) != -1;
		j->wrong += munmap(p, 16 * PAGE) != 0;
	}
	return NULL;
}

/* Protects and unprotects its window while others fault in theirs. */
static void *protector(void *arg)
{
	struct job *j = arg;
	char *p = j->p + j->id * (HUGE / 4);

	pthread_barrier_wait(j->bar);
	for (int r = 0; r < j->round; r++) {
		fill(p, 32, PAGE, r);
		j->wrong += mprotect(p, 32 * PAGE, PROT_READ) != 0;
		j->wrong += bad(p, 32, PAGE, r) != -1;
		j->wrong += mprotect(p, 32 * PAGE, PROT_READ | PROT_WRITE) != 0;
		if (r % 3 == 0) {
			j->wrong += madvise(p, 32 * PAGE, MADV_DONTNEED) != 0;
			j->wrong += bad_zero(p, 32, PAGE) != -1;
		}
	}
	return NULL;
}

/* Moves its window to and fro between two spans. */
static void *mover(void *arg)
{
	struct job *j = arg;
	char *p = j->p + j->id * HUGE, *home = p, *away = p + SPAN + GIB;

	fill(p, 16, HUGE / 16, j->id);
	pthread_barrier_wait(j->bar);
	for (int r = 0; r < j->round; r++) {
		char *to = p == home ? away : home;

		if (mremap(p, HUGE, HUGE, MREMAP_MAYMOVE | MREMAP_FIXED, to) != to) {
			j->wrong++;
			break;
		}
		p = to;
		j->wrong += bad(p, 16, HUGE / 16, j->id) != -1;
	}
	return NULL;
}

static long run(void *(*fn)(void *), char *p, int round)
{
	pthread_barrier_t bar;
	pthread_t t[NT];
	struct job j[NT];
	long wrong = 0;

	pthread_barrier_init(&bar, NULL, NT);
	for (int i = 0; i < NT; i++) {
		j[i] = (struct job){ &bar, i, round, p, 0 };
		if (pthread_create(&t[i], NULL, fn, &j[i]))
			return -1;
	}
	for (int i = 0; i < NT; i++) {
		pthread_join(t[i], NULL);
		wrong += j[i].wrong;
	}
	return wrong;
}

FPT_TEST(same_page_of_a_new_span)
{
	char *p = map_at(BASE, 4 * SPAN);
	struct fpt_nodes a, b;
	long before;

	ASSERT_NE(MAP_FAILED, p);
	before = vmpte_kb(0);
	a = fpt_nodes(0);
	EXPECT_EQ(0, run(same_page, p, 32));	/* 4 spans, 32 GiBs */
	b = fpt_nodes(0);
	/* thread stacks are in spans that were touched before, or add one GiB */
	EXPECT_GE(b.mid + b.bottom - a.mid - a.bottom + b.misses - a.misses,
		  fpt_expected(self->mode, 4, 32));
	EXPECT_LE(b.mid + b.bottom - a.mid - a.bottom, fpt_expected(self->mode, 5, 34));
	ASSERT_EQ(0, munmap(p, 4 * SPAN));
	b = fpt_nodes(0);
	EXPECT_LE(b.mid + b.bottom - a.mid - a.bottom, fpt_expected(self->mode, 1, 2));
	/* stacks of the threads are cached by the C library: their tables stay */
	EXPECT_LE(vmpte_kb(0) - before, 2 * 2048 + 128);
}

FPT_TEST(own_pages_of_the_same_span)
{
	char *p = map_at(BASE + SPAN - 64 * HUGE, 128 * HUGE);

	ASSERT_NE(MAP_FAILED, p);
	EXPECT_EQ(0, run(own_pages, p, 128));
}

FPT_TEST(islands_come_and_go)
{
	struct fpt_nodes a = fpt_nodes(0), b;

	EXPECT_EQ(0, run(islander, (char *)BASE + 5 * GIB - 2 * HUGE, 100));
	b = fpt_nodes(0);
	EXPECT_LE(b.mid + b.bottom - a.mid - a.bottom, fpt_expected(self->mode, 1, 2));
}

FPT_TEST(protection_against_faults)
{
	char *p = map_at(BASE, 2 * HUGE);

	ASSERT_NE(MAP_FAILED, p);
	EXPECT_EQ(0, run(protector, p, 60));
}

FPT_TEST(moves_between_spans)
{
	char *p = map_at(BASE + GIB - 4 * HUGE, 8 * HUGE);

	ASSERT_NE(MAP_FAILED, p);
	EXPECT_EQ(0, run(mover, p, 60));
}

FPT_TEST(two_processes_share_a_file)
{
	int fd = memfd_create("fpt", 0), round;
	pid_t pid;

	ASSERT_LE(0, fd);
	ASSERT_EQ(0, ftruncate(fd, 2 * HUGE));
	pid = fork();
	/* both map, touch and unmap; the child also truncates below the parent */
	for (round = 0; round < 100; round++) {
		char *p = mmap((void *)(BASE + GIB - HUGE), 2 * HUGE, PROT_READ | PROT_WRITE,
			       MAP_SHARED | MAP_FIXED, fd, 0);

		if (p == MAP_FAILED)
			break;
		for (int i = 0; i < 64; i++) {
			volatile char *q = p + (pid ? 0 : HUGE) + i * 8 * PAGE;

			if (!pid || i < 32)
				try_access(q, true);
		}
		if (!pid && round % 4 == 0) {
			CHILD_CHECK(ftruncate(fd, HUGE) == 0);
			CHILD_CHECK(ftruncate(fd, 2 * HUGE) == 0);
		}
	}
	if (!pid)
		_exit(round == 100 ? 0 : 1);
	EXPECT_EQ(100, round);
	EXPECT_EQ(0, reap(pid));
}

TEST_HARNESS_MAIN
