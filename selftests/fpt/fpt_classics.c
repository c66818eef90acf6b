// SPDX-License-Identifier: GPL-2.0
/*
 * What every memory management must get right: arguments at the edges, holes,
 * limits, growth, files that end, other processes, reservations. All of it across
 * a border of 512 GiB, and with the answers that an unpatched kernel gives.
 */
#include "fpt_util.h"
#include <linux/mman.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include "../kselftest_harness.h"

FPT_FIXTURE

#define MID	(BASE + SPAN)		/* a border of every size */
#define RW	(PROT_READ | PROT_WRITE)
#define ANON	(MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE)
#define TOP	0x7ffffffff000UL	/* end of user space with 4 levels */

#ifndef SYS_process_madvise
#define SYS_process_madvise 440
#endif
#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif

/* errno of a call that must fail; 0 if it did not */
#define ERRNO(call) ((long)(call) == -1 ? errno : 0)

#define EXPECT_ERRNO(want, call) do {						\
	int _e = ERRNO(call);							\
	EXPECT_EQ(want, _e) TH_LOG("%s: expected errno %d, found %d", #call, want, _e); \
} while (0)

static char *fixed(unsigned long addr, size_t len, int prot)
{
	return mmap((void *)addr, len, prot, ANON | MAP_FIXED, -1, 0);
}

static bool present(const void *p)
{
	unsigned char v = 0;

	return !mincore((void *)((unsigned long)p & ~(PAGE - 1)), PAGE, &v) && (v & 1);
}

static int value_of(const char *path)
{
	char buf[64];

	return read_text(path, buf, sizeof(buf)) < 0 ? -1 : atoi(buf);
}

/* --- arguments ---------------------------------------------------------------- */

FPT_TEST(mmap_arguments)
{
	int fd = patterned_file(1, 1);

	EXPECT_ERRNO(EINVAL, mmap(NULL, 0, RW, ANON, -1, 0));
	EXPECT_ERRNO(ENOMEM, mmap(NULL, -1UL, RW, ANON, -1, 0));
	EXPECT_ERRNO(ENOMEM, mmap(NULL, -PAGE, RW, ANON, -1, 0));
	EXPECT_ERRNO(ENOMEM, mmap((void *)MID, -MID, RW, ANON | MAP_FIXED, -1, 0));
	EXPECT_ERRNO(EINVAL, mmap((void *)(MID + 1), PAGE, RW, ANON | MAP_FIXED, -1, 0));
	EXPECT_ERRNO(EINVAL, mmap(NULL, PAGE, RW, MAP_ANONYMOUS, -1, 0));
	EXPECT_ERRNO(EBADF, mmap(NULL, PAGE, RW, MAP_PRIVATE, -1, 0));
	EXPECT_ERRNO(EINVAL, syscall(SYS_mmap, 0, PAGE, PROT_READ, MAP_SHARED, fd, 1L));
	EXPECT_ERRNO(EOVERFLOW, syscall(SYS_mmap, 0, PAGE, PROT_READ, MAP_SHARED, fd, -PAGE));
}

FPT_TEST(top_of_the_address_space)
{
	char *p;

	EXPECT_ERRNO(ENOMEM, fixed(TOP, PAGE, RW));
	EXPECT_ERRNO(ENOMEM, fixed(TOP - PAGE, 2 * PAGE, RW));
	EXPECT_ERRNO(ENOMEM, fixed(1UL << 47, PAGE, RW));
	EXPECT_ERRNO(ENOMEM, fixed(0x800000000000UL, PAGE, RW));
	EXPECT_ERRNO(ENOMEM, fixed(0xffff800000000000UL, PAGE, RW));
	EXPECT_ERRNO(ENOMEM, fixed(0xfffffffffffff000UL, PAGE, RW));
	/* as a mere wish these count for nothing */
	p = mmap((void *)0xffff888000000000UL, PAGE, RW, ANON, -1, 0);
	ASSERT_NE(MAP_FAILED, p);
	EXPECT_LT((unsigned long)p, TOP);
	/* the last page there is */
	p = mmap((void *)(TOP - PAGE), PAGE, RW, ANON | MAP_FIXED_NOREPLACE, -1, 0);
	ASSERT_EQ((void *)(TOP - PAGE), p);
	page_set(p, 1, 0);
	EXPECT_TRUE(page_ok(p, 1, 0));
	EXPECT_EQ(SIGSEGV, try_access((void *)TOP, false));
	EXPECT_EQ(0, munmap(p, PAGE));
	EXPECT_EQ(SIGSEGV, try_access(p, false));
}

/* The compiler must not see that this is near address zero. */
static volatile char *volatile near_zero = (volatile char *)8;

