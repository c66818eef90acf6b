// SPDX-License-Identifier: GPL-2.0
/*
 * Range operations over memory of every shape: begins and ends at, before and
 * behind borders of 2 MiB, 1 GiB and 512 GiB, with empty, sparse and full spans
 * of each size before, in and after the range. What every page must hold and
 * allow afterwards is known here (fpt_shapes.h), so the same program judges
 * every mode and a kernel without FPT.
 *
 *	fpt_shapes [-a] [-l] [-v] [-c PATTERN]
 *
 *	-c PATTERN	only cases whose name matches, a shell pattern:
 *			fpt_shapes -c 'munmap/512G/ESFE/B1..B3-4K'
 *	-l		lists the names
 *	-v		names every failed case, not only the first ten of an operation
 *	-a		all words, and a page per GiB in a full 512 GiB span: minutes
 *
 * A case is OPERATION/SIZE/WORD/FROM..TO. Each shape is set up in a process of
 * its own, which goes from case to case; after a failure a new one goes on with
 * the next, so that no case is judged by what another has left.
 *
 * With 512 GiB and 1 GiB a third of the 81 words is taken: each three spans have
 * all of their combinations. The ends of the range change from word to word and
 * from operation to operation.
 */
#include "fpt_shapes_ops.h"
#include <fnmatch.h>
#include "../kselftest.h"

/* --- between processes ------------------------------------------------------------------------------ */

/* One process has the shape and ends; the log tells what is wrong with its end. */
static void op_exit_whole(const struct range *r)
{
	pid_t pid = fork();

	if (!pid) {
		catch_faults();
		set_up(false);
		check(r, KEEP, KEEP);
		_exit(board->failed);
	}
	must(pid > 0 && !reap(pid), "a child that ends");
}

/*
 * One process has the shape, unmaps the range and ends. The next one has its
 * memory elsewhere, makes the same tables by a page of its own in each, and
 * reads where the first one wrote.
 */
static void op_recycle(const struct range *r)
{
	pid_t pid = fork();
	int i;

	if (!pid) {
		catch_faults();
		set_up(false);
		munmap(at(r->from), length(r));
		_exit(board->failed);
	}
	must(pid > 0 && !reap(pid), "a child that ends");
	pid = fork();
	if (!pid) {
		if (map_at(FAR, arena_size()) != (void *)FAR)
			_exit(1);
		for (i = 0; i < spots; i++)
			if (spot[i].filled)
				*(volatile char *)(FAR + (spot[i].off & ~(HUGE - 1)) + 7 * PAGE) = 1;
		for (i = 0; i < spots; i++)
			if ((spot[i].off & (HUGE - 1)) != 7 * PAGE &&
			    !page_zero((void *)(FAR + spot[i].off)))
				fail_at(spot[i].off, "zeroes", "contents that this process never wrote");
		_exit(board->failed);
	}
	must(pid > 0 && (!reap(pid) || board->failed), "a child that ends");
}

/* --- the table ----------------------------------------------------------------- */

enum needs { NOTHING, UFFD_WP, UFFD_ASYNC, SCAN, SOFT_DIRTY, SWAP, COLLAPSE, KLOG, FLAGS, NEEDS };

enum where {
	ANON,		/* in the process that has the shape, private memory */
	FILE_BACKED,	/* the same, a shared file */
	OUTSIDE,	/* makes processes itself */
};

struct op {
	const char *name;
	void (*run)(const struct range *r);
	enum where where;
	enum needs needs;
	int stride;	/* takes each n-th word: 0 and 1 all */
	bool rebuild;	/* the shape is another afterwards */
};

