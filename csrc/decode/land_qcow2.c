/* SPDX-License-Identifier: Apache-2.0 */
/* The pushing thread cuts blocks into jobs for the workers (decode/land_qcow2_work.c).
 *
 * Two cursors walk the map, both sorted by host offset: plain runs, which share no
 * bytes, are written piece by piece as blocks pass; a compressed cluster, which may
 * share its bytes with others, waits until its last byte is there, and all bytes from
 * the earliest waiting one on are carried over from block to block. */
#include "decode/land_qcow2_priv.h"

#include <libdeflate.h>
#include <stdlib.h>
#include <zstd.h>

#define OUT_SIZE (1u << 20)
#define MAX_THREADS 64
#define JOBS_PER_THREAD 4

static int stopped(struct fdl_land *l, struct fdl_err *err)
{
    if (l->error.code == 0)
        return FDL_OK;
    if (err)
        *err = l->error;
    return l->error.code;
}

static int check(struct fdl_land *l, struct fdl_err *err)
{
    pthread_mutex_lock(&l->lock);
    int rc = stopped(l, err);
    pthread_mutex_unlock(&l->lock);
    return rc;
}

static int missing(struct fdl_err *err, uint64_t off)
{
    return fdl_fail(err, FDL_E_INTERNAL, off, "qcow2: a needed block is missing");
}

/* Queues one job; waits for a free one. `copy` is STOLEN, `buf` gets a reference. */
static int submit(struct fdl_land *l, bool compressed, size_t first, size_t last,
                  uint64_t off, const unsigned char *data, size_t len,
                  struct fdl_buf *buf, unsigned char *copy, struct fdl_err *err)
{
    pthread_mutex_lock(&l->lock);
    while (!l->free_jobs && l->error.code == 0)
        pthread_cond_wait(&l->done, &l->lock);
    int rc = stopped(l, err);
    if (rc < 0) {
        pthread_mutex_unlock(&l->lock);
        free(copy);
        return rc;
    }
    struct fdl_land_job *job = l->free_jobs;
    l->free_jobs = job->next;
    if (buf)
        fdl_buf_ref(buf);
    *job = (struct fdl_land_job){.compressed = compressed,
                                 .first = first,
                                 .last = last,
                                 .off = off,
                                 .data = data,
                                 .len = len,
                                 .buf = buf,
                                 .copy = copy};
    *l->tail = job;
    l->tail = &job->next;
    pthread_cond_signal(&l->work);
    pthread_mutex_unlock(&l->lock);
    return FDL_OK;
}

static int push_plain(struct fdl_land *l, struct fdl_buf *buf, struct fdl_err *err)
{
    size_t n = fdl_qcow2_plain_count(l->img), first = l->plain, last;
    struct fdl_qcow2_entry e = {0};
    uint64_t end = buf->off + buf->len;

    for (last = first; last < n; last++) {
        fdl_qcow2_plain(l->img, last, &e);
        if (e.host >= end)
            break;
        if (e.host < buf->off && l->end < buf->off)
            return missing(err, l->end);
        if (e.host + e.len > end)
            break;
        l->plain = last + 1;
    }
    if (last < n && e.host < end)
        last++; /* its first part is here */
    if (first == last)
        return FDL_OK;
    return submit(l, false, first, last, buf->off, buf->data, buf->len, buf, NULL, err);
}

/* The next compressed cluster, which spans blocks: its bytes are joined.
 *   buf  the current block, NULL after the last one. */
static int submit_joined(struct fdl_land *l, const struct fdl_qcow2_entry *e,
                         const struct fdl_buf *buf, struct fdl_err *err)
{
    size_t len = (size_t)e->host_len;
    unsigned char *copy = malloc(len);

    if (!copy)
        return fdl_nomem(err, "a qcow2 cluster");
    if (!fdl_carry_read(&l->carry, buf, e->host, len, copy)) {
        free(copy);
        return missing(err, e->host);
    }
    size_t i = l->compressed++;
    return submit(l, true, i, i + 1, e->host, copy, len, NULL, copy, err);
}

/* How many of the next compressed clusters, at most one job, are completely in buf. */
static size_t count_inside(const struct fdl_land *l, const struct fdl_buf *buf)
{
    size_t n = fdl_qcow2_compressed_count(l->img) - l->compressed, i;
    size_t batch = l->out_size / l->info->cluster_size;
    uint64_t end = buf->off + buf->len;

    for (i = 0; i < n && i < batch; i++) {
        struct fdl_qcow2_entry e;
        fdl_qcow2_compressed(l->img, l->compressed + i, &e);
        if (e.host < buf->off || e.host + e.host_len > end)
            break;
    }
    return i;
}