FPT_TEST(address_zero)
{
	int least = value_of("/proc/sys/vm/mmap_min_addr");
	pid_t pid;

	if (least <= 0)
		SKIP(return, "mmap_min_addr is 0");
	if (geteuid())
		SKIP(return, "needs root");
	ASSERT_EQ(NULL, mmap(NULL, PAGE, RW, ANON | MAP_FIXED, -1, 0));
	*near_zero = 42;
	pid = fork();
	if (!pid) {
		CHILD_CHECK(*near_zero == 42);
		CHILD_CHECK(!setresuid(65534, 65534, 65534));
		CHILD_CHECK(!munmap(NULL, PAGE));
		CHILD_CHECK(try_access(near_zero, false) == SIGSEGV);
		CHILD_CHECK(ERRNO(fixed(0, PAGE, RW)) == EPERM);
		CHILD_CHECK(fixed(least, PAGE, RW) == (char *)(long)least);
		_exit(0);
	}
	EXPECT_EQ(0, reap(pid));
	EXPECT_EQ(42, *near_zero);
	EXPECT_EQ(0, munmap(NULL, PAGE));
	EXPECT_EQ(SIGSEGV, try_access(near_zero, false));
}

FPT_TEST(arguments_of_range_calls)
{
	char *p = map_at(MID - 2 * PAGE, 4 * PAGE);
	unsigned char vec[8];

	ASSERT_NE(MAP_FAILED, p);
	fill(p, 4, PAGE, 1);
	EXPECT_ERRNO(EINVAL, munmap(p + 1, PAGE));
	EXPECT_ERRNO(EINVAL, munmap(p, 0));
	EXPECT_ERRNO(EINVAL, munmap(p, -PAGE));
	EXPECT_ERRNO(EINVAL, munmap((void *)TOP, PAGE));
	EXPECT_ERRNO(EINVAL, mprotect(p + 1, PAGE, PROT_READ));
	EXPECT_EQ(0, mprotect(p, 0, PROT_NONE));
	EXPECT_ERRNO(ENOMEM, mprotect(p, -PAGE, PROT_NONE));
	EXPECT_ERRNO(EINVAL, mprotect(p, PAGE, PROT_READ | PROT_GROWSUP | PROT_GROWSDOWN));
	EXPECT_ERRNO(EINVAL, madvise(p + 1, PAGE, MADV_DONTNEED));
	EXPECT_ERRNO(EINVAL, madvise(p, PAGE, 12345));
	EXPECT_ERRNO(EINVAL, madvise(p, -1UL, MADV_DONTNEED));
	EXPECT_ERRNO(EINVAL, madvise(p, -PAGE, MADV_DONTNEED));
	EXPECT_EQ(0, madvise(p, 0, MADV_DONTNEED));
	EXPECT_ERRNO(EINVAL, madvise(p, PAGE, MADV_REMOVE));
	EXPECT_ERRNO(EINVAL, msync(p + 1, PAGE, MS_SYNC));
	EXPECT_ERRNO(EINVAL, msync(p, PAGE, MS_SYNC | MS_ASYNC));
	EXPECT_ERRNO(EINVAL, msync(p, PAGE, 64));
	EXPECT_ERRNO(ENOMEM, msync(p, -PAGE, MS_SYNC));
	EXPECT_ERRNO(EINVAL, mincore(p + 1, PAGE, vec));
	EXPECT_ERRNO(ENOMEM, mincore(p, -PAGE, vec));
	EXPECT_ERRNO(EFAULT, mincore(p, PAGE, (void *)8));
	EXPECT_ERRNO(EINVAL, munlock(p, -2 * PAGE));
	EXPECT_EQ(-1, bad(p, 4, PAGE, 1));
}

FPT_TEST(mremap_arguments)
{
	char *p = map_at(MID - 4 * PAGE, 8 * PAGE), *q;
	int fd = patterned_file(2, 2);

	ASSERT_NE(MAP_FAILED, p);
	fill(p, 8, PAGE, 1);
	EXPECT_ERRNO(EINVAL, mremap(p + 1, PAGE, PAGE, 0));
	EXPECT_ERRNO(EINVAL, mremap(p, PAGE, 0, 0));
	EXPECT_ERRNO(EINVAL, mremap(p, PAGE, PAGE, MREMAP_FIXED, BASE));
	EXPECT_ERRNO(EINVAL, mremap(p, PAGE, PAGE, 1024));
	EXPECT_ERRNO(EINVAL, mremap(p, 4 * PAGE, 4 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, p + 2 * PAGE));
	EXPECT_ERRNO(EINVAL, mremap(p, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, BASE + 1));
	EXPECT_ERRNO(EINVAL, mremap(p, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, TOP));
	EXPECT_ERRNO(EINVAL, mremap(p, 0, PAGE, MREMAP_MAYMOVE));	/* private memory twice */
	EXPECT_ERRNO(EFAULT, mremap((void *)BASE, PAGE, PAGE, MREMAP_MAYMOVE));
	EXPECT_ERRNO(EFAULT, mremap(p + 7 * PAGE, 2 * PAGE, 3 * PAGE, MREMAP_MAYMOVE));
	EXPECT_ERRNO(ENOMEM, mremap(p, 2 * PAGE, 9 * PAGE, 0));
	EXPECT_EQ(-1, bad(p, 8, PAGE, 1));
	/* shared memory twice: old length 0 */
	q = mmap((void *)(MID + GIB), 2 * PAGE, RW, MAP_SHARED | MAP_FIXED_NOREPLACE, fd, 0);
	ASSERT_EQ((void *)(MID + GIB), q);
	p = mremap(q, 0, 2 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, MID + SPAN - PAGE);
	ASSERT_EQ((void *)(MID + SPAN - PAGE), p);
	EXPECT_EQ(-1, bad(p, 2, PAGE, 2));
	page_set(p + PAGE, 3, 1);
	EXPECT_TRUE(page_ok(q + PAGE, 3, 1));
}

