// SPDX-License-Identifier: GPL-2.0
/*
 * Boot mode mixed, policy auto: nodes come by themselves where they pay, and what they
 * cost is bounded. The measure is always the same program, executed with radix tables
 * and without randomised addresses: it has the tables that the unpatched kernel makes.
 *
 *   a process's tables <= radix's + waste_permille of its RSS
 *			 + 2 MiB for each root or L3L2 node that it asked for
 */
#include "fpt_process.h"
#include <sys/personality.h>
#include "../kselftest_harness.h"

FPT_FIXTURE

#define NODE_KB 2048L

/* kflatd looks within about a second; emulated CPUs are slow */
#define LOOK_S 4
#define PROMOTE_S 20

/* Gigabytes are touched, page by page, on emulated CPUs. */
#define AUTO_TEST(name) TEST_F_TIMEOUT(fpt, name, 400)

static char self_path[256];

/* --- the program that is measured -------------------------------------------------------- */

/* GiBs, windows in each, pages in each window; which are spread evenly */
struct shape {
	const char *name;
	long gibs, windows, pages;
};

static char *spot(const struct shape *s, long g, long w, long i)
{
	return (char *)BASE + g * GIB + w * (512 / s->windows) * HUGE + i * (512 / s->pages) * PAGE;
}

static long rss_kb(pid_t pid)
{
	return proc_kb(pid, "status", "VmRSS");
}

static bool touch(const struct shape *s, uint64_t seed)
{
	long g, w, i;

	for (g = 0; g < s->gibs; g++)
		for (w = 0; w < s->windows; w++)
			for (i = 0; i < s->pages; i++)
				page_set(spot(s, g, w, i), seed, (g << 20) + (w << 10) + i);
	return true;
}

static bool touched_ok(const struct shape *s, uint64_t seed)
{
	long g, w, i;

	for (g = 0; g < s->gibs; g++)
		for (w = 0; w < s->windows; w++)
			for (i = 0; i < s->pages; i++)
				if (!page_ok(spot(s, g, w, i), seed, (g << 20) + (w << 10) + i))
					return false;
	return true;
}

enum order { GO = 'g', THIN = 't', DROP = 'd', CHECK = 'c' };

/*
 * Touches its shape, and then does what it is told: to thin out (unmap three of four
 * windows), to drop all contents, to check them.
 */
static int measured(char **argv)
{
	struct shape s = { "", atol(argv[0]), atol(argv[1]), atol(argv[2]) };
	bool thin = false, dropped = false;
	char order, done = 'k';
	long g, w;

	if (s.gibs && map_at(BASE, s.gibs * GIB) == MAP_FAILED)
		return 1;
	touch(&s, 5);
	for (;;) {
		if (write(STDOUT_FILENO, &done, 1) != 1 || read(STDIN_FILENO, &order, 1) != 1)
			return 0;
		switch (order) {
		case THIN:
			for (g = 0; g < s.gibs; g++)
				for (w = 0; w < 512; w++)
					if (w % 4 && munmap((char *)BASE + g * GIB + w * HUGE, HUGE))
						return 2;
			thin = true;
			break;
		case DROP:
			/* holes are complained of at the end */
			if (madvise((void *)BASE, s.gibs * GIB, MADV_DONTNEED) &&
			    !(thin && errno == ENOMEM))
				return 3;
			dropped = true;
			break;
		case CHECK:
			if (!thin && !dropped && !touched_ok(&s, 5))
				return 4;
			if (thin && !dropped)
				for (g = 0; g < s.gibs; g++)
					for (w = 0; w < s.windows; w++)
						if ((w * (512 / s.windows)) % 4 == 0 &&
						    !page_ok(spot(&s, g, w, 0), 5,
							     (g << 20) + (w << 10)))
							return 5;
			break;
		}
	}
}

struct run {
	pid_t pid;
	int to, from;
};

static bool wait_done(struct run *r)
{
	char c;

	return read(r->from, &c, 1) == 1;
}

static bool order(struct run *r, enum order what)
{
	char c = what;

	return write(r->to, &c, 1) == 1 && wait_done(r);
}

