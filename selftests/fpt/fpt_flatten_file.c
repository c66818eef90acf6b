// SPDX-License-Identifier: GPL-2.0
/*
 * MADV_FLATTEN and MADV_UNFLATTEN over files: dirty bits that hardware sets, and write
 * protection that writeback sets, must not stay behind in a table that was copied. What
 * is lost shows in the file, hence each test reads it by another way than through the
 * mapping.
 */
#include "fpt_process.h"
#include <sys/sysmacros.h>
#include "../kselftest_harness.h"
#include "fpt_toggle.h"

FPT_FIXTURE

#define LEN (64 * HUGE)		/* of the files: 64 windows */
#define AT (BASE + 100 * HUGE)
#define EVERY 16L		/* pages from one that is used to the next */
#define USED ((long)(LEN / PAGE / EVERY))

static char *map_file(int fd)
{
	char *p = mmap((void *)AT, LEN, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED_NOREPLACE,
		       fd, 0);

	if (p != MAP_FAILED)
		madvise(p, LEN, MADV_NOHUGEPAGE);
	return p;
}

/* What a used page begins with */
static volatile uint64_t *word(char *p, long i)
{
	return (volatile uint64_t *)(p + i * EVERY * PAGE);
}

/*
 * A page of tmpfs that was read first is mapped writable and clean: the first write
 * sets a dirty bit that no one but hardware knows of. If it gets lost, reclaim takes the
 * page for one that was never written.
 */
RACE_TEST(no_dirty_bit_gets_lost)
{
	double end = seconds() + 2 * SECONDS;
	long rounds = 0, i, out = file_value("/proc/vmstat", "pswpout");
	int fd = memfd_create("fpt", MFD_CLOEXEC);
	char *p;

	NEED_FLATTEN;
	if (file_value("/proc/meminfo", "SwapFree") < 65536)
		SKIP(return, "needs 64 MiB of swap");
	ASSERT_LE(0, fd);
	ASSERT_EQ(0, ftruncate(fd, LEN));
	p = map_file(fd);
	ASSERT_NE(MAP_FAILED, p);
	start_toggling(_metadata, AT, 0, 0, 0);
	for (; go_on(end) || rounds < 3; rounds++) {
		ASSERT_EQ(0, fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, LEN));
		for (i = 0; i < USED; i++)
			ASSERT_EQ(0, *word(p, i));
		for (i = 0; i < USED; i++)
			*word(p, i) = pat(rounds, i);
		ASSERT_EQ(0, madvise(p, LEN, MADV_PAGEOUT));
		for (i = 0; i < USED; i++)
			ASSERT_EQ(pat(rounds, i), *word(p, i)) TH_LOG("round %ld, page %ld", rounds, i);
	}
	end_toggling(_metadata);
	EXPECT_LT(out, file_value("/proc/vmstat", "pswpout"));
	TH_LOG("%ld rounds", rounds);
	ASSERT_EQ(0, munmap(p, LEN));
	close(fd);
}

/* --- writeback ------------------------------------------------------------------------ */

#define DEV "/dev/ram1"

static char *mapped;

static void *syncer(void *arg)
{
	while (!stop)
		if (msync(mapped, LEN, MS_SYNC))
			wrong++;
	return NULL;
}

static void *counter(void *arg)
{
	unsigned int r = 77;
	uint64_t n;

	for (n = 1; !stop; n++)
		*word(mapped, next(&r) % USED) = n;
	return NULL;
}

/*
 * Writeback protects a page, so that the next write is noticed. Were the protection put
 * on an entry that had been copied, that write would never reach the device.
 */
RACE_TEST(no_write_escapes_msync)
{
	int fd = open(DEV, O_RDWR | O_CLOEXEC), direct = open(DEV, O_RDONLY | O_DIRECT | O_CLOEXEC);
	static char page[PAGE] __attribute__((aligned(4096)));
	double end = seconds() + 2 * SECONDS;
	pthread_t t[2];
	long rounds, i;

	NEED_FLATTEN;
	if (fd < 0 || direct < 0)
		SKIP(return, "no " DEV " of 128 MiB");
	mapped = map_file(fd);
	ASSERT_NE(MAP_FAILED, mapped);
	for (rounds = 0; seconds() < end || rounds < 2; rounds++) {
		start_toggling(_metadata, AT, 0, 0, 0);
		ASSERT_EQ(0, pthread_create(&t[0], NULL, syncer, NULL));
		ASSERT_EQ(0, pthread_create(&t[1], NULL, counter, NULL));
		msleep(1000);
		end_toggling(_metadata);
		pthread_join(t[0], NULL);
		pthread_join(t[1], NULL);
		ASSERT_EQ(0, wrong);
		ASSERT_EQ(0, msync(mapped, LEN, MS_SYNC));
		for (i = 0; i < USED; i++) {
			ASSERT_EQ((ssize_t)PAGE, pread(direct, page, PAGE, i * EVERY * PAGE));
			ASSERT_EQ(*word(mapped, i), *word(page, 0))
				TH_LOG("round %ld: page %ld is not on the device", rounds, i);
		}
	}
	ASSERT_EQ(0, munmap(mapped, LEN));
	close(fd);
	close(direct);
}

