/*
 * The boot sector of a Bochs machine: it loads a kernel and its initrd from the first disk and
 * enters the kernel by PVH.
 *
 * The BIOS loads the first sector to 0x7c00 and jumps to it in real mode.  That sector loads
 * the rest of this file behind itself, asks the BIOS for the memory map (E820), and goes on in
 * protected mode without paging, where every address below 4 GiB can be written.  The pieces
 * of kernel and initrd are read by PIO, since no mode of the BIOS's disk service reaches above
 * 1 MiB.
 *
 * Whoever makes the disk fills in what lies between boot_entry and the end, by these symbols:
 * where the kernel is entered, its command line, where the initrd is, and the pieces.  A piece
 * is three words: the address it goes to, the sector it begins at (0: it is filled with
 * zeros), and its length in sectors.  One of length 0 is the last.
 *
 * On entry to the kernel, as the PVH boot protocol wants it (Xen's docs/misc/pvh.pandoc):
 * %ebx has the address of the start_info, CS, DS, ES and SS are flat, paging and interrupts
 * are off.
 */

#define SECTOR		512
#define PORT_COM1	0x3f8
#define PORT_COM1_STATUS	0x3fd
#define PORT_COM1_FORMAT	0x3fb
#define COM1_8_BITS	3
#define COM1_IDLE	0x40
#define PORT_A20	0x92
/* Bochs ends when it reads the word Shutdown from this port. */
#define PORT_SHUTDOWN	0x8900
/* The first ATA channel (ATA/ATAPI-6, clauses 7 and 8). */
#define ATA_DATA	0x1f0
#define ATA_COUNT	0x1f2
#define ATA_LBA		0x1f3
#define ATA_DEVICE	0x1f6
#define ATA_COMMAND	0x1f7
#define ATA_CONTROL	0x3f6
#define ATA_NO_IRQ	0x02
#define ATA_BY_LBA	0xe0
#define ATA_ERROR	0x01
#define ATA_DATA_READY	0x08
#define ATA_BUSY	0x80
#define READ_MULTIPLE	0xc4
#define SET_MULTIPLE	0xc6
/* Sectors that are transferred between two looks at the status, and by one command. */
#define BLOCK		16
#define COMMAND_MOST	256
#define E820_ENTRY	24
#define E820_MOST	32
#define SMAP		0x534d4150
#define PVH_MAGIC	0x336ec578
#define CODE		0x08
#define DATA		0x10

	.text
	.code16
	.globl	boot_start
boot_start:
	cli
	xorw	%ax, %ax
	movw	%ax, %ds
	movw	%ax, %es
	movw	%ax, %ss
	movw	$boot_start, %sp
	cld
	ljmp	$0, $1f
1:	movb	$0x42, %ah		/* extended read; %dl still has the drive */
	movw	$rest, %si
	int	$0x13
	jc	real_fail

	/* Each entry that the BIOS writes is one of PVH's memory map as well. */
	xorl	%ebx, %ebx
	movw	$memory_map, %di
2:	movl	$0xe820, %eax
	movl	$E820_ENTRY, %ecx
	movl	$SMAP, %edx
	int	$0x15
	jc	3f
	incl	memory_map_entries
	addw	$E820_ENTRY, %di
	cmpl	$E820_MOST, memory_map_entries
	je	3f
	testl	%ebx, %ebx
	jnz	2b
3:
	inb	$PORT_A20, %al
	orb	$2, %al
	outb	%al, $PORT_A20
	lgdt	gdt_pointer
	movl	%cr0, %eax
	orb	$1, %al
	movl	%eax, %cr0
	ljmpl	$CODE, $flat

	/* The disk address packet of the rest of this file. */
	.balign	4
rest:
	.byte	16, 0
	.word	(end - boot_start) / SECTOR - 1
	.word	boot_start + SECTOR, 0
	.quad	1

	/* Says what failed and ends the machine, in the mode that it is assembled for. */
	.macro	say_and_end text
	movw	$PORT_COM1_FORMAT, %dx
	movb	$COM1_8_BITS, %al
	outb	%al, %dx
	movl	$\text, %esi
91:	movw	$PORT_COM1_STATUS, %dx
	inb	%dx, %al
	testb	$COM1_IDLE, %al
	jz	91b
	lodsb
	testb	%al, %al
	jz	92f
	movw	$PORT_COM1, %dx
	outb	%al, %dx
	jmp	91b
92:	movl	$shutdown, %esi
	movl	$8, %ecx
	movw	$PORT_SHUTDOWN, %dx
	rep outsb
