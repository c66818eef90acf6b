// SPDX-License-Identifier: GPL-2.0
/* The fuzzer's calls that reach pages by other ways: userfaultfd, remote access, pipes, io_uring, debugfs. */
#include "fpt_fuzz.h"
#include <linux/io_uring.h>
#include <linux/userfaultfd.h>

#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1
#endif
#ifndef UFFDIO_MOVE
struct uffdio_move {
	__u64 dst, src, len, mode;
	__s64 move;
};
#define UFFDIO_MOVE _IOWR(UFFDIO, 0x05, struct uffdio_move)
#endif

static __thread char page_buf[8 * PAGE] __attribute__((aligned(PAGE)));

/* --- userfaultfd: what is missing or protected raises SIGBUS -------------------------- */

static void open_uffd(struct world *w)
{
	struct uffdio_api api = { .api = UFFD_API };
	int flags = O_CLOEXEC | O_NONBLOCK;

	w->uffd = syscall(SYS_userfaultfd, flags);
	if (w->uffd < 0)
		w->uffd = syscall(SYS_userfaultfd, flags | UFFD_USER_MODE_ONLY);
	if (w->uffd < 0)
		return;
	api.features = UFFD_FEATURE_SIGBUS | UFFD_FEATURE_PAGEFAULT_FLAG_WP;
	w->wp = !ioctl(w->uffd, UFFDIO_API, &api);
	if (!w->wp) {
		close(w->uffd);
		w->uffd = syscall(SYS_userfaultfd, flags);
		api.api = UFFD_API;
		api.features = UFFD_FEATURE_SIGBUS;
		if (w->uffd >= 0 && ioctl(w->uffd, UFFDIO_API, &api)) {
			close(w->uffd);
			w->uffd = -1;
		}
	}
}

static bool op_uffd_register(struct world *w)
{
	struct uffdio_register reg = { .mode = UFFDIO_REGISTER_MODE_MISSING };
	struct range r;
	int i, flags = C_MISSING;

	if (w->uffd < 0 ||
	    !pick_cells(w, &r, 0, is_kind, BIT(K_ANON) | (C_HUGETLB | C_UFFD | C_HUGE | C_KSM) << 8))
		return false;
	if (w->wp && one_in(w, 2)) {
		reg.mode = UFFDIO_REGISTER_MODE_WP;
		flags = C_WP;
		if (one_in(w, 3)) {
			reg.mode |= UFFDIO_REGISTER_MODE_MISSING;
			flags |= C_MISSING;
		}
	}
	reg.range.start = w->at[r.i].addr;
	reg.range.len = range_len(w, r);
	w->last = r;
	if (ioctl(w->uffd, UFFDIO_REGISTER, &reg))
		mismatch(w, r.i, "UFFDIO_REGISTER of %s: %s", range_text(w, r), strerror(errno));
	note(w, "uffd register(%s, mode %llu)", range_text(w, r), (unsigned long long)reg.mode);
	for (i = r.i; i < r.j; i++)
		w->cell[i].flags |= flags;
	return true;
}

static bool has_flag(struct world *w, int i, unsigned int flags)
{
	return w->cell[i].flags & flags;
}

static bool op_uffd_unregister(struct world *w)
{
	struct uffdio_range range;
	struct range r;
	int i;

	if (w->uffd < 0 || !pick_cells(w, &r, 0, has_flag, C_UFFD))
		return false;
	range.start = w->at[r.i].addr;
	range.len = range_len(w, r);
	w->last = r;
	note(w, "uffd unregister(%s)", range_text(w, r));
	if (ioctl(w->uffd, UFFDIO_UNREGISTER, &range))
		mismatch(w, r.i, "UFFDIO_UNREGISTER of %s: %s", range_text(w, r), strerror(errno));
	for (i = r.i; i < r.j; i++)
		w->cell[i].flags &= ~(C_UFFD | C_WPSET);
	return true;
}

