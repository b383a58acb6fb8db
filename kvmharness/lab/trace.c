/*
 * A plugin of QEMU's TCG: which blocks of instructions ran in a sample, that is between two
 * RDTSCs of the guest inside the guest (L2), each with how many of its instructions were
 * begun.
 *
 * Options	out=FILE	where the trace is written
 *		samples=N	how many samples to record each time that it is asked (default 1)
 *
 * Who measures asks by NOPs that nobody else uses (core.c, kvmh_trace_next): they spell a
 * label, and the samples that follow are recorded under it.  Where no plugin listens they
 * are NOPs.
 *
 * The file, in 64-bit little-endian words: HEADER, then a word an event (see below), then
 * the blocks that the events name, then END, the number of words before the blocks, and the
 * number of blocks.  A file without END was cut short.
 *
 * Debian ships no qemu-plugin.h, so what is used of the plugin API is declared here, of both
 * of its generations: 1 (QEMU 7.2) and from 2 on (QEMU 9 and later), told apart by symbols.
 * L2 is told apart without addresses: after VMRUN it runs until a block starts behind VMRUN.
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
struct scoreboard;

/* qemu_plugin_u64: a counter, a copy a vCPU. */
struct counter {
	struct scoreboard *score;
	size_t offset;
};

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

/* Loads and stores: asked for loads alone, QEMU 7.2 says nothing. */
enum { NO_REGISTERS = 0, ADD_U64 = 0, ANY_ACCESS = 3 };

typedef void vcpu_call(uint64_t id, unsigned int vcpu);
typedef void tb_call(uint64_t id, struct tb *tb);
typedef void exec_call(unsigned int vcpu, void *data);
typedef void memory_call(unsigned int vcpu, uint32_t access, uint64_t address, void *data);
typedef void exit_call(uint64_t id, void *data);

void qemu_plugin_register_vcpu_init_cb(uint64_t id, vcpu_call *call);
void qemu_plugin_register_vcpu_tb_trans_cb(uint64_t id, tb_call *call);
void qemu_plugin_register_vcpu_tb_exec_cb(struct tb *tb, exec_call *call, int flags, void *data);
void qemu_plugin_register_vcpu_insn_exec_cb(struct insn *insn, exec_call *call, int flags,
					    void *data);
void qemu_plugin_register_vcpu_mem_cb(struct insn *insn, memory_call *call, int flags, int which,
				      void *data);
void qemu_plugin_register_atexit_cb(uint64_t id, exit_call *call, void *data);
size_t qemu_plugin_tb_n_insns(const struct tb *tb);
uint64_t qemu_plugin_tb_vaddr(const struct tb *tb);
struct insn *qemu_plugin_tb_get_insn(const struct tb *tb, size_t index);
size_t qemu_plugin_insn_size(const struct insn *insn);
/* Before version 3 it takes one argument and returns where the bytes are. */
uintptr_t qemu_plugin_insn_data(const struct insn *insn, void *into, size_t size);

#define MAY_BE_MISSING __attribute__((weak))
/* Version 1 */
MAY_BE_MISSING void qemu_plugin_register_vcpu_insn_exec_inline(struct insn *insn, int op,
							       void *at, uint64_t value);
/* From version 2 on */
MAY_BE_MISSING struct scoreboard *qemu_plugin_scoreboard_new(size_t size);
MAY_BE_MISSING void *qemu_plugin_scoreboard_find(struct scoreboard *score, unsigned int vcpu);
MAY_BE_MISSING void qemu_plugin_register_vcpu_insn_exec_inline_per_vcpu(struct insn *insn, int op,
									struct counter entry,
									uint64_t value);

#define EXPORT __attribute__((visibility("default")))
EXPORT int qemu_plugin_version;

#define HEADER	0x31435254484d564bULL	/* "KVMHTRC1" */
#define END	0x31444e45484d564bULL	/* "KVMHEND1" */

/*
 * An event: bits 0-31 the block, 32-43 how many of its instructions were begun, 44-55 the
 * first of them, 56-63 what it is.  BEGIN and END_OF_SAMPLE have the label for the block.
 * The word after a LEAVE and a RESUME is where in its task the kernel keeps the stack of the
 * thread that it switches from and to: the thread's name.
 */
enum { IN_L1 = 0, IN_L2 = 1, BEGIN = 2, END_OF_SAMPLE = 3, LEAVE = 4, RESUME = 5 };
#define KIND_SHIFT	56
#define FIRST_SHIFT	44
#define BEGUN_SHIFT	32

#define LONGEST_INSN	15
#define BUFFERED	65536

