/* SPDX-License-Identifier: Apache-2.0 */
#include "job/verify.h"
#include "base/clock.h"
#include "base/sum.h"
#include "job/gather.h"

#define WRITES_A_BLOCK 2 /* of a thread that has delivered one */

static bool is_finished(const struct fdl_job *job, const struct fdl_slot *slot)
{
    return slot->state == FDL_SLOT_VERIFIED && slot->written &&
           slot->passed >= job->n_consumers;
}

void fdl_verify_release(struct fdl_job *job, uint64_t block)
{
    uint64_t before = job->plan.base;
    struct fdl_slot *done = fdl_plan_slot(&job->plan, block);

    if (is_finished(job, done)) {
        fdl_buf_unref(done->buf);
        done->buf = NULL;
    }
    for (;;) {
        fdl_plan_skip_unneeded(&job->plan);
        if (fdl_plan_done(&job->plan))
            break;
        uint64_t base = job->plan.base;
        if (!is_finished(job, fdl_plan_slot(&job->plan, base)))
            break;
        atomic_fetch_add_explicit(&job->done, fdl_job_block_len(job, base),
                                  memory_order_relaxed);
        fdl_plan_release_base(&job->plan);
    }
    /* A thread that waits for room in the window sleeps until there is some for a run:
     * woken for each block, threads changed a third more often. */
    uint64_t step = job->plan.reach / 8 > 1 ? job->plan.reach / 8 : 1;
    if (job->plan.base / step != before / step)
        pthread_cond_broadcast(&job->space);
    if (fdl_plan_done(&job->plan)) {
        fdl_job_wake_workers(job); /* no mirror has to be waited for any more */
        pthread_cond_broadcast(&job->data);
        pthread_cond_broadcast(&job->ended);
    }
}

/* Lists a block for the journal. Locked. */
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
    job->sched.unsettled++;
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
        fdl_verify_release(job, block);
    }
    pthread_mutex_unlock(&job->lock);
}

/* Bytes a second up to which the source of a lander is kept for a resume. What arrives
 * faster can soon be fetched again, and writing it a second time would slow it down. */
#define SPOOL_RATE (64u << 20)

/* Whether the next block is kept. One that comes before there is a place for it is not:
 * it only makes the caller look for one. Locked. */
static bool spools(struct fdl_job *job)
{
    uint64_t ns = fdl_now_ns() - job->started_ns;

    if (!job->cfg.keeps || job->spool_failed ||
        (double)job->fetched * FDL_NS_PER_S > (double)ns * SPOOL_RATE)
        return false;
    if (!job->spool && !job->spool_wanted) {
        job->spool_wanted = true;
        pthread_cond_signal(&job->watched);
    }
    return job->spool;
}

/* Keeps a verified block, which the slot keeps alive. A failure ends only the keeping.
 * Not locked. */
static void spool(struct fdl_job *job, uint64_t block, struct fdl_buf *buf)
{
    struct fdl_err ignored;

    buf->xxh3 = fdl_sum_of(buf->data, buf->len);
    int rc = fdl_sink_pwrite(job->spool, buf->data, buf->len, buf->off, &ignored);

    pthread_mutex_lock(&job->lock);
    if (rc == FDL_OK)
        record(job, buf);
    else
        job->spool_failed = true;
    fdl_plan_slot(&job->plan, block)->written = true;
    fdl_verify_release(job, block);
    pthread_mutex_unlock(&job->lock);
}

/* Locked on entry and exit, not while it writes. */
static void write_block(struct fdl_job *job, uint64_t block)
{
    struct fdl_buf *buf = fdl_plan_slot(&job->plan, block)->buf;

    pthread_mutex_unlock(&job->lock);
    if (job->cfg.lander)
        spool(job, block, buf);
    else
        land(job, block, buf);
    pthread_mutex_lock(&job->lock);
}

/* Locked. */
static void mark_verified(struct fdl_job *job, uint64_t first, uint64_t end)
{
    for (uint64_t b = first; b < end; b++)
        fdl_plan_slot(&job->plan, b)->state = FDL_SLOT_VERIFIED;
    pthread_cond_broadcast(&job->data);
}

/* Whether the block is to be written; if not, that is done with it. Locked. */
static bool is_to_write(struct fdl_job *job, uint64_t block)
{
    struct fdl_slot *slot = fdl_plan_slot(&job->plan, block);

    if (!slot->local && (!job->cfg.lander || spools(job)))
        return true;
    slot->written = true;
    fdl_verify_release(job, block);
    return false;
}

/* [first, end) became VERIFIED. Locked on entry and exit, not while it writes. */
static void verified(struct fdl_job *job, uint64_t first, uint64_t end)
{
    mark_verified(job, first, end);
    for (uint64_t b = first; b < end; b++) {
        if (is_to_write(job, b))
            write_block(job, b);
        if (job->stop)
            return;
    }
}

void fdl_verify_proven(struct fdl_job *job, uint64_t first, uint64_t end)
{
    mark_verified(job, first, end);
    for (uint64_t b = first; b < end; b++)
        if (is_to_write(job, b)) {
            fdl_plan_slot(&job->plan, b)->to_write = true;
            job->to_write++;
        }
    if (job->to_write > 0)
        pthread_cond_signal(&job->space);
}

bool fdl_verify_write_one(struct fdl_job *job)
{
    uint64_t block = job->plan.base;

    if (job->to_write == 0 || job->stop)
        return false;
    while (!fdl_plan_slot(&job->plan, block)->to_write)
        block++;
    fdl_plan_slot(&job->plan, block)->to_write = false;
    job->to_write--;
    write_block(job, block);
    return true;
}

/* ---- pieces ---------------------------------------------------------------- */

/* Whether any of the caller's extents reaches into [off, end). */
static bool has_known(const struct fdl_job *job, uint64_t off, uint64_t end)
{
    for (size_t i = 0; i < job->cfg.n_known; i++)
        if (job->cfg.known[i].off < end &&
            job->cfg.known[i].off + job->cfg.known[i].len > off)
            return true;
    return false;
}

/* If one mirror sent the piece, it is disqualified; the last one only if it sends the
 * piece wrong a second time, since one bit may flip on any way. If several sent it, all
 * are suspects, and one of them fetches the piece again alone. Locked. */
void fdl_verify_piece_failed(struct fdl_job *job, uint64_t first, uint64_t end,
                             int failures)
{
    struct fdl_err err;
    uint64_t who = 0, before = 0;
    bool local = false, last = fdl_sched_usable(&job->sched) == 1;

    fdl_fail(&err, FDL_E_INTEGRITY, first * job->cfg.block,
             "a piece does not match its digest");
    if (job->cfg.n_mirrors == 1)
        err.reason = FDL_REASON_WRONG_PIECE;
    for (uint64_t b = first; b < end; b++) {
        struct fdl_slot *slot = fdl_plan_slot(&job->plan, b);
        who |= slot->mirrors;
        before |= slot->wrong;
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
        if ((single && !local && (!last || before >> i & 1)) || failures > 3)
            fdl_job_disqualify(job, i, &err);
    }
    /* The caller's own data may be the bad part. A lander has been built on it
     * already: then the attempt is over. */
    bool brought = has_known(job, first * job->cfg.block, end * job->cfg.block);
    if ((who == 0 && !local && job->ignore_known) || (job->cfg.lander && brought))
        fdl_job_fail(job, &err);
    job->ignore_known |= brought || who == 0;
    pthread_cond_broadcast(&job->space);
}

/* The next block of a piece. Not locked. */
static void hash_on(struct fdl_job *job, struct fdl_hash *hash,
                    const struct fdl_buf *buf)
{
    uint64_t before = fdl_now_ns();

    fdl_hash_update(hash, buf->data, buf->len);
    atomic_fetch_add_explicit(&job->hash_ns, fdl_now_ns() - before,
                              memory_order_relaxed);
}

/* Whether the pieces in this block match, which nobody else sees yet. Not locked. */
static int check_block(struct fdl_job *job, const struct fdl_buf *buf,
                       struct fdl_err *err)
{
    uint64_t before = fdl_now_ns();
    int rc = fdl_pieces_check_block(&job->pieces, buf, err);

    atomic_fetch_add_explicit(&job->hash_ns, fdl_now_ns() - before,
                              memory_order_relaxed);
    return rc;
}

bool fdl_verify_gathered(struct fdl_job *job)
{
    uint64_t blocks[FDL_SHA256_LANES_MAX];
    const struct fdl_buf *bufs[FDL_SHA256_LANES_MAX];
    bool right[FDL_SHA256_LANES_MAX];
    struct fdl_err err;

    if (job->stop || !fdl_gather_is_due(job))
        return false;
    size_t n = fdl_gather_take(job, blocks, bufs);
    pthread_mutex_unlock(&job->lock);
    uint64_t before = fdl_now_ns();
    int rc = fdl_pieces_check_blocks(&job->pieces, bufs, n, right, &err);
    atomic_fetch_add_explicit(&job->hash_ns, fdl_now_ns() - before,
                              memory_order_relaxed);
    pthread_mutex_lock(&job->lock);
    if (rc < 0 && rc != FDL_E_INTEGRITY) {
        fdl_job_fail(job, &err);
        return true;
    }
    for (size_t i = 0; i < n && !job->stop; i++) {
        if (right[i])
            fdl_verify_proven(job, blocks[i], blocks[i] + 1);
        else
            fdl_verify_piece_failed(job, blocks[i], blocks[i] + 1, 0);
    }
    return true;
}

void fdl_verify_late(struct fdl_job *job)
{
    if (job->gather.most == 0)
        return;
    fdl_verify_gathered(job);
    fdl_verify_write_one(job);
}

/* Hashes on from where the piece stands, as far as its blocks are there. The thread
 * that completes it decides. Locked on entry and exit. */
