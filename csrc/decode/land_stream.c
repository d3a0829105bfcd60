/* SPDX-License-Identifier: Apache-2.0 */
/* The pushing thread decodes into its own blocks. A writer thread writes them
 * unchanged, or they are kept until a qcow2's tables are complete and passed to its
 * lander. */
#include "decode/land_stream.h"

#include "base/clock.h"
#include "base/zero.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define USUAL_BLOCK ((size_t)1 << 20)
#define RAW_BLOCKS 3 /* one is decoded into, one waits, one is written */
#define QCOW2_BLOCKS 32

enum phase { HEAD, RAW, TABLES, QCOW2 };

struct stream {
    struct fdl_lander base;
    struct fdl_sink *sink; /* BORROWED */
    struct fdl_land_stream_options o;
    struct fdl_inflate *inflate; /* OWNED */
    struct fdl_pool *pool;       /* OWNED */
    atomic_uint_least64_t landed, busy_ns, decoded, virtual_size;

    /* Only for the pushing thread: */
    enum phase phase;
    struct fdl_buf *cur; /* OWNED reference: decoded into */
    struct fdl_qcow2 *img;
    struct fdl_buf **held; /* OWNED references: blocks that wait for the tables */
    size_t held_n, held_max;
    bool staging;
    unsigned char tail[FDL_LAND_STREAM_TAIL]; /* the last decoded bytes */
    size_t tail_len;

    pthread_t writer;
    bool writing;         /* the writer thread exists */
    pthread_mutex_t lock; /* all below */
    pthread_cond_t changed;
    struct fdl_lander *next;           /* OWNED: the qcow2 lander */
    struct fdl_buf *queue[RAW_BLOCKS]; /* OWNED references */
    size_t queued;
    bool busy, quit;
    struct fdl_err error; /* the first one; code 0 while all is well */
};

/* --- the writer of raw images ----------------------------------------------------- */

