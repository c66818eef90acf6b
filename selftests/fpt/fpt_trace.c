// SPDX-License-Identifier: GPL-2.0
/*
 * Tracepoints: fpt_flatten, fpt_unflatten and fpt_refuse name this process, the span,
 * how much of the node is in use, and why. Only images with tracing have them.
 */
#include "fpt_process.h"
#include <sys/mount.h>
#include "../kselftest_harness.h"

#define TRACING "/sys/kernel/tracing/"

FPT_FIXTURE

/* NULL, or why there is nothing to look at */
static const char *trace_start(void)
{
	if (access(TRACING "trace", F_OK))
		mount("tracefs", TRACING, "tracefs", 0, NULL);
	if (access(TRACING "events/fpt/enable", F_OK))
		return "the kernel has no tracepoints, or no FPT";
	if (write_text(TRACING "trace", "") || write_text(TRACING "events/fpt/enable", "1"))
		return "tracing cannot be switched on";
	return NULL;
}

/* How many lines say @event of this process at @p, with @rest in them */
static long traced(const char *event, const void *p, const char *rest)
{
	static char text[1 << 20];
	char who[96], *line, *next;
	long n = 0;

	write_text(TRACING "events/fpt/enable", "0");
	if (read_text(TRACING "trace", text, sizeof(text)) < 0)
		return -1;
	snprintf(who, sizeof(who), "%s: pid=%d addr=%#lx kind=L2+L1 ", event, getpid(),
		 (unsigned long)p);
	for (line = text; line && *line; line = next) {
		next = strchr(line, '\n');
		if (next)
			*next++ = 0;
		n += strstr(line, who) && strstr(line, rest);
	}
	return n;
}

#define NEED_TRACE do {								\
	const char *_why;							\
										\
	NEED_FLATTEN;								\
	_why = trace_start();							\
	if (_why)								\
		SKIP(return, "%s", _why);					\
} while (0)

FPT_TEST(request_and_back)
{
	char *p = map_at(BASE, GIB);

	ASSERT_NE(MAP_FAILED, p);
	NEED_TRACE;
	ASSERT_EQ(0, pgt_set(PGT_RADIX, PGT_NOW));
	fill(p, 16, HUGE, 1);
	ASSERT_EQ(0, flatten(p, GIB));
	EXPECT_EQ(1, traced("fpt_flatten", p, "used=65536 unused=2031616 why=request"));
	ASSERT_EQ(NULL, trace_start());
	ASSERT_EQ(0, unflatten(p, GIB));
	EXPECT_EQ(1, traced("fpt_unflatten", p, "used=65536 unused=2031616 why=request"));
	EXPECT_EQ(-1, bad(p, 16, HUGE, 1));
}

FPT_TEST(fault_and_huge_page)
{
	char *p = map_at(BASE, GIB);

	ASSERT_NE(MAP_FAILED, p);
	NEED_TRACE;
	if (self->mode == MIXED)
		SKIP(return, "policy auto makes no node for a first touch");
	page_set(p, 1, 0);
	EXPECT_EQ(1, traced("fpt_flatten", p, "used=0 unused=2097152 why=fault"));
	ASSERT_EQ(NULL, trace_start());
	if (madvise(p + HUGE, HUGE, MADV_HUGEPAGE))
		SKIP(return, "no transparent huge pages");
	page_set(p + HUGE, 2, 0);
	if (traced("fpt_unflatten", p, "") == 0)
		SKIP(return, "no huge page was to be had");
	EXPECT_EQ(1, traced("fpt_unflatten", p, "used=4096 unused=2093056 why=huge"));
	EXPECT_TRUE(page_ok(p, 1, 0));
}

FPT_TEST(refusal_by_a_cap)
{
	long percent = fpt_param("cap_percent");
	char *p = map_at(BASE, GIB);
	int err;

	ASSERT_NE(MAP_FAILED, p);
	NEED_TRACE;
	ASSERT_LE(0, percent);
	ASSERT_EQ(0, pgt_set(PGT_RADIX, PGT_NOW));
	page_set(p, 1, 0);
	ASSERT_TRUE(fpt_set_param("cap_percent", 0));
	err = flatten(p, GIB);
	ASSERT_TRUE(fpt_set_param("cap_percent", percent));
	EXPECT_EQ(-ENOSPC, err);
	EXPECT_LE(1, traced("fpt_refuse", p, "why=cap"));
}

TEST_HARNESS_MAIN
