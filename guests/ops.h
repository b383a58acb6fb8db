/*
 * The ops.  prepare_OP runs once before the begin doorbell, iterate_OP is what
 * the timed loop repeats (see measure.h for the registers each may use).
 */

#define CR0_WP	0x10000

/* The loop alone: what every other op is compared with. */
.macro prepare_empty
.endm
.macro iterate_empty
.endm

/* One write of CR0 that flips WP.  The value lives in %ebx: a toggle is a XOR
 * and a write, never a read. */
.macro prepare_cr0_wp
	mov	%cr0, XBX
.endm
.macro iterate_cr0_wp
	xorl	$CR0_WP, %ebx
	mov	XBX, %cr0
.endm

/* An exit that KVM handles itself: VMX and SVM always intercept CPUID. */
.macro prepare_cpuid
.endm
.macro iterate_cpuid
	xorl	%eax, %eax
	cpuid
.endm

/* An exit that goes all the way to user space and back. */
.macro prepare_pio
.endm
.macro iterate_pio
	outb	%al, $PORT_PIO
.endm
