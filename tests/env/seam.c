/* SPDX-License-Identifier: Apache-2.0 */
/* A seam between a program and the kernel, loaded with LD_PRELOAD: each call below is
 * numbered, logged, and the n-th one fails, comes short, or kills the process.
 * tests/env/seam.py builds it and says how it is asked.
 *
 *   SEAM_LOG=FILE         one line a call: number, name, result of readlink on its
 * descriptor SEAM_NTH=N            the call meant: the N-th of SEAM_CALL (a name, or *
 * for any), from 1 SEAM_DO=kill|tear|ERRNO   before it; in the middle of a write; or
 * fail with that number SEAM_FOR=once|ever    that call alone, or it and all later ones
 *   SEAM_ONLY=TEXT        count only calls on descriptors or paths that contain TEXT
 *   SEAM_AFTER=TEXT      count only from the first call on that contains TEXT
 *   SEAM_CLOCK=SECONDS    the wall clock is that far off
 *
 * Programs that this one starts run without the seam. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

static atomic_long counted, met;
static long nth;
static int log_fd = -1, fail_with;
static bool on, kills, tears, ever;
static long jump_s;
static const char *call_name = "*", *only, *after;
static atomic_bool begun;

enum verdict { PASS, FAIL, TEAR };

static void die(void)
{
    syscall(SYS_kill, syscall(SYS_getpid), SIGKILL);
    for (;;)
        syscall(SYS_pause);
}

__attribute__((constructor)) static void start(void)
{
    const char *text = getenv("SEAM_DO");

    if (getenv("SEAM_LOG"))
        log_fd = (int)syscall(SYS_openat, AT_FDCWD, getenv("SEAM_LOG"),
                              O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    nth = getenv("SEAM_NTH") ? atol(getenv("SEAM_NTH")) : 0;
    call_name = getenv("SEAM_CALL") ? getenv("SEAM_CALL") : "*";
    only = getenv("SEAM_ONLY");
    after = getenv("SEAM_AFTER");
    atomic_store(&begun, after == NULL);
    ever = getenv("SEAM_FOR") && strcmp(getenv("SEAM_FOR"), "ever") == 0;
    jump_s = getenv("SEAM_CLOCK") ? atol(getenv("SEAM_CLOCK")) : 0;
    kills = text && strcmp(text, "kill") == 0;
    tears = text && strcmp(text, "tear") == 0;
    fail_with = text && !kills && !tears ? atoi(text) : 0;
    unsetenv("LD_PRELOAD");
    on = nth > 0 || log_fd >= 0;
}

/* What the call is about: its path, or the name of its descriptor. */
static void name_of(int fd, const char *path, char *out, size_t room)
{
    char link[64];
    ssize_t n;

    if (path) {
        snprintf(out, room, "%s", path);
        return;
    }
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    n = syscall(SYS_readlink, link, out, room - 1);
    out[n > 0 ? n : 0] = '\0';
}

/* Python's own files: what fails to load is no download's fault. */
static bool is_code(const char *name)
{
    const char *dot = strrchr(name, '.');

    return strstr(name, "/lib/python") || strstr(name, "site-packages") ||
           (dot && (strcmp(dot, ".py") == 0 || strncmp(dot, ".pyc", 4) == 0 ||
                    strncmp(dot, ".so", 3) == 0));
}

static enum verdict meet(const char *call, int fd, const char *path)
{
    char name[512] = "", line[640];
    long number;

    if (!on)
        return PASS;
    int saved = errno;
    name_of(fd, path, name, sizeof name);
    if (log_fd >= 0 && strcmp(name, "/dev/null") != 0) {
        int n = snprintf(line, sizeof line, "%d %ld %s %s\n", (int)syscall(SYS_gettid),
                         atomic_fetch_add(&counted, 1) + 1, call, name);
        syscall(SYS_write, log_fd, line, (size_t)n);
    }
    errno = saved;
    if (!atomic_load(&begun) && strstr(name, after))
        atomic_store(&begun, true);
    if (nth <= 0 || !atomic_load(&begun) ||
        (strcmp(call_name, "*") != 0 && strcmp(call_name, call) != 0) ||
        (only && !strstr(name, only)) || (fail_with && is_code(name)))
        return PASS;
    number = atomic_fetch_add(&met, 1) + 1;
    if (number < nth || (number > nth && !ever))
        return PASS;
    if (kills)
        die();
    if (tears)
        return TEAR;
    if (fail_with == 0)
        return PASS;
    errno = fail_with;
    return FAIL;
}

