/*
 * What the lab's plugins for QEMU's TCG share: the plugin API as far as they use it, the window
 * that they watch, and their options.  A sample is what lies between two RDTSCs of our guest inside
 * the guest (L2).  Where another kernel runs between it and the booted one, both are L2 here, and
 * the addresses tell them apart: no kernel and no process has anything where our guest's code is.
 *
 * Options	out=FILE	where the plugin writes
 *		samples=N	how many samples of a request count at most (default 1)
 *
 * Who measures asks by NOPs that nobody else uses (core.c, kvmh_trace_next), which spell a label
 * for the samples that follow.  Where no plugin listens they are NOPs.
 *
 * Debian ships no qemu-plugin.h, so what is used of the plugin API is declared here, of both of its
 * generations: 1 (QEMU 7.2) and from 2 on (QEMU 9 and later), told apart by symbols.
 *
 * A plugin defines PLUGIN, its name in messages, before it includes this.
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

#include "shared.h"

struct tb;
struct insn;
struct scoreboard;

/* qemu_plugin_u64: a counter that each vCPU has a copy of. */
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

/* Loads and stores: asked for one of them alone, QEMU 7.2 says nothing. */
enum { NO_REGISTERS = 0, ADD_U64 = 0, ANY_ACCESS = 3 };

typedef void vcpu_call(uint64_t id, unsigned int vcpu);
typedef void tb_call(uint64_t id, struct tb *tb);
typedef void exec_call(unsigned int vcpu, void *data);
typedef void memory_call(unsigned int vcpu, uint32_t access, uint64_t address, void *data);
typedef void reset_call(uint64_t id);
typedef void exit_call(uint64_t id, void *data);

void qemu_plugin_register_vcpu_init_cb(uint64_t id, vcpu_call *call);
void qemu_plugin_register_vcpu_tb_trans_cb(uint64_t id, tb_call *call);
void qemu_plugin_register_vcpu_tb_exec_cb(struct tb *tb, exec_call *call, int flags, void *data);
void qemu_plugin_register_vcpu_insn_exec_cb(struct insn *insn, exec_call *call, int flags,
					    void *data);
void qemu_plugin_register_vcpu_mem_cb(struct insn *insn, memory_call *call, int flags, int which,
				      void *data);
void qemu_plugin_reset(uint64_t id, reset_call *done);
void qemu_plugin_register_atexit_cb(uint64_t id, exit_call *call, void *data);
size_t qemu_plugin_tb_n_insns(const struct tb *tb);
uint64_t qemu_plugin_tb_vaddr(const struct tb *tb);
struct insn *qemu_plugin_tb_get_insn(const struct tb *tb, size_t index);
size_t qemu_plugin_insn_size(const struct insn *insn);
uint64_t qemu_plugin_insn_vaddr(const struct insn *insn);
/* Where the emulator has the instruction in its own memory: no other guest memory is there. */
const char *qemu_plugin_insn_haddr(const struct insn *insn);
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

#define LONGEST_INSN	15

static int api;
static int output = -1;

static bool in_l2;
static bool in_sample;
static unsigned long samples = 1;	/* that count of a request */
static unsigned long left;		/* of those, how many are still to come */
static uint32_t label;

/* Each plugin says what it does at an RDTSC, at a bit of a label, and when the label is whole. */
static void rdtsc_begins(unsigned int vcpu, void *data);
static void label_bit(unsigned int vcpu, void *data);
static void label_ends(unsigned int vcpu, void *data);

/* Whether an RDTSC that executes now begins or ends a sample. */
static bool at_edge(void)
{
	return in_l2 && left;
}

/* A label is spelled bit by bit, the highest first; `data` is NULL for a 0. */
static void spell(const void *data)
{
	label = label << 1 | (data != NULL);
}

/* Whether an address is one of our guest's code, wherever it runs (@high=1). */
static bool of_our_guest(uint64_t address)
{
	uint64_t low = address < GUEST_HIGH_HALF ? address : address - GUEST_HIGH_HALF;

	return low >= GUEST_CODE && low < GUEST_SHARED;
}

static void watch_window(struct insn *insn, const uint8_t *code, size_t size)
{
	static const uint8_t rdtsc[] = { 0x0f, 0x31 };
	/* nopl disp32(%rax), the displacement "KVM" and what is said: a bit, or the label's end */
	static const uint8_t request[] = { 0x0f, 0x1f, 0x80, 'K', 'V', 'M' };

	if (size == sizeof(rdtsc) && !memcmp(code, rdtsc, size) &&
	    of_our_guest(qemu_plugin_insn_vaddr(insn)))
		qemu_plugin_register_vcpu_insn_exec_cb(insn, rdtsc_begins, NO_REGISTERS, NULL);
	if (size == 7 && !memcmp(code, request, sizeof(request)) && code[6] <= 2)
		qemu_plugin_register_vcpu_insn_exec_cb(insn, code[6] < 2 ? label_bit : label_ends,
						       NO_REGISTERS, code[6] ? &label : NULL);
}

static void read_code(struct insn *insn, void *into, size_t size)
{
	if (api >= 3)
		qemu_plugin_insn_data(insn, into, size);
	else
		memcpy(into, (void *)qemu_plugin_insn_data(insn, NULL, 0), size);
}

static bool option(const char *text)
{
	if (!strncmp(text, "out=", 4)) {
		output = open(text + 4, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
		return output >= 0;
	}
	return sscanf(text, "samples=%lu", &samples) == 1;
}

/* Whether the plugin can work in this machine with these options; if not, it has said why. */
static bool set_up(const struct info *info, int argc, char **argv)
{
	api = info->version.cur;
	if (!info->system_emulation || info->system.max_vcpus != 1) {
		fprintf(stderr, PLUGIN ": it follows one CPU\n");
		return false;
	}
	for (int i = 0; i < argc; i++) {
		if (!option(argv[i])) {
			fprintf(stderr, PLUGIN ": option %s: %s\n", argv[i], strerror(errno));
			return false;
		}
	}
	if (output < 0)
		fprintf(stderr, PLUGIN ": no out=FILE\n");
	return output >= 0;
}

/* QEMU reads the version before it calls anything, and refuses one that it does not know. */
__attribute__((constructor)) static void choose_version(void)
{
	qemu_plugin_version = qemu_plugin_scoreboard_new ? 2 : 1;
}
