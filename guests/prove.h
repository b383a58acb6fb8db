/*
 * The W^X proof: a supervisor's write to a read-only page faults iff CR0.WP is set,
 * before, between and after thousands of the op's iterations.
 *
 * `prove OP` makes prove_OP: same entry state, registers and doorbells as op_OP (see
 * measure.h), with SHARED_SAMPLES rounds of SHARED_ITERATIONS ops.  A check before the
 * first round and after each makes SHARED_ATTEMPTS attempts: the records in the place of
 * stamps say of each what to do, and take what came of it, which the host judges.
 * Wants a stack and an IDT whose gates lead to `page_fault` and `undefined`.
 * A guest defines besides what measure.h asks for: XDX, XSP, WORD (bytes of a register),
 * RETURN as its iret, and the macro `address`, which loads a label's address.
 */

/* "ud2" and "kvm": with kvm.force_emulation_prefix=1 KVM emulates what follows. */
#define FORCE_EMULATION	.byte 0x0f, 0x0b, 0x6b, 0x76, 0x6d

/* %ebx: what the record at XDI wants.  CR4 and CR0 as they were are on the stack. */
.macro prepare_attempt
	testl	$PROOF_SET_CR4, %ebx
	jz	1f
	mov	(XSP), XAX
	andl	$~(CR4_SMEP | CR4_SMAP), %eax
	movl	%ebx, %ecx
	andl	$(CR4_SMEP | CR4_SMAP), %ecx
	orl	%ecx, %eax
	mov	XAX, %cr4
1:	testl	$(PROOF_SET_WP | PROOF_CLEAR_WP), %ebx
	jz	3f
	mov	WORD(XSP), XAX
	andl	$~CR0_WP, %eax
	testl	$PROOF_SET_WP, %ebx
	jz	2f
	orl	$CR0_WP, %eax
2:
	.globl prove_sets_wp
prove_sets_wp:
	mov	XAX, %cr0
3:	mov	$GUEST_WINDOW, XAX
	testl	$PROOF_USER, %ebx
	jz	4f
	mov	$GUEST_USER_WINDOW, XAX
4:	testl	$PROOF_AC, %ebx
	jz	5f
	stac
5:
.endm

/* An op that leaves CR4.CET set has it cleared meanwhile: WP cannot be cleared before.
 * What is written is the record's own address.  Between a write of CR0 and the access
 * nothing reads CR0: that could be what makes KVM notice it. */
check_window:
	push	XBX
	mov	%cr4, XAX
	push	XAX
	mov	%cr0, XCX
	push	XCX
	andl	$~CR4_CET, %eax
	push	XAX
	mov	XAX, %cr4
	movl	SHARED(SHARED_ATTEMPTS), %esi
next_attempt:
	movl	(XDI), %ebx
	prepare_attempt
	address	done_attempt, XDX
	movl	$1, SHARED(SHARED_EXPECTED)
	testl	$PROOF_FETCH, %ebx
	jnz	7f
	testl	$PROOF_FORCED, %ebx
	jnz	6f
	movl	%edi, (XAX)
	jmp	done_attempt
6:	FORCE_EMULATION
	movl	%edi, (XAX)
	jmp	done_attempt
7:	add	$PROOF_CODE_AT, XAX
	jmp	*XAX
done_attempt:
	movl	$0, SHARED(SHARED_EXPECTED)
	testl	$PROOF_AC, %ebx
	jz	8f
	clac
8:	mov	%cr0, XAX
	shrl	$16, %eax
	andl	$PROOF_WP, %eax
	orl	%eax, (XDI)
	movl	GUEST_READ_ONLY, %eax
	movl	%eax, 12(XDI)
	lea	PROOF_RECORD(XDI), XDI
	decl	%esi
	jnz	next_attempt
	pop	XAX
	pop	XAX
	mov	XAX, %cr0
	pop	XAX
	mov	XAX, %cr4
	pop	XBX
	ret

/* Expected by the proof: note it in the record at XDI and go on at XDX.  By work: map the page.
 * Otherwise tell the host. */
	.globl	page_fault
page_fault:
	pop	XAX
#ifdef WORKS
	cmpl	$2, SHARED(SHARED_EXPECTED)
	jne	3f
	mov	%cr2, XDX
	cmp	$GUEST_FAULT_AT, XDX
	jne	1f
	orl	$PTE_PRESENT, (%r13)
	RETURN
3:
#endif
	cmpl	$0, SHARED(SHARED_EXPECTED)
	je	1f
	movl	%eax, 4(XDI)
	mov	%cr2, XAX
	movl	%eax, 8(XDI)
	orl	$PROOF_FAULTED, (XDI)
	mov	XDX, (XSP)
	RETURN
1:	movl	%eax, SHARED(SHARED_FAULT_CODE)
	mov	%cr2, XAX
	mov	XAX, SHARED(SHARED_FAULT_CR2)
	mov	(XSP), XAX
	mov	XAX, SHARED(SHARED_FAULT_IP)
	movl	%esi, SHARED(SHARED_FAULT_LEFT)
2:	doorbell DOORBELL_FAULT
	jmp	2b

/* A KVM that does not know the prefix.  The host takes the gate away after the proof. */
	.globl	undefined
undefined:
	orl	$PROOF_UNDEFINED, (XDI)
	mov	XDX, (XSP)
	RETURN

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
