/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The operations of fpt_shapes. Each finds the arena as the word says, applies
 * itself to one range, looks at every spot, and leaves the arena as it was (or
 * says `rebuild` in its row of the table).
 *
 * Operations that make pages or look at every page of an address range cannot
 * be let loose on 1 TiB. They get windows: what of the range lies around its
 * beginning, the border in its middle and its end.
 */
#ifndef FPT_SHAPES_OPS_H
#define FPT_SHAPES_OPS_H

#include "fpt_shapes.h"
#include <sys/swap.h>
#include <linux/fs.h>
#include <linux/userfaultfd.h>

#ifndef MLOCK_ONFAULT
#define MLOCK_ONFAULT 1
#endif

static int arena_file = -1;	/* memfd behind the arena; -1: anonymous */

static void *at(unsigned long off) { return (void *)(ARENA + off); }
static size_t length(const struct range *r) { return r->to - r->from; }

/* --- setting up ------------------------------------------------------------- */

static void map_arena(unsigned long lo, unsigned long hi)
{
	int flags = MAP_NORESERVE | MAP_FIXED_NOREPLACE;
	void *p;

	if (arena_file < 0)
		p = mmap(at(lo), hi - lo, PROT_READ | PROT_WRITE, flags | MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	else
		p = mmap(at(lo), hi - lo, PROT_READ | PROT_WRITE, flags | MAP_SHARED, arena_file, lo);
	must(p == at(lo), "a mapping of the arena");
}

static void set_up(bool file)
{
	munmap(at(0), arena_size());
	if (arena_file >= 0)
		close(arena_file);
	arena_file = file ? memfd_create("shape", MFD_CLOEXEC) : -1;
	if (file)
		must(arena_file >= 0 && !ftruncate(arena_file, arena_size()), "a file");
	map_arena(0, arena_size());
	if (!board->failed)
		fill_spots(ARENA, 0, arena_size());
}

/* New memory where the range was: nothing is there at first. */
static void map_again(unsigned long lo, unsigned long hi)
{
	map_arena(lo, hi);
	if (board->failed)
		return;
	if (arena_file < 0)
		check_gone(lo, hi);
	fill_spots(ARENA, lo, hi);
	check_spots(ARENA, 0, arena_size(), KEEP);
}

/* Splits the mapping at both ends of the range, and nothing else; off: joins it again. */
static void split(const struct range *r, bool on)
{
	must(!madvise(at(r->from), length(r), on ? MADV_DONTDUMP : MADV_DODUMP), "madvise to split");
}

struct windows {
	int n;
	struct range w[3];
};

static struct windows windows(const struct range *r, unsigned long half)
{
	unsigned long around[3] = { r->from, 2 * span_size(), r->to };
	struct windows ws = { 0 };
	int i;

	for (i = 0; i < 3; i++) {
		unsigned long lo = around[i] > half ? around[i] - half : 0, hi = around[i] + half;
		struct range *last = ws.n ? &ws.w[ws.n - 1] : NULL;

		if (lo < r->from)
			lo = r->from;
		if (hi > r->to)
			hi = r->to;
		if (last && lo <= last->to)
			last->to = hi;
		else
			ws.w[ws.n++] = (struct range){ .from = lo, .to = hi };
	}
	return ws;
}

/* The windows hold one thing, the rest of the arena what the word says. */
static void check_windows(const struct windows *ws, enum want inside)
{
	unsigned long lo = 0;
	int i;

	for (i = 0; i < ws->n; i++) {
		check_spots(ARENA, lo, ws->w[i].from, KEEP);
		check_spots(ARENA, ws->w[i].from, ws->w[i].to, inside);
		lo = ws->w[i].to;
	}
	check_spots(ARENA, lo, arena_size(), KEEP);
}

/* --- unmapping and protection -------------------------------------------------- */

static void op_munmap(const struct range *r)
{
	must(!munmap(at(r->from), length(r)), "munmap");
	check(r, NO_ACCESS, KEEP);
	map_again(r->from, r->to);
}

static void op_map_fixed(const struct range *r)
{
	void *p = mmap(at(r->from), length(r), PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);

	must(p == at(r->from), "mmap");
	check_gone(r->from, r->to);
	fill_spots(ARENA, r->from, r->to);
	check(r, KEEP, KEEP);
}

static void protect(const struct range *r, int prot, enum want want)
{
	must(!mprotect(at(r->from), length(r), prot), "mprotect");
	check(r, want, KEEP);
	must(!mprotect(at(r->from), length(r), PROT_READ | PROT_WRITE), "mprotect");
	check(r, KEEP, KEEP);
}

static void op_mprotect_read(const struct range *r) { protect(r, PROT_READ, READ_ONLY); }
static void op_mprotect_none(const struct range *r) { protect(r, PROT_NONE, NO_ACCESS); }

/* --- madvise -------------------------------------------------------------------- */

static void op_dontneed(const struct range *r)
{
	must(!madvise(at(r->from), length(r), MADV_DONTNEED), "madvise");
	if (arena_file < 0) {
		check_gone(r->from, r->to);
		fill_spots(ARENA, r->from, r->to);
	}
	check(r, KEEP, KEEP);
}

static void op_free(const struct range *r)
{
	static char one[2 * PAGE];
	long kb, want = filled_in(r->from, r->to) * 4;

	split(r, true);
	must(!madvise(at(r->from), length(r), MADV_FREE), "madvise");
	/* MADV_FREE begins with what is queued on this CPU: so this ends our own. */
	madvise((void *)(((unsigned long)one + PAGE - 1) & ~(PAGE - 1)), PAGE, MADV_FREE);
	kb = smaps_kb(r->from, r->to, "LazyFree");
	if (kb != want)
		fail("expected %ld kB that may be freed, found %ld kB", want, kb);
	check(r, OLD_OR_ZERO, KEEP);
	fill_spots(ARENA, r->from, r->to);
	split(r, false);
	check(r, KEEP, KEEP);
}

static void op_cold(const struct range *r)
{
	long kb;

	split(r, true);
	must(!madvise(at(r->from), length(r), MADV_COLD), "madvise");
	kb = smaps_kb(r->from, r->to, "Referenced");
	if (kb)
		fail("expected no page that counts as used, found %ld kB", kb);
	split(r, false);
	check(r, KEEP, KEEP);
}

static void all_present(const struct windows *ws)
{
	static uint64_t entry[2 * HUGE / PAGE + 8];
	unsigned long o;
	int i;

	for (i = 0; i < ws->n; i++) {
		size_t n = length(&ws->w[i]) / PAGE, k;

		pagemap_read(ARENA + ws->w[i].from, entry, n);
		for (k = 0, o = ws->w[i].from; k < n; k++, o += PAGE)
			if (!(entry[k] & PM_PRESENT))
				fail_at(o, "a page", "none");
	}
}

#define POPULATE_HALF (16 * PAGE)

static void populate(const struct range *r, int advice)
{
	struct windows ws = windows(r, shape.unit == U2M ? 2 * HUGE : POPULATE_HALF);
	int i;

	for (i = 0; i < ws.n; i++)
		must(!madvise(at(ws.w[i].from), length(&ws.w[i]), advice), "madvise");
	all_present(&ws);
	check_windows(&ws, POPULATED);
}

static void op_populate_read(const struct range *r) { populate(r, MADV_POPULATE_READ); }
static void op_populate_write(const struct range *r) { populate(r, MADV_POPULATE_WRITE); }

/*
 * Blocks of 2 MiB with a page become huge pages, if memory is not short. The call
 * ends at the first block without a table, by EINVAL; so after one call for the
 * window there is one for each run of blocks that have pages.
 */
struct collapsed {
	long least, most;	/* huge pages that may be there */
	bool short_of_memory;
};

static void collapse(unsigned long lo, unsigned long hi, bool may_have_holes, struct collapsed *c)
{
	if (lo == hi || !madvise(at(lo), hi - lo, MADV_COLLAPSE))
		return;
	if (errno == ENOMEM || errno == EAGAIN || errno == EBUSY)
		c->short_of_memory = true;
	else if (errno != EINVAL || !may_have_holes)
		fail("expected blocks of %#lx to %#lx to collapse, found errno %d", lo, hi, errno);
}

static void collapse_window(const struct range *w, struct collapsed *c)
{
	unsigned long b = (w->from + HUGE - 1) & ~(HUGE - 1), run = b;
	long empty = 0;

	for (; b + HUGE <= w->to; b += HUGE) {
		empty += !filled_in(b, b + HUGE);
		c->most++;
	}
	collapse(w->from, w->to, empty || b == run, c);
	for (b = run; b + HUGE <= w->to; b += HUGE) {
		if (filled_in(b, b + HUGE)) {
			c->least++;
		} else {
			collapse(run, b, false, c);
			run = b + HUGE;
		}
	}
	collapse(run, b, false, c);
}

static void op_collapse(const struct range *r)
{
	struct windows ws = windows(r, 2 * HUGE);
	struct collapsed c = { 0 };
	long kb;
	int i;

	for (i = 0; i < ws.n; i++)
		collapse_window(&ws.w[i], &c);
	kb = smaps_kb(0, arena_size(), "AnonHugePages");
	if ((kb < c.least * 2048 && !c.short_of_memory) || kb > c.most * 2048)
		fail("expected %ld to %ld huge pages, found %ld kB", c.least, c.most, kb);
	for (i = 0; i < spots && !board->failed; i++)
		if (spot[i].filled)
			check_filled(ARENA + spot[i].off, spot[i].off, KEEP, i);
	check_untouched_are_zero();
}

/* --- mremap ---------------------------------------------------------------------- */

static void *move(const void *from, size_t len, unsigned long to, int more)
{
	return mremap((void *)from, len, len, MREMAP_MAYMOVE | MREMAP_FIXED | more, to);
}

static void there_and_back(const struct range *r, unsigned long shift, int more)
{
	unsigned long far = FAR + shift;

	must(move(at(r->from), length(r), far + r->from, more) == (void *)(far + r->from), "mremap");
	if (board->failed)
		return;
	if (more & MREMAP_DONTUNMAP) {
		check_gone(r->from, r->to);
		check_spots(ARENA, 0, r->from, KEEP);
		check_spots(ARENA, r->to, arena_size(), KEEP);
	} else {
		check(r, NO_ACCESS, KEEP);
	}
	check_spots(far, r->from, r->to, KEEP);
	must(move((void *)(far + r->from), length(r), ARENA + r->from, 0) == at(r->from), "mremap back");
	check(r, KEEP, KEEP);
	check_spots(far, r->from, r->to, NO_ACCESS);
}

static void op_mremap(const struct range *r) { there_and_back(r, 0, 0); }
static void op_mremap_by_4k(const struct range *r) { there_and_back(r, PAGE, 0); }
static void op_mremap_by_2m(const struct range *r) { there_and_back(r, HUGE, 0); }
static void op_mremap_keep(const struct range *r) { there_and_back(r, 0, MREMAP_DONTUNMAP); }

static void op_mremap_shrink(const struct range *r)
{
	struct range tail = { .from = r->from + PAGE, .to = r->to };

	must(mremap(at(r->from), length(r), PAGE, 0) == at(r->from), "mremap");
	check(&tail, NO_ACCESS, KEEP);
	map_again(tail.from, tail.to);
}

/* --- fork and exit ----------------------------------------------------------------- */

/*
 * The child looks, writes, looks again. The parent's private memory stays as it
 * was; shared memory holds what the child wrote.
 */
static void forked(const struct range *r, enum want inside)
{
	const uint64_t seed = shape_seed;
	pid_t pid = fork();

	if (!pid) {
		check(r, inside, KEEP);
		if (inside == KEEP || inside == ZERO) {
			shape_seed = ~seed;
			fill_spots(ARENA, r->from, r->to);
			check_spots(ARENA, r->from, r->to, KEEP);
		}
		_exit(board->failed);
	}
	must(pid > 0, "fork");
	if (pid > 0 && reap(pid) && !board->failed)
		fail("expected a child that ends, found one that was killed");
	if (arena_file >= 0) {
		shape_seed = ~seed;
		check_spots(ARENA, r->from, r->to, KEEP);
		shape_seed = seed;
		fill_spots(ARENA, r->from, r->to);
	}
	check(r, KEEP, KEEP);
}

static void op_fork(const struct range *r)
{
	split(r, true);
	forked(r, KEEP);
	split(r, false);
}

static void op_fork_wipe(const struct range *r)
{
	must(!madvise(at(r->from), length(r), MADV_WIPEONFORK), "madvise");
	forked(r, ZERO);
	must(!madvise(at(r->from), length(r), MADV_KEEPONFORK), "madvise");
}

static void op_fork_without(const struct range *r)
{
	must(!madvise(at(r->from), length(r), MADV_DONTFORK), "madvise");
	forked(r, NO_ACCESS);
	must(!madvise(at(r->from), length(r), MADV_DOFORK), "madvise");
}

/* A process that has just the range at its end. The log is looked at after each case. */
static void op_exit(const struct range *r)
{
	pid_t pid = fork();

	if (!pid) {
		if (r->from)
			munmap(at(0), r->from);
		munmap(at(r->to), arena_size() - r->to);
		_exit(0);
	}
	must(pid > 0 && !reap(pid), "a child that ends");
	check(r, KEEP, KEEP);
}

/* --- mlock -------------------------------------------------------------------------- */

#define KPF_MLOCKED (1ULL << 33)

static bool page_is_locked(unsigned long off)
{
	static pid_t owner;
	static int fd;
	uint64_t pfn = pagemap(ARENA + off) & PM_PFN, flags = 0;

	if (!pfn || pread(own_fd(&fd, &owner, "/proc/kpageflags"), &flags, 8, pfn * 8) != 8)
		fail("expected the flags of a page, found none at %#lx", off);
	return flags & KPF_MLOCKED;
}

static void op_mlock_onfault(const struct range *r)
{
	int i;

	must(!syscall(SYS_mlock2, at(r->from), length(r), MLOCK_ONFAULT), "mlock2");
	for (i = 0; i < spots && !board->failed; i++) {
		bool in = spot[i].off >= r->from && spot[i].off < r->to;

		if (spot[i].filled && page_is_locked(spot[i].off) != in)
			fail_at(spot[i].off, in ? "a locked page" : "an unlocked page",
				in ? "an unlocked one" : "a locked one");
	}
	check(r, KEEP, KEEP);
	must(!munlock(at(r->from), length(r)), "munlock");
	check(r, KEEP, KEEP);
}

static void op_mlock(const struct range *r)
{
	struct windows ws = windows(r, shape.unit == U2M ? 2 * HUGE : POPULATE_HALF);
	int i;

	for (i = 0; i < ws.n; i++)
		must(!mlock(at(ws.w[i].from), length(&ws.w[i])), "mlock");
	all_present(&ws);
	must(!munlock(at(r->from), length(r)), "munlock");
	all_present(&ws);
	check_windows(&ws, POPULATED);
}

/* --- what is said about pages ---------------------------------------------------------- */

/* Calls is_there(page of the window) for each page, in order, against the spots. */
static void compare_pages(const struct range *w, bool (*is_there)(size_t n, const void *), const void *answer)
{
	unsigned long o;
	int i = spot_from(w->from);

	for (o = w->from; o < w->to; o += PAGE) {
		bool filled = i < spots && spot[i].off == o && spot[i].filled;

		if (is_there((o - w->from) / PAGE, answer) != filled) {
			fail_at(o, filled ? "a page" : "no page", filled ? "none" : "one");
			return;
		}
		i += i < spots && spot[i].off == o;
	}
}

static bool in_mincore(size_t n, const void *v) { return ((const unsigned char *)v)[n] & 1; }

static bool in_pagemap(size_t n, const void *v)
{
	return (((const uint64_t *)v)[n] & (PM_PRESENT | PM_SWAPPED)) != 0;
}

/* All of 2 MiB and 1 GiB spans; 32 MiB around borders of 512 GiB */
static struct windows many_pages(const struct range *r)
{
	return windows(r, shape.unit == U512G ? 16 * MIB : 2 * GIB);
}

static void op_mincore(const struct range *r)
{
	static unsigned char vec[4 * GIB / PAGE];
	struct windows ws = many_pages(r);
	int i;

	for (i = 0; i < ws.n; i++) {
		size_t n = length(&ws.w[i]) / PAGE;

		memset(vec, 0xaa, n);
		must(!mincore(at(ws.w[i].from), n * PAGE, vec), "mincore");
		compare_pages(&ws.w[i], in_mincore, vec);
	}
	check(r, KEEP, KEEP);
}

static void op_pagemap(const struct range *r)
{
	static uint64_t entry[64 * MIB / PAGE];
	struct windows ws = many_pages(r);
	struct range part;
	int i;

	for (i = 0; i < ws.n; i++)
		for (part.from = ws.w[i].from; part.from < ws.w[i].to; part.from = part.to) {
			part.to = part.from + sizeof(entry) / 8 * PAGE;
			if (part.to > ws.w[i].to)
				part.to = ws.w[i].to;
			pagemap_read(ARENA + part.from, entry, length(&part) / PAGE);
			compare_pages(&part, in_pagemap, entry);
		}
	check(r, KEEP, KEEP);
}

#ifdef PAGEMAP_SCAN
/*
 * Every page of the range for which `wanted` says so must be listed, and no other.
 * walk_end is not looked at: after more than 512 regions it stays behind.
 */
static void scan(const struct range *r, uint64_t mask, uint64_t flags, bool (*wanted)(int nth))
{
	static struct page_region vec[4096];
	struct pm_scan_arg a = {
		.size = sizeof(a), .flags = flags, .start = ARENA + r->from, .end = ARENA + r->to,
		.vec = (unsigned long)vec, .vec_len = 4096, .category_mask = mask,
		.return_mask = PAGE_IS_PRESENT,
	};
	static pid_t owner;
	static int fd;
	long n = ioctl(own_fd(&fd, &owner, "/proc/self/pagemap"), PAGEMAP_SCAN, &a), k = 0;
	unsigned long o = n > 0 ? vec[0].start : 0;
	int i, nth = 0;

	must(n >= 0, "PAGEMAP_SCAN");
	for_spots(i, r->from, r->to) {
		if (board->failed)
			return;
		if (!spot[i].filled || !wanted(nth++))
			continue;
		if (k >= n || o != ARENA + spot[i].off) {
			if (k < n && o < ARENA + spot[i].off)
				fail_at(o - ARENA, "no page in the list", "one");
			else
				fail_at(spot[i].off, "a page in the list", "none");
			return;
		}
		o += PAGE;
		if (o >= vec[k].end && ++k < n)
			o = vec[k].start;
	}
	if (k < n)
		fail_at(o - ARENA, "no page in the list", "one");
}

static bool each(int nth) { return true; }
static bool each_second(int nth) { return nth % 2; }

static void op_scan(const struct range *r)
{
	scan(r, PAGE_IS_PRESENT, 0, each);
	check(r, KEEP, KEEP);
}
#endif

static void write_each_second(const struct range *r)
{
	int i, nth = 0;

	for_spots(i, r->from, r->to)
		if (spot[i].filled && nth++ % 2)
			page_set(at(spot[i].off), shape_seed, spot[i].off / PAGE);
}

static void op_soft_dirty(const struct range *r)
{
	int i, nth = 0;

	must(!write_text("/proc/self/clear_refs", "4"), "clear_refs");
	write_each_second(r);
	for_spots(i, 0, arena_size()) {
		bool in = spot[i].off >= r->from && spot[i].off < r->to, want;

		if (!spot[i].filled)
			continue;
		want = in && nth++ % 2;
		if (!!(pagemap(ARENA + spot[i].off) & PM_SOFT_DIRTY) != want) {
			fail_at(spot[i].off, want ? "a soft-dirty page" : "a page that is not soft-dirty",
				want ? "none" : "one");
			return;
		}
	}
	check(r, KEEP, KEEP);
}

/* --- userfaultfd ---------------------------------------------------------------------------- */

static int uffd_open(uint64_t features)
{
	struct uffdio_api api = { .api = UFFD_API, .features = features };
	int fd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);

	if (fd >= 0 && ioctl(fd, UFFDIO_API, &api)) {
		close(fd);
		fd = -1;
	}
	return fd;
}

