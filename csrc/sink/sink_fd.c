/* SPDX-License-Identifier: Apache-2.0 */
/* sink/sink_fd.c - files and block devices: O_DIRECT inside, buffered at ragged ends.
 *
 * No page of the target is written both ways by parallel calls: only whole pages go
 * past the page cache. Otherwise a page cached for somebody's ragged end would hold a
 * stale copy of its neighbour and write it back later. */
#include "sink/sink_ops.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/buf.h"

#define PAGE_BYTES ((size_t)4096)
#define ZEROS_BYTES ((size_t)1 << 20)
/* Zeroing calls are as large as the caller is willing to wait for. */
#define ZERO_COMMAND_BYTES ((uint64_t)16 << 30)
#define AGAIN_TRIES 1000
/* Below this a write is a ragged end, not a stream: write-back may take its time. */
#define BEHIND_MIN_BYTES ((size_t)64 << 10)
#define BEHIND_SLOTS 16
#define BEHIND_PAGES_BITS 24

/* In the order they are tried. Punching also gives the space back: ZERO_RANGE and
 * BLKZEROOUT allocate every zero on a file and on thin storage below a device (a mostly
 * empty image filled a disk). On a device the kernel promises zeros for it too, or
 * refuses. */
enum zero_method { ZERO_BY_PUNCH, ZERO_BY_RANGE, ZERO_BY_BLKZEROOUT, ZERO_BY_WRITING };

struct fd_sink {
    struct fdl_sink base;
    int fd;          /* BORROWED */
    int buffered_fd; /* BORROWED */
    size_t align;
    size_t split; /* what goes past the page cache is a multiple of this */
    bool blank;
    bool is_device;
    uint64_t device_size; /* when it was opened */
    void *zeros;          /* OWNED mapping of the kernel's zero page: takes no memory */
    atomic_bool direct;
    atomic_bool buffered_dirty;
    atomic_int zero_method;
    /* The last buffered streams as page number << 24 | pages; the oldest is waited for
     * before a new one enters, so that dirty memory stays bounded. */
    atomic_uint_fast64_t behind[BEHIND_SLOTS];
    atomic_uint behind_next;
};

static struct fd_sink *fd_sink_of(struct fdl_sink *sink)
{
    return (struct fd_sink *)sink; /* base is the first member */
}

static uint64_t round_down(uint64_t n, uint64_t unit)
{
    return n - n % unit;
}

static uint64_t round_up(uint64_t n, uint64_t unit)
{
    return round_down(n + unit - 1, unit);
}

/* One pwrite; EINTR and a bounded number of EAGAIN are not failures.
 * Returns bytes written (> 0) or -errno; 0 bytes is a device end: -ENOSPC. */
static ssize_t pwrite_some(int fd, const unsigned char *p, size_t len, uint64_t off)
{
    const struct timespec pause = {.tv_nsec = 1000000};
    int again = 0;

    for (;;) {
        ssize_t n = pwrite(fd, p, len, (off_t)off);

        if (n > 0)
            return n;
        if (n == 0)
            return -ENOSPC;
        if (errno == EAGAIN && again++ < AGAIN_TRIES)
            nanosleep(&pause, NULL);
        else if (errno != EINTR)
            return -errno;
    }
}

/* EIO that sync_file_range reports would be missing from the next fdatasync. */
static void note_behind(struct fd_sink *s, int rc)
{
    if (rc < 0 && (errno == EIO || errno == ENOSPC || errno == EDQUOT))
        fdl_sink_poison(&s->base, errno);
}

/* Past the end of a device means no space, unless the end was further off before. */
static int write_failed(const struct fd_sink *s, int os_errno, uint64_t off,
                        struct fdl_err *err)
{
    off_t room = os_errno == ENOSPC && s->is_device ? lseek(s->fd, 0, SEEK_END) : -1;

    if (room >= 0 && (uint64_t)room < s->device_size)
        return fdl_fail(err, FDL_E_SINK_IO, off,
                        "the device became smaller while it was written");
    return fdl_fail_os(err, FDL_E_SINK_IO, os_errno, off, "write to the target");
}

/* Starts write-back of a buffered stream; waits for one some slots ago and drops it
 * from the page cache. Best effort: only lost pages count. */
static void write_behind(struct fd_sink *s, uint64_t off, size_t len)
{
    const uint64_t pages_mask = ((uint64_t)1 << BEHIND_PAGES_BITS) - 1;
    uint64_t first = off / PAGE_BYTES;
    uint64_t pages = (len + PAGE_BYTES - 1) / PAGE_BYTES;
    unsigned slot = atomic_fetch_add(&s->behind_next, 1u) % BEHIND_SLOTS;
    uint64_t old;
    off_t old_off, old_len;

    if (pages > pages_mask || first > UINT64_MAX >> BEHIND_PAGES_BITS)
        return;
    note_behind(s, sync_file_range(s->buffered_fd, (off_t)off, (off_t)len,
                                   SYNC_FILE_RANGE_WRITE));
    old = atomic_exchange(&s->behind[slot], first << BEHIND_PAGES_BITS | pages);
    if (old == 0)
        return;
    old_off = (off_t)((old >> BEHIND_PAGES_BITS) * PAGE_BYTES);
    old_len = (off_t)((old & pages_mask) * PAGE_BYTES);
    note_behind(s, sync_file_range(s->buffered_fd, old_off, old_len,
                                   SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE |
                                       SYNC_FILE_RANGE_WAIT_AFTER));
    posix_fadvise(s->buffered_fd, old_off, old_len, POSIX_FADV_DONTNEED);
}

static int write_buffered(struct fd_sink *s, const unsigned char *p, size_t len,
                          uint64_t off, struct fdl_err *err)
{
    uint64_t start = off;
    size_t total = len;

    if (len == 0)
        return FDL_OK; /* nothing to flush */
    atomic_store(&s->buffered_dirty, true);
    while (len > 0) {
        ssize_t n = pwrite_some(s->buffered_fd, p, len, off);

        if (n < 0)
            return write_failed(s, (int)-n, off, err);
        atomic_fetch_add(&s->base.written, (uint64_t)n);
        p += n;
        off += (uint64_t)n;
        len -= (size_t)n;
    }
    if (total >= BEHIND_MIN_BYTES)
        write_behind(s, start, total);
    return FDL_OK;
}

/* All three of address, off and len are multiples of align. */
static int write_direct(struct fd_sink *s, const unsigned char *p, size_t len,
                        uint64_t off, struct fdl_err *err)
{
    while (len > 0) {
        ssize_t n = pwrite_some(s->fd, p, len, off);
        size_t whole;

        if (n == -EINVAL) {
            /* The file system promised O_DIRECT and does not take it (or not here):
             * slower is better than not at all. */
            atomic_store(&s->direct, false);
            return write_buffered(s, p, len, off, err);
        }
        if (n < 0)
            return write_failed(s, (int)-n, off, err);
        /* After a short write the next offset must be aligned again: go back a little.
         */
        whole = (size_t)round_down((uint64_t)n, s->align);
        if (whole == 0)
            return write_buffered(s, p, len, off, err);
        atomic_fetch_add(&s->base.written, whole);
        p += whole;
        off += whole;
        len -= whole;
    }
    return FDL_OK;
}

static int fd_pwrite(struct fdl_sink *sink, const void *buf, size_t len, uint64_t off,
                     struct fdl_err *err)
{
    struct fd_sink *s = fd_sink_of(sink);
    const unsigned char *p = buf;
    uint64_t first = round_up(off, s->split);
    uint64_t last = round_down(off + len, s->split);
    size_t head, body;
    int rc;

    if (!atomic_load(&s->direct) || first >= last ||
        ((uintptr_t)p + (first - off)) % s->align != 0)
        return write_buffered(s, p, len, off, err);

