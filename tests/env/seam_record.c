/* SPDX-License-Identifier: Apache-2.0 */
/* See seam.h. One entry: the header below, two names, then the bytes of a write.
 *
 *   kind   W write  Z zeros  T size  E size if larger  F flush  D done (ok in length)
 *          C created  O opened  R renamed  L linked  U unlinked  M folder made
 *          X folder removed
 */
#define _GNU_SOURCE
#include "seam.h"

#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

struct entry {
    char kind;
    char is_folder;
    uint16_t first, second;
    uint32_t mode;
    int64_t number, inode, device, offset, length, mtime_ns;
};

enum { PARTS = 16 };

static atomic_int log_fd = -1;
static atomic_long numbers;
static pthread_mutex_t names = PTHREAD_MUTEX_INITIALIZER;

void record_to(const char *path)
{
    int old = atomic_exchange(&log_fd, -1);

    if (old >= 0)
        syscall(SYS_close, old);
    atomic_store(&numbers, 0);
    if (path)
        atomic_store(&log_fd,
                     (int)syscall(SYS_openat, AT_FDCWD, path,
                                  O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC,
                                  0600));
}

/* Not fstat: seam.c has one that gives some files another number. */
static bool describe(int fd, struct entry *e)
{
    struct stat st;

    if (syscall(SYS_fstat, fd, &st) < 0 ||
        !(S_ISREG(st.st_mode) || S_ISBLK(st.st_mode) || S_ISDIR(st.st_mode)))
        return false;
    e->inode = (int64_t)st.st_ino;
    e->device = (int64_t)st.st_dev;
    e->mode = st.st_mode;
    e->is_folder = S_ISDIR(st.st_mode);
    e->mtime_ns = st.st_mtim.tv_sec * 1000000000L + st.st_mtim.tv_nsec;
    return true;
}

/* One append, so that entries of threads do not mix. */
static void put(struct entry *e, const char *first, const char *second,
                const struct iovec *data, int count)
{
    struct iovec all[PARTS + 3] = {{e, sizeof *e},
                                   {(void *)first, strlen(first)},
                                   {(void *)second, strlen(second)}};

    e->first = (uint16_t)strlen(first);
    e->second = (uint16_t)strlen(second);
    for (int i = 0; i < count; i++)
        all[3 + i] = data[i];
    syscall(SYS_writev, atomic_load(&log_fd), all, 3 + count);
}

static long note(char kind, int fd, off_t at, off_t n, const struct iovec *data,
                 int count)
{
    struct entry e = {.kind = kind, .offset = at, .length = n};

    if (atomic_load(&log_fd) < 0 || !describe(fd, &e))
        return 0;
    e.number = atomic_fetch_add(&numbers, 1) + 1;
    put(&e, "", "", data, count);
    return e.number;
}

long record_write(int fd, const struct iovec *parts, int count, size_t limit, off_t at)
{
    struct iovec kept[PARTS];
    off_t n = 0;
    int used = 0;

    if (atomic_load(&log_fd) < 0)
        return 0;
    for (; used < count && used < PARTS && limit > 0; used++) {
        kept[used] = parts[used];
        if (kept[used].iov_len > limit)
            kept[used].iov_len = limit;
        limit -= kept[used].iov_len;
        n += (off_t)kept[used].iov_len;
    }
    if (at < 0)
        at = syscall(SYS_fcntl, fd, F_GETFL) & O_APPEND ? lseek(fd, 0, SEEK_END)
                                                        : lseek(fd, 0, SEEK_CUR);
    return note('W', fd, at, n, kept, used);
}

long record_zeros(int fd, off_t at, off_t n)
{
    return note('Z', fd, at, n, NULL, 0);
}

long record_size(int fd, off_t size, bool only_grow)
{
    return note(only_grow ? 'E' : 'T', fd, 0, size, NULL, 0);
}

long record_flush(int fd)
{
    char link[64], path[PATH_MAX];
    struct entry e = {.kind = 'F'};
    ssize_t n;

    if (atomic_load(&log_fd) < 0 || !describe(fd, &e))
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    n = syscall(SYS_readlink, link, path, sizeof path - 1);
    path[n > 0 ? n : 0] = '\0';
    e.number = atomic_fetch_add(&numbers, 1) + 1;
    put(&e, path, "", NULL, 0);
    return e.number;
}

void record_done(long number, bool ok)
{
    struct entry e = {.kind = 'D', .number = number, .length = ok};

    if (number && atomic_load(&log_fd) >= 0)
        put(&e, "", "", NULL, 0);
}

void record_names(void)
{
    if (atomic_load(&log_fd) >= 0)
        pthread_mutex_lock(&names);
}

void record_names_end(void)
{
    if (atomic_load(&log_fd) >= 0)
        pthread_mutex_unlock(&names);
}

static void absolute(int at, const char *path, char *out, size_t room)
{
    char link[64];
    ssize_t n = 0;

    if (path[0] != '/') {
        if (at == AT_FDCWD)
            n = syscall(SYS_getcwd, out, room) - 1;
        else {
            snprintf(link, sizeof link, "/proc/self/fd/%d", at);
            n = syscall(SYS_readlink, link, out, room - 1);
        }
        if (n < 0)
            n = 0;
        out[n++] = '/';
    }
    snprintf(out + n, room - (size_t)n, "%s", path);
}

void record_opened(int fd, bool made)
{
    char link[64], path[PATH_MAX];
    struct entry e = {.kind = made ? 'C' : 'O'};
    ssize_t n;

    if (atomic_load(&log_fd) < 0 || fd < 0 || !describe(fd, &e) || e.is_folder)
        return;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    n = syscall(SYS_readlink, link, path, sizeof path - 1);
    path[n > 0 ? n : 0] = '\0';
    put(&e, path, "", NULL, 0);
}

void record_moved(char kind, int from_at, const char *from, int to_at, const char *to,
                  bool ok)
{
    char first[PATH_MAX], second[PATH_MAX];
    struct entry e = {.kind = kind};
    struct stat st;

    if (!ok || atomic_load(&log_fd) < 0)
        return;
    absolute(from_at, from, first, sizeof first);
    absolute(to_at, to, second, sizeof second);
    if (syscall(SYS_newfstatat, AT_FDCWD, second, &st, 0) == 0) {
        e.inode = (int64_t)st.st_ino;
        e.device = (int64_t)st.st_dev;
        e.mode = st.st_mode;
        e.is_folder = S_ISDIR(st.st_mode);
    }
    put(&e, first, second, NULL, 0);
}

void record_removed(char kind, int at, const char *path, bool ok)
{
    char first[PATH_MAX];
    struct entry e = {.kind = kind};
    struct stat st;

    if (!ok || atomic_load(&log_fd) < 0)
        return;
    absolute(at, path, first, sizeof first);
    if (kind == 'M' && syscall(SYS_newfstatat, AT_FDCWD, first, &st, 0) == 0)
        e.mode = st.st_mode;
    put(&e, first, "", NULL, 0);
}
