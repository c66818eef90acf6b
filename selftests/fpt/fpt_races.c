// SPDX-License-Identifier: GPL-2.0
/*
 * Races that memory managements have lost, some of which got names, across a
 * border of 512 GiB: a page or a translation that is used after it was given up.
 * Each goes on for two seconds and for a least number of rounds.
 */
#include "fpt_util.h"
#include "../kselftest_harness.h"

FPT_FIXTURE

#define MID	(BASE + SPAN)		/* a border of every size */
#define RW	(PROT_READ | PROT_WRITE)

static volatile bool stop_racing;
static char *racy;

static bool time_is_up(const struct timespec *since)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec - since->tv_sec >= 2;
}

static void *throw_away(void *arg)
{
	while (!stop_racing)
		madvise(racy, 2 * PAGE, MADV_DONTNEED);
	return NULL;
}

/* A private copy is thrown away while it is being made, and the file is written to instead. */
FPT_TEST(write_to_a_read_only_file)
{
	int fd = patterned_file(2, 1), mem = open("/proc/self/mem", O_RDWR), rounds = 0;
	struct timespec begin;
	pthread_t t;
	char *look;

	racy = mmap((void *)(MID - PAGE), 2 * PAGE, PROT_READ, MAP_PRIVATE | MAP_FIXED_NOREPLACE, fd, 0);
	ASSERT_EQ((void *)(MID - PAGE), racy);
	look = mmap(NULL, 2 * PAGE, PROT_READ, MAP_SHARED, fd, 0);
	ASSERT_EQ(0, pthread_create(&t, NULL, throw_away, NULL));
	clock_gettime(CLOCK_MONOTONIC, &begin);
	while (!time_is_up(&begin) || rounds < 1000) {
		EXPECT_EQ(16, pwrite(mem, "it must not last", 16, MID - 8));
		rounds++;
		ASSERT_EQ(-1, bad(look, 2, PAGE, 1)) TH_LOG("after %d rounds", rounds);
	}
	stop_racing = true;
	pthread_join(t, NULL);
	EXPECT_EQ(-1, bad(look, 2, PAGE, 1));
}

/* The same where all that is read is one huge zero page, which everyone shares. */
FPT_TEST(write_to_the_huge_zero_page)
{
	int mem = open("/proc/self/mem", O_RDWR), rounds = 0;
	char *other = map_at(MID + GIB, HUGE);
	struct timespec begin;
	pthread_t t;

	racy = map_at(MID - HUGE, 2 * HUGE);
	ASSERT_NE(MAP_FAILED, racy);
	ASSERT_NE(MAP_FAILED, other);
	if (madvise(racy, 2 * HUGE, MADV_HUGEPAGE) || madvise(other, HUGE, MADV_HUGEPAGE))
		SKIP(return, "no transparent huge pages");
	ASSERT_EQ(0, mprotect(racy, 2 * HUGE, PROT_READ));
	racy = (char *)MID;
	ASSERT_EQ(0, pthread_create(&t, NULL, throw_away, NULL));
	clock_gettime(CLOCK_MONOTONIC, &begin);
	while (!time_is_up(&begin) || rounds < 1000) {
		try_access(racy, false);
		EXPECT_EQ(16, pwrite(mem, "it must not last", 16, MID));
		rounds++;
		ASSERT_TRUE(page_zero(other)) TH_LOG("after %d rounds", rounds);
		ASSERT_TRUE(page_zero((char *)MID - HUGE)) TH_LOG("after %d rounds", rounds);
	}
	stop_racing = true;
	pthread_join(t, NULL);
	EXPECT_EQ(-1, bad_zero(other, HUGE / PAGE, PAGE));
}

static volatile long seen[2], strange;

static void *read_on(void *arg)
{
	while (!stop_racing) {
		uint64_t v = *(volatile uint64_t *)racy;

		if (v == pat(1, 1))
			seen[0]++;
		else if (v == pat(2, 1))
			seen[1]++;
		else
			strange++;
	}
	return NULL;
}

