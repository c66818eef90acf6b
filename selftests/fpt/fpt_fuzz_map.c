// SPDX-License-Identifier: GPL-2.0
/* The fuzzer's calls that map, unmap, move and protect. */
#include "fpt_fuzz.h"

static int some_prot(struct world *w)
{
	static const int prots[] = {
		PROT_READ, PROT_READ, PROT_NONE, PROT_WRITE, PROT_READ | PROT_EXEC,
		PROT_READ | PROT_WRITE | PROT_EXEC,
	};
	unsigned int n = below(w, 14);

	return n < sizeof(prots) / sizeof(*prots) ? prots[n] : PROT_READ | PROT_WRITE;
}

struct mapping {
	enum kind kind;
	int prot, flags, obj;
	uint64_t off;
	unsigned int cell_flags;
};

static void set_cells(struct world *w, struct range r, const struct mapping *m)
{
	uint64_t off = m->off;
	int i;

	for (i = r.i; i < r.j; i++) {
		struct cell *c = &w->cell[i];

		memset(c, 0, sizeof(*c));
		c->kind = m->kind;
		c->prot = m->prot;
		c->obj = m->obj;
		c->off = off;
		c->flags = m->cell_flags;
		if (m->kind == K_ANON && (m->flags & MAP_POPULATE || m->cell_flags & C_HUGETLB))
			c->have = H_ZERO;
		off += w->at[i].pages;
	}
}

/* Maps the range over whatever is there. */
static bool map_cells(struct world *w, struct range r, const struct mapping *m)
{
	int flags = m->flags | MAP_FIXED, fd = m->kind == K_ANON ? -1 : w->obj[m->obj].fd;
	void *p;

	if (m->obj && w->obj[m->obj].type == O_SHMEM)
		fd = -1;
	if (range_len(w, r) > 64 * MIB)
		flags |= MAP_NORESERVE;
	if (fd < 0)
		flags |= MAP_ANONYMOUS;
	w->last = r;
	p = mmap(range_ptr(w, r), range_len(w, r), m->prot, flags, fd, fd < 0 ? 0 : m->off * PAGE);
	note(w, "mmap(%s, prot %d, flags %#x, object %d, page %#llx) = %p", range_text(w, r), m->prot,
	     flags, fd < 0 ? 0 : m->obj, (unsigned long long)m->off, p);
	if (p != range_ptr(w, r))
		mismatch(w, r.i, "mmap of %s, flags %#x: expected its address, got %p (%s)",
			 range_text(w, r), flags, p, p == MAP_FAILED ? strerror(errno) : "");
	set_cells(w, r, m);
	return true;
}

static struct range pick_map(struct world *w, int max_hot)
{
	struct range r = pick(w, max_hot);

	whole_huge(w, &r, true);
	return r;
}

static bool op_mmap_anon(struct world *w)
{
	struct mapping m = { K_ANON, some_prot(w), MAP_PRIVATE };

	return map_cells(w, pick_map(w, 0), &m);
}

static bool op_mmap_populate(struct world *w)
{
	struct mapping m = { K_ANON, some_prot(w), MAP_PRIVATE | MAP_POPULATE };
	struct range r;
	int i;

	r = pick(w, 64);
	for (i = r.i; i < r.j; i++)
		if (!hot(w, i) || w->cell[i].flags & C_HUGETLB)
			return false;
	return map_cells(w, r, &m);
}

static bool op_mmap_noreserve(struct world *w)
{
	struct mapping m = { K_ANON, some_prot(w), MAP_PRIVATE | MAP_NORESERVE };
	struct range r = { below(w, w->split), w->split };

	if (one_in(w, 2))
		r.j = r.i + 1 + below(w, w->split - r.i);
	whole_huge(w, &r, true);
	return map_cells(w, r, &m);
}

static bool op_mmap_growsdown(struct world *w)
{
	struct mapping m = { K_ANON, some_prot(w), MAP_PRIVATE | MAP_GROWSDOWN, 0, 0, C_GROWS };
	struct range r = pick(w, 32);
	int i;

	for (i = r.i; i < r.j; i++)
		if (!hot(w, i) || w->cell[i].flags & C_HUGETLB)
			return false;
	return map_cells(w, r, &m);
}

