// SPDX-License-Identifier: GPL-2.0
/*
 * Threads and processes that do everything to the same few spans for a while.
 *
 *   fpt_stress [-t SECONDS] [-s SEED] [-j THREADS] [-f PERCENT]
 *
 * Each thread owns slots of memory spread over the shared spans, so contents can
 * be checked although the tables are shared. -f makes that share of order-9
 * allocations fail. Once a second fpt/check verifies the tables, and the first bad one
 * ends the run. The seed of a failure is printed.
 */
#include "fpt_util.h"
#include "../kselftest.h"

#define SLOTS	24
#define SLOT	(2 * HUGE)	/* covers a table border */
#define MAXT	16

static long seconds = 20, threads = 4, seed = 1, fail_percent;
static volatile bool stop;
static volatile long ops[16], wrong;
static pthread_mutex_t print = PTHREAD_MUTEX_INITIALIZER;

struct slot {
	char *p;		/* where it is mapped; NULL: not */
	uint64_t seed;		/* contents; 0: zeroes */
	bool ro, huge;
	uint64_t filled[2];	/* a bit per 1/64 of a half */
};

struct me {
	int id;
	unsigned int rng;
	struct slot slot[SLOTS];
};

static unsigned int rnd(struct me *m, unsigned int n)
{
	m->rng = m->rng * 1664525 + 1013904223;
	return (m->rng >> 8) % n;
}

/* Slot s of thread t lives at one of four homes, in other GiBs and spans. */
static unsigned long home(int t, int s, int h)
{
	unsigned long a = BASE + (s % 3) * SPAN + (s % 2 ? SPAN - 4 * GIB : 0);

	return a + (unsigned long)h * GIB - (h & 1 ? HUGE : 0) + ((unsigned long)t * SLOTS + s) * 2 * SLOT;
}

static void fault(struct me *m, struct slot *s, const char *what, int i)
{
	pthread_mutex_lock(&print);
	wrong++;
	printf("# thread %d: %s: page %d of slot at %p is wrong (seed %ld)\n", m->id, what, i,
	       (void *)s->p, seed);
	fflush(stdout);
	pthread_mutex_unlock(&print);
	stop = true;
}

#define PIECES	128
#define STEP	(SLOT / PIECES)

static bool has(struct slot *s, int i)
{
	return s->filled[i / 64] >> (i % 64) & 1;
}

static void verify(struct me *m, struct slot *s, const char *what)
{
	int i;

	if (!s->p)
		return;
	for (i = 0; i < PIECES; i++) {
		char *q = s->p + i * STEP;

		if (has(s, i) ? !page_ok(q, s->seed, i) : !page_zero(q))
			fault(m, s, what, i);
	}
}

static void unmap(struct slot *s)
{
	if (s->p)
		munmap(s->p, SLOT);
	*s = (struct slot){ 0 };
}

static void do_map(struct me *m, struct slot *s, int n)
{
	unmap(s);
	s->p = map_at(home(m->id, n, rnd(m, 4)), SLOT);
	if (s->p == MAP_FAILED) {
		s->p = NULL;
		return;
	}
	s->seed = rnd(m, 1 << 20) + 1;
	if (rnd(m, 8) == 0) {
		madvise(s->p, SLOT, MADV_HUGEPAGE);
		s->huge = true;
	}
}

static void do_touch(struct me *m, struct slot *s)
{
	int i, k = rnd(m, PIECES);

	if (!s->p || s->ro)
		return;
	for (i = 0; i < k; i++) {
		int j = rnd(m, PIECES);

		page_set(s->p + j * STEP, s->seed, j);
		s->filled[j / 64] |= 1ULL << (j % 64);
	}
}

static void do_protect(struct me *m, struct slot *s)
{
	if (!s->p)
		return;
	s->ro = !s->ro;
	if (mprotect(s->p, SLOT, s->ro ? PROT_READ : PROT_READ | PROT_WRITE))
		fault(m, s, "mprotect", -1);
}

static void do_move(struct me *m, struct slot *s, int n)
{
	char *to = (char *)home(m->id, n, rnd(m, 4));

	if (!s->p || to == s->p)
		return;
	if (mremap(s->p, SLOT, SLOT, MREMAP_MAYMOVE | MREMAP_FIXED, to) != to) {
		fault(m, s, "mremap", -1);
		return;
	}
	s->p = to;
}

static void do_discard(struct me *m, struct slot *s)
{
	int half = rnd(m, 2);

	if (!s->p)
		return;
	if (madvise(s->p + half * SLOT / 2, SLOT / 2, MADV_DONTNEED))
		fault(m, s, "madvise", -1);
	s->filled[half] = 0;
}

static void do_replace(struct me *m, struct slot *s)
{
	if (!s->p)
		return;
	if (mmap(s->p, SLOT, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED |
		 MAP_NORESERVE, -1, 0) != s->p) {
		fault(m, s, "mmap over", -1);
		return;
	}
	s->ro = s->huge = false;
	s->filled[0] = s->filled[1] = 0;
}

static void do_fork(struct me *m)
{
	pid_t pid = fork();
	int i;

	if (!pid) {
		/* this thread's slots only: others change theirs meanwhile */
		for (i = 0; i < SLOTS; i++) {
			verify(m, &m->slot[i], "child");
			if (m->slot[i].p && !m->slot[i].ro)
				fill(m->slot[i].p, 16, SLOT / 16, 999);
			if (rnd(m, 2))
				unmap(&m->slot[i]);
		}
		_exit(wrong ? 1 : 0);
	}
	if (pid < 0)
		return;	/* no memory is no error */
	if (reap(pid)) {
		pthread_mutex_lock(&print);
		wrong++;
		printf("# thread %d: a child failed (seed %ld)\n", m->id, seed);
		pthread_mutex_unlock(&print);
		stop = true;
	}
}