    head = (size_t)(first - off);
    body = (size_t)(last - first);
    rc = write_buffered(s, p, head, off, err);
    if (!rc)
        rc = write_direct(s, p + head, body, first, err);
    if (!rc)
        rc = write_buffered(s, p + head + body, len - head - body, last, err);
    return rc;
}

static int write_zeros(struct fd_sink *s, uint64_t off, uint64_t len,
                       struct fdl_err *err)
{
    int rc = FDL_OK;

    while (!rc && len > 0) {
        size_t n = len < ZEROS_BYTES ? (size_t)len : ZEROS_BYTES;

        rc = fd_pwrite(&s->base, s->zeros, n, off, err);
        off += n;
        len -= n;
    }
    return rc;
}

/* Returns 0 or -errno. */
static int zero_command(const struct fd_sink *s, int method, uint64_t off, uint64_t len)
{
    uint64_t range[2] = {off, len};
    int rc;

    do {
        errno = 0;
        if (method == ZERO_BY_RANGE)
            rc = fallocate(s->fd, FALLOC_FL_ZERO_RANGE, (off_t)off, (off_t)len);
        else if (method == ZERO_BY_PUNCH)
            rc = fallocate(s->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                           (off_t)off, (off_t)len);
        else if (s->is_device)
            rc = ioctl(s->fd, BLKZEROOUT, range);
        else
            return -ENOTTY;
    } while (rc < 0 && errno == EINTR);
    return rc < 0 ? -errno : 0;
}

/* EACCES: NFS 4.2 zeroes as the user that asks for it, and writes as the one that
 * opened. */
static bool means_unsupported(int os_errno)
{
    return os_errno == EOPNOTSUPP || os_errno == EINVAL || os_errno == ENOTTY ||
           os_errno == ENOSYS || os_errno == EPERM || os_errno == EACCES ||
           os_errno == EREMOTEIO;
}

/* off and len are multiples of split. */
static int zero_aligned(struct fd_sink *s, uint64_t off, uint64_t len,
                        struct fdl_err *err)
{
    int method = atomic_load(&s->zero_method);

    while (method != ZERO_BY_WRITING) {
        int rc = zero_command(s, method, off, len);

        if (rc == 0) {
            atomic_fetch_add(&s->base.zeroed, len);
            return FDL_OK;
        }
        /* The cache holds something unwritten there, which cannot be dropped while the
         * device is claimed through another descriptor: the next range may do. */
        if (rc == -EBUSY)
            break;
        if (!means_unsupported(-rc))
            return fdl_fail_os(err, FDL_E_SINK_IO, -rc, off, "zeroing the target");
        /* The loser of the race finds in `method` what the winner has learned. */
        if (atomic_compare_exchange_strong(&s->zero_method, &method, method + 1))
            method++;
    }
    return write_zeros(s, off, len, err);
}

/* Zeroing commands cut a range at a device's end without a word. */
static int check_device_end(const struct fd_sink *s, uint64_t end, struct fdl_err *err)
{
    off_t room = lseek(s->fd, 0, SEEK_END);

    if (room < 0)
        return fdl_fail_os(err, FDL_E_SINK_IO, errno, end, "size of the target");
    if (end > (uint64_t)room)
        return write_failed(s, ENOSPC, (uint64_t)room, err);
    return FDL_OK;
}

/* A hole past the end of a file does not lengthen it. Writing the last byte does, and
 * unlike ftruncate can never cut off what another thread has written. */
static int lengthen(struct fd_sink *s, uint64_t end, struct fdl_err *err)
{
    struct stat st;

    if (s->is_device)
        return FDL_OK;
    if (fstat(s->fd, &st) < 0)
        return fdl_fail_os(err, FDL_E_SINK_IO, errno, end, "size of the target");
    if ((uint64_t)st.st_size >= end)
        return FDL_OK;
    return write_buffered(s, s->zeros, 1, end - 1, err);
}

