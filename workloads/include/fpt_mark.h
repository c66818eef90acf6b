/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Marks of phases for the simulator of FPT-Linux: `fpt sim -- PROG`.
 *
 *	#include "fpt_mark.h"
 *
 *	fpt_mark_begin(FPT_LOAD);
 *	fill(table);
 *	fpt_mark_end(FPT_LOAD);
 *	fpt_mark_begin(FPT_RUN);
 *	probe(table);
 *	fpt_mark_end(FPT_RUN);
 *
 * A mark is one instruction that does nothing on any x86-64 CPU, so a marked program runs everywhere as before.
 * Phases do not nest. One may come several times: its figures are added up. The id is a constant from 0 to 255;
 * phases with other ids than these are called phase-XX, with the id in hexadecimal.
 */
#ifndef FPT_MARK_H
#define FPT_MARK_H

#define FPT_LOAD 0x4c
#define FPT_RUN 0x52

#if defined(__x86_64__)
/* nopl disp32(%rax): the displacement says which phase and which end of it. */
#define FPT_MARK(id, edge)                                                    \
	__asm__ __volatile__(".byte 0x0f, 0x1f, 0x80, %c0, " edge ", 0x50, 0x46" \
			     :                                                \
			     : "i"((id) & 0xff)                               \
			     : "memory")
#else
#define FPT_MARK(id, edge) ((void)(id))
#endif

#define fpt_mark_begin(id) FPT_MARK(id, "0xb1")
#define fpt_mark_end(id) FPT_MARK(id, "0xe1")

#endif