static void *write_blocks(void *arg)
{
    struct stream *s = arg;

    pthread_mutex_lock(&s->lock);
    for (;;) {
        while (s->queued == 0 && !s->quit)
            pthread_cond_wait(&s->changed, &s->lock);
        if (s->queued == 0)
            break;
        struct fdl_buf *buf = s->queue[0];
        struct fdl_err err;
        int rc = FDL_OK;
        bool skip = s->error.code != 0;
        memmove(s->queue, s->queue + 1, --s->queued * sizeof *s->queue);
        s->busy = true;
        pthread_mutex_unlock(&s->lock);
        if (!skip)
            rc = fdl_sink_write(s->sink, buf->data, buf->len, buf->off,
                                s->o.detect_zeros, &err);
        if (!skip && rc == FDL_OK)
            atomic_fetch_add(&s->landed, buf->len);
        pthread_mutex_lock(&s->lock);
        fdl_buf_unref(buf);
        if (rc < 0 && s->error.code == 0)
            s->error = err;
        s->busy = false;
        pthread_cond_broadcast(&s->changed);
    }
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

static int stopped(struct stream *s, struct fdl_err *err)
{
    if (s->error.code && err)
        *err = s->error;
    return s->error.code;
}

static int check(struct stream *s, struct fdl_err *err)
{
    pthread_mutex_lock(&s->lock);
    int rc = stopped(s, err);
    pthread_mutex_unlock(&s->lock);
    return rc;
}

static int queue_raw(struct stream *s, struct fdl_buf *buf, struct fdl_err *err)
{
    if (s->o.sink_size && buf->len > 0 &&
        (buf->off > s->o.sink_size || buf->len > s->o.sink_size - buf->off))
        return fdl_fail(err, FDL_E_SINK_SPACE, buf->off,
                        "the decompressed image is larger than the target");
    pthread_mutex_lock(&s->lock);
    int rc = stopped(s, err);
    if (rc == FDL_OK) {
        fdl_buf_ref(buf);
        s->queue[s->queued++] = buf; /* no more blocks exist than places */
        pthread_cond_broadcast(&s->changed);
    }
    pthread_mutex_unlock(&s->lock);
    return rc;
}

/* --- what a full block becomes ---------------------------------------------------- */

static int begin_raw(struct stream *s, struct fdl_err *err)
{
    s->phase = RAW;
    if (pthread_create(&s->writer, NULL, write_blocks, s) != 0)
        return fdl_fail(err, FDL_E_LIMIT, FDL_NO_OFFSET, "no thread for writing");
    s->writing = true;
    return FDL_OK;
}

/* Tables may come late: a larger pool takes over, with the head in it. */
static int begin_qcow2(struct stream *s, struct fdl_err *err)
{
    /* What the qcow2 lander may hold at once, and what is decoded into. */
    unsigned threads = s->o.qcow2.threads ? s->o.qcow2.threads : 2;
    size_t inside = (size_t)threads * 5 + 2;
    size_t n = s->o.qcow2_blocks ? s->o.qcow2_blocks : QCOW2_BLOCKS;

    s->phase = TABLES;
    s->held_max = n;
    s->held = calloc(n, sizeof(struct fdl_buf *));
    struct fdl_pool *pool = fdl_pool_new(n + 1 > inside ? n + 1 : inside, s->o.block);
    struct fdl_buf *buf = s->held && pool ? fdl_pool_get(pool) : NULL;
    if (!buf) {
        fdl_pool_free(pool);
        return fdl_nomem(err, "qcow2 blocks");
    }
    memcpy(buf->data, s->cur->data, s->cur->len);
    buf->len = s->cur->len;
    buf->off = s->cur->off;
    fdl_buf_unref(s->cur);
    s->cur = buf;
    fdl_pool_free(s->pool);
    s->pool = pool;
    return FDL_OK;
}

static int begin(struct stream *s, struct fdl_err *err)
{
    return s->o.decoded == FDL_DECODED_QCOW2 ? begin_qcow2(s, err) : begin_raw(s, err);
}

static int needs_staging(struct stream *s)
{
    s->staging = true;
    return FDL_LAND_NEEDS_STAGING;
}

/* The tables are complete: pass on the held blocks first. */
static int begin_landing(struct stream *s, struct fdl_err *err)
{
    const struct fdl_qcow2_info *info = fdl_qcow2_get_info(s->img);
    struct fdl_lander *next;
    int rc;

    if (s->o.sink_size && info->virtual_size > s->o.sink_size)
        return fdl_fail(err, FDL_E_SINK_SPACE, FDL_NO_OFFSET,
                        "the image is larger than the target");
    struct fdl_qcow2 *img = s->img;
    s->img = NULL;
    rc = fdl_land_qcow2_new(&next, img, s->sink, &s->o.qcow2, err);
    if (rc < 0)
        return rc;
    pthread_mutex_lock(&s->lock);
    s->next = next;
    rc = stopped(s, err);
    pthread_mutex_unlock(&s->lock);
    s->phase = QCOW2;
    for (size_t i = 0; i < s->held_n; i++) {
        if (rc == FDL_OK)
            rc = next->ops->push(next, s->held[i], err);
        fdl_buf_unref(s->held[i]);
    }
    s->held_n = 0;
    return rc;
}

static int feed_tables(struct stream *s, struct fdl_buf *buf, struct fdl_err *err)
{
    size_t need = 0;
    int rc = FDL_OK;

    if (!s->img) {
        rc = fdl_qcow2_open(&s->img, buf->data, buf->len, FDL_QCOW2_SIZE_UNKNOWN,
                            &s->o.qcow2_policy, &need, err);
        if (rc == FDL_OK && !s->img)
            return buf->len == s->o.block
                       ? needs_staging(s)
                       : fdl_fail(err, FDL_E_FORMAT, 0, "qcow2: header cut off");
        if (rc == FDL_OK)
            atomic_store(&s->virtual_size, fdl_qcow2_get_info(s->img)->virtual_size);
    }
    if (rc == FDL_OK)
        rc = fdl_qcow2_feed(s->img, buf->off, buf->data, buf->len, err);
    if (rc < 0)
        return rc;
    fdl_buf_ref(buf);
    s->held[s->held_n++] = buf;
    if (fdl_qcow2_ready(s->img))
        return begin_landing(s, err);
    return s->held_n == s->held_max ? needs_staging(s) : FDL_OK;
}

/* The current block is full, or the last one: sends it on. */
static int emit(struct stream *s, struct fdl_err *err)
{
    int rc = s->phase == HEAD ? begin(s, err) : FDL_OK;

    if (rc == FDL_OK && s->phase == RAW)
        rc = queue_raw(s, s->cur, err);
    else if (rc == FDL_OK && s->phase == TABLES)
        rc = feed_tables(s, s->cur, err);
    else if (rc == FDL_OK)
        rc = s->next->ops->push(s->next, s->cur, err);
    fdl_buf_unref(s->cur);
    s->cur = NULL;
    return rc;
}

/* --- the pushing thread ----------------------------------------------------------- */

static int next_block(struct stream *s, struct fdl_err *err)
{
    int rc;

    if (s->cur)
        return FDL_OK;
    pthread_mutex_lock(&s->lock);
    while ((rc = stopped(s, err)) == FDL_OK && !(s->cur = fdl_pool_get(s->pool)))
        pthread_cond_wait(&s->changed, &s->lock);
    pthread_mutex_unlock(&s->lock);
    if (s->cur) {
        s->cur->len = 0;
        s->cur->off = atomic_load(&s->decoded);
    }
    return rc;
}

static void keep_tail(struct stream *s, const unsigned char *p, size_t len)
{
    if (len >= sizeof s->tail) {
        memcpy(s->tail, p + len - sizeof s->tail, sizeof s->tail);
        s->tail_len = sizeof s->tail;
        return;
    }
    size_t drop =
        s->tail_len + len > sizeof s->tail ? s->tail_len + len - sizeof s->tail : 0;
    memmove(s->tail, s->tail + drop, s->tail_len - drop);
    memcpy(s->tail + s->tail_len - drop, p, len);
    s->tail_len += len - drop;
}

static int push(struct fdl_lander *self, struct fdl_buf *buf, struct fdl_err *err)
{
    struct stream *s = (struct stream *)self;
    size_t at = 0, consumed, produced;
    bool more = true;

    if (s->staging)
        return FDL_LAND_NEEDS_STAGING;
    while (at < buf->len || more) {
        int rc = next_block(s, err);
        if (rc < 0)
            return rc;
        size_t room = s->o.block - s->cur->len;
        uint64_t t = fdl_now_ns();
        rc = fdl_inflate_feed(s->inflate, buf->data + at, buf->len - at,
                              s->cur->data + s->cur->len, room, &consumed, &produced,
                              err);
        atomic_fetch_add(&s->busy_ns, fdl_now_ns() - t);
        if (rc < 0)
            return rc;
        at += consumed;
        keep_tail(s, s->cur->data + s->cur->len, produced);
        s->cur->len += produced;
        atomic_fetch_add(&s->decoded, produced);
        more = produced == room;
        if (more && (rc = emit(s, err)) != FDL_OK)
            return rc;
    }
    return FDL_OK;
}

/* Waits until the writer has written all. */
static int drain(struct stream *s, struct fdl_err *err)
{
    pthread_mutex_lock(&s->lock);
    while (s->error.code == 0 && (s->queued || s->busy))
        pthread_cond_wait(&s->changed, &s->lock);
    int rc = stopped(s, err);
    pthread_mutex_unlock(&s->lock);
    return rc;
}

static int finish(struct fdl_lander *self, struct fdl_err *err)
{
    struct stream *s = (struct stream *)self;
    int rc;

    if (s->staging)
        return FDL_LAND_NEEDS_STAGING;
    rc = check(s, err); /* after a failure, the end of the stream means nothing */
    if (rc == FDL_OK)
        rc = fdl_inflate_finish(s->inflate, err);
    if (rc == FDL_OK)
        rc = next_block(s, err);
    if (rc == FDL_OK && (s->cur->len > 0 || s->phase == HEAD))
        rc = emit(s, err);
    if (rc != FDL_OK)
        return rc;
    if (s->phase == TABLES)
        return fdl_fail(err, FDL_E_FORMAT, FDL_NO_OFFSET,
                        "qcow2: the decompressed file ends before its tables");
    return s->phase == RAW ? drain(s, err) : s->next->ops->finish(s->next, err);
}

static void abort_(struct fdl_lander *self)
{
    struct stream *s = (struct stream *)self;

    pthread_mutex_lock(&s->lock);
    if (s->error.code == 0)
        fdl_fail(&s->error, FDL_E_CANCELLED, FDL_NO_OFFSET, "cancelled");
    if (s->next)
        s->next->ops->abort(s->next);
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
}

static void stats(const struct fdl_lander *self, uint64_t *target_bytes,
                  uint64_t *busy_ns)
{
    struct stream *s = (struct stream *)(uintptr_t)self;
    uint64_t busy = 0;

    *target_bytes = atomic_load(&s->landed);
    pthread_mutex_lock(&s->lock);
    if (s->next)
        s->next->ops->stats(s->next, target_bytes, &busy);
    pthread_mutex_unlock(&s->lock);
    *busy_ns = atomic_load(&s->busy_ns) + busy;
}

uint64_t fdl_land_stream_decoded(const struct fdl_lander *self)
{
    return atomic_load(&((const struct stream *)self)->decoded);
}

size_t fdl_land_stream_tail(const struct fdl_lander *self,
                            unsigned char out[FDL_LAND_STREAM_TAIL])
{
    const struct stream *s = (const struct stream *)self;
    memcpy(out, s->tail, s->tail_len);
    return s->tail_len;
}

uint64_t fdl_land_stream_trailing(const struct fdl_lander *self)
{
    return fdl_inflate_trailing(((const struct stream *)self)->inflate);
}

uint64_t fdl_land_stream_virtual_size(const struct fdl_lander *self)
{
    return atomic_load(&((const struct stream *)self)->virtual_size);
}

/* --- life ------------------------------------------------------------------------- */

static void free_(struct fdl_lander *self)
{
    struct stream *s = (struct stream *)self;

    abort_(self);
    pthread_mutex_lock(&s->lock);
    s->quit = true;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
    if (s->writing)
        pthread_join(s->writer, NULL);
    if (s->next)
        s->next->ops->free(s->next);
    for (size_t i = 0; i < s->held_n; i++)
        fdl_buf_unref(s->held[i]);
    fdl_buf_unref(s->cur);
    fdl_qcow2_free(s->img);
    fdl_inflate_free(s->inflate);
    fdl_pool_free(s->pool);
    pthread_cond_destroy(&s->changed);
    pthread_mutex_destroy(&s->lock);
    free(s->held);
    free(s);
}

static const struct fdl_lander_ops ops = {push, finish, abort_, stats, free_};

int fdl_land_stream_new(struct fdl_lander **out, struct fdl_sink *sink,
                        const struct fdl_land_stream_options *options,
                        struct fdl_err *err)
{
    struct stream *s = calloc(1, sizeof *s);

    if (!s)
        return fdl_nomem(err, "decoding");
    s->o = *options;
    if (!s->o.block)
        s->o.block = USUAL_BLOCK;
    int rc = fdl_inflate_open(&s->inflate, options->kind, &options->limits, err);
    s->pool = rc == FDL_OK ? fdl_pool_new(RAW_BLOCKS, s->o.block) : NULL;
    if (!s->pool) {
        fdl_inflate_free(s->inflate);
        free(s);
        return rc < 0 ? rc : fdl_nomem(err, "blocks");
    }
    s->base.ops = &ops;
    s->sink = sink;
    fdl_err_clear(&s->error);
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->changed, NULL);
    *out = &s->base;
    return FDL_OK;
}