/* Clusters are submitted in the order of their first bytes, whatever they share. The
 * first one that is not complete makes those after it wait, so the carry, which begins
 * with it, has all that any of them needs of the blocks until now. */
static int push_compressed(struct fdl_land *l, struct fdl_buf *buf, struct fdl_err *err)
{
    size_t n = fdl_qcow2_compressed_count(l->img);
    uint64_t end = buf->off + buf->len;
    struct fdl_qcow2_entry e;
    int rc = FDL_OK;

    while (rc == FDL_OK && l->compressed < n) {
        size_t first = l->compressed, inside = count_inside(l, buf);
        if (inside) {
            l->compressed += inside;
            rc = submit(l, true, first, first + inside, buf->off, buf->data, buf->len,
                        buf, NULL, err);
            continue;
        }
        fdl_qcow2_compressed(l->img, first, &e);
        if (e.host >= end)
            break;
        if (e.host + e.host_len > end)
            return fdl_carry_keep(&l->carry, buf, e.host) ? FDL_OK
                                                          : missing(err, e.host);
        rc = submit_joined(l, &e, buf, err);
    }
    return rc;
}

static int push(struct fdl_lander *self, struct fdl_buf *buf, struct fdl_err *err)
{
    struct fdl_land *l = (struct fdl_land *)self;
    int rc;

    rc = check(l, err);
    if (rc < 0 || buf->len == 0)
        return rc;
    if (buf->off < l->end)
        return fdl_fail(err, FDL_E_INTERNAL, buf->off, "qcow2: blocks out of order");
    rc = push_plain(l, buf, err);
    if (rc == FDL_OK)
        rc = push_compressed(l, buf, err);
    l->end = buf->off + buf->len;
    return rc;
}

/* The clusters that the end of a file of unknown size cut: decoded from the carry. */
static int push_rest(struct fdl_land *l, struct fdl_err *err)
{
    size_t n = fdl_qcow2_compressed_count(l->img);
    struct fdl_qcow2_entry e;

    while (l->compressed < n) {
        fdl_qcow2_compressed(l->img, l->compressed, &e);
        if (e.host + e.host_len > l->end)
            return fdl_fail(err, FDL_E_FORMAT, e.host,
                            "qcow2: the stream ends too early");
        int rc = submit_joined(l, &e, NULL, err);
        if (rc < 0)
            return rc;
    }
    for (n = fdl_qcow2_plain_count(l->img); l->plain < n; l->plain++) {
        fdl_qcow2_plain(l->img, l->plain, &e);
        /* A run after the end of the file, but in its last cluster, is zeros. */
        if (e.len && e.host + e.len > l->end)
            return fdl_fail(err, FDL_E_FORMAT, l->end,
                            "qcow2: the stream ends too early");
    }
    return FDL_OK;
}

/* Waits until no job, no zeros and no worker are left, or something failed. */
static int wait_all(struct fdl_land *l, struct fdl_err *err)
{
    pthread_mutex_lock(&l->lock);
    while (l->error.code == 0 && (l->head || l->active || !l->zeros_over))
        pthread_cond_wait(&l->done, &l->lock);
    int rc = stopped(l, err);
    pthread_mutex_unlock(&l->lock);
    return rc;
}

static int finish(struct fdl_lander *self, struct fdl_err *err)
{
    struct fdl_land *l = (struct fdl_land *)self;
    int rc = check(l, err); /* after a failure, the pushed data means nothing */

    if (rc < 0)
        return rc;
    if (l->info->file_size == FDL_QCOW2_SIZE_UNKNOWN) {
        /* The map changes under the workers: let them come to rest first. */
        if ((rc = wait_all(l, err)) < 0)
            return rc;
        pthread_mutex_lock(&l->lock);
        rc = fdl_qcow2_set_file_size(l->img, l->end, err);
        l->zeros_over = false;
        pthread_cond_broadcast(&l->work);
        pthread_mutex_unlock(&l->lock);
    }
    if (rc == FDL_OK)
        rc = push_rest(l, err);
    return rc < 0 ? rc : wait_all(l, err);
}

static void abort_(struct fdl_lander *self)
{
    struct fdl_land *l = (struct fdl_land *)self;
    struct fdl_err err;

    pthread_mutex_lock(&l->lock);
    fdl_land_fail(l, fdl_fail(&err, FDL_E_CANCELLED, FDL_NO_OFFSET, "cancelled"), &err);
    pthread_cond_broadcast(&l->done);
    pthread_cond_broadcast(&l->work);
    pthread_mutex_unlock(&l->lock);
}