/* --- holes ---------------------------------------------------------------------- */

/* Two pages at each end of a hole of 1 TiB */
#define LOW	(MID - 2 * PAGE)
#define HIGH	(MID + 2 * SPAN)
#define ALL	(HIGH + 2 * PAGE - LOW)

#define ISLANDS(p, q)						\
	char *p = map_at(LOW, 2 * PAGE), *q = map_at(HIGH, 2 * PAGE); \
	ASSERT_NE(MAP_FAILED, p);				\
	ASSERT_NE(MAP_FAILED, q);				\
	fill(p, 2, PAGE, 1);					\
	fill(q, 2, PAGE, 2)

FPT_TEST(mprotect_stops_at_a_hole)
{
	ISLANDS(p, q);

	EXPECT_ERRNO(ENOMEM, mprotect(p, ALL, PROT_READ));
	EXPECT_EQ(SIGSEGV, try_access(p, true));
	EXPECT_EQ(SIGSEGV, try_access(p + PAGE, true));
	EXPECT_EQ(0, try_access(q, true));
	EXPECT_EQ(-1, bad(p, 2, PAGE, 1));
	EXPECT_EQ(-1, bad(q, 2, PAGE, 2));
	/* a hole at the very beginning: nothing is done */
	EXPECT_ERRNO(ENOMEM, mprotect(p - PAGE, 2 * PAGE, RW));
	EXPECT_EQ(SIGSEGV, try_access(p, true));
}

FPT_TEST(madvise_goes_on_behind_a_hole)
{
	ISLANDS(p, q);

	EXPECT_ERRNO(ENOMEM, madvise(p, ALL, MADV_DONTNEED));
	EXPECT_EQ(-1, bad_zero(p, 2, PAGE));
	EXPECT_EQ(-1, bad_zero(q, 2, PAGE));
}

FPT_TEST(mlock_and_munlock_stop_at_a_hole)
{
	ISLANDS(p, q);

	EXPECT_ERRNO(ENOMEM, mlock(p, ALL));
	EXPECT_EQ(8, proc_kb(0, "status", "VmLck"));
	EXPECT_EQ(0, mlock(q, 2 * PAGE));
	EXPECT_EQ(16, proc_kb(0, "status", "VmLck"));
	/* locked memory cannot be thrown away, nor invalidated */
	EXPECT_ERRNO(EINVAL, madvise(q, PAGE, MADV_DONTNEED));
	EXPECT_ERRNO(EBUSY, msync(q, PAGE, MS_INVALIDATE));
	EXPECT_ERRNO(ENOMEM, munlock(p, ALL));
	EXPECT_EQ(8, proc_kb(0, "status", "VmLck"));
	EXPECT_EQ(0, munlockall());
	EXPECT_EQ(0, proc_kb(0, "status", "VmLck"));
	EXPECT_EQ(-1, bad(p, 2, PAGE, 1));
	EXPECT_EQ(-1, bad(q, 2, PAGE, 2));
}

FPT_TEST(msync_mincore_and_munmap_over_a_hole)
{
	unsigned char vec[8] = { 0 };
	ISLANDS(p, q);

	EXPECT_ERRNO(ENOMEM, msync(p, ALL, MS_SYNC));
	EXPECT_ERRNO(ENOMEM, mincore(p, 4 * PAGE, vec));
	EXPECT_EQ(0, munmap(p, ALL));
	EXPECT_EQ(SIGSEGV, try_access(p, false));
	EXPECT_EQ(SIGSEGV, try_access(q + PAGE, false));
	EXPECT_EQ(0, munmap(p, ALL));
}

/* --- limits ---------------------------------------------------------------------- */

static int limit(int what, rlim_t n)
{
	struct rlimit r = { n, n };

	return setrlimit(what, &r);
}

