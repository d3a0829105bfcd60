/* SPDX-License-Identifier: Apache-2.0 */
/* The workers of the qcow2 lander: decode and write what the pushing thread queued, and
 * zero the rest of the disk when no job waits. */
#include "base/clock.h"
#include "decode/land_qcow2_priv.h"

#include "base/zero.h"

#include <libdeflate.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <zstd.h>

/* Zeroing calls grow while the target is done with them at once (a hole in a sparse
 * file), so that a disk of many TiB costs a few hundred, and shrink where it takes its
 * time: abort() waits for one of each worker at most. */
#define ZERO_STEP_MAX (16ull << 30)
#define ZERO_QUICK_NS 4000000u
#define ZERO_SLOW_NS 100000000u

static int write_guest(struct fdl_land *l, const unsigned char *p, size_t len,
                       uint64_t off, struct fdl_err *err)
{
    int rc = fdl_sink_write(l->sink, p, len, off, l->detect_zeros, err);
    if (rc == FDL_OK)
        atomic_fetch_add(&l->landed, len);
    return rc;
}

static int write_plain(struct fdl_land *l, const struct fdl_land_job *job,
                       struct fdl_err *err)
{
    for (size_t i = job->first; i < job->last; i++) {
        struct fdl_qcow2_entry e;
        fdl_qcow2_plain(l->img, i, &e);
        uint64_t from = e.host > job->off ? e.host : job->off;
        uint64_t to = e.host + e.len, stop = job->off + job->len;
        if (to > stop)
            to = stop;
        if (from >= to)
            continue;
        int rc = write_guest(l, job->data + (from - job->off), (size_t)(to - from),
                             e.guest + (from - e.host), err);
        if (rc < 0)
            return rc;
    }
    return FDL_OK;
}

/* Where the job holds file bytes [off, off + len); NULL where it does not. */
static const unsigned char *bytes_at(const struct fdl_land_job *job, uint64_t off,
                                     uint64_t len)
{
    uint64_t skip = off - job->off;

    if (off < job->off || skip > job->len || len > job->len - skip)
        return NULL;
    return job->data + skip;
}

/* One cluster: exactly cluster_size bytes come out, or the image is malformed. */
static int decode(struct fdl_land_worker *w, const unsigned char *in, size_t len,
                  unsigned char *out, uint64_t host, struct fdl_err *err)
{
    size_t want = w->land->info->cluster_size, used, got;

    if (w->land->info->zstd) {
        /* Sector padding follows the frame: only the frame itself is handed over. */
        used = ZSTD_findFrameCompressedSize(in, len);
        if (ZSTD_isError(used))
            return fdl_fail(err, FDL_E_FORMAT, host, "qcow2: broken zstd cluster");
        got = ZSTD_decompressDCtx(w->zstd, out, want, in, used);
        if (ZSTD_isError(got) || got != want)
            return fdl_fail(err, FDL_E_FORMAT, host, "qcow2: broken zstd cluster");
        return FDL_OK;
    }
    enum libdeflate_result r =
        libdeflate_deflate_decompress_ex(w->inflate, in, len, out, want, &used, &got);
    if (r != LIBDEFLATE_SUCCESS || got != want)
        return fdl_fail(err, FDL_E_FORMAT, host, "qcow2: broken zlib cluster");
    return FDL_OK;
}

/* The same for a cluster that the end of the file cuts: zeros follow there, and the
 * last bytes of a stream may be zeros that were not written. */
static int decode_padded(struct fdl_land_worker *w, const unsigned char *in,
                         const struct fdl_qcow2_entry *e, unsigned char *out,
                         struct fdl_err *err)
{
    unsigned char *padded = calloc(1, (size_t)(e->host_len + e->pad));

    if (!padded)
        return fdl_nomem(err, "a qcow2 cluster");
    memcpy(padded, in, (size_t)e->host_len);
    int rc = decode(w, padded, (size_t)(e->host_len + e->pad), out, e->host, err);
    free(padded);
    return rc;
}

/* Decodes clusters one after the other and writes neighbours together
 * on the guest's disk. */
static int write_compressed(struct fdl_land_worker *w, const struct fdl_land_job *job,
                            struct fdl_err *err)
{
    struct fdl_land *l = w->land;
    uint64_t start = 0, busy = 0;
    size_t filled = 0;
    int rc = FDL_OK;