static bool op_mmap_noreplace(struct world *w)
{
	struct mapping m = { K_ANON, some_prot(w), MAP_PRIVATE };
	int i, flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE | MAP_NORESERVE;
	struct range r = pick(w, 0);
	bool free = true;
	void *p;

	for (i = r.i; i < r.j; i++)
		free &= !w->cell[i].kind;
	w->last = r;
	p = mmap(range_ptr(w, r), range_len(w, r), m.prot, flags, -1, 0);
	note(w, "mmap(%s, prot %d, MAP_FIXED_NOREPLACE) = %p", range_text(w, r), m.prot, p);
	if (free && p != range_ptr(w, r))
		mismatch(w, r.i, "MAP_FIXED_NOREPLACE of %s, where nothing is: got %p", range_text(w, r), p);
	if (!free && (p != MAP_FAILED || errno != EEXIST))
		mismatch(w, r.i, "MAP_FIXED_NOREPLACE of %s, where something is: got %p", range_text(w, r), p);
	if (free)
		set_cells(w, r, &m);
	return true;
}

/* An object whose pages lie as the cells do, or a little shifted */
static bool map_object(struct world *w, int obj, enum kind kind)
{
	static const int shifts[] = { 0, 0, 1, 512 };
	struct range r = pick_map(w, 0);
	struct mapping m = { kind, some_prot(w), kind == K_SHARED ? MAP_SHARED : MAP_PRIVATE, obj };

	if (!w->obj[obj].type)
		return false;
	m.off = (w->at[r.i].addr - w->at[arena_begin(w, r.i)].addr) / PAGE + shifts[below(w, 4)];
	return map_cells(w, r, &m);
}

static bool op_mmap_memfd(struct world *w)
{
	return map_object(w, 1, K_SHARED);
}

static bool op_mmap_memfd_private(struct world *w)
{
	return map_object(w, 1, K_PRIVATE);
}

static bool op_mmap_file(struct world *w)
{
	return map_object(w, 2, K_SHARED);
}

static bool op_mmap_file_private(struct world *w)
{
	return map_object(w, 2, K_PRIVATE);
}

static bool op_mmap_shared(struct world *w)
{
	struct mapping m = { K_SHARED, some_prot(w), MAP_SHARED };
	struct range r = pick_map(w, 0);
	bool used[OBJECTS] = { false };
	int i;

	for (i = 0; i < w->cells; i++)
		used[w->cell[i].obj] = true;
	for (i = 4; i < OBJECTS && used[i]; i++)
		;
	if (i == OBJECTS)
		return false;
	if (w->obj[i].used)
		memset(w->obj[i].tab, 0, sizeof(w->obj[i].tab));
	w->obj[i].used = 0;
	w->obj[i].type = O_SHMEM;
	w->obj[i].fd = -1;
	w->obj[i].collapsed = false;
	w->obj[i].pages = range_len(w, r) / PAGE;
	m.obj = i;
	return map_cells(w, r, &m);
}

/* Some place of whole 2 MiB pages, as many as there may still be */
static bool pick_huge(struct world *w, struct range *r, int max)
{
	int i = below(w, w->cells), k, n = 0, best = -1;

	if (!conf.huge)
		return false;
	for (k = i; k < arena_end(w, i) && w->at[k].addr % HUGE; k++)
		;
	if (k == arena_end(w, i))
		return false;
	r->i = k;
	for (k++; k <= arena_end(w, i); k++) {
		unsigned long end = cell_end(w, k - 1);

		if (end - w->at[r->i].addr > max * HUGE)
			break;
		if (end % HUGE == 0) {
			best = k;
			if (one_in(w, 2))
				break;
		}
	}
	if (best < 0)
		return false;
	r->j = best;
	for (k = r->i; k < r->j; k++)
		n += !!(w->cell[k].flags & C_HUGETLB);
	/* Over others of its kind their number may stay the same, which is not worth counting. */
	if (n || huge_pages(w) + range_len(w, *r) / HUGE > HUGE_CAP)
		return false;
	return true;
}

static bool op_mmap_hugetlb(struct world *w)
{
	struct mapping m = { K_ANON, some_prot(w), MAP_PRIVATE | MAP_HUGETLB, 0, 0, C_HUGETLB };
	struct range r;

	return pick_huge(w, &r, 4) && map_cells(w, r, &m);
}

static bool op_mmap_hugetlb_file(struct world *w)
{
	/* Not private: whether reading a hole makes a copy depends on who was there before. */
	struct mapping m = { K_SHARED, some_prot(w), MAP_SHARED, 3, 0, C_HUGETLB };
	struct range r;

	if (!w->obj[3].type || !pick_huge(w, &r, 2))
		return false;
	m.off = below(w, 3) * 512;
	return map_cells(w, r, &m);
}

