// SPDX-License-Identifier: GPL-2.0
/*
 * Tables chosen per process: prctl(PR_SET_PGTABLES) and its inheritance, and processes
 * of every mode in one guest, side by side.
 */
#include "fpt_process.h"
#include "../kselftest_harness.h"

FPT_FIXTURE

#define BOTH (PGT_NOW | PGT_EXEC)
#define GIBS 3L

static long raw(int option, unsigned long a, unsigned long b, unsigned long c, unsigned long d)
{
	return prctl(option, a, b, c, d) < 0 ? -errno : 0;
}

/* --- what this program does when it is executed anew -------------------------- */

/* The words of a child that reports: now * 16 + exec, as exit code */
static int tell(void)
{
	int now = pgt_get(PGT_NOW), exec = pgt_get(PGT_EXEC);

	if (now < 0 || exec < 0)
		return 255;
	return now * 16 + exec;
}

static bool content_ok(char *p)
{
	long g;

	for (g = 0; g < GIBS; g++)
		if (bad(p + g * GIB, 64, GIB / 64, 40 + g) != -1)
			return false;
	return true;
}

/* Fills three GiBs, says so, and checks them when it is told to. */
static int hold(void)
{
	char *p = map_at(BASE, GIBS * GIB), c = 'r';
	long g;

	if (p == MAP_FAILED)
		return 1;
	for (g = 0; g < GIBS; g++)
		fill(p + g * GIB, 64, GIB / 64, 40 + g);
	if (write(STDOUT_FILENO, &c, 1) != 1 || read(STDIN_FILENO, &c, 1) != 1)
		return 2;
	if (!content_ok(p))
		return 3;
	if (munmap(p + GIB, GIB) || bad(p + 2 * GIB, 64, GIB / 64, 42) != -1)
		return 4;
	return tables_ok(0) ? 0 : 5;
}

static char self_path[256];

static void become(const char *what)
{
	execl(self_path, self_path, what, NULL);
	_exit(99);
}

/* Exit code of the program executed anew by a child that asked for these first */
static int told_after(int now, int exec)
{
	pid_t pid = fork();

	if (!pid) {
		CHILD_CHECK(now < 0 || !pgt_set(now, PGT_NOW));
		CHILD_CHECK(exec < 0 || !pgt_set(exec, PGT_EXEC));
		become("--tell");
	}
	return reap(pid);
}

/* --- errors ---------------------------------------------------------------------- */

FPT_TEST(nonsense_is_refused)
{
	NEED_CHOICE;
	EXPECT_EQ(-EINVAL, raw(PR_SET_PGTABLES, PGT_COUNT, PGT_NOW, 0, 0));
	EXPECT_EQ(-EINVAL, raw(PR_SET_PGTABLES, ~0UL, PGT_NOW, 0, 0));
	EXPECT_EQ(-EINVAL, raw(PR_SET_PGTABLES, 1UL << 32 | PGT_RADIX, PGT_NOW, 0, 0));
	EXPECT_EQ(-EINVAL, raw(PR_SET_PGTABLES, PGT_RADIX, 0, 0, 0));
	EXPECT_EQ(-EINVAL, raw(PR_SET_PGTABLES, PGT_RADIX, 4, 0, 0));
	EXPECT_EQ(-EINVAL, raw(PR_SET_PGTABLES, PGT_RADIX, BOTH | 8, 0, 0));
	EXPECT_EQ(-EINVAL, raw(PR_SET_PGTABLES, PGT_RADIX, PGT_NOW, 1, 0));
	EXPECT_EQ(-EINVAL, raw(PR_SET_PGTABLES, PGT_RADIX, PGT_NOW, 0, 1));
	EXPECT_EQ(-EINVAL, raw(PR_GET_PGTABLES, 0, 0, 0, 0));
	EXPECT_EQ(-EINVAL, raw(PR_GET_PGTABLES, BOTH, 0, 0, 0));
	EXPECT_EQ(-EINVAL, raw(PR_GET_PGTABLES, 4, 0, 0, 0));
	EXPECT_EQ(-EINVAL, raw(PR_GET_PGTABLES, PGT_NOW, 1, 0, 0));
	EXPECT_EQ(-EINVAL, raw(PR_GET_PGTABLES, PGT_NOW, 0, 1, 0));
	EXPECT_EQ(-EINVAL, raw(PR_GET_PGTABLES, PGT_NOW, 0, 0, 1));
	/* and none of it changed anything */
	EXPECT_EQ(PGT_SYSTEM, pgt_get(PGT_NOW));
	EXPECT_EQ(PGT_SYSTEM, pgt_get(PGT_EXEC));
}

