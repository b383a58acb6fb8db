/*
 * The ops.  prepare_OP runs once before the begin doorbell, iterate_OP is what
 * the timed loop repeats (see measure.h for the registers each may use).  The lists
 * at the end say which guest measures which.
 */

#define CR0_TS		(1 << 3)
#define CR0_WP		(1 << 16)
#define CR4_PGE		(1 << 7)
#define CR4_SMEP	(1 << 20)
#define CR4_SMAP	(1 << 21)
#define CR4_PKE		(1 << 22)
#define CR4_CET		(1 << 23)
#define MSR_EFER	0xc0000080
#define EFER_NX		(1 << 11)
/* A hypercall number that KVM does not know: it answers -KVM_ENOSYS. */
#define HYPERCALL_NONE	0x7fffffff

/* One write that flips a bit of a control register.  The value lives in %ebx: a
 * toggle is a XOR and a write, never a read. */
.macro flip register, bit
	xorl	$\bit, %ebx
	mov	XBX, %\register
.endm

/* The loop alone: what every other op is compared with. */
.macro prepare_empty
.endm
.macro iterate_empty
.endm

.macro prepare_cr0_wp
	mov	%cr0, XBX
.endm
.macro iterate_cr0_wp
	flip	cr0, CR0_WP
.endm

.macro prepare_cr0_read
.endm
.macro iterate_cr0_read
	mov	%cr0, XAX
.endm

.macro prepare_cr0_ts
	mov	%cr0, XBX
.endm
.macro iterate_cr0_ts
	flip	cr0, CR0_TS
.endm

.macro prepare_cr4_pge
	mov	%cr4, XBX
.endm
.macro iterate_cr4_pge
	flip	cr4, CR4_PGE
.endm

.macro prepare_cr4_smep
	mov	%cr4, XBX
.endm
.macro iterate_cr4_smep
	flip	cr4, CR4_SMEP
.endm

.macro prepare_cr4_smap
	mov	%cr4, XBX
.endm
.macro iterate_cr4_smap
	flip	cr4, CR4_SMAP
.endm

.macro prepare_cr4_pke
	mov	%cr4, XBX
.endm
.macro iterate_cr4_pke
	flip	cr4, CR4_PKE
.endm

.macro prepare_efer_nx
	movl	$MSR_EFER, %ecx
	rdmsr
	movl	%eax, %ebx
.endm
.macro iterate_efer_nx
	xorl	$EFER_NX, %ebx
	movl	$MSR_EFER, %ecx
	movl	%ebx, %eax
	xorl	%edx, %edx
	wrmsr
.endm

.macro prepare_cr3_same
	mov	%cr3, XBX
.endm
.macro iterate_cr3_same
	mov	XBX, %cr3
.endm

/* Two roots in turn; they map the same.  With @pcid=1 each has a PCID of its own; bit 63 is
 * never set, so each write flushes what the PCID it loads had cached. */
.macro prepare_cr3_switch
	mov	%cr3, XBX
.endm
.macro iterate_cr3_switch
	xorl	SHARED(SHARED_CR3_XOR), %ebx
	mov	XBX, %cr3
.endm

/* The W^X window: two toggles and a write between them to a page that is mapped
 * read-only.  WP is set on entry.  The loop counter is what is written, so the page
 * holds 1 after each sample. */
.macro prepare_wx
	mov	%cr0, XBX
.endm
.macro iterate_wx
	flip	cr0, CR0_WP
	movl	%esi, GUEST_WINDOW
	flip	cr0, CR0_WP
.endm

/* CR4.CET can be set only while CR0.WP is, which the unpaged modes enter without.  No CET
 * feature is switched on by an MSR, so the bit alone changes nothing for the guest. */
.macro prepare_cr4_cet
	mov	%cr4, XBX
.endm
.macro iterate_cr4_cet
	flip	cr4, CR4_CET
.endm

/* The same window in a kernel that uses CET: CR0.WP cannot be cleared while CR4.CET is
 * set, so that is cleared around it (four toggles).  CET is set on entry to each. */
.macro prepare_wx_cet
	mov	%cr0, XAX
	movl	%eax, SHARED(SHARED_CR0)
	mov	%cr4, XBX
	flip	cr4, CR4_CET
.endm
.macro iterate_wx_cet
	flip	cr4, CR4_CET
	movl	SHARED(SHARED_CR0), %eax
	xorl	$CR0_WP, %eax
	mov	XAX, %cr0
	movl	%esi, GUEST_WINDOW
	xorl	$CR0_WP, %eax
	mov	XAX, %cr0
	flip	cr4, CR4_CET