static bool start_run(struct run *r, enum pgt request, const struct shape *s)
{
	char num[3][24];
	int in[2], out[2];

	if (pipe2(in, O_CLOEXEC) || pipe2(out, O_CLOEXEC))
		return false;
	snprintf(num[0], 24, "%ld", s->gibs);
	snprintf(num[1], 24, "%ld", s->windows);
	snprintf(num[2], 24, "%ld", s->pages);
	r->pid = fork();
	if (!r->pid) {
		CHILD_CHECK(!pgt_set(request, PGT_EXEC));
		CHILD_CHECK(personality(ADDR_NO_RANDOMIZE) >= 0);
		CHILD_CHECK(dup2(in[0], 0) == 0 && dup2(out[1], 1) == 1);
		execl(self_path, self_path, "--measured", num[0], num[1], num[2], NULL);
		_exit(99);
	}
	close(in[0]);
	close(out[1]);
	r->to = in[1];
	r->from = out[0];
	return wait_done(r);
}

/* Exit code; the contents are looked at first */
static int end_run(struct run *r)
{
	int code;

	order(r, CHECK);
	close(r->to);
	code = reap(r->pid);
	close(r->from);
	return code;
}

/* KiB of tables that radix has for it */
static long radix_kb(struct __test_metadata *_metadata, const struct shape *s)
{
	struct run r;
	long kb;

	ASSERT_TRUE(start_run(&r, PGT_RADIX, s));
	kb = vmpte_kb(r.pid);
	EXPECT_EQ(0, fpt_nodes(r.pid).bottom);
	EXPECT_EQ(0, end_run(&r));
	return kb;
}

/* KiB that waste may take of a process */
static long budget_kb(pid_t pid)
{
	return rss_kb(pid) * fpt_param("waste_permille") / 1000;
}

#define NEED_AUTO do {								\
	if (self->mode != MIXED)						\
		SKIP(return, "boot mode %s: no node comes by itself later",	\
		     fpt_mode_names[self->mode]);				\
	ASSERT_LE(0, fpt_param("waste_permille")) TH_LOG("no such parameter");	\
} while (0)

/* --- who gets none ---------------------------------------------------------------------------- */

static const struct shape small[] = {
	{ "nothing", 0, 1, 1 },
	{ "a page", 1, 1, 1 },
	{ "8 MiB", 1, 4, 512 },
	{ "64 MiB", 1, 32, 512 },
	{ "a page in each of 100 GiB", 100, 1, 1 },
	{ "16 tables in each of 32 GiB", 32, 16, 1 },
	{ "256 tables in each of 4 GiB", 4, 256, 1 },
};

AUTO_TEST(small_and_sparse_ones_are_radix_to_the_byte)
{
	const int n = sizeof(small) / sizeof(small[0]);
	struct run r[n];
	long kb[n];
	int i;

	NEED_AUTO;
	for (i = 0; i < n; i++)
		kb[i] = radix_kb(_metadata, &small[i]);
	for (i = 0; i < n; i++)
		ASSERT_TRUE(start_run(&r[i], PGT_SYSTEM, &small[i]));
	msleep(LOOK_S * 1000);
	for (i = 0; i < n; i++) {
		struct fpt_nodes nodes = fpt_nodes(r[i].pid);

		EXPECT_EQ(kb[i], vmpte_kb(r[i].pid)) TH_LOG("%s", small[i].name);
		EXPECT_EQ(0, nodes.root + nodes.mid + nodes.bottom) TH_LOG("%s", small[i].name);
		EXPECT_EQ(0, end_run(&r[i])) TH_LOG("%s", small[i].name);
	}
}

/* What it asks for is what it gets and what it pays. */
FPT_TEST(asked_for_nodes_cost_2_mib_each)
{
	static const struct shape page = { "a page", 1, 1, 1 };
	static const enum pgt asked[] = { PGT_L4L3, PGT_L3L2 };
	struct fpt_nodes n;
	struct run r;
	long kb;
	int i;

	NEED_AUTO;
	kb = radix_kb(_metadata, &page);
	for (i = 0; i < 2; i++) {
		ASSERT_TRUE(start_run(&r, asked[i], &page));
		n = fpt_nodes(r.pid);
		EXPECT_EQ(0, n.bottom);
		EXPECT_LE(vmpte_kb(r.pid), kb + (n.root + n.mid) * NODE_KB)
			TH_LOG("%s", pgt_names[asked[i]]);
		EXPECT_EQ(0, end_run(&r));
	}
}

/* --- who gets some ----------------------------------------------------------------------------- */