static int uffd_register(const struct range *r, uint64_t features)
{
	struct uffdio_register reg = {
		.range = { ARENA + r->from, length(r) }, .mode = UFFDIO_REGISTER_MODE_WP,
	};
	int fd = uffd_open(features);

	must(fd >= 0 && !ioctl(fd, UFFDIO_REGISTER, &reg), "a registered range");
	return fd;
}

static void op_uffd_wp(const struct range *r)
{
	struct uffdio_writeprotect wp = {
		.range = { ARENA + r->from, length(r) }, .mode = UFFDIO_WRITEPROTECT_MODE_WP,
	};
	int fd = uffd_register(r, UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_SIGBUS);

	must(!ioctl(fd, UFFDIO_WRITEPROTECT, &wp), "UFFDIO_WRITEPROTECT");
	check(r, TRAPPED, KEEP);
	wp.mode = 0;
	must(!ioctl(fd, UFFDIO_WRITEPROTECT, &wp), "UFFDIO_WRITEPROTECT");
	check(r, KEEP, KEEP);
	close(fd);
}

#ifdef PAGEMAP_SCAN
/* PAGEMAP_SCAN protects what is there, and tells later what was written since. */
static void op_uffd_async(const struct range *r)
{
	int fd = uffd_register(r, UFFD_FEATURE_WP_ASYNC | UFFD_FEATURE_WP_UNPOPULATED);
	uint64_t mask = PAGE_IS_PRESENT | PAGE_IS_WRITTEN;

	scan(r, mask, PM_SCAN_WP_MATCHING | PM_SCAN_CHECK_WPASYNC, each);
	write_each_second(r);
	scan(r, mask, 0, each_second);
	check(r, KEEP, KEEP);
	close(fd);
	check(r, KEEP, KEEP);
}
#endif

