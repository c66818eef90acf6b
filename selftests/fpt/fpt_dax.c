// SPDX-License-Identifier: GPL-2.0
/*
 * Device memory is mapped by entries of 2 MiB and by nothing smaller: each has to find
 * a table that hardware reads, also where small pages made the span flat before.
 *
 * Needs the debug image, and memory to call a device: memmap=256M!1G.
 */
#include "fpt_util.h"
#include "../kselftest_harness.h"

#include <sys/resource.h>

FPT_FIXTURE;

#define ND	"/sys/bus/nd/"
#define DEV	"/dev/dax0.0"
#define PAGES	16L	/* huge ones */
#define LEN	(PAGES * HUGE)
#define SMALL	(PAGES * 512)
#define AT	(BASE + 16 * HUGE)

/* Makes DEV of the first region of persistent memory. NULL, or why not. */
static const char *device(void)
{
	static const char *const steps[][2] = {
		{ ND "devices/dax0.0/uuid", "1c4d5f3e-33ab-4d0b-9e0e-0f0c2a7b6d11" },
		{ ND "devices/dax0.0/align", "2097152" },
		{ ND "devices/dax0.0/mode", "ram" },
		{ ND "devices/dax0.0/namespace", "namespace0.0" },
		{ ND "drivers/dax_pmem/bind", "dax0.0" },
	};
	unsigned int i;

	if (!access(DEV, R_OK | W_OK))
		return NULL;
	write_text(ND "drivers/nd_pmem/unbind", "namespace0.0");
	for (i = 0; i < sizeof(steps) / sizeof(steps[0]); i++)
		if (write_text(steps[i][0], steps[i][1]))
			return steps[i][0];
	for (i = 0; i < 50 && access(DEV, R_OK | W_OK); i++)
		msleep(100);
	return i < 50 ? NULL : "no " DEV;
}

static long faults(void)
{
	struct rusage r;

	getrusage(RUSAGE_SELF, &r);
	return r.ru_minflt;
}

static char *map_device(unsigned long at)
{
	int fd = open(DEV, O_RDWR);
	char *p = mmap((void *)at, LEN, PROT_READ | PROT_WRITE,
		       MAP_SHARED | MAP_FIXED_NOREPLACE, fd, 0);

	close(fd);
	return p;
}

#define NEED_DEVICE do {						\
	const char *_why;						\
	if (access(DEV, F_OK) && access(ND "devices/dax0.0", F_OK))	\
		SKIP(return, "no device memory (debug image, memmap=256M!1G)"); \
	_why = device();						\
	ASSERT_EQ(NULL, _why) TH_LOG("%s", _why);			\
} while (0)

FPT_TEST(by_huge_entries)
{
	long n;
	char *p;
	int i;

	NEED_DEVICE;
	p = map_device(AT);
	ASSERT_NE(MAP_FAILED, (void *)p);
	for (i = 1; i < 3; i++) {
		n = faults();
		fill(p, SMALL, PAGE, i);
		EXPECT_EQ(PAGES, faults() - n);
		EXPECT_EQ(-1, bad(p, SMALL, PAGE, i));
		/* the entries go, the contents stay */
		ASSERT_EQ(0, madvise(p, LEN, MADV_DONTNEED));
	}
	EXPECT_EQ(-1, bad(p, SMALL, PAGE, 2));
}

FPT_TEST(in_a_flat_span)
{
	char *small = map_at(BASE, PAGE), *p;
	long flat, unflat, nodes;

	NEED_DEVICE;
	ASSERT_NE(MAP_FAILED, (void *)small);
	flat = fpt_nodes(0).bottom;
	page_set(small, 1, 1);
	flat = fpt_nodes(0).bottom - flat;
	unflat = fpt_stat0("unflat");
	nodes = fpt_nodes(0).bottom;
	p = map_device(AT);
	ASSERT_NE(MAP_FAILED, (void *)p);
	/* the mapping changes nothing; the first entry unflattens the node, which stays */
	EXPECT_EQ(unflat, fpt_stat0("unflat"));
	fill(p, SMALL, PAGE, 5);
	EXPECT_EQ(unflat + flat, fpt_stat0("unflat"));
	EXPECT_EQ(nodes, fpt_nodes(0).bottom);
	EXPECT_EQ(-1, bad(p, SMALL, PAGE, 5));
	EXPECT_TRUE(page_ok(small, 1, 1));
	ASSERT_EQ(0, munmap(p, LEN));
	EXPECT_TRUE(page_ok(small, 1, 1));
	/* and small pages where the huge ones were */
	p = map_at(AT, LEN);
	ASSERT_NE(MAP_FAILED, (void *)p);
	fill(p, SMALL, PAGE, 6);
	EXPECT_EQ(-1, bad(p, SMALL, PAGE, 6));
}

