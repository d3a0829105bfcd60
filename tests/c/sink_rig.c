/* SPDX-License-Identifier: Apache-2.0 */
#undef NDEBUG
#include "sink_rig.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/loop.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

struct faults fault;

/* --- the interposed calls --- */

void no_faults(void)
{
    memset(&fault, 0, sizeof fault);
}

static void log_call(uint64_t off, uint64_t len)
{
    unsigned at;

    if (!fault.log_on)
        return;
    at = atomic_fetch_add(&fault.log_len, 1u);
    if (at < LOG_MAX) {
        fault.log[at].off = off;
        fault.log[at].len = len;
    }
}

static void note(char what)
{
    unsigned at = atomic_fetch_add(&fault.order_len, 1u);

    if (fault.order_tail && at < sizeof fault.order - 1)
        fault.order[at] = what;
}

ssize_t pwrite(int fd, const void *buf, size_t len, off_t off)
{
    bool direct = (fcntl(fd, F_GETFL) & O_DIRECT) != 0;
    size_t most = atomic_load(&fault.write_most);

    atomic_fetch_add(&fault.write_calls, 1);
    log_call((uint64_t)off, len);
    if (fault.order_tail)
        note(off == 0 ? 'h' : (uint64_t)off >= fault.order_tail ? 't' : 'b');
    if (direct) {
        atomic_fetch_add(&fault.direct_calls, 1);
        if (atomic_load(&fault.direct_einval)) {
            errno = EINVAL;
            return -1;
        }
    }
    if (atomic_load(&fault.write_nth) > 0 &&
        atomic_fetch_sub(&fault.write_nth, 1) == 1) {
        if (atomic_fetch_sub(&fault.write_times, 1) > 1)
            atomic_store(&fault.write_nth, 1);
        errno = atomic_load(&fault.write_errno);
        return errno ? -1 : 0;
    }
    if (most && len > most) {
        /* The kernel shortens direct writes to whole sectors. */
        len = direct && most >= 512 ? most / 512 * 512 : most;
        if (direct && most < 512)
            fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_DIRECT);
    }
    ssize_t n = syscall(SYS_pwrite64, fd, buf, len, off);
    int keep = errno;

    if (direct)
        fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_DIRECT);
    errno = keep;
    return n;
}

int fdatasync(int fd)
{
    atomic_fetch_add(&fault.sync_calls, 1);
    note('s');
    log_call(0, 0);
    errno = atomic_exchange(&fault.sync_errno, 0);
    return errno ? -1 : (int)syscall(SYS_fdatasync, fd);
}

int sync_file_range(int fd, off_t off, off_t len, unsigned flags)
{
    errno = atomic_exchange(&fault.behind_errno, 0);
    return errno ? -1 : (int)syscall(SYS_sync_file_range, fd, off, len, flags);
}

int fallocate(int fd, int mode, off_t off, off_t len)
{
    atomic_fetch_add(&fault.zero_calls, 1);
    errno = atomic_load(&fault.zero_errno);
    return errno ? -1 : (int)syscall(SYS_fallocate, fd, mode, off, len);
}

int ioctl(int fd, unsigned long request, ...)
{
    va_list args;
    void *arg;

    va_start(args, request);
    arg = va_arg(args, void *);
    va_end(args);
    errno = atomic_load(&fault.zero_errno);
    return errno ? -1 : (int)syscall(SYS_ioctl, fd, request, arg);
}

const char *folder(void)
{
    const char *dir = getenv("TMPDIR");

    return dir && *dir ? dir : "/tmp";
}

void fill(int fd, uint64_t size)
{
    unsigned char *old = malloc(MIB);

    memset(old, 0xAA, MIB);
    for (uint64_t off = 0; off < size;) {
        size_t n = size - off < MIB ? (size_t)(size - off) : MIB;

        assert(syscall(SYS_pwrite64, fd, old, n, off) == (long)n);
        off += n;
    }
    assert(syscall(SYS_fdatasync, fd) == 0);
    free(old);
}