static void stats(const struct fdl_lander *self, uint64_t *target_bytes,
                  uint64_t *busy_ns)
{
    const struct fdl_land *l = (const struct fdl_land *)self;

    *target_bytes = atomic_load(&l->landed);
    *busy_ns = atomic_load(&l->busy_ns);
}

/* --- life ------------------------------------------------------------------------- */

static void free_(struct fdl_lander *self)
{
    struct fdl_land *l = (struct fdl_land *)self;

    pthread_mutex_lock(&l->lock);
    struct fdl_err err;
    fdl_land_fail(l, fdl_fail(&err, FDL_E_CANCELLED, FDL_NO_OFFSET, "cancelled"), &err);
    l->quit = true;
    pthread_cond_broadcast(&l->work);
    pthread_mutex_unlock(&l->lock);
    for (unsigned i = 0; l->workers && i < l->threads; i++) {
        struct fdl_land_worker *w = &l->workers[i];
        if (w->running)
            pthread_join(w->thread, NULL);
        free(w->out);
        libdeflate_free_decompressor(w->inflate);
        ZSTD_freeDCtx(w->zstd);
    }
    pthread_cond_destroy(&l->done);
    pthread_cond_destroy(&l->work);
    pthread_mutex_destroy(&l->lock);
    fdl_qcow2_free(l->img);
    fdl_carry_destroy(&l->carry);
    free(l->workers);
    free(l->jobs);
    free(l);
}

static const struct fdl_lander_ops ops = {push, finish, abort_, stats, free_};

static bool start_worker(struct fdl_land *l, struct fdl_land_worker *w)
{
    w->land = l;
    if (fdl_qcow2_compressed_count(l->img)) {
        w->out = aligned_alloc(FDL_BUF_ALIGN, l->out_size);
        if (l->info->zstd)
            w->zstd = ZSTD_createDCtx();
        else
            w->inflate = libdeflate_alloc_decompressor();
        if (!w->out || (!w->zstd && !w->inflate))
            return false;
    }
    w->running = pthread_create(&w->thread, NULL, fdl_land_work, w) == 0;
    return w->running;
}

static bool start(struct fdl_land *l)
{
    size_t jobs = (size_t)l->threads * JOBS_PER_THREAD;

    l->workers = calloc(l->threads, sizeof *l->workers);
    l->jobs = calloc(jobs, sizeof *l->jobs);
    /* A waiting cluster spans at most two clusters of the file. */
    if (!fdl_carry_init(&l->carry, (size_t)l->info->cluster_size * 2))
        return false;
    if (!l->workers || !l->jobs)
        return false;
    for (size_t i = 0; i < jobs; i++)
        fdl_land_recycle(l, &l->jobs[i]);
    for (unsigned i = 0; i < l->threads; i++)
        if (!start_worker(l, &l->workers[i]))
            return false;
    return true;
}

int fdl_land_qcow2_new(struct fdl_lander **out, struct fdl_qcow2 *img,
                       struct fdl_sink *sink,
                       const struct fdl_land_qcow2_options *options,
                       struct fdl_err *err)
{
    const struct fdl_qcow2_info *info = fdl_qcow2_get_info(img);
    struct fdl_land *l = calloc(1, sizeof *l);

    if (!l) {
        fdl_qcow2_free(img);
        return fdl_nomem(err, "a qcow2 image");
    }
    l->base.ops = &ops;
    l->img = img;
    l->info = info;
    l->sink = sink;
    l->threads = options && options->threads ? options->threads : 2;
    if (l->threads > MAX_THREADS)
        l->threads = MAX_THREADS;
    /* Clusters below a page share pages of the target: a single thread keeps buffered
     * and direct writes to one page in order. */
    if (info->unit < FDL_BUF_ALIGN)
        l->threads = 1;
    l->detect_zeros = options && options->detect_zeros;
    l->out_size = info->cluster_size > OUT_SIZE ? info->cluster_size : OUT_SIZE;
    l->zero_step = FDL_LAND_ZERO_STEP;
    l->tail = &l->head;
    fdl_err_clear(&l->error);
    pthread_mutex_init(&l->lock, NULL);
    pthread_cond_init(&l->work, NULL);
    pthread_cond_init(&l->done, NULL);
    if (!start(l)) {
        free_(&l->base);
        return fdl_nomem(err, "the qcow2 decoder's threads");
    }
    *out = &l->base;
    return FDL_OK;
}