/* A page is put where none is; where there is one it must be refused. */
static void fill_page(struct world *w, int i, bool zero, bool protect)
{
	struct cell *c = &w->cell[i];
	uint64_t tag = zero ? 0 : new_tag(w, i);
	int err;

	protect &= !zero;
	if (zero) {
		struct uffdio_zeropage z = { .range = { w->at[i].addr, PAGE } };

		err = ioctl(w->uffd, UFFDIO_ZEROPAGE, &z) ? errno : 0;
	} else {
		struct uffdio_copy y = { .dst = w->at[i].addr, .src = (unsigned long)page_buf, .len = PAGE };

		memset(page_buf, 0, PAGE);
		((uint64_t *)page_buf)[0] = tag;
		((uint64_t *)page_buf)[511] = ~tag;
		if (protect)
			y.mode = UFFDIO_COPY_MODE_WP;
		err = ioctl(w->uffd, UFFDIO_COPY, &y) ? errno : 0;
	}
	note(w, "uffd %s(%#lx%s) = %d", zero ? "zeropage" : "copy", w->at[i].addr, protect ? ", protected" : "", err);
	if (err == EAGAIN)
		return;
	if (err && err != EEXIST)
		mismatch(w, i, "userfaultfd's fill: %s", strerror(err));
	if ((!err && c->have == H_VAL) || (err && c->have == H_NO))
		mismatch(w, i, "userfaultfd's fill: expected %s, got %s",
			 err ? "success" : strerror(EEXIST), err ? strerror(err) : "success");
	if (err)
		return;
	c->have = H_VAL;
	c->val = tag;
	c->flags = (c->flags & ~(C_SOFT | C_WPSET)) | (protect ? C_WPSET : 0);
}

static bool op_uffd_fill(struct world *w)
{
	struct range r;
	int i;

	if (w->uffd < 0 || !pick_cells(w, &r, 8, has_flag, C_UFFD))
		return false;
	w->last = r;
	for (i = r.i; i < r.j; i++)
		fill_page(w, i, one_in(w, 4), w->cell[i].flags & C_WP && one_in(w, 4));
	return true;
}

static bool op_uffd_protect(struct world *w)
{
	struct uffdio_writeprotect wp = { .mode = one_in(w, 3) ? 0 : UFFDIO_WRITEPROTECT_MODE_WP };
	struct range r;
	int i;

	if (!w->wp || !pick_cells(w, &r, 0, has_flag, C_WP))
		return false;
	for (i = r.i; i < r.j; i++)
		if (w->cell[i].have == H_ZERO || w->cell[i].have == H_SET)
			break;
	r.j = i;
	if (r.i == r.j)
		return false;
	wp.range.start = w->at[r.i].addr;
	wp.range.len = range_len(w, r);
	w->last = r;
	note(w, "uffd writeprotect(%s, %llu)", range_text(w, r), (unsigned long long)wp.mode);
	if (ioctl(w->uffd, UFFDIO_WRITEPROTECT, &wp)) {
		if (errno == EAGAIN)
			return false;
		mismatch(w, r.i, "UFFDIO_WRITEPROTECT of %s: %s", range_text(w, r), strerror(errno));
	}
	for (i = r.i; i < r.j; i++) {
		w->cell[i].flags &= ~C_WPSET;
		if (wp.mode && w->cell[i].have == H_VAL)
			w->cell[i].flags |= C_WPSET;
	}
	return true;
}

/* Refused for many good reasons; where it succeeds the page is at its new place. */
static bool op_uffd_move(struct world *w)
{
	struct uffdio_move m = { .len = PAGE };
	struct range r, t;
	struct cell *a, *b;

	if (w->uffd < 0 || !pick_cells(w, &r, 1, writable_here, BIT(K_ANON) | (C_HUGETLB | C_WP) << 8) ||
	    !pick_cells(w, &t, 1, has_flag, C_MISSING) || r.i == t.i)
		return false;
	a = &w->cell[r.i];
	b = &w->cell[t.i];
	m.src = w->at[r.i].addr;
	m.dst = w->at[t.i].addr;
	w->last = t;
	if (ioctl(w->uffd, UFFDIO_MOVE, &m))
		return false;
	note(w, "uffd move(%#lx, to %#lx)", w->at[r.i].addr, w->at[t.i].addr);
	if (b->have == H_VAL || a->have == H_NO)
		mismatch(w, t.i, "UFFDIO_MOVE from %#lx succeeded", w->at[r.i].addr);
	b->have = a->have == H_ZERO ? H_VAL : a->have;
	b->val = a->have == H_ZERO ? 0 : a->val;
	b->flags = (b->flags & ~C_SOFT) | (a->flags & C_KSM);
	cell_empty(w, r.i);
	return true;
}

/* --- access by address to this or another address space ------------------------------- */

#define REMOTE 8