static const struct op ops[] = {
	{ "munmap", op_munmap },
	{ "map_fixed", op_map_fixed },
	{ "mprotect_read", op_mprotect_read },
	{ "mprotect_none", op_mprotect_none },
	{ "dontneed", op_dontneed },
	{ "free", op_free },
	{ "cold", op_cold },
	{ "mremap", op_mremap },
	{ "mremap_by_4k", op_mremap_by_4k },
	{ "mremap_by_2m", op_mremap_by_2m },
	{ "mremap_keep", op_mremap_keep },
	{ "mremap_shrink", op_mremap_shrink },
	{ "fork", op_fork },
	{ "fork_wipe", op_fork_wipe },
	{ "fork_without", op_fork_without },
	{ "exit", op_exit, .needs = KLOG },
	{ "mlock_onfault", op_mlock_onfault, .needs = FLAGS },
	{ "mincore", op_mincore },
	{ "pagemap", op_pagemap },
#ifdef PAGEMAP_SCAN
	{ "scan", op_scan, .needs = SCAN },
	{ "uffd_async", op_uffd_async, .needs = UFFD_ASYNC },
#endif
	{ "uffd_wp", op_uffd_wp, .needs = UFFD_WP },
	{ "soft_dirty", op_soft_dirty, .needs = SOFT_DIRTY },
	{ "swapoff", op_swapoff, .needs = SWAP, .stride = 3 },
	{ "populate_read", op_populate_read, .rebuild = true, .stride = 2 },
	{ "populate_write", op_populate_write, .rebuild = true, .stride = 2 },
	{ "mlock", op_mlock, .rebuild = true, .stride = 2 },
	{ "collapse", op_collapse, .needs = COLLAPSE, .rebuild = true, .stride = 2 },
	{ "file_munmap", op_munmap, FILE_BACKED },
	{ "file_mprotect", op_mprotect_read, FILE_BACKED },
	{ "file_dontneed", op_dontneed, FILE_BACKED },
	{ "file_mremap", op_mremap, FILE_BACKED },
	{ "file_fork", op_fork, FILE_BACKED },
	{ "file_mincore", op_mincore, FILE_BACKED },
	{ "msync", op_msync, FILE_BACKED },
	{ "ftruncate", op_ftruncate, FILE_BACKED },
	{ "punch", op_punch, FILE_BACKED },
	{ "remove", op_remove, FILE_BACKED },
	{ "exit_whole", op_exit_whole, OUTSIDE, KLOG, .stride = 3 },
	{ "recycle", op_recycle, OUTSIDE, .stride = 3 },
};

#define OPS ((int)ARRAY_SIZE(ops))

/* Why cases cannot be run here; NULL: they can */
static const char *missing[NEEDS];

static bool thp_madvise;	/* THP was "always" and is "madvise" while we run */

#define THP "/sys/kernel/mm/transparent_hugepage/enabled"

/* A page that was just written is soft-dirty, if the kernel knows of that at all. */
static bool soft_dirty_works(void)
{
	static char two[2 * PAGE];
	unsigned long p = ((unsigned long)two + PAGE - 1) & ~(PAGE - 1);

	*(volatile char *)p = 1;
	return pagemap(p) & PM_SOFT_DIRTY;
}

static void probe(void)
{
	char text[256];
	int fd;

	fd = uffd_open(UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_SIGBUS);
	if (fd < 0)
		missing[UFFD_WP] = "no userfaultfd write protection";
	else
		close(fd);
	fd = uffd_open(UFFD_FEATURE_WP_ASYNC | UFFD_FEATURE_WP_UNPOPULATED);
	if (fd < 0)
		missing[UFFD_ASYNC] = "no asynchronous userfaultfd write protection";
	else
		close(fd);
#ifdef PAGEMAP_SCAN
	fd = open("/proc/self/pagemap", O_RDONLY);
	if (ioctl(fd, PAGEMAP_SCAN, NULL) && errno == ENOTTY)
		missing[SCAN] = missing[UFFD_ASYNC] = "no PAGEMAP_SCAN";
	close(fd);
#endif
	if (!kmsg_open())
		missing[KLOG] = "the kernel's log cannot be read";
	if (access("/proc/kpageflags", R_OK))
		missing[FLAGS] = "no /proc/kpageflags";
	if (!soft_dirty_works())
		missing[SOFT_DIRTY] = "no soft-dirty pages";
	missing[SWAP] = make_swap();

	/* Huge pages hide the tables; only MADV_COLLAPSE is to make them. */
	if (read_text(THP, text, sizeof(text)) < 0) {
		missing[COLLAPSE] = "no transparent huge pages";
	} else if (strstr(text, "[always]")) {
		thp_madvise = !write_text(THP, "madvise");
		if (!thp_madvise)
			ksft_exit_skip("transparent huge pages come everywhere, and that cannot be changed\n");
	}
}

static void clean_up(void)
{
	if (!missing[SWAP])
		remove_swap();
	if (thp_madvise)
		write_text(THP, "always");
}

/* --- cases ------------------------------------------------------------------------ */

#define MAX_WORDS 81

static bool all_words;
static const char *pattern;

struct tally {
	int ran, failed;
};

static struct tally tally[OPS][UNITS];

/* The n-th word of a size; the number of words if there is no such. */
static int word_of(enum unit u, int n, enum letter *word)
{
	int code, i, c, k = 0;

	for (code = 0; code < MAX_WORDS; code++) {
		for (i = SPANS - 1, c = code; i >= 0; i--, c /= 3)
			word[i] = c % 3;
		if (u != U2M && !all_words && word[3] != (word[0] + word[1] + word[2]) % 3u)
			continue;
		if (k++ == n)
			return n;
	}
	return k;
}

static int words_of(enum unit u)
{
	enum letter word[SPANS];

	return word_of(u, MAX_WORDS, word);
}

