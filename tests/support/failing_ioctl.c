/*
 * Preloaded by the tests: makes one of KVM's ioctls fail.  fail_next(n, error) lets n of
 * them through, then has one return -1 with errno = error.  fail_requests has those that
 * came since, fail_seen says how many they are.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdarg.h>
#include <sys/ioctl.h>

#define KVMIO 0xAE
#define MOST 4096

static int (*real_ioctl)(int, unsigned long, void *);
static long fail_at = -1;
static int fail_with;
long fail_seen;
unsigned long fail_requests[MOST];

__attribute__((constructor)) static void find_real(void)
{
	real_ioctl = (int (*)(int, unsigned long, void *))dlsym(RTLD_NEXT, "ioctl");
}

void fail_next(long at, int error)
{
	fail_seen = 0;
	fail_with = error;
	fail_at = at;
}

int ioctl(int fd, unsigned long request, ...)
{
	va_list arguments;
	void *argument;

	va_start(arguments, request);
	argument = va_arg(arguments, void *);
	va_end(arguments);
	if (_IOC_TYPE(request) == KVMIO) {
		if (fail_seen < MOST)
			fail_requests[fail_seen] = request;
		if (fail_seen++ == fail_at) {
			errno = fail_with;
			return -1;
		}
	}
	return real_ioctl(fd, request, argument);
}