static bool op_vm_readv(struct world *w)
{
	struct iovec local = { page_buf, REMOTE * 16 }, remote[REMOTE * 2];
	uint64_t *v = (uint64_t *)page_buf;
	int k, cell[REMOTE] = { 0 }, n = 1 + below(w, REMOTE);
	struct range r;
	ssize_t got;

	for (k = 0; k < n; k++) {
		if (!pick_cells(w, &r, 1, readable_remote, ANY_KIND))
			return false;
		cell[k] = r.i;
		remote[2 * k] = (struct iovec){ cell_ptr(w, r.i), 8 };
		remote[2 * k + 1] = (struct iovec){ cell_ptr(w, r.i) + PAGE - 8, 8 };
	}
	local.iov_len = n * 16;
	got = process_vm_readv(getpid(), &local, 1, remote, 2 * n, 0);
	note(w, "process_vm_readv(%d pages, first %#lx) = %zd", n, w->at[cell[0]].addr, got);
	if (got != n * 16)
		mismatch(w, cell[got < 0 ? 0 : got / 16], "process_vm_readv of %d pages: got %zd", n, got);
	for (k = 0; k < n; k++)
		model_read(w, cell[k], v[2 * k], v[2 * k + 1], "process_vm_readv");
	return true;
}

static bool op_vm_writev(struct world *w)
{
	struct iovec local = { page_buf, 0 }, remote[REMOTE * 2];
	uint64_t *v = (uint64_t *)page_buf;
	int k, cell[REMOTE] = { 0 }, n = 1 + below(w, REMOTE);
	struct range r;
	ssize_t got;

	for (k = 0; k < n; k++) {
		if (!pick_cells(w, &r, 1, writable_remote, ANY_KIND))
			return false;
		cell[k] = r.i;
		v[2 * k] = new_tag(w, r.i);
		v[2 * k + 1] = ~v[2 * k];
		remote[2 * k] = (struct iovec){ cell_ptr(w, r.i), 8 };
		remote[2 * k + 1] = (struct iovec){ cell_ptr(w, r.i) + PAGE - 8, 8 };
	}
	local.iov_len = n * 16;
	w->last = r;
	w->last.j = r.i + 1;
	got = process_vm_writev(getpid(), &local, 1, remote, 2 * n, 0);
	note(w, "process_vm_writev(%d pages, first %#lx) = %zd", n, w->at[cell[0]].addr, got);
	if (got != n * 16)
		mismatch(w, cell[got < 0 ? 0 : got / 16], "process_vm_writev of %d pages: got %zd", n, got);
	for (k = 0; k < n; k++)
		model_write(w, cell[k], v[2 * k]);
	return true;
}

/* A debugger's way: what is private and not writable is copied and written all the same. */
static bool op_mem_write(struct world *w)
{
	struct range r;
	uint64_t tag, not;
	off_t at;

	if (!pick_cells(w, &r, 1, one_in(w, 2) ? writable_remote : readable_remote,
			BIT(K_ANON) | BIT(K_PRIVATE) | (C_HUGETLB | C_WPSET) << 8))
		return false;
	tag = new_tag(w, r.i);
	not = ~tag;
	at = w->at[r.i].addr;
	w->last = r;
	if (pwrite(w->mem, &tag, 8, at) != 8) {
		if (errno == EIO && !(w->cell[r.i].prot & PROT_WRITE))
			return false;	/* a kernel that forces nothing */
		mismatch(w, r.i, "write to /proc/self/mem: %s", strerror(errno));
	}
	if (pwrite(w->mem, &not, 8, at + PAGE - 8) != 8)
		mismatch(w, r.i, "second write to /proc/self/mem: %s", strerror(errno));
	note(w, "write %#lx by /proc/self/mem", w->at[r.i].addr);
	model_write(w, r.i, tag);
	/* Where the page is clean and not writable it stays what soft-dirty says it is. */
	return true;
}

