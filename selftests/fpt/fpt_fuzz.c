// SPDX-License-Identifier: GPL-2.0
/*
 * A fuzzer of address spaces with an oracle: random calls, and a model that says
 * what each page must hold and which accesses must fault. See fpt_fuzz.h.
 *
 *   fpt_fuzz [-s SEED] [-n STEPS | -t SECONDS] [-j THREADS] [-e STEPS] [-d DIR] [-R] [-v] [-x]
 *   fpt_fuzz -s SEED -r OPS [-R] [-v]
 *
 * Steps come in episodes of -e (2000); each has a seed of its own, made from -s,
 * and starts with nothing mapped. Step i of an episode depends on the episode's
 * seed and i alone, so any subset can be run: -r runs the listed steps (such as
 * 3,7-9,20) of the episode with this seed. A failing episode is run again; if it fails
 * again it is shrunk by leaving out steps while it still fails. With threads it is only
 * said how often it fails again. -R (root) sets up hugetlb pages, KSM and failing
 * allocations, and puts them back; once a second fpt/check verifies the tables, where
 * the kernel has it. Lines that begin with "fuzz " are for programs:
 * "fuzz NAME NUMBER". Exit code: 0 ok, 1 mismatch, 2 wrong usage, 5 cannot go on.
 */
#include "fpt_fuzz.h"
#include <getopt.h>
#include <sys/resource.h>

#define FULL_EVERY 64	/* steps between checks of all pages */
#define HANG	120	/* seconds that a step may take */
#define WORLDS_MAX 8

struct shared *shared;
struct setup conf = { .dir = "/tmp", .threads = 1 };

static struct world *worlds[WORLDS_MAX];
static struct op ops[OPS_MAX];
static int op_count;
#define PICKS 10000
static int op_pick[PICKS];
static unsigned int episode_steps = 2000;
static bool keep;	/* do not shrink */

/* --- which calls there are ------------------------------------------------------------- */

static void collect(const struct op *list)
{
	for (; list->name; list++)
		ops[op_count++] = *list;
}

static void collect_all(void)
{
	int i, k, n = 0, sum = 0, upto = 0;

	collect(map_ops);
	collect(advice_ops);
	collect(sys_ops);
	collect(task_ops);
	for (i = 0; i < op_count; i++)
		sum += ops[i].weight;
	for (i = 0; i < op_count; i++) {
		upto += ops[i].weight;
		for (k = (long)upto * PICKS / sum; n < k; n++)
			op_pick[n] = i;
	}
}

/* --- one step ------------------------------------------------------------------------------ */

static void step(struct world *w, uint64_t seed, bool full)
{
	const struct op *op;
	int i, k;

	w->rng = seed;
	i = op_pick[below(w, PICKS)];
	op = &ops[i];
	w->last.i = w->last.j = 0;
	if (w->child && op->flags & OP_PARENT)
		return;
	/* Where there is nothing to do it to, something else is done. */
	for (k = 0; k < 3 && !op->run(w); k++) {
		i = op_pick[below(w, PICKS)];
		if (w->child && ops[i].flags & OP_PARENT)
			return;
		op = &ops[i];
	}
	if (k < 3)
		__atomic_fetch_add(&shared->count[i], 1, __ATOMIC_RELAXED);
	__atomic_fetch_add(&shared->steps, 1, __ATOMIC_RELAXED);
	/* So that leaving out a step does not change the checks of another. */
	w->rng = mix(seed, 99);
	check_around(w);
	if (full)
		check_all(w);
}

void run_child_steps(struct world *w, int steps)
{
	uint64_t seed = w->rng;

	while (steps--) {
		seed = mix(seed, 3);
		step(w, seed, false);
	}
}

static const char *op_name(uint64_t episode, unsigned int index)
{
	struct world w = { .rng = mix(episode, index) };

	return ops[op_pick[below(&w, PICKS)]].name;
}

/* --- an episode ------------------------------------------------------------------------------ */

struct list {
	unsigned int n;
	unsigned int *at;
};