/* --- swap ------------------------------------------------------------------------------------- */

#define SWAP_DEV	"/dev/zram0"
#define SWAP_SIZE	(64 * MIB)

static const char *make_swap(void)
{
	char page[4096] = { 0 }, num[32];
	uint32_t *info = (uint32_t *)(page + 1024);
	bool ok;
	int fd;

	if (read_text("/proc/swaps", page, sizeof(page)) < 0)
		return "a kernel without swap";
	if (strchr(page, '/'))
		return "other swap is on";
	if (read_text("/sys/block/zram0/disksize", page, sizeof(page)) < 0 || strcmp(page, "0\n"))
		return "no zram0 that is free";
	memset(page, 0, sizeof(page));
	snprintf(num, sizeof(num), "%lu", SWAP_SIZE);
	if (write_text("/sys/block/zram0/disksize", num))
		return "no zram0 that can be set up";
	info[0] = 1;			/* version */
	info[1] = SWAP_SIZE / PAGE - 1;	/* last page */
	memcpy(page + 4086, "SWAPSPACE2", 10);
	fd = open(SWAP_DEV, O_WRONLY | O_CLOEXEC);
	ok = fd >= 0 && write(fd, page, sizeof(page)) == sizeof(page) && !fsync(fd);
	if (fd >= 0)
		close(fd);
	return ok ? NULL : "cannot write to " SWAP_DEV;
}

