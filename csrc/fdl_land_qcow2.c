/* SPDX-License-Identifier: Apache-2.0 */
/* The pushing thread cuts blocks into jobs; worker threads decode and write them, and
 * zero the rest of the disk when no job waits.
 *
 * Two cursors walk the map, both sorted by host offset: plain runs are written piece by
 * piece as blocks pass; a compressed cluster waits until its last byte is there, and
 * the bytes of the earliest waiting one are carried over from block to block. */
#include "fdl_land_qcow2.h"

#include "fdl_zero.h"

#include <libdeflate.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <zstd.h>

#define OUT_SIZE (1u << 20)
#define ZERO_STEP (64ull << 20) /* one zeroing call; abort() waits for one at most */
#define MAX_THREADS 64
#define JOBS_PER_THREAD 4

/* Map entries [first, last) whose bytes are data[0..len) = file bytes from `off`. */
struct job {
    struct job *next;
    bool compressed;
    size_t first, last;
    uint64_t off;
    const unsigned char *data;
    size_t len;
    struct fdl_buf *buf; /* OWNED reference that keeps data alive, or NULL */
    unsigned char *copy; /* OWNED: data of a cluster that straddled blocks, or NULL */
};

struct worker {
    struct land *land; /* BORROWED */
    pthread_t thread;
    bool running;
    unsigned char *out; /* OWNED: decoded clusters, neighbours on the disk together */
    struct libdeflate_decompressor *inflate;
    ZSTD_DCtx *zstd;
};

struct land {
    struct fdl_lander base;
    struct fdl_qcow2 *img;             /* OWNED */
    const struct fdl_qcow2_info *info; /* BORROWED from img */
    struct fdl_sink *sink;             /* BORROWED */
    bool detect_zeros;
    size_t out_size;
    unsigned threads;
    struct worker *workers; /* OWNED */
    struct job *jobs;       /* OWNED: all of them */
    atomic_uint_least64_t landed, busy_ns;

    /* The pushing thread alone: */
    uint64_t end; /* of the last block pushed */
    size_t plain, compressed;
    unsigned char *carry; /* OWNED: file bytes [carry_off, carry_off + carry_len) */
    uint64_t carry_off;
    size_t carry_len;

    pthread_mutex_t lock; /* all below */
    pthread_cond_t work;  /* a job, zeros to make, or the end */
    pthread_cond_t done;  /* a job is free, or everything is done */
    struct job *free_jobs, *head, **tail;
    unsigned active; /* workers at work */
    size_t zero_run;
    uint64_t zero_done; /* bytes of that run handed out */
    bool zeros_over, quit;
    struct fdl_err error; /* the first one; code 0 while all is well */
};

/* --- workers ---------------------------------------------------------------------- */

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static int write_guest(struct land *l, const unsigned char *p, size_t len, uint64_t off,
                       struct fdl_err *err)
{
    int rc = fdl_zero_write(l->sink, p, len, off, l->detect_zeros, err);
    if (rc == FDL_OK)
        atomic_fetch_add(&l->landed, len);
    return rc;
}

static int write_plain(struct land *l, const struct job *job, struct fdl_err *err)
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

/* One cluster: exactly cluster_size bytes come out, or the image is malformed. */
static int decode(struct worker *w, const unsigned char *in, size_t len,
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

/* Decodes clusters one behind the other and writes those together that are neighbours
 * on the guest's disk. */
static int write_compressed(struct worker *w, const struct job *job,
                            struct fdl_err *err)
{
    struct land *l = w->land;
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
        uint64_t t = now_ns();
        rc = decode(w, job->data + (e.host - job->off), (size_t)e.host_len,
                    w->out + filled, e.host, err);
        busy += now_ns() - t;
        filled += (size_t)e.len;
    }
    atomic_fetch_add(&l->busy_ns, busy);
    if (rc == FDL_OK && filled)
        rc = write_guest(l, w->out, filled, start, err);
    return rc;
}