static bool open_both(struct target *t, size_t align)
{
    t->buffered = open(t->path, O_RDWR | O_CLOEXEC);
    assert(t->buffered >= 0);
    t->align = align;
    t->fd = align > 1 ? open(t->path, O_RDWR | O_DIRECT | O_CLOEXEC) : t->buffered;
    return t->fd >= 0;
}

bool file_target(struct target *t, const char *dir, size_t align, uint64_t size)
{
    int fd;

    memset(t, 0, sizeof *t);
    t->name = align > 1 ? "file, direct" : "file, buffered";
    snprintf(t->path, sizeof t->path, "%s/fdl_sink_XXXXXX", dir);
    fd = mkstemp(t->path);
    assert(fd >= 0);
    fill(fd, size);
    close(fd);
    return open_both(t, align);
}

bool loop_target(struct target *t, unsigned sector, uint64_t size)
{
    /* Gone with its last descriptor, also where an assertion ends the test. */
    struct loop_config config = {.block_size = sector,
                                 .info.lo_flags = LO_FLAGS_AUTOCLEAR};
    int control, backing, device = -1;

    memset(t, 0, sizeof *t);
    t->name = sector == 512 ? "loop, 512" : "loop, 4096";
    control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
    if (control < 0)
        return false;
    snprintf(t->backing, sizeof t->backing, "%s/fdl_loop_XXXXXX", folder());
    backing = mkstemp(t->backing);
    assert(backing >= 0);
    fill(backing, size);
    config.fd = (unsigned)backing;
    /* Others take loop devices at the same time: between asking and taking. */
    for (int tries = 0; tries < 20 && device < 0; tries++) {
        int index = ioctl(control, LOOP_CTL_GET_FREE, 0);

        if (index < 0)
            break;
        snprintf(t->path, sizeof t->path, "/dev/loop%d", index);
        device = open(t->path, O_RDWR | O_CLOEXEC);
        if (device >= 0 && ioctl(device, LOOP_CONFIGURE, &config) < 0) {
            close(device);
            device = -1;
        }
    }
    close(control);
    close(backing);
    if (device < 0) {
        unlink(t->backing);
        return false;
    }
    assert(open_both(t, sector));
    close(device);
    return true;
}

void target_free(struct target *t)
{
    if (t->fd >= 0 && t->fd != t->buffered)
        close(t->fd);
    unlink(t->backing[0] ? t->backing : t->path);
    close(t->buffered);
}

struct fdl_sink *open_sink(const struct target *t, uint64_t size, size_t hold)
{
    struct fdl_sink *sink = NULL;
    struct fdl_err err;

    assert(fdl_sink_open_fd(&sink, t->fd, t->buffered, t->align, size, hold, false,
                            &err) == FDL_OK);
    return sink;
}

bool reads_as(const struct target *t, const unsigned char *want, size_t len,
              uint64_t off)
{
    unsigned char *got = malloc(len ? len : 1);
    int fd = open(t->path, O_RDONLY | O_CLOEXEC);
    bool same =
        pread(fd, got, len, (off_t)off) == (ssize_t)len && memcmp(got, want, len) == 0;

    for (size_t i = 0; !same && i < len; i++)
        if (got[i] != want[i]) {
            fprintf(stderr, "%s: byte %zu is %02x, not %02x\n", t->name, i, got[i],
                    want[i]);
            break;
        }
    close(fd);
    free(got);
    return same;
}

bool reads_zero(const struct target *t, size_t len, uint64_t off)
{
    unsigned char *zeros = calloc(1, len);
    bool same = reads_as(t, zeros, len, off);

    free(zeros);
    return same;
}

unsigned char *pattern(size_t len)
{
    unsigned char *p = aligned_alloc(4096, (len + 4095) / 4096 * 4096);

    for (size_t i = 0; i < len; i++)
        p[i] = (unsigned char)(i * 31 + i / 251 + 1);
    return p;
}