/* Seconds until a process has so many L2L1 nodes; -1: it did not within the time */
static double until_nodes(pid_t pid, long want, int limit_s)
{
	double begin = seconds();

	while (fpt_nodes(pid).bottom < want) {
		if (seconds() - begin > limit_s)
			return -1;
		msleep(100);
	}
	return seconds() - begin;
}

static long available_gib(void)
{
	return file_value("/proc/meminfo", "MemAvailable") >> 20;
}

AUTO_TEST(a_dense_arena_is_promoted)
{
	/* 2 GiB, or what the guest has room for */
	struct shape dense = { "dense", available_gib() >= 3 ? 2 : 1, 512, 512 };
	long promoted = fpt_stat0("promoted"), kb, tables;
	struct run r;
	double took;

	NEED_AUTO;
	if (available_gib() < 2)
		SKIP(return, "needs 2 GiB of free memory");
	kb = radix_kb(_metadata, &dense);
	ASSERT_TRUE(start_run(&r, PGT_SYSTEM, &dense));
	took = until_nodes(r.pid, dense.gibs, PROMOTE_S);
	/* each node has all 512 tables of its GiB, so 9 of 10 tables are all GiBs of two */
	EXPECT_LE(0, took) TH_LOG("%ld of %ld nodes after %d s", fpt_nodes(r.pid).bottom,
				  dense.gibs, PROMOTE_S);
	EXPECT_EQ(dense.gibs, fpt_nodes(r.pid).bottom);
	/* the first of them while it was in use; the next may be flat from its first touch on */
	EXPECT_LT(promoted, fpt_stat0("promoted"));
	/* full nodes cost what radix's tables cost */
	tables = vmpte_kb(r.pid);
	EXPECT_LE(tables, kb + budget_kb(r.pid));
	EXPECT_TRUE(tables_ok(r.pid));
	EXPECT_EQ(0, end_run(&r));
	TH_LOG("%ld GiB: %.1f s, %ld kB of tables, radix %ld", dense.gibs, took, tables, kb);
}

static const struct shape shapes[] = {
	{ "half of a GiB", 1, 256, 256 },
	{ "a quarter of the pages of a GiB", 1, 512, 128 },
	{ "an eighth of the tables of 4 GiB", 4, 64, 64 },
	{ "a GiB of one page a table", 1, 512, 1 },
	{ "8 tables in each of 32 GiB", 32, 8, 64 },
	{ "16 tables in each of 16 GiB", 16, 16, 64 },
};

/*
 * Whatever is promoted, the guarantee holds. While tables move into a node both are
 * counted, those that have not moved yet and the whole node: one node more, for a moment.
 */
AUTO_TEST(waste_stays_in_the_budget)
{
	const int n = sizeof(shapes) / sizeof(shapes[0]);
	long kb, most, tables = 0, budget;
	double end;
	struct run r;
	int i;

	NEED_AUTO;
	if (available_gib() < 2)
		SKIP(return, "needs 2 GiB of free memory");
	for (i = 0; i < n; i++) {
		kb = radix_kb(_metadata, &shapes[i]);
		ASSERT_TRUE(start_run(&r, PGT_SYSTEM, &shapes[i]));
		budget = budget_kb(r.pid);
		for (most = 0, end = seconds() + LOOK_S; seconds() < end; msleep(50)) {
			tables = vmpte_kb(r.pid);
			most = tables > most ? tables : most;
		}
		/* at any time, while tables move, too */
		EXPECT_LE(most, kb + budget)
			TH_LOG("%s: %ld kB of tables, radix %ld, budget %ld", shapes[i].name, most, kb,
			       budget);
		TH_LOG("%s: %ld nodes, %ld kB over radix, %ld at most; budget %ld", shapes[i].name,
		       fpt_nodes(r.pid).bottom, tables - kb, most - kb, budget);
		EXPECT_TRUE(tables_ok(r.pid));
		EXPECT_EQ(0, end_run(&r));
	}
}

