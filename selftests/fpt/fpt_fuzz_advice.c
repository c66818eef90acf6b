// SPDX-License-Identifier: GPL-2.0
/* The fuzzer's calls that advise, lock, sync and fill, and those on the objects behind mappings. */
#include "fpt_fuzz.h"
#include "fpt_process.h"

#define BARRED(flags) ((flags) << 8)

/*
 * Cells that the advice is for, with holes between them if any; what it is not
 * for ends the range, because the kernel stops there half-way.
 */
static bool advise(struct world *w, struct range *r, int advice, unsigned int arg)
{
	bool hole = false;
	int err, i;

	if (!pick_cells(w, r, 0, is_kind, arg))
		return false;
	if (one_in(w, 3)) {
		int n = 1 + below(w, 300);

		for (i = r->j; i < arena_end(w, r->i) && n--; i++)
			if (w->cell[i].kind && !is_kind(w, i, arg))
				break;
		r->j = i;
	}
	for (i = r->i; i < r->j; i++)
		hole |= !w->cell[i].kind;
	w->last = *r;
	err = madvise(range_ptr(w, *r), range_len(w, *r), advice);
	note(w, "madvise(%s, %d) = %d", range_text(w, *r), advice, err);
	if (hole ? !err || errno != ENOMEM : err)
		mismatch(w, r->i, "madvise %d of %s %s a hole: got %d (%s)", advice, range_text(w, *r),
			 hole ? "with" : "without", err, err ? strerror(errno) : "");
	return true;
}

static void drop_pages(struct world *w, struct range r)
{
	int i;

	for (i = r.i; i < r.j; i++)
		if (w->cell[i].kind == K_ANON || w->cell[i].kind == K_PRIVATE)
			cell_empty(w, i);
}

static bool op_dontneed(struct world *w)
{
	struct range r;

	if (!advise(w, &r, MADV_DONTNEED, ANY_KIND | BARRED(C_LOCKED | C_HUGETLB)))
		return false;
	drop_pages(w, r);
	return true;
}

static bool op_dontneed_huge(struct world *w)
{
	struct range r;
	int err;

	if (!pick_cells(w, &r, 0, is_kind, ANY_KIND | BARRED(C_LOCKED)) ||
	    !(w->cell[r.i].flags & C_HUGETLB)) {
		int i = below(w, w->cells), n;

		for (n = 0; n < w->cells && !(w->cell[i].flags & C_HUGETLB); n++)
			i = (i + 1) % w->cells;
		if (n == w->cells)
			return false;
		r.i = i;
	}
	for (r.j = r.i; r.j < arena_end(w, r.i) && w->cell[r.j].flags & C_HUGETLB; r.j++)
		;
	if (!whole_huge(w, &r, false))
		return false;
	w->last = r;
	err = madvise(range_ptr(w, r), range_len(w, r), MADV_DONTNEED);
	note(w, "madvise(%s, DONTNEED of hugetlb) = %d", range_text(w, r), err);
	if (err)
		mismatch(w, r.i, "MADV_DONTNEED of hugetlb pages: %s", strerror(errno));
	drop_pages(w, r);
	return true;
}

#ifndef MADV_DONTNEED_LOCKED
#define MADV_DONTNEED_LOCKED 24
#endif

static bool op_dontneed_locked(struct world *w)
{
	struct range r;

	if (!advise(w, &r, MADV_DONTNEED_LOCKED, ANY_KIND | BARRED(C_HUGETLB)))
		return false;
	drop_pages(w, r);
	return true;
}

static bool op_free(struct world *w)
{
	struct range r;
	int i;

	/*
	 * Not while a child shares the pages: MADV_FREE on one side drops a page that was only
	 * read since it came back from zram on the other, too (seen in 6.18.44).
	 */
	if (w->child || w->kid)
		return false;
	if (!advise(w, &r, MADV_FREE, BIT(K_ANON) | BARRED(C_LOCKED | C_HUGETLB | C_UFFD)))
		return false;
	for (i = r.i; i < r.j; i++)
		if (w->cell[i].have == H_VAL)
			w->cell[i].have = w->cell[i].val ? H_SET : H_ZERO;
	return true;
}

