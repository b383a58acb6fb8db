/*
 * A plugin of QEMU's TCG: how often a booted kernel (L1) executed, in each sample, what a clock
 * of instructions cannot weigh: flushes of caches and TLBs, loads of control registers, writes
 * of MSRs, entries of its guest.
 *
 * The file has one line per request: its label, how many samples were seen, the counts.
 */
#define PLUGIN "opcodes"
#include "plugin.h"

#define MOST_VMRUNS	16

/* model/counters.py names them, in this order. */
enum opcode {
	WBINVD, CLFLUSH, INVLPG, INVPCID, INVLPGA, MOV_TO_CR3, MOV_TO_CR, WRMSR, VERW, CPUID,
	PORT_IO, VMRUN, TLB_CONTROL, OPCODES, OTHER = OPCODES,
};

static uint64_t counts[OPCODES];
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
	if (!at_edge())
		return;
	in_sample = !in_sample;
	left -= !in_sample;
	if (!left)
		put();
}

static void label_bit(unsigned int vcpu, void *data)
{
	(void)vcpu;
	if (asked)
		put();
	spell(data);
}

static void label_ends(unsigned int vcpu, void *data)
{
	(void)vcpu;
	(void)data;
	left = samples;
	asked = true;
}

static void watch(struct insn *insn, const uint8_t *code, size_t size)
{
	enum opcode opcode = opcode_of(code, size);

	watch_window(insn, code, size);
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
	if (!set_up(info, argc, argv))
		return -1;
	qemu_plugin_register_vcpu_tb_trans_cb(id, block_translated);
	qemu_plugin_register_atexit_cb(id, qemu_ends, NULL);
	return 0;
}