/* A mapping is replaced while another thread reads: there is never nothing, nor a third thing. */
FPT_TEST(mapping_is_replaced_at_once)
{
	int fd[2] = { patterned_file(2, 1), patterned_file(2, 2) }, i;
	struct timespec begin;
	pthread_t t;

	racy = mmap((void *)MID, PAGE, PROT_READ, MAP_SHARED | MAP_FIXED_NOREPLACE, fd[0], PAGE);
	ASSERT_EQ((void *)MID, racy);
	ASSERT_EQ(0, pthread_create(&t, NULL, read_on, NULL));
	clock_gettime(CLOCK_MONOTONIC, &begin);
	for (i = 1; !time_is_up(&begin) || i < 1000; i++)
		ASSERT_EQ((void *)(MID - PAGE), mmap((void *)(MID - PAGE), 2 * PAGE, PROT_READ,
						     MAP_SHARED | MAP_FIXED, fd[i % 2], 0));
	stop_racing = true;
	pthread_join(t, NULL);
	EXPECT_EQ(0, strange);
	EXPECT_LT(0, seen[0]);
	EXPECT_LT(0, seen[1]);
}

/*
 * Writes all the time. A fault is forgotten, after a rest: faults in a row would
 * keep others from mmap_lock.
 */
static void *write_on(void *arg)
{
	volatile uint64_t *p = arg;
	volatile uint64_t n;	/* lives through the jump */

	for (n = 1; !stop_racing; n++) {
		if (sigsetjmp(fault_env, 1)) {
			usleep(100);
			continue;
		}
		fault_armed = 1;
		*p = n;
	}
	return NULL;
}

static int writer(pthread_t *t, void *p)
{
	struct sigaction sa = { .sa_handler = fault_handler };

	sigaction(SIGSEGV, &sa, NULL);
	return pthread_create(t, NULL, write_on, p);
}

/* Does a word change while it is looked at? */
static bool changes(volatile uint64_t *v)
{
	uint64_t was = *v;
	int i;

	for (i = 0; i < 1000; i++)
		if (*v != was)
			return true;
	return false;
}

/* Once mprotect is back, no thread writes through an old translation. */
FPT_TEST(nothing_is_written_after_mprotect)
{
	char *p = map_at(MID - PAGE, 2 * PAGE);
	volatile uint64_t *v = (void *)MID;
	struct timespec begin;
	uint64_t last = 0;
	long rounds, written = 0;
	pthread_t t;

	ASSERT_NE(MAP_FAILED, p);
	fill(p, 2, PAGE, 1);
	ASSERT_EQ(0, writer(&t, (void *)v));
	clock_gettime(CLOCK_MONOTONIC, &begin);
	for (rounds = 0; !time_is_up(&begin) || rounds < 20; rounds++) {
		ASSERT_EQ(0, mprotect(p, 2 * PAGE, PROT_READ));
		ASSERT_FALSE(changes(v)) TH_LOG("in round %ld", rounds);
		written += *v != last;
		last = *v;
		ASSERT_EQ(0, mprotect(p, 2 * PAGE, RW));
		usleep(200);
	}
	stop_racing = true;
	pthread_join(t, NULL);
	EXPECT_LT(0, written);
}

#define FRESH 16

/* Takes pages that were just given up, and looks whether someone still writes to them. */
static bool fresh_pages_stay(void)
{
	char *fresh[FRESH];
	bool ok = true;
	int i;

	for (i = 0; i < FRESH; i++) {
		fresh[i] = map_at(0, PAGE);
		page_set(fresh[i], 1, i);
	}
	usleep(100);
	for (i = 0; i < FRESH; i++) {
		ok &= page_ok(fresh[i], 1, i);
		munmap(fresh[i], PAGE);
	}
	return ok;
}

