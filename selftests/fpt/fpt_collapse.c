// SPDX-License-Identifier: GPL-2.0
/*
 * MADV_COLLAPSE looks at page tables while other threads make and free them: it
 * must not look twice at what can change, nor at tables outside of mappings. The
 * kernel is what fails here, by an oops, or by a warning in the debug image;
 * contents must survive in any case.
 */
#include "fpt_util.h"
#include "../kselftest_harness.h"

FPT_FIXTURE

/* Two threads that meet once a round, on two CPUs if there are two. */
struct race {
	pthread_barrier_t barrier;
	volatile bool stop;
	char *gib;
	unsigned int seed;
	double window;		/* seconds in which the first touch is to come */
};

static void on_cpu(int n)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(n, &set);
	sched_setaffinity(0, sizeof(set), &set);
}

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec + ts.tv_nsec / 1e9;
}

/* Any moment of what the other side does is as likely as any other. */
static void spin(struct race *r)
{
	double until;

	r->seed = r->seed * 1103515245 + 12345;
	until = now() + r->window * ((r->seed >> 8) % 1000) / 1000;
	while (now() < until)
		;
}

static bool meet(struct race *r)
{
	pthread_barrier_wait(&r->barrier);
	return !r->stop;
}

static void *toucher(void *arg)
{
	struct race *r = arg;

	on_cpu(1);
	while (meet(r)) {
		spin(r);
		page_set(r->gib, r->seed, 0);
		meet(r);
	}
	return NULL;
}

/* Not map_at(): that forbids huge pages. Nothing asks for them here, either. */
static char *map_plain(unsigned long addr, size_t len)
{
	return mmap((void *)addr, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS |
		    MAP_NORESERVE | MAP_FIXED, -1, 0);
}

/* While no table is there for a whole GiB, somebody makes the first. */
FPT_TEST(collapse_meets_the_first_touch)
{
	struct race r = { .seed = 1 };
	double end = now() + 8;
	long rounds = 0, wrong = 0;
	pthread_t t;
	char *p;
	int i;

	p = map_plain(BASE, 3 * GIB);
	ASSERT_NE(MAP_FAILED, p);
	page_set(p, 1, 1);
	r.gib = p + GIB;
	/* how long it takes to look at a GiB that nobody touches */
	r.window = now();
	for (i = 0; i < 10; i++)
		EXPECT_EQ(-1, madvise(r.gib + HUGE, GIB - HUGE, MADV_COLLAPSE));
	r.window = (now() - r.window) / 10;
	pthread_barrier_init(&r.barrier, NULL, 2);
	ASSERT_EQ(0, pthread_create(&t, NULL, toucher, &r));
	on_cpu(0);
	while (now() < end) {
		/* nothing is collapsed, for the touched page is not in the range: quick rounds */
		meet(&r);
		madvise(r.gib + HUGE, GIB - HUGE, MADV_COLLAPSE);
		meet(&r);
		wrong += !page_ok(r.gib, r.seed, 0);
		ASSERT_EQ(p + GIB, map_plain(BASE + GIB, GIB));
		rounds++;
	}
	r.stop = true;
	meet(&r);
	pthread_join(t, NULL);
	EXPECT_EQ(0, wrong);
	EXPECT_TRUE(page_ok(p, 1, 1));
	EXPECT_LT(10, rounds);
}

struct unmaps {
	volatile bool stop;
	char *area;
	size_t len;
	int fd;		/* -1: anonymous */
	long rounds, failed;
};

static void *unmapper(void *arg)
{
	struct unmaps *u = arg;
	int shared = u->fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED;

	on_cpu(1);
	while (!u->stop) {
		size_t off;
		char *p;

		munmap(u->area, u->len);
		p = mmap(u->area, u->len, PROT_READ | PROT_WRITE, shared | MAP_FIXED, u->fd, 0);
		if (p == MAP_FAILED) {
			u->failed++;
			continue;
		}
		for (off = 0; off < u->len; off += HUGE)
			*(volatile char *)(p + off) = 1;
		u->rounds++;
	}
	return NULL;
}

static void collapse_meets_munmap(struct __test_metadata *_metadata, int fd)
{
	struct unmaps u = { .len = 8 * HUGE, .fd = fd };
	double end = now() + 6;
	pthread_t t;

	/* alone in its GiB: munmap() frees the tables above as well */
	u.area = (char *)BASE + 5 * GIB;
	ASSERT_EQ(0, pthread_create(&t, NULL, unmapper, &u));
	on_cpu(0);
	while (now() < end)
		madvise(u.area, u.len, MADV_COLLAPSE);
	u.stop = true;
	pthread_join(t, NULL);
	EXPECT_EQ(0, u.failed);
	EXPECT_LT(10, u.rounds);
}

FPT_TEST(collapse_meets_munmap_of_anonymous_memory)
{
	collapse_meets_munmap(_metadata, -1);
}

FPT_TEST(collapse_meets_munmap_of_a_file)
{
	int fd = memfd_create("collapse", 0);

	ASSERT_LE(0, fd);
	ASSERT_EQ(0, ftruncate(fd, 8 * HUGE));
	collapse_meets_munmap(_metadata, fd);
}

TEST_HARNESS_MAIN
