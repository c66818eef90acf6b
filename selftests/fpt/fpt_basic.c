// SPDX-License-Identifier: GPL-2.0
/* The mode, and that touching memory makes the nodes that the mode promises. */
#include "fpt_util.h"
#include "../kselftest_harness.h"

FPT_FIXTURE

FPT_TEST(mode_is_known)
{
	ASSERT_NE(MODE_UNKNOWN, self->mode);
	TH_LOG("mode %s%s", fpt_mode_names[self->mode],
	       fpt_debugfs() ? "" : " (kernel without FPT)");
}

FPT_TEST(mode_is_the_one_asked_for)
{
	char cmdline[4096], *p, *word;
	char info[65536];

	if (!fpt_debugfs())
		SKIP(return, "kernel without FPT");
	ASSERT_LT(0, read_text("/proc/cmdline", cmdline, sizeof(cmdline)));
	for (word = NULL, p = strtok(cmdline, " \n"); p; p = strtok(NULL, " \n"))
		if (!strncmp(p, "fpt=", 4))
			word = p + 4;
	if (!word)
		SKIP(return, "no fpt= on the command line");
	/* Kernel ring buffer, from its start: one line tells the mode and why. */
	ASSERT_LT(0, syscall(SYS_syslog, 3, info, sizeof(info) - 1));
	info[sizeof(info) - 1] = 0;
	if (strstr(info, "no CPU support")) {
		EXPECT_EQ(RADIX, self->mode);
	} else {
		EXPECT_STREQ(word, fpt_mode_names[self->mode]);
	}
}

FPT_TEST(stats_has_every_name)
{
	static const char *const kind[] = { "root", "mid", "bottom" };
	static const char *const what[] = { "live", "installs", "frees", "fallbacks",
		"races", "pool_hits", "pool_puts", "pool_nodes" };
	static const char *const all[] = { "refused_cap", "refused_policy", "tainted",
		"flat_bytes", "demotions", "flushes_saved" };
	char name[64];
	int k, w;

	if (!fpt_debugfs())
		SKIP(return, "kernel without FPT");
	for (k = 0; k < 3; k++)
		for (w = 0; w < 8; w++) {
			snprintf(name, sizeof(name), "%s_%s", kind[k], what[w]);
			EXPECT_LE(0, fpt_stat(name))
				TH_LOG("no line %s in stats", name);
		}
	for (w = 0; w < 6; w++) {
		snprintf(name, sizeof(name), "%s", all[w]);
		EXPECT_LE(0, fpt_stat(name))
			TH_LOG("no line %s in stats", name);
	}
	EXPECT_EQ(0, fpt_stat("tainted"));
	/* other programs accept that huge pages have no place where the kernel denies this */
	EXPECT_EQ(1, fpt_stat("can_demote"));
}

FPT_TEST(own_nodes)
{
	struct fpt_nodes n = fpt_nodes(0);

	TH_LOG("root %ld mid %ld bottom %ld conventional %ld", n.root, n.mid,
	       n.bottom, n.conventional);
	switch (self->mode) {
	case RADIX:
		EXPECT_EQ(0, n.root + n.mid + n.bottom);
		break;
	case L4L3:
		EXPECT_EQ(0, n.mid + n.bottom);
		if (!fpt_stat0("root_fallbacks"))
			EXPECT_EQ(1, n.root);
		break;
	case L3L2:
		EXPECT_EQ(0, n.root + n.bottom);
		if (!n.misses)
			EXPECT_LE(1, n.mid);
		break;
	case L4L3_L2L1:
		EXPECT_EQ(0, n.mid);
		if (!n.misses)
			EXPECT_LE(1, n.bottom);
		break;
	case MIXED:
		/* nodes are for those that ask or fill them, and this program is small */
		EXPECT_EQ(0, n.root + n.mid + n.bottom);
		break;
	default:
		ASSERT_TRUE(false);
	}
}

/*
 * Blocks that were allocated and not freed are in use or in a pool, or have become
 * conventional tables.  Allocated were those that an install or a lost race needed
 * beyond what the pools gave.
 */
FPT_TEST(live_counts_add_up)
{
	static const char *const kind[] = { "root", "mid", "bottom" };
	static const char *const what[] = {
		"live", "pool_nodes", "installs", "races", "pool_hits", "frees"
	};
	static char buf[8192];
	long v[6], off = 1;
	char name[32];
	int k, w, try;

	if (!fpt_debugfs())
		SKIP(return, "kernel without FPT");
	for (k = 0; k < 3; k++) {
		/* some other process may be going away between two counters */
		for (try = 0; try < 50 && off; try++) {
			ASSERT_LT(0, read_text(FPT_DEBUGFS "stats", buf, sizeof(buf)));
			for (w = 0; w < 6; w++) {
				snprintf(name, sizeof(name), "%s_%s", kind[k], what[w]);
				v[w] = find_value(buf, name);
			}
			off = v[2] + v[3] - v[4] - v[5] - v[0] - v[1];
			/* a mode has one kind below the root */
			if (k == (self->mode == L3L2 ? 1 : 2) && find_value(buf, "demotions") > 0)
				off -= find_value(buf, "demotions");
			if (off)
				msleep(20);
		}
		EXPECT_EQ(0, off)
			TH_LOG("%s: live %ld, pooled %ld, installs %ld, races %ld, pool hits %ld, frees %ld",
			       kind[k], v[0], v[1], v[2], v[3], v[4], v[5]);
		off = 1;
	}
}