#define REAL(name)                                                                     \
    static __typeof__(&name) real;                                                     \
    if (!real)                                                                         \
    *(void **)&real = dlsym(RTLD_NEXT, #name)

#define WRITES(name, at, params, args, half)                                           \
    ssize_t name params                                                                \
    {                                                                                  \
        REAL(name);                                                                    \
        switch (meet(#at, fd, NULL)) {                                                 \
        case FAIL:                                                                     \
            return -1;                                                                 \
        case TEAR:                                                                     \
            real half;                                                                 \
            die();                                                                     \
        default:                                                                       \
            return real args;                                                          \
        }                                                                              \
    }

WRITES(write, write, (int fd, const void *buf, size_t n), (fd, buf, n),
       (fd, buf, n / 2))
WRITES(pwrite, pwrite, (int fd, const void *buf, size_t n, off_t at), (fd, buf, n, at),
       (fd, buf, n / 2 / 512 * 512, at))
WRITES(pwrite64, pwrite, (int fd, const void *buf, size_t n, off64_t at),
       (fd, buf, n, at), (fd, buf, n / 2 / 512 * 512, at))
WRITES(send, send, (int fd, const void *buf, size_t n, int flags), (fd, buf, n, flags),
       (fd, buf, n / 2, flags))

#define CALL(type, name, as, fd, path, params, args)                                   \
    type name params                                                                   \
    {                                                                                  \
        REAL(name);                                                                    \
        if (meet(#as, fd, path) != PASS)                                               \
            return -1;                                                                 \
        return real args;                                                              \
    }

CALL(int, fsync, fsync, fd, NULL, (int fd), (fd))
CALL(int, fdatasync, fdatasync, fd, NULL, (int fd), (fd))
CALL(int, ftruncate, ftruncate, fd, NULL, (int fd, off_t n), (fd, n))
CALL(int, ftruncate64, ftruncate, fd, NULL, (int fd, off64_t n), (fd, n))
CALL(int, fallocate, fallocate, fd, NULL, (int fd, int mode, off_t at, off_t n),
     (fd, mode, at, n))
CALL(int, fallocate64, fallocate, fd, NULL, (int fd, int mode, off64_t at, off64_t n),
     (fd, mode, at, n))
CALL(int, sync_file_range, sync_file_range, fd, NULL,
     (int fd, off64_t at, off64_t n, unsigned flags), (fd, at, n, flags))
CALL(ssize_t, pread, pread, fd, NULL, (int fd, void *buf, size_t n, off_t at),
     (fd, buf, n, at))
CALL(ssize_t, pread64, pread, fd, NULL, (int fd, void *buf, size_t n, off64_t at),
     (fd, buf, n, at))
CALL(ssize_t, read, read, fd, NULL, (int fd, void *buf, size_t n), (fd, buf, n))
CALL(ssize_t, recv, recv, fd, NULL, (int fd, void *buf, size_t n, int flags),
     (fd, buf, n, flags))
CALL(int, rename, rename, -1, to, (const char *from, const char *to), (from, to))
CALL(int, renameat, rename, -1, to, (int a, const char *from, int b, const char *to),
     (a, from, b, to))
CALL(int, renameat2, rename, -1, to,
     (int a, const char *from, int b, const char *to, unsigned flags),
     (a, from, b, to, flags))
CALL(int, link, link, -1, to, (const char *from, const char *to), (from, to))
CALL(int, linkat, link, -1, to,
     (int a, const char *from, int b, const char *to, int flags),
     (a, from, b, to, flags))
CALL(int, unlink, unlink, -1, path, (const char *path), (path))
CALL(int, unlinkat, unlink, -1, path, (int at, const char *path, int flags),
     (at, path, flags))
CALL(int, mkdir, mkdir, -1, path, (const char *path, mode_t mode), (path, mode))
CALL(int, mkdirat, mkdir, -1, path, (int at, const char *path, mode_t mode),
     (at, path, mode))
CALL(int, rmdir, rmdir, -1, path, (const char *path), (path))
CALL(int, fchmod, fchmod, fd, NULL, (int fd, mode_t mode), (fd, mode))
CALL(int, flock, flock, fd, NULL, (int fd, int how), (fd, how))
CALL(int, socket, socket, -1, "socket", (int domain, int type, int protocol),
     (domain, type, protocol))
CALL(int, connect, connect, fd, NULL, (int fd, const struct sockaddr *to, socklen_t n),
     (fd, to, n))

int ioctl(int fd, unsigned long request, ...)
{
    REAL(ioctl);
    va_list more;
    va_start(more, request);
    void *arg = va_arg(more, void *);
    va_end(more);
    return meet("ioctl", fd, NULL) != PASS ? -1 : real(fd, request, arg);
}

#define OPENS(name, params, args)                                                      \
    int name params                                                                    \
    {                                                                                  \
        REAL(name);                                                                    \
        va_list more;                                                                  \
        va_start(more, flags);                                                         \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0;        \
        va_end(more);                                                                  \
        return meet("open", -1, path) != PASS ? -1 : real args;                        \
    }

OPENS(open, (const char *path, int flags, ...), (path, flags, mode))
OPENS(open64, (const char *path, int flags, ...), (path, flags, mode))
OPENS(openat, (int at, const char *path, int flags, ...), (at, path, flags, mode))
OPENS(openat64, (int at, const char *path, int flags, ...), (at, path, flags, mode))

/* The few that the program makes without a function of its own in the C library. */
long syscall(long number, ...)
{
    static long (*real)(long, ...);
    if (!real)
        *(void **)&real = dlsym(RTLD_NEXT, "syscall");
    va_list more;
    long a[6];
    va_start(more, number);
    for (int i = 0; i < 6; i++)
        a[i] = va_arg(more, long);
    va_end(more);
    if ((number == SYS_renameat2 && meet("rename", -1, (const char *)a[3]) != PASS) ||
        (number == SYS_openat2 && meet("open", -1, (const char *)a[1]) != PASS))
        return -1;
    return real(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

int pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*run)(void *),
                   void *arg)
{
    REAL(pthread_create);
    return meet("thread", -1, "thread") != PASS ? EAGAIN : real(thread, attr, run, arg);
}

int clock_gettime(clockid_t id, struct timespec *ts)
{
    REAL(clock_gettime);
    int rc = real(id, ts);
    if (jump_s && id == CLOCK_REALTIME)
        ts->tv_sec += jump_s;
    return rc;
}

/* _exit is the last point: the process has said all that it will say. */
void _exit(int status)
{
    meet("exit", -1, "exit");
    syscall(SYS_exit_group, status);
    __builtin_unreachable();
}
