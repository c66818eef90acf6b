// SPDX-License-Identifier: GPL-2.0
/* What /proc, mincore and friends say must agree with what was touched. */
#include "fpt_util.h"
#include <linux/fs.h>
#include "../kselftest_harness.h"

FPT_FIXTURE

#define PM_PRESENT	(1ULL << 63)
#define PM_SWAP		(1ULL << 62)
#define PM_EXCLUSIVE	(1ULL << 56)
#define PM_SOFT_DIRTY	(1ULL << 55)
#define PM_PFN		((1ULL << 55) - 1)

static int pagemap = -1;

static uint64_t pm(const void *p)
{
	uint64_t v = 0;

	if (pagemap < 0)
		pagemap = open("/proc/self/pagemap", O_RDONLY);
	if (pread(pagemap, &v, 8, (unsigned long)p / PAGE * 8) != 8)
		return 0;
	return v;
}

static const unsigned long off[] = {
	0, PAGE, 5 * PAGE, HUGE - PAGE, HUGE, 3 * HUGE + 7 * PAGE, GIB - PAGE, GIB, GIB + HUGE,
	SPAN - PAGE, SPAN, SPAN + PAGE, SPAN + HUGE, SPAN + GIB, SPAN + GIB + 9 * PAGE,
};

static bool is_touched(unsigned long o)
{
	size_t i;

	for (i = 0; i < ARRAY_SIZE(off); i++)
		if (off[i] == o)
			return true;
	return false;
}

static char *scene(void)
{
	char *p = map_at(BASE, 2 * SPAN);
	size_t i;

	if (p == MAP_FAILED)
		return p;
	for (i = 0; i < ARRAY_SIZE(off); i++)
		page_set(p + off[i], 1, i);
	return p;
}

FPT_TEST(pagemap_entries)
{
	char *p = scene();
	size_t i;

	ASSERT_NE(MAP_FAILED, p);
	for (i = 0; i < ARRAY_SIZE(off); i++) {
		EXPECT_NE(0, pm(p + off[i]) & PM_PRESENT) TH_LOG("offset %#lx", off[i]);
		if (!is_touched(off[i] + PAGE))
			EXPECT_EQ(0, pm(p + off[i] + PAGE) & PM_PRESENT);
		EXPECT_EQ(0, pm(p + off[i] + 100 * GIB) & PM_PRESENT);
	}
}

FPT_TEST(pagemap_in_one_read)
{
	/* 3 GiB over a border: holes, tables and nodes in one walk */
	char *p = scene();
	size_t len = 3 * GIB, n = len / PAGE, i, wrong = 0, seen = 0;
	uint64_t *v = malloc(n * 8);
	unsigned long from = BASE + SPAN - GIB;
	int fd = open("/proc/self/pagemap", O_RDONLY);

	ASSERT_NE(MAP_FAILED, p);
	ASSERT_EQ((ssize_t)(n * 8), pread(fd, v, n * 8, from / PAGE * 8));
	for (i = 0; i < n; i++) {
		bool t = is_touched(from + i * PAGE - BASE);

		seen += !!(v[i] & PM_PRESENT);
		wrong += t != !!(v[i] & PM_PRESENT);
	}
	EXPECT_EQ(0, wrong);
	EXPECT_EQ(6, seen);
}

FPT_TEST(pagemap_frames_differ)
{
	char *p = scene();
	size_t i, j;

	ASSERT_NE(MAP_FAILED, p);
	if (!(pm(p) & PM_PFN))
		SKIP(return, "frame numbers need CAP_SYS_ADMIN");
	for (i = 0; i < ARRAY_SIZE(off); i++)
		for (j = 0; j < i; j++)
			EXPECT_NE(pm(p + off[i]) & PM_PFN, pm(p + off[j]) & PM_PFN);
}

FPT_TEST(pagemap_after_fork)
{
	char *p = scene();
	uint64_t mine;
	pid_t pid;

	ASSERT_NE(MAP_FAILED, p);
	mine = pm(p + SPAN);
	if (!(mine & PM_PFN))
		SKIP(return, "frame numbers need CAP_SYS_ADMIN");
	close(pagemap);
	pagemap = -1;
	pid = fork();
	if (!pid) {
		CHILD_CHECK((pm(p + SPAN) & PM_PFN) == (mine & PM_PFN));
		CHILD_CHECK(!(pm(p + SPAN) & PM_EXCLUSIVE));
		page_set(p + SPAN, 2, 0);
		CHILD_CHECK((pm(p + SPAN) & PM_PFN) != (mine & PM_PFN));
		_exit(0);
	}
	EXPECT_EQ(0, reap(pid));
	EXPECT_EQ(mine & PM_PFN, pm(p + SPAN) & PM_PFN);
}

FPT_TEST(pagemap_follows_mremap)
{
	char *p = scene(), *q;
	uint64_t a, b;

	ASSERT_NE(MAP_FAILED, p);
	a = pm(p + GIB) & PM_PFN;
	b = pm(p + GIB + HUGE) & PM_PFN;
	q = mremap(p + GIB, GIB, GIB, MREMAP_MAYMOVE | MREMAP_FIXED, BASE + 3 * SPAN);
	ASSERT_EQ((void *)(BASE + 3 * SPAN), q);
	EXPECT_EQ(a, pm(q) & PM_PFN);
	EXPECT_EQ(b, pm(q + HUGE) & PM_PFN);
	EXPECT_EQ(0, pm(p + GIB));
}

FPT_TEST(soft_dirty)
{
	char *p = scene();
	size_t i;

	ASSERT_NE(MAP_FAILED, p);
	if (!(pm(p) & PM_SOFT_DIRTY))
		SKIP(return, "kernel without soft dirty");
	ASSERT_EQ(0, write_text("/proc/self/clear_refs", "4"));
	page_set(p + GIB, 3, 0);
	page_set(p + SPAN + HUGE, 3, 1);
	for (i = 0; i < ARRAY_SIZE(off); i++) {
		bool d = off[i] == GIB || off[i] == SPAN + HUGE;

		EXPECT_EQ(d, !!(pm(p + off[i]) & PM_SOFT_DIRTY)) TH_LOG("offset %#lx", off[i]);
	}
}

FPT_TEST(clear_referenced)
{
	char *p = scene();

	ASSERT_NE(MAP_FAILED, p);
	ASSERT_EQ(0, write_text("/proc/self/clear_refs", "1"));
	for (size_t i = 0; i < ARRAY_SIZE(off); i++)
		EXPECT_TRUE(page_ok(p + off[i], 1, i));
}

#ifdef PAGEMAP_SCAN
FPT_TEST(pagemap_scan)
{
	struct page_region r[32];
	struct pm_scan_arg a = {
		.size = sizeof(a), .start = BASE, .end = BASE + 2 * SPAN,
		.vec = (unsigned long)r, .vec_len = 32,
		.category_mask = PAGE_IS_PRESENT, .return_mask = PAGE_IS_PRESENT,
	};
	char *p = scene();
	long n, pages = 0, i;

	ASSERT_NE(MAP_FAILED, p);
	pm(p);
	n = ioctl(pagemap, PAGEMAP_SCAN, &a);
	if (n < 0 && errno == ENOTTY)
		SKIP(return, "kernel without PAGEMAP_SCAN");
	ASSERT_LT(0, n);
	for (i = 0; i < n; i++) {
		pages += (r[i].end - r[i].start) / PAGE;
		EXPECT_TRUE(is_touched(r[i].start - BASE));
	}
	EXPECT_EQ(ARRAY_SIZE(off), pages);
}
#endif

static long smaps(unsigned long start, const char *name)
{
	static char buf[1 << 20];
	char head[32], *p;

	if (read_text("/proc/self/smaps", buf, sizeof(buf)) < 0)
		return -1;
	snprintf(head, sizeof(head), "%lx-", start);
	p = strstr(buf, head);
	return p ? find_value(p, name) : -1;
}

FPT_TEST(smaps_counts)
{
	char *p = scene();

	ASSERT_NE(MAP_FAILED, p);
	EXPECT_EQ(ARRAY_SIZE(off) * 4, smaps(BASE, "Rss"));
	EXPECT_EQ(ARRAY_SIZE(off) * 4, smaps(BASE, "Private_Dirty"));
	EXPECT_EQ(ARRAY_SIZE(off) * 4, smaps(BASE, "Anonymous"));
	ASSERT_EQ(0, madvise(p + SPAN, SPAN, MADV_DONTNEED));
	EXPECT_EQ(10 * 4, smaps(BASE, "Rss"));
}

