/*
 * The W^X proof: a supervisor's write to a read-only page faults iff CR0.WP is set,
 * before, between and after thousands of the op's iterations.
 *
 * `prove OP` makes prove_OP: same entry state, registers and doorbells as op_OP (see
 * measure.h), with SHARED_SAMPLES rounds of SHARED_ITERATIONS ops; a check before the
 * first round and after each leaves PROOF_ATTEMPTS records, which the host judges.
 * Wants a stack and an IDT whose page-fault gate leads to `page_fault`.
 * A guest defines besides what measure.h asks for: XDX, XSP, RETURN as its iret, and
 * WINDOW_WRITE_SIZE, the bytes of the instruction that writes to the window.
 */

/* Write the record's own address to the window with WP as it stands, and record what
 * came of it.  %eax is lost. */
.macro attempt
	mov	%cr0, XAX
	shrl	$16, %eax
	andl	$PROOF_WP, %eax
	movl	%eax, (XDI)
	movl	$0, 4(XDI)
	movl	$0, 8(XDI)
	movl	$1, SHARED(SHARED_EXPECTED)
	/* The handler returns behind the write, whose length it has to know. */
8:	movl	%edi, GUEST_WINDOW
9:
	.if	9b - 8b - WINDOW_WRITE_SIZE
	.error	"WINDOW_WRITE_SIZE is not the size of the write to the window"
	.endif
	movl	$0, SHARED(SHARED_EXPECTED)
	movl	GUEST_WINDOW, %eax
	movl	%eax, 12(XDI)
	lea	PROOF_RECORD(XDI), XDI
.endm

/* As CR0 stands after the iterations, then WP set, then clear; CR0 as it was.  An op that
 * leaves CR4.CET set has it cleared meanwhile: WP cannot be cleared before. */
check_window:
	mov	%cr4, XDX
	testl	$CR4_CET, %edx
	jz	1f
	mov	XDX, XAX
	andl	$~CR4_CET, %eax
	mov	XAX, %cr4
1:	mov	%cr0, XCX
	attempt
	mov	XCX, XAX
	orl	$CR0_WP, %eax
	.globl	prove_sets_wp
prove_sets_wp:
	mov	XAX, %cr0
	attempt
	mov	XCX, XAX
	andl	$~CR0_WP, %eax
	mov	XAX, %cr0
	attempt
	mov	XCX, %cr0
	testl	$CR4_CET, %edx
	jz	1f
	mov	XDX, %cr4
1:	ret

/* Expected: note it in the record at XDI and skip the write.  Otherwise tell the host. */
	.globl	page_fault
page_fault:
	pop	XAX
	cmpl	$0, SHARED(SHARED_EXPECTED)
	je	1f
	movl	%eax, 4(XDI)
	mov	%cr2, XAX
	movl	%eax, 8(XDI)
	orl	$PROOF_FAULTED, (XDI)
	addl	$WINDOW_WRITE_SIZE, (XSP)
	RETURN
1:	movl	%eax, SHARED(SHARED_FAULT_CODE)
	mov	%cr2, XAX
	mov	XAX, SHARED(SHARED_FAULT_CR2)
	mov	(XSP), XAX
	mov	XAX, SHARED(SHARED_FAULT_IP)
	movl	%esi, SHARED(SHARED_FAULT_LEFT)
2:	doorbell DOORBELL_FAULT
	jmp	2b

.macro prove op
	.globl	prove_\op
prove_\op:
	prepare_\op
	doorbell DOORBELL_BEGIN
	movl	$0, SHARED(SHARED_DONE)
	lea	SHARED(SHARED_STAMPS), XDI
	call	check_window
1:	movl	SHARED(SHARED_ITERATIONS), %esi
2:	iterate_\op
	decl	%esi
	jnz	2b
	call	check_window
	incl	SHARED(SHARED_DONE)
	movl	SHARED(SHARED_DONE), %eax
	cmpl	SHARED(SHARED_SAMPLES), %eax
	jb	1b
	doorbell DOORBELL_END
	proceed
.endm