struct block {
	struct block *next;
	uint64_t start;
	uint32_t number;
	uint16_t insns;
	uint16_t bytes;
	bool vmrun;		/* its last instruction is one */
	bool used;
	uint8_t data[];		/* the size of each instruction, then their bytes */
};

static int api;
static int output = -1;
static bool failed;
static uint64_t buffer[BUFFERED];
static size_t buffered;
static uint64_t words;

static struct block *blocks;
static uint32_t block_count;

static struct counter counter;
static uint64_t own_counter;
static uint64_t *begun = &own_counter;	/* instructions, since power-on */

static uint64_t seen;			/* of those, how many belong to blocks before this one */
static struct block *current;
static uint64_t first;			/* the first instruction of it that is not written down */
static uint64_t after_vmrun;
static bool in_l2;
static bool recording;

static unsigned long samples = 1;	/* to record each time */
static unsigned long left;		/* of those, how many are still to come */
static uint32_t label;

static void flush(void)
{
	const char *from = (const char *)buffer;
	size_t size = buffered * sizeof(buffer[0]);

	while (size && !failed) {
		ssize_t done = write(output, from, size);

		if (done < 0 && errno == EINTR)
			continue;
		failed = done <= 0;
		from += done;
		size -= failed ? 0 : done;
	}
	words += buffered;
	buffered = 0;
}

static void put(uint64_t word)
{
	if (buffered == BUFFERED)
		flush();
	buffer[buffered++] = word;
}

static void event(uint64_t kind, uint32_t number)
{
	put(kind << KIND_SHIFT | number);
}

/* Write down what was begun of the current block since it was last asked. */
static void account(void)
{
	uint64_t count = *begun - seen;
	uint64_t from = first;

	seen += count;
	first += count;
	if (!recording || !current || !count)
		return;
	current->used = true;
	put((uint64_t)(in_l2 ? IN_L2 : IN_L1) << KIND_SHIFT | from << FIRST_SHIFT |
	    count << BEGUN_SHIFT | current->number);
}

static void block_begins(unsigned int vcpu, void *data)
{
	struct block *block = data;

	(void)vcpu;
	account();
	if (in_l2) {
		in_l2 = block->start != after_vmrun;
	} else if (current && current->vmrun) {
		after_vmrun = current->start + current->bytes;
		in_l2 = block->start != after_vmrun;
	}
	current = block;
	first = 0;
}

/* Whether the instruction itself is counted by now or not: the same at either end. */
static void rdtsc_begins(unsigned int vcpu, void *data)
{
	(void)vcpu;
	(void)data;
	if (!in_l2 || !left)
		return;
	account();
	recording = !recording;
	event(recording ? BEGIN : END_OF_SAMPLE, label);
	left -= !recording;
}

/* A label is spelled bit by bit, the highest first. */
static void label_bit(unsigned int vcpu, void *data)
{
	(void)vcpu;
	label = label << 1 | (data != NULL);
}

static void label_ends(unsigned int vcpu, void *data)
{
	(void)vcpu;
	(void)data;
	if (recording) {
		account();
		event(END_OF_SAMPLE, label);
	}
	recording = false;
	left = samples;
}

static void stack_switched(uint64_t kind, uint64_t address)
{
	if (!recording || in_l2)
		return;
	account();
	event(kind, 0);
	put(address);
}

static void stack_saved(unsigned int vcpu, uint32_t access, uint64_t address, void *data)
{
	(void)vcpu;
	(void)access;
	(void)data;
	stack_switched(LEAVE, address);
}

static void stack_loaded(unsigned int vcpu, uint32_t access, uint64_t address, void *data)
{
	(void)vcpu;
	(void)access;
	(void)data;
	stack_switched(RESUME, address);
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
	static const uint8_t asked[] = { 0x0f, 0x1f, 0x80, 'K', 'V', 'M' };
	/* __switch_to_asm: mov %rsp, disp32(%rdi) and mov disp32(%rsi), %rsp */
	static const uint8_t save_stack[] = { 0x48, 0x89, 0xa7 };
	static const uint8_t load_stack[] = { 0x48, 0x8b, 0xa6 };

	if (qemu_plugin_scoreboard_new)
		qemu_plugin_register_vcpu_insn_exec_inline_per_vcpu(insn, ADD_U64, counter, 1);
	else
		qemu_plugin_register_vcpu_insn_exec_inline(insn, ADD_U64, &own_counter, 1);
	if (size == sizeof(rdtsc) && !memcmp(code, rdtsc, size))
		qemu_plugin_register_vcpu_insn_exec_cb(insn, rdtsc_begins, NO_REGISTERS, NULL);
	if (size == 7 && !memcmp(code, asked, sizeof(asked)))
		qemu_plugin_register_vcpu_insn_exec_cb(insn, code[6] < 2 ? label_bit : label_ends,
						       NO_REGISTERS, code[6] ? &label : NULL);
	if (size == 7 && !memcmp(code, save_stack, sizeof(save_stack)))
		qemu_plugin_register_vcpu_mem_cb(insn, stack_saved, NO_REGISTERS, ANY_ACCESS, NULL);
	if (size == 7 && !memcmp(code, load_stack, sizeof(load_stack)))
		qemu_plugin_register_vcpu_mem_cb(insn, stack_loaded, NO_REGISTERS, ANY_ACCESS, NULL);
}

