/* SPDX-License-Identifier: Apache-2.0 */
/* calls.c - preloaded into fastdl: how often is memory allocated, how many bytes are
 * copied?
 *
 * Counts every call that goes through the dynamic linker, from whatever library, and
 * writes `allocations N` and `copied_bytes N` to the file that FASTDL_GATE_CALLS names.
 * Allocations are those of the threads that move bytes: the first one is Python's,
 * which looks in now and then by the clock, and so counts seconds.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);

static atomic_ulong allocations, copied_bytes;
/* 0 not asked yet, 1 the first thread, 2 another one. */
static __thread int place __attribute__((tls_model("initial-exec")));
static void *(*real_memcpy)(void *, const void *, size_t);
static void *(*real_memmove)(void *, const void *, size_t);

static void count(atomic_ulong *counter, size_t n)
{
    atomic_fetch_add_explicit(counter, n, memory_order_relaxed);
}

static void count_allocation(void)
{
    if (!place)
        place = syscall(SYS_gettid) == getpid() ? 1 : 2;
    if (place == 2)
        count(&allocations, 1);
}

void *malloc(size_t size)
{
    count_allocation();
    return __libc_malloc(size);
}

void *calloc(size_t n, size_t size)
{
    count_allocation();
    return __libc_calloc(n, size);
}

void *realloc(void *old, size_t size)
{
    count_allocation();
    return __libc_realloc(old, size);
}

void *memalign(size_t align, size_t size)
{
    count_allocation();
    return __libc_memalign(align, size);
}

void *aligned_alloc(size_t align, size_t size)
{
    return memalign(align, size);
}

int posix_memalign(void **out, size_t align, size_t size)
{
    *out = memalign(align, size);
    return *out ? 0 : ENOMEM;
}

__attribute__((constructor)) static void find_real(void)
{
    *(void **)&real_memcpy = dlsym(RTLD_NEXT, "memcpy");
    *(void **)&real_memmove = dlsym(RTLD_NEXT, "memmove");
}

/* Before find_real() has run: right for overlapping ranges too. */
static void *move_bytes(void *to, const void *from, size_t n)
{
    volatile unsigned char *t = to;
    const volatile unsigned char *f = from;

    if (t < f)
        for (size_t i = 0; i < n; i++)
            t[i] = f[i];
    else
        for (size_t i = n; i > 0; i--)
            t[i - 1] = f[i - 1];
    return to;
}

void *memcpy(void *restrict to, const void *restrict from, size_t n)
{
    count(&copied_bytes, n);
    return real_memcpy ? real_memcpy(to, from, n) : move_bytes(to, from, n);
}

void *memmove(void *to, const void *from, size_t n)
{
    count(&copied_bytes, n);
    return real_memmove ? real_memmove(to, from, n) : move_bytes(to, from, n);
}

void *__memcpy_chk(void *to, const void *from, size_t n, size_t room)
{
    if (n > room)
        abort();
    return memcpy(to, from, n);
}

void *__memmove_chk(void *to, const void *from, size_t n, size_t room)
{
    if (n > room)
        abort();
    return memmove(to, from, n);
}

static void tell(void)
{
    const char *path = getenv("FASTDL_GATE_CALLS");
    FILE *out = path ? fopen(path, "w") : NULL;

    if (!out)
        return;
    fprintf(out, "allocations %lu\ncopied_bytes %lu\n", atomic_load(&allocations),
            atomic_load(&copied_bytes));
    fclose(out);
}

/* A process that ends by itself, and one that takes the short way out. */
__attribute__((destructor)) static void at_exit(void)
{
    tell();
}

void _exit(int status)
{
    tell();
    syscall(SYS_exit_group, status);
    __builtin_unreachable();
}
