/* SPDX-License-Identifier: Apache-2.0 */
/* The calls that the seam stands in for; see seam.c and seam.h. */
#define _GNU_SOURCE
#include "seam.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define REAL(name)                                                                     \
    static __typeof__(&name) real;                                                     \
    if (!real)                                                                         \
    *(void **)&real = dlsym(RTLD_NEXT, #name)

/* A part of n: direct I/O takes whole sectors. */
static size_t part_of(size_t n, bool sectors)
{
    return sectors ? n / 2 / 512 * 512 : n > 1 ? n / 2 : n;
}

static void flip(void *buf, ssize_t n)
{
    if (n > 0)
        ((unsigned char *)buf)[(size_t)seam_nth() * 7919 % (size_t)n] ^=
            (unsigned char)(1 << seam_nth() % 8);
}

#define WRITES(name, as, params, args, at, sectors)                                    \
    ssize_t name params                                                                \
    {                                                                                  \
        REAL(name);                                                                    \
        struct iovec part = {(void *)buf, n};                                          \
        switch (seam_meet(#as, fd, NULL)) {                                            \
        case FAIL:                                                                     \
            return -1;                                                                 \
        case TEAR:                                                                     \
            n = part_of(n, sectors);                                                   \
            real args;                                                                 \
            seam_die();                                                                \
        case SHORT:                                                                    \
            n = part_of(n, sectors) ? part_of(n, sectors) : n;                         \
            break;                                                                     \
        default:                                                                       \
            break;                                                                     \
        }                                                                              \
        long number = record_write(fd, &part, 1, n, at);                               \
        ssize_t done = real args;                                                      \
        record_done(number, done > 0);                                                 \
        return done;                                                                   \
    }

WRITES(write, write, (int fd, const void *buf, size_t n), (fd, buf, n), -1, false)
WRITES(pwrite, pwrite, (int fd, const void *buf, size_t n, off_t at), (fd, buf, n, at),
       at, true)
WRITES(pwrite64, pwrite, (int fd, const void *buf, size_t n, off64_t at),
       (fd, buf, n, at), at, true)
WRITES(send, send, (int fd, const void *buf, size_t n, int flags), (fd, buf, n, flags),
       -1, false)

#define GATHERS(name, as, params, args, at)                                            \
    ssize_t name params                                                                \
    {                                                                                  \
        REAL(name);                                                                    \
        if (seam_meet(#as, fd, NULL) == FAIL)                                          \
            return -1;                                                                 \
        long number = record_write(fd, parts, count, SIZE_MAX, at);                    \
        ssize_t done = real args;                                                      \
        record_done(number, done > 0);                                                 \
        return done;                                                                   \
    }

GATHERS(writev, write, (int fd, const struct iovec *parts, int count),
        (fd, parts, count), -1)
GATHERS(pwritev2, pwrite,
        (int fd, const struct iovec *parts, int count, off_t at, int flags),
        (fd, parts, count, at, flags), at)
GATHERS(pwritev64v2, pwrite,
        (int fd, const struct iovec *parts, int count, off64_t at, int flags),
        (fd, parts, count, at, flags), at)

#define READS(name, as, params, args, sectors)                                         \
    ssize_t name params                                                                \
    {                                                                                  \
        REAL(name);                                                                    \
        enum verdict bent = seam_meet(#as, fd, NULL);                                  \
        if (bent == FAIL)                                                              \
            return -1;                                                                 \
        if (bent == SHORT)                                                             \
            n = part_of(n, sectors) ? part_of(n, sectors) : n;                         \
        ssize_t done = real args;                                                      \
        if (bent == FLIP)                                                              \
            flip(buf, done);                                                           \
        return done;                                                                   \
    }

READS(pread, pread, (int fd, void *buf, size_t n, off_t at), (fd, buf, n, at), true)
READS(pread64, pread, (int fd, void *buf, size_t n, off64_t at), (fd, buf, n, at), true)
READS(read, read, (int fd, void *buf, size_t n), (fd, buf, n), false)
READS(recv, recv, (int fd, void *buf, size_t n, int flags), (fd, buf, n, flags), false)

#define CALL(type, name, as, fd, path, params, args)                                   \
    type name params                                                                   \
    {                                                                                  \
        REAL(name);                                                                    \
        if (seam_meet(#as, fd, path) == FAIL)                                          \
            return -1;                                                                 \
        return real args;                                                              \
    }

/* The same, and what it asks of storage is noted. */
#define STORES(type, name, as, params, args, noted)                                    \
    type name params                                                                   \
    {                                                                                  \
        REAL(name);                                                                    \
        if (seam_meet(#as, fd, NULL) == FAIL)                                          \
            return -1;                                                                 \
        long number = noted;                                                           \
        type done = real args;                                                         \
        record_done(number, done == 0);                                                \
        return done;                                                                   \
    }

/* Punched holes and zeroed ranges are zeros; a plain allocation may make the file
 * larger. */
static long record_allocation(int fd, int mode, off_t at, off_t n)
{
    return mode ? record_zeros(fd, at, n) : record_size(fd, at + n, true);
}

STORES(int, fsync, fsync, (int fd), (fd), record_flush(fd))
STORES(int, fdatasync, fdatasync, (int fd), (fd), record_flush(fd))
STORES(int, ftruncate, ftruncate, (int fd, off_t n), (fd, n), record_size(fd, n, false))
STORES(int, ftruncate64, ftruncate, (int fd, off64_t n), (fd, n),
       record_size(fd, n, false))
STORES(int, fallocate, fallocate, (int fd, int mode, off_t at, off_t n),
       (fd, mode, at, n), record_allocation(fd, mode, at, n))
STORES(int, fallocate64, fallocate, (int fd, int mode, off64_t at, off64_t n),
       (fd, mode, at, n), record_allocation(fd, mode, at, n))
CALL(int, sync_file_range, sync_file_range, fd, NULL,
     (int fd, off64_t at, off64_t n, unsigned flags), (fd, at, n, flags))
CALL(ssize_t, sendmsg, send, fd, NULL, (int fd, const struct msghdr *m, int flags),
     (fd, m, flags))
CALL(ssize_t, recvmsg, recv, fd, NULL, (int fd, struct msghdr *m, int flags),
     (fd, m, flags))

/* Changes a name: the log has it in the order in which the folders did. */
#define NAMES(name, as, path, params, args, noted)                                     \
    int name params                                                                    \
    {                                                                                  \
        REAL(name);                                                                    \
        if (seam_meet(#as, -1, path) == FAIL)                                          \
            return -1;                                                                 \
        record_names();                                                                \
        int done = real args;                                                          \
        int saved = errno;                                                             \
        noted;                                                                         \
        record_names_end();                                                            \
        errno = saved;                                                                 \
        return done;                                                                   \
    }

NAMES(rename, rename, to, (const char *from, const char *to), (from, to),
      record_moved('R', AT_FDCWD, from, AT_FDCWD, to, done == 0))
NAMES(renameat, rename, to, (int a, const char *from, int b, const char *to),
      (a, from, b, to), record_moved('R', a, from, b, to, done == 0))
NAMES(renameat2, rename, to,
      (int a, const char *from, int b, const char *to, unsigned flags),
      (a, from, b, to, flags), record_moved('R', a, from, b, to, done == 0))
NAMES(link, link, to, (const char *from, const char *to), (from, to),
      record_moved('L', AT_FDCWD, from, AT_FDCWD, to, done == 0))
NAMES(linkat, link, to, (int a, const char *from, int b, const char *to, int flags),
      (a, from, b, to, flags), record_moved('L', a, from, b, to, done == 0))
NAMES(unlink, unlink, path, (const char *path), (path),
      record_removed('U', AT_FDCWD, path, done == 0))
NAMES(unlinkat, unlink, path, (int at, const char *path, int flags), (at, path, flags),
      record_removed(flags &AT_REMOVEDIR ? 'X' : 'U', at, path, done == 0))
NAMES(mkdir, mkdir, path, (const char *path, mode_t mode), (path, mode),
      record_removed('M', AT_FDCWD, path, done == 0))
NAMES(mkdirat, mkdir, path, (int at, const char *path, mode_t mode), (at, path, mode),
      record_removed('M', at, path, done == 0))
NAMES(rmdir, rmdir, path, (const char *path), (path),
      record_removed('X', AT_FDCWD, path, done == 0))
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
    if (seam_meet("ioctl", fd, NULL) == FAIL)
        return -1;
    if (request != BLKZEROOUT && request != BLKDISCARD)
        return real(fd, request, arg);
    const uint64_t *range = arg;
    long number = record_zeros(fd, (off_t)range[0], (off_t)range[1]);
    int done = real(fd, request, arg);
    record_done(number, done == 0);
    return done;
}

/* As Linux has it: the descriptor is gone also where the call fails. */
int close(int fd)
{
    REAL(close);
    bool fails = seam_meet("close", fd, NULL) == FAIL;
    int why = errno;
    int done = real(fd);
    if (fails)
        errno = why;
    return fails ? -1 : done;
}

/* A file that was not there before is a new name. */
static bool is_new(int at, const char *path, int flags)
{
    return (flags & O_CREAT) && syscall(SYS_faccessat, at, path, F_OK) < 0;
}

#define OPENS(name, at, params, args)                                                  \
    int name params                                                                    \
    {                                                                                  \
        REAL(name);                                                                    \
        va_list more;                                                                  \
        va_start(more, flags);                                                         \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0;        \
        va_end(more);                                                                  \
        if (seam_meet("open", -1, path) == FAIL)                                       \
            return -1;                                                                 \
        record_names();                                                                \
        bool made = is_new(at, path, flags);                                           \
        int fd = real args;                                                            \
        int saved = errno;                                                             \
        record_opened(fd, made);                                                       \
        if (fd >= 0 && (flags & O_TRUNC))                                              \
            record_done(record_size(fd, 0, false), true);                              \
        record_names_end();                                                            \
        errno = saved;                                                                 \
        return fd;                                                                     \
    }

OPENS(open, AT_FDCWD, (const char *path, int flags, ...), (path, flags, mode))
OPENS(open64, AT_FDCWD, (const char *path, int flags, ...), (path, flags, mode))
OPENS(openat, dir, (int dir, const char *path, int flags, ...),
      (dir, path, flags, mode))
OPENS(openat64, dir, (int dir, const char *path, int flags, ...),
      (dir, path, flags, mode))

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
    if ((number == SYS_renameat2 &&
         seam_meet("rename", -1, (const char *)a[3]) == FAIL) ||
        (number == SYS_openat2 && seam_meet("open", -1, (const char *)a[1]) == FAIL))
        return -1;
    if (number != SYS_renameat2 && number != SYS_openat2)
        return real(number, a[0], a[1], a[2], a[3], a[4], a[5]);
    record_names();
    bool made = number == SYS_openat2 &&
                is_new((int)a[0], (const char *)a[1], (int)*(const uint64_t *)a[2]);
    long done = real(number, a[0], a[1], a[2], a[3], a[4], a[5]);
    int saved = errno;
    if (number == SYS_openat2)
        record_opened((int)done, made);
    else
        record_moved('R', (int)a[0], (const char *)a[1], (int)a[2], (const char *)a[3],
                     done == 0);
    record_names_end();
    errno = saved;
    return done;
}

int pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*run)(void *),
                   void *arg)
{
    REAL(pthread_create);
    return seam_meet("thread", -1, "thread") == FAIL ? EAGAIN
                                                     : real(thread, attr, run, arg);
}

int clock_gettime(clockid_t id, struct timespec *ts)
{
    REAL(clock_gettime);
    int rc = real(id, ts);
    if (id == CLOCK_REALTIME)
        ts->tv_sec += seam_clock_s();
    return rc;
}

int gettimeofday(struct timeval *restrict tv, void *restrict zone)
{
    REAL(gettimeofday);
    int rc = real(tv, zone);
    tv->tv_sec += seam_clock_s();
    return rc;
}

time_t time(time_t *out)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    if (out)
        *out = now.tv_sec;
    return now.tv_sec;
}

/* A file that was put back after a simulated power cut is known by its number. */
#define STATS(name, params, args)                                                      \
    int name params                                                                    \
    {                                                                                  \
        REAL(name);                                                                    \
        int rc = real args;                                                            \
        if (rc == 0)                                                                   \
            st->st_ino = seam_inode(st->st_ino);                                       \
        return rc;                                                                     \
    }

STATS(fstat, (int fd, struct stat *st), (fd, st))
STATS(fstat64, (int fd, struct stat64 *st), (fd, st))
STATS(stat, (const char *path, struct stat *st), (path, st))
STATS(stat64, (const char *path, struct stat64 *st), (path, st))
STATS(lstat, (const char *path, struct stat *st), (path, st))
STATS(lstat64, (const char *path, struct stat64 *st), (path, st))
STATS(fstatat, (int at, const char *path, struct stat *st, int flags),
      (at, path, st, flags))
STATS(fstatat64, (int at, const char *path, struct stat64 *st, int flags),
      (at, path, st, flags))

/* _exit is the last point: the process has said all that it will say. */
void _exit(int status)
{
    seam_meet("exit", -1, "exit");
    syscall(SYS_exit_group, status);
    __builtin_unreachable();
}