FPT_TEST(shared_with_a_child)
{
	pid_t pid;
	char *p;

	NEED_DEVICE;
	p = map_device(AT);
	ASSERT_NE(MAP_FAILED, (void *)p);
	fill(p, SMALL, PAGE, 7);
	pid = fork();
	if (!pid) {
		CHILD_CHECK(bad(p, SMALL, PAGE, 7) == -1);
		fill(p + 3 * HUGE, 512, PAGE, 8);
		CHILD_CHECK(munmap(p + HUGE, HUGE) == 0);
		CHILD_CHECK(try_access(p + HUGE, false) == SIGSEGV);
		_exit(0);
	}
	EXPECT_EQ(0, reap(pid));
	EXPECT_EQ(-1, bad(p, 3 * 512, PAGE, 7));
	EXPECT_EQ(-1, bad(p + 3 * HUGE, 512, PAGE, 8));
}

FPT_TEST(protected_moved_unmapped)
{
	char *p, *q;
	long n;

	NEED_DEVICE;
	p = map_device(AT);
	ASSERT_NE(MAP_FAILED, (void *)p);
	fill(p, SMALL, PAGE, 9);
	ASSERT_EQ(0, mprotect(p + 2 * HUGE, 2 * HUGE, PROT_READ));
	EXPECT_EQ(0, try_access(p + 2 * HUGE, false));
	EXPECT_EQ(SIGSEGV, try_access(p + 4 * HUGE - 1, true));
	EXPECT_EQ(0, try_access(p + 4 * HUGE, true));
	ASSERT_EQ(0, mprotect(p + 2 * HUGE, 2 * HUGE, PROT_READ | PROT_WRITE));
	EXPECT_EQ(0, try_access(p + 2 * HUGE, true));
	EXPECT_EQ(-1, bad(p, SMALL, PAGE, 9));

	/* entries move whole, across nodes, and are not faulted in again */
	q = mremap(p, LEN, LEN, MREMAP_MAYMOVE | MREMAP_FIXED,
		   (void *)(BASE + 2 * SPAN + 3 * GIB + HUGE));
	ASSERT_NE(MAP_FAILED, (void *)q);
	n = faults();
	EXPECT_EQ(-1, bad(q, SMALL, PAGE, 9));
	EXPECT_EQ(0, faults() - n);
	EXPECT_EQ(SIGSEGV, try_access(p, false));
	ASSERT_EQ(0, munmap(q + HUGE, (PAGES - 2) * HUGE));
	EXPECT_EQ(-1, bad(q, 512, PAGE, 9));
	EXPECT_EQ(SIGSEGV, try_access(q + HUGE, false));
	EXPECT_TRUE(page_ok(q + LEN - PAGE, 9, SMALL - 1));
}

FPT_TEST(pages_are_found_from_outside)
{
	struct iovec here, there;
	char copy[PAGE];
	int ends[2];
	char *p;
	long i;

	NEED_DEVICE;
	p = map_device(AT);
	ASSERT_NE(MAP_FAILED, (void *)p);
	fill(p, SMALL, PAGE, 10);
	ASSERT_EQ(0, pipe(ends));
	for (i = 5; i < SMALL; i += 511) {
		here = (struct iovec){ copy, PAGE };
		there = (struct iovec){ p + i * PAGE, PAGE };
		ASSERT_EQ((long)PAGE, process_vm_readv(getpid(), &here, 1, &there, 1, 0));
		EXPECT_TRUE(page_ok(copy, 10, i));
		memset(copy, 0, PAGE);
		ASSERT_EQ((long)PAGE, vmsplice(ends[1], &there, 1, 0));
		ASSERT_EQ((long)PAGE, read(ends[0], copy, PAGE));
		EXPECT_TRUE(page_ok(copy, 10, i));
	}
}

TEST_HARNESS_MAIN