/* Advice that changes no contents */
static bool quiet(struct world *w, int advice)
{
	struct range r;

	return advise(w, &r, advice, ANY_KIND | BARRED(C_LOCKED | C_HUGETLB));
}

static bool op_cold(struct world *w)
{
	return quiet(w, MADV_COLD);
}

static bool op_pageout(struct world *w)
{
	return quiet(w, MADV_PAGEOUT);
}

static bool op_willneed(struct world *w)
{
	return quiet(w, MADV_WILLNEED);
}

static bool op_hints(struct world *w)
{
	static const int hints[] = { MADV_NORMAL, MADV_RANDOM, MADV_SEQUENTIAL, MADV_DONTDUMP, MADV_DODUMP };

	return quiet(w, hints[below(w, 5)]);
}

/* On single mappings only: with a size, memory for so many huge pages may be asked. */
static bool op_hugepage(struct world *w)
{
	struct range r;
	int i, err;

	if (!pick_cells(w, &r, 600, is_kind, ANY_KIND | BARRED(C_HUGETLB | C_UFFD)))
		return false;
	w->last = r;
	err = madvise(range_ptr(w, r), range_len(w, r), MADV_HUGEPAGE);
	note(w, "madvise(%s, HUGEPAGE) = %d", range_text(w, r), err);
	if (err && errno != EINVAL)
		mismatch(w, r.i, "MADV_HUGEPAGE of %s: %s", range_text(w, r), strerror(errno));
	for (i = r.i; i < r.j; i++) {
		w->cell[i].flags |= C_HUGE;
		if (w->cell[i].kind == K_ANON && w->cell[i].have == H_NO)
			w->cell[i].have = H_ZERO;
	}
	return true;
}

static bool op_nohugepage(struct world *w)
{
	struct range r;
	int i;

	if (!advise(w, &r, MADV_NOHUGEPAGE, ANY_KIND | BARRED(C_HUGETLB)))
		return false;
	for (i = r.i; i < r.j; i++)
		w->cell[i].flags &= ~C_HUGE;
	return true;
}

/* The place of a huge page, wholly mapped with small ones */
static bool pick_block(struct world *w, struct range *r)
{
	int start = below(w, w->cells), n, i, k;

	for (n = 0; n < w->cells; n++) {
		i = (start + n) % w->cells;
		if (w->at[i].addr % HUGE || !is_kind(w, i, ANY_KIND | BARRED(C_HUGETLB)))
			continue;
		for (k = i; k < arena_end(w, i) && is_kind(w, k, ANY_KIND | BARRED(C_HUGETLB)); k++)
			if (cell_end(w, k) - w->at[i].addr >= HUGE)
				break;
		if (k < arena_end(w, i) && cell_end(w, k) - w->at[i].addr == HUGE) {
			r->i = i;
			r->j = k + 1;
			return true;
		}
	}
	return false;
}

static bool op_collapse(struct world *w)
{
	struct range r;
	int k, err;

	if (!pick_block(w, &r))
		return false;
	w->last = r;
	err = madvise(range_ptr(w, r), range_len(w, r), MADV_COLLAPSE);
	note(w, "madvise(%s, COLLAPSE) = %d", range_text(w, r), err);
	for (k = r.i; k < r.j; k++) {
		if (w->cell[k].kind == K_ANON && w->cell[k].have == H_NO)
			w->cell[k].have = H_ZERO;
		w->obj[w->cell[k].obj].collapsed = true;
	}
	return !err;
}

/*
 * Tables of the range move into nodes and out of them, which changes nothing that a
 * program can see. Not over gaps: each GiB would get 2 MiB of tables.
 */