/* A kernel without the calls says EINVAL, one that is booted as radix EOPNOTSUPP, and no other does. */
FPT_TEST(only_radix_has_no_choice)
{
	int request;

	if (!fpt_debugfs())
		SKIP(return, "a kernel without FPT has no PR_GET_PGTABLES");
	if (self->mode != RADIX) {
		EXPECT_LE(0, pgt_get(PGT_NOW));
		EXPECT_LE(0, pgt_get(PGT_EXEC));
		return;
	}
	EXPECT_EQ(-EOPNOTSUPP, pgt_get(PGT_NOW));
	EXPECT_EQ(-EOPNOTSUPP, pgt_get(PGT_EXEC));
	for (request = 0; request < PGT_COUNT; request++)
		EXPECT_EQ(-EOPNOTSUPP, pgt_set(request, BOTH)) TH_LOG("request %d", request);
}

FPT_TEST(what_is_set_can_be_got)
{
	int request, when;

	NEED_CHOICE;
	for (request = 0; request < PGT_COUNT; request++) {
		/* what is told of auto under a fixed mode is the kernel's to say */
		if (request == PGT_AUTO && self->mode != MIXED)
			continue;
		for (when = PGT_NOW; when <= BOTH; when++) {
			int want = pgt_offered(self->mode, request) ? 0 : -EOPNOTSUPP;

			ASSERT_EQ(0, pgt_set(PGT_SYSTEM, BOTH));
			EXPECT_EQ(want, pgt_set(request, when))
				TH_LOG("%s, when %d", pgt_names[request], when);
			EXPECT_EQ(!want && (when & PGT_NOW) ? request : PGT_SYSTEM, pgt_get(PGT_NOW));
			EXPECT_EQ(!want && (when & PGT_EXEC) ? request : PGT_SYSTEM,
				  pgt_get(PGT_EXEC));
		}
	}
	ASSERT_EQ(0, pgt_set(PGT_SYSTEM, BOTH));
}

/* --- inheritance -------------------------------------------------------------------- */

/* A request that this boot has besides radix */
static enum pgt some_mode(enum fpt_mode boot)
{
	return boot == L4L3 ? PGT_L4L3 : boot == L4L3_L2L1 ? PGT_L4L3_L2L1 : PGT_L3L2;
}

FPT_TEST(inherited_by_fork)
{
	enum pgt other = some_mode(self->mode);
	pid_t pid;

	NEED_CHOICE;
	ASSERT_EQ(0, pgt_set(PGT_RADIX, PGT_NOW));
	ASSERT_EQ(0, pgt_set(other, PGT_EXEC));
	pid = fork();
	if (!pid) {
		CHILD_CHECK(pgt_get(PGT_NOW) == PGT_RADIX);
		CHILD_CHECK(pgt_get(PGT_EXEC) == (int)other);
		/* the child's own from here on */
		CHILD_CHECK(!pgt_set(PGT_SYSTEM, BOTH));
		pid = fork();
		if (!pid)
			_exit(pgt_get(PGT_NOW) != PGT_SYSTEM || pgt_get(PGT_EXEC) != PGT_SYSTEM);
		_exit(reap(pid));
	}
	EXPECT_EQ(0, reap(pid));
	EXPECT_EQ(PGT_RADIX, pgt_get(PGT_NOW));
	EXPECT_EQ(other, pgt_get(PGT_EXEC));
	ASSERT_EQ(0, pgt_set(PGT_SYSTEM, BOTH));
}

/* Threads share what vfork and clone with CLONE_VM share: the address space. */
static void *asker(void *arg)
{
	return (void *)(long)pgt_get(PGT_EXEC);
}

FPT_TEST(one_for_all_threads)
{
	enum pgt other = some_mode(self->mode);
	pthread_t t;
	void *got;

	NEED_CHOICE;
	ASSERT_EQ(0, pgt_set(other, PGT_EXEC));
	ASSERT_EQ(0, pthread_create(&t, NULL, asker, NULL));
	pthread_join(t, &got);
	EXPECT_EQ((long)other, (long)got);
	ASSERT_EQ(0, pgt_set(PGT_SYSTEM, BOTH));
}

