/*
 * The harness's yardstick: the same guest blob, the same set-up and the same
 * doorbells, with nothing between them but C.
 *
 *	bare BLOB ENTRY real16|long64 CPU ITERATIONS SAMPLES VMS
 *
 * ENTRY is the address of op_OP.  One line a VM on stdout: the
 * nanoseconds that its creation and load took, those of its destruction, then its
 * samples in TSC ticks.  The first measurement of each VM is a warm-up and is not
 * printed.  Exit status 1 with the failing call on stderr.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/kvm.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "../guests/shared.h"

#define TSS_ADDR 0xfffbd000UL
#define IDENTITY_MAP_ADDR 0xfffbc000UL
#define MAX_CPUID 256

struct machine {
	int vm, vcpu;
	size_t run_size;
	uint8_t *memory;
	struct kvm_run *run;
};

static void check(int bad, const char *what)
{
	if (bad) {
		perror(what);
		exit(1);
	}
}

static int do_ioctl(int fd, unsigned long request, unsigned long argument, const char *name)
{
	int r = ioctl(fd, request, argument);

	check(r < 0, name);
	return r;
}
#define IOCTL(fd, request, argument) do_ioctl(fd, request, (unsigned long)(argument), #request)

static uint64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ULL + t.tv_nsec;
}

static void set_mode(struct machine *m, int long_mode, uint64_t entry)
{
	struct kvm_sregs sregs;
	struct kvm_regs regs = { .rip = entry, .rflags = 2, .rbp = GUEST_SHARED };

	IOCTL(m->vcpu, KVM_GET_SREGS, &sregs);
	if (long_mode) {
		uint64_t *pml4 = (void *)(m->memory + GUEST_PAGE_TABLES);
		struct kvm_segment code = { .limit = 0xffffffff, .selector = GUEST_CS, .type = 11,
					    .present = 1, .s = 1, .l = 1, .g = 1 };
		struct kvm_segment data = { .limit = 0xffffffff, .selector = GUEST_DS, .type = 3,
					    .present = 1, .db = 1, .s = 1, .g = 1 };

		pml4[0] = GUEST_PAGE_TABLES + 0x1003;
		pml4[511] = GUEST_PAGE_TABLES + 0x2003;
		pml4[512] = GUEST_PAGE_TABLES + 0x3003;
		pml4[1024 + 510] = GUEST_PAGE_TABLES + 0x3003;
		pml4[1536] = 0x83;
		sregs.cr3 = GUEST_PAGE_TABLES;
		sregs.cr0 = 0x80010031;
		sregs.cr4 = 0x20;
		sregs.efer = 0x500;
		sregs.cs = code;
		sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = data;
	} else {
		sregs.cr0 = 0x10;
		sregs.cs.base = sregs.cs.selector = 0;
	}
	IOCTL(m->vcpu, KVM_SET_SREGS, &sregs);
	IOCTL(m->vcpu, KVM_SET_REGS, &regs);
}

static struct machine create(int kvm, const void *blob, size_t size, int long_mode, uint64_t entry)
{
	static struct { struct kvm_cpuid2 head; struct kvm_cpuid_entry2 entries[MAX_CPUID]; } cpuid;
	struct machine m = { .vm = IOCTL(kvm, KVM_CREATE_VM, 0) };
	uint64_t identity = IDENTITY_MAP_ADDR;
	struct kvm_userspace_memory_region region = { .memory_size = GUEST_MEMORY };

	IOCTL(m.vm, KVM_SET_IDENTITY_MAP_ADDR, &identity);
	IOCTL(m.vm, KVM_SET_TSS_ADDR, TSS_ADDR);
	IOCTL(m.vm, KVM_CREATE_IRQCHIP, 0);
	m.memory = mmap(NULL, GUEST_MEMORY, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	check(m.memory == MAP_FAILED, "mmap");
	madvise(m.memory, GUEST_MEMORY, MADV_NOHUGEPAGE);
	memcpy(m.memory + GUEST_CODE, blob, size);
	*(uint64_t *)(m.memory + GUEST_SHARED + SHARED_NEXT) = entry;
	*(uint64_t *)(m.memory + GUEST_SHARED + SHARED_BARRIER) = GUEST_SHARED + SHARED_ARRIVED;
	*(uint32_t *)(m.memory + GUEST_SHARED + SHARED_VCPUS) = 1;
	region.userspace_addr = (uintptr_t)m.memory;
	IOCTL(m.vm, KVM_SET_USER_MEMORY_REGION, &region);
	m.vcpu = IOCTL(m.vm, KVM_CREATE_VCPU, 0);
	m.run_size = IOCTL(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
	m.run = mmap(NULL, m.run_size, PROT_READ | PROT_WRITE, MAP_SHARED, m.vcpu, 0);
	check(m.run == MAP_FAILED, "mmap of struct kvm_run");
	cpuid.head.nent = MAX_CPUID;
	IOCTL(kvm, KVM_GET_SUPPORTED_CPUID, &cpuid);
	IOCTL(m.vcpu, KVM_SET_CPUID2, &cpuid);
	set_mode(&m, long_mode, entry);
	return m;
}

static void destroy(struct machine *m)
{
	munmap(m->run, m->run_size);
	close(m->vcpu);
	close(m->vm);
	munmap(m->memory, GUEST_MEMORY);
}

static void run_to_doorbell(struct machine *m, uint8_t value)
{
	for (;;) {
		uint8_t *data = (uint8_t *)m->run + m->run->io.data_offset;

		IOCTL(m->vcpu, KVM_RUN, 0);
		if (m->run->exit_reason != KVM_EXIT_IO) {
			fprintf(stderr, "exit reason %u\n", m->run->exit_reason);
			exit(1);
		}
		data = (uint8_t *)m->run + m->run->io.data_offset;
		if (m->run->io.port == PORT_DOORBELL && *data == value)
			return;
	}
}

static void measure(struct machine *m, uint32_t iterations, uint32_t samples)
{
	*(uint32_t *)(m->memory + GUEST_SHARED + SHARED_ITERATIONS) = iterations;
	*(uint32_t *)(m->memory + GUEST_SHARED + SHARED_SAMPLES) = samples;
	*(uint32_t *)(m->memory + GUEST_SHARED + SHARED_ARRIVED) = 0;
	run_to_doorbell(m, DOORBELL_BEGIN);
	run_to_doorbell(m, DOORBELL_END);
}

int main(int argc, char **argv)
{
	static uint8_t blob[GUEST_SHARED - GUEST_CODE];
	cpu_set_t cpus;
	size_t size;
	FILE *file;
	int kvm;

	if (argc != 8) {
		fprintf(stderr, "usage: bare BLOB ENTRY real16|long64 CPU ITERATIONS SAMPLES VMS\n");
		return 2;
	}
	file = fopen(argv[1], "rb");
	check(!file, argv[1]);
	size = fread(blob, 1, sizeof(blob), file);
	fclose(file);
	CPU_ZERO(&cpus);
	CPU_SET(atoi(argv[4]), &cpus);
	check(sched_setaffinity(0, sizeof(cpus), &cpus) < 0, "sched_setaffinity");
	kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	check(kvm < 0, "/dev/kvm");

	for (int vm = 0; vm < atoi(argv[7]); vm++) {
		uint32_t samples = atoi(argv[6]);
		uint64_t begin = now(), created, end;
		struct machine m = create(kvm, blob, size, !strcmp(argv[3], "long64"), atoi(argv[2]));
		uint64_t *stamps = (void *)(m.memory + GUEST_SHARED + SHARED_STAMPS);
		uint64_t ticks[SHARED_MAX_SAMPLES];

		created = now() - begin;
		measure(&m, atoi(argv[5]), 1);
		measure(&m, atoi(argv[5]), samples);
		for (uint32_t i = 0; i < samples; i++)
			ticks[i] = stamps[2 * i + 1] - stamps[2 * i];
		end = now();
		destroy(&m);
		printf("%lu %lu", created, now() - end);
		for (uint32_t i = 0; i < samples; i++)
			printf(" %lu", ticks[i]);
		putchar('\n');
	}
	return 0;
}
