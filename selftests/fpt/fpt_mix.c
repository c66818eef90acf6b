// SPDX-License-Identifier: GPL-2.0
/*
 * Small and large processes on one machine, boot mode mixed: a hundred idle shells, two
 * programs of 2 GiB and a loop that forks and executes, first all with radix tables, then
 * with what comes by itself. What must be reached:
 *
 *   page tables of the machine	<= 1.10 x radix's, + one node for each large program
 *   of the PTE tables in GiBs that are at least half used, >= 90 % lie in nodes
 *
 * Huge pages are left to those who ask: transparent_hugepage/enabled is set to madvise.
 * A guest of 6 GiB has room for 2 GiB each; with less the programs have 1 GiB.
 */
#include "fpt_process.h"
#include "../kselftest_harness.h"

FPT_FIXTURE

#define SHELLS 100
#define LARGE 2
#define NODE_KB 2048L
#define PROMOTE_S 30
#define THP "/sys/kernel/mm/transparent_hugepage/enabled"

static char self_path[256], tiny_path[256];

/* --- the programs --------------------------------------------------------------------------- */

static int large(long gibs)
{
	char *p = map_at(BASE, gibs * GIB), c = 'r';
	long n = gibs * (long)(GIB / PAGE);

	if (p == MAP_FAILED)
		return 1;
	fill(p, n, PAGE, 3);
	if (write(STDOUT_FILENO, &c, 1) != 1)
		return 2;
	/* until the other end closes */
	while (read(STDIN_FILENO, &c, 1) == 1)
		;
	return bad(p, n, PAGE, 3) == -1 ? 0 : 3;
}

/* Forks and executes until it is killed. */
static int loop(void)
{
	char c = 'r';

	if (write(STDOUT_FILENO, &c, 1) != 1)
		return 2;
	for (;;) {
		pid_t pid = fork();

		if (!pid) {
			execl(tiny_path, tiny_path, "0", NULL);
			_exit(99);
		}
		if (reap(pid))
			return 3;
	}
}

struct proc {
	pid_t pid;
	int to, from;
};

static bool start_proc(struct proc *p, enum pgt request, const char *const argv[])
{
	int in[2], out[2];
	char c;

	if (pipe2(in, O_CLOEXEC) || pipe2(out, O_CLOEXEC))
		return false;
	p->pid = fork();
	if (!p->pid) {
		CHILD_CHECK(!pgt_set(request, PGT_EXEC));
		CHILD_CHECK(dup2(in[0], 0) == 0 && dup2(out[1], 1) == 1);
		execv(argv[0], (char *const *)argv);
		_exit(99);
	}
	close(in[0]);
	close(out[1]);
	p->to = in[1];
	p->from = out[0];
	return p->pid > 0 && read(p->from, &c, 1) == 1;
}

static int end_proc(struct proc *p)
{
	close(p->to);
	close(p->from);
	return reap(p->pid);
}

/* --- all of them together -------------------------------------------------------------------- */

struct mix {
	long tables_kb, pools_kb, nodes, half_used, flat;
	double took;
};

static long pools_kb(void)
{
	return (fpt_stat0("root_pool_nodes") + fpt_stat0("mid_pool_nodes") +
		fpt_stat0("bottom_pool_nodes")) * NODE_KB;
}