FPT_TEST(at_exec_the_new_program_has_exec)
{
	int other = some_mode(self->mode);

	NEED_CHOICE;
	EXPECT_EQ(PGT_SYSTEM * 17, told_after(-1, -1));
	EXPECT_EQ(other * 17, told_after(PGT_RADIX, other));
	EXPECT_EQ(PGT_RADIX * 17, told_after(other, PGT_RADIX));
	/* NOW alone does not reach the new program */
	EXPECT_EQ(PGT_SYSTEM * 17, told_after(PGT_RADIX, -1));
}

FPT_TEST(twice_executed)
{
	int other = some_mode(self->mode);
	pid_t pid;

	NEED_CHOICE;
	pid = fork();
	if (!pid) {
		CHILD_CHECK(!pgt_set(other, PGT_EXEC));
		execl("/bin/sh", "sh", "-c", "\"$0\" --tell; exit $?", self_path, NULL);
		_exit(99);
	}
	EXPECT_EQ(other * 17, reap(pid));
}

static bool copy_file(const char *from, const char *to, mode_t mode)
{
	int in = open(from, O_RDONLY), out = open(to, O_WRONLY | O_CREAT | O_TRUNC, 0700);
	static char buf[65536];
	ssize_t n = -1;

	while (in >= 0 && out >= 0 && (n = read(in, buf, sizeof(buf))) > 0)
		if (write(out, buf, n) != n)
			break;
	close(in);
	/* chmod: the mask does not count, and writing takes set-uid away */
	return !close(out) && !n && !chown(to, 0, 0) && !chmod(to, mode);
}

