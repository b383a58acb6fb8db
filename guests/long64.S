/*
 * long64: 64-bit mode on 4-level page tables that the host has built.  The code
 * is position independent: it runs at its guest-physical address, or with
 * @high=1 at that address plus GUEST_HIGH_HALF.  Entry state, registers and exit
 * protocol: measure.h; the base register is %rbp.
 */
#include "shared.h"

#define SHARED(offset)	offset(%rbp)
#define XBX		%rbx
#define XDI		%rdi

	.code64
	.text
#include "measure.h"
#include "ops.h"

	measure	empty
	measure	cr0_wp
	measure	cpuid
	measure	pio
