/* SPDX-License-Identifier: Apache-2.0 */
#include "job/chain.h"
#include "base/clock.h"
#include "job/verify.h"

/* For each connection: at most so much waits, and so much where the order is held up.
 */
#define AHEAD_BYTES ((size_t)5 << 20)
#define HELD_BYTES ((size_t)3 << 20)
#define IDLE_MS 20

int fdl_chain_init(struct fdl_job *job, struct fdl_hash *hash, struct fdl_err *err)
{
    job->chain.hash = hash;
    job->chain.before = fdl_hash_like(hash);
    return job->chain.before ? FDL_OK : fdl_nomem(err, "a digest");
}

void fdl_chain_destroy(struct fdl_job *job)
{
    fdl_hash_free(job->chain.before);
}

static size_t blocks_of(const struct fdl_job *job, size_t bytes)
{
    size_t each = bytes / job->cfg.block;

    return (each > 2 ? each : 2) *
           (size_t)(job->sched.n_conns > 0 ? job->sched.n_conns : 1);
}

/* Whether the block has come. Locked. */
static bool is_there(const struct fdl_job *job, uint64_t block)
{
    return fdl_plan_in_window(&job->plan, block) &&
           fdl_plan_slot(&job->plan, block)->state >= FDL_SLOT_FILLED;
}

bool fdl_chain_is_behind(const struct fdl_job *job)
{
    return job->chain.hash && job->chain.waiting >= blocks_of(job, AHEAD_BYTES) &&
           is_there(job, job->chain.next);
}

/* The block's piece, where it is made of blocks, else NULL. Locked. */
static struct fdl_piece *piece_of(struct fdl_job *job, uint64_t block)
{
    struct fdl_piece *p = NULL;
    struct fdl_err err;

    if (job->pieces.mode == FDL_PIECES_OF_BLOCKS &&
        fdl_pieces_of(&job->pieces, block, &p, &err) < 0)
        fdl_job_fail(job, &err);
    return p;
}

/* Whether the block waits, and its piece has been hashed up to it. Locked. */
static bool waits(struct fdl_job *job, uint64_t block)
{
    if (!is_there(job, block) ||
        fdl_plan_slot(&job->plan, block)->state != FDL_SLOT_FILLED)
        return false;
    struct fdl_piece *p = piece_of(job, block);
    return !job->stop && (!p || p->next == block);
}

/* Whether it came from a mirror of which no piece has matched yet. Locked. */
static bool is_suspect(const struct fdl_job *job, uint64_t block)
{
    return fdl_plan_slot(&job->plan, block)->mirrors & ~job->chain.trusted;
}

/* The lowest block after the chain's next that waits; of suspects only, if so wanted.
 * Locked. */
static bool find_waiting(struct fdl_job *job, bool suspect, uint64_t *block)
{
    uint64_t b = job->chain.next + 1;

    if (job->chain.waiting == 0 ||
        (suspect && !(job->chain.seen & ~job->chain.trusted)))
        return false;
    for (; fdl_plan_in_window(&job->plan, b); b++)
        if ((!suspect || is_suspect(job, b)) && waits(job, b)) {
            *block = b;
            return true;
        }
    return false;
}

/* The next of a piece, and of the chain over `other`, which may be the same block,
 * where it is not NULL. p: NULL where the pieces lie in the block. Not locked. */
static int hash_both(struct fdl_job *job, struct fdl_piece *p,
                     const struct fdl_buf *buf, const struct fdl_buf *other,
                     struct fdl_err *err)
{
    struct fdl_hash *chain = job->chain.hash;
    size_t both = !other ? 0 : other->len < buf->len ? other->len : buf->len;

    if (!p)
        return other ? fdl_pieces_check_beside(&job->pieces, buf, chain, other, err)
                     : fdl_pieces_check_block(&job->pieces, buf, err);
    if (other) {
        fdl_hash_update_two(p->hash, buf->data, chain, other->data, both);
        fdl_hash_update(chain, other->data + both, other->len - both);
    }
    fdl_hash_update(p->hash, buf->data + both, buf->len - both);
    return FDL_OK;
}

/* The blocks of the piece have all been hashed, to rc. Locked. */
static void decide(struct fdl_job *job, struct fdl_piece *p, uint64_t first,
                   uint64_t end, int rc, const struct fdl_err *err)
{
    unsigned char got[FDL_HASH_MAX];
    int failures = 0;

    if (p) {
        fdl_hash_final(p->hash, got);
        p->next = first;
        if (!fdl_pieces_match(&job->pieces, p->index, got)) {
            rc = FDL_E_INTEGRITY;
            failures = ++p->failures;
        }
    }
    if (rc == FDL_OK) {
        for (uint64_t b = first; b < end; b++)
            atomic_fetch_or(&job->chain.trusted, fdl_plan_slot(&job->plan, b)->mirrors);
        fdl_verify_proven(job, first, end);
    } else if (rc == FDL_E_INTEGRITY) {
        fdl_verify_piece_failed(job, first, end, failures);
        job->chain.doubt = true;
        if (job->chain.next > first) { /* as if the chain had not seen it */
            fdl_hash_copy(job->chain.hash, job->chain.before);
            job->chain.next = first;
        }
    } else {
        fdl_job_fail(job, err);
    }
}

/* Hashes block `piece` for its piece, and block `chain` for the file: the same one or
 * two, or one of them FDL_NO_BLOCK. Locked on entry and exit, not while it hashes. */
static void hash_on(struct fdl_job *job, uint64_t piece, uint64_t chain)
{
    bool has_piece = piece != FDL_NO_BLOCK, has_chain = chain != FDL_NO_BLOCK;
    struct fdl_piece *p = has_piece ? piece_of(job, piece) : NULL;
    struct fdl_buf *buf = has_piece ? fdl_plan_slot(&job->plan, piece)->buf : NULL,
                   *other = has_chain ? fdl_plan_slot(&job->plan, chain)->buf : NULL;
    uint64_t blocks = job->pieces.mode == FDL_PIECES_OF_BLOCKS ? job->pieces.blocks : 1;
    struct fdl_err err;
    int rc = FDL_OK;

    if (job->stop)
        return;
    if (has_chain && chain % blocks == 0)
        fdl_hash_copy(job->chain.before, job->chain.hash);
    pthread_mutex_unlock(&job->lock);
    uint64_t started = fdl_now_ns();
    if (has_piece)
        rc = hash_both(job, p, buf, other, &err);
    else
        fdl_hash_update(job->chain.hash, other->data, other->len);
    atomic_fetch_add_explicit(&job->hash_ns, fdl_now_ns() - started,
                              memory_order_relaxed);
    if (has_piece && has_chain)
        atomic_fetch_add_explicit(&job->along, other->len, memory_order_relaxed);
    pthread_mutex_lock(&job->lock);
    if (has_chain) {
        fdl_plan_slot(&job->plan, chain)->passed++;
        job->chain.next = chain + 1;
    }
    if (has_piece) {
        uint64_t first = piece / blocks * blocks, end = first + blocks;
        if (end > job->plan.n_blocks)
            end = job->plan.n_blocks;
        job->chain.waiting--;
        if (!p || ++p->next == end)
            decide(job, p, first, end, rc, &err);
    }
    if (has_chain)
        fdl_verify_release(job, chain);
}

/* One step of the chain, and with it a piece's: of the same block, or of one that waits
 * where that piece has been checked before. Locked. */
static void go_on(struct fdl_job *job)
{
    uint64_t block = job->chain.next, other;

    if (waits(job, block))
        hash_on(job, block, block);
    else if (find_waiting(job, false, &other))
        hash_on(job, other, block);
    else
        hash_on(job, FDL_NO_BLOCK, block);
}

/* The order is held up: what is worth doing meanwhile. Locked. */
static bool do_something_else(struct fdl_job *job)
{
    bool many = job->chain.waiting > blocks_of(job, HELD_BYTES);
    uint64_t block;

    if ((many || job->chain.doubt) && find_waiting(job, false, &block)) {
        hash_on(job, block, FDL_NO_BLOCK);
        return true;
    }
    return fdl_verify_write_one(job);
}

/* A mirror that lies is to be found before it is asked for much: of one that has shown
 * nothing yet the first piece does not wait for its turn. Locked. */
static bool check_suspect(struct fdl_job *job)
{
    uint64_t block = job->chain.next;

    if (waits(job, block) && is_suspect(job, block))
        return false; /* it is next */
    if (!find_waiting(job, true, &block))
        return false;
    hash_on(job, block, FDL_NO_BLOCK);
    return true;
}

int fdl_chain_run(struct fdl_job *job, struct fdl_err *err)
{
    struct fdl_chain *chain = &job->chain;
    int rc = FDL_OK;

    pthread_mutex_lock(&job->lock);
    while (!job->stop) {
        while (chain->next < job->plan.n_blocks &&
               fdl_plan_is_skip(&job->plan, chain->next))
            chain->next++;
        if (chain->next >= job->plan.n_blocks)
            break;
        if (check_suspect(job))
            continue;
        if (is_there(job, chain->next)) {
            go_on(job);
        } else if (!do_something_else(job)) {
            struct timespec deadline = fdl_deadline(IDLE_MS);
            pthread_cond_timedwait(&job->data, &job->lock, &deadline);
        }
    }
    while (fdl_verify_write_one(job))
        ;
    if (job->stop)
        rc = fdl_fail(err, FDL_E_CANCELLED, FDL_NO_OFFSET, "cancelled");
    pthread_mutex_unlock(&job->lock);
    return rc;
}