/* Pages in a pipe stay what they were when the mapping loses them. */
static bool op_vmsplice(struct world *w)
{
	int fd[2], n, k, how = below(w, 3);
	uint64_t v[2], want[2];
	struct iovec iov;
	struct range r;

	if (!pick_cells(w, &r, 8, readable_remote,
			BIT(K_ANON) | BIT(K_SHARED) | (C_HUGETLB | C_LOCKED) << 8))
		return false;
	if (w->cell[r.i].pkey)
		return false;
	r.j = r.i + 1;
	if (pipe2(fd, O_CLOEXEC | O_NONBLOCK))
		internal("pipe");
	check_read(w, r.i);
	w->last = r;
	iov = (struct iovec){ cell_ptr(w, r.i), PAGE };
	n = vmsplice(fd[1], &iov, 1, 0);
	note(w, "vmsplice(%s), then %s", range_text(w, r),
	     how == 0 ? "read" : how == 1 ? "MADV_DONTNEED" : "munmap");
	if (n != PAGE)
		mismatch(w, r.i, "vmsplice: got %d", n);
	if (raw_load(cell_ptr(w, r.i), want))
		mismatch(w, r.i, "read beside vmsplice faults");
	if (how == 1) {
		if (madvise(cell_ptr(w, r.i), PAGE, MADV_DONTNEED))
			mismatch(w, r.i, "MADV_DONTNEED: %s", strerror(errno));
		if (w->cell[r.i].kind == K_ANON)
			cell_empty(w, r.i);
	} else if (how == 2) {
		if (munmap(cell_ptr(w, r.i), PAGE))
			mismatch(w, r.i, "munmap: %s", strerror(errno));
		cell_unmap(w, r.i);
	}
	for (k = 0; k < (int)(PAGE / 16); k++) {
		if (read(fd[0], v, 16) != 16)
			mismatch(w, r.i, "the pipe is short");
		if ((k == 0 && v[0] != want[0]) || (k == PAGE / 16 - 1 && v[1] != want[1]))
			mismatch(w, r.i, "in the pipe: expected %#llx, found %#llx",
				 (unsigned long long)want[!!k], (unsigned long long)v[!!k]);
	}
	close(fd[0]);
	close(fd[1]);
	return true;
}

/* --- io_uring -------------------------------------------------------------------------- */

struct ring {
	int fd;
	void *sq, *cq;
	struct io_uring_sqe *sqe;
	struct io_uring_params p;
};

static struct ring rings[16];

static bool ring_open(struct ring *q)
{
	memset(q, 0, sizeof(*q));
	q->fd = syscall(SYS_io_uring_setup, 4, &q->p);
	if (q->fd < 0)
		return false;
	fcntl(q->fd, F_SETFD, FD_CLOEXEC);
	q->sq = mmap(NULL, q->p.sq_off.array + q->p.sq_entries * 4, PROT_READ | PROT_WRITE,
		     MAP_SHARED | MAP_POPULATE, q->fd, IORING_OFF_SQ_RING);
	q->cq = mmap(NULL, q->p.cq_off.cqes + q->p.cq_entries * sizeof(struct io_uring_cqe),
		     PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, q->fd, IORING_OFF_CQ_RING);
	q->sqe = mmap(NULL, q->p.sq_entries * sizeof(*q->sqe), PROT_READ | PROT_WRITE,
		      MAP_SHARED | MAP_POPULATE, q->fd, IORING_OFF_SQES);
	return q->sq != MAP_FAILED && q->cq != MAP_FAILED && q->sqe != MAP_FAILED;
}

static int ring_do(struct ring *q, int opcode, int fd, void *buf, size_t len, off_t off)
{
	unsigned int *tail = q->sq + q->p.sq_off.tail, mask = *(unsigned int *)(q->sq + q->p.sq_off.ring_mask);
	unsigned int *array = q->sq + q->p.sq_off.array, *head = q->cq + q->p.cq_off.head, k = *tail & mask;
	struct io_uring_cqe *cqe = q->cq + q->p.cq_off.cqes;
	struct io_uring_sqe *s = &q->sqe[k];
	int res;

	memset(s, 0, sizeof(*s));
	s->opcode = opcode;
	s->fd = fd;
	s->addr = (unsigned long)buf;
	s->len = len;
	s->off = off;
	array[k] = k;
	__atomic_store_n(tail, *tail + 1, __ATOMIC_RELEASE);
	while (syscall(SYS_io_uring_enter, q->fd, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0) < 0)
		if (errno != EINTR)
			return -errno;
	res = cqe[*head & *(unsigned int *)(q->cq + q->p.cq_off.ring_mask)].res;
	__atomic_store_n(head, *head + 1, __ATOMIC_RELEASE);
	return res;
}