static void advance_piece(struct fdl_job *job, uint64_t block)
{
    struct fdl_piece *p;
    struct fdl_err err;
    unsigned char got[FDL_HASH_MAX];

    if (fdl_pieces_of(&job->pieces, block, &p, &err) < 0) {
        fdl_job_fail(job, &err);
        return;
    }
    if (p->busy)
        return; /* that thread will find our block */
    uint64_t first = p->index * job->pieces.blocks, end = first + job->pieces.blocks;
    if (end > job->plan.n_blocks)
        end = job->plan.n_blocks;
    p->busy = true;
    while (p->next < end && !job->stop) {
        struct fdl_slot *slot = fdl_plan_slot(&job->plan, p->next);
        /* Behind the window's end the slot is still another block's. */
        if (!fdl_plan_in_window(&job->plan, p->next) || slot->state != FDL_SLOT_FILLED)
            break;
        struct fdl_buf *buf = slot->buf;
        fdl_buf_ref(buf);
        pthread_mutex_unlock(&job->lock);
        hash_on(job, p->hash, buf);
        pthread_mutex_lock(&job->lock);
        fdl_buf_unref(buf);
        p->next++;
    }
    p->busy = false;
    if (p->next < end || job->stop)
        return;
    fdl_hash_final(p->hash, got);
    p->next = first;
    if (fdl_pieces_match(&job->pieces, p->index, got))
        verified(job, first, end);
    else
        fdl_verify_piece_failed(job, first, end, ++p->failures);
}

/* ---- delivery -------------------------------------------------------------- */

/* The other one who fetches the block is to stop. Locked. */
static void call_off(struct fdl_job *job, const struct fdl_slot *slot, int winner,
                     uint64_t block)
{
    int loser = slot->owner == winner ? slot->hedger : slot->owner;

    if (loser == FDL_NOBODY)
        return;
    struct fdl_progress *p = &job->sched.progress[loser];
    bool owner = loser == slot->owner;
    bool at_it = atomic_load(&p->block) == block;
    if (p->mirror)
        fdl_sched_lost_hedge(&job->sched, loser,
                             owner && p->mirror != job->sched.progress[winner].mirror,
                             at_it ? atomic_load(&p->filled) : 0,
                             owner ? slot->claimed_ns : slot->hedged_ns, fdl_now_ns());
    if (at_it) /* otherwise it notices itself */
        fdl_wakeup_nudge(&job->wakeups[loser]);
}

/* The chain's thread checks its piece; what it has checked before is to be written.
 * Locked on entry and exit, not while it writes. */
static void leave_to_chain(struct fdl_job *job, uint64_t block)
{
    uint64_t mirrors = fdl_plan_slot(&job->plan, block)->mirrors;

    job->chain.waiting++;
    job->chain.seen |= mirrors;
    if (block == job->chain.next || mirrors & ~job->chain.trusted)
        pthread_cond_broadcast(&job->data);
    for (int i = 0; i < WRITES_A_BLOCK && fdl_verify_write_one(job); i++)
        ;
}

/* Locked on entry and exit, not while it hashes or writes. */
static void gather(struct fdl_job *job, uint64_t block)
{
    fdl_gather_add(job, block);
    fdl_verify_gathered(job);
    for (int i = 0; i < WRITES_A_BLOCK && fdl_verify_write_one(job); i++)
        ;
}

void fdl_verify_deliver(struct fdl_job *job, int worker, uint64_t block,
                        struct fdl_buf *buf, uint64_t mirrors)
{
    struct fdl_err err;
    int rc = FDL_OK;

    /* A mirror that has shown nothing yet is not asked for more before it has. */
    bool at_once = !job->chain.hash || (job->pieces.mode == FDL_PIECES_IN_BLOCK &&
                                        mirrors & ~atomic_load(&job->chain.trusted));
    bool gathers = at_once && fdl_gather_takes(job, mirrors);
    if (at_once && job->pieces.mode == FDL_PIECES_IN_BLOCK && !gathers)
        rc = check_block(job, buf, &err);
    pthread_mutex_lock(&job->lock);
    bool unchecked = rc < 0 && rc != FDL_E_INTEGRITY;
    if (unchecked)
        fdl_job_fail(job, &err);
    if (unchecked || !fdl_plan_fill(&job->plan, worker, block)) {
        fdl_buf_unref(buf); /* or somebody else was first */
        pthread_mutex_unlock(&job->lock);
        return;
    }
    struct fdl_slot *slot = fdl_plan_slot(&job->plan, block);
    slot->buf = buf;
    slot->mirrors = mirrors;
    slot->local = job->sched.progress[worker].local;
    call_off(job, slot, worker, block);
    if (rc == FDL_E_INTEGRITY)
        fdl_verify_piece_failed(job, block, block + 1, 0);
    else if (!at_once)
        leave_to_chain(job, block);
    else if (gathers)
        gather(job, block);
    else if (job->pieces.mode == FDL_PIECES_OF_BLOCKS)
        advance_piece(job, block);
    else {
        atomic_fetch_or(&job->chain.trusted, mirrors);
        verified(job, block, block + 1);
    }
    pthread_mutex_unlock(&job->lock);
}
