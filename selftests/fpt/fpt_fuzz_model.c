// SPDX-License-Identifier: GPL-2.0
/*
 * What each page must hold, and which accesses must fail; and the comparison.
 */
#include "fpt_fuzz.h"
#include <stdarg.h>
#include <ucontext.h>

uint64_t mix(uint64_t a, uint64_t b)
{
	uint64_t x = a + b * 0x9e3779b97f4a7c15ULL;

	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
	return x ^ (x >> 31);
}

uint64_t rnd(struct world *w)
{
	w->rng += 0x9e3779b97f4a7c15ULL;
	return mix(w->rng, 1);
}

unsigned int below(struct world *w, unsigned int n)
{
	return (rnd(w) >> 32) * n >> 32;
}

bool one_in(struct world *w, unsigned int n)
{
	return below(w, n) == 0;
}

/* --- what is wrong --------------------------------------------------------- */

static const char *const kind_names[] = { "nothing", "anonymous", "shared", "private of a file" };
static const char *const have_names[] = { "no page", "zero", "a page", "page or base" };

void note(struct world *w, const char *fmt, ...)
{
	char text[TEXT];
	va_list ap;
	int n;

	if (!conf.verbose)
		return;
	n = snprintf(text, sizeof(text), "%s%5u ", w->child ? "#   child " : "# ", w->index);
	va_start(ap, fmt);
	n += vsnprintf(text + n, sizeof(text) - n, fmt, ap);
	va_end(ap);
	if (n > (int)sizeof(text) - 2)
		n = sizeof(text) - 2;
	text[n++] = '\n';
	if (write(1, text, n) < 0)
		_exit(EXIT_INTERNAL);
}

/* The first to find something reports it; the process ends, and its parents with it. */
void mismatch(struct world *w, int i, const char *fmt, ...)
{
	va_list ap;
	int n = 0;

	if (!__atomic_exchange_n(&shared->reported, 1, __ATOMIC_SEQ_CST)) {
		char *out = shared->bad;

		va_start(ap, fmt);
		n = vsnprintf(out, TEXT, fmt, ap);
		va_end(ap);
		if (i >= 0 && n < TEXT) {
			struct cell *c = &w->cell[i];

			snprintf(out + n, TEXT - n,
				 "; page %#lx (cell %d): %s, prot %d, pkey %d, flags %#x, %s%s",
				 w->at[i].addr, i, kind_names[c->kind], c->prot, c->pkey, c->flags,
				 have_names[c->have],
				 w->child == WAITED ? "; in a child" :
				 w->child == BESIDE ? "; in a child beside its parent" : "");
		}
		shared->bad_seed = w->seed;
		shared->bad_index = w->index;
	}
	_exit(EXIT_MISMATCH);
}

void internal(const char *what)
{
	fprintf(stderr, "fpt_fuzz: %s: %s\n", what, strerror(errno));
	_exit(EXIT_INTERNAL);
}

/* --- accesses that may fault ------------------------------------------------- */

int fuzz_load(const void *page, uint64_t *v);
int fuzz_store(void *page, uint64_t tag, uint64_t last);
int fuzz_touch(void *page);
extern char fuzz_begin[], fuzz_end[], fuzz_fixed[];

/* No stack is used, so the handler may go on at `fuzz_fixed` from anywhere in it. */
asm(".text\n"
    "fuzz_begin:\n"
    ".globl fuzz_load\n"
    "fuzz_load:\n"
    "	mov	(%rdi),%rax\n"
    "	mov	4088(%rdi),%rdx\n"
    "	mov	%rax,(%rsi)\n"
    "	mov	%rdx,8(%rsi)\n"
    "	xor	%eax,%eax\n"
    "	ret\n"
    ".globl fuzz_store\n"
    "fuzz_store:\n"
    "	mov	%rsi,(%rdi)\n"
    "	mov	%rdx,4088(%rdi)\n"
    "	xor	%eax,%eax\n"
    "	ret\n"
    "fuzz_end:\n"
    "fuzz_fixed:\n"
    "	ret\n");