static bool retable(struct world *w, const char *name, int (*advice)(void *p, size_t len))
{
	struct range r;
	int err;

	if (!pick_cells(w, &r, 600, is_kind, ANY_KIND))
		return false;
	w->last = r;
	err = advice(range_ptr(w, r), range_len(w, r));
	note(w, "madvise(%s, %s) = %d", range_text(w, r), name, err);
	switch (err) {
	case 0:
		return true;
	case -EAGAIN:		/* no memory, or somebody else is at it */
	case -EBUSY:		/* huge pages */
	case -ENOSPC:		/* the cap */
	case -EOPNOTSUPP:	/* a boot without L2L1 nodes */
	case -EINVAL:		/* a kernel without nodes */
		return false;
	default:
		mismatch(w, r.i, "%s of %s: %s", name, range_text(w, r), strerror(-err));
	}
}

static bool op_flatten(struct world *w)
{
	return retable(w, "FLATTEN", flatten);
}

static bool op_unflatten(struct world *w)
{
	return retable(w, "UNFLATTEN", unflatten);
}

/* KSM looks at every address of a mapping, whether there is a page or not: no terabytes. */
static bool merge(struct world *w, struct range *r, int advice)
{
	int err;

	if (!conf.ksm || !pick_cells(w, r, 600, is_kind, BIT(K_ANON) | BARRED(C_HUGETLB | C_UFFD)))
		return false;
	w->last = *r;
	err = madvise(range_ptr(w, *r), range_len(w, *r), advice);
	note(w, "madvise(%s, %d) = %d", range_text(w, *r), advice, err);
	if (err)
		mismatch(w, r->i, "madvise %d of %s: %s", advice, range_text(w, *r), strerror(errno));
	return true;
}

static bool op_mergeable(struct world *w)
{
	struct range r;
	int i;

	if (!merge(w, &r, MADV_MERGEABLE))
		return false;
	for (i = r.i; i < r.j; i++)
		w->cell[i].flags |= C_KSM;
	return true;
}

static bool op_unmergeable(struct world *w)
{
	struct range r;

	return merge(w, &r, MADV_UNMERGEABLE);
}

static bool set_flag(struct world *w, int advice, unsigned int arg, unsigned int flag, bool on)
{
	struct range r;
	int i;

	if (!advise(w, &r, advice, arg))
		return false;
	for (i = r.i; i < r.j; i++)
		if (w->cell[i].kind)
			w->cell[i].flags = (w->cell[i].flags & ~flag) | (on ? flag : 0);
	return true;
}

static bool op_dontfork(struct world *w)
{
	bool on = one_in(w, 2);

	return set_flag(w, on ? MADV_DONTFORK : MADV_DOFORK, ANY_KIND | BARRED(C_HUGETLB), C_DONTFORK, on);
}

static bool op_wipeonfork(struct world *w)
{
	bool on = one_in(w, 2);

	return set_flag(w, on ? MADV_WIPEONFORK : MADV_KEEPONFORK, BIT(K_ANON) | BARRED(C_HUGETLB),
			C_WIPE, on);
}

static bool op_populate(struct world *w)
{
	bool write = one_in(w, 2);
	struct range r;
	int i, err;

	if (!pick_cells(w, &r, 64, write ? writable_here : readable_remote, ANY_KIND | BARRED(C_UFFD | C_HUGETLB)))
		return false;
	for (i = r.i; i < r.j && !w->cell[i].pkey; i++)
		;
	r.j = i;
	if (r.i == r.j)
		return false;
	w->last = r;
	err = madvise(range_ptr(w, r), range_len(w, r), write ? MADV_POPULATE_WRITE : MADV_POPULATE_READ);
	note(w, "madvise(%s, POPULATE_%s) = %d", range_text(w, r), write ? "WRITE" : "READ", err);
	if (err)
		mismatch(w, r.i, "populating %s: %s", range_text(w, r), strerror(errno));
	for (i = r.i; i < r.j; i++) {
		struct cell *c = &w->cell[i];

		if (c->kind == K_ANON && c->have <= H_ZERO) {
			c->have = H_VAL;
			c->val = 0;
		} else if (c->kind == K_PRIVATE && write && c->have == H_NO) {
			c->have = H_VAL;
			c->val = base_val(w, i);
		}
	}
	return true;
}

