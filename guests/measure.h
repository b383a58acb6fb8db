/*
 * The measuring protocol, one text for every CPU mode.
 *
 * A guest defines, before it includes this file:
 *	SHARED(offset)	the shared page through the base register (%ebp or %rbp)
 *	XBX, XDI	%ebx and %edi at the mode's register width
 * and then writes `measure OP` once for each op, OP being two macros of ops.h.
 *
 * Entry state	the host has set the mode up (control registers, segments,
 *		page tables), IF=0, CR0.CD=CR0.NW=0; base register = shared page;
 *		instruction pointer = op_OP.
 * Registers	%esi loop counter, %edi stamp pointer, %ebp shared page,
 *		%ebx the op's own value; %eax, %ecx, %edx are scratch.
 * Exit protocol	a write of DOORBELL_BEGIN to PORT_DOORBELL, then the samples,
 *		then DOORBELL_END, then everything again from op_OP: the host may
 *		change the parameters at either doorbell's exit from KVM_RUN, and
 *		the ones read after BEGIN count.
 * One iteration	the op, the decrement and the jump between loop_OP and end_OP.
 *		Nothing in there reads a control register: that read may exit.
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

.macro measure op
	.globl	op_\op, loop_\op, end_\op
op_\op:
	prepare_\op
	doorbell DOORBELL_BEGIN
	movl	$0, SHARED(SHARED_DONE)
	lea	SHARED(SHARED_STAMPS), XDI
sample_\op:
	movl	SHARED(SHARED_ITERATIONS), %esi
	stamp	0
	jmp	loop_\op
	/* The same distance from a cache line for every op: `empty` is subtracted. */
	.balign	64
loop_\op:
	iterate_\op
	decl	%esi
	jnz	loop_\op
end_\op:
	stamp	8
	lea	16(XDI), XDI
	incl	SHARED(SHARED_DONE)
	movl	SHARED(SHARED_DONE), %eax
	cmpl	SHARED(SHARED_SAMPLES), %eax
	jb	sample_\op
	doorbell DOORBELL_END
	jmp	op_\op
.endm
