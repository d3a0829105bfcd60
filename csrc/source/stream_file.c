/* SPDX-License-Identifier: Apache-2.0 */
/* source/stream_file.c - a source on this machine. */
#include "base/clock.h"
#include "source/stream.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct file_stream {
    struct fdl_stream base;
    struct fdl_conn_times *times;
};

/* The file's number, size and time of change stand in for an entity tag; of a device
 * only the size is known. Returns whether it is what it was at first. */
static bool pin(struct fdl_mirror *m, uint64_t size)
{
    char etag[sizeof m->etag] = "";
    struct stat st;

    if (fstat(m->fd, &st) == 0 && S_ISREG(st.st_mode))
        snprintf(etag, sizeof etag, "\"file-%llx-%lld.%09ld-%llu\"",
                 (unsigned long long)st.st_ino, (long long)st.st_mtim.tv_sec,
                 st.st_mtim.tv_nsec, (unsigned long long)size);
    pthread_mutex_lock(&m->lock);
    bool same = !m->pinned || (m->total == size && strcmp(m->etag, etag) == 0);
    if (same) {
        memcpy(m->etag, etag, sizeof etag);
        m->total = size;
        m->ranges = FDL_RANGES_YES;
        m->pinned = true;
    }
    pthread_mutex_unlock(&m->lock);
    return same;
}

static int file_begin(struct fdl_stream *base, uint64_t off, uint64_t len,
                      struct fdl_err *err)
{
    struct fdl_mirror *m = base->mirror;
    off_t size = lseek(m->fd, 0, SEEK_END); /* works for devices too */

    if (size < 0)
        return fdl_fail_os(err, FDL_E_NET, errno, off,
                           "the source file cannot be read");
    if (!pin(m, (uint64_t)size) || off > (uint64_t)size)
        return fdl_fail(err, FDL_E_ORIGIN_CHANGED, off,
                        "the source changed during the transfer");
    uint64_t rest = (uint64_t)size - off;
    base->off = off;
    base->end = off + (len < rest ? len : rest);
    base->whole = false;
    atomic_fetch_add_explicit(&m->requests, 1, memory_order_relaxed);
    return FDL_OK;
}

static long file_read(struct fdl_stream *base, void *buf, size_t len,
                      struct fdl_err *err)
{
    struct file_stream *s = (struct file_stream *)base;
    uint64_t rest = base->end - base->off, before = fdl_now_ns();
    ssize_t n;

    if (rest == 0)
        return 0;
    if (len > rest)
        len = (size_t)rest;
    do
        n = pread(base->mirror->fd, buf, len, (off_t)base->off);
    while (n < 0 && errno == EINTR);
    atomic_fetch_add_explicit(&s->times->recv_ns, fdl_now_ns() - before,
                              memory_order_relaxed);
    if (n < 0)
        return fdl_fail_os(err, FDL_E_NET, errno, base->off,
                           "the source file cannot be read");
    if (n == 0)
        return fdl_fail(err, FDL_E_ORIGIN_CHANGED, base->off,
                        "the source file became shorter");
    base->off += (uint64_t)n;
    if (base->off == base->end && !pin(base->mirror, base->mirror->total))
        return fdl_fail(err, FDL_E_ORIGIN_CHANGED, base->off,
                        "the source changed while it was read");
    atomic_fetch_add_explicit(&base->mirror->bytes, (uint64_t)n, memory_order_relaxed);
    return n;
}

static void file_prefetch(struct fdl_stream *base, uint64_t off, uint64_t len)
{
    (void)base, (void)off, (void)len; /* the kernel reads ahead */
}

static void file_rebind(struct fdl_stream *base, struct fdl_wakeup *wakeup,
                        struct fdl_conn_times *times)
{
    (void)wakeup; /* a local read does not wait for anyone */
    ((struct file_stream *)base)->times = times;
}

static void file_free(struct fdl_stream *base)
{
    free(base);
}

static const struct fdl_stream_ops file_ops = {
    .begin = file_begin,
    .read = file_read,
    .prefetch = file_prefetch,
    .rebind = file_rebind,
    .free = file_free,
};

struct fdl_stream *fdl_stream_file_new(struct fdl_mirror *mirror,
                                       struct fdl_conn_times *times)
{
    struct file_stream *s = calloc(1, sizeof *s);

    if (!s)
        return NULL;
    s->base.ops = &file_ops;
    s->base.mirror = mirror;
    s->base.peer = FDL_ADDR_LOOPBACK;
    s->times = times;
    return &s->base;
}
