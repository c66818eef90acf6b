/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The model of fpt_shapes: what a shape is, where its pages are, what each of
 * them must hold, and how that is looked at. It asks the kernel nothing that
 * the kernel could be wrong about on both sides of a comparison.
 *
 * A shape is four spans of one size side by side, each empty, sparse or full:
 * a word of the letters E, S and F. A range begins near the border B1 between
 * the first two spans and ends near the border B3 between the last two, so it
 * has one span before it, two in it and one after it.
 *
 *   span      S                              F
 *   2 MiB     pages at both ends and one     all 512 pages
 *             in the middle
 *   1 GiB     the same, and around the       S, and a page of each 2 MiB
 *             first and last 2 MiB border
 *   512 GiB   the same, and around the       S, and a page of each 128 GiB
 *             first and last 1 GiB border    (with -a: of each GiB)
 *
 * Around a border means the last page before it and the first two behind it, so
 * that a range that is a page too long or too short hits or spares a wrong one.
 */
#ifndef FPT_SHAPES_H
#define FPT_SHAPES_H

#include "fpt_util.h"

#define SPANS		4
#define ARENA		(BASE + 8 * SPAN)
#define FAR		(BASE + 32 * SPAN)	/* where mremap moves to */
#define MAX_SPOTS	(SPANS * 640)

enum unit { U2M, U1G, U512G, UNITS };

static const unsigned long unit_size[UNITS] = { HUGE, GIB, SPAN };
static const char *const unit_name[UNITS] = { "2M", "1G", "512G" };

enum letter { EMPTY, SPARSE, FULL };

struct shape {
	enum unit unit;
	enum letter word[SPANS];
	unsigned long full_step;	/* of a 512 GiB span */
};

/* A page that is looked at: filled, or one of those that must stay untouched. */
struct spot {
	unsigned long off;
	bool filled;
};

struct range {
	unsigned long from, to;		/* offsets in the arena */
	char name[48];
};

enum want {
	KEEP,		/* contents, can be written to; nothing where nothing was */
	READ_ONLY,	/* contents, writing raises SIGSEGV */
	TRAPPED,	/* contents, writing raises SIGBUS (userfaultfd) */
	NO_ACCESS,	/* reading raises SIGSEGV */
	BEHIND_END,	/* reading raises SIGBUS */
	ZERO,		/* zeroes where something was */
	OLD_OR_ZERO,	/* contents or zeroes, after MADV_FREE */
	POPULATED,	/* contents or zeroes, and every page present */
};

#define PM_PRESENT	(1ULL << 63)
#define PM_SWAPPED	(1ULL << 62)
#define PM_SOFT_DIRTY	(1ULL << 55)
#define PM_PFN		((1ULL << 55) - 1)

/* What parent and children share: where they are, and what went wrong first. */
struct board {
	int at;
	volatile bool failed;
	char why[400];
};

static struct board *board;
static struct shape shape;
static struct spot spot[MAX_SPOTS];
static int spots;
static uint64_t shape_seed;

#define span_size()	(unit_size[shape.unit])
#define arena_size()	(SPANS * span_size())

/* --- failures ------------------------------------------------------------ */

/* Only the first thing that is wrong in a case is told. */
#define fail(...) do {								\
	if (!board->failed) {							\
		board->failed = true;						\
		snprintf(board->why, sizeof(board->why), __VA_ARGS__);		\
	}									\
} while (0)

#define must(cond, what) do {							\
	if (!(cond))								\
		fail("expected %s, found errno %d (%s)", what, errno, strerror(errno)); \
} while (0)

static void fail_at(unsigned long off, const char *expected, const char *found)
{
	unsigned int n = off / span_size();

	fail("page %#lx of span %u (%c): expected %s, found %s", off % span_size(), n,
	     n < SPANS ? "ESF"[shape.word[n]] : '?', expected, found);
}

static const char *signal_word(int sig)
{
	switch (sig) {
	case 0: return "no signal";
	case SIGSEGV: return "SIGSEGV";
	case SIGBUS: return "SIGBUS";
	default: return "EFAULT";
	}
}

/* --- spots ---------------------------------------------------------------- */

