/*
 * A plugin of QEMU's TCG: how often a booted kernel (L1) executed, in each sample, what a clock
 * of instructions cannot weigh: flushes of caches and TLBs, loads of control registers, writes
 * of MSRs, entries of its guest.  A sample is what lies between two RDTSCs of the guest
 * inside the guest (L2).
 *
 * Options	out=FILE	a line a request: its label, how many samples were seen, the counts
 *		samples=N	how many samples follow a request (default 1)
 *
 * Who measures asks by NOPs that nobody else uses (core.c, kvmh_trace_next), which spell a label.
 * Where no plugin listens they are NOPs.
 *
 * Debian ships no qemu-plugin.h, so what is used of the plugin API is declared here.  It is the
 * same in all of its versions but for insn_data, which copies from 3 on.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct tb;
struct insn;

struct info {
	const char *target_name;
	struct {
		int min;
		int cur;
	} version;
	bool system_emulation;
	struct {
		int smp_vcpus;
		int max_vcpus;
	} system;
};

/* Loads and stores: asked for stores alone, QEMU 7.2 says nothing. */
enum { NO_REGISTERS = 0, ANY_ACCESS = 3 };

typedef void tb_call(uint64_t id, struct tb *tb);
typedef void exec_call(unsigned int vcpu, void *data);
typedef void memory_call(unsigned int vcpu, uint32_t access, uint64_t address, void *data);
typedef void exit_call(uint64_t id, void *data);

void qemu_plugin_register_vcpu_tb_trans_cb(uint64_t id, tb_call *call);
void qemu_plugin_register_vcpu_insn_exec_cb(struct insn *insn, exec_call *call, int flags,
					    void *data);
void qemu_plugin_register_vcpu_mem_cb(struct insn *insn, memory_call *call, int flags, int which,
				      void *data);
void qemu_plugin_register_atexit_cb(uint64_t id, exit_call *call, void *data);
size_t qemu_plugin_tb_n_insns(const struct tb *tb);
struct insn *qemu_plugin_tb_get_insn(const struct tb *tb, size_t index);
size_t qemu_plugin_insn_size(const struct insn *insn);
uint64_t qemu_plugin_insn_vaddr(const struct insn *insn);
/* Before version 3 it takes one argument and returns where the bytes are. */
uintptr_t qemu_plugin_insn_data(const struct insn *insn, void *into, size_t size);

__attribute__((weak)) void *qemu_plugin_scoreboard_new(size_t size);

#define EXPORT __attribute__((visibility("default")))
EXPORT int qemu_plugin_version;

#define LONGEST_INSN	15
#define MOST_VMRUNS	16

/* model/counters.py names them, in this order. */
enum opcode {
	WBINVD, CLFLUSH, INVLPG, INVPCID, INVLPGA, MOV_TO_CR3, MOV_TO_CR, WRMSR, VERW, CPUID,
	PORT_IO, VMRUN, TLB_CONTROL, OPCODES, OTHER = OPCODES,
};

static int api;
static int output = -1;
static uint64_t counts[OPCODES];
static bool in_l2;
static bool in_sample;
static unsigned long samples = 1;	/* that follow a request */
static unsigned long left;		/* of those, how many are still to come */
static uint32_t label;
static bool asked;

/* Where the kernel goes on after each of its VMRUNs: what runs until then is L2. */
static uint64_t after_vmrun[MOST_VMRUNS];
static unsigned int vmruns;

/* The opcode of an instruction after its prefixes, of which the last two tell: 0x66 and REX.R. */
static enum opcode two_bytes(const uint8_t *code, size_t size, bool p66, bool rex_r)
{
	uint8_t modrm = size > 1 ? code[1] : 0;
	unsigned int reg = modrm >> 3 & 7;
	bool memory = modrm >> 6 != 3;

	switch (code[0]) {
	case 0x00:
		return reg == 5 ? VERW : OTHER;
	case 0x01:
		if (memory)
			return reg == 7 ? INVLPG : OTHER;
		return modrm == 0xd8 || modrm == 0xc2 || modrm == 0xc3 ? VMRUN :
		       modrm == 0xdf ? INVLPGA : OTHER;
	case 0x08: case 0x09:
		return WBINVD;
	case 0x22:
		return rex_r ? OTHER : reg == 3 ? MOV_TO_CR3 : MOV_TO_CR;
	case 0x30:
		return WRMSR;
	case 0x38:
		return p66 && size > 2 && modrm == 0x82 ? INVPCID : OTHER;
	case 0xa2:
		return CPUID;
	case 0xae:
		return memory && reg == 7 ? CLFLUSH : OTHER;
	}
	return OTHER;
}

static enum opcode opcode_of(const uint8_t *code, size_t size)
{
	static const uint8_t prefixes[] = {
		0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0x66, 0x67, 0xf0, 0xf2, 0xf3,
	};
	bool p66 = false, rex_r = false;

	while (size && (memchr(prefixes, code[0], sizeof(prefixes)) || (code[0] & 0xf0) == 0x40)) {
		p66 |= code[0] == 0x66;
		rex_r |= (code[0] & 0xf4) == 0x44;
		code++;
		size--;
	}
	if (size > 1 && code[0] == 0x0f)
		return two_bytes(code + 1, size - 1, p66, rex_r);
	if (size && ((code[0] & 0xf4) == 0xe4 || (code[0] & 0xfc) == 0x6c))
		return PORT_IO;
	return OTHER;
}

/*
 * movb $not-0, 0x5c(%reg), with a prefix or an SIB byte if the register needs them: the form in
 * which KVM writes to a VMCB's tlb_ctl what is to be flushed at the next entry.
 */
static bool sets_tlb_control(const uint8_t *code, size_t size)
{
	if (size && code[0] == 0x41) {
		code++;
		size--;
	}
	if (size < 4 || code[0] != 0xc6 || (code[1] & 0xf8) != 0x40)
		return false;
	if ((code[1] & 7) == 4) {
		code++;
		size--;
	}
	return size == 4 && code[2] == 0x5c && code[3];
}

static void executed(unsigned int vcpu, void *data)
{
	uint64_t *count = data;

	(void)vcpu;
	if (in_sample && !in_l2)
		++*count;
}

/* A VMCB is a page of its own: any other structure is elsewhere in its page. */
static void stored(unsigned int vcpu, uint32_t access, uint64_t address, void *data)
{
	(void)access;
	if ((address & 0xfff) == 0x5c)
		executed(vcpu, data);
}

static void enters(unsigned int vcpu, void *data)
{
	executed(vcpu, data);
	in_l2 = true;
}

static void is_back(unsigned int vcpu, void *data)
{
	(void)vcpu;
	(void)data;
	in_l2 = false;
}

static void put(void)
{
	char line[32 * (OPCODES + 2)];
	size_t size;

	size = sprintf(line, "%u %lu", label, samples - left);
	for (int i = 0; i < OPCODES; i++)
		size += sprintf(line + size, " %llu", (unsigned long long)counts[i]);
	line[size++] = '\n';
	if (write(output, line, size) != (ssize_t)size)
		fprintf(stderr, "opcodes: cannot be written: %s\n", strerror(errno));
	memset(counts, 0, sizeof(counts));
	asked = in_sample = false;
	left = 0;
}

static void rdtsc_begins(unsigned int vcpu, void *data)
{
	(void)vcpu;
	(void)data;
	if (!in_l2 || !left)
		return;
	in_sample = !in_sample;
	left -= !in_sample;
	if (!left)
		put();
}

/* A label is spelled bit by bit, the highest first. */
static void label_bit(unsigned int vcpu, void *data)
{
	(void)vcpu;
	if (asked)
		put();
	label = label << 1 | (data != NULL);
}

static void label_ends(unsigned int vcpu, void *data)
{
	(void)vcpu;
	(void)data;
	left = samples;
	asked = true;
}