static void unmap_cells(struct world *w, struct range r)
{
	int i;

	for (i = r.i; i < r.j; i++)
		cell_unmap(w, i);
}

static bool op_munmap(struct world *w)
{
	struct range r = pick_map(w, 0);
	int err;

	w->last = r;
	err = munmap(range_ptr(w, r), range_len(w, r));
	note(w, "munmap(%s) = %d", range_text(w, r), err);
	if (err)
		mismatch(w, r.i, "munmap of %s: %s", range_text(w, r), strerror(errno));
	unmap_cells(w, r);
	return true;
}

static bool is_small(struct world *w, int i, unsigned int arg)
{
	return w->cell[i].kind && !(w->cell[i].flags & C_HUGETLB);
}

static bool is_hugetlb(struct world *w, int i, unsigned int arg)
{
	return w->cell[i].kind && w->cell[i].flags & C_HUGETLB;
}

/* A page that could be written must refuse now, wherever in the range it is. */
static void try_writes(struct world *w, struct range r)
{
	int n, i;

	for (n = 0; n < 24; n++) {
		i = r.i + (int)below(w, r.j - r.i);
		if (hot(w, i) && w->cell[i].kind && expect(w, i, true) == A_SEGV)
			check_write(w, i, new_tag(w, i));
	}
}

/* Up to the first hole, as the kernel does */
static bool protect(struct world *w, int pkey)
{
	struct range r;
	int prot = some_prot(w), err, i, stop;
	bool hole = false;

	if (one_in(w, 12)) {
		if (!pick_cells(w, &r, 0, is_hugetlb, 0) || !whole_huge(w, &r, false))
			return false;
	} else {
		if (!pick_cells(w, &r, 0, is_small, 0))
			return false;
		/* A hole behind it, and something behind the hole */
		stop = r.j;
		if (one_in(w, 4) && r.j < arena_end(w, r.i) && !w->cell[r.j].kind) {
			while (stop < arena_end(w, r.i) && !w->cell[stop].kind)
				stop++;
			hole = true;
			if (stop < arena_end(w, r.i) && !(w->cell[stop].flags & C_HUGETLB))
				stop++;
		}
		w->last = r;
		r.j = stop;
	}
	if (pkey < 0)
		err = mprotect(range_ptr(w, r), range_len(w, r), prot);
	else
		err = syscall(SYS_pkey_mprotect, range_ptr(w, r), range_len(w, r), prot,
			      pkey ? w->pkey[pkey - 1] : 0);
	note(w, "mprotect(%s, %d, key %d) = %d", range_text(w, r), prot, pkey, err);
	if (hole ? !err || errno != ENOMEM : err)
		mismatch(w, r.i, "mprotect of %s %s a hole: got %d (%s)", range_text(w, r),
			 hole ? "with" : "without", err, err ? strerror(errno) : "");
	for (i = r.i; i < r.j && w->cell[i].kind; i++) {
		w->cell[i].prot = prot;
		if (pkey >= 0)
			w->cell[i].pkey = pkey;
	}
	w->last = r;
	if (!(prot & PROT_WRITE))
		try_writes(w, r);
	return true;
}

static bool op_mprotect(struct world *w)
{
	return protect(w, -1);
}

static bool op_pkey_mprotect(struct world *w)
{
	return conf.pkeys && protect(w, below(w, 3));
}

/* Bit 0: no access, bit 1: no writing */
static bool op_pkey_rights(struct world *w)
{
	unsigned int key = 1 + below(w, 2), rights = one_in(w, 2) ? 0 : below(w, 4), pkru, ecx = 0, edx;

	if (!conf.pkeys)
		return false;
	asm volatile(".byte 0x0f,0x01,0xee" : "=a" (pkru), "=d" (edx) : "c" (ecx));
	pkru &= ~(3u << 2 * w->pkey[key - 1]);
	pkru |= rights << 2 * w->pkey[key - 1];
	asm volatile(".byte 0x0f,0x01,0xef" : : "a" (pkru), "c" (ecx), "d" (0) : "memory");
	w->rights[key] = rights;
	note(w, "rights of key %u: %u", key, rights);
	return true;
}

/* --- mremap --------------------------------------------------------------------- */