/* Where nodes are expected: until they are there. The fork loop goes on all the time. */
static long run_mix(struct __test_metadata *_metadata, enum pgt request, long gibs, struct mix *m)
{
	static const char *const shell[] = { "/bin/sh", "-c", "echo r; read x; :", NULL };
	const char *const looping[] = { self_path, "--loop", NULL };
	const char *const big[] = { self_path, "--large", gibs == 2 ? "2" : "1", NULL };
	struct proc shells[SHELLS], large[LARGE], looper;
	long begin, i;
	double start;

	fpt_calm();
	begin = all_tables_kb();
	for (i = 0; i < SHELLS; i++)
		ASSERT_TRUE(start_proc(&shells[i], request, shell));
	ASSERT_TRUE(start_proc(&looper, request, looping));
	for (i = 0; i < LARGE; i++)
		ASSERT_TRUE(start_proc(&large[i], request, big));
	start = seconds();
	do {
		msleep(200);
		for (m->nodes = 0, i = 0; i < LARGE; i++)
			m->nodes += fpt_nodes(large[i].pid).bottom;
	} while (m->nodes < LARGE * gibs && seconds() - start < (request == PGT_RADIX ? 3 : PROMOTE_S));
	m->took = seconds() - start;
	/* every GiB of theirs is full, and a full node has 512 tables */
	m->half_used = LARGE * gibs * 512;
	m->flat = m->nodes * 512;
	/* the loop's own tables come and go: between two of its programs */
	kill(looper.pid, SIGSTOP);
	msleep(300);
	fpt_let_go();
	m->tables_kb = all_tables_kb() - begin;
	m->pools_kb = pools_kb();
	for (i = 0; i < LARGE; i++)
		EXPECT_TRUE(tables_ok(large[i].pid));
	for (i = 0; i < SHELLS; i++) {
		struct fpt_nodes n = fpt_nodes(shells[i].pid);

		EXPECT_EQ(0, n.root + n.mid + n.bottom);
	}
	kill(looper.pid, SIGCONT);
	kill(looper.pid, SIGTERM);
	EXPECT_EQ(128 + SIGTERM, end_proc(&looper));
	for (i = 0; i < LARGE; i++)
		EXPECT_EQ(0, end_proc(&large[i]));
	for (i = 0; i < SHELLS; i++)
		EXPECT_EQ(0, end_proc(&shells[i]));
	return m->tables_kb;
}

TEST_F_TIMEOUT(fpt, a_hundred_shells_and_two_of_2_gib, 600)
{
	long gibs = file_value("/proc/meminfo", "MemAvailable") >> 20 >= 5 ? 2 : 1, most;
	struct mix radix, mixed;
	char was[64], *word;

	if (self->mode != MIXED)
		SKIP(return, "boot mode %s: no node comes by itself later",
		     fpt_mode_names[self->mode]);
	if (file_value("/proc/meminfo", "MemAvailable") >> 10 < 2560)
		SKIP(return, "needs 2.5 GiB of free memory");
	ASSERT_LT(0, read_text(THP, was, sizeof(was)));
	ASSERT_EQ(0, write_text(THP, "madvise"));
	run_mix(_metadata, PGT_RADIX, gibs, &radix);
	run_mix(_metadata, PGT_SYSTEM, gibs, &mixed);
	word = strchr(was, '[');
	if (word) {
		word[1 + strcspn(word + 1, "]")] = 0;
		write_text(THP, word + 1);
	}
	most = radix.tables_kb * 11 / 10 + LARGE * NODE_KB;
	TH_LOG("%d shells, %d programs of %ld GiB: %ld kB of tables, radix %ld, at most %ld",
	       SHELLS, LARGE, gibs, mixed.tables_kb, radix.tables_kb, most);
	TH_LOG("%ld of %ld tables in nodes after %.1f s; pools %ld kB", mixed.flat, mixed.half_used,
	       mixed.took, mixed.pools_kb);
	EXPECT_EQ(0, radix.nodes);
	EXPECT_LE(mixed.tables_kb, most);
	EXPECT_GE(mixed.flat * 10, mixed.half_used * 9);
}

int main(int argc, char **argv)
{
	ssize_t n = readlink("/proc/self/exe", self_path, sizeof(self_path) - 1);
	char *slash;

	self_path[n > 0 ? n : 0] = 0;
	strcpy(tiny_path, self_path);
	slash = strrchr(tiny_path, '/');
	if (slash && slash - tiny_path < (long)sizeof(tiny_path) - 16)
		strcpy(slash + 1, "fpt_tiny");
	if (argc == 3 && !strcmp(argv[1], "--large"))
		return large(atol(argv[2]));
	if (argc == 2 && !strcmp(argv[1], "--loop"))
		return loop();
	return test_harness_run(argc, argv);
}