static void handler(int sig, siginfo_t *info, void *data)
{
	greg_t *regs = ((ucontext_t *)data)->uc_mcontext.gregs;
	unsigned long ip = regs[REG_RIP];

	if (ip >= (unsigned long)fuzz_begin && ip < (unsigned long)fuzz_end) {
		regs[REG_RIP] = (unsigned long)fuzz_fixed;
		regs[REG_RAX] = sig;
		return;
	}
	if (!__atomic_exchange_n(&shared->reported, 1, __ATOMIC_SEQ_CST))
		snprintf(shared->bad, TEXT, "signal %d at instruction %#lx, address %p", sig, ip,
			 info->si_addr);
	_exit(EXIT_MISMATCH);
}

void catch_faults(void)
{
	struct sigaction sa = { .sa_sigaction = handler, .sa_flags = SA_SIGINFO };

	sigaction(SIGSEGV, &sa, NULL);
	sigaction(SIGBUS, &sa, NULL);
}

int raw_load(const void *page, uint64_t v[2])
{
	return fuzz_load(page, v);
}

int raw_store(void *page, uint64_t tag, uint64_t last)
{
	return fuzz_store(page, tag, last);
}

/* --- objects ----------------------------------------------------------------- */

static unsigned int obj_slot(struct object *o, uint64_t page)
{
	unsigned int k = mix(page, 7) & (OBJ_PAGES - 1);

	while (o->tab[k].page && o->tab[k].page != page + 1)
		k = (k + 1) & (OBJ_PAGES - 1);
	return k;
}

uint64_t obj_get(struct object *o, uint64_t page)
{
	unsigned int k = obj_slot(o, page);

	return o->tab[k].page ? o->tab[k].val : 0;
}

void obj_set(struct object *o, uint64_t page, uint64_t val)
{
	unsigned int k = obj_slot(o, page);

	if (!o->tab[k].page) {
		if (++o->used > OBJ_PAGES * 7 / 8)
			internal("too many pages of an object");
		o->tab[k].page = page + 1;
	}
	o->tab[k].val = val;
}

void obj_clear(struct object *o, uint64_t from, uint64_t to)
{
	unsigned int k;

	for (k = 0; k < OBJ_PAGES; k++)
		if (o->tab[k].page > from && o->tab[k].page <= to)
			o->tab[k].val = 0;
}

/* --- where the cells are -------------------------------------------------------- */

/* Windows of hot pages around these borders, in each of these spans of 512 GiB */
static const unsigned long borders[] = {
	0, HUGE, GIB, GIB + HUGE, GIB + 2 * HUGE, 37 * GIB, 256 * GIB, SPAN - GIB,
};
static const int spans[] = { 0, 1, 4, 7 };
#define HALF	8	/* pages before and behind a border */
#define DENSE	2048	/* pages */
#define WORLD_SPANS 10

static void add_place(struct world *w, unsigned long addr, unsigned long pages)
{
	if (w->cells == CELLS_MAX)
		internal("too many cells");
	w->at[w->cells].addr = addr;
	w->at[w->cells++].pages = pages;
}

void world_layout(struct world *w, int id)
{
	unsigned long base = BASE + id * WORLD_SPANS * SPAN, at = 0, addr;
	unsigned int s, b, p;

	w->cells = 0;
	for (s = 0; s < sizeof(spans) / sizeof(*spans); s++) {
		for (b = 0; b < sizeof(borders) / sizeof(*borders); b++) {
			addr = base + spans[s] * SPAN + borders[b] - HALF * PAGE;
			if (at && addr > at)
				add_place(w, at, (addr - at) / PAGE);
			for (p = 0; p < 2 * HALF; p++)
				add_place(w, addr + p * PAGE, 1);
			at = addr + 2 * HALF * PAGE;
		}
		if (!s)
			w->per_slot = w->cells + 1;
	}
	w->split = w->cells;
	/*
	 * Worlds' dense arenas share upper tables, and lie on both sides of a 512 GiB border.
	 * A stack of one never grows into another: reading below it is enough to make it grow.
	 */
	addr = BASE + 200 * SPAN - DENSE / 2 * PAGE +
	       (id + 1) / 2 * (id & 1 ? -2L : 2L) * (long)GROW_LIMIT;
	for (p = 0; p < DENSE; p++)
		add_place(w, addr + p * PAGE, 1);
}