/*
 * Places at a border of a size: that border, and one of each smaller size beside
 * it; each exactly, a page before, a page behind.
 */
static unsigned long place(enum unit u, int border, int n, bool below, char *name)
{
	static const char *const by_page[] = { "-4K", "", "+4K" };
	int size = n / 3 - 1, page = n % 3 - 1;
	unsigned long at = border * unit_size[u], beside = size < 0 ? 0 : unit_size[size];

	if (size < 0)
		sprintf(name, "B%d%s", border, by_page[page + 1]);
	else
		sprintf(name, "B%d%c%s%s", border, below ? '-' : '+', unit_name[size], by_page[page + 1]);
	return (below ? at - beside : at + beside) + page * PAGE;
}

/*
 * The factors were searched for: with each operation that takes all words, each
 * place comes at each end, and each letter beside an end meets a range that stops
 * at, before and behind the border.
 */
static void range_of(enum unit u, int word, int op, struct range *r)
{
	int places = 3 * (u + 1), triple = word / 3, nine = word / 9;
	int first = 3 * word + 7 * triple + 5 * nine + 3 * op;
	int last = 3 * triple + 2 * nine + 2 * op;
	char from[20], to[20];

	r->from = place(u, 1, first % places, (word + op) & 1, from);
	r->to = place(u, 3, last % places, (word / 2 + op) & 1, to);
	snprintf(r->name, sizeof(r->name), "%s..%s", from, to);
}

static void case_name(char *name, size_t size, int op, const struct range *r)
{
	int i, n = snprintf(name, size, "%s/%s/", ops[op].name, unit_name[shape.unit]);

	for (i = 0; i < SPANS; i++)
		name[n++] = "ESF"[shape.word[i]];
	snprintf(name + n, size - n, "/%s", r->name);
}

/* Is this case to be run? Then its range and its name */
static bool selected(int op, int word, struct range *r, char *name, size_t size)
{
	if (missing[ops[op].needs])
		return false;
	if (ops[op].stride > 1 && !all_words && (word + op) % ops[op].stride)
		return false;
	range_of(shape.unit, word, op, r);
	case_name(name, size, op, r);
	return !pattern || !fnmatch(pattern, name, 0);
}

/* --- running ------------------------------------------------------------------------ */

#define NAME 96
#define SECONDS_OF_A_CASE 120

static bool list_only, verbose;

static void failed(int op, const char *name, const char *why)
{
	struct tally *t = &tally[op][shape.unit];

	t->failed++;
	if (t->failed <= 10 || verbose)
		ksft_print_msg("FAILED %s: %s\n", name, why);
	else if (t->failed == 11)
		ksft_print_msg("FAILED %s/%s: more, see -v\n", ops[op].name, unit_name[shape.unit]);
}

static void look_at_log(void)
{
	char line[300];

	if (kmsg_complains(line, sizeof(line)))
		fail("the kernel's log says: %s", line);
}

/* The process that has the shape: all cases of one kind of memory from a first operation on */
static void work(int word, enum where where, int first)
{
	char name[NAME];
	struct range r;
	int i;

	signal(SIGALRM, SIG_DFL);
	catch_faults();
	board->at = first;
	set_up(where == FILE_BACKED);
	check_spots(ARENA, 0, arena_size(), KEEP);
	for (i = first; i < OPS && !board->failed; i++) {
		if (ops[i].where != where || !selected(i, word, &r, name, sizeof(name)))
			continue;
		board->at = i;
		alarm(SECONDS_OF_A_CASE);
		ops[i].run(&r);
		look_at_log();
		if (ops[i].rebuild && !board->failed)
			set_up(where == FILE_BACKED);
	}
	if (!board->failed)
		check_untouched_are_zero();
	_exit(board->failed);
}

/* First case of a kind at or behind an operation */
static int next_case(int word, enum where where, int from)
{
	char name[NAME];
	struct range r;

	for (; from < OPS; from++)
		if (ops[from].where == where && selected(from, word, &r, name, sizeof(name)))
			break;
	return from;
}

static void run_in_worker(int word, enum where where)
{
	int at = next_case(word, where, 0);
	char name[NAME], line[64];
	struct range r;

	while (at < OPS) {
		pid_t pid;
		int code;

		board->failed = false;
		pid = fork();
		if (!pid)
			work(word, where, at);
		code = reap(pid);
		if (code && !board->failed)
			fail("the process ended with %d%s", code, code == 128 + SIGALRM ? " (out of time)" : "");
		if (!board->failed)
			look_at_log();	/* of its end */
		else
			while (kmsg_complains(line, sizeof(line)))
				;	/* follows from what failed */
		if (!board->failed)
			return;
		at = board->at;
		selected(at, word, &r, name, sizeof(name));
		failed(at, name, board->why);
		at = next_case(word, where, at + 1);
	}
}

