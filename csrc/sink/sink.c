/* SPDX-License-Identifier: Apache-2.0 */
/* sink/sink.c - what all sinks share: bounds, hold-back, remembered failures, counters.
 */
#include "base/clock.h"
#include "sink/sink_ops.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/buf.h"
#include "base/sum.h"

static int hold_init(struct fdl_hold *hold, uint64_t off, uint64_t len)
{
    size_t room;

    if (len == 0)
        return 0;
    room = ((size_t)len + FDL_BUF_ALIGN - 1) / FDL_BUF_ALIGN * FDL_BUF_ALIGN;
    hold->data = aligned_alloc(FDL_BUF_ALIGN, room);
    if (!hold->data)
        return -1;
    memset(hold->data, 0, room);
    hold->off = off;
    hold->len = len;
    return 0;
}

int fdl_sink_init(struct fdl_sink *sink, const struct fdl_sink_ops *ops, uint64_t size,
                  size_t hold, struct fdl_err *err)
{
    uint64_t head = hold < size ? hold : size;
    uint64_t tail = 0;

    if (size != FDL_SIZE_UNKNOWN && size > INT64_MAX)
        return fdl_fail(err, FDL_E_SIZE, FDL_NO_OFFSET,
                        "the image is larger than a file offset can name");
    if (size != FDL_SIZE_UNKNOWN)
        tail = hold < size - head ? hold : size - head;

    sink->ops = ops;
    sink->size = size;
    if (sink->block == 0)
        sink->block = FDL_SECTOR_BYTES;
    if (hold_init(&sink->head, 0, head) || hold_init(&sink->tail, size - tail, tail) ||
        pthread_mutex_init(&sink->hold_lock, NULL)) {
        free(sink->head.data);
        free(sink->tail.data);
        return fdl_nomem(err, "the held-back ranges");
    }
    pthread_mutex_init(&sink->log.lock, NULL);
    atomic_store(&sink->holding, hold > 0);
    /* An earlier run may have been killed between its last write and its flush. */
    atomic_store(&sink->changes, 1);
    return FDL_OK;
}

void fdl_sink_poison(struct fdl_sink *sink, int os_errno)
{
    int none = 0;

    atomic_compare_exchange_strong(&sink->flush_errno, &none, os_errno);
}

/* Nothing may be past `size`; without a size, past the largest offset. */
static int check_bounds(const struct fdl_sink *sink, uint64_t off, uint64_t len,
                        struct fdl_err *err)
{
    uint64_t end = sink->size == FDL_SIZE_UNKNOWN ? (uint64_t)INT64_MAX : sink->size;

    if (off > end || len > end - off)
        return fdl_fail(err, FDL_E_SIZE, off, "bytes past the end of the image");
    return FDL_OK;
}

/* How many of the len bytes at off lie in the same location, and which one that is:
 * *hold is NULL for the body. */
static uint64_t run_at(struct fdl_sink *sink, uint64_t off, uint64_t len,
                       struct fdl_hold **hold)
{
    uint64_t head_end = sink->head.len;
    uint64_t end = off + len;

    *hold = NULL;
    if (!atomic_load(&sink->holding))
        return len;
    if (off < head_end) {
        *hold = &sink->head;
        return end < head_end ? len : head_end - off;
    }
    if (sink->tail.len == 0 || end <= sink->tail.off)
        return len;
    if (off < sink->tail.off)
        return sink->tail.off - off;
    *hold = &sink->tail;
    return len;
}

/* Keeps buf (NULL: zeros) in memory. */
static void hold_put(struct fdl_sink *sink, struct fdl_hold *hold, const void *buf,
                     uint64_t len, uint64_t off)
{
    uint64_t at = off - hold->off;

    pthread_mutex_lock(&sink->hold_lock);
    if (buf)
        memcpy(hold->data + at, buf, (size_t)len);
    else
        memset(hold->data + at, 0, (size_t)len);
    if (at + len > hold->filled)
        hold->filled = at + len;
    pthread_mutex_unlock(&sink->hold_lock);
}

bool fdl_sink_held(struct fdl_sink *sink, void *buf, size_t len, uint64_t off)
{
    unsigned char *out = buf;

    while (len > 0) {
        struct fdl_hold *hold;
        size_t n = (size_t)run_at(sink, off, len, &hold);
        if (!hold || n > hold->off + hold->len - off)
            return false;
        pthread_mutex_lock(&sink->hold_lock);
        memcpy(out, hold->data + (off - hold->off), n);
        pthread_mutex_unlock(&sink->hold_lock);
        out += n;
        off += n;
        len -= n;
    }
    return true;
}

static void log_landed(struct fdl_sink *sink, const void *buf, uint64_t len,
                       uint64_t off)
{
    struct fdl_sink_log *log = &sink->log;
    struct fdl_range range = {.off = off, .len = len, .zero = !buf};

    if (!atomic_load(&log->on))
        return;
    if (buf)
        range.xxh3 = fdl_sum_of(buf, len);
    pthread_mutex_lock(&log->lock);
    log->lost |= !fdl_landed_add(&log->landed, &range);
    pthread_mutex_unlock(&log->lock);
}

static int raw_pwrite(struct fdl_sink *sink, const void *buf, size_t len, uint64_t off,
                      struct fdl_err *err)
{
    uint64_t start = fdl_now_ns();
    int rc = sink->ops->pwrite(sink, buf, len, off, err);

    atomic_fetch_add(&sink->changes, 1);
    atomic_fetch_add(&sink->busy_ns, fdl_now_ns() - start);
    if (rc)
        atomic_store(&sink->write_failed, true);
    else
        log_landed(sink, buf, len, off);
    return rc;
}

static int raw_zero(struct fdl_sink *sink, uint64_t off, uint64_t len,
                    struct fdl_err *err)
{
    uint64_t start = fdl_now_ns();
    int rc = sink->ops->zero(sink, off, len, err);

    atomic_fetch_add(&sink->changes, 1);
    atomic_fetch_add(&sink->busy_ns, fdl_now_ns() - start);
    if (rc)
        atomic_store(&sink->write_failed, true);
    else
        log_landed(sink, NULL, len, off);
    return rc;
}

int fdl_sink_pwrite(struct fdl_sink *sink, const void *buf, size_t len, uint64_t off,
                    struct fdl_err *err)
{
    const unsigned char *p = buf;
    int rc = check_bounds(sink, off, len, err);

    while (!rc && len > 0) {
        struct fdl_hold *hold;
        size_t run = (size_t)run_at(sink, off, len, &hold);

        if (hold)
            hold_put(sink, hold, p, run, off);
        else
            rc = raw_pwrite(sink, p, run, off, err);
        p += run;
        off += run;
        len -= run;
    }
    return rc;
}

int fdl_sink_zero(struct fdl_sink *sink, uint64_t off, uint64_t len,
                  struct fdl_err *err)
{
    int rc = check_bounds(sink, off, len, err);

    while (!rc && len > 0) {
        struct fdl_hold *hold;
        uint64_t run = run_at(sink, off, len, &hold);

        if (hold)
            hold_put(sink, hold, NULL, run, off);
        else
            rc = raw_zero(sink, off, run, err);
        off += run;
        len -= run;
    }
    return rc;
}

static void note_durable(struct fdl_sink *sink, uint64_t changes)
{
    uint64_t before = atomic_load(&sink->durable);

    while (before < changes &&
           !atomic_compare_exchange_weak(&sink->durable, &before, changes))
        ;
}

int fdl_sink_flush(struct fdl_sink *sink, struct fdl_err *err)
{
    uint64_t start = fdl_now_ns(), changes = atomic_load(&sink->changes);
    struct fdl_err own;
    int rc;

    /* Where nothing was written since, an earlier flush has done it: each is a commit
     * of the file system below a device, whether or not there is anything to write. */
    if (!atomic_load(&sink->flush_errno) && atomic_load(&sink->durable) < changes) {
        rc = sink->ops->flush(sink, &own);
        atomic_fetch_add(&sink->busy_ns, fdl_now_ns() - start);
        if (rc) {
            fdl_sink_poison(sink, own.os_errno ? own.os_errno : EIO);
            if (err)
                *err = own;
            return rc;
        }
        note_durable(sink, changes);
    }
    /* The kernel reports a lost page once and then calls it clean: a second fsync that
     * succeeds proves nothing. Write-back may also have failed while we were flushing.
     */
    if (atomic_load(&sink->flush_errno))
        return fdl_fail_os(err, FDL_E_SINK_IO, atomic_load(&sink->flush_errno),
                           FDL_NO_OFFSET, "an earlier flush of the target failed");
    return FDL_OK;
}