/* --- expectations ------------------------------------------------------------------ */

uint64_t new_tag(struct world *w, int i)
{
	w->gen++;
	return (uint64_t)(w->index & 0xffffff) << 40 | (uint64_t)(i & 0xfff) << 28 |
	       (mix(w->seed + w->child, w->gen) & 0xfffffff) | 1;
}

void cell_unmap(struct world *w, int i)
{
	memset(&w->cell[i], 0, sizeof(struct cell));
}

/* Where huge pages or locking may fill in a page unasked, nobody knows if it is there. */
void cell_empty(struct world *w, int i)
{
	struct cell *c = &w->cell[i];

	c->have = c->kind == K_ANON && c->flags & (C_HUGE | C_HUGETLB | C_LOCKED) ? H_ZERO : H_NO;
	c->val = 0;
	c->flags &= ~(C_SOFT | C_WPSET);
}

bool base_known(struct world *w, int i)
{
	struct cell *c = &w->cell[i];

	return c->kind == K_ANON || !w->obj[c->obj].unknown;
}

uint64_t base_val(struct world *w, int i)
{
	struct cell *c = &w->cell[i];

	return c->kind == K_ANON ? 0 : obj_get(&w->obj[c->obj], c->off);
}

/* The kernel extends a growing mapping down to a page that is touched below it. */
static bool grow_down(struct world *w, int i)
{
	int up, low, first = arena_begin(w, i), end = arena_end(w, i);

	for (up = i; up < end && !w->cell[up].kind; up++)
		;
	if (up == end || !(w->cell[up].flags & C_GROWS) ||
	    w->at[up].addr - w->at[i].addr > GROW_LIMIT / 4)
		return false;
	for (low = i; low >= first && !w->cell[low].kind; low--)
		;
	if (low >= first && !(w->cell[low].flags & C_GROWS) && w->cell[low].prot &&
	    w->at[i].addr - cell_end(w, low) < GUARD_PAGES * PAGE)
		return false;
	for (low = i; low < up; low++) {
		struct cell *c = &w->cell[low];

		*c = w->cell[up];
		c->flags &= C_VMA | C_KSM;
		c->have = H_NO;
		cell_empty(w, low);
	}
	return true;
}

enum access expect(struct world *w, int i, bool write)
{
	struct cell *c = &w->cell[i];

	if (!c->kind && !grow_down(w, i))
		return A_SEGV;
	if (!(write ? c->prot & PROT_WRITE : c->prot))
		return A_SEGV;
	if (c->pkey && (w->rights[c->pkey] & 1 || (write && w->rights[c->pkey] & 2)))
		return A_SEGV;
	if (!base_known(w, i))
		return A_ANY;
	if (c->kind != K_ANON && c->off >= w->obj[c->obj].pages) {
		struct object *o = &w->obj[c->obj];

		/* A huge page is mapped as a whole, though the file may end in it. */
		if (o->collapsed && (c->off & ~511UL) < o->pages)
			return write ? A_ANY : A_OK_OR_BUS;
		return A_BUS;
	}
	if (c->flags & C_MISSING) {
		if (c->have == H_NO)
			return A_BUS;
		if (c->have != H_VAL)
			return A_OK_OR_BUS;
	}
	if (write && c->flags & C_WPSET)
		return A_BUS;
	return A_OK;
}

void model_write(struct world *w, int i, uint64_t tag)
{
	struct cell *c = &w->cell[i];

	if (c->kind == K_SHARED) {
		obj_set(&w->obj[c->obj], c->off, tag);
	} else {
		c->have = H_VAL;
		c->val = tag;
	}
	c->flags |= C_SOFT;
}

static bool holds(uint64_t want, uint64_t v0, uint64_t v1)
{
	return v0 == want && v1 == (want ? ~want : 0);
}

