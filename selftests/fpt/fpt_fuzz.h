/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The fuzzer of address spaces: what its parts share.
 *
 * A world is the memory that one thread plays with, and the model of it. It is
 * cut into cells: a hot cell is one page, whose contents are known; a gap cell is
 * what lies between two windows of hot pages, mapped and unmapped like the rest
 * but never touched. Calls take ranges of cells, so an array describes terabytes.
 */
#ifndef FPT_FUZZ_H
#define FPT_FUZZ_H

#include "fpt_util.h"

#define CELLS_MAX	4096
#define OBJECTS		12
#define OBJ_PAGES	8192	/* pages of an object that may hold something; a power of two */
#define GUARD_PAGES	256UL	/* the kernel keeps these below a growing mapping */
#define GROW_LIMIT	(64 * MIB)
#define HUGE_CAP	10	/* hugetlb pages of a world, so that the pool never runs dry */
#define HUGE_POOL	64
#define EXIT_MISMATCH	3
#define EXIT_INTERNAL	5

enum kind { K_NONE, K_ANON, K_SHARED, K_PRIVATE, KINDS };
#define BIT(n) (1u << (n))
#define ANY_KIND (BIT(K_ANON) | BIT(K_SHARED) | BIT(K_PRIVATE))

/* What a private page is, below it lies the base: zero, or the page of the file. */
enum have {
	H_NO,		/* surely no page: the base */
	H_ZERO,		/* anonymous: perhaps a page, in any case zero */
	H_VAL,		/* a page with this value */
	H_SET,		/* this value or the base, as the kernel likes */
};

enum {
	C_LOCKED = 1, C_DONTFORK = 2, C_WIPE = 4, C_GROWS = 8, C_HUGETLB = 16, C_HUGE = 32,
	C_MISSING = 64, C_WP = 128, C_WPSET = 256, C_KSM = 512, C_SOFT = 1024,
};
#define C_UFFD	(C_MISSING | C_WP)
/* What makes two cells parts of different mappings */
#define C_VMA	(C_LOCKED | C_DONTFORK | C_WIPE | C_GROWS | C_HUGETLB | C_HUGE | C_UFFD)

struct cell {
	uint64_t val;
	uint64_t off;		/* page of the object */
	uint16_t flags;
	uint8_t obj, kind, prot, pkey, have;
};

struct place {
	unsigned long addr, pages;	/* one page: hot */
};

enum obj_type { O_FREE, O_MEMFD, O_FILE, O_HUGETLB, O_SHMEM };

/* In shared memory: a child that the parent waits for may write, too. */
struct object {
	enum obj_type type;
	int fd;
	bool unknown;		/* the other side of a fork writes to it */
	bool collapsed;		/* it may have huge pages */
	uint64_t pages, used;
	struct { uint64_t page, val; } tab[OBJ_PAGES];
};

struct range {
	int i, j;		/* cells, j is behind the last */
};

enum child { PARENT, WAITED, BESIDE };

struct world {
	uint64_t seed, rng;
	unsigned int index, done;	/* this operation, and how many before it */
	int id;
	enum child child;
	int cells, split, per_slot;	/* from split on it is the dense arena */
	struct place at[CELLS_MAX];
	struct cell cell[CELLS_MAX];
	struct object *obj;
	struct range last;
	unsigned int gen;
	int uffd, memfd_src, mem, pagemap, inject_fd;
	bool wp, injecting, ring_ok;
	int pkey[2];
	unsigned int rights[3];
	pid_t kid;
	unsigned int kid_until;
};

#define OPS_MAX 96
#define TEXT 512

/* Between all processes of a run */
struct shared {
	uint64_t count[OPS_MAX];
	uint64_t steps, checks, full, faults, children, tables;
	unsigned int at[16];		/* the operation each world is in */
	int reported;
	uint64_t bad_seed;
	unsigned int bad_index;
	char bad[TEXT], bad_op[TEXT];
};

