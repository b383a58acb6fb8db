/*
 * What host and guest agree on: the guest's physical memory map, the page they
 * share, and the I/O ports.  Included by the assembler and by the C compiler,
 * and read by Python through the compiled core, so every number is written once.
 */
#ifndef KVMHARNESS_SHARED_H
#define KVMHARNESS_SHARED_H

/* Guest-physical memory map.  Everything lies below 64 KiB, so that real mode
 * reaches it with segment bases of 0. */
#define GUEST_CODE		0x1000	/* the blob, up to GUEST_SHARED */
#define GUEST_SHARED		0x8000	/* the shared page */
#define GUEST_PAGE_TABLES	0x9000	/* long mode: PML4, PDPT low, PDPT high, PD */
#define GUEST_MEMORY		0x200000	/* bytes of RAM, one memslot from 0 */

/* Where the kernel half begins that long64 runs in with @high=1. */
#define GUEST_HIGH_HALF		0xffffffff80000000

/* The shared page: offsets in bytes, little endian. */
#define SHARED_ITERATIONS	0x00	/* u32, in: ops in one sample, >= 1 */
#define SHARED_SAMPLES		0x04	/* u32, in: samples to take, 1..SHARED_MAX_SAMPLES */
#define SHARED_DONE		0x08	/* u32, out: samples taken so far */
#define SHARED_STAMPS		0x10	/* out: {u64 begin, u64 end} a sample, TSC ticks */
#define SHARED_SIZE		0x1000
#define SHARED_MAX_SAMPLES	255	/* (SHARED_SIZE - SHARED_STAMPS) / 16 */

/* Ports.  Neither is claimed by KVM's in-kernel PIC, PIT or IOAPIC, so a write
 * ends KVM_RUN with KVM_EXIT_IO. */
#define PORT_DOORBELL		0xf4	/* the value written says which doorbell */
#define PORT_PIO		0xf5	/* the op `pio`: handled by the compiled loop */

#define DOORBELL_BEGIN		1	/* parameters read; the samples follow */
#define DOORBELL_END		2	/* the samples are in the shared page */

#endif
