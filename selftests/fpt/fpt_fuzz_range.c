// SPDX-License-Identifier: GPL-2.0
/* Which cells a call takes. The same random numbers choose the same cells, whatever was done before. */
#include "fpt_fuzz.h"

static int border_cell(struct world *w, int i)
{
	int k;

	for (k = i; k < arena_end(w, i); k++)
		if (w->at[k].addr % HUGE == 0)
			return k;
	return i;
}

/* max_hot: so many pages at most, and no gap; 0: anything. */
struct range pick(struct world *w, int max_hot)
{
	struct range r;
	int end, len;

	r.i = one_in(w, 3) ? (int)below(w, w->split) :
	      w->split + (int)below(w, w->cells - w->split);
	end = arena_end(w, r.i);
	if (one_in(w, 4))
		r.i = border_cell(w, r.i);
	switch (below(w, 16)) {
	case 0 ... 4:
		len = 1;
		break;
	case 5 ... 8:
		len = 1 + below(w, 8);
		break;
	case 9 ... 11:
		len = 1 + below(w, 64);
		break;
	case 12 ... 13:
		len = 1 + below(w, 512);
		break;
	case 14:
		len = r.i < end - 1 ? border_cell(w, r.i + 1) - r.i : 1;
		break;
	default:
		len = r.i < w->split ? 1 + (int)below(w, w->split) : 1 + (int)below(w, 1500);
	}
	if (len < 1)
		len = 1;
	if (max_hot && len > max_hot)
		len = max_hot;
	r.j = r.i + len < end ? r.i + len : end;
	return r;
}

/*
 * The first run of cells at or behind a random place that pass the test; as long
 * as picked at most. With max_hot gaps do not pass.
 */
bool pick_cells(struct world *w, struct range *r, int max_hot, cell_test test, unsigned int arg)
{
	int len, i, n = 0;

	*r = pick(w, max_hot);
	len = r->j - r->i;
	for (i = r->i; n < w->cells; n++, i = i + 1 < w->cells ? i + 1 : 0)
		if ((!max_hot || hot(w, i)) && test(w, i, arg))
			break;
	if (n == w->cells)
		return false;
	r->i = r->j = i;
	while (r->j < arena_end(w, i) && r->j - i < len && (!max_hot || hot(w, r->j)) &&
	       test(w, r->j, arg))
		r->j++;
	return true;
}

static bool huge_border(struct world *w, int i)
{
	return i == arena_end(w, i - 1) || w->at[i].addr % HUGE == 0;
}

/* Does the range begin or end inside of a hugetlb page? */
bool cuts_huge(struct world *w, struct range r)
{
	return (w->cell[r.i].flags & C_HUGETLB && w->at[r.i].addr % HUGE) ||
	       (w->cell[r.j - 1].flags & C_HUGETLB && cell_end(w, r.j - 1) % HUGE);
}

/* Moves ends to borders of hugetlb pages where they lie inside of one; false: nothing is left. */
bool whole_huge(struct world *w, struct range *r, bool outward)
{
	int step = outward ? -1 : 1;

	if (w->cell[r->i].flags & C_HUGETLB)
		while (r->i < r->j && r->i > arena_begin(w, r->i) && w->at[r->i].addr % HUGE)
			r->i += step;
	if (r->j > r->i && w->cell[r->j - 1].flags & C_HUGETLB)
		while (r->j > r->i && !huge_border(w, r->j))
			r->j -= step;
	return r->j > r->i && !cuts_huge(w, *r);
}

bool same_sizes(struct world *w, struct range r, int to)
{
	int k, n = r.j - r.i;

	if (to < 0 || to >= w->cells || to + n > arena_end(w, to))
		return false;
	for (k = 0; k < n; k++)
		if (w->at[r.i + k].pages != w->at[to + k].pages)
			return false;
	return true;
}

/* Neighbours that can be of one mapping */
bool same_vma(struct world *w, int a, int b)
{
	struct cell *x = &w->cell[a], *y = &w->cell[b];

	return x->kind == y->kind && x->prot == y->prot && x->pkey == y->pkey && x->obj == y->obj &&
	       !((x->flags ^ y->flags) & C_VMA) &&
	       (x->kind == K_ANON || x->off + w->at[a].pages == y->off);
}

int huge_pages(struct world *w)
{
	unsigned long n = 0;
	int i;

	for (i = 0; i < w->cells; i++)
		if (w->cell[i].flags & C_HUGETLB)
			n += w->at[i].pages;
	return n * PAGE / HUGE;
}

/* --- tests of cells -------------------------------------------------------------- */

/* arg: kinds in the low bits, flags that must not be set from bit 8 on */
bool is_kind(struct world *w, int i, unsigned int arg)
{
	struct cell *c = &w->cell[i];

	return c->kind && arg & BIT(c->kind) && !(c->flags & (arg >> 8));
}

/* What another process, or the kernel on behalf of one, may read or write without a fault */
bool readable_remote(struct world *w, int i, unsigned int kinds)
{
	return is_kind(w, i, kinds) && w->cell[i].prot & PROT_READ && base_known(w, i) &&
	       !(w->cell[i].flags & C_MISSING) &&
	       (w->cell[i].kind == K_ANON || w->cell[i].off < w->obj[w->cell[i].obj].pages);
}

bool writable_remote(struct world *w, int i, unsigned int kinds)
{
	return readable_remote(w, i, kinds) && w->cell[i].prot & PROT_WRITE &&
	       !(w->cell[i].flags & C_WPSET);
}

/* The same for an access of this thread */
bool writable_here(struct world *w, int i, unsigned int kinds)
{
	return writable_remote(w, i, kinds) && !w->cell[i].pkey;
}

const char *range_text(struct world *w, struct range r)
{
	static __thread char text[2][80];
	static __thread int n;

	n ^= 1;
	snprintf(text[n], sizeof(text[n]), "%#lx, %lu pages", w->at[r.i].addr,
		 range_len(w, r) / PAGE);
	return text[n];
}