static void read_code(struct insn *insn, void *into, size_t size)
{
	if (api >= 3)
		qemu_plugin_insn_data(insn, into, size);
	else
		memcpy(into, (void *)qemu_plugin_insn_data(insn, NULL, 0), size);
}

static void watch(struct insn *insn, const uint8_t *code, size_t size)
{
	static const uint8_t rdtsc[] = { 0x0f, 0x31 };
	/* nopl disp32(%rax), the displacement "KVM" and what is said */
	static const uint8_t request[] = { 0x0f, 0x1f, 0x80, 'K', 'V', 'M' };
	enum opcode opcode = opcode_of(code, size);

	if (size == sizeof(rdtsc) && !memcmp(code, rdtsc, size))
		qemu_plugin_register_vcpu_insn_exec_cb(insn, rdtsc_begins, NO_REGISTERS, NULL);
	if (size == 7 && !memcmp(code, request, sizeof(request)))
		qemu_plugin_register_vcpu_insn_exec_cb(insn, code[6] < 2 ? label_bit : label_ends,
						       NO_REGISTERS, code[6] ? &label : NULL);
	if (sets_tlb_control(code, size))
		qemu_plugin_register_vcpu_mem_cb(insn, stored, NO_REGISTERS, ANY_ACCESS,
						 &counts[TLB_CONTROL]);
	if (opcode != OTHER)
		qemu_plugin_register_vcpu_insn_exec_cb(insn, opcode == VMRUN ? enters : executed,
						       NO_REGISTERS, &counts[opcode]);
}

/* A block is translated again now and then. */
static void note_vmrun(uint64_t end)
{
	for (unsigned int n = 0; n < vmruns; n++)
		if (after_vmrun[n] == end)
			return;
	if (vmruns == MOST_VMRUNS)
		abort();
	after_vmrun[vmruns++] = end;
}

static void block_translated(uint64_t id, struct tb *tb)
{
	size_t count = qemu_plugin_tb_n_insns(tb);
	uint8_t code[LONGEST_INSN];

	(void)id;
	for (size_t i = 0; i < count; i++) {
		struct insn *insn = qemu_plugin_tb_get_insn(tb, i);
		size_t size = qemu_plugin_insn_size(insn);
		uint64_t at = qemu_plugin_insn_vaddr(insn);

		for (unsigned int n = 0; n < vmruns; n++)
			if (after_vmrun[n] == at)
				qemu_plugin_register_vcpu_insn_exec_cb(insn, is_back, NO_REGISTERS,
								       NULL);
		if (size > sizeof(code))
			continue;
		read_code(insn, code, size);
		if (opcode_of(code, size) == VMRUN)
			note_vmrun(at + size);
		watch(insn, code, size);
	}
}

static void qemu_ends(uint64_t id, void *data)
{
	(void)id;
	(void)data;
	if (asked)
		put();
}

EXPORT int qemu_plugin_install(uint64_t id, const struct info *info, int argc, char **argv)
{
	api = info->version.cur;
	if (!info->system_emulation || info->system.max_vcpus != 1) {
		fprintf(stderr, "opcodes: it follows one CPU\n");
		return -1;
	}
	for (int i = 0; i < argc; i++) {
		if (!strncmp(argv[i], "out=", 4))
			output = open(argv[i] + 4, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
		else if (sscanf(argv[i], "samples=%lu", &samples) != 1)
			fprintf(stderr, "opcodes: no option %s\n", argv[i]);
	}
	if (output < 0) {
		fprintf(stderr, "opcodes: out=FILE: %s\n", strerror(errno));
		return -1;
	}
	qemu_plugin_register_vcpu_tb_trans_cb(id, block_translated);
	qemu_plugin_register_atexit_cb(id, qemu_ends, NULL);
	return 0;
}

/* Read before anything is called: QEMU refuses a version that it does not know. */
__attribute__((constructor)) static void choose_version(void)
{
	qemu_plugin_version = qemu_plugin_scoreboard_new ? 2 : 1;
}