/* What was read must be what may be there; it also tells which of two it is. */
void model_read(struct world *w, int i, uint64_t v0, uint64_t v1, const char *how)
{
	struct cell *c = &w->cell[i];
	uint64_t base;

	if (!base_known(w, i))
		return;
	base = base_val(w, i);
	if (c->kind != K_SHARED && c->have >= H_VAL && holds(c->val, v0, v1))
		return;
	if ((c->kind == K_SHARED || c->have != H_VAL) && holds(base, v0, v1)) {
		/* What MADV_FREE was told of may be there with zeroes, and go later. */
		if (c->kind == K_ANON && c->have != H_ZERO) {
			c->have = c->have == H_NO ? H_VAL : H_ZERO;
			c->val = 0;
			c->flags &= ~C_SOFT;
		}
		return;
	}
	mismatch(w, i, "%s: expected %#llx%s, found %#llx and %#llx", how,
		 (unsigned long long)(c->kind != K_SHARED && c->have >= H_VAL ? c->val : base),
		 c->kind != K_SHARED && c->have == H_SET ? " or what is below it" : "",
		 (unsigned long long)v0, (unsigned long long)v1);
}

static void judge(struct world *w, int i, enum access want, int sig, const char *what)
{
	__atomic_fetch_add(&shared->checks, 1, __ATOMIC_RELAXED);
	if (sig)
		__atomic_fetch_add(&shared->faults, 1, __ATOMIC_RELAXED);
	switch (want) {
	case A_OK:
		if (sig)
			mismatch(w, i, "%s: expected no signal, got signal %d", what, sig);
		break;
	case A_SEGV:
	case A_BUS:
		if (sig != (want == A_SEGV ? SIGSEGV : SIGBUS))
			mismatch(w, i, "%s: expected signal %d, got %d", what,
				 want == A_SEGV ? SIGSEGV : SIGBUS, sig);
		break;
	case A_OK_OR_BUS:
		if (sig && sig != SIGBUS)
			mismatch(w, i, "%s: expected signal 0 or 7, got %d", what, sig);
		break;
	case A_ANY:
		break;
	}
}

void check_read(struct world *w, int i)
{
	enum access want;
	uint64_t v[2];
	int sig;

	if (i < 0 || i >= w->cells || !hot(w, i))
		return;
	want = expect(w, i, false);
	sig = raw_load(cell_ptr(w, i), v);
	judge(w, i, want, sig, "read");
	if (!sig)
		model_read(w, i, v[0], v[1], "read");
}

/* Not where the other side of a fork would see it. */
bool check_write(struct world *w, int i, uint64_t tag)
{
	enum access want = expect(w, i, true);
	int sig;

	if (want == A_ANY)
		return false;
	sig = raw_store(cell_ptr(w, i), tag, tag ? ~tag : 0);
	judge(w, i, want, sig, "write");
	if (!sig)
		model_write(w, i, tag);
	return !sig;
}

/* Both ends of what was just changed, their neighbours, and a few others */
void check_around(struct world *w)
{
	struct range r = w->last;
	int n, i;

	if (r.j > r.i) {
		if (one_in(w, 2)) {
			check_read(w, r.i - 1);
			check_read(w, r.j);
		}
		check_read(w, r.i);
		check_read(w, r.j - 1);
		for (n = 0; n < 2; n++)
			check_read(w, r.i + below(w, r.j - r.i));
		if (one_in(w, 3)) {
			i = one_in(w, 2) ? r.j - 1 : r.i + (int)below(w, r.j - r.i);
			if (hot(w, i))
				check_write(w, i, new_tag(w, i));
		}
	}
	check_read(w, below(w, w->cells));
}

#define PM_SOFT		(1ULL << 55)
#define PM_SWAP		(1ULL << 62)
#define PM_PRESENT	(1ULL << 63)