93:	hlt
	jmp	93b
	.endm

real_fail:
	say_and_end unread
unread:	.asciz	"boot sector: the disk cannot be read\n"
shutdown:
	.ascii	"Shutdown"

	.org	SECTOR - 2
	.word	0xaa55

	.code32
flat:
	movw	$DATA, %ax
	movw	%ax, %ds
	movw	%ax, %es
	movw	%ax, %ss
	movl	$boot_start, %esp
	movw	$ATA_CONTROL, %dx
	movb	$ATA_NO_IRQ, %al
	outb	%al, %dx
	movw	$ATA_DEVICE, %dx
	movb	$ATA_BY_LBA, %al
	outb	%al, %dx
	movw	$ATA_COUNT, %dx
	movb	$BLOCK, %al
	outb	%al, %dx
	movw	$ATA_COMMAND, %dx
	movb	$SET_MULTIPLE, %al
	outb	%al, %dx

	movl	$boot_pieces, %esi
next_piece:
	lodsl
	movl	%eax, %edi		/* where it goes to */
	lodsl
	movl	%eax, %ebx		/* its next sector */
	lodsl
	movl	%eax, %ebp		/* how many sectors are left */
	testl	%ebp, %ebp
	jz	enter
	testl	%ebx, %ebx
	jnz	next_command
	movl	%ebp, %ecx
	shll	$7, %ecx		/* 128 words a sector */
	xorl	%eax, %eax
	rep stosl
	jmp	next_piece

next_command:
	movl	$COMMAND_MOST, %ecx
	cmpl	%ecx, %ebp
	jae	1f
	movl	%ebp, %ecx
1:	subl	%ecx, %ebp
	call	wait_idle
	movw	$ATA_COUNT, %dx
	movb	%cl, %al		/* 0 stands for 256 */
	outb	%al, %dx
	movl	%ebx, %eax
	incl	%edx			/* the three registers of the sector's low bits */
	outb	%al, %dx
	shrl	$8, %eax
	incl	%edx
	outb	%al, %dx
	shrl	$8, %eax
	incl	%edx
	outb	%al, %dx
	shrl	$8, %eax
	orb	$ATA_BY_LBA, %al
	incl	%edx
	outb	%al, %dx
	incl	%edx
	movb	$READ_MULTIPLE, %al
	outb	%al, %dx
	addl	%ecx, %ebx
next_block:
	call	wait_data
	pushl	%ecx
	cmpl	$BLOCK, %ecx
	jbe	1f
	movl	$BLOCK, %ecx
1:	movl	%ecx, %eax
	shll	$7, %ecx		/* 128 words a sector */
	movw	$ATA_DATA, %dx
	rep insl
	popl	%ecx
	subl	%eax, %ecx
	jnz	next_block
	testl	%ebp, %ebp
	jnz	next_command
	jmp	next_piece

wait_idle:
	movw	$ATA_COMMAND, %dx
1:	inb	%dx, %al
	testb	$ATA_BUSY, %al
	jnz	1b
	ret

wait_data:
	call	wait_idle
	testb	$ATA_ERROR, %al
	jnz	flat_fail
	testb	$ATA_DATA_READY, %al
	jz	wait_data
	ret

flat_fail:
	say_and_end unread

enter:
	movl	$start_info, %ebx
	jmp	*boot_entry

	.balign	8
gdt:
	.quad	0
	.quad	0x00cf9b000000ffff	/* flat code, 32 bit */
	.quad	0x00cf93000000ffff	/* flat data */
gdt_pointer:
	.word	gdt_pointer - gdt - 1
	.long	gdt

	/* struct hvm_start_info, version 1, and what it points to. */
	.balign	8
start_info:
	.long	PVH_MAGIC, 1, 0, 1	/* magic, version, flags, modules */
	.quad	boot_initrd
	.quad	boot_command_line
	.quad	0			/* the kernel looks for the RSDP itself */
	.quad	memory_map
memory_map_entries:
	.long	0, 0
memory_map:
	.fill	E820_ENTRY * E820_MOST, 1, 0

	.globl	boot_entry, boot_initrd, boot_pieces, boot_command_line
boot_entry:
	.long	0, 0
boot_initrd:
	.quad	0, 0, 0, 0		/* address, bytes, command line, reserved */
boot_pieces:
	.fill	3 * 64, 4, 0
boot_command_line:
	.fill	2048, 1, 0
	.balign	SECTOR
end:
