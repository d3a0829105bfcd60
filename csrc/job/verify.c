/* SPDX-License-Identifier: Apache-2.0 */
/* job/verify.c - VERIFY and LAND: a filled block is proven by its piece, hashed in
 * order, written, and given back.
 *
 *   FILLED --piece agrees--> VERIFIED --written, every ordered consumer passed--> free
 *      \--piece differs--> missing again, its mirror struck off
 *
 * A block is not written before its piece has agreed: bytes known to be bad never reach
 * the target. */
#include "base/clock.h"
#include "job/job_priv.h"

#include <stdlib.h>
#include <string.h>

#include "base/zero.h"

size_t fdl_block_len(const struct fdl_job *job, uint64_t block)
{
    uint64_t off = block * job->cfg.block, total = job->total;

    if (total == FDL_SIZE_UNKNOWN || total - off >= job->cfg.block)
        return job->cfg.block;
    return (size_t)(total - off);
}

/* Frees finished blocks from base on. Locked. */
static void release_finished(struct fdl_job *job)
{
    uint64_t before = job->plan.base;

    for (;;) {
        fdl_plan_skip_unneeded(&job->plan);
        if (fdl_plan_done(&job->plan))
            break;
        struct fdl_slot *slot = fdl_plan_slot(&job->plan, job->plan.base);
        if (slot->state != FDL_SLOT_VERIFIED || !slot->written ||
            slot->passed < job->n_consumers)
            break;
        atomic_fetch_add_explicit(&job->done, slot->buf->len, memory_order_relaxed);
        fdl_plan_release_base(&job->plan);
    }
    /* Whoever waits for room in the window sleeps until there is some for a run: woken
     * for each block, threads changed a third more often. */
    uint64_t step = job->plan.window / 8 > 1 ? job->plan.window / 8 : 1;
    if (job->plan.base / step != before / step)
        pthread_cond_broadcast(&job->space);
    if (fdl_plan_done(&job->plan)) {
        fdl_job_wake_all(job); /* nobody has to wait for a mirror any more */
        pthread_cond_broadcast(&job->data);
        pthread_cond_broadcast(&job->ended);
    }
}

static void record(struct fdl_job *job, const struct fdl_buf *buf)
{
    uint64_t end = buf->off + buf->len;

    if (job->total == FDL_SIZE_UNKNOWN)
        return; /* such a source cannot be resumed */
    if (job->cfg.hold > 0 && (buf->off < job->cfg.hold || end > job->total ||
                              job->total - end < job->cfg.hold))
        return; /* held back in memory: not on the target */
    struct fdl_range range = {.off = buf->off, .len = buf->len, .xxh3 = buf->xxh3};
    if (!fdl_landed_add(&job->landed, &range))
        return; /* a missing record only means that the block is fetched again */
    job->unsettled++;
    if (job->landed.n == job->landed_wanted)
        pthread_cond_signal(&job->watched);
}

/* Writes a verified block, which the slot keeps alive. Not locked. */
static void land(struct fdl_job *job, uint64_t block, struct fdl_buf *buf)
{
    struct fdl_err err;
    int rc;

    rc = fdl_sink_write(job->cfg.sink, buf->data, buf->len, buf->off,
                        job->cfg.detect_zeros, &err);
    pthread_mutex_lock(&job->lock);
    if (rc != FDL_OK) {
        fdl_job_fail(job, &err);
    } else {
        if (job->cfg.record)
            record(job, buf);
        fdl_plan_slot(&job->plan, block)->written = true;
        release_finished(job);
    }
    pthread_mutex_unlock(&job->lock);
}

/* [first, end) became VERIFIED. Locked on entry and exit, not while it writes. */
static void verified(struct fdl_job *job, uint64_t first, uint64_t end)
{
    for (uint64_t b = first; b < end; b++)
        fdl_plan_slot(&job->plan, b)->state = FDL_SLOT_VERIFIED;
    pthread_cond_broadcast(&job->data);
    for (uint64_t b = first; b < end; b++) {
        struct fdl_slot *slot = fdl_plan_slot(&job->plan, b);
        if (job->cfg.lander || slot->local) {
            slot->written = true;
            continue;
        }
        struct fdl_buf *buf = slot->buf;
        pthread_mutex_unlock(&job->lock);
        land(job, b, buf);
        pthread_mutex_lock(&job->lock);
        if (job->stop)
            return;
    }
    release_finished(job);
}

/* ---- pieces ---------------------------------------------------------------- */

static bool piece_agrees(const struct fdl_job *job, uint64_t index,
                         const unsigned char *got)
{
    size_t n = fdl_hash_len(job->cfg.pieces.alg);

    return index < job->cfg.pieces.count &&
           memcmp(got, job->cfg.pieces.digests + index * n, n) == 0;
}

/* Whether any of the caller's extents reaches into [off, end). */
static bool has_known(const struct fdl_job *job, uint64_t off, uint64_t end)
{
    for (size_t i = 0; i < job->cfg.n_known; i++)
        if (job->cfg.known[i].off < end &&
            job->cfg.known[i].off + job->cfg.known[i].len > off)
            return true;
    return false;
}

/* One mirror gave the piece: it lied, and is struck off. Several: nobody can tell who,
 * so all are suspects and the piece is fetched again, by one of them alone. Locked. */
static void piece_failed(struct fdl_job *job, uint64_t first, uint64_t end,
                         int failures)
{
    struct fdl_err err;
    uint64_t who = 0;
    bool local = false;

    fdl_fail(&err, FDL_E_INTEGRITY, first * job->cfg.block,
             "a piece does not match its digest");
    for (uint64_t b = first; b < end; b++) {
        struct fdl_slot *slot = fdl_plan_slot(&job->plan, b);
        who |= slot->mirrors;
        if (slot->local) {
            local = true;
            fdl_plan_unmark_local(&job->plan, b);
        }
        fdl_plan_reject(&job->plan, b);
    }
    bool single = who != 0 && (who & (who - 1)) == 0;
    for (int i = 0; i < (int)job->cfg.n_mirrors; i++) {
        if (!(who >> i & 1))
            continue;
        atomic_fetch_add_explicit(&job->cfg.mirrors[i]->errors, 1,
                                  memory_order_relaxed);
        if ((single && !local) || failures > 3)
            fdl_sched_strike(job, job->cfg.mirrors[i], i, &err);
    }
    /* What the caller brought along may be the bad part. A lander has been built on it
     * already: then the attempt is over. */
    bool brought = has_known(job, first * job->cfg.block, end * job->cfg.block);
    if ((who == 0 && !local && job->ignore_known) || (job->cfg.lander && brought))
        fdl_job_fail(job, &err);
    job->ignore_known |= brought || who == 0;
    pthread_cond_broadcast(&job->space);
}

/* Whole pieces lie in one block. Not locked. */
static bool block_pieces_agree(struct fdl_job *job, const struct fdl_buf *buf)
{
    unsigned char got[FDL_HASH_MAX];
    struct fdl_hash *h = fdl_hash_new(job->cfg.pieces.alg);
    uint64_t len = job->cfg.pieces.length, index = buf->off / len;
    bool ok = h != NULL;

    for (size_t at = 0; ok && at < buf->len; at += len, index++) {
        size_t n = buf->len - at < len ? buf->len - at : (size_t)len;
        fdl_hash_update(h, buf->data + at, n);
        fdl_hash_final(h, got);
        ok = piece_agrees(job, index, got);
    }
    fdl_hash_free(h);
    return ok;
}

static struct fdl_piece *piece_of(struct fdl_job *job, uint64_t block)
{
    uint64_t index = block / job->piece_blocks;
    struct fdl_piece *p = &job->pieces[index % job->n_pieces];

    if (p->index != index) {
        unsigned char rest[FDL_HASH_MAX];
        if (!p->hash)
            p->hash = fdl_hash_new(job->cfg.pieces.alg);
        else
            fdl_hash_final(p->hash, rest); /* starts anew */
        p->index = index;
        p->next = index * job->piece_blocks;
        p->busy = false;
        p->failures = 0;
    }
    return p;
}

/* Hashes on from where the piece stands, as far as its blocks are there. The thread
 * that completes it decides. Locked on entry and exit. */
static void advance_piece(struct fdl_job *job, uint64_t block)
{
    struct fdl_piece *p = piece_of(job, block);
    uint64_t first = p->index * job->piece_blocks, end = first + job->piece_blocks;
    unsigned char got[FDL_HASH_MAX];

    if (end > job->plan.n_blocks)
        end = job->plan.n_blocks;
    if (p->busy)
        return; /* that thread will find our block */
    if (!p->hash) {
        struct fdl_err err;
        fdl_fail(&err, FDL_E_INTERNAL, FDL_NO_OFFSET,
                 "the piece digest is not available");
        fdl_job_fail(job, &err);
        return;
    }
    p->busy = true;
    while (p->next < end && !job->stop) {
        struct fdl_slot *slot = fdl_plan_slot(&job->plan, p->next);
        /* Behind the window's end the slot is still another block's. */
        if (!fdl_plan_in_window(&job->plan, p->next) || slot->state != FDL_SLOT_FILLED)
            break;
        struct fdl_buf *buf = slot->buf;
        fdl_buf_ref(buf);
        pthread_mutex_unlock(&job->lock);
        uint64_t before = fdl_now_ns();
        fdl_hash_update(p->hash, buf->data, buf->len);
        atomic_fetch_add_explicit(&job->hash_ns, fdl_now_ns() - before,
                                  memory_order_relaxed);
        pthread_mutex_lock(&job->lock);
        fdl_buf_unref(buf);
        p->next++;
    }
    p->busy = false;
    if (p->next < end || job->stop)
        return;
    fdl_hash_final(p->hash, got);
    p->next = first;
    if (piece_agrees(job, p->index, got))
        verified(job, first, end);
    else
        piece_failed(job, first, end, ++p->failures);
}