/* A run that may be one mapping */
static bool pick_vma(struct world *w, struct range *r, cell_test test, unsigned int arg)
{
	int k;

	if (!pick_cells(w, r, 0, test, arg))
		return false;
	for (k = r->i + 1; k < r->j && same_vma(w, k - 1, k); k++)
		;
	r->j = k;
	return whole_huge(w, r, false);
}

static int move_to(struct world *w, struct range r)
{
	int n, to, window = 17, step = w->per_slot;

	for (n = 0; n < 8; n++) {
		int sign = one_in(w, 2) ? 1 : -1;

		if (r.i >= w->split)
			to = one_in(w, 3) ? r.i + sign * 512 * (int)(1 + below(w, 3)) :
			     one_in(w, 8) ? (int)below(w, w->split) :
			     w->split + (int)below(w, w->cells - w->split);
		else
			to = one_in(w, 2) ? r.i + sign * step * (int)(1 + below(w, 3)) :
			     one_in(w, 8) ? w->split + (int)below(w, w->cells - w->split) :
			     r.i + sign * window * (int)(1 + below(w, 8)) + (int)below(w, 3) - 1;
		if (same_sizes(w, r, to) && (to + (r.j - r.i) <= r.i || to >= r.j))
			return to;
	}
	return -1;
}

enum { MOVE, DONTUNMAP, COPY };

static bool move(struct world *w, int how)
{
	struct cell old[64], *copy = old;
	size_t len, size;
	struct range r, t;
	int n, k, flags = MREMAP_MAYMOVE | MREMAP_FIXED | (how == DONTUNMAP ? MREMAP_DONTUNMAP : 0);
	void *p;

	if (how == MOVE ? !pick_vma(w, &r, is_kind, ANY_KIND) :
	    how == DONTUNMAP ? !pick_vma(w, &r, is_kind, ANY_KIND | (C_LOCKED | C_HUGETLB) << 8) :
	    !pick_vma(w, &r, is_kind, BIT(K_SHARED) | C_HUGETLB << 8))
		return false;
	t.i = move_to(w, r);
	if (t.i < 0)
		return false;
	n = r.j - r.i;
	t.j = t.i + n;
	if (cuts_huge(w, t) || (w->cell[r.i].flags & C_HUGETLB && w->at[t.i].addr % HUGE))
		return false;
	/*
	 * What moves is no longer userfaultfd's, and with it (6.12 to 6.18) all that the new
	 * mapping is merged with; what that is, is not known here.
	 */
	if (w->cell[r.i].flags & C_UFFD &&
	    ((t.i > arena_begin(w, t.i) && w->cell[t.i - 1].flags & C_UFFD) ||
	     (t.j < arena_end(w, t.i) && w->cell[t.j].flags & C_UFFD)))
		return false;
	/* Where it fails the target may be unmapped already; a second time does no harm. */
	len = range_len(w, r);
	w->last = t;
	p = mremap(range_ptr(w, r), how == COPY ? 0 : len, len, flags, range_ptr(w, t));
	note(w, "mremap(%s, flags %#x%s, to %s) = %p", range_text(w, r), flags,
	     how == COPY ? ", a copy" : "", range_text(w, t), p);
	if (p == MAP_FAILED) {
		if (errno != EFAULT && errno != ENOMEM && errno != EINVAL)
			mismatch(w, r.i, "mremap of %s: %s", range_text(w, r), strerror(errno));
		if (munmap(range_ptr(w, t), len))
			mismatch(w, t.i, "munmap of %s: %s", range_text(w, t), strerror(errno));
		unmap_cells(w, t);
		return false;
	}
	if (p != range_ptr(w, t))
		mismatch(w, r.i, "mremap of %s to %s: got %p", range_text(w, r), range_text(w, t), p);
	size = n * sizeof(struct cell);
	if (n > 64)
		copy = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (copy == MAP_FAILED)
		internal("no memory for cells");
	memcpy(copy, &w->cell[r.i], size);
	for (k = 0; k < n; k++) {
		struct cell *c = &w->cell[t.i + k];

		*c = copy[k];
		/* A mapping that moved is no longer userfaultfd's. */
		c->flags &= ~(C_UFFD | C_WPSET);
		if (how == COPY)
			c->flags &= ~C_SOFT;
		if (how == MOVE)
			cell_unmap(w, r.i + k);
		else if (how == DONTUNMAP)
			cell_empty(w, r.i + k);
	}
	if (n > 64)
		munmap(copy, size);
	if (one_in(w, 2))
		w->last = r;
	return true;
}