FPT_TEST(mapping_alone_makes_nothing)
{
	struct fpt_nodes a = fpt_nodes(0), b;
	long pte = vmpte_kb(0);

	ASSERT_NE(MAP_FAILED, map_at(BASE, 4 * GIB));
	b = fpt_nodes(0);
	EXPECT_EQ(pte, vmpte_kb(0));
	EXPECT_EQ(a.mid + a.bottom, b.mid + b.bottom);
}

FPT_TEST(one_touched_page)
{
	struct fpt_nodes a, b;
	char *p = map_at(BASE, PAGE);

	ASSERT_NE(MAP_FAILED, p);
	a = fpt_nodes(0);
	page_set(p, 1, 0);
	b = fpt_nodes(0);
	EXPECT_NEW_NODES(a, b, fpt_expected(self->mode, 1, 1));
	EXPECT_TRUE(page_ok(p, 1, 0));
}

FPT_TEST(one_read_page)
{
	struct fpt_nodes a, b;
	char *p = map_at(BASE, PAGE);

	ASSERT_NE(MAP_FAILED, p);
	a = fpt_nodes(0);
	EXPECT_TRUE(page_zero(p));
	b = fpt_nodes(0);
	EXPECT_NEW_NODES(a, b, fpt_expected(self->mode, 1, 1));
}

FPT_TEST(page_table_bytes_of_one_page)
{
	/*
	 * PUD, PMD and PTE tables. A flat root has the PUD table in it. A node is 2 MiB
	 * for the two tables that it merges, and has an index page beside it: the table
	 * that software reads instead of the merged one.
	 */
	static const long want[] = { 12, 8, 2048 + 4 + 4, 2048 + 4, 12 };
	struct fpt_nodes a, b;
	char *p = map_at(BASE, PAGE);
	long before;

	ASSERT_NE(MAP_FAILED, p);
	ASSERT_NE(MODE_UNKNOWN, self->mode);
	a = fpt_nodes(0);
	before = vmpte_kb(0);
	page_set(p, 1, 0);
	b = fpt_nodes(0);
	if (a.misses == b.misses)
		EXPECT_EQ(want[self->mode], vmpte_kb(0) - before);
	munmap(p, PAGE);
	EXPECT_EQ(before, vmpte_kb(0));
}

FPT_TEST(eight_spans)
{
	struct fpt_nodes a = fpt_nodes(0), b;
	long before = vmpte_kb(0);
	int i;

	for (i = 0; i < 8; i++) {
		char *p = map_at(BASE + i * SPAN + i * GIB, PAGE);

		ASSERT_NE(MAP_FAILED, p);
		page_set(p, 2, i);
	}
	b = fpt_nodes(0);
	EXPECT_NEW_NODES(a, b, fpt_expected(self->mode, 8, 8));
	for (i = 0; i < 8; i++) {
		char *p = (char *)BASE + i * SPAN + i * GIB;

		EXPECT_TRUE(page_ok(p, 2, i));
		ASSERT_EQ(0, munmap(p, PAGE));
	}
	b = fpt_nodes(0);
	EXPECT_EQ(a.mid + a.bottom, b.mid + b.bottom);
	EXPECT_EQ(before, vmpte_kb(0));
}

FPT_TEST(every_gib_of_a_span_edge)
{
	struct fpt_nodes a, b;
	char *p = map_at(BASE + SPAN - 2 * GIB, 4 * GIB);
	int i;

	ASSERT_NE(MAP_FAILED, p);
	a = fpt_nodes(0);
	/* first and last page of each GiB, two GiBs on each side of the edge */
	for (i = 0; i < 4; i++) {
		page_set(p + i * GIB, 3, 2 * i);
		page_set(p + (i + 1) * GIB - PAGE, 3, 2 * i + 1);
	}
	b = fpt_nodes(0);
	EXPECT_NEW_NODES(a, b, fpt_expected(self->mode, 2, 4));
	for (i = 0; i < 4; i++) {
		EXPECT_TRUE(page_ok(p + i * GIB, 3, 2 * i));
		EXPECT_TRUE(page_ok(p + (i + 1) * GIB - PAGE, 3, 2 * i + 1));
		EXPECT_TRUE(page_zero(p + i * GIB + PAGE));
		EXPECT_TRUE(page_zero(p + i * GIB + GIB / 2));
	}
}