struct setup {
	bool root, huge, ksm, demote, inject, soft_dirty, pkeys, compact, verbose;
	const char *dir;
	int threads;
};

struct op {
	const char *name;
	int weight;		/* of 10 000 */
	bool (*run)(struct world *w);	/* false: nothing here to do it to */
	int flags;
};

#define OP_PARENT 1	/* not in a child: it changes what both sides see */

extern struct shared *shared;
extern struct setup conf;
extern const struct op map_ops[], advice_ops[], sys_ops[], task_ops[];

/* --- fpt_fuzz_model.c */
uint64_t mix(uint64_t a, uint64_t b);
uint64_t rnd(struct world *w);
unsigned int below(struct world *w, unsigned int n);
bool one_in(struct world *w, unsigned int n);
__attribute__((noreturn, format(printf, 3, 4)))
void mismatch(struct world *w, int cell, const char *fmt, ...);
__attribute__((format(printf, 2, 3)))
void note(struct world *w, const char *fmt, ...);
void internal(const char *what);

int raw_load(const void *page, uint64_t v[2]);
int raw_store(void *page, uint64_t tag, uint64_t last);
void catch_faults(void);

uint64_t obj_get(struct object *o, uint64_t page);
void obj_set(struct object *o, uint64_t page, uint64_t val);
void obj_clear(struct object *o, uint64_t from, uint64_t to);

void world_layout(struct world *w, int id);
static inline void *cell_ptr(struct world *w, int i)
{
	return (void *)w->at[i].addr;
}
static inline unsigned long cell_end(struct world *w, int i)
{
	return w->at[i].addr + w->at[i].pages * PAGE;
}
static inline bool hot(struct world *w, int i)
{
	return w->at[i].pages == 1;
}
static inline int arena_begin(struct world *w, int i)
{
	return i < w->split ? 0 : w->split;
}
static inline int arena_end(struct world *w, int i)
{
	return i < w->split ? w->split : w->cells;
}
static inline void *range_ptr(struct world *w, struct range r)
{
	return cell_ptr(w, r.i);
}
static inline size_t range_len(struct world *w, struct range r)
{
	return cell_end(w, r.j - 1) - w->at[r.i].addr;
}

enum access { A_OK, A_SEGV, A_BUS, A_OK_OR_BUS, A_ANY };
enum access expect(struct world *w, int i, bool write);
uint64_t base_val(struct world *w, int i);
bool base_known(struct world *w, int i);
void cell_unmap(struct world *w, int i);
void cell_empty(struct world *w, int i);
void model_write(struct world *w, int i, uint64_t tag);
void model_read(struct world *w, int i, uint64_t v0, uint64_t v1, const char *how);
uint64_t new_tag(struct world *w, int i);
void check_read(struct world *w, int i);
bool check_write(struct world *w, int i, uint64_t tag);
void check_around(struct world *w);
void check_all(struct world *w);
void child_model(struct world *w, enum child how);

/* --- fpt_fuzz_range.c */
typedef bool (*cell_test)(struct world *w, int i, unsigned int arg);
struct range pick(struct world *w, int max_hot);
bool pick_cells(struct world *w, struct range *r, int max_hot, cell_test test, unsigned int arg);
bool whole_huge(struct world *w, struct range *r, bool outward);
bool cuts_huge(struct world *w, struct range r);
bool same_sizes(struct world *w, struct range r, int to);
bool same_vma(struct world *w, int a, int b);
int huge_pages(struct world *w);
bool is_kind(struct world *w, int i, unsigned int kinds);
bool readable_remote(struct world *w, int i, unsigned int kinds);
bool writable_remote(struct world *w, int i, unsigned int kinds);
bool writable_here(struct world *w, int i, unsigned int kinds);
const char *range_text(struct world *w, struct range r);

/* --- fpt_fuzz_task.c, fpt_fuzz_sys.c */
void reap_kid(struct world *w, bool now);
void sys_open(struct world *w);

/* --- fpt_fuzz.c */
void run_child_steps(struct world *w, int steps);

#endif