static void run_outside(int word)
{
	char name[NAME];
	struct range r;
	int i;

	for (i = next_case(word, OUTSIDE, 0); i < OPS; i = next_case(word, OUTSIDE, i + 1)) {
		selected(i, word, &r, name, sizeof(name));
		board->failed = false;
		ops[i].run(&r);
		look_at_log();
		if (board->failed)
			failed(i, name, board->why);
	}
}

static void take_shape(enum unit u, int word)
{
	struct shape s = { .unit = u, .full_step = all_words ? GIB : 128 * GIB };

	word_of(u, word, s.word);
	make_spots(&s);
}

/* How many cases there are to run, of each operation and size */
static int count_cases(void)
{
	char name[NAME];
	struct range r;
	int u, word, i, n = 0;

	for (u = 0; u < UNITS; u++)
		for (word = 0; word < words_of(u); word++) {
			take_shape(u, word);
			for (i = 0; i < OPS; i++) {
				if (!selected(i, word, &r, name, sizeof(name)))
					continue;
				tally[i][u].ran++;
				n++;
				if (list_only)
					puts(name);
			}
		}
	return n;
}

static void run_size(enum unit u)
{
	struct timespec from, to;
	int word;

	clock_gettime(CLOCK_MONOTONIC, &from);
	for (word = 0; word < words_of(u); word++) {
		take_shape(u, word);
		run_in_worker(word, ANON);
		run_in_worker(word, FILE_BACKED);
		run_outside(word);
	}
	clock_gettime(CLOCK_MONOTONIC, &to);
	ksft_print_msg("spans of %s: %ld s\n", unit_name[u], to.tv_sec - from.tv_sec);
}

/* A line for each operation and size; of those that a pattern leaves out, none */
static bool has_line(int op, int u)
{
	return !pattern || tally[op][u].ran;
}

static int lines(void)
{
	int i, u, n = 0;

	for (i = 0; i < OPS; i++)
		for (u = 0; u < UNITS; u++)
			n += has_line(i, u);
	return n;
}

static void report_line(int op, int u)
{
	const struct tally *t = &tally[op][u];
	char name[NAME];

	snprintf(name, sizeof(name), "%s/%s", ops[op].name, unit_name[u]);
	if (!t->ran) {
		ksft_test_result_code(KSFT_SKIP, name, "%s", missing[ops[op].needs]);
		return;
	}
	if (t->failed)
		ksft_print_msg("%s: %d of %d cases failed\n", name, t->failed, t->ran);
	else
		ksft_print_msg("%s: %d cases\n", name, t->ran);
	ksft_test_result(!t->failed, "%s\n", name);
}

static void report(int cases)
{
	int i, u, bad = 0;

	for (i = 0; i < OPS; i++)
		for (u = 0; u < UNITS; u++) {
			bad += tally[i][u].failed;
			if (has_line(i, u))
				report_line(i, u);
		}
	ksft_print_msg("%d cases, %d failed\n", cases, bad);
}

/*
 * All on one CPU: a page that was queued or a dead process's address space that
 * was borrowed by an idle CPU would be looked at too early.
 */
static void stay_on_one_cpu(void)
{
	cpu_set_t one;

	CPU_ZERO(&one);
	CPU_SET(sched_getcpu(), &one);
	sched_setaffinity(0, sizeof(one), &one);
}

static int usage(void)
{
	fprintf(stderr, "usage: fpt_shapes [-a] [-l] [-v] [-c PATTERN]\n");
	return KSFT_FAIL;
}

static int no_case(void)
{
	fprintf(stderr, "fpt_shapes: no case matches %s that this kernel can run; -l lists all\n",
		pattern ? pattern : "anything");
	return KSFT_FAIL;
}

int main(int argc, char **argv)
{
	int opt, u, cases;

	while ((opt = getopt(argc, argv, "alvc:")) != -1) {
		switch (opt) {
		case 'a': all_words = true; break;
		case 'l': list_only = true; break;
		case 'v': verbose = true; break;
		case 'c': pattern = optarg; break;
		default: return usage();
		}
	}
	if (optind < argc)
		return usage();
	board = mmap(NULL, sizeof(*board), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (board == MAP_FAILED)
		ksft_exit_fail_perror("mmap");
	if (list_only)
		return count_cases() ? KSFT_PASS : no_case();
	ksft_print_header();
	ksft_print_msg("mode %s\n", fpt_mode_names[fpt_mode()]);
	stay_on_one_cpu();
	probe();
	cases = count_cases();
	if (!cases) {
		clean_up();
		return no_case();
	}
	ksft_set_plan(lines());
	for (u = 0; u < UNITS; u++)
		run_size(u);
	report(cases);
	clean_up();
	ksft_finished();
}