static void add_spot(unsigned long off, bool filled)
{
	spot[spots++] = (struct spot){ off, filled };
}

static int by_offset(const void *a, const void *b)
{
	const struct spot *x = a, *y = b;

	if (x->off != y->off)
		return x->off < y->off ? -1 : 1;
	return y->filled - x->filled;	/* of two the filled one comes first */
}

static void add_span(unsigned long start, enum unit u, enum letter l)
{
	unsigned long size = unit_size[u], mid = start + size / 2 + 5 * PAGE, o;
	bool some = l != EMPTY;
	int s;

	add_spot(start, some);
	add_spot(start + PAGE, some);
	add_spot(start + size - 2 * PAGE, some);
	add_spot(start + size - PAGE, some);
	add_spot(mid, some);
	for (s = 0; s < (int)u; s++) {
		unsigned long b = unit_size[s];

		add_spot(start + b - PAGE, some);
		add_spot(start + b, some);
		add_spot(start + b + PAGE, some);
		add_spot(start + size - b - PAGE, some);
		add_spot(start + size - b, some);
		add_spot(start + size - b + PAGE, some);
	}
	/* untouched neighbours of what is touched */
	add_spot(start + 2 * PAGE, false);
	add_spot(mid + PAGE, false);
	if (l != FULL)
		return;
	if (u == U2M)
		for (o = 0; o < size; o += PAGE)
			add_spot(start + o, true);
	else if (u == U1G)
		for (o = 0; o < size; o += HUGE)
			add_spot(start + o + (o / HUGE & 1 ? HUGE - PAGE : 0), true);
	else
		for (o = shape.full_step; o < size; o += shape.full_step)
			add_spot(start + o + o / shape.full_step * HUGE + PAGE, true);
}

static void make_spots(const struct shape *s)
{
	int i, n;

	shape = *s;
	spots = 0;
	for (i = 0; i < SPANS; i++)
		add_span(i * span_size(), shape.unit, shape.word[i]);
	qsort(spot, spots, sizeof(spot[0]), by_offset);
	for (i = 1, n = 1; i < spots; i++)
		if (spot[i].off != spot[n - 1].off)
			spot[n++] = spot[i];
	spots = n;
	shape_seed = shape.unit + 1;
	for (i = 0; i < SPANS; i++)
		shape_seed = shape_seed * 3 + shape.word[i];
}

/* Index of the first spot at or behind an offset */
static int spot_from(unsigned long off)
{
	int lo = 0, hi = spots;

	while (lo < hi) {
		int m = (lo + hi) / 2;

		if (spot[m].off < off)
			lo = m + 1;
		else
			hi = m;
	}
	return lo;
}

#define for_spots(i, lo, hi) \
	for ((i) = spot_from(lo); (i) < spots && spot[i].off < (hi); (i)++)

static long filled_in(unsigned long lo, unsigned long hi)
{
	long n = 0;
	int i;

	for_spots(i, lo, hi)
		n += spot[i].filled;
	return n;
}

/* The arena comes to hold what the word says, within [lo, hi). */
static void fill_spots(unsigned long base, unsigned long lo, unsigned long hi)
{
	int i;

	for_spots(i, lo, hi)
		if (spot[i].filled)
			page_set((void *)(base + spot[i].off), shape_seed, spot[i].off / PAGE);
}

/* --- looking -------------------------------------------------------------- */

static sigjmp_buf look_env;
static volatile bool looking;

static void look_handler(int sig)
{
	if (!looking)
		_exit(100 + sig);
	siglongjmp(look_env, sig);
}

static void catch_faults(void)
{
	struct sigaction sa = { .sa_handler = look_handler, .sa_flags = SA_NODEFER };

	sigaction(SIGSEGV, &sa, NULL);
	sigaction(SIGBUS, &sa, NULL);
}

enum access { READ, WRITE, REWRITE /* what is there already */ };

/* Signal that an access raises; 0: none */
static int touch(unsigned long addr, enum access access)
{
	volatile uint64_t *p = (void *)addr;
	int sig = sigsetjmp(look_env, 0);

	if (!sig) {
		looking = true;
		if (access == READ)
			(void)*p;
		else
			*p = access == REWRITE ? *p : 1;
	}
	looking = false;
	return sig;
}