FPT_TEST(nothing_is_written_after_munmap)
{
	char *p = map_at(MID - PAGE, 2 * PAGE);
	struct timespec begin;
	long rounds;
	pthread_t t;

	ASSERT_NE(MAP_FAILED, p);
	ASSERT_EQ(0, writer(&t, (void *)MID));
	clock_gettime(CLOCK_MONOTONIC, &begin);
	for (rounds = 0; !time_is_up(&begin) || rounds < 20; rounds++) {
		page_set(p, 1, 0);
		usleep(100);
		ASSERT_EQ(0, munmap(p, 2 * PAGE));
		ASSERT_TRUE(fresh_pages_stay()) TH_LOG("in round %ld", rounds);
		ASSERT_EQ(p, map_at(MID - PAGE, 2 * PAGE));
	}
	stop_racing = true;
	pthread_join(t, NULL);
}

static void *cut(void *arg)
{
	int fd = *(int *)arg;

	while (!stop_racing) {
		if (ftruncate(fd, 0) || ftruncate(fd, 2 * HUGE))
			strange++;
	}
	return NULL;
}

/* Tables move while the file behind them is cut: nothing of it may stay at either place. */
FPT_TEST(moved_while_it_is_truncated)
{
	int fd = memfd_create("fpt", 0), i;
	char *to[2] = { (char *)(MID - HUGE), (char *)(MID + SPAN + GIB - HUGE) }, *p;
	struct timespec begin;
	pthread_t t;

	ASSERT_EQ(0, ftruncate(fd, 2 * HUGE));
	p = mmap(to[0], 2 * HUGE, RW, MAP_SHARED | MAP_FIXED_NOREPLACE, fd, 0);
	ASSERT_EQ(to[0], p);
	ASSERT_EQ(0, pthread_create(&t, NULL, cut, &fd));
	clock_gettime(CLOCK_MONOTONIC, &begin);
	for (i = 1; !time_is_up(&begin) || i < 10; i++) {
		int k = i % 512;

		try_access(p + k * PAGE, true);
		try_access(p + HUGE + k * PAGE, true);
		p = mremap(p, 2 * HUGE, 2 * HUGE, MREMAP_MAYMOVE | MREMAP_FIXED, to[i % 2]);
		ASSERT_EQ(to[i % 2], p);
		ASSERT_EQ(SIGSEGV, try_access(to[(i + 1) % 2] + k * PAGE, false));
	}
	stop_racing = true;
	pthread_join(t, NULL);
	EXPECT_EQ(0, strange);
	ASSERT_EQ(0, ftruncate(fd, 0));
	for (i = 0; i < 1024; i += 31)
		EXPECT_EQ(SIGBUS, try_access(p + i * PAGE, false));
	ASSERT_EQ(0, ftruncate(fd, 2 * HUGE));
	EXPECT_EQ(-1, bad_zero(p, 1024, PAGE));
}

static void *read_maps(void *arg)
{
	char buf[4096];
	ssize_t n;
	int fd;

	while (!stop_racing) {
		fd = open("/proc/self/maps", O_RDONLY);
		while ((n = read(fd, buf, sizeof(buf))) > 0)
			;
		if (fd < 0 || n < 0)
			strange++;
		close(fd);
	}
	return NULL;
}

/* Mappings grow by page faults while they are looked through. */
FPT_TEST(stacks_grow_while_maps_are_read)
{
	struct timespec begin;
	pthread_t t;
	long i, k;

	ASSERT_EQ(0, pthread_create(&t, NULL, read_maps, NULL));
	clock_gettime(CLOCK_MONOTONIC, &begin);
	for (i = 0; !time_is_up(&begin) || i < 20; i++) {
		for (k = 0; k < 8; k++) {
			char *p = (char *)MID + k * (SPAN / 4);

			ASSERT_EQ(p, mmap(p, PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN |
					  MAP_FIXED_NOREPLACE, -1, 0));
			fill(p - 31 * PAGE, 32, PAGE, i);
		}
		for (k = 0; k < 8; k++) {
			char *p = (char *)MID + k * (SPAN / 4);

			ASSERT_EQ(-1, bad(p - 31 * PAGE, 32, PAGE, i)) TH_LOG("in round %ld", i);
			ASSERT_EQ(0, munmap(p - 31 * PAGE, 32 * PAGE));
		}
	}
	stop_racing = true;
	pthread_join(t, NULL);
	EXPECT_EQ(0, strange);
}

TEST_HARNESS_MAIN
