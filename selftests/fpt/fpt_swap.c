// SPDX-License-Identifier: GPL-2.0
/* Swap out, swap in and swapoff, on a zram device that this program sets up. */
#include "fpt_util.h"
#include <sys/swap.h>
#include "../kselftest_harness.h"

#define DEV "/dev/zram0"

FIXTURE(fpt) { enum fpt_mode mode; const char *why; };

/* A swap header by hand: no mkswap needed. */
static const char *swap_setup(void)
{
	char page[4096] = { 0 };
	uint32_t *info = (uint32_t *)(page + 1024);
	int fd;

	swapoff(DEV);
	write_text("/sys/block/zram0/reset", "1");
	if (write_text("/sys/block/zram0/disksize", "268435456"))
		return "no zram0 that can be set up";
	fd = open(DEV, O_WRONLY);
	if (fd < 0)
		return "no " DEV;
	info[0] = 1;			/* version */
	info[1] = 268435456 / 4096 - 1;	/* last page */
	memcpy(page + 4086, "SWAPSPACE2", 10);
	if (write(fd, page, 4096) != 4096 || fsync(fd)) {
		close(fd);
		return "cannot write to " DEV;
	}
	close(fd);
	return swapon(DEV, 0) ? "swapon failed" : NULL;
}

FIXTURE_SETUP(fpt)
{
	self->mode = fpt_mode();
	self->why = swap_setup();
}

FIXTURE_TEARDOWN(fpt)
{
	if (!self->why) {
		swapoff(DEV);
		write_text("/sys/block/zram0/reset", "1");
	}
}

#define NEED_SWAP do { if (self->why) SKIP(return, "%s", self->why); } while (0)

static long swapped(const char *p, long n, size_t stride)
{
	int fd = open("/proc/self/pagemap", O_RDONLY);
	long i, k = 0;

	for (i = 0; i < n; i++) {
		uint64_t v = 0;

		if (pread(fd, &v, 8, ((unsigned long)p + i * stride) / PAGE * 8) == 8)
			k += v >> 62 & 1;
	}
	close(fd);
	return k;
}

/* Asks until most of the pages are out. */
static long page_out(char *p, size_t len, long n, size_t stride)
{
	long k = 0;
	int i;

	for (i = 0; i < 20 && k < n; i++) {
		if (madvise(p, len, MADV_PAGEOUT))
			return -1;
		k = swapped(p, n, stride);
	}
	return k;
}

FPT_TEST(out_and_in)
{
	char *p = map_at(BASE + SPAN - HUGE, 2 * HUGE);

	NEED_SWAP;
	ASSERT_NE(MAP_FAILED, p);
	fill(p, 1024, PAGE, 1);
	ASSERT_LT(900, page_out(p, 2 * HUGE, 1024, PAGE));
	EXPECT_EQ(-1, bad(p, 1024, PAGE, 1));
	EXPECT_EQ(0, swapped(p, 1024, PAGE));
	fill(p, 1024, PAGE, 2);
	EXPECT_EQ(-1, bad(p, 1024, PAGE, 2));
}

FPT_TEST(sparse_over_spans)
{
	char *p = map_at(BASE, 2 * SPAN);

	NEED_SWAP;
	ASSERT_NE(MAP_FAILED, p);
	fill(p, 64, SPAN / 32, 3);
	ASSERT_LT(50, page_out(p, 2 * SPAN, 64, SPAN / 32));
	EXPECT_EQ(-1, bad(p, 64, SPAN / 32, 3));
}

FPT_TEST(swapoff_brings_all_back)
{
	char *p = map_at(BASE + GIB - HUGE, 2 * HUGE), *q = map_at(BASE + SPAN, SPAN);

	NEED_SWAP;
	ASSERT_NE(MAP_FAILED, p);
	ASSERT_NE(MAP_FAILED, q);
	fill(p, 1024, PAGE, 4);
	fill(q, 16, 32 * GIB, 5);
	ASSERT_LT(900, page_out(p, 2 * HUGE, 1024, PAGE));
	ASSERT_LT(10, page_out(q, SPAN, 16, 32 * GIB));
	ASSERT_EQ(0, swapoff(DEV));
	self->why = "off already";
	EXPECT_EQ(0, swapped(p, 1024, PAGE));
	EXPECT_EQ(0, swapped(q, 16, 32 * GIB));
	EXPECT_EQ(-1, bad(p, 1024, PAGE, 4));
	EXPECT_EQ(-1, bad(q, 16, 32 * GIB, 5));
	write_text("/sys/block/zram0/reset", "1");
}

FPT_TEST(swapoff_with_forked_children)
{
	char *p = map_at(BASE + GIB - HUGE, 2 * HUGE);
	int up[2], down[2], i;
	pid_t pid[4];
	char c;

	NEED_SWAP;
	ASSERT_NE(MAP_FAILED, p);
	ASSERT_EQ(0, pipe(up));
	ASSERT_EQ(0, pipe(down));
	fill(p, 1024, PAGE, 6);
	ASSERT_LT(900, page_out(p, 2 * HUGE, 1024, PAGE));
	for (i = 0; i < 4; i++) {
		pid[i] = fork();
		if (!pid[i]) {
			fill(p + i * 64 * PAGE, 64, PAGE, 10 + i);
			CHILD_CHECK(write(up[1], "x", 1) == 1);
			CHILD_CHECK(read(down[0], &c, 1) == 1);
			CHILD_CHECK(bad(p + i * 64 * PAGE, 64, PAGE, 10 + i) == -1);
			CHILD_CHECK(page_ok(p + 1023 * PAGE, 6, 1023));
			_exit(0);
		}
	}
	for (i = 0; i < 4; i++)
		ASSERT_EQ(1, read(up[0], &c, 1));
	EXPECT_EQ(0, swapoff(DEV));
	self->why = "off already";
	ASSERT_EQ(4, write(down[1], "xxxx", 4));
	for (i = 0; i < 4; i++)
		EXPECT_EQ(0, reap(pid[i]));
	EXPECT_EQ(-1, bad(p, 1024, PAGE, 6));
	write_text("/sys/block/zram0/reset", "1");
}

FPT_TEST(swapped_memory_moves)
{
	char *p = map_at(BASE, 2 * HUGE), *q;

	NEED_SWAP;
	ASSERT_NE(MAP_FAILED, p);
	fill(p, 1024, PAGE, 7);
	ASSERT_LT(900, page_out(p, 2 * HUGE, 1024, PAGE));
	q = mremap(p, 2 * HUGE, 2 * HUGE, MREMAP_MAYMOVE | MREMAP_FIXED, BASE + SPAN + HUGE);
	ASSERT_EQ((void *)(BASE + SPAN + HUGE), q);
	EXPECT_EQ(-1, bad(q, 1024, PAGE, 7));
}

FPT_TEST(swapped_memory_is_unmapped)
{
	long before;
	char *p = map_at(BASE + SPAN - HUGE, 2 * HUGE);

	NEED_SWAP;
	ASSERT_NE(MAP_FAILED, p);
	before = vmpte_kb(0);
	fill(p, 1024, PAGE, 8);
	ASSERT_LT(900, page_out(p, 2 * HUGE, 1024, PAGE));
	ASSERT_EQ(0, munmap(p, 2 * HUGE));
	EXPECT_EQ(before, vmpte_kb(0));
	p = map_at(BASE + SPAN - HUGE, 2 * HUGE);
	EXPECT_EQ(-1, bad_zero(p, 1024, PAGE));
}

TEST_HARNESS_MAIN