static int own_fd(int *fd, pid_t *owner, const char *path)
{
	if (*owner != getpid()) {
		if (*owner)
			close(*fd);
		*fd = open(path, O_RDONLY | O_CLOEXEC);
		*owner = getpid();
	}
	return *fd;
}

/* Entries of /proc/self/pagemap; it does not fault anything in. */
static void pagemap_read(unsigned long addr, uint64_t *entry, size_t n)
{
	static pid_t owner;
	static int fd;

	if (pread(own_fd(&fd, &owner, "/proc/self/pagemap"), entry, n * 8, addr / PAGE * 8) !=
	    (ssize_t)(n * 8))
		fail("expected %zu entries of pagemap at %#lx, found errno %d", n, addr, errno);
}

static uint64_t pagemap(unsigned long addr)
{
	uint64_t e = 0;

	pagemap_read(addr, &e, 1);
	return e;
}

/*
 * Signals cost much more than system calls that fail. Of many pages in a row
 * each eighth is tried by an instruction, the others by having the kernel copy
 * to or from them, which must end in EFAULT.
 */
static int denied(unsigned long addr, enum access access, bool by_call)
{
	static int zero = -1, sink = -1;

	if (!by_call)
		return touch(addr, access);
	if (zero < 0) {
		zero = open("/dev/zero", O_RDONLY);
		sink = memfd_create("sink", 0);
	}
	if (access == WRITE)
		return read(zero, (void *)addr, 8) == -1 && errno == EFAULT ? -1 : 0;
	return pwrite(sink, (void *)addr, 8, 0) == -1 && errno == EFAULT ? -1 : 0;
}

static void expect_denied(unsigned long addr, unsigned long off, enum access access, int sig, int nth)
{
	bool by_call = nth >= 64 && nth % 8;
	int got = denied(addr, access, by_call);
	char expected[32];

	if (got == sig || (by_call && got))
		return;
	snprintf(expected, sizeof(expected), "%s at %s", signal_word(by_call ? -1 : sig),
		 access == WRITE ? "a write" : "a read");
	fail_at(off, expected, signal_word(got));
}

enum found { OLD, ZEROES, OTHER };

static const char *const found_word[] = { "its contents", "zeroes", "other contents" };

static enum found contents(unsigned long addr, unsigned long off)
{
	if (page_ok((void *)addr, shape_seed, off / PAGE))
		return OLD;
	return page_zero((void *)addr) ? ZEROES : OTHER;
}

static void check_filled(unsigned long addr, unsigned long off, enum want want, int nth)
{
	bool old_is_right = want != ZERO, zero_is_right = want == ZERO || want == OLD_OR_ZERO;
	int sig = touch(addr, READ);
	enum found found;

	if (sig) {
		fail_at(off, "a readable page", signal_word(sig));
		return;
	}
	found = contents(addr, off);
	if (found == OTHER || (found == OLD && !old_is_right) || (found == ZEROES && !zero_is_right)) {
		fail_at(off, !zero_is_right ? "its contents" : old_is_right ?
			"its contents or zeroes" : "zeroes", found_word[found]);
		return;
	}
	if (want == READ_ONLY || want == TRAPPED) {
		expect_denied(addr, off, WRITE, want == TRAPPED ? SIGBUS : SIGSEGV, nth);
	} else if (want == KEEP || want == POPULATED) {
		sig = touch(addr, REWRITE);
		if (sig)
			fail_at(off, "a writable page", signal_word(sig));
	}
}

static void check_untouched(unsigned long addr, unsigned long off, enum want want, int nth)
{
	uint64_t e = pagemap(addr);
	bool there = e & (PM_PRESENT | PM_SWAPPED);

	if (want == POPULATED) {
		if (!there)
			fail_at(off, "a page", "none");
		else if (!page_zero((void *)addr))
			fail_at(off, "zeroes", "contents where nothing was written");
		return;
	}
	if (there)
		fail_at(off, "no page", e & PM_PRESENT ? "one" : "one in swap");
	if (want == READ_ONLY)
		expect_denied(addr, off, WRITE, SIGSEGV, nth);
}