FPT_TEST(same_low_bits_do_not_alias)
{
	static const unsigned long off[] = { 0, PAGE, HUGE, GIB, SPAN, GIB + HUGE + PAGE,
		SPAN + GIB, SPAN + HUGE, SPAN + GIB + HUGE + PAGE };
	size_t i;

	/* any index bit dropped by a walker lets two of these meet */
	for (i = 0; i < ARRAY_SIZE(off); i++) {
		char *p = map_at(BASE + off[i], PAGE);

		ASSERT_NE(MAP_FAILED, p);
		EXPECT_TRUE(page_zero(p));
		page_set(p, 4, i);
	}
	for (i = 0; i < ARRAY_SIZE(off); i++)
		EXPECT_TRUE(page_ok((void *)(BASE + off[i]), 4, i))
			TH_LOG("offset %#lx", off[i]);
}

FPT_TEST(each_address_bit)
{
	char *p[47];
	int bit, n = 0;

	for (bit = 12; bit < 47; bit++) {
		p[bit] = map_at(1UL << bit < BASE / 2 ? BASE + (1UL << bit) : 1UL << bit, PAGE);
		if (p[bit] == MAP_FAILED)
			continue;	/* something of the process is there */
		page_set(p[bit], 5, bit);
		n++;
	}
	EXPECT_LE(33, n);
	for (bit = 12; bit < 47; bit++)
		if (p[bit] != MAP_FAILED)
			EXPECT_TRUE(page_ok(p[bit], 5, bit))
				TH_LOG("bit %d", bit);
}

FPT_TEST(last_page_of_user_space)
{
	char *p = map_at(0x7fffffffe000UL, PAGE);

	if (p == MAP_FAILED)
		SKIP(return, "the last page is taken");
	page_set(p, 6, 0);
	EXPECT_TRUE(page_ok(p, 6, 0));
	EXPECT_EQ(SIGSEGV, try_access(p + PAGE, false));
}

FPT_TEST(foreign_addresses_fault)
{
	EXPECT_EQ(SIGSEGV, try_access((void *)0xffff888000000000UL, false));
	EXPECT_EQ(SIGSEGV, try_access((void *)0xffffffff81000000UL, true));
	EXPECT_EQ(SIGSEGV, try_access((void *)0x0000800000000000UL, false));
	EXPECT_EQ(SIGSEGV, try_access((void *)0x4000000000000000UL, false));
	EXPECT_EQ(SIGSEGV, try_access((void *)(BASE + 77 * GIB), true));
}

FPT_TEST(unmapped_neighbours_fault)
{
	char *p = map_at(BASE, 3 * PAGE);

	ASSERT_NE(MAP_FAILED, p);
	fill(p, 3, PAGE, 7);
	ASSERT_EQ(0, munmap(p + PAGE, PAGE));
	EXPECT_EQ(0, try_access(p, true));
	EXPECT_EQ(SIGSEGV, try_access(p + PAGE, false));
	EXPECT_EQ(0, try_access(p + 2 * PAGE, true));
	EXPECT_EQ(SIGSEGV, try_access(p + GIB, false));
	EXPECT_EQ(SIGSEGV, try_access(p + SPAN, false));
	EXPECT_TRUE(page_ok(p, 7, 0));
	EXPECT_TRUE(page_ok(p + 2 * PAGE, 7, 2));
}

FPT_TEST(exec_gets_a_fresh_address_space)
{
	char *p = map_at(BASE, PAGE);
	pid_t pid;
	int i;

	ASSERT_NE(MAP_FAILED, p);
	page_set(p, 8, 0);
	for (i = 0; i < 20; i++) {
		pid = fork();
		if (!pid) {
			execl("./fpt_tiny", "fpt_tiny", "37", NULL);
			_exit(99);
		}
		ASSERT_EQ(37, reap(pid));
	}
	EXPECT_TRUE(page_ok(p, 8, 0));
}

FPT_TEST(exec_of_a_dynamic_program_with_long_arguments)
{
	/* the argument pages move with the stack: tables are freed on the way */
	char *arg = malloc(100000);
	pid_t pid;

	ASSERT_NE(NULL, arg);
	memset(arg, 'x', 99999);
	arg[99999] = 0;
	pid = fork();
	if (!pid) {
		CHILD_CHECK(freopen("/dev/null", "w", stdout));
		execl("/proc/self/exe", "fpt_basic", "-r", "fpt.mode_is_known", "-t", arg, NULL);
		_exit(99);
	}
	EXPECT_EQ(0, reap(pid));
}

TEST_HARNESS_MAIN