static void open_objects(struct world *w)
{
	char path[256];

	w->obj[1].fd = memfd_create("fuzz", MFD_CLOEXEC);
	w->memfd_src = memfd_create("fuzz-io", MFD_CLOEXEC);
	snprintf(path, sizeof(path), "%s/fpt_fuzz.XXXXXX", conf.dir);
	w->obj[2].fd = mkostemp(path, O_CLOEXEC);
	if (w->obj[1].fd < 0 || w->obj[2].fd < 0 || w->memfd_src < 0)
		internal("no file to map");
	unlink(path);
	w->obj[1].type = O_MEMFD;
	w->obj[2].type = O_FILE;
	w->obj[1].pages = w->obj[2].pages = (1UL << 30) + (1UL << 22);
	if (ftruncate(w->obj[1].fd, w->obj[1].pages * PAGE) || ftruncate(w->obj[2].fd, w->obj[2].pages * PAGE))
		internal("cannot make a sparse file");
	if (conf.huge) {
		w->obj[3].fd = memfd_create("fuzz-huge", MFD_CLOEXEC | MFD_HUGETLB);
		w->obj[3].pages = 2048;
		if (w->obj[3].fd >= 0 && !ftruncate(w->obj[3].fd, 4 * HUGE))
			w->obj[3].type = O_HUGETLB;
	}
}

static struct world *world_open(int id, uint64_t seed)
{
	struct world *w = mmap(NULL, sizeof(*w), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (w == MAP_FAILED)
		internal("no memory for a world");
	w->obj = mmap(NULL, OBJECTS * sizeof(struct object), PROT_READ | PROT_WRITE,
		      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (w->obj == MAP_FAILED)
		internal("no memory for objects");
	w->id = id;
	w->seed = seed;
	world_layout(w, id);
	open_objects(w);
	sys_open(w);
	w->pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	w->mem = open("/proc/self/mem", O_RDWR | O_CLOEXEC);
	if (w->pagemap < 0 || w->mem < 0)
		internal("/proc/self/pagemap");
	return w;
}

static void open_keys(void)
{
	int k, key[2];

	conf.pkeys = false;
	for (k = 0; k < 2; k++) {
		key[k] = syscall(SYS_pkey_alloc, 0, 0);
		if (key[k] < 0)
			return;
	}
	conf.pkeys = true;
	for (k = 0; k < conf.threads; k++)
		memcpy(worlds[k]->pkey, key, sizeof(key));
}

static void run_steps(struct world *w, const struct list *list)
{
	unsigned int i;

	for (i = 0; i < list->n; i++) {
		w->index = list->at[i];
		__atomic_store_n(&shared->at[w->id], w->index, __ATOMIC_RELAXED);
		step(w, mix(w->seed, w->index), w->index % FULL_EVERY == FULL_EVERY - 1);
		w->done++;
		reap_kid(w, false);
	}
	reap_kid(w, true);
	check_all(w);
}

static const struct list *thread_list;

static void *run_thread(void *arg)
{
	struct world *w = arg;

	run_steps(w, thread_list);
	return NULL;
}

static void run_here(uint64_t seed, const struct list *list)
{
	pthread_t threads[WORLDS_MAX];
	int k;

	catch_faults();
	for (k = 0; k < conf.threads; k++)
		worlds[k] = world_open(k, k ? mix(seed, 1000 + k) : seed);
	open_keys();
	thread_list = list;
	if (conf.threads == 1) {
		run_steps(worlds[0], list);
	} else {
		for (k = 0; k < conf.threads; k++)
			if (pthread_create(&threads[k], NULL, run_thread, worlds[k]))
				internal("pthread_create");
		for (k = 0; k < conf.threads; k++)
			pthread_join(threads[k], NULL);
	}
	_exit(0);
}

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

/* Once a second, over all episodes: are the tables of this one as they must be? */
static bool tables_bad(pid_t pid)
{
	static double last;
	const char *say;

	if (!conf.root || now() < last + 1)
		return false;
	last = now();
	say = fpt_check(pid);
	shared->tables += fpt_debugfs();
	if (!say)
		return false;
	snprintf(shared->bad, TEXT, "the tables are wrong: %s", say);
	return true;
}

/* In a process of its own. 0: all is well, 1: a mismatch; what cannot go on ends the program. */
static int run_episode(uint64_t seed, const struct list *list)
{
	uint64_t last = 0, steps;
	double since = now();
	bool hangs;
	int status;
	pid_t pid, got;

	fflush(stdout);
	shared->reported = 0;
	pid = fork();
	if (!pid) {
		/* Its own group: what it leaves behind ends with it. */
		setpgid(0, 0);
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		/* Kernels with mistakes make them for this name only. */
		prctl(PR_SET_NAME, "fpt_fuzz");
		run_here(seed, list);
	}
	if (pid < 0)
		internal("fork");
	setpgid(pid, pid);
	while (!(got = waitpid(pid, &status, WNOHANG))) {
		struct timespec t = { 0, 2000000 };

		nanosleep(&t, NULL);
		steps = __atomic_load_n(&shared->steps, __ATOMIC_RELAXED);
		/* By the clock: a nap may take much longer than it was asked for. */
		if (steps != last)
			since = now();
		last = steps;
		hangs = now() > since + HANG;
		if (hangs || tables_bad(pid)) {
			kill(-pid, SIGKILL);
			waitpid(pid, &status, 0);
			if (hangs)
				snprintf(shared->bad, TEXT, "no step ended for %d seconds", HANG);
			shared->bad_index = shared->at[0];
			shared->bad_seed = seed;
			return 1;
		}
	}
	kill(-pid, SIGKILL);
	if (got < 0)
		internal("waitpid");
	if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
		return 0;
	if (WIFEXITED(status) && WEXITSTATUS(status) == EXIT_INTERNAL)
		exit(EXIT_INTERNAL);
	if (!shared->reported) {
		snprintf(shared->bad, TEXT, "the process ended with status %#x", status);
		shared->bad_index = shared->at[0];
	}
	return 1;
}

/* --- shrinking ---------------------------------------------------------------------------------- */

static void print_list(const struct list *list)
{
	unsigned int i, k;

	for (i = 0; i < list->n; i = k) {
		for (k = i + 1; k < list->n && list->at[k] == list->at[k - 1] + 1; k++)
			;
		printf("%s%u", i ? "," : "", list->at[i]);
		if (k - i > 1)
			printf("-%u", list->at[k - 1]);
	}
}

/* Fails at least once in `tries`, and in the same way: the words before the colon */
static bool still_fails(uint64_t seed, const struct list *list, int tries, const char *bad)
{
	size_t same = strcspn(bad, ":0123456789") + 1;

	while (tries--)
		if (run_episode(seed, list) && !strncmp(shared->bad, bad, same))
			return true;
	return false;
}

/* Leaves out pieces, large ones first, as long as it fails without them. */
static void shrink(uint64_t seed, struct list *list, int tries, const char *bad)
{
	double end = now() + 60;
	unsigned int piece = list->n / 2, i, n;
	struct list part = { 0, malloc(list->n * sizeof(int)) };

	while (piece && now() < end) {
		bool less = false;

		for (i = 0; i < list->n && now() < end;) {
			n = i + piece < list->n ? piece : list->n - i;
			part.n = list->n - n;
			memcpy(part.at, list->at, i * sizeof(int));
			memcpy(part.at + i, list->at + i + n, (list->n - i - n) * sizeof(int));
			if (part.n && still_fails(seed, &part, tries, bad)) {
				memcpy(list->at, part.at, part.n * sizeof(int));
				list->n = part.n;
				less = true;
			} else {
				i += n;
			}
		}
		if (!less || piece > 1)
			piece = piece == 1 && !less ? 0 : piece > 1 ? piece / 2 : 1;
	}
	free(part.at);
}

static void report(uint64_t seed, struct list *list)
{
	char bad[TEXT];
	unsigned int i, index = shared->bad_index, again = 0, runs = conf.threads > 1 ? 10 : 3;
	bool verbose = conf.verbose;
	const char *root = conf.root ? " -R" : "";

	memcpy(bad, shared->bad, sizeof(bad));
	printf("fuzz mismatch 1\n# MISMATCH seed %llu step %u (%s): %s\n", (unsigned long long)seed, index,
	       op_name(seed, index), bad);
	if (keep)
		return;
	for (i = 0; i < list->n && list->at[i] <= index; i++)
		;
	if (conf.threads == 1)
		list->n = i;
	for (i = 0; i < runs; i++)
		again += run_episode(seed, list);
	printf("# the same steps fail in %u of %u further runs\n", again, runs);
	if (conf.threads > 1) {
		printf("# again: fpt_fuzz -s %llu -j %d -e %u -r 0-%u%s\n", (unsigned long long)seed, conf.threads,
		       episode_steps, list->n - 1, root);
		return;
	}
	if (again)
		shrink(seed, list, again == runs ? 1 : 4, bad);
	conf.verbose = true;
	printf("# minimal sequence of %u steps:\n", list->n);
	for (i = 0; i < 8 && !still_fails(seed, list, 1, bad); i++)
		;
	conf.verbose = verbose;
	if (i < 8)
		printf("# -> %s\n", shared->bad);
	printf("# again: fpt_fuzz -s %llu%s -r ", (unsigned long long)seed, root);
	print_list(list);
	printf("\n");
	fflush(stdout);
}

/* --- what root sets up ------------------------------------------------------------------------------ */

#define KSM_DIR "/sys/kernel/mm/ksm/"
#define INJECT_DIR "/sys/kernel/debug/fail_page_alloc/"

static const char *const kept_files[] = {
	"/proc/sys/vm/nr_hugepages", KSM_DIR "run", KSM_DIR "sleep_millisecs", KSM_DIR "pages_to_scan",
	INJECT_DIR "probability", INJECT_DIR "times", INJECT_DIR "task-filter", INJECT_DIR "min-order",
	INJECT_DIR "ignore-gfp-wait", INJECT_DIR "verbose",
};
#define KEPT (sizeof(kept_files) / sizeof(*kept_files))
static char kept[KEPT][32];

static bool set_value(const char *path, const char *value)
{
	return !write_text(path, value);
}

static void set_up(void)
{
	char n[16];
	unsigned int i;

	conf.soft_dirty = false;
	conf.demote = fpt_can_demote();
	if (!conf.root)
		return;
	for (i = 0; i < KEPT; i++)
		if (read_text(kept_files[i], kept[i], sizeof(kept[i])) < 0)
			kept[i][0] = 0;
	snprintf(n, sizeof(n), "%d", HUGE_POOL * conf.threads);
	conf.huge = set_value("/proc/sys/vm/nr_hugepages", n) &&
		    read_text("/proc/sys/vm/nr_hugepages", n, sizeof(n)) > 0 &&
		    atoi(n) >= HUGE_POOL * conf.threads;
	conf.ksm = set_value(KSM_DIR "run", "1") && set_value(KSM_DIR "sleep_millisecs", "20") &&
		   set_value(KSM_DIR "pages_to_scan", "400");
	conf.compact = !access("/proc/sys/vm/compact_memory", W_OK);
	conf.inject = set_value(INJECT_DIR "task-filter", "Y") && set_value(INJECT_DIR "min-order", "9") &&
		      set_value(INJECT_DIR "ignore-gfp-wait", "Y") && set_value(INJECT_DIR "verbose", "0") &&
		      set_value(INJECT_DIR "times", "1000000000") && set_value(INJECT_DIR "probability", "50");
}

static void put_back(void)
{
	unsigned int i;

	if (!conf.root)
		return;
	for (i = 0; i < KEPT; i++)
		if (kept[i][0])
			write_text(kept_files[i], kept[i]);
}

/* A written page, its bits cleared, written again: does the kernel say so? */
static void probe_soft_dirty(void)
{
	volatile char *p = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int fd = open("/proc/self/pagemap", O_RDONLY);
	uint64_t a = 0, b = 0;

	*p = 1;
	if (fd >= 0 && !write_text("/proc/self/clear_refs", "4") &&
	    pread(fd, &a, 8, (unsigned long)p / PAGE * 8) == 8) {
		*p = 2;
		if (pread(fd, &b, 8, (unsigned long)p / PAGE * 8) == 8)
			conf.soft_dirty = b >> 55 & 1;
	}
	close(fd);
	munmap((void *)p, PAGE);
}

/* --- main ------------------------------------------------------------------------------------------- */

static volatile sig_atomic_t stopped;

static void on_stop(int sig)
{
	stopped = 1;
}

static void usage(const char *what)
{
	fprintf(stderr, "fpt_fuzz: %s; usage: fpt_fuzz [-s SEED] [-n STEPS | -t SECONDS] [-j THREADS (1-%d)] "
		"[-e STEPS] [-r OPS] [-d DIR] [-R] [-v] [-x]\n", what, WORLDS_MAX);
	exit(2);
}

static uint64_t number(const char *text, uint64_t least, uint64_t most)
{
	char *end;
	unsigned long long n;

	errno = 0;
	n = strtoull(text, &end, 0);
	if (!*text || *end || errno || *text == '-' || n < least || n > most)
		usage("a number is wrong");
	return n;
}

static struct list parse_list(const char *text)
{
	struct list list = { 0, malloc(sizeof(int) << 20) };
	unsigned long a, b;
	char *end;

	while (*text) {
		a = b = strtoul(text, &end, 10);
		if (end == text)
			usage("-r takes steps such as 3,7-9");
		if (*end == '-') {
			text = end + 1;
			b = strtoul(text, &end, 10);
			if (end == text || b < a)
				usage("-r takes steps such as 3,7-9");
		}
		if (b - a >= (1 << 20) - list.n)
			usage("-r has too many steps");
		for (; a <= b; a++)
			list.at[list.n++] = a;
		if (*end && *end != ',')
			usage("-r takes steps such as 3,7-9");
		text = *end ? end + 1 : end;
	}
	if (!list.n)
		usage("-r needs steps");
	return list;
}

static void print_counts(const struct shared *shared, uint64_t seed, double seconds, int bad)
{
	int i;

	printf("fuzz seed %llu\nfuzz table_checks %llu\n", (unsigned long long)seed,
	       (unsigned long long)shared->tables);
	for (i = 0; i < op_count; i++)
		printf("fuzz call_%s %llu\n", ops[i].name, (unsigned long long)shared->count[i]);
	printf("fuzz steps %llu\nfuzz checks %llu\nfuzz full_checks %llu\nfuzz faults %llu\nfuzz children %llu\n",
	       (unsigned long long)shared->steps, (unsigned long long)shared->checks,
	       (unsigned long long)shared->full, (unsigned long long)shared->faults,
	       (unsigned long long)shared->children);
	printf("fuzz milliseconds %.0f\nfuzz mismatches %d\n", seconds * 1000, bad);
}

int main(int argc, char **argv)
{
	uint64_t seed = 1, steps = 0, episode = 0, seconds = 0, one;
	struct list list = { 0, NULL };
	struct rlimit stack = { GROW_LIMIT, RLIM_INFINITY };
	double begin = now(), took = 0;
	static struct shared counts;
	const char *only = NULL;
	unsigned int i;
	int c, bad = 0;

	if (argc == 2 && !strcmp(argv[1], "--nothing"))
		return 0;
	while ((c = getopt(argc, argv, "s:n:t:j:e:r:d:Rvx")) != -1) {
		switch (c) {
		case 's':
			seed = number(optarg, 0, UINT64_MAX);
			break;
		case 'n':
			steps = number(optarg, 1, UINT64_MAX / 2);
			break;
		case 't':
			seconds = number(optarg, 1, 1000000);
			break;
		case 'j':
			conf.threads = number(optarg, 1, WORLDS_MAX);
			break;
		case 'e':
			episode_steps = number(optarg, 1, 1000000);
			break;
		case 'r':
			only = optarg;
			break;
		case 'd':
			conf.dir = optarg;
			break;
		case 'R':
			conf.root = true;
			break;
		case 'v':
			conf.verbose = true;
			break;
		case 'x':
			keep = true;
			break;
		default:
			usage("unknown option");
		}
	}
	if (optind < argc)
		usage("unknown word");
	if (conf.root && geteuid())
		usage("-R needs root");
	if (!steps && !seconds)
		steps = 20000;
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (shared == MAP_FAILED)
		internal("no memory");
	collect_all();
	setrlimit(RLIMIT_STACK, &stack);
	signal(SIGINT, on_stop);
	signal(SIGTERM, on_stop);
	set_up();
	/* One thread's clear_refs is everybody's. */
	if (conf.threads == 1)
		probe_soft_dirty();
	if (only) {
		list = parse_list(only);
		bad = run_episode(seed, &list);
		if (bad)
			printf("# MISMATCH seed %llu step %u (%s): %s\n", (unsigned long long)seed, shared->bad_index,
			       op_name(seed, shared->bad_index), shared->bad);
		put_back();
		print_counts(shared, seed, now() - begin, bad);
		return !!bad;
	}
	list.at = malloc(episode_steps * sizeof(int));
	while (!stopped && !bad && (seconds ? now() - begin < seconds : shared->steps < steps)) {
		list.n = episode_steps;
		for (i = 0; i < list.n; i++)
			list.at[i] = i;
		one = mix(seed, episode++);
		bad = run_episode(one, &list);
		/* What a report runs again does not count. */
		counts = *shared;
		took = now() - begin;
		if (bad)
			report(one, &list);
	}
	put_back();
	print_counts(&counts, seed, took, bad);
	return bad;
}