FPT_TEST(smaps_after_fork)
{
	char *p = scene();
	pid_t pid;

	ASSERT_NE(MAP_FAILED, p);
	pid = fork();
	if (!pid) {
		CHILD_CHECK(smaps(BASE, "Shared_Dirty") == ARRAY_SIZE(off) * 4);
		page_set(p, 4, 0);
		CHILD_CHECK(smaps(BASE, "Private_Dirty") == 4);
		_exit(0);
	}
	EXPECT_EQ(0, reap(pid));
}

FPT_TEST(status_rss)
{
	long before = proc_kb(0, "status", "RssAnon"), now;
	char *p = scene();

	ASSERT_NE(MAP_FAILED, p);
	now = proc_kb(0, "status", "RssAnon");
	EXPECT_LE(before + (long)ARRAY_SIZE(off) * 4, now);
	EXPECT_GE(before + (long)ARRAY_SIZE(off) * 4 + 64, now);
	ASSERT_EQ(0, munmap(p, 2 * SPAN));
	EXPECT_GE(before + 64, proc_kb(0, "status", "RssAnon"));
}

FPT_TEST(mincore_over_a_border)
{
	int fd = memfd_create("fpt", 0), i;
	unsigned char vec[1024];
	char *p;

	ASSERT_EQ(0, ftruncate(fd, 2 * HUGE));
	p = mmap((void *)(BASE + SPAN - HUGE), 2 * HUGE, PROT_READ | PROT_WRITE,
		 MAP_SHARED | MAP_FIXED_NOREPLACE, fd, 0);
	ASSERT_EQ((void *)(BASE + SPAN - HUGE), p);
	for (i = 0; i < 1024; i += 37)
		page_set(p + i * PAGE, 5, i);
	ASSERT_EQ(0, mincore(p, 2 * HUGE, vec));
	for (i = 0; i < 1024; i++)
		ASSERT_EQ(i % 37 == 0, vec[i] & 1) TH_LOG("page %d", i);
}

FPT_TEST(mincore_anonymous)
{
	char *p = scene();
	unsigned char vec[1024];
	int i;

	ASSERT_NE(MAP_FAILED, p);
	ASSERT_EQ(0, mincore(p + SPAN - HUGE, 2 * HUGE, vec));
	for (i = 0; i < 1024; i++)
		ASSERT_EQ(is_touched(SPAN - HUGE + i * PAGE), vec[i] & 1) TH_LOG("page %d", i);
}

FPT_TEST(maps_and_numa_files_can_be_read)
{
	static const char *const f[] = { "maps", "smaps", "smaps_rollup", "statm", "status" };
	static char buf[1 << 20];
	char path[64];
	size_t i;

	ASSERT_NE(MAP_FAILED, scene());
	for (i = 0; i < ARRAY_SIZE(f); i++) {
		snprintf(path, sizeof(path), "/proc/self/%s", f[i]);
		EXPECT_LT(0, read_text(path, buf, sizeof(buf))) TH_LOG("%s", f[i]);
	}
}

FPT_TEST(ptdump_of_this_process)
{
	FILE *f = fopen("/sys/kernel/debug/page_tables/current_user", "r");
	unsigned long from, to, here = 0, kernel = 0;
	char line[256];

	if (!f)
		f = fopen("/sys/kernel/debug/page_tables/current_kernel", "r");
	if (!f)
		SKIP(return, "kernel without PTDUMP_DEBUGFS");
	ASSERT_NE(MAP_FAILED, scene());
	/* "0xFROM-0xTO  SIZE  RW ... pte"; what is not there has no rights */
	while (fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%lx-%lx", &from, &to) != 2 || !strstr(line, " RW "))
			continue;
		if (from >= BASE && to <= BASE + 2 * SPAN)
			here += (to - from) / PAGE;
		kernel += from >> 63;
	}
	EXPECT_EQ(0, ferror(f));
	fclose(f);
	EXPECT_EQ(ARRAY_SIZE(off), here);
	EXPECT_LT(0, kernel);
}

TEST_HARNESS_MAIN
