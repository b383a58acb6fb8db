/*
 * The measuring protocol, one text for every CPU mode.
 *
 * A guest defines, before it includes this file:
 *	SHARED(offset)	the shared page through the base register (%ebp or %rbp)
 *	XAX, XBX, XCX, XDI	those registers at the mode's width
 *	TOUCHES		(optional) that it can touch @pages
 * and then writes `measure OP` once for each op, OP being two macros of ops.h.
 *
 * Entry state	the host has set the mode up (control registers, segments,
 *		page tables), IF=0, CR0.CD=CR0.NW=0; base register = shared page;
 *		instruction pointer = op_OP (op_OP_pages to touch @pages).
 * Registers	%esi loop counter, %edi stamp pointer, %ebp shared page,
 *		%ebx the op's own value; %eax, %ecx, %edx are scratch.
 * Exit protocol	a write of DOORBELL_BEGIN to PORT_DOORBELL, then the samples, each
 *		with a write to PORT_SAMPLE behind its last stamp, then DOORBELL_END, then a jump to the address in SHARED_NEXT: the host
 *		may change the parameters at either doorbell's exit from KVM_RUN, and
 *		the ones read after BEGIN count.  All vCPUs meet before each sample.
 * One iteration	the op (and the touching), the decrement and the jump between
 *		loop_OP and end_OP.  But for the op cr0_read nothing in there reads a
 *		control register: that read may exit.
 */

/* rdtsc that neither starts before what precedes it has finished nor lets what
 * follows start before it (Intel SDM vol. 2B, RDTSC). */
.macro stamp offset
	lfence
	rdtsc
	lfence
	movl	%eax, \offset(XDI)
	movl	%edx, \offset + 4(XDI)
.endm

.macro doorbell value
	movb	$\value, %al
	outb	%al, $PORT_DOORBELL
.endm

/* Go where the host says. */
.macro proceed
	mov	SHARED(SHARED_NEXT), XAX
	jmp	*XAX
.endm

/* Wait until all vCPUs have come here for the sample SHARED_DONE + 1. */
.macro barrier
	mov	SHARED(SHARED_BARRIER), XAX
	movl	SHARED(SHARED_DONE), %ecx
	incl	%ecx
	imull	SHARED(SHARED_VCPUS), %ecx
	lock incl (XAX)
9:	pause
	cmpl	%ecx, (XAX)
	jb	9b
.endm

/* Read one byte of each of the pages. */
.macro touch
	mov	SHARED(SHARED_TOUCH_AT), XAX
	movl	SHARED(SHARED_TOUCH_STRIDE), %ecx
	movl	SHARED(SHARED_TOUCH_PAGES), %edx
9:	testb	%al, (XAX)
	add	XCX, XAX
	decl	%edx
	jnz	9b
.endm

.macro samples op, name, touching
	.globl	op_\name, loop_\name, end_\name
op_\name:
	prepare_\op
	doorbell DOORBELL_BEGIN
	movl	$0, SHARED(SHARED_DONE)
	lea	SHARED(SHARED_STAMPS), XDI
sample_\name:
	barrier
	movl	SHARED(SHARED_ITERATIONS), %esi
	stamp	0
	jmp	loop_\name
	/* The same distance from a cache line for every op: `empty` is subtracted. */
	.balign	64
loop_\name:
	iterate_\op
	.if \touching
	touch
	.endif
	decl	%esi
	jnz	loop_\name
end_\name:
	stamp	8
	outb	%al, $PORT_SAMPLE
	lea	16(XDI), XDI
	incl	SHARED(SHARED_DONE)
	movl	SHARED(SHARED_DONE), %eax
	cmpl	SHARED(SHARED_SAMPLES), %eax
	jb	sample_\name
	doorbell DOORBELL_END
	proceed
.endm

.macro measure op
	samples	\op, \op, 0
#ifdef TOUCHES
	samples	\op, \op\()_pages, 1
#endif
.endm