/* --- locking, syncing, looking ------------------------------------------------------ */

static bool op_mlock(struct world *w)
{
	bool later = one_in(w, 2);
	struct range r;
	int i, err;

	/* Locking a private page of a file takes a copy of it, at a time that is not known. */
	if (!pick_cells(w, &r, 64, is_kind, BIT(K_ANON) | BIT(K_SHARED) | BARRED(C_HUGETLB)))
		return false;
	w->last = r;
	err = syscall(SYS_mlock2, range_ptr(w, r), range_len(w, r), later ? 1 : 0);
	note(w, "mlock2(%s, %d) = %d", range_text(w, r), later, err);
	if (err && errno != ENOMEM && errno != EAGAIN && errno != EFAULT)
		mismatch(w, r.i, "mlock of %s: %s", range_text(w, r), strerror(errno));
	for (i = r.i; i < r.j; i++) {
		w->cell[i].flags |= C_LOCKED;
		if (w->cell[i].kind == K_ANON && w->cell[i].have == H_NO)
			w->cell[i].have = H_ZERO;
	}
	return true;
}

static bool op_munlock(struct world *w)
{
	struct range r;
	int i, err;

	if (!pick_cells(w, &r, 0, is_kind, ANY_KIND))
		return false;
	w->last = r;
	err = munlock(range_ptr(w, r), range_len(w, r));
	note(w, "munlock(%s) = %d", range_text(w, r), err);
	if (err)
		mismatch(w, r.i, "munlock of %s: %s", range_text(w, r), strerror(errno));
	for (i = r.i; i < r.j; i++)
		w->cell[i].flags &= ~C_LOCKED;
	return true;
}

static bool op_msync(struct world *w)
{
	struct range r;
	int err;

	/* A sparse file of terabytes is slow to sync. */
	if (!pick_cells(w, &r, 512, is_kind, ANY_KIND))
		return false;
	err = msync(range_ptr(w, r), range_len(w, r), one_in(w, 2) ? MS_ASYNC : MS_SYNC);
	note(w, "msync(%s) = %d", range_text(w, r), err);
	if (err)
		mismatch(w, r.i, "msync of %s: %s", range_text(w, r), strerror(errno));
	return true;
}

static bool op_mincore(struct world *w)
{
	unsigned char vec[512];
	struct range r;
	int i;

	if (!pick_cells(w, &r, 512, is_kind, ANY_KIND))
		return false;
	note(w, "mincore(%s)", range_text(w, r));
	if (mincore(range_ptr(w, r), range_len(w, r), vec))
		mismatch(w, r.i, "mincore of %s: %s", range_text(w, r), strerror(errno));
	for (i = r.i; i < r.j; i++)
		if (w->cell[i].kind == K_ANON && w->cell[i].have == H_NO && vec[i - r.i] & 1)
			mismatch(w, i, "mincore says that there is a page where none can be");
	return true;
}

static bool op_clear_refs(struct world *w)
{
	int i;

	if (!conf.soft_dirty)
		return false;
	note(w, "clear_refs");
	if (write_text("/proc/self/clear_refs", "4"))
		mismatch(w, -1, "writing to clear_refs failed");
	for (i = 0; i < w->cells; i++)
		w->cell[i].flags &= ~C_SOFT;
	return true;
}

/* --- contents ---------------------------------------------------------------------- */

static bool any_cell(struct world *w, int i, unsigned int arg)
{
	return w->cell[i].kind;
}