.endm

/* An exit that KVM handles itself: VMX and SVM always intercept CPUID. */
.macro prepare_cpuid
.endm
.macro iterate_cpuid
	xorl	%eax, %eax
	cpuid
.endm

/* KVM patches the instruction to the vendor's own at its first execution. */
.macro prepare_hypercall
.endm
.macro iterate_hypercall
	movl	$HYPERCALL_NONE, %eax
	vmcall
.endm

/* An exit that goes all the way to user space and back. */
.macro prepare_pio
.endm
.macro iterate_pio
	outb	%al, $PORT_PIO
.endm

/*
 * Work that a kernel does, as much of it as SHARED_WORK says, and the same with one protected write,
 * the window of `wx`, before each such portion: a model of what KERNEXEC-like protection does.
 */
#define MSR_STAR	0xc0000081
#define MSR_LSTAR	0xc0000082
#define MSR_SFMASK	0xc0000084
#define EFER_SCE	(1 << 0)
#define PTE_PRESENT	(1 << 0)
#define USER_FLAGS	2	/* RFLAGS: the bit that is always set */
/* syscall; jmp .-2 */
#define USER_CODE	0xfceb050f

/* SYSCALL loads GUEST_CS and the selector behind it, SYSRET from 16 and 8 behind the user's base. */
.macro prepare_syscall
	mov	%cr0, XBX
	movl	$MSR_EFER, %ecx
	rdmsr
	orl	$EFER_SCE, %eax
	wrmsr
	movl	$MSR_STAR, %ecx
	xorl	%eax, %eax
	movl	$(GUEST_CS | (GUEST_DS | 3) << 16), %edx
	wrmsr
	movl	$MSR_LSTAR, %ecx
	lea	7f(%rip), %rax
	movq	%rax, %rdx
	shrq	$32, %rdx
	wrmsr
	movl	$MSR_SFMASK, %ecx
	xorl	%eax, %eax
	xorl	%edx, %edx
	wrmsr
	movl	$USER_CODE, GUEST_USER_CODE
	jmp	8f
	/* The kernel's entry: %r12d is the work that is left, %r13 where to go when it is done. */
7:	decl	%r12d
	jnz	9f
	jmp	*%r13
9:	sysretq
8:
.endm
/* One piece of work: user mode's SYSCALL, the kernel's entry, SYSRET. */
.macro iterate_syscall
	movl	SHARED(SHARED_WORK), %r12d
	lea	6f(%rip), %r13
	movl	$GUEST_USER_CODE_AT, %ecx
	movl	$USER_FLAGS, %r11d
	sysretq
6:
.endm

.macro prepare_protected_syscall
	prepare_syscall
.endm
.macro iterate_protected_syscall
	iterate_wx
	iterate_syscall
.endm

.macro prepare_fault
	mov	%cr0, XBX
.endm
/* One piece of work: a read of a page that is not there, which the handler in prove.h maps, and the
 * unmapping.  %r12d is the work that is left. */
.macro iterate_fault
	movl	SHARED(SHARED_WORK), %r12d
	mov	SHARED(SHARED_FAULT_ENTRY), %r13
	movl	$2, SHARED(SHARED_EXPECTED)
6:	testb	%al, GUEST_FAULT_AT
	andl	$~PTE_PRESENT, (%r13)
	invlpg	GUEST_FAULT_AT
	decl	%r12d
	jnz	6b
	movl	$0, SHARED(SHARED_EXPECTED)
.endm

.macro prepare_protected_fault
	prepare_fault
.endm
.macro iterate_protected_fault
	iterate_wx
	iterate_fault
.endm

/* What every mode can do, and what needs paging: \do is `measure` or `prove`. */
.macro ops_of_every_mode do
	.irp op, empty, cr0_wp, cr0_read, cr0_ts, cr4_pge, cr4_smep, cr4_smap, cr4_pke, \
		 efer_nx, cpuid, hypercall, pio
	\do	\op
	.endr
.endm

.macro ops_of_long_mode do
	.irp op, syscall, protected_syscall, fault, protected_fault
	\do	\op
	.endr
.endm

.macro ops_of_paged_modes do
	.irp op, cr3_same, cr3_switch, wx, cr4_cet, wx_cet
	\do	\op
	.endr
.endm
