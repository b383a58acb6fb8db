/*
 * The timed part: KVM_RUN until a doorbell, bounded by a watchdog.  Nothing here
 * prints; every function returns 0 or a negative errno.
 */
#include <cpuid.h>
#include <errno.h>
#include <linux/kvm.h>
#include <linux/perf_event.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/io.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "shared.h"

#ifndef sigev_notify_thread_id	/* glibc < 2.38 hides its name */
#define sigev_notify_thread_id _sigev_un._tid
#endif

/* A real-time signal that neither glibc nor Python uses. */
#define WATCHDOG_SIGNAL_OFFSET 5
#define WATCHDOG_SIGNAL (SIGRTMIN + WATCHDOG_SIGNAL_OFFSET)

/* How often the watchdog repeats itself after it fired first: the thread may have
 * been between the check and the call. */
#define WATCHDOG_REPEAT_NS 10000000

static __thread struct kvm_run *volatile watched;
static __thread volatile sig_atomic_t expired;

/* KVM_RUN looks at immediate_exit after it has blocked the race with signals
 * (KVM API, 5. The kvm_run structure), so setting it here loses no wake-up. */
static void watchdog_fired(int sig)
{
	(void)sig;
	expired = 1;
	if (watched)
		watched->immediate_exit = 1;
}

/* At load: a thread may be sent the signal before it has run a guest. */
__attribute__((constructor)) static void watchdog_install(void)
{
	struct sigaction action = { .sa_handler = watchdog_fired };

	sigaction(WATCHDOG_SIGNAL, &action, NULL);
}

static int watchdog_start(timer_t *timer, uint64_t timeout_ns)
{
	struct itimerspec when = {
		.it_value = { timeout_ns / 1000000000, timeout_ns % 1000000000 },
		.it_interval = { 0, WATCHDOG_REPEAT_NS },
	};
	struct sigevent event = { .sigev_notify = SIGEV_THREAD_ID, .sigev_signo = WATCHDOG_SIGNAL };

	event.sigev_notify_thread_id = syscall(SYS_gettid);
	if (timer_create(CLOCK_MONOTONIC, &event, timer) < 0)
		return -errno;
	if (timer_settime(*timer, 0, &when, NULL) < 0) {
		int error = -errno;

		timer_delete(*timer);
		return error;
	}
	return 0;
}

/* How often this thread was preempted so far. */
static long preemptions(void)
{
	struct rusage usage;

	return getrusage(RUSAGE_THREAD, &usage) ? 0 : usage.ru_nivcsw;
}

/*
 * Run until the guest rings a doorbell or exits for any reason but the op `pio` and the
 * end of a sample, whose port writes are taken here.  preempted[0] counts the samples,
 * up to SHARED_MAX_SAMPLES, and preempted[n] is how often the thread was preempted in
 * the n-th.  -ETIME: the watchdog ended it; -EINTR: another signal did.
 */
static int kvmh_run(int vcpu, struct kvm_run *run, uint64_t timeout_ns, uint32_t *preempted)
{
	long before = preemptions();
	timer_t timer;
	int error;

	expired = 0;
	watched = run;
	error = watchdog_start(&timer, timeout_ns);
	if (error) {
		watched = NULL;
		return error;
	}
	for (;;) {
		error = ioctl(vcpu, KVM_RUN, 0) < 0 ? -errno : 0;
		if (error || run->exit_reason != KVM_EXIT_IO)
			break;
		if (run->io.port == PORT_SAMPLE && preempted[0] < SHARED_MAX_SAMPLES) {
			long now = preemptions();

			preempted[++preempted[0]] = now - before;
			before = now;
		} else if (run->io.port != PORT_PIO) {
			break;
		}
	}
	watched = NULL;
	timer_delete(timer);
	if ((error == -EINTR || error == -EAGAIN) && expired)
		error = -ETIME;
	run->immediate_exit = 0;
	return error;
}

static int kvmh_ioctl(int fd, unsigned long request, uintptr_t argument)
{
	int result = ioctl(fd, request, argument);

	return result < 0 ? -errno : result;
}

/* CPUID is an instruction: Python has no other way to ask who the hypervisor
 * under us is.  registers: eax, ebx, ecx, edx. */
static void kvmh_cpuid(uint32_t leaf, uint32_t registers[4])
{
	__cpuid_count(leaf, 0, registers[0], registers[1], registers[2], registers[3]);
}

/*
 * Ask for a trace of the samples that come next, under a label: NOPs of a form that nobody
 * else uses, one per bit.  lab/plugin.h knows them where QEMU watches; they are NOPs
 * everywhere else.
 */
static void kvmh_trace_next(uint32_t label)
{
	for (int bit = 31; bit >= 0; bit--) {
		if (label >> bit & 1)
			__asm__ volatile(".byte 0x0f, 0x1f, 0x80, 'K', 'V', 'M', 1");
		else
			__asm__ volatile(".byte 0x0f, 0x1f, 0x80, 'K', 'V', 'M', 0");
	}
	__asm__ volatile(".byte 0x0f, 0x1f, 0x80, 'K', 'V', 'M', 2");
}