static bool op_write(struct world *w)
{
	struct range r;
	int i, step = 1 + below(w, 3);

	if (!pick_cells(w, &r, 64, one_in(w, 8) ? any_cell : writable_here, ANY_KIND))
		return false;
	w->last = r;
	note(w, "write to %s, every %d", range_text(w, r), step);
	for (i = r.i; i < r.j; i += step)
		check_write(w, i, new_tag(w, i));
	return true;
}

/* For KSM */
static bool op_write_same(struct world *w)
{
	struct range r;
	int i;

	if (!pick_cells(w, &r, 32, writable_here, BIT(K_ANON)))
		return false;
	w->last = r;
	note(w, "write the same to %s", range_text(w, r));
	for (i = r.i; i < r.j; i++)
		check_write(w, i, 0x5a5a000000000001 + below(w, 3));
	return true;
}

static bool op_read(struct world *w)
{
	struct range r = pick(w, 64);
	int i;

	w->last = r;
	note(w, "read %s", range_text(w, r));
	for (i = r.i; i < r.j; i++)
		check_read(w, i);
	return true;
}

/* --- objects ----------------------------------------------------------------------- */

/* Where the object is mapped somewhere, so that it matters */
static int some_object(struct world *w, uint64_t *page, bool with_huge)
{
	int i = below(w, w->cells), n;

	for (n = 0; n < w->cells; n++, i = (i + 1) % w->cells) {
		struct cell *c = &w->cell[i];

		if (hot(w, i) && (c->kind == K_SHARED || c->kind == K_PRIVATE) && w->obj[c->obj].fd >= 0 &&
		    (with_huge || w->obj[c->obj].type != O_HUGETLB)) {
			*page = c->off;
			return c->obj;
		}
	}
	return 0;
}

static bool op_pwrite(struct world *w)
{
	uint64_t page, tag, v[2];
	struct object *o;
	int k = some_object(w, &page, false);

	o = &w->obj[k];
	if (!k || page >= o->pages)
		return false;
	tag = new_tag(w, 0);
	v[0] = tag;
	v[1] = ~tag;
	note(w, "pwrite(object %d, page %#llx)", k, (unsigned long long)page);
	if (pwrite(o->fd, &v[0], 8, page * PAGE) != 8 || pwrite(o->fd, &v[1], 8, page * PAGE + PAGE - 8) != 8)
		mismatch(w, -1, "pwrite to object %d: %s", k, strerror(errno));
	obj_set(o, page, tag);
	return true;
}

static bool op_pread(struct world *w)
{
	uint64_t page, v[2] = { 0 }, want;
	struct object *o;
	int k = some_object(w, &page, true);

	o = &w->obj[k];
	if (!k || page >= o->pages || o->unknown)
		return false;
	if (pread(o->fd, &v[0], 8, page * PAGE) != 8 || pread(o->fd, &v[1], 8, page * PAGE + PAGE - 8) != 8)
		mismatch(w, -1, "pread of object %d: %s", k, strerror(errno));
	want = obj_get(o, page);
	if (v[0] != want || v[1] != (want ? ~want : 0))
		mismatch(w, -1, "pread of object %d, page %#llx: expected %#llx, found %#llx and %#llx", k,
			 (unsigned long long)page, (unsigned long long)want, (unsigned long long)v[0],
			 (unsigned long long)v[1]);
	return true;
}

static bool op_truncate(struct world *w)
{
	uint64_t page, pages = (1UL << 30) + (1UL << 22);
	struct object *o;
	int i, k = some_object(w, &page, false);

	if (!k)
		return false;
	o = &w->obj[k];
	if (o->pages == pages && one_in(w, 2))
		pages = page;
	note(w, "ftruncate(object %d, %#llx pages)", k, (unsigned long long)pages);
	if (ftruncate(o->fd, pages * PAGE))
		mismatch(w, -1, "ftruncate of object %d: %s", k, strerror(errno));
	if (pages < o->pages) {
		obj_clear(o, pages, UINT64_MAX);
		/* Copies of what is behind the end go, too. */
		for (i = 0; i < w->cells; i++)
			if (w->cell[i].kind == K_PRIVATE && w->cell[i].obj == k && w->cell[i].off >= pages)
				cell_empty(w, i);
	}
	o->pages = pages;
	return true;
}