static bool op_mremap_move(struct world *w)
{
	return move(w, MOVE);
}

static bool op_mremap_dontunmap(struct world *w)
{
	return move(w, DONTUNMAP);
}

static bool op_mremap_copy(struct world *w)
{
	return move(w, COPY);
}

static bool op_mremap_shrink(struct world *w)
{
	struct range r, t;
	size_t old, new;
	void *p;

	if (!pick_vma(w, &r, is_kind, ANY_KIND) || r.j - r.i < 2)
		return false;
	t = r;
	t.i = r.i + 1 + below(w, r.j - r.i - 1);
	if (cuts_huge(w, t))
		return false;
	old = range_len(w, r);
	new = w->at[t.i].addr - w->at[r.i].addr;
	w->last = t;
	p = mremap(range_ptr(w, r), old, new, 0);
	note(w, "mremap(%s, to %zu pages) = %p", range_text(w, r), new / PAGE, p);
	if (p != range_ptr(w, r))
		mismatch(w, r.i, "shrinking mremap of %s: got %p", range_text(w, r), p);
	unmap_cells(w, t);
	return true;
}

/* In place; works only at the end of a mapping with room behind it. */
static bool op_mremap_grow(struct world *w)
{
	struct range r, t;
	uint64_t off;
	int k, more;
	void *p;

	if (!pick_vma(w, &r, is_kind, ANY_KIND | C_HUGETLB << 8))
		return false;
	while (r.j < arena_end(w, r.i) && w->cell[r.j].kind && same_vma(w, r.j - 1, r.j))
		r.j++;
	more = 1 + below(w, 24);
	t.i = t.j = r.j;
	while (t.j < arena_end(w, r.i) && hot(w, t.j) && t.j - t.i < more)
		t.j++;
	if (t.i == t.j)
		return false;
	w->last = t;
	p = mremap(range_ptr(w, r), range_len(w, r), range_len(w, r) + range_len(w, t), 0);
	note(w, "mremap(%s, %d more pages) = %p", range_text(w, r), t.j - t.i, p);
	if (p == MAP_FAILED) {
		if (errno != ENOMEM && errno != EFAULT && errno != EAGAIN)
			mismatch(w, r.i, "growing mremap of %s: %s", range_text(w, r), strerror(errno));
		return false;
	}
	if (p != range_ptr(w, r))
		mismatch(w, r.i, "growing mremap of %s: got %p", range_text(w, r), p);
	off = w->cell[r.j - 1].off + w->at[r.j - 1].pages;
	for (k = t.i; k < t.j; k++) {
		struct cell *c = &w->cell[k];

		if (c->kind)
			mismatch(w, k, "mremap of %s grew over a mapping", range_text(w, r));
		*c = w->cell[r.j - 1];
		c->off = off++;
		c->flags &= C_VMA | C_KSM;
		cell_empty(w, k);
	}
	return true;
}

const struct op map_ops[] = {
	{ "mmap_anon", 500, op_mmap_anon },
	{ "mmap_populate", 120, op_mmap_populate },
	{ "mmap_noreserve", 60, op_mmap_noreserve },
	{ "mmap_growsdown", 100, op_mmap_growsdown },
	{ "mmap_noreplace", 120, op_mmap_noreplace },
	{ "mmap_memfd", 180, op_mmap_memfd },
	{ "mmap_memfd_private", 160, op_mmap_memfd_private },
	{ "mmap_file", 120, op_mmap_file },
	{ "mmap_file_private", 120, op_mmap_file_private },
	{ "mmap_shared", 140, op_mmap_shared, OP_PARENT },
	{ "mmap_hugetlb", 120, op_mmap_hugetlb },
	{ "mmap_hugetlb_file", 100, op_mmap_hugetlb_file },
	{ "munmap", 350, op_munmap },
	{ "mprotect", 700, op_mprotect },
	{ "pkey_mprotect", 120, op_pkey_mprotect },
	{ "pkey_rights", 60, op_pkey_rights },
	{ "mremap_move", 500, op_mremap_move },
	{ "mremap_dontunmap", 120, op_mremap_dontunmap },
	{ "mremap_copy", 80, op_mremap_copy },
	{ "mremap_shrink", 120, op_mremap_shrink },
	{ "mremap_grow", 200, op_mremap_grow },
	{ NULL },
};