/* Half of a GiB is 512 MiB resident, which pay for one node; without a budget there is none. */
AUTO_TEST(no_budget_no_node)
{
	static const struct shape half = { "half of a GiB", 1, 256, 512 };
	long permille = fpt_param("waste_permille"), percent = fpt_param("waste_percent"), refused;
	struct run r;
	int k;

	NEED_AUTO;
	ASSERT_LE(0, percent);
	if (available_gib() < 2)
		SKIP(return, "needs 2 GiB of free memory");
	for (k = 0; k < 2; k++) {
		refused = fpt_stat0("promote_refused_budget");
		ASSERT_TRUE(fpt_set_param(k ? "waste_percent" : "waste_permille", 0));
		ASSERT_TRUE(start_run(&r, PGT_SYSTEM, &half));
		msleep(LOOK_S * 1000);
		EXPECT_EQ(0, fpt_nodes(r.pid).bottom)
			TH_LOG("%s is 0", k ? "waste_percent" : "waste_permille");
		EXPECT_LT(refused, fpt_stat0("promote_refused_budget"));
		ASSERT_TRUE(fpt_set_param(k ? "waste_percent" : "waste_permille", k ? percent : permille));
		EXPECT_EQ(0, end_run(&r));
	}
	/* with the budget as it was */
	ASSERT_TRUE(start_run(&r, PGT_SYSTEM, &half));
	EXPECT_LE(0, until_nodes(r.pid, 1, PROMOTE_S));
	EXPECT_EQ(0, end_run(&r));
}

/* Tables that go leave slices without use; when that is twice the budget, nodes go, too. */
AUTO_TEST(what_is_unmapped_is_trimmed)
{
	static const struct shape dense = { "dense", 1, 512, 256 };
	long trimmed = fpt_stat0("trimmed"), over = 0, thin_kb;
	struct run r, radix;
	double end;

	NEED_AUTO;
	if (available_gib() < 2)
		SKIP(return, "needs 2 GiB of free memory");
	ASSERT_TRUE(start_run(&radix, PGT_RADIX, &dense));
	ASSERT_TRUE(order(&radix, THIN));
	thin_kb = vmpte_kb(radix.pid);
	EXPECT_EQ(0, end_run(&radix));
	ASSERT_TRUE(start_run(&r, PGT_SYSTEM, &dense));
	ASSERT_LE(0, until_nodes(r.pid, 1, PROMOTE_S));
	ASSERT_TRUE(order(&r, THIN));
	for (end = seconds() + PROMOTE_S; seconds() < end; msleep(100)) {
		over = vmpte_kb(r.pid) - thin_kb;
		if (over <= 2 * budget_kb(r.pid))
			break;
	}
	/* 128 MiB are left, whose budget is 0.6 MB; the node wasted 1.5 */
	EXPECT_LE(over, 2 * budget_kb(r.pid)) TH_LOG("%ld kB over radix's %ld", over, thin_kb);
	/* without contents there is no budget at all, but radix keeps its tables as well */
	ASSERT_TRUE(order(&r, DROP));
	for (end = seconds() + PROMOTE_S; seconds() < end; msleep(100)) {
		over = vmpte_kb(r.pid) - thin_kb;
		if (over <= 2 * budget_kb(r.pid))
			break;
	}
	EXPECT_LE(over, 2 * budget_kb(r.pid)) TH_LOG("%ld kB over radix's %ld", over, thin_kb);
	EXPECT_EQ(0, fpt_nodes(r.pid).bottom);
	EXPECT_LT(trimmed, fpt_stat0("trimmed"));
	EXPECT_TRUE(tables_ok(r.pid));
	EXPECT_EQ(0, end_run(&r));
}

/* A choice of the process overrules the policy, in both directions. */
AUTO_TEST(radix_is_never_promoted)
{
	static const struct shape dense = { "dense", 1, 512, 256 };
	struct run r;

	NEED_AUTO;
	if (available_gib() < 2)
		SKIP(return, "needs 2 GiB of free memory");
	ASSERT_TRUE(start_run(&r, PGT_RADIX, &dense));
	msleep(LOOK_S * 1000);
	EXPECT_EQ(0, fpt_nodes(r.pid).bottom);
	EXPECT_EQ(0, end_run(&r));
	ASSERT_TRUE(start_run(&r, PGT_AUTO, &dense));
	EXPECT_LE(0, until_nodes(r.pid, 1, PROMOTE_S));
	EXPECT_EQ(0, end_run(&r));
}

int main(int argc, char **argv)
{
	ssize_t n = readlink("/proc/self/exe", self_path, sizeof(self_path) - 1);

	self_path[n > 0 ? n : 0] = 0;
	if (argc == 5 && !strcmp(argv[1], "--measured"))
		return measured(argv + 2);
	return test_harness_run(argc, argv);
}