/* ---- delivery -------------------------------------------------------------- */

void fdl_verify_deliver(struct fdl_worker *w, uint64_t block, struct fdl_buf *buf,
                        uint64_t mirrors)
{
    struct fdl_job *job = w->job;
    bool by_block = job->pieces_in_fetch && job->piece_blocks == 0, ok = true;

    if (by_block) {
        uint64_t before = fdl_now_ns();
        ok = block_pieces_agree(job, buf);
        atomic_fetch_add_explicit(&job->hash_ns, fdl_now_ns() - before,
                                  memory_order_relaxed);
    }
    pthread_mutex_lock(&job->lock);
    if (!fdl_plan_fill(&job->plan, w->id, block)) {
        fdl_buf_unref(buf); /* somebody else was first */
        pthread_mutex_unlock(&job->lock);
        return;
    }
    struct fdl_slot *slot = fdl_plan_slot(&job->plan, block);
    int other = slot->owner == w->id ? slot->hedger : slot->owner;
    slot->buf = buf;
    slot->mirrors = mirrors;
    slot->local = w->local;
    if (other != FDL_NOBODY) {
        struct fdl_worker *loser = &job->workers[other];
        if (loser->mirror && loser->mirror != w->mirror && loser->id == slot->owner)
            fdl_sched_lost_hedge(job, loser->mirror);
        if (atomic_load(&loser->at_block) ==
            block) /* else it will find out by itself */
            fdl_wake_nudge(&loser->wake);
    }
    if (!ok)
        piece_failed(job, block, block + 1, 0);
    else if (!job->pieces_in_fetch || by_block)
        verified(job, block, block + 1);
    else
        advance_piece(job, block);
    pthread_mutex_unlock(&job->lock);
}

/* ---- ordered consumers ----------------------------------------------------- */

/* Pieces that do not tile with blocks, or are larger than the window allows: checked in
 * order, after the write. A bad one ends the attempt. */
static int consume_pieces(struct fdl_consumer *c, const struct fdl_buf *buf,
                          struct fdl_err *err)
{
    struct fdl_job *job = c->job;
    uint64_t len = job->cfg.pieces.length, at = buf->off, end = buf->off + buf->len;

    while (at < end) {
        uint64_t index = at / len, stop = (index + 1) * len;
        if (stop > job->total)
            stop = job->total;
        uint64_t n = (stop < end ? stop : end) - at;
        fdl_hash_update(c->hash, buf->data + (at - buf->off), (size_t)n);
        at += n;
        if (at == stop) {
            fdl_hash_final(c->hash, c->digest);
            if (!piece_agrees(job, index, c->digest))
                return fdl_fail(err, FDL_E_INTEGRITY, index * len,
                                "a piece does not match its digest");
        }
    }
    return FDL_OK;
}

static int consume(struct fdl_consumer *c, struct fdl_buf *buf, struct fdl_err *err)
{
    uint64_t before = fdl_now_ns();
    int rc = FDL_OK;

    if (c->kind == FDL_CONSUME_LAND)
        return c->job->cfg.lander->ops->push(c->job->cfg.lander, buf, err);
    if (c->kind == FDL_CONSUME_PIECES)
        rc = consume_pieces(c, buf, err);
    else
        fdl_hash_update(c->hash, buf->data, buf->len);
    atomic_fetch_add_explicit(&c->job->hash_ns, fdl_now_ns() - before,
                              memory_order_relaxed);
    return rc;
}