/* --- truncation ------------------------------------------------------------------------- */

RACE_TEST(while_it_is_truncated)
{
	int fd = memfd_create("fpt", MFD_CLOEXEC);
	double end = seconds() + SECONDS;
	long rounds = 0, i;
	unsigned int r = 5;
	char *p;

	NEED_FLATTEN;
	ASSERT_LE(0, fd);
	ASSERT_EQ(0, ftruncate(fd, LEN));
	p = map_file(fd);
	ASSERT_NE(MAP_FAILED, p);
	start_toggling(_metadata, AT, 0, 0, 0);
	for (; go_on(end) || rounds < 5; rounds++) {
		long keep = 1 + next(&r) % (USED - 1);

		for (i = 0; i < USED; i++)
			*word(p, i) = pat(rounds, i);
		ASSERT_EQ(0, ftruncate(fd, keep * EVERY * PAGE));
		for (i = keep; i < USED; i += 1 + USED / 16)
			EXPECT_EQ(SIGBUS, try_access(word(p, i), false));
		for (i = 0; i < keep; i++)
			ASSERT_EQ(pat(rounds, i), *word(p, i));
		ASSERT_EQ(0, ftruncate(fd, LEN));
		for (i = 0; i < USED; i++)
			ASSERT_EQ(i < keep ? pat(rounds, i) : 0, *word(p, i));
	}
	end_toggling(_metadata);
	TH_LOG("%ld rounds", rounds);
	ASSERT_EQ(0, munmap(p, LEN));
	close(fd);
}

/* --- two processes ------------------------------------------------------------------------ */

/* Each flattens its own tables of a file that the other writes, too. */
RACE_TEST(two_processes_one_file)
{
	int fd = memfd_create("fpt", MFD_CLOEXEC), k;
	volatile long *turn = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	pid_t pid[2];

	NEED_FLATTEN;
	ASSERT_LE(0, fd);
	ASSERT_NE(MAP_FAILED, turn);
	ASSERT_EQ(0, ftruncate(fd, LEN));
	for (k = 0; k < 2; k++) {
		pid[k] = fork();
		if (!pid[k]) {
			double end = seconds() + SECONDS;
			char *p = map_file(fd);
			long i, n = 0;

			CHILD_CHECK(p != MAP_FAILED);
			start_toggling(_metadata, AT, 0, 0, 0);
			/* even turns are the first one's; who has it reads what the other wrote */
			while (go_on(end) && *turn >= 0) {
				if (*turn % 2 != k)
					continue;
				for (i = 0; i < USED; i += 7)
					CHILD_CHECK(*word(p, i) == (uint64_t)*turn);
				for (i = 0; i < USED; i += 7)
					*word(p, i) = *turn + 1;
				n++;
				__sync_fetch_and_add(turn, 1);
			}
			stop = true;
			pthread_join(toggling, NULL);
			CHILD_CHECK(n > 0 && !toggle.other && toggle.flattened && toggle.unflattened);
			CHILD_CHECK(tables_ok(0));
			_exit(0);
		}
	}
	EXPECT_EQ(0, reap(pid[0]));
	EXPECT_EQ(0, reap(pid[1]));
	TH_LOG("%ld turns", *turn);
	close(fd);
}

/* Tables of a file are taken away in all processes when its pages become huge. */
RACE_TEST(while_the_file_becomes_huge)
{
	double end = seconds() + SECONDS;
	long rounds = 0, huge = 0, i;

	NEED_FLATTEN;
	for (; seconds() < end || rounds < 2; rounds++) {
		int fd = patterned_file(3 * 512, 20), k;
		char *p;

		ASSERT_LE(0, fd);
		p = mmap((void *)AT, 3 * HUGE, PROT_READ | PROT_WRITE, MAP_SHARED |
			 MAP_FIXED_NOREPLACE, fd, 0);
		ASSERT_NE(MAP_FAILED, p);
		start_toggling(_metadata, AT, 0, -EBUSY, -ENOMEM);
		for (i = 0; i < 20; i++) {
			ASSERT_EQ(-1, bad(p, 3 * 512, PAGE, 20));
			for (k = 0; k < 3; k++)
				huge += !madvise(p + k * HUGE, HUGE, MADV_COLLAPSE);
			ASSERT_EQ(-1, bad(p, 3 * 512, PAGE, 20));
			ASSERT_EQ(0, fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
					       i % 3 * HUGE + PAGE, PAGE));
			EXPECT_TRUE(page_zero(p + i % 3 * HUGE + PAGE));
			page_set(p + i % 3 * HUGE + PAGE, 20, i % 3 * 512 + 1);
		}
		stop = true;
		pthread_join(toggling, NULL);
		EXPECT_EQ(0, toggle.other);
		EXPECT_TRUE(tables_ok(0));
		ASSERT_EQ(0, munmap(p, 3 * HUGE));
		close(fd);
	}
	EXPECT_LT(0, huge);
	TH_LOG("%ld rounds, %ld collapsed", rounds, huge);
}

TEST_HARNESS_MAIN