/* Who may not read a program's memory shall not choose its tables either. */
FPT_TEST(dropped_at_a_privileged_exec)
{
	char dir[] = "/tmp/fpt-suid-XXXXXX", file[64];
	int other = some_mode(self->mode), k;

	NEED_CHOICE;
	if (geteuid())
		SKIP(return, "needs root");
	ASSERT_NE(NULL, mkdtemp(dir));
	ASSERT_EQ(0, chmod(dir, 0755));
	ASSERT_EQ(0, mount("suid", dir, "tmpfs", 0, "mode=0755"));
	snprintf(file, sizeof(file), "%s/tell", dir);
	ASSERT_TRUE(copy_file(self_path, file, 04755));
	/* as user 1000: with the bit, with the bit and no_new_privs, without the bit */
	for (k = 0; k < 3; k++) {
		pid_t pid = fork();

		if (!pid) {
			CHILD_CHECK(!chmod(file, k < 2 ? 04755 : 0755));
			CHILD_CHECK(!setresgid(1000, 1000, 1000) && !setresuid(1000, 1000, 1000));
			CHILD_CHECK(!pgt_set(PGT_RADIX, PGT_NOW) && !pgt_set(other, PGT_EXEC));
			if (k == 1)
				CHILD_CHECK(!prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
			execl(file, file, "--tell", NULL);
			_exit(99);
		}
		EXPECT_EQ(k == 0 ? PGT_SYSTEM * 17 : other * 17, reap(pid)) TH_LOG("case %d", k);
	}
	EXPECT_EQ(0, umount(dir));
	rmdir(dir);
}

/* --- tables --------------------------------------------------------------------------- */

struct held {
	enum pgt request;
	pid_t pid;
	int to, from;
};

static void start_held(struct held *h)
{
	int in[2], out[2];
	char c = 0;

	h->pid = -1;
	if (pipe2(in, O_CLOEXEC) || pipe2(out, O_CLOEXEC))
		return;
	h->pid = fork();
	if (!h->pid) {
		CHILD_CHECK(!pgt_set(h->request, PGT_EXEC));
		CHILD_CHECK(dup2(in[0], 0) == 0 && dup2(out[1], 1) == 1);
		become("--hold");
	}
	close(in[0]);
	close(out[1]);
	h->to = in[1];
	h->from = out[0];
	if (read(h->from, &c, 1) != 1)
		fprintf(stderr, "# %s did not start\n", pgt_names[h->request]);
}

/* A node, or the reason why there is none, counted */
#define EXPECT_NODES(least, got) \
	EXPECT_TRUE((got) >= (least) || after.misses > before.misses) \
		TH_LOG("%s has %ld %s nodes, expected %ld", pgt_names[h->request], (long)(got), #got, \
		       (long)(least))

/* A process of every mode that this boot has, three of each, all at once */
FPT_TEST(modes_side_by_side)
{
	struct held all[3 * PGT_COUNT], *h;
	struct fpt_nodes before, after;
	int n = 0, i, k;

	NEED_CHOICE;
	before = fpt_nodes(0);
	for (k = 0; k < 3; k++)
		for (i = PGT_RADIX; i < PGT_AUTO; i++)
			if (pgt_offered(self->mode, i))
				all[n++].request = i;
	ASSERT_LT(0, n);
	for (h = all; h < all + n; h++) {
		start_held(h);
		ASSERT_LT(0, h->pid);
	}
	for (h = all; h < all + n; h++) {
		bool root = h->request == PGT_L4L3 || h->request == PGT_L4L3_L2L1;
		bool mid = h->request == PGT_L3L2, bottom = h->request == PGT_L4L3_L2L1;

		after = fpt_nodes(h->pid);
		EXPECT_TRUE(tables_ok(h->pid));
		/* the program's own spans come on top */
		EXPECT_NODES(root ? 1 : 0, after.root);
		EXPECT_NODES(mid ? 1 : 0, after.mid);
		EXPECT_NODES(bottom ? GIBS : 0, after.bottom);
		if (!root)
			EXPECT_EQ(0, after.root) TH_LOG("%s", pgt_names[h->request]);
		if (!mid)
			EXPECT_EQ(0, after.mid) TH_LOG("%s", pgt_names[h->request]);
		if (!bottom)
			EXPECT_EQ(0, after.bottom) TH_LOG("%s", pgt_names[h->request]);
	}
	/* one after the other checks, unmaps and leaves beside the rest */
	for (h = all; h < all + n; h++) {
		EXPECT_EQ(1, write(h->to, "c", 1));
		EXPECT_EQ(0, reap(h->pid)) TH_LOG("%s", pgt_names[h->request]);
		close(h->to);
		close(h->from);
	}
}

/* NOW speaks of tables that are still to be made; the root has been there since exec. */
FPT_TEST(now_is_for_new_tables)
{
	struct fpt_nodes a, b;
	char *p = map_at(BASE, 8 * SPAN);
	enum pgt flat = self->mode == L3L2 ? PGT_L3L2 : PGT_L4L3_L2L1;
	long g, got;
	pid_t pid;

	NEED_CHOICE;
	ASSERT_NE(MAP_FAILED, p);
	if (!pgt_offered(self->mode, flat))
		SKIP(return, "boot mode %s has only roots", fpt_mode_names[self->mode]);
	ASSERT_EQ(0, pgt_set(PGT_RADIX, PGT_NOW));
	a = fpt_nodes(0);
	fill(p, 4, SPAN, 1);
	b = fpt_nodes(0);
	EXPECT_EQ(a.root, b.root);
	EXPECT_EQ(a.mid + a.bottom, b.mid + b.bottom);
	ASSERT_EQ(0, pgt_set(flat, PGT_NOW));
	a = fpt_nodes(0);
	fill(p + 4 * SPAN, 4, SPAN, 2);
	b = fpt_nodes(0);
	EXPECT_EQ(a.root, b.root);
	got = b.mid + b.bottom - a.mid - a.bottom;
	EXPECT_TRUE(got == 4 || (got < 4 && b.misses > a.misses)) TH_LOG("%ld new nodes", got);
	for (g = 0; g < 4; g++) {
		EXPECT_TRUE(page_ok(p + g * SPAN, 1, g));
		EXPECT_TRUE(page_ok(p + (4 + g) * SPAN, 2, g));
	}
	EXPECT_TRUE(tables_ok(0));
	/* and a child has its parent's tables and its parent's choice */
	pid = fork();
	if (!pid) {
		for (g = 0; g < 4; g++) {
			CHILD_CHECK(page_ok(p + g * SPAN, 1, g));
			page_set(p + g * SPAN, 3, g);
			CHILD_CHECK(page_ok(p + (4 + g) * SPAN, 2, g));
		}
		CHILD_CHECK(pgt_get(PGT_NOW) == (int)flat);
		CHILD_CHECK(tables_ok(0));
		_exit(0);
	}
	EXPECT_EQ(0, reap(pid));
	EXPECT_EQ(-1, bad(p, 4, SPAN, 1));
	ASSERT_EQ(0, pgt_set(PGT_SYSTEM, BOTH));
	ASSERT_EQ(0, munmap(p, 8 * SPAN));
	EXPECT_TRUE(tables_ok(0));
}

int main(int argc, char **argv)
{
	ssize_t n = readlink("/proc/self/exe", self_path, sizeof(self_path) - 1);

	self_path[n > 0 ? n : 0] = 0;
	if (argc > 1 && !strcmp(argv[1], "--tell"))
		return tell();
	if (argc > 1 && !strcmp(argv[1], "--hold"))
		return hold();
	return test_harness_run(argc, argv);
}