/* pagemap's word is compared, too; what is empty stays so, or tables would fill up. */
static void check_page(struct world *w, int i, uint64_t pm, bool touch)
{
	struct cell *c = &w->cell[i];
	bool there = pm & (PM_PRESENT | PM_SWAP);

	if (c->kind == K_ANON && c->have == H_NO && there)
		mismatch(w, i, "pagemap has %#llx where no page can be", (unsigned long long)pm);
	if (conf.soft_dirty && c->kind == K_ANON && c->flags & C_SOFT && !(c->flags & (C_KSM | C_HUGETLB)) &&
	    c->have == H_VAL && there && !(pm & PM_SOFT))
		mismatch(w, i, "a written page is not soft-dirty: pagemap has %#llx",
			 (unsigned long long)pm);
	if (!touch && !there && c->kind == K_ANON && c->have <= H_ZERO)
		return;
	check_read(w, i);
}

void check_all(struct world *w)
{
	static __thread uint64_t pm[DENSE];
	bool touch = one_in(w, 4);
	int i = 0, j, k, last;

	__atomic_fetch_add(&shared->full, 1, __ATOMIC_RELAXED);
	while (i < w->cells) {
		if (!hot(w, i)) {
			i++;
			continue;
		}
		for (j = i + 1; j < w->cells && j != w->split && hot(w, j); j++)
			;
		if (pread(w->pagemap, pm, (j - i) * 8L, w->at[i].addr / PAGE * 8) != (j - i) * 8L)
			internal("pagemap");
		for (k = i; k < j; k++) {
			enum access want;

			if (!w->cell[k].kind) {
				if (pm[k - i] & (PM_PRESENT | PM_SWAP))
					mismatch(w, k, "pagemap has %#llx where nothing is mapped",
						 (unsigned long long)pm[k - i]);
				want = A_SEGV;
			} else {
				want = expect(w, k, false);
			}
			if (want != A_SEGV && want != A_BUS) {
				check_page(w, k, pm[k - i], touch);
				continue;
			}
			/* Signals are dear: one of each run, at its ends or inside, and not of all. */
			for (last = k; last + 1 < j; last++)
				if (w->cell[last + 1].kind != w->cell[k].kind ||
				    (w->cell[k].kind && expect(w, last + 1, false) != want))
					break;
			if (one_in(w, 3))
				check_read(w, one_in(w, 2) ? last : one_in(w, 2) ? k :
					   k + (int)below(w, last - k + 1));
			k = last;
		}
		i = j;
	}
	/* Writes that must fail */
	for (k = 0; k < 12; k++) {
		i = below(w, w->cells);
		if (hot(w, i) && w->cell[i].kind && expect(w, i, true) == A_SEGV)
			check_write(w, i, new_tag(w, i));
	}
}

/* What fork makes of the model. */
void child_model(struct world *w, enum child how)
{
	int i;

	for (i = 0; i < w->cells; i++) {
		struct cell *c = &w->cell[i];

		if (c->flags & C_DONTFORK) {
			cell_unmap(w, i);
			continue;
		}
		c->flags &= ~(C_LOCKED | C_UFFD | C_WPSET);
		if (c->flags & C_WIPE)
			cell_empty(w, i);
		/* Pages that were only read may be left to be faulted in again. */
		if (c->kind == K_ANON && c->have == H_VAL && !c->val)
			c->have = H_ZERO;
	}
	w->child = how;
	w->kid = 0;
	if (how == BESIDE) {
		size_t size = OBJECTS * sizeof(struct object);
		struct object *own = mmap(NULL, size, PROT_READ | PROT_WRITE,
					  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		if (own == MAP_FAILED)
			internal("no memory for a child's objects");
		for (i = 0; i < OBJECTS; i++) {
			own[i].type = w->obj[i].type;
			own[i].fd = w->obj[i].fd;
			own[i].pages = w->obj[i].pages;
			own[i].unknown = true;
		}
		w->obj = own;
	}
	close(w->pagemap);
	w->pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	close(w->mem);
	w->mem = open("/proc/self/mem", O_RDWR | O_CLOEXEC);
	if (w->pagemap < 0 || w->mem < 0)
		internal("a child's /proc/self");
}