/* Takes the next zeros to make; with the lock held. False when there are none left. */
static bool next_zeros(struct land *l, uint64_t *off, uint64_t *len)
{
    while (fdl_qcow2_zero_run(l->img, l->zero_run, off, len)) {
        if (l->zero_done < *len) {
            *off += l->zero_done;
            *len -= l->zero_done;
            if (*len > ZERO_STEP)
                *len = ZERO_STEP;
            l->zero_done += *len;
            return true;
        }
        l->zero_run++;
        l->zero_done = 0;
    }
    l->zeros_over = true;
    return false;
}

static int make_zeros(struct land *l, uint64_t off, uint64_t len, struct fdl_err *err)
{
    int rc = fdl_sink_zero(l->sink, off, len, err);
    if (rc == FDL_OK)
        atomic_fetch_add(&l->landed, len);
    return rc;
}

static void recycle(struct land *l, struct job *job)
{
    fdl_buf_unref(job->buf);
    free(job->copy);
    job->buf = NULL;
    job->copy = NULL;
    job->next = l->free_jobs;
    l->free_jobs = job;
}

static void fail_locked(struct land *l, int rc, const struct fdl_err *err)
{
    if (rc < 0 && l->error.code == 0)
        l->error = *err;
}

/* One turn of a worker; with the lock held on entry and return. False at the end. */
static bool work_once(struct worker *w)
{
    struct land *l = w->land;
    struct fdl_err err;
    uint64_t off, len;
    int rc;

    fdl_err_clear(&err);
    if (l->head) {
        struct job *job = l->head;
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
        recycle(l, job);
    } else if (!l->quit && l->error.code == 0 && next_zeros(l, &off, &len)) {
        l->active++;
        pthread_mutex_unlock(&l->lock);
        rc = make_zeros(l, off, len, &err);
        pthread_mutex_lock(&l->lock);
    } else if (l->quit) {
        return false;
    } else {
        pthread_cond_broadcast(&l->done); /* zeros may just have come to their end */
        pthread_cond_wait(&l->work, &l->lock);
        return true;
    }
    fail_locked(l, rc, &err);
    l->active--;
    pthread_cond_broadcast(&l->done);
    return true;
}

static void *work(void *arg)
{
    struct worker *w = arg;

    pthread_mutex_lock(&w->land->lock);
    while (work_once(w))
        ;
    pthread_mutex_unlock(&w->land->lock);
    return NULL;
}

/* --- the pushing thread ----------------------------------------------------------- */

static int stopped(struct land *l, struct fdl_err *err)
{
    if (l->error.code == 0)
        return FDL_OK;
    if (err)
        *err = l->error;
    return l->error.code;
}

