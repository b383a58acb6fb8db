/*
 * What host and guest agree on: the guest's physical memory map, the page they
 * share, and the I/O ports.  Included by the assembler and by the C compiler,
 * and read by Python through the compiled core, so every number is written once.
 */
#ifndef KVMHARNESS_SHARED_H
#define KVMHARNESS_SHARED_H

/* Guest-physical memory map.  What real mode needs lies below 64 KiB, so that it
 * reaches it with segment bases of 0. */
#define GUEST_CODE		0x1000	/* the blob, up to GUEST_SHARED */
#define GUEST_SHARED		0x8000	/* vCPU 0's shared page */
#define GUEST_GDT		0x9000
#define GUEST_IDT		0xa000
#define GUEST_STACK		0xc000	/* its top; used by the proof and its handlers only */
#define GUEST_READ_ONLY		0xc000	/* the page behind GUEST_WINDOW */
#define GUEST_USER_CODE		0xd000	/* the page behind GUEST_USER_CODE_AT */
#define GUEST_PAGE_TABLES	0x10000	/* tables, one page each, as many as are needed */
#define GUEST_SHARED_MORE	0x100000	/* vCPU n's shared page: + n * SHARED_SIZE */
#define GUEST_MEMORY		0x200000	/* bytes of RAM in the first memslot, from 0 */
#define GUEST_PAGES		0x200000	/* @pages: the pages touched, a memslot */
#define GUEST_HUGE_PAGES	0x100000000	/* the same with @huge=1, clear of what lies below 4 GiB */
#define GUEST_SLOTS		0x400000000	/* @slots: the memslots nobody uses */

/* Virtual addresses where a guest pages; everything below 2 MiB is mapped as it is. */
#define GUEST_WINDOW		0x400000	/* GUEST_READ_ONLY, without write permission */
#define GUEST_USER_WINDOW	0x401000	/* the same page, and user mode may read it too */
#define GUEST_USER_CODE_AT	0x402000	/* GUEST_USER_CODE, which user mode may execute */
#define GUEST_FAULT_AT		0x403000	/* GUEST_USER_CODE, mapped by the fault on it only */
#define GUEST_PAGES_AT		0x800000	/* GUEST_PAGES */
#define GUEST_HIGH_HALF		0xffffffff80000000	/* @high=1: the low addresses again */

/* Segment selectors, and vectors that have a handler. */
#define GUEST_CS		0x08
#define GUEST_DS		0x10
#define VECTOR_UD		6
#define VECTOR_PF		14

/* A shared page, one a vCPU: offsets in bytes, little endian. */
#define SHARED_ITERATIONS	0x00	/* u32, in: ops in one sample, >= 1 */
#define SHARED_SAMPLES		0x04	/* u32, in: samples to take, 1..SHARED_MAX_SAMPLES */
#define SHARED_DONE		0x08	/* u32, out: samples taken so far */
#define SHARED_VCPUS		0x0c	/* u32, in: vCPUs that meet before each sample, 0: none waits */
#define SHARED_NEXT		0x10	/* u64, in: where to go after DOORBELL_END */
#define SHARED_BARRIER		0x18	/* u64, in: address of the SHARED_ARRIVED they count in */
#define SHARED_ARRIVED		0x20	/* u32, in 0: arrivals at the barrier so far */
#define SHARED_CR3_XOR		0x24	/* u32, in: the two roots' CR3 values, XORed */
#define SHARED_TOUCH_AT		0x28	/* u64, in: address of the first page touched */
#define SHARED_TOUCH_STRIDE	0x30	/* u32, in: bytes from one to the next */
#define SHARED_TOUCH_PAGES	0x34	/* u32, in: how many pages, >= 1 */
#define SHARED_EXPECTED		0x38	/* u32: 1 while the proof expects a page fault, 2 while work does */
#define SHARED_FAULT_CODE	0x3c	/* u32, out: an unexpected fault's error code */
#define SHARED_FAULT_CR2	0x40	/* u64, out: its address */
#define SHARED_FAULT_IP		0x48	/* u64, out: its instruction */
#define SHARED_FAULT_LEFT	0x50	/* u32, out: iterations that were left of the sample */
#define SHARED_CR0		0x54	/* u32: CR0 while an op keeps another register's value */
#define SHARED_ATTEMPTS		0x58	/* u32, in: attempts in one check of the proof, >= 1 */
#define SHARED_WORK		0x5c	/* u32, in: pieces of work in one iteration, >= 1 */
#define SHARED_FAULT_ENTRY	0x60	/* u64, in: address of the entry that maps GUEST_FAULT_AT */
#define SHARED_STAMPS		0x68	/* out: {u64 begin, u64 end} a sample, TSC ticks */
#define SHARED_SIZE		0x1000
#define SHARED_MAX_SAMPLES	249	/* (SHARED_SIZE - SHARED_STAMPS) / 16 */

/* The proof (prove_OP) finds records in the place of stamps, and fills them in: {u32 flags,
 * u32 error code, u32 low half of CR2, u32 the window's content afterwards}. */
#define PROOF_RECORD		16
#define PROOF_WP		(1 << 0)	/* flags, out: CR0.WP was set */
#define PROOF_FAULTED		(1 << 1)	/* out: the access faulted */
#define PROOF_UNDEFINED		(1 << 2)	/* out: the prefix was an undefined instruction */
#define PROOF_SET_WP		(1 << 8)	/* in: set CR0.WP beforehand */
#define PROOF_CLEAR_WP		(1 << 9)	/* in: clear it; else it stays as it is */
#define PROOF_USER		(1 << 10)	/* in: GUEST_USER_WINDOW, not GUEST_WINDOW */
#define PROOF_AC		(1 << 11)	/* in: with RFLAGS.AC set */
#define PROOF_FORCED		(1 << 12)	/* in: behind KVM's prefix that forces emulation */
#define PROOF_FETCH		(1 << 13)	/* in: no write, but code that is fetched from there */
#define PROOF_SET_CR4		(1 << 14)	/* in: CR4.SMEP and CR4.SMAP as the next two say */
#define PROOF_SMEP		(1 << 20)	/* where CR4 has them */
#define PROOF_SMAP		(1 << 21)
#define PROOF_CODE_AT		64	/* where in the window the code to fetch lies */

/* Ports.  Neither is claimed by KVM's in-kernel PIC, PIT or IOAPIC, so a write
 * ends KVM_RUN with KVM_EXIT_IO. */
#define PORT_DOORBELL		0xf4	/* the value written says which doorbell */
#define PORT_PIO		0xf5	/* the op `pio`: handled by the compiled loop */
#define PORT_SAMPLE		0xf6	/* a sample has ended: handled there too */

#define DOORBELL_BEGIN		1	/* parameters read; the samples follow */
#define DOORBELL_END		2	/* the samples are in the shared page */
#define DOORBELL_FAULT		3	/* a page fault that nobody expected: SHARED_FAULT_* */

#endif