FPT_TEST(limit_of_address_space)
{
	char *p = map_at(MID - 2 * PAGE, 4 * PAGE);
	long kb = proc_kb(0, "status", "VmSize");

	ASSERT_NE(MAP_FAILED, p);
	fill(p, 4, PAGE, 1);
	ASSERT_EQ(0, limit(RLIMIT_AS, (kb + 64) * 1024));
	EXPECT_ERRNO(ENOMEM, mmap(NULL, SPAN, RW, ANON, -1, 0));
	EXPECT_ERRNO(ENOMEM, mremap(p, 4 * PAGE, SPAN, MREMAP_MAYMOVE));
	EXPECT_EQ(-1, bad(p, 4, PAGE, 1));
	/* in place of what is there it costs nothing */
	EXPECT_EQ(p, fixed((unsigned long)p, 4 * PAGE, RW));
	EXPECT_EQ(-1, bad_zero(p, 4, PAGE));
}

FPT_TEST(limit_of_locked_memory)
{
	char *p = map_at(MID - 8 * PAGE, 16 * PAGE);
	pid_t pid;

	ASSERT_NE(MAP_FAILED, p);
	if (geteuid())
		SKIP(return, "needs root, to become somebody else");
	pid = fork();
	if (!pid) {
		CHILD_CHECK(!limit(RLIMIT_MEMLOCK, 4 * PAGE));
		CHILD_CHECK(!setresuid(65534, 65534, 65534));
		CHILD_CHECK(ERRNO(mlock(p, 16 * PAGE)) == ENOMEM);
		CHILD_CHECK(ERRNO(mlock(p + 6 * PAGE, 5 * PAGE)) == ENOMEM);
		CHILD_CHECK(!mlock(p + 6 * PAGE, 4 * PAGE));	/* across the border */
		CHILD_CHECK(present(p + 6 * PAGE) && present(p + 9 * PAGE));
		CHILD_CHECK(ERRNO(mlock(p, PAGE)) == ENOMEM);
		CHILD_CHECK(ERRNO(mmap(NULL, PAGE, RW, ANON | MAP_LOCKED, -1, 0)) == EAGAIN);
		CHILD_CHECK(!munlock(p + 6 * PAGE, PAGE));
		CHILD_CHECK(!mlock(p, PAGE));
		_exit(0);
	}
	EXPECT_EQ(0, reap(pid));
}

FPT_TEST(limit_of_data_and_brk)
{
	char *old = sbrk(0), *top;
	long i;

	/* over the next border of 2 MiB, twice */
	top = (char *)(((unsigned long)old + 2 * HUGE - 1) & ~(HUGE - 1)) + HUGE;
	ASSERT_EQ(0, brk(top));
	for (i = 0; i < (top - old) / (long)PAGE; i++)
		page_set((char *)(((unsigned long)old + PAGE - 1) & ~(PAGE - 1)) + i * PAGE, 1, i);
	/* shrinks, grows: what comes back is new */
	ASSERT_EQ(0, brk(top - HUGE));
	EXPECT_EQ(SIGSEGV, try_access(top - HUGE, false));
	EXPECT_EQ(SIGSEGV, try_access(top - 8, false));
	ASSERT_EQ(0, brk(top));
	EXPECT_EQ(-1, bad_zero(top - HUGE, HUGE / PAGE, PAGE));
	/* not into another mapping, nor over a limit */
	ASSERT_EQ(top + 16 * PAGE, mmap(top + 16 * PAGE, PAGE, RW, ANON | MAP_FIXED_NOREPLACE, -1, 0));
	EXPECT_ERRNO(ENOMEM, brk(top + 32 * PAGE));
	EXPECT_EQ(0, brk(top + PAGE));
	ASSERT_EQ(0, limit(RLIMIT_DATA, 0));
	EXPECT_ERRNO(ENOMEM, brk(top + 4 * PAGE));
	EXPECT_ERRNO(ENOMEM, mmap(NULL, PAGE, RW, ANON, -1, 0));
	EXPECT_TRUE(page_zero(top - PAGE));
}

static long mappings_in(unsigned long lo, unsigned long hi)
{
	FILE *f = fopen("/proc/self/maps", "r");
	unsigned long a, b;
	char line[512];
	long n = 0;

	while (f && fgets(line, sizeof(line), f))
		n += sscanf(line, "%lx-%lx", &a, &b) == 2 && a >= lo && b <= hi;
	if (f)
		fclose(f);
	return n;
}

FPT_TEST(mappings_merge_across_the_border)
{
	char *p = map_at(MID - HUGE, HUGE), *q = map_at(MID, HUGE);

	ASSERT_NE(MAP_FAILED, p);
	ASSERT_NE(MAP_FAILED, q);
	EXPECT_EQ(1, mappings_in(MID - HUGE, MID + HUGE));
	fill(p, 2 * HUGE / PAGE, PAGE, 1);
	EXPECT_EQ(0, mprotect(q - PAGE, 2 * PAGE, PROT_READ));
	EXPECT_EQ(3, mappings_in(MID - HUGE, MID + HUGE));
	EXPECT_EQ(0, mprotect(q - PAGE, PAGE, RW));
	EXPECT_EQ(3, mappings_in(MID - HUGE, MID + HUGE));
	EXPECT_EQ(0, mprotect(q, PAGE, RW));
	EXPECT_EQ(1, mappings_in(MID - HUGE, MID + HUGE));
	EXPECT_EQ(-1, bad(p, 2 * HUGE / PAGE, PAGE, 1));
}

FPT_TEST(too_many_mappings)
{
	long most = value_of("/proc/sys/vm/max_map_count"), i, n;
	char *p;

	if (most > 100000)
		SKIP(return, "max_map_count is %ld", most);
	p = map_at(MID - most * PAGE, 2 * most * PAGE);
	ASSERT_NE(MAP_FAILED, p);
	fill(p, 64, 2 * most / 64 * PAGE, 1);
	for (i = 0; i < most; i++)
		if (mprotect(p + (2 * i + 1) * PAGE, PAGE, PROT_READ))
			break;
	ASSERT_EQ(ENOMEM, errno);
	n = mappings_in(0, TOP);
	EXPECT_LE(most - 2, n);
	EXPECT_LE(n, most + 2);
	/* what would split fails and changes nothing; what does not, works */
	p += (2 * i + 2) * PAGE;
	EXPECT_ERRNO(ENOMEM, munmap(p + PAGE, PAGE));
	EXPECT_ERRNO(ENOMEM, mprotect(p + PAGE, PAGE, PROT_NONE));
	EXPECT_EQ(0, try_access(p + PAGE, true));
	/* of new ones there is room for a last one */
	EXPECT_ERRNO(0, mmap(NULL, PAGE, PROT_EXEC, ANON, -1, 0));
	EXPECT_ERRNO(ENOMEM, mmap(NULL, PAGE, PROT_WRITE, ANON, -1, 0));
	p = (char *)(MID - most * PAGE);
	EXPECT_EQ(-1, bad(p, 64, 2 * most / 64 * PAGE, 1));
	EXPECT_EQ(0, munmap(p, 2 * most * PAGE));
	EXPECT_EQ(0, mappings_in((unsigned long)p, (unsigned long)p + 2 * most * PAGE));
}

FPT_TEST(strict_overcommit)
{
	const char *knob = "/proc/sys/vm/overcommit_memory";
	char old[16];
	int none, huge, grown, with_noreserve;
	size_t len;
	char *p;

	ASSERT_LT(0, read_text(knob, old, sizeof(old)));
	len = (file_value("/proc/meminfo", "CommitLimit") + 1048576) * 1024;
	if (write_text(knob, "2"))
		SKIP(return, "cannot set overcommit_memory");
	/* Others fail for want of memory now: no word until it is off again. */
	huge = ERRNO(mmap((void *)MID, len, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
	with_noreserve = ERRNO(fixed(MID, len, RW));
	p = fixed(MID - GIB, len, PROT_NONE);
	none = ERRNO(p);
	grown = ERRNO(mprotect(p, len, RW));
	write_text(knob, old);
	EXPECT_EQ(ENOMEM, huge);
	EXPECT_EQ(ENOMEM, with_noreserve);
	EXPECT_EQ(0, none);
	EXPECT_EQ(ENOMEM, grown);
	EXPECT_EQ(SIGSEGV, try_access(p, false));
	EXPECT_EQ(0, munmap(p, len));
}

/* --- growth ------------------------------------------------------------------------ */

#define GAP (256 * PAGE)	/* stack_guard_gap */

static char *stack_at(unsigned long addr)
{
	return mmap((void *)addr, PAGE, RW, ANON | MAP_FIXED_NOREPLACE | MAP_GROWSDOWN, -1, 0);
}

FPT_TEST(stack_grows_across_the_border)
{
	char *p = stack_at(MID);
	long i;

	ASSERT_EQ((void *)MID, p);
	for (i = 0; i < 128; i++)
		page_set(p - i * PAGE, 1, i);
	for (i = 0; i < 128; i++)
		EXPECT_TRUE(page_ok(p - i * PAGE, 1, i));
	/* at once over many pages */
	EXPECT_EQ(0, try_access(p - 500 * PAGE, true));
	EXPECT_TRUE(page_zero(p - 400 * PAGE));
	EXPECT_EQ(1, mappings_in(MID - SPAN, MID + PAGE));
}

FPT_TEST(stack_keeps_a_gap)
{
	char *below = map_at(MID - 512 * PAGE, PAGE), *p = stack_at(MID), *q;

	ASSERT_NE(MAP_FAILED, below);
	ASSERT_EQ((void *)MID, p);
	page_set(below, 1, 0);
	EXPECT_EQ(0, try_access(below + PAGE + GAP, true));
	EXPECT_EQ(SIGSEGV, try_access(below + GAP, true));
	EXPECT_EQ(SIGSEGV, try_access(below + PAGE, true));
	EXPECT_TRUE(page_ok(below, 1, 0));
	/* nobody else is put into the gap, unless it is forced */
	q = mmap(below + 16 * PAGE, PAGE, RW, ANON, -1, 0);
	EXPECT_TRUE(q < below || q >= p);
	EXPECT_EQ(below + 16 * PAGE, fixed((unsigned long)below + 16 * PAGE, PAGE, RW));
	EXPECT_EQ(SIGSEGV, try_access(below + 32 * PAGE, true));
}

FPT_TEST(stack_has_a_limit)
{
	char *p = stack_at(MID);

	ASSERT_EQ((void *)MID, p);
	ASSERT_EQ(0, limit(RLIMIT_STACK, MIB));
	EXPECT_EQ(0, try_access(p + PAGE - MIB, true));
	EXPECT_EQ(SIGSEGV, try_access(p - MIB, true));
	EXPECT_EQ(0, try_access(p, true));
}

/* --- files --------------------------------------------------------------------------- */

FPT_TEST(populate_behind_the_end_of_a_file)
{
	int fd = patterned_file(4, 1);
	char *p;

	ASSERT_EQ(0, ftruncate(fd, 2 * PAGE + 100));
	p = mmap((void *)(MID - 2 * PAGE), 4 * PAGE, RW,
		 MAP_SHARED | MAP_FIXED_NOREPLACE | MAP_POPULATE, fd, 0);
	ASSERT_EQ((void *)(MID - 2 * PAGE), p);
	EXPECT_TRUE(present(p) && present(p + PAGE) && present(p + 2 * PAGE));
	EXPECT_EQ(-1, bad(p, 2, PAGE, 1));
	EXPECT_EQ(0, p[2 * PAGE + 4095]);
	EXPECT_EQ(SIGBUS, try_access(p + 3 * PAGE, false));
	EXPECT_ERRNO(EFAULT, madvise(p, 4 * PAGE, MADV_POPULATE_READ));
	ASSERT_EQ(0, ftruncate(fd, 4 * PAGE));
	EXPECT_EQ(0, try_access(p + 3 * PAGE, true));
	EXPECT_TRUE(page_zero(p + 3 * PAGE));
}

FPT_TEST(remapped_file_pages)
{
	int fd = patterned_file(16, 1), i;
	char *p = mmap((void *)(MID - 8 * PAGE), 16 * PAGE, RW, MAP_SHARED | MAP_FIXED_NOREPLACE, fd, 0);
	char *q = map_at(BASE, PAGE);

	ASSERT_EQ((void *)(MID - 8 * PAGE), p);
	if (remap_file_pages(p, PAGE, 0, 15, 0) && errno == ENOSYS)
		SKIP(return, "no remap_file_pages");
	for (i = 0; i < 16; i++)
		ASSERT_EQ(0, remap_file_pages(p + i * PAGE, PAGE, 0, 15 - i, 0));
	for (i = 0; i < 16; i++)
		EXPECT_TRUE(page_ok(p + i * PAGE, 1, 15 - i));
	page_set(p, 2, 15);
	EXPECT_EQ(0, munmap(p, 16 * PAGE));
	p = mmap((void *)(MID - 8 * PAGE), 16 * PAGE, RW, MAP_SHARED | MAP_FIXED_NOREPLACE, fd, 0);
	EXPECT_EQ(-1, bad(p, 15, PAGE, 1));
	EXPECT_TRUE(page_ok(p + 15 * PAGE, 2, 15));
	EXPECT_ERRNO(EINVAL, remap_file_pages(q, PAGE, 0, 0, 0));
	EXPECT_ERRNO(EINVAL, remap_file_pages(p, PAGE, PROT_READ, 0, 0));
}

FPT_TEST(system_v_memory)
{
	int id = shmget(IPC_PRIVATE, 4 * PAGE, IPC_CREAT | 0600);
	char *p;
	pid_t pid;

	if (id < 0)
		SKIP(return, "no System V shared memory");
	p = shmat(id, (void *)(MID - 2 * PAGE), 0);
	ASSERT_EQ((void *)(MID - 2 * PAGE), p);
	EXPECT_ERRNO(EINVAL, shmat(id, (void *)(MID - 2 * PAGE), 0));
	EXPECT_ERRNO(EINVAL, shmat(id, (void *)(MID + GIB + 1), 0));
	EXPECT_ERRNO(EINVAL, shmat(id, (void *)1, SHM_RND | SHM_REMAP));
	fill(p, 4, PAGE, 1);
	EXPECT_EQ((void *)(MID + GIB), shmat(id, (void *)(MID + GIB + 1), SHM_RND | SHM_RDONLY));
	EXPECT_EQ(-1, bad((void *)(MID + GIB), 4, PAGE, 1));
	EXPECT_EQ(SIGSEGV, try_access((void *)(MID + GIB), true));
	pid = fork();
	if (!pid) {
		CHILD_CHECK(bad(p, 4, PAGE, 1) == -1);
		fill(p, 4, PAGE, 2);
		_exit(0);
	}
	EXPECT_EQ(0, reap(pid));
	EXPECT_EQ(0, shmctl(id, IPC_RMID, NULL));
	EXPECT_EQ(-1, bad((void *)(MID + GIB), 4, PAGE, 2));
	EXPECT_EQ(0, shmdt(p));
	EXPECT_EQ(SIGSEGV, try_access(p + 2 * PAGE, false));
	EXPECT_EQ(0, shmdt((void *)(MID + GIB)));
	EXPECT_ERRNO(EINVAL, shmdt((void *)(MID + GIB)));
}

/* --- other processes ------------------------------------------------------------------- */

static long advise(int pidfd, struct iovec *v, int n, int advice, int flags)
{
	return syscall(SYS_process_madvise, pidfd, v, n, advice, flags);
}

FPT_TEST(advice_for_another_process)
{
	char *p = map_at(MID - 8 * PAGE, 16 * PAGE);
	struct iovec v[2] = { { p, 16 * PAGE }, { (void *)BASE, PAGE } };
	int fd, io[2];
	pid_t pid;
	char c;

	ASSERT_NE(MAP_FAILED, p);
	ASSERT_EQ(0, pipe(io));
	fill(p, 16, PAGE, 1);
	pid = fork();
	if (!pid) {
		fill(p, 16, PAGE, 2);
		close(io[1]);
		CHILD_CHECK(read(io[0], &c, 1) == 0);
		CHILD_CHECK(bad(p, 16, PAGE, 2) == -1);
		_exit(0);
	}
	fd = syscall(SYS_pidfd_open, pid, 0);
	EXPECT_EQ(16 * (long)PAGE, advise(fd, v, 1, MADV_COLD, 0));
	EXPECT_EQ(16 * (long)PAGE, advise(fd, v, 1, MADV_PAGEOUT, 0));
	EXPECT_EQ(16 * (long)PAGE, advise(fd, v, 2, MADV_COLD, 0));
	EXPECT_ERRNO(ENOMEM, advise(fd, v + 1, 1, MADV_COLD, 0));
	EXPECT_ERRNO(EINVAL, advise(fd, v, 1, MADV_DONTNEED, 0));
	EXPECT_ERRNO(EINVAL, advise(fd, v, 1, MADV_COLD, 1));
	EXPECT_ERRNO(EBADF, advise(-1, v, 1, MADV_COLD, 0));
	close(io[1]);
	EXPECT_EQ(0, reap(pid));
	EXPECT_EQ(-1, bad(p, 16, PAGE, 1));
}

FPT_TEST(where_pages_are)
{
	char *p = map_at(MID - 2 * PAGE, 4 * PAGE);
	void *pages[6] = { p, p + PAGE, p + 2 * PAGE, p + 3 * PAGE, (void *)BASE, (void *)(MID + SPAN) };
	int status[6], i;

	ASSERT_NE(MAP_FAILED, p);
	page_set(p + PAGE, 1, 1);
	page_set(p + 2 * PAGE, 1, 2);
	if (syscall(SYS_move_pages, 0, 6L, pages, NULL, status, 0) && errno == ENOSYS)
		SKIP(return, "no move_pages without NUMA");
	EXPECT_EQ(-ENOENT, status[0]);
	EXPECT_LE(0, status[1]);
	EXPECT_LE(0, status[2]);
	EXPECT_EQ(-ENOENT, status[3]);
	for (i = 4; i < 6; i++)
		EXPECT_EQ(-EFAULT, status[i]);
}

FPT_TEST(memory_of_proc_ignores_protection)
{
	int fd = open("/proc/self/mem", O_RDWR), file = patterned_file(2, 3);
	char *p = map_prot(MID - PAGE, 2 * PAGE, PROT_READ);
	char *q = mmap((void *)(MID + GIB - PAGE), 2 * PAGE, PROT_READ, MAP_SHARED | MAP_FIXED_NOREPLACE,
		       file, 0);
	char buf[16] = "0123456789abcde", back[16] = "";

	ASSERT_NE(MAP_FAILED, p);
	ASSERT_NE(MAP_FAILED, q);
	/* private: its own copy, across the border; shared and read-only: never */
	EXPECT_EQ(16, pwrite(fd, buf, 16, MID - 8));
	EXPECT_EQ(0, memcmp((char *)MID - 8, buf, 16));
	EXPECT_EQ(SIGSEGV, try_access((char *)MID - 8, true));
	EXPECT_EQ(0, mprotect(p, 2 * PAGE, PROT_NONE));
	EXPECT_EQ(16, pread(fd, back, 16, MID - 8));
	EXPECT_EQ(0, memcmp(back, buf, 16));
	EXPECT_EQ(SIGSEGV, try_access((char *)MID - 8, false));
	EXPECT_EQ(-1, pwrite(fd, buf, 16, (long)q));
	EXPECT_EQ(-1, bad(q, 2, PAGE, 3));
	EXPECT_EQ(-1, pread(fd, back, 16, BASE));
}

/* --- huge pages --------------------------------------------------------------------------- */

#define POOL "/sys/kernel/mm/hugepages/hugepages-2048kB/"

struct pool { int nr, free, reserved; };

static struct pool pool(void)
{
	return (struct pool){ value_of(POOL "nr_hugepages"), value_of(POOL "free_hugepages"),
			      value_of(POOL "resv_hugepages") };
}

static char *map_huge(unsigned long addr, long n, int more)
{
	return mmap((void *)addr, n * HUGE, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB |
		    MAP_FIXED_NOREPLACE | more, -1, 0);
}

FPT_TEST(reserved_huge_pages)
{
	struct pool was = pool(), now;
	long n = was.free - was.reserved;
	char *p, *q;

	if (was.nr < 2 || n < 2 || value_of(POOL "nr_overcommit_hugepages"))
		SKIP(return, "needs two free huge pages and no surplus");
	EXPECT_ERRNO(ENOMEM, map_huge(MID - HUGE, n + 1, 0));
	p = map_huge(MID - HUGE, n, 0);
	ASSERT_EQ((void *)(MID - HUGE), p);
	now = pool();
	EXPECT_EQ(was.reserved + n, now.reserved);
	EXPECT_EQ(was.free, now.free);
	/* all are promised: who has no promise gets a signal */
	EXPECT_ERRNO(ENOMEM, map_huge(MID + SPAN, 1, 0));
	q = map_huge(MID + SPAN, 1, MAP_NORESERVE);
	ASSERT_EQ((void *)(MID + SPAN), q);
	EXPECT_EQ(SIGBUS, try_access(q, true));
	page_set(p, 1, 0);
	page_set(p + HUGE, 1, 1);
	now = pool();
	EXPECT_EQ(was.reserved + n - 2, now.reserved);
	EXPECT_EQ(was.free - 2, now.free);
	/* parts of a huge page cannot go */
	EXPECT_ERRNO(EINVAL, munmap(p, PAGE));
	EXPECT_ERRNO(EINVAL, mprotect(p + PAGE, HUGE, PROT_READ));
	EXPECT_TRUE(page_ok(p, 1, 0) && page_ok(p + HUGE, 1, 1));
	EXPECT_EQ(0, munmap(p, HUGE));
	EXPECT_EQ(0, try_access(q, true));
	EXPECT_EQ(0, munmap(p + HUGE, (n - 1) * HUGE));
	EXPECT_EQ(0, munmap(q, HUGE));
	now = pool();
	EXPECT_EQ(was.reserved, now.reserved);
	EXPECT_EQ(was.free, now.free);
}

FPT_TEST(child_without_a_reservation)
{
	struct pool was = pool(), now;
	long n = was.free - was.reserved, i;
	char *p;
	pid_t pid;

	if (was.nr < 2 || n < 2 || value_of(POOL "nr_overcommit_hugepages"))
		SKIP(return, "needs two free huge pages and no surplus");
	p = map_huge(MID - HUGE, n, 0);
	ASSERT_EQ((void *)(MID - HUGE), p);
	fill(p, n, HUGE, 1);
	pid = fork();
	if (!pid) {
		CHILD_CHECK(bad(p, n, HUGE, 1) == -1);
		CHILD_CHECK(try_access(p, true) == SIGBUS);
		CHILD_CHECK(try_access(p + HUGE, true) == SIGBUS);
		_exit(0);
	}
	EXPECT_EQ(0, reap(pid));
	EXPECT_EQ(-1, bad(p, n, HUGE, 1));
	for (i = 0; i < n; i++)
		page_set(p + i * HUGE, 2, i);
	EXPECT_EQ(0, munmap(p, n * HUGE));
	now = pool();
	EXPECT_EQ(was.free, now.free);
	EXPECT_EQ(was.reserved, now.reserved);
}

TEST_HARNESS_MAIN