/* Every spot of [lo, hi), in an arena that begins at base. */
static void check_spots(unsigned long base, unsigned long lo, unsigned long hi, enum want want)
{
	int i, nth = 0;

	for_spots(i, lo, hi) {
		unsigned long off = spot[i].off;

		if (want == NO_ACCESS)
			expect_denied(base + off, off, READ, SIGSEGV, nth);
		else if (want == BEHIND_END)
			expect_denied(base + off, off, READ, SIGBUS, nth);
		else if (spot[i].filled)
			check_filled(base + off, off, want, nth);
		else
			check_untouched(base + off, off, want, nth);
		nth++;
		if (board->failed)
			return;
	}
}

/* The whole arena: one thing inside of the range, another outside. */
static void check(const struct range *r, enum want inside, enum want outside)
{
	check_spots(ARENA, 0, r->from, outside);
	check_spots(ARENA, r->from, r->to, inside);
	check_spots(ARENA, r->to, arena_size(), outside);
}

/* After pages were thrown away: nothing is there, and zeroes come. */
static void check_gone(unsigned long lo, unsigned long hi)
{
	int i;

	for_spots(i, lo, hi)
		if (pagemap(ARENA + spot[i].off) & (PM_PRESENT | PM_SWAPPED)) {
			fail_at(spot[i].off, "no page", "one");
			return;
		}
	check_spots(ARENA, lo, hi, ZERO);
}

/*
 * Last look at a shape: what was never touched reads as zeroes. This makes
 * tables, so it is not done between cases.
 */
static void check_untouched_are_zero(void)
{
	int i;

	for (i = 0; i < spots && !board->failed; i++)
		if (!spot[i].filled && !page_zero((void *)(ARENA + spot[i].off)))
			fail_at(spot[i].off, "zeroes", "contents where nothing was written");
}

/* --- what the kernel counts ------------------------------------------------ */

/* Sum of a line of smaps over the mappings that lie in [lo, hi) of the arena, in kB */
static long smaps_kb(unsigned long lo, unsigned long hi, const char *key)
{
	FILE *f = fopen("/proc/self/smaps", "r");
	unsigned long from = 0, to = 0;
	size_t len = strlen(key);
	char line[256];
	long sum = 0;

	if (!f)
		return -1;
	while (fgets(line, sizeof(line), f)) {
		unsigned long a, b;

		if (sscanf(line, "%lx-%lx ", &a, &b) == 2) {
			from = a;
			to = b;
			if (from >= ARENA + hi)
				break;
		} else if (from >= ARENA + lo && to <= ARENA + hi && !strncmp(line, key, len) &&
			   line[len] == ':') {
			sum += strtol(line + len + 1, NULL, 10);
		}
	}
	fclose(f);
	return sum;
}

/* --- the kernel's log ------------------------------------------------------- */

static int kmsg = -1;

static bool kmsg_open(void)
{
	kmsg = open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	if (kmsg >= 0)
		lseek(kmsg, 0, SEEK_END);
	return kmsg >= 0;
}

/* Does the log complain since the last look? The first such line is put into text. */
static bool kmsg_complains(char *text, size_t size)
{
	static const char *const bad_words[] = {
		"Bad rss-counter", "non-zero pgtables_bytes", "Bad page", "BUG:", "WARNING:",
	};
	char rec[2048], *p;
	bool found = false;
	ssize_t n;
	size_t i;

	if (kmsg < 0)
		return false;
	for (;;) {
		n = read(kmsg, rec, sizeof(rec) - 1);
		if (n < 0 && errno == EPIPE)
			continue;	/* records were overwritten */
		if (n <= 0)
			return found;
		rec[n] = 0;
		p = strchr(rec, ';');
		if (!p)
			continue;
		p[strcspn(p, "\n")] = 0;
		for (i = 0; i < sizeof(bad_words) / sizeof(bad_words[0]) && !found; i++) {
			if (strstr(p, bad_words[i])) {
				found = true;
				snprintf(text, size, "%s", p + 1);
			}
		}
	}
}

#endif