static void block_translated(uint64_t id, struct tb *tb)
{
	static const uint8_t vmrun[] = { 0x0f, 0x01, 0xd8 };
	size_t count = qemu_plugin_tb_n_insns(tb);
	struct block *block = malloc(sizeof(*block) + count * (1 + LONGEST_INSN));
	uint8_t *code;

	(void)id;
	if (!block)
		abort();
	*block = (struct block){
		.next = blocks,
		.start = qemu_plugin_tb_vaddr(tb),
		.number = block_count++,
		.insns = count,
	};
	code = block->data + count;
	for (size_t i = 0; i < count; i++) {
		struct insn *insn = qemu_plugin_tb_get_insn(tb, i);
		size_t size = qemu_plugin_insn_size(insn);

		read_code(insn, code, size);
		watch(insn, code, size);
		block->vmrun = size == sizeof(vmrun) && !memcmp(code, vmrun, size);
		block->data[i] = size;
		block->bytes += size;
		code += size;
	}
	blocks = realloc(block, sizeof(*block) + count + block->bytes);
	qemu_plugin_register_vcpu_tb_exec_cb(tb, block_begins, NO_REGISTERS, blocks);
}

/* The scoreboard has no room for a vCPU before the vCPU is there. */
static void vcpu_begins(uint64_t id, unsigned int vcpu)
{
	(void)id;
	if (qemu_plugin_scoreboard_new)
		begun = qemu_plugin_scoreboard_find(counter.score, vcpu);
}

/* A block: its first address; number, count of instructions and of bytes; sizes and bytes. */
static void put_block(const struct block *block)
{
	size_t rest = block->insns + block->bytes;
	const uint8_t *from = block->data;

	put(block->start);
	put((uint64_t)block->bytes << 48 | (uint64_t)block->insns << 32 | block->number);
	while (rest) {
		size_t size = rest < sizeof(uint64_t) ? rest : sizeof(uint64_t);
		uint64_t word = 0;

		memcpy(&word, from, size);
		put(word);
		from += size;
		rest -= size;
	}
}

static void qemu_ends(uint64_t id, void *data)
{
	uint64_t count = 0, before = words + buffered;

	(void)id;
	(void)data;
	for (const struct block *block = blocks; block; block = block->next) {
		if (!block->used)
			continue;
		put_block(block);
		count++;
	}
	put(END);
	put(before);
	put(count);
	flush();
	if (close(output) || failed)
		fprintf(stderr, "trace: cannot be written whole\n");
}

static bool option(const char *text)
{
	if (!strncmp(text, "out=", 4)) {
		output = open(text + 4, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
		return output >= 0;
	}
	return sscanf(text, "samples=%lu", &samples) == 1;
}

EXPORT int qemu_plugin_install(uint64_t id, const struct info *info, int argc, char **argv)
{
	api = info->version.cur;
	if (!info->system_emulation || info->system.max_vcpus != 1) {
		fprintf(stderr, "trace: it follows one CPU\n");
		return -1;
	}
	for (int i = 0; i < argc; i++) {
		if (!option(argv[i])) {
			fprintf(stderr, "trace: option %s: %s\n", argv[i], strerror(errno));
			return -1;
		}
	}
	if (output < 0) {
		fprintf(stderr, "trace: no out=FILE\n");
		return -1;
	}
	if (qemu_plugin_scoreboard_new)
		counter.score = qemu_plugin_scoreboard_new(sizeof(uint64_t));
	put(HEADER);
	qemu_plugin_register_vcpu_init_cb(id, vcpu_begins);
	qemu_plugin_register_vcpu_tb_trans_cb(id, block_translated);
	qemu_plugin_register_atexit_cb(id, qemu_ends, NULL);
	return 0;
}

/* Read before anything is called: QEMU refuses a version that it does not know. */
__attribute__((constructor)) static void choose_version(void)
{
	qemu_plugin_version = qemu_plugin_scoreboard_new ? 2 : 1;
}