/* The kernel keeps the pages; what it writes there later the mapping must show, a child between or not. */
static bool op_uring(struct world *w)
{
	struct ring *q = &rings[w->id];
	uint64_t tags[8], v[2];
	struct iovec iov;
	struct range r;
	int i, n, got;
	pid_t pid = -1;

	if (!w->ring_ok || !pick_cells(w, &r, 8, writable_here, BIT(K_ANON) | (C_HUGETLB | C_MISSING | C_LOCKED) << 8))
		return false;
	n = r.j - r.i;
	iov = (struct iovec){ range_ptr(w, r), n * PAGE };
	w->last = r;
	if (syscall(SYS_io_uring_register, q->fd, IORING_REGISTER_BUFFERS, &iov, 1))
		mismatch(w, r.i, "io_uring register of %s: %s", range_text(w, r), strerror(errno));
	note(w, "io_uring fixed buffer %s", range_text(w, r));
	if (one_in(w, 4)) {
		pid = fork();
		if (!pid) {
			for (i = 0; i < 20; i++)
				sched_yield();
			_exit(0);
		}
	}
	memset(page_buf, 0, sizeof(page_buf));
	for (i = 0; i < n; i++) {
		tags[i] = new_tag(w, r.i + i);
		((uint64_t *)page_buf)[i * 512] = tags[i];
		((uint64_t *)page_buf)[i * 512 + 511] = ~tags[i];
	}
	if (pwrite(w->memfd_src, page_buf, n * PAGE, 0) != (ssize_t)(n * PAGE))
		internal("memfd");
	got = ring_do(q, IORING_OP_READ_FIXED, w->memfd_src, range_ptr(w, r), n * PAGE, 0);
	if (got != (int)(n * PAGE))
		mismatch(w, r.i, "READ_FIXED: got %d", got);
	for (i = 0; i < n; i++) {
		model_write(w, r.i + i, tags[i]);
		w->cell[r.i + i].flags &= ~C_SOFT;
		check_read(w, r.i + i);
		check_write(w, r.i + i, new_tag(w, r.i + i));
	}
	got = ring_do(q, IORING_OP_WRITE_FIXED, w->memfd_src, range_ptr(w, r), n * PAGE, 0);
	if (got != (int)(n * PAGE))
		mismatch(w, r.i, "WRITE_FIXED: got %d", got);
	for (i = 0; i < n; i++) {
		if (pread(w->memfd_src, v, 8, i * PAGE) != 8 || pread(w->memfd_src, v + 1, 8, (i + 1) * PAGE - 8) != 8)
			internal("memfd");
		model_read(w, r.i + i, v[0], v[1], "WRITE_FIXED");
	}
	if (syscall(SYS_io_uring_register, q->fd, IORING_UNREGISTER_BUFFERS, NULL, 0))
		mismatch(w, r.i, "io_uring unregister: %s", strerror(errno));
	if (pid > 0)
		waitpid(pid, NULL, 0);
	return true;
}

/* --- what only root may ask for ---------------------------------------------------------- */

static bool op_compact(struct world *w)
{
	if (!conf.compact)
		return false;
	note(w, "compact_memory");
	return !write_text("/proc/sys/vm/compact_memory", "1");
}

/* Allocations of order 9 fail half of the time for this task and its children. */
static bool op_inject(struct world *w)
{
	if (!conf.inject)
		return false;
	w->injecting = !w->injecting;
	note(w, "failing allocations %s", w->injecting ? "on" : "off");
	return !write_text("/proc/thread-self/make-it-fail", w->injecting ? "1" : "0");
}

static bool op_demote(struct world *w)
{
	if (!conf.demote)
		return false;
	note(w, "demote");
	fpt_demote(getpid(), one_in(w, 2) ? 0 : w->at[below(w, w->cells)].addr);
	return true;
}

void sys_open(struct world *w)
{
	open_uffd(w);
	w->ring_ok = w->id < 16 && ring_open(&rings[w->id]);
}

const struct op sys_ops[] = {
	{ "uffd_register", 120, op_uffd_register, OP_PARENT },
	{ "uffd_unregister", 50, op_uffd_unregister, OP_PARENT },
	{ "uffd_fill", 160, op_uffd_fill, OP_PARENT },
	{ "uffd_writeprotect", 100, op_uffd_protect, OP_PARENT },
	{ "uffd_move", 60, op_uffd_move, OP_PARENT },
	{ "process_vm_readv", 120, op_vm_readv },
	{ "process_vm_writev", 120, op_vm_writev },
	{ "proc_mem_write", 100, op_mem_write },
	{ "vmsplice", 60, op_vmsplice },
	{ "io_uring", 15, op_uring, OP_PARENT },
	{ "compact", 4, op_compact },
	{ "inject", 20, op_inject },
	{ "demote", 10, op_demote },
	{ NULL },
};
