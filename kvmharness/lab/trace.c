/*
 * A plugin of QEMU's TCG: which blocks of instructions ran in a sample, each with how many of its
 * instructions were begun; and which of the kernel's ran after it, until what the sample left for
 * later was done.
 *
 * The file, in 64-bit little-endian words: HEADER, then one word per event (see below), then
 * the blocks that the events name, then END, the number of words before the blocks, and the
 * number of blocks.  A file without END was cut short.
 *
 * L2 is told apart by one place: after VMRUN it runs until a block starts behind that VMRUN.  The
 * place is one in the emulator's memory, since another kernel inside may have its own KVM at the
 * same virtual address.
 */
#define PLUGIN "trace"
#include "plugin.h"

#define HEADER	0x32435254484d564bULL	/* "KVMHTRC2" */
#define END	0x31444e45484d564bULL	/* "KVMHEND1" */

/*
 * Until it hears that nothing is left to do (core.c, kvmh_trace_settled), which is said before the
 * first sample too, the plugin counts nothing.
 *
 * An event: bits 0-31 the block, 32-43 how many of its instructions were begun, 44-55 the
 * first of them, 56-63 what it is.  BEGIN, END_OF_SAMPLE and SETTLED have the label for the block:
 * what stands between the last two ran later.
 * The word after a LEAVE and a RESUME is where in its task the kernel keeps the stack of the
 * thread that it switches from and to: the thread's name.
 */
enum { IN_L1 = 0, IN_L2 = 1, BEGIN = 2, END_OF_SAMPLE = 3, LEAVE = 4, RESUME = 5, SETTLED = 6 };
#define KIND_SHIFT	56
#define FIRST_SHIFT	44
#define BEGUN_SHIFT	32

/* model/tracing.py: in the label of samples of a single op. */
#define SINGLE		(1U << 31)

#define KERNEL_HALF	(1ULL << 63)

#define BUFFERED	65536

struct block {
	struct block *next;
	uint64_t start;
	const char *place;	/* in the emulator's memory */
	const char *behind;	/* there too, behind the last instruction, perhaps in another page */
	uint32_t number;
	uint16_t insns;
	uint16_t bytes;
	bool vmrun;		/* its last instruction is one */
	bool used;
	uint8_t data[];		/* the size of each instruction, then their bytes */
};

/* Of the VM that `label` names: how many samples of many ops will be recorded, and were. */
static uint32_t vm_label = SINGLE;
static unsigned long wanted, recorded;
static bool later;			/* a sample was recorded, and is not settled */

static uint64_t plugin;			/* our name in the API */

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
static const char *after_vmrun;

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
	if (!current || !count)
		return;
	if (!in_sample && !(later && !in_l2 && current->start & KERNEL_HALF))
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
		in_l2 = block->place != after_vmrun;
	} else if (current && current->vmrun) {
		after_vmrun = current->behind;
		in_l2 = block->place != after_vmrun;
	}
	current = block;
	first = 0;
}

/* Whether the instruction itself is counted by now or not: the same at either end. */
static void rdtsc_begins(unsigned int vcpu, void *data)
{
	(void)vcpu;
	(void)data;
	if (!at_edge())
		return;
	account();
	in_sample = !in_sample;
	event(in_sample ? BEGIN : END_OF_SAMPLE, label);
	later = !in_sample;
	if (in_sample)
		return;
	left--;
	if (!(label & SINGLE)) {
		wanted--;
		recorded++;
	}
}

static void label_bit(unsigned int vcpu, void *data)
{
	(void)vcpu;
	if (in_sample || later) {
		account();
		if (in_sample)
			event(END_OF_SAMPLE, label);
		in_sample = later = false;
	}
	spell(data);
}

/* Of each VM the first samples are wanted, and of a single op as many. */
static void label_ends(unsigned int vcpu, void *data)
{
	(void)vcpu;
	(void)data;
	if ((label & ~SINGLE) != vm_label) {
		vm_label = label & ~SINGLE;
		wanted = samples;
		recorded = 0;
	}
	left = label & SINGLE ? recorded : wanted;
	recorded = label & SINGLE ? 0 : recorded;
}

static void settled(unsigned int vcpu, void *data)
{
	(void)vcpu;
	(void)data;
	if (later) {
		account();
		event(SETTLED, label);
	}
	later = false;
	left = 0;
}

static void stack_switched(uint64_t kind, uint64_t address)
{
	if ((!in_sample && !later) || in_l2)
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

/* core.c, kvmh_trace_settled */
static bool says_settled(const uint8_t *code, size_t size)
{
	static const uint8_t all_done[] = { 0x0f, 0x1f, 0x80, 'K', 'V', 'M', 3 };

	return size == sizeof(all_done) && !memcmp(code, all_done, size);
}

static void watch(struct insn *insn, const uint8_t *code, size_t size)
{
	/* __switch_to_asm: mov %rsp, disp32(%rdi) and mov disp32(%rsi), %rsp */
	static const uint8_t save_stack[] = { 0x48, 0x89, 0xa7 };
	static const uint8_t load_stack[] = { 0x48, 0x8b, 0xa6 };

	if (qemu_plugin_scoreboard_new)
		qemu_plugin_register_vcpu_insn_exec_inline_per_vcpu(insn, ADD_U64, counter, 1);
	else
		qemu_plugin_register_vcpu_insn_exec_inline(insn, ADD_U64, &own_counter, 1);
	watch_window(insn, code, size);
	if (says_settled(code, size))
		qemu_plugin_register_vcpu_insn_exec_cb(insn, settled, NO_REGISTERS, NULL);
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
		.place = qemu_plugin_insn_haddr(qemu_plugin_tb_get_insn(tb, 0)),
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
		block->behind = qemu_plugin_insn_haddr(insn) + size;
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

/* From here on every instruction is counted: all that was translated before is forgotten. */
static void counts(uint64_t id)
{
	qemu_plugin_register_vcpu_tb_trans_cb(id, block_translated);
	qemu_plugin_register_atexit_cb(id, qemu_ends, NULL);
}

static void wakes(unsigned int vcpu, void *data)
{
	static bool awake;

	(void)vcpu;
	(void)data;
	if (!awake)
		qemu_plugin_reset(plugin, counts);
	awake = true;
}

/* Until whoever measures says that samples will come nothing is counted: a boot is long. */
static void block_translated_asleep(uint64_t id, struct tb *tb)
{
	size_t count = qemu_plugin_tb_n_insns(tb);
	uint8_t code[LONGEST_INSN];

	(void)id;
	for (size_t i = 0; i < count; i++) {
		struct insn *insn = qemu_plugin_tb_get_insn(tb, i);
		size_t size = qemu_plugin_insn_size(insn);

		if (size > sizeof(code))
			continue;
		read_code(insn, code, size);
		if (says_settled(code, size))
			qemu_plugin_register_vcpu_insn_exec_cb(insn, wakes, NO_REGISTERS, NULL);
	}
}

EXPORT int qemu_plugin_install(uint64_t id, const struct info *info, int argc, char **argv)
{
	if (!set_up(info, argc, argv))
		return -1;
	if (qemu_plugin_scoreboard_new)
		counter.score = qemu_plugin_scoreboard_new(sizeof(uint64_t));
	put(HEADER);
	plugin = id;
	qemu_plugin_register_vcpu_init_cb(id, vcpu_begins);
	qemu_plugin_register_vcpu_tb_trans_cb(id, block_translated_asleep);
	qemu_plugin_register_atexit_cb(id, qemu_ends, NULL);
	return 0;
}