static int fd_zero(struct fdl_sink *sink, uint64_t off, uint64_t len,
                   struct fdl_err *err)
{
    struct fd_sink *s = fd_sink_of(sink);
    uint64_t end = off + len;
    uint64_t first = round_up(off, s->split);
    uint64_t last = round_down(end, s->split);
    int rc = s->is_device ? check_device_end(s, end, err) : FDL_OK;

    if (rc)
        return rc;
    if (s->blank)
        return lengthen(s, end, err);
    if (first >= last)
        return write_zeros(s, off, len, err);

    rc = write_zeros(s, off, first - off, err);
    while (!rc && first < last) {
        uint64_t n = last - first;

        n = n < ZERO_COMMAND_BYTES ? n : ZERO_COMMAND_BYTES;
        rc = zero_aligned(s, first, n, err);
        first += n;
    }
    if (!rc)
        rc = write_zeros(s, last, end - last, err);
    return rc ? rc : lengthen(s, end, err);
}

/* Returns 0 or -errno. */
static int datasync(int fd)
{
    int rc;

    do
        rc = fdatasync(fd);
    while (rc < 0 && errno == EINTR);
    return rc < 0 ? -errno : 0;
}

static int fd_flush(struct fdl_sink *sink, struct fdl_err *err)
{
    struct fd_sink *s = fd_sink_of(sink);
    bool buffered =
        s->buffered_fd != s->fd && atomic_exchange(&s->buffered_dirty, false);
    int rc = 0;

    /* Either fdatasync writes the whole inode back, but each descriptor has its own
     * memory of errors: ask the one that wrote. Direct writes to a device have reported
     * theirs already; file systems have ways of their own. */
    if (buffered)
        rc = datasync(s->buffered_fd);
    if (!rc && !(buffered && s->is_device))
        rc = datasync(s->fd);
    if (rc)
        return fdl_fail_os(err, FDL_E_SINK_IO, -rc, FDL_NO_OFFSET,
                           "flush of the target");
    return FDL_OK;
}

static void fd_free(struct fdl_sink *sink)
{
    struct fd_sink *s = fd_sink_of(sink);

    munmap(s->zeros, ZEROS_BYTES);
    free(s);
}

static const struct fdl_sink_ops fd_ops = {
    .pwrite = fd_pwrite,
    .zero = fd_zero,
    .flush = fd_flush,
    .free = fd_free,
};

int fdl_sink_open_fd(struct fdl_sink **out, int fd, int buffered_fd, size_t align,
                     uint64_t size, size_t hold, bool blank, struct fdl_err *err)
{
    struct fd_sink *s;
    struct stat st;
    int rc;

    if (fstat(fd, &st) < 0)
        return fdl_fail_os(err, FDL_E_SINK_IO, errno, FDL_NO_OFFSET,
                           "opening the target");
    s = calloc(1, sizeof *s);
    if (!s)
        return fdl_nomem(err, "a sink");
    s->zeros = mmap(NULL, ZEROS_BYTES, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (s->zeros == MAP_FAILED) {
        free(s);
        return fdl_nomem(err, "a sink");
    }
    s->is_device = S_ISBLK(st.st_mode);
    if (s->is_device) {
        off_t room = lseek(fd, 0, SEEK_END);
        int sector = 0;

        s->device_size = room > 0 ? (uint64_t)room : 0;
        if (ioctl(fd, BLKSSZGET, &sector) == 0 && sector > 0)
            s->base.block = (uint64_t)sector;
    }
    rc = fdl_sink_init(&s->base, &fd_ops, size, hold, err);
    if (rc) {
        fd_free(&s->base);
        return rc;
    }
    s->fd = fd;
    s->buffered_fd = align > 1 ? buffered_fd : fd;
    s->align = align > 1 ? align : 1;
    s->split = align > PAGE_BYTES ? align : PAGE_BYTES;
    s->blank = blank;
    /* ZERO_RANGE allocates what it zeroes: a file is to stay sparse. */
    atomic_store(&s->zero_method, ZERO_BY_PUNCH);
    atomic_store(&s->direct, align > 1);
    *out = &s->base;
    return FDL_OK;
}