static void remove_swap(void)
{
	swapoff(SWAP_DEV);
	write_text("/sys/block/zram0/reset", "1");
}

static long swapped_in(unsigned long lo, unsigned long hi)
{
	long n = 0;
	int i;

	for_spots(i, lo, hi)
		n += (pagemap(ARENA + spot[i].off) & PM_SWAPPED) != 0;
	return n;
}

static void op_swapoff(const struct range *r)
{
	long want = filled_in(r->from, r->to), out = 0, others;
	int i;

	must(!swapon(SWAP_DEV, 0), "swapon");
	for (i = 0; i < 20 && out < want && !board->failed; i++) {
		must(!madvise(at(r->from), length(r), MADV_PAGEOUT), "madvise");
		out = swapped_in(r->from, r->to);
	}
	others = swapped_in(0, r->from) + swapped_in(r->to, arena_size());
	if (out < want || others)
		fail("expected %ld pages in swap and none outside of the range, found %ld and %ld",
		     want, out, others);
	must(!swapoff(SWAP_DEV), "swapoff");
	out = swapped_in(0, arena_size());
	if (out)
		fail("expected no page in swap after swapoff, found %ld", out);
	check(r, KEEP, KEEP);
}

/* --- files --------------------------------------------------------------------------------------- */

/* A hole in the range is told (ENOMEM) after everything else was done. */
static void op_msync(const struct range *r)
{
	unsigned long hole = 2 * span_size();

	must(!msync(at(r->from), length(r), MS_SYNC), "msync");
	must(!msync(at(r->from), length(r), MS_ASYNC | MS_INVALIDATE), "msync");
	check(r, KEEP, KEEP);
	munmap(at(hole), PAGE);
	must(msync(at(r->from), length(r), MS_SYNC) == -1 && errno == ENOMEM, "ENOMEM of msync");
	map_again(hole, hole + PAGE);
}

/* The file ends at the end of the range, then at its beginning. */
static void op_ftruncate(const struct range *r)
{
	struct range tail = { .from = r->to, .to = arena_size() };

	must(!ftruncate(arena_file, tail.from), "ftruncate");
	check(&tail, BEHIND_END, KEEP);
	tail.from = r->from;
	must(!ftruncate(arena_file, tail.from), "ftruncate");
	check(&tail, BEHIND_END, KEEP);
	must(!ftruncate(arena_file, arena_size()), "ftruncate");
	check_gone(tail.from, tail.to);
	fill_spots(ARENA, tail.from, tail.to);
	check(r, KEEP, KEEP);
}

static void punched(const struct range *r)
{
	check_spots(ARENA, 0, r->from, KEEP);
	check_spots(ARENA, r->to, arena_size(), KEEP);
	check_gone(r->from, r->to);
	fill_spots(ARENA, r->from, r->to);
	check(r, KEEP, KEEP);
}

static void op_punch(const struct range *r)
{
	must(!fallocate(arena_file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, r->from, length(r)),
	     "fallocate");
	punched(r);
}

static void op_remove(const struct range *r)
{
	must(!madvise(at(r->from), length(r), MADV_REMOVE), "madvise");
	punched(r);
}

#endif