void *fdl_consumer_main(void *arg)
{
    struct fdl_consumer *c = arg;
    struct fdl_job *job = c->job;
    struct fdl_err err;
    int rc = FDL_OK;

    fdl_err_clear(&err);
    pthread_mutex_lock(&job->lock);
    for (;;) {
        while (c->next < job->plan.n_blocks && fdl_plan_is_skip(&job->plan, c->next))
            c->next++;
        if (job->stop || c->next >= job->plan.n_blocks)
            break;
        struct fdl_slot *slot = fdl_plan_slot(&job->plan, c->next);
        if (!fdl_plan_in_window(&job->plan, c->next) ||
            slot->state != FDL_SLOT_VERIFIED) {
            pthread_cond_wait(&job->data, &job->lock);
            continue;
        }
        struct fdl_buf *buf = slot->buf;
        fdl_buf_ref(buf);
        pthread_mutex_unlock(&job->lock);
        rc = consume(c, buf, &err);
        fdl_buf_unref(buf);
        pthread_mutex_lock(&job->lock);
        if (rc != FDL_OK)
            break;
        fdl_plan_slot(&job->plan, c->next)->passed++;
        c->next++;
        release_finished(job);
    }
    bool complete = rc == FDL_OK && !job->stop;
    pthread_mutex_unlock(&job->lock);
    if (complete && c->kind == FDL_CONSUME_DIGEST)
        fdl_hash_final(c->hash, c->digest);
    if (complete && c->kind == FDL_CONSUME_LAND)
        rc = job->cfg.lander->ops->finish(job->cfg.lander, &err);
    if (rc > FDL_OK) {
        rc = fdl_fail(&err, FDL_E_FORMAT, FDL_NO_OFFSET,
                      "the image's tables come too late to land it while it arrives");
        err.reason = FDL_REASON_NEEDS_STAGING;
    }
    if (rc != FDL_OK) {
        pthread_mutex_lock(&job->lock);
        fdl_job_fail(job, &err);
        pthread_mutex_unlock(&job->lock);
    }
    return NULL;
}

/* ---- set-up ---------------------------------------------------------------- */

static int add_consumer(struct fdl_job *job, enum fdl_consume kind, int alg,
                        struct fdl_err *err)
{
    struct fdl_consumer *c = &job->consumers[job->n_consumers++];

    c->job = job;
    c->kind = kind;
    if (alg < 0)
        return FDL_OK;
    c->alg = (enum fdl_hash_alg)alg;
    c->hash = fdl_hash_new(c->alg);
    if (!c->hash)
        return fdl_fail(err, FDL_E_INTERNAL, FDL_NO_OFFSET,
                        "a digest algorithm is not available");
    return FDL_OK;
}

/* Decides how pieces are checked. They are checked by the fetching threads where they
 * tile with the blocks and several of them fit the window. */
static int init_pieces(struct fdl_job *job, struct fdl_err *err)
{
    const struct fdl_pieces *pieces = &job->cfg.pieces;
    uint64_t block = job->cfg.block, len = pieces->length;

    if (pieces->count == 0)
        return FDL_OK;
    if (len == 0 || job->total == FDL_SIZE_UNKNOWN ||
        pieces->count != job->total / len + (job->total % len != 0))
        return fdl_fail(err, FDL_E_SIZE, FDL_NO_OFFSET,
                        "the pieces do not cover the source exactly");
    if (block % len == 0) {
        job->pieces_in_fetch = true;
        job->piece_blocks = 0;
        return FDL_OK;
    }
    bool fits =
        len / block <= job->plan.window / 4 || job->plan.n_blocks <= job->plan.window;
    if (len % block == 0 && fits) {
        job->pieces_in_fetch = true;
        job->piece_blocks = len / block;
        job->n_pieces = job->plan.window / job->piece_blocks + 2;
        job->pieces = calloc(job->n_pieces, sizeof *job->pieces);
        if (!job->pieces)
            return fdl_nomem(err, "the pieces");
        for (size_t i = 0; i < job->n_pieces; i++)
            job->pieces[i].index = UINT64_MAX;
        job->plan.align = (uint32_t)job->piece_blocks;
        return FDL_OK;
    }
    return add_consumer(job, FDL_CONSUME_PIECES, (int)pieces->alg, err);
}

int fdl_verify_init(struct fdl_job *job, struct fdl_err *err)
{
    int rc = FDL_OK;

    for (size_t i = 0; rc == FDL_OK && i < job->cfg.n_algs; i++)
        rc = add_consumer(job, FDL_CONSUME_DIGEST, (int)job->cfg.algs[i], err);
    if (rc == FDL_OK)
        rc = init_pieces(job, err);
    if (rc == FDL_OK && job->cfg.lander)
        rc = add_consumer(job, FDL_CONSUME_LAND, -1, err);
    return rc;
}

void fdl_verify_destroy(struct fdl_job *job)
{
    for (int i = 0; i < job->n_consumers; i++)
        fdl_hash_free(job->consumers[i].hash);
    for (size_t i = 0; i < job->n_pieces; i++)
        fdl_hash_free(job->pieces[i].hash);
    free(job->pieces);
    fdl_landed_clear(&job->landed);
}