/* Queues one job; waits for a free one. `copy` is STOLEN, `buf` gets a reference. */
static int submit(struct land *l, bool compressed, size_t first, size_t last,
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
    struct job *job = l->free_jobs;
    l->free_jobs = job->next;
    if (buf)
        fdl_buf_ref(buf);
    *job = (struct job){.compressed = compressed,
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

static int push_plain(struct land *l, struct fdl_buf *buf, struct fdl_err *err)
{
    size_t n = fdl_qcow2_plain_count(l->img), first = l->plain, last;
    struct fdl_qcow2_entry e = {0};
    uint64_t end = buf->off + buf->len;

    for (last = first; last < n; last++) {
        fdl_qcow2_plain(l->img, last, &e);
        if (e.host >= end)
            break;
        if (e.host < buf->off && l->end < buf->off)
            return fdl_fail(err, FDL_E_INTERNAL, l->end,
                            "qcow2: a needed block is missing");
        if (e.host + e.len > end)
            break;
        l->plain = last + 1;
    }
    if (last < n && e.host < end)
        last++; /* its first part lies here */
    if (first == last)
        return FDL_OK;
    return submit(l, false, first, last, buf->off, buf->data, buf->len, buf, NULL, err);
}

/* The earliest waiting cluster began in an earlier block: joins carry and block. */
static int push_straddler(struct land *l, const struct fdl_qcow2_entry *e,
                          struct fdl_buf *buf, struct fdl_err *err)
{
    size_t old = (size_t)(buf->off - e->host), len = (size_t)e->host_len;

    if (e->host < l->carry_off || l->carry_off + l->carry_len != buf->off)
        return fdl_fail(err, FDL_E_INTERNAL, e->host,
                        "qcow2: a needed block is missing");
    unsigned char *copy = malloc(len);
    if (!copy)
        return fdl_fail(err, FDL_E_LIMIT, e->host, "qcow2: no memory for a cluster");
    memcpy(copy, l->carry + (e->host - l->carry_off), old);
    memcpy(copy + old, buf->data, len - old);
    int rc = submit(l, true, l->compressed, l->compressed + 1, e->host, copy, len, NULL,
                    copy, err);
    l->compressed++;
    return rc;
}

/* Keeps the bytes of the earliest cluster that is not complete yet. */
static int keep_carry(struct land *l, uint64_t host, struct fdl_buf *buf,
                      struct fdl_err *err)
{
    if (host >= buf->off) {
        l->carry_off = host;
        l->carry_len = buf->len - (size_t)(host - buf->off);
        memcpy(l->carry, buf->data + (host - buf->off), l->carry_len);
        return FDL_OK;
    }
    if (host < l->carry_off || l->carry_off + l->carry_len != buf->off)
        return fdl_fail(err, FDL_E_INTERNAL, host, "qcow2: a needed block is missing");
    l->carry_len -= (size_t)(host - l->carry_off);
    memmove(l->carry, l->carry + (host - l->carry_off), l->carry_len);
    l->carry_off = host;
    memcpy(l->carry + l->carry_len, buf->data, buf->len);
    l->carry_len += buf->len;
    return FDL_OK;
}

static int push_compressed(struct land *l, struct fdl_buf *buf, struct fdl_err *err)
{
    size_t n = fdl_qcow2_compressed_count(l->img);
    size_t batch = l->out_size / l->info->cluster_size;
    uint64_t end = buf->off + buf->len;
    struct fdl_qcow2_entry e;

    while (l->compressed < n) {
        size_t first = l->compressed, last = first;
        bool waits = false;
        int rc;
        for (; last < n && last - first < batch; last++) {
            fdl_qcow2_compressed(l->img, last, &e);
            waits = e.host < end && e.host + e.host_len > end;
            if (e.host < buf->off || e.host >= end || waits)
                break;
        }
        if (first < last) {
            l->compressed = last;
            rc = submit(l, true, first, last, buf->off, buf->data, buf->len, buf, NULL,
                        err);
        } else if (waits) {
            return keep_carry(l, e.host, buf, err);
        } else if (e.host < buf->off) {
            rc = push_straddler(l, &e, buf, err);
        } else {
            break;
        }
        if (rc < 0)
            return rc;
    }
    return FDL_OK;
}

static int push(struct fdl_lander *self, struct fdl_buf *buf, struct fdl_err *err)
{
    struct land *l = (struct land *)self;
    int rc;

    pthread_mutex_lock(&l->lock);
    rc = stopped(l, err);
    pthread_mutex_unlock(&l->lock);
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
static int push_rest(struct land *l, struct fdl_err *err)
{
    size_t n = fdl_qcow2_compressed_count(l->img);
    struct fdl_qcow2_entry e;

    for (; l->compressed < n; l->compressed++) {
        fdl_qcow2_compressed(l->img, l->compressed, &e);
        if (e.host < l->carry_off || e.host + e.host_len > l->carry_off + l->carry_len)
            return fdl_fail(err, FDL_E_FORMAT, e.host,
                            "qcow2: the stream ends too early");
        unsigned char *copy = malloc((size_t)e.host_len);
        if (!copy)
            return fdl_fail(err, FDL_E_LIMIT, e.host, "qcow2: no memory for a cluster");
        memcpy(copy, l->carry + (e.host - l->carry_off), (size_t)e.host_len);
        int rc = submit(l, true, l->compressed, l->compressed + 1, e.host, copy,
                        (size_t)e.host_len, NULL, copy, err);
        if (rc < 0)
            return rc;
    }
    for (n = fdl_qcow2_plain_count(l->img); l->plain < n; l->plain++) {
        fdl_qcow2_plain(l->img, l->plain, &e);
        if (e.host + e.len > l->end)
            return fdl_fail(err, FDL_E_FORMAT, l->end,
                            "qcow2: the stream ends too early");
    }
    return FDL_OK;
}

/* Waits until no job, no zeros and no worker are left, or something failed. */
static int wait_all(struct land *l, struct fdl_err *err)
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
    struct land *l = (struct land *)self;
    int rc = FDL_OK;

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
    struct land *l = (struct land *)self;
    struct fdl_err err;

    pthread_mutex_lock(&l->lock);
    fail_locked(l, fdl_fail(&err, FDL_E_CANCELLED, FDL_NO_OFFSET, "cancelled"), &err);
    pthread_cond_broadcast(&l->done);
    pthread_cond_broadcast(&l->work);
    pthread_mutex_unlock(&l->lock);
}

static void stats(const struct fdl_lander *self, uint64_t *target_bytes,
                  uint64_t *busy_ns)
{
    const struct land *l = (const struct land *)self;

    *target_bytes = atomic_load(&l->landed);
    *busy_ns = atomic_load(&l->busy_ns);
}

/* --- life ------------------------------------------------------------------------- */

static void free_(struct fdl_lander *self)
{
    struct land *l = (struct land *)self;

    pthread_mutex_lock(&l->lock);
    struct fdl_err err;
    fail_locked(l, fdl_fail(&err, FDL_E_CANCELLED, FDL_NO_OFFSET, "cancelled"), &err);
    l->quit = true;
    pthread_cond_broadcast(&l->work);
    pthread_mutex_unlock(&l->lock);
    for (unsigned i = 0; l->workers && i < l->threads; i++) {
        struct worker *w = &l->workers[i];
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
    free(l->carry);
    free(l->workers);
    free(l->jobs);
    free(l);
}

static const struct fdl_lander_ops ops = {push, finish, abort_, stats, free_};

static bool start_worker(struct land *l, struct worker *w)
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
    w->running = pthread_create(&w->thread, NULL, work, w) == 0;
    return w->running;
}

static bool start(struct land *l)
{
    size_t jobs = (size_t)l->threads * JOBS_PER_THREAD;

    l->workers = calloc(l->threads, sizeof *l->workers);
    l->jobs = calloc(jobs, sizeof *l->jobs);
    /* A waiting cluster spans at most two clusters of the file. */
    l->carry = malloc((size_t)l->info->cluster_size * 2);
    if (!l->workers || !l->jobs || !l->carry)
        return false;
    for (size_t i = 0; i < jobs; i++)
        recycle(l, &l->jobs[i]);
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
    struct land *l = calloc(1, sizeof *l);

    if (!l) {
        fdl_qcow2_free(img);
        return fdl_fail(err, FDL_E_LIMIT, FDL_NO_OFFSET, "qcow2: no memory");
    }
    l->base.ops = &ops;
    l->img = img;
    l->info = info;
    l->sink = sink;
    l->threads = options && options->threads ? options->threads : 2;
    if (l->threads > MAX_THREADS)
        l->threads = MAX_THREADS;
    /* Clusters below a page share pages of the target: one thread alone keeps buffered
     * and direct writes to one page in order. */
    if (info->unit < FDL_BUF_ALIGN)
        l->threads = 1;
    l->detect_zeros = options && options->detect_zeros;
    l->out_size = info->cluster_size > OUT_SIZE ? info->cluster_size : OUT_SIZE;
    l->tail = &l->head;
    fdl_err_clear(&l->error);
    pthread_mutex_init(&l->lock, NULL);
    pthread_cond_init(&l->work, NULL);
    pthread_cond_init(&l->done, NULL);
    if (!start(l)) {
        free_(&l->base);
        return fdl_fail(err, FDL_E_LIMIT, FDL_NO_OFFSET, "qcow2: no memory or threads");
    }
    *out = &l->base;
    return FDL_OK;
}
