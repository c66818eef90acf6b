// SPDX-License-Identifier: GPL-2.0
/* Flat memory is bounded, however sparsely a program touches its space. */
#include "fpt_util.h"
#include "../kselftest_harness.h"

FPT_FIXTURE

static long param(const char *name)
{
	char path[128], buf[64];

	snprintf(path, sizeof(path), FPT_PARAMS "%s", name);
	return read_text(path, buf, sizeof(buf)) < 0 ? -1 : atol(buf);
}

static bool set_param(const char *name, long v)
{
	char path[128], buf[64];

	snprintf(path, sizeof(path), FPT_PARAMS "%s", name);
	snprintf(buf, sizeof(buf), "%ld", v);
	return !write_text(path, buf);
}

static long mem_total_bytes(void)
{
	return file_value("/proc/meminfo", "MemTotal") * 1024;
}

static void check_cap(struct __test_metadata *_metadata)
{
	struct fpt_nodes n = fpt_nodes(0);
	long percent = param("cap_percent"), cap = param("mm_cap");

	if (percent >= 0)
		EXPECT_LE(fpt_stat0("flat_bytes"), mem_total_bytes() / 100 * percent + 4 * (long)HUGE)
			TH_LOG("cap_percent %ld", percent);
	if (cap > 0)
		EXPECT_LE(n.root + n.mid + n.bottom, cap);
	EXPECT_LE(fpt_stat0("flat_bytes"), mem_total_bytes());
}

FPT_TEST(a_page_in_each_gib)
{
	/* L2L1 nodes for all of it would be 4 GiB */
	const long n = 2048;
	struct fpt_nodes a = fpt_nodes(0), b;
	char *p = map_at(BASE, n * GIB);
	long i, before;

	ASSERT_NE(MAP_FAILED, p);
	before = vmpte_kb(0);
	for (i = 0; i < n; i++) {
		page_set(p + i * GIB + i % 512 * PAGE, 1, i);
		if (i % 256 == 0)
			check_cap(_metadata);
	}
	b = fpt_nodes(0);
	check_cap(_metadata);
	EXPECT_NEW_NODES(a, b, fpt_expected(self->mode, n / 512, n));
	for (i = 0; i < n; i++)
		EXPECT_TRUE(page_ok(p + i * GIB + i % 512 * PAGE, 1, i)) TH_LOG("GiB %ld", i);
	ASSERT_EQ(0, munmap(p, n * GIB));
	EXPECT_EQ(before, vmpte_kb(0));
	b = fpt_nodes(0);
	EXPECT_EQ(a.mid + a.bottom, b.mid + b.bottom);
}

FPT_TEST(a_page_in_each_span)
{
	long i, n = 0, before = vmpte_kb(0);
	char *p[255];

	for (i = 1; i < 255; i++) {
		p[i] = map_at(i * SPAN + 3 * GIB, PAGE);
		if (p[i] == MAP_FAILED)
			continue;
		page_set(p[i], 2, i);
		n++;
	}
	check_cap(_metadata);
	EXPECT_LT(200, n);
	for (i = 1; i < 255; i++) {
		if (p[i] == MAP_FAILED)
			continue;
		EXPECT_TRUE(page_ok(p[i], 2, i)) TH_LOG("span %ld", i);
		ASSERT_EQ(0, munmap(p[i], PAGE));
	}
	EXPECT_EQ(before, vmpte_kb(0));
}

FPT_TEST(cap_per_process)
{
	struct fpt_nodes a, b;
	long old = param("mm_cap"), want = fpt_expected(self->mode, 3, 3);
	char *p = map_at(BASE, 8 * SPAN);
	int i;

	ASSERT_NE(MAP_FAILED, p);
	a = fpt_nodes(0);
	if (old < 0 || !set_param("mm_cap", a.root + a.mid + a.bottom + 3))
		SKIP(return, "mm_cap cannot be set");
	for (i = 0; i < 8; i++)
		page_set(p + i * SPAN, 3, i);
	b = fpt_nodes(0);
	ASSERT_TRUE(set_param("mm_cap", old));
	EXPECT_EQ(want, b.mid + b.bottom - a.mid - a.bottom);
	/* the cap spoke, or (--mixed) an allocation failed */
	EXPECT_LE(fpt_expected(self->mode, 5, 5), b.misses - a.misses);
	for (i = 0; i < 8; i++)
		EXPECT_TRUE(page_ok(p + i * SPAN, 3, i));
}

FPT_TEST(cap_over_all_at_zero)
{
	struct fpt_nodes a, b;
	long old = param("cap_percent");
	char *p = map_at(BASE, 8 * SPAN);
	pid_t pid;
	int i;

	ASSERT_NE(MAP_FAILED, p);
	if (old < 0 || !set_param("cap_percent", 0))
		SKIP(return, "cap_percent cannot be set");
	a = fpt_nodes(0);
	for (i = 0; i < 8; i++)
		page_set(p + i * SPAN, 4, i);
	b = fpt_nodes(0);
	pid = fork();
	if (!pid) {
		struct fpt_nodes c = fpt_nodes(0);

		CHILD_CHECK(c.mid + c.bottom == 0);
		for (i = 0; i < 8; i++)
			CHILD_CHECK(page_ok(p + i * SPAN, 4, i));
		_exit(0);
	}
	i = reap(pid);
	ASSERT_TRUE(set_param("cap_percent", old));
	EXPECT_EQ(0, i);
	EXPECT_EQ(a.mid + a.bottom, b.mid + b.bottom);
	for (i = 0; i < 8; i++)
		EXPECT_TRUE(page_ok(p + i * SPAN, 4, i));
}

FPT_TEST(nonsense_in_parameters)
{
	long old = param("cap_percent");

	if (old < 0)
		SKIP(return, "kernel without FPT");
	EXPECT_FALSE(set_param("cap_percent", 101));
	EXPECT_FALSE(set_param("cap_percent", -1));
	EXPECT_EQ(old, param("cap_percent"));
	EXPECT_NE(0, write_text(FPT_PARAMS "cap_percent", "much"));
	EXPECT_EQ(old, param("cap_percent"));
	EXPECT_NE(0, write_text(FPT_PARAMS "policy", "sometimes"));
}

TEST_HARNESS_MAIN