static bool op_punch(struct world *w)
{
	uint64_t page, n = one_in(w, 3) ? 1 + below(w, 2000) : 1 + below(w, 16);
	struct object *o;
	int k = some_object(w, &page, true);

	if (!k)
		return false;
	o = &w->obj[k];
	if (o->type == O_HUGETLB) {
		page &= ~511UL;
		n = (n + 511) & ~511UL;
	}
	note(w, "punch(object %d, page %#llx, %llu pages)", k, (unsigned long long)page, (unsigned long long)n);
	if (fallocate(o->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, page * PAGE, n * PAGE)) {
		if (errno == EOPNOTSUPP)
			return false;
		mismatch(w, -1, "fallocate of object %d: %s", k, strerror(errno));
	}
	obj_clear(o, page, page + n);
	return true;
}

static bool op_remove(struct world *w)
{
	struct range r;
	int i, k, err;

	if (!pick_cells(w, &r, 0, writable_here, BIT(K_SHARED) | BARRED(C_LOCKED | C_HUGETLB)))
		return false;
	for (k = r.i + 1; k < r.j && same_vma(w, k - 1, k); k++)
		;
	r.j = k;
	w->last = r;
	err = madvise(range_ptr(w, r), range_len(w, r), MADV_REMOVE);
	note(w, "madvise(%s, REMOVE) = %d", range_text(w, r), err);
	if (err) {
		if (errno == EOPNOTSUPP)
			return false;
		mismatch(w, r.i, "MADV_REMOVE of %s: %s", range_text(w, r), strerror(errno));
	}
	i = r.j - 1;
	obj_clear(&w->obj[w->cell[r.i].obj], w->cell[r.i].off, w->cell[i].off + w->at[i].pages);
	return true;
}

const struct op advice_ops[] = {
	{ "write", 1300, op_write },
	{ "write_same", 100, op_write_same },
	{ "read", 300, op_read },
	{ "madv_dontneed", 450, op_dontneed },
	{ "madv_dontneed_hugetlb", 30, op_dontneed_huge },
	{ "madv_dontneed_locked", 60, op_dontneed_locked },
	{ "madv_free", 200, op_free },
	{ "madv_cold", 80, op_cold },
	{ "madv_pageout", 300, op_pageout },
	{ "madv_willneed", 50, op_willneed },
	{ "madv_hints", 40, op_hints },
	{ "madv_hugepage", 120, op_hugepage },
	{ "madv_nohugepage", 70, op_nohugepage },
	{ "madv_collapse", 60, op_collapse },
	{ "madv_flatten", 60, op_flatten },
	{ "madv_unflatten", 40, op_unflatten },
	{ "madv_mergeable", 80, op_mergeable },
	{ "madv_unmergeable", 30, op_unmergeable },
	{ "madv_dontfork", 60, op_dontfork },
	{ "madv_wipeonfork", 60, op_wipeonfork },
	{ "madv_populate", 150, op_populate },
	{ "madv_remove", 60, op_remove, OP_PARENT },
	{ "mlock", 100, op_mlock },
	{ "munlock", 80, op_munlock },
	{ "msync", 40, op_msync },
	{ "mincore", 60, op_mincore },
	{ "clear_refs", 20, op_clear_refs },
	{ "pwrite", 120, op_pwrite, OP_PARENT },
	{ "pread", 60, op_pread },
	{ "ftruncate", 60, op_truncate, OP_PARENT },
	{ "fallocate_punch", 60, op_punch, OP_PARENT },
	{ NULL },
};