    for (size_t i = job->first; i < job->last && rc == FDL_OK; i++) {
        struct fdl_qcow2_entry e;
        fdl_qcow2_compressed(l->img, i, &e);
        if (filled && (start + filled != e.guest ||
                       filled + l->info->cluster_size > l->out_size)) {
            if ((rc = write_guest(l, w->out, filled, start, err)) < 0)
                break;
            filled = 0;
        }
        if (filled == 0)
            start = e.guest;
        const unsigned char *in = bytes_at(job, e.host, e.host_len);
        if (!in) {
            rc = fdl_fail(err, FDL_E_INTERNAL, e.host,
                          "qcow2: a job without its cluster");
            break;
        }
        uint64_t t = fdl_now_ns();
        rc = e.pad ? decode_padded(w, in, &e, w->out + filled, err)
                   : decode(w, in, (size_t)e.host_len, w->out + filled, e.host, err);
        busy += fdl_now_ns() - t;
        filled += (size_t)e.len;
    }
    atomic_fetch_add(&l->busy_ns, busy);
    if (rc == FDL_OK && filled)
        rc = write_guest(l, w->out, filled, start, err);
    return rc;
}

/* Takes the next zeros to make; with the lock held. False when there are none left. */
static bool next_zeros(struct fdl_land *l, uint64_t *off, uint64_t *len)
{
    while (fdl_qcow2_zero_run(l->img, l->zero_run, off, len)) {
        if (l->zero_done < *len) {
            *off += l->zero_done;
            *len -= l->zero_done;
            if (*len > l->zero_step)
                *len = l->zero_step;
            l->zero_done += *len;
            return true;
        }
        l->zero_run++;
        l->zero_done = 0;
    }
    l->zeros_over = true;
    return false;
}

/* What the next calls should be like after one of len bytes that took ns; with the lock
 * held. A short last one means nothing. */
static void learn_zero_step(struct fdl_land *l, uint64_t len, uint64_t ns)
{
    if (len < l->zero_step)
        return;
    if (ns < ZERO_QUICK_NS && l->zero_step < ZERO_STEP_MAX)
        l->zero_step *= 2;
    else if (ns > ZERO_SLOW_NS && l->zero_step > FDL_LAND_ZERO_STEP)
        l->zero_step /= 2;
}

static int make_zeros(struct fdl_land *l, uint64_t off, uint64_t len,
                      struct fdl_err *err)
{
    int rc = fdl_sink_zero(l->sink, off, len, err);
    if (rc == FDL_OK)
        atomic_fetch_add(&l->landed, len);
    return rc;
}

void fdl_land_recycle(struct fdl_land *l, struct fdl_land_job *job)
{
    fdl_buf_unref(job->buf);
    free(job->copy);
    job->buf = NULL;
    job->copy = NULL;
    job->next = l->free_jobs;
    l->free_jobs = job;
}

void fdl_land_fail(struct fdl_land *l, int rc, const struct fdl_err *err)
{
    if (rc < 0 && l->error.code == 0)
        l->error = *err;
}

/* One turn of a worker; with the lock held on entry and return. False at the end. */
static bool work_once(struct fdl_land_worker *w)
{
    struct fdl_land *l = w->land;
    struct fdl_err err;
    uint64_t off, len;
    int rc;

    fdl_err_clear(&err);
    if (l->head) {
        struct fdl_land_job *job = l->head;
        bool skip = l->error.code != 0;
        l->head = job->next;
        if (!l->head)
            l->tail = &l->head;
        l->active++;
        pthread_mutex_unlock(&l->lock);
        rc = skip              ? FDL_OK
             : job->compressed ? write_compressed(w, job, &err)
                               : write_plain(l, job, &err);
        pthread_mutex_lock(&l->lock);
        fdl_land_recycle(l, job);
    } else if (!l->quit && l->error.code == 0 && next_zeros(l, &off, &len)) {
        l->active++;
        pthread_mutex_unlock(&l->lock);
        uint64_t began = fdl_now_ns();
        rc = make_zeros(l, off, len, &err);
        uint64_t took = fdl_now_ns() - began;
        pthread_mutex_lock(&l->lock);
        learn_zero_step(l, len, took);
    } else if (l->quit) {
        return false;
    } else {
        pthread_cond_broadcast(&l->done); /* zeros may just have come to their end */
        pthread_cond_wait(&l->work, &l->lock);
        return true;
    }
    fdl_land_fail(l, rc, &err);
    l->active--;
    pthread_cond_broadcast(&l->done);
    return true;
}

void *fdl_land_work(void *arg)
{
    struct fdl_land_worker *w = arg;

    pthread_mutex_lock(&w->land->lock);
    while (work_once(w))
        ;
    pthread_mutex_unlock(&w->land->lock);
    return NULL;
}
