/* user-mode-linux gives its guests' processes their extended registers back from a buffer that ends behind AVX-512. Linux
 * takes only buffers of the processor's full size, so that on processors with more registers (AMX) no guest boots. Loaded
 * before libc, this fills such a buffer up with what the process has.
 *
 * cc -shared -fPIC -o xstate.so xstate.c && LD_PRELOAD=./xstate.so linux.uml ...
 */
#define _GNU_SOURCE
#include <elf.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { HEADER = 512, MOST = 1 << 15 };
/* Not on the stack, of which a guest's kernel has little; the guest has one processor. */
static uint8_t all[MOST];
/* The registers in front of that end: x87, SSE, AVX, AVX-512, PKRU. */
static const uint64_t KNOWN = 0x2e7;

long ptrace(enum __ptrace_request request, ...) {
	va_list list;
	va_start(list, request);
	pid_t process = va_arg(list, pid_t);
	void *address = va_arg(list, void *), *data = va_arg(list, void *);
	va_end(list);
	long word = 0;
	/* As libc does it: what is read comes back as the value. */
	if (request == PTRACE_PEEKTEXT || request == PTRACE_PEEKDATA || request == PTRACE_PEEKUSER) {
		long failed = syscall(SYS_ptrace, request, process, address, &word);
		return failed < 0 ? failed : word;
	}
	if (request == PTRACE_SETREGSET && (uintptr_t)address == NT_X86_XSTATE) {
		struct iovec given = *(struct iovec *)data, full = {all, sizeof all};
		if (syscall(SYS_ptrace, PTRACE_GETREGSET, process, address, &full) == 0 && given.iov_len >= HEADER + sizeof(uint64_t)
		    && given.iov_len < full.iov_len) {
			uint64_t present;
			memcpy(all, given.iov_base, given.iov_len);
			memcpy(&present, all + HEADER, sizeof present);
			present &= KNOWN;
			memcpy(all + HEADER, &present, sizeof present);
			return syscall(SYS_ptrace, request, process, address, &full);
		}
	}
	return syscall(SYS_ptrace, request, process, address, data);
}