/*
 * The I/O ports of an emulated machine, for what runs as root inside it.  /dev/port writes bytes
 * only, and there are devices that take nothing but two at once.
 */
static int kvmh_ports(unsigned long first, unsigned long count)
{
	return ioperm(first, count, 1) ? -errno : 0;
}

static void kvmh_out8(uint16_t port, uint8_t value)
{
	outb(value, port);
}

static void kvmh_out16(uint16_t port, uint16_t value)
{
	outw(value, port);
}

static void kvmh_in8(uint16_t port, uint8_t *buffer, unsigned long count)
{
	insb(port, buffer, count);
}

/*
 * Count an event on a thread (0: the calling one), perf_event_open(2), from kvmh_event_switch() on.
 * What is read from it is struct { u64 count, enabled, running; }.  Returns a descriptor.
 */
static int kvmh_event_open(uint32_t type, uint64_t config, int guest_only, int host_only, int thread)
{
	struct perf_event_attr attr = {
		.type = type,
		.size = sizeof(attr),
		.config = config,
		.read_format = PERF_FORMAT_TOTAL_TIME_ENABLED | PERF_FORMAT_TOTAL_TIME_RUNNING,
		.disabled = 1,
		.exclude_host = guest_only != 0,
		.exclude_guest = host_only != 0,
	};
	int fd = syscall(SYS_perf_event_open, &attr, thread, -1, -1, PERF_FLAG_FD_CLOEXEC);

	return fd < 0 ? -errno : fd;
}

static uint64_t kvmh_now(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000000ULL + now.tv_nsec;
}

/* Sleep until CLOCK_MONOTONIC has come to this many ns. */
static void kvmh_sleep_until(uint64_t ns)
{
	struct timespec until = { .tv_sec = ns / 1000000000, .tv_nsec = ns % 1000000000 };

	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) == EINTR)
		;
}

#define TICK_NS		1500		/* an interrupt takes longer, a reading of the clock does not */
#define TICKS_ALIKE_NS	5000

/*
 * Return `lead` ns before the kernel's next tick: where reading the clock was held up shows where the
 * last ones were.  Returns after `most` ns at the latest.
 */
static void kvmh_before_tick(uint64_t lead, uint64_t most)
{
	uint64_t begin = kvmh_now(), last = begin, now, tick = 0, period = 0, until = 0;

	for (; (now = kvmh_now()) - begin < most && !(until && now >= until); last = now) {
		if (now - last < TICK_NS)
			continue;
		if (tick && period && last - tick < period + TICKS_ALIKE_NS &&
		    last - tick + TICKS_ALIKE_NS > period)
			until = last + period - lead;
		period = tick ? last - tick : 0;
		tick = last;
	}
}

/*
 * Write down when a tracepoint is passed on a CPU, by CLOCK_MONOTONIC, from kvmh_event_switch() on:
 * a record is struct { perf_event_header; u64 ns; }.  Returns a descriptor to be mapped.
 */
static int kvmh_event_log(uint64_t config, int cpu)
{
	struct perf_event_attr attr = {
		.type = PERF_TYPE_TRACEPOINT,
		.size = sizeof(attr),
		.config = config,
		.sample_period = 1,
		.sample_type = PERF_SAMPLE_TIME,
		.disabled = 1,
		.use_clockid = 1,
		.clockid = CLOCK_MONOTONIC,
	};
	int fd = syscall(SYS_perf_event_open, &attr, -1, cpu, -1, PERF_FLAG_FD_CLOEXEC);

	return fd < 0 ? -errno : fd;
}

static int kvmh_event_filter(int fd, const char *filter)
{
	return ioctl(fd, PERF_EVENT_IOC_SET_FILTER, filter) < 0 ? -errno : 0;
}

static int kvmh_event_switch(int fd, int on)
{
	return ioctl(fd, on ? PERF_EVENT_IOC_ENABLE : PERF_EVENT_IOC_DISABLE, 0) < 0 ? -errno : 0;
}

/* Says that what those samples left for later is done: another such form. */
static void kvmh_trace_settled(void)
{
	__asm__ volatile(".byte 0x0f, 0x1f, 0x80, 'K', 'V', 'M', 3");
}

#define PACE_TURNS 20000

/*
 * Ticks of the TSC that a fixed loop takes.  It keeps a core's ports for loads and additions busy, as
 * a core that another hyperthread shares cannot: a chain of dependent instructions would not notice.
 */
uint64_t kvmh_pace(void)
{
	static uint64_t words[8] __attribute__((aligned(64)));
	uint64_t turns = PACE_TURNS;
	uint64_t begin = __builtin_ia32_rdtsc();

	/* Aligned: in two lines of the instruction cache it takes half as long again. */
	__asm__ volatile(".p2align 6\n"
			 "1:\n\t"
			 "add 0(%1), %%rax\n\t"
			 "add 8(%1), %%rcx\n\t"
			 "add 16(%1), %%rdx\n\t"
			 "add 24(%1), %%rsi\n\t"
			 "dec %0\n\t"
			 "jnz 1b"
			 : "+r"(turns)
			 : "r"(words)
			 : "rax", "rcx", "rdx", "rsi", "cc", "memory");
	return __builtin_ia32_rdtsc() - begin;
}