int fdl_sink_begin(struct fdl_sink *sink, struct fdl_err *err)
{
    int rc = FDL_OK;

    if (!atomic_load(&sink->holding))
        return FDL_OK;
    if (sink->head.len)
        rc = raw_zero(sink, sink->head.off, sink->head.len, err);
    if (!rc && sink->tail.len)
        rc = raw_zero(sink, sink->tail.off, sink->tail.len, err);
    return rc ? rc : fdl_sink_flush(sink, err);
}

static bool is_zero(const unsigned char *p, uint64_t len)
{
    return len == 0 || (p[0] == 0 && memcmp(p, p + 1, (size_t)(len - 1)) == 0);
}

/* What is held of [at, at + len) goes to the target, and is durable on return. Zeros
 * are there since fdl_sink_begin(). */
static int release_part(struct fdl_sink *sink, const struct fdl_hold *hold, uint64_t at,
                        uint64_t len, struct fdl_err *err)
{
    const unsigned char *data = hold->data + at;
    int rc;

    if (len == 0)
        return FDL_OK;
    if (is_zero(data, len)) {
        log_landed(sink, NULL, len, hold->off + at);
        return FDL_OK;
    }
    rc = raw_pwrite(sink, data, (size_t)len, hold->off + at, err);
    return rc ? rc : fdl_sink_flush(sink, err);
}

/* How many logical blocks from the first that is not zero are written one by one. */
#define LEAD_BLOCKS 8

/* A device is identified by its first blocks that are not zero (partition tables, the
 * superblocks and labels of file systems and volume managers). They go last, from the
 * highest down, each in one write of a logical block, which a power cut does not tear,
 * and each after a flush of everything after it: whatever looks like an image is
 * complete. */
static int head_release(struct fdl_sink *sink, struct fdl_err *err)
{
    struct fdl_hold *hold = &sink->head;
    uint64_t block = sink->block, first = 0, end = hold->filled, lead, at;
    int rc = FDL_OK;

    while (first < end &&
           is_zero(hold->data + first, block < end - first ? block : end - first))
        first += block;
    if (first >= end)
        return release_part(sink, hold, 0, end, err);
    lead = end - first < LEAD_BLOCKS * block ? end : first + LEAD_BLOCKS * block;
    rc = release_part(sink, hold, lead, end - lead, err);
    for (at = first + (lead - first - 1) / block * block; !rc; at -= block) {
        rc = release_part(sink, hold, at, block < lead - at ? block : lead - at, err);
        if (at == first)
            break;
    }
    return rc ? rc : release_part(sink, hold, 0, first, err);
}

int fdl_sink_release(struct fdl_sink *sink, struct fdl_err *err)
{
    int rc;

    if (atomic_load(&sink->write_failed))
        return fdl_fail(err, FDL_E_SINK_IO, FDL_NO_OFFSET,
                        "an earlier write to the target failed");
    /* The body first: a tail (a backup partition table) must not point at bytes that
     * a power cut can still take away. */
    rc = fdl_sink_flush(sink, err);
    if (rc || !atomic_load(&sink->holding))
        return rc;

    pthread_mutex_lock(&sink->hold_lock);
    rc = release_part(sink, &sink->tail, 0, sink->tail.filled, err);
    if (!rc)
        rc = head_release(sink, err);
    if (!rc)
        atomic_store(&sink->holding, false);
    pthread_mutex_unlock(&sink->hold_lock);
    return rc;
}

void fdl_sink_keep_log(struct fdl_sink *sink)
{
    atomic_store(&sink->log.on, true);
}

long fdl_sink_drain_log(struct fdl_sink *sink, struct fdl_range *out, size_t cap,
                        struct fdl_err *err)
{
    struct fdl_sink_log *log = &sink->log;

    pthread_mutex_lock(&log->lock);
    size_t n = fdl_landed_drain(&log->landed, out, cap);
    bool lost = log->lost;
    pthread_mutex_unlock(&log->lock);
    return lost ? fdl_nomem(err, "the read-back's log") : (long)n;
}

void fdl_sink_get_stats(const struct fdl_sink *sink, struct fdl_sink_stats *out)
{
    out->written_bytes = atomic_load(&sink->written);
    out->zeroed_bytes = atomic_load(&sink->zeroed);
    out->busy_ns = atomic_load(&sink->busy_ns);
}

void fdl_sink_free(struct fdl_sink *sink)
{
    if (!sink)
        return;
    free(sink->head.data);
    free(sink->tail.data);
    fdl_landed_clear(&sink->log.landed);
    pthread_mutex_destroy(&sink->log.lock);
    pthread_mutex_destroy(&sink->hold_lock);
    sink->ops->free(sink);
}
