/*
 * long64: 64-bit mode on 4-level page tables (5-level with @la57=1) that the host has
 * built.  The code is position independent: it runs at its guest-physical address, or
 * with @high=1 at that address plus GUEST_HIGH_HALF.  Entry state, registers and exit
 * protocol: measure.h; the base register is %rbp.
 */
#include "shared.h"

#define SHARED(offset)	offset(%rbp)
#define XAX		%rax
#define XBX		%rbx
#define XCX		%rcx
#define XDX		%rdx
#define XDI		%rdi
#define XSP		%rsp
#define RETURN		iretq
#define WORD		8
#define TOUCHES
#define WORKS

.macro address label, register
	lea	\label(%rip), \register
.endm

	.code64
	.text
#include "measure.h"
#include "ops.h"
#include "prove.h"

	ops_of_every_mode measure
	ops_of_paged_modes measure
	ops_of_long_mode measure
	ops_of_every_mode prove
	ops_of_paged_modes prove
	ops_of_long_mode prove