static void do_exec(struct me *m)
{
	pid_t pid = vfork();

	if (!pid) {
		execl("./fpt_tiny", "fpt_tiny", "5", NULL);
		_exit(99);
	}
	if (pid > 0 && reap(pid) != 5) {
		wrong++;
		printf("# exec failed (seed %ld)\n", seed);
		stop = true;
	}
}

static void *work(void *arg)
{
	struct me *m = arg;
	int i;

	while (!stop) {
		int op = rnd(m, 100), n = rnd(m, SLOTS), k;
		struct slot *s = &m->slot[n];

		if (op < 20)
			k = 0, do_map(m, s, n);
		else if (op < 45)
			k = 1, do_touch(m, s);
		else if (op < 52)
			k = 2, do_protect(m, s);
		else if (op < 64)
			k = 3, do_move(m, s, n);
		else if (op < 71)
			k = 4, do_discard(m, s);
		else if (op < 76)
			k = 5, do_replace(m, s);
		else if (op < 80)
			k = 6, unmap(s);
		else if (op < 83)
			k = 7, do_fork(m);
		else if (op < 85)
			k = 8, do_exec(m);
		else if (op < 88)
			k = 9, s->p ? madvise(s->p, SLOT, MADV_COLD) : 0;
		else if (op < 90)
			k = 10, s->p ? madvise(s->p, SLOT, MADV_COLLAPSE) : 0;
		else
			k = 11, verify(m, s, "check");
		__sync_fetch_and_add(&ops[k], 1);
	}
	for (i = 0; i < SLOTS; i++) {
		verify(m, &m->slot[i], "end");
		unmap(&m->slot[i]);
	}
	return NULL;
}

int main(int argc, char **argv)
{
	static const char *const name[] = { "map", "touch", "protect", "move", "discard", "replace",
		"unmap", "fork", "exec", "cold", "collapse", "verify" };
	static struct me me[MAXT];
	pthread_t t[MAXT];
	struct fpt_nodes before, after;
	enum fpt_mode mode = fpt_mode();
	const char *tables = NULL;
	long pte, now;
	int opt, i;

	while ((opt = getopt(argc, argv, "t:s:j:f:")) != -1) {
		switch (opt) {
		case 't': seconds = atol(optarg); break;
		case 's': seed = atol(optarg); break;
		case 'j': threads = atol(optarg); break;
		case 'f': fail_percent = atol(optarg); break;
		default:
			fprintf(stderr, "usage: fpt_stress [-t SECONDS] [-s SEED] [-j THREADS] [-f PERCENT]\n");
			return KSFT_FAIL;
		}
	}
	if (threads < 1 || threads > MAXT || seconds < 1)
		ksft_exit_fail_msg("1 to %d threads, at least one second\n", MAXT);

	ksft_print_header();
	ksft_set_plan(4);
	ksft_print_msg("mode %s, %ld s, %ld threads, seed %ld\n", fpt_mode_names[mode], seconds,
		       threads, seed);
	if (fail_percent) {
		char num[16];

		snprintf(num, sizeof(num), "%ld", fail_percent);
		if (write_text("/sys/kernel/debug/fail_page_alloc/min-order", "9") ||
		    write_text("/sys/kernel/debug/fail_page_alloc/task-filter", "N") ||
		    write_text("/sys/kernel/debug/fail_page_alloc/verbose", "0") ||
		    write_text("/sys/kernel/debug/fail_page_alloc/interval", "1") ||
		    write_text("/sys/kernel/debug/fail_page_alloc/times", "-1") ||
		    write_text("/sys/kernel/debug/fail_page_alloc/probability", num))
			ksft_exit_fail_msg("cannot inject allocation failures\n");
	}
	before = fpt_nodes(0);
	pte = vmpte_kb(0);
	for (i = 0; i < threads; i++) {
		me[i].id = i;
		me[i].rng = seed * 7919 + i * 104729 + 1;
		if (pthread_create(&t[i], NULL, work, &me[i]))
			ksft_exit_fail_msg("pthread_create: %s\n", strerror(errno));
	}
	for (i = 0; i < seconds * 10 && !stop && !tables; i++) {
		msleep(100);
		if (i % 10 == 9)
			tables = fpt_check(0);
	}
	stop = true;
	for (i = 0; i < threads; i++)
		pthread_join(t[i], NULL);
	if (fail_percent)
		write_text("/sys/kernel/debug/fail_page_alloc/probability", "0");

	for (i = 0; i < 12; i++)
		ksft_print_msg("%ld %s\n", ops[i], name[i]);
	ksft_test_result(!wrong, "contents\n");
	if (!tables)
		tables = fpt_check(0);
	if (tables)
		ksft_print_msg("fpt/check: %s (seed %ld)\n", tables, seed);
	ksft_test_result(!tables, "tables\n");

	after = fpt_nodes(0);
	if (mode == RADIX) {
		ksft_test_result(after.root + after.mid + after.bottom == 0, "nodes\n");
	} else {
		/* thread stacks may have added the span of the C library's mappings */
		long more = after.mid + after.bottom - before.mid - before.bottom;

		if (more > 2)
			ksft_print_msg("expected at most 2 more flat nodes than before, found %ld\n", more);
		ksft_test_result(more <= 2, "nodes\n");
	}
	now = vmpte_kb(0);
	if (now > pte + 2 * 2048 + 256)
		ksft_print_msg("expected VmPTE near %ld kB, found %ld kB\n", pte, now);
	ksft_test_result(now <= pte + 2 * 2048 + 256, "page table bytes\n");
	ksft_finished();
}
