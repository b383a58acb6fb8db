/*
 * A kernel that only tells what it was given: for the tests of what boots one.
 *
 * On COM1 it writes its command line and, in hexadecimal, a line each: the start_info's magic,
 * how many entries the memory map has, the sum of the words of its own data, that of the
 * initrd's, and the initrd's size.  Then it hangs (h), ends in a triple fault (p), writes the initrd
 * to COM2 and turns the machine off (r), or turns it off, as the command line's first letter says.
 */

#define COM1		0x3f8
#define COM2		0x2f8
#define COM1_STATUS	0x3fd
#define COM1_FORMAT	0x3fb
#define COM1_8_BITS	3
#define COM1_IDLE	0x40
/* The soft power-off of Bochs' ACPI: SLP_EN and SLP_TYP 0 to PM1a_CNT. */
#define PM1A		0xb004
#define OFF		0x2000

	.section .notes, "a", @note
	.long	4, 8, 18
	.asciz	"Xen"
	.quad	entry

	.text
	.code32
	.globl	entry
entry:
	movl	$stack, %esp
	cld
	movw	$COM1_FORMAT, %dx
	movb	$COM1_8_BITS, %al
	outb	%al, %dx
	movl	%ebx, %ebp
	movl	24(%ebp), %esi
1:	lodsb
	testb	%al, %al
	jz	2f
	call	write
	jmp	1b
2:	call	new_line
	movl	(%ebp), %eax
	call	number
	movl	48(%ebp), %eax
	call	number
	movl	$first, %esi
	movl	$last, %ecx
	call	sum
	movl	16(%ebp), %edi
	movl	(%edi), %esi
	movl	8(%edi), %ecx
	addl	%esi, %ecx
	call	sum
	movl	8(%edi), %eax
	call	number
	movl	24(%ebp), %esi
	lodsb
	cmpb	$'p', %al
	je	panic
	cmpb	$'r', %al
	je	repeat
3:	cmpb	$'h', %al
	je	3b
off:	movw	$PM1A, %dx
	movw	$OFF, %ax
	outw	%ax, %dx
repeat:	movl	(%edi), %esi
	movl	8(%edi), %ecx
	movw	$COM2, %dx
1:	lodsb
	outb	%al, %dx
	loop	1b
	jmp	off
panic:	/* A triple fault: there is no handler.  A division, as KVM's emulator knows no int3. */
	lidt	nothing
	xorl	%ecx, %ecx
	divl	%ecx

/* Write the sum of the words from %esi up to %ecx. */
sum:
	xorl	%eax, %eax
1:	addl	(%esi), %eax
	addl	$4, %esi
	cmpl	%ecx, %esi
	jb	1b
/* Write %eax and a new line. */
number:
	movl	$8, %ecx
1:	roll	$4, %eax
	pushl	%eax
	andl	$15, %eax
	movb	digits(%eax), %al
	call	write
	popl	%eax
	decl	%ecx
	jnz	1b
new_line:
	movb	$'\n', %al
write:
	movw	$COM1, %dx
	outb	%al, %dx
	movw	$COM1_STATUS, %dx
1:	inb	%dx, %al
	testb	$COM1_IDLE, %al
	jz	1b
	ret

digits:	.ascii	"0123456789abcdef"
	.balign	8
nothing:
	.quad	0

	.data
	.globl	first
first:
	.fill	1000, 4, 0x01234567
	.fill	0x30000, 1, 0		/* zeros that are not stored on the disk */
	.fill	1000, 4, 0x89abcdef
	.bss
	.fill	0x12340, 1, 0
last:
	.fill	0x1000, 1, 0
stack:
