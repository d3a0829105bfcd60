/* SPDX-License-Identifier: Apache-2.0 */
#include "job/consumer.h"
#include "base/clock.h"
#include "base/piece_list.h"
#include "job/chain.h"
#include "job/verify.h"

#include <stdlib.h>
#include <string.h>

#define CONSUMERS_MAX (FDL_HASH_COUNT + 2)

enum kind { DIGEST, PIECES, LAND };

struct fdl_consumer {
    struct fdl_job *job;
    pthread_t thread;
    bool started;
    enum kind kind;
    enum fdl_hash_alg alg;
    struct fdl_hash *hash;       /* OWNED; NULL for the lander */
    bool along;                  /* job->chain: the pieces go along with it */
    struct fdl_piece_list *list; /* OWNED; NULL: nobody wants one */
    const unsigned char *listed; /* BORROWED from it, at the end */
    size_t n_listed;
    uint64_t next; /* block; not where it goes along */
    unsigned char digest[FDL_HASH_MAX];
};

/* More than 0 if the lander requires staging. */
static int consume(struct fdl_consumer *c, struct fdl_buf *buf, struct fdl_err *err)
{
    uint64_t before = fdl_now_ns();
    int rc = FDL_OK;

    if (c->kind == LAND)
        return c->job->cfg.lander->ops->push(c->job->cfg.lander, buf, err);
    if (c->kind == PIECES)
        rc = fdl_pieces_feed(&c->job->pieces, c->hash, buf, err);
    else if (c->list)
        rc = fdl_piece_list_feed(c->list, c->hash, buf->data, buf->len, err);
    else
        fdl_hash_update(c->hash, buf->data, buf->len);
    atomic_fetch_add_explicit(&c->job->hash_ns, fdl_now_ns() - before,
                              memory_order_relaxed);
    return rc;
}

/* Block by block to the end of the source, or until the transfer stops. */
static int consume_all(struct fdl_consumer *c, struct fdl_err *err)
{
    struct fdl_job *job = c->job;
    int rc = FDL_OK;

    pthread_mutex_lock(&job->lock);
    while (rc == FDL_OK && !job->stop) {
        while (c->next < job->plan.n_blocks && fdl_plan_is_skip(&job->plan, c->next))
            c->next++;
        if (c->next >= job->plan.n_blocks)
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
        rc = consume(c, buf, err);
        fdl_buf_unref(buf);
        pthread_mutex_lock(&job->lock);
        if (rc != FDL_OK)
            break;
        fdl_plan_slot(&job->plan, c->next)->passed++;
        fdl_verify_release(job, c->next++);
    }
    if (rc == FDL_OK && job->stop)
        rc = fdl_fail(err, FDL_E_CANCELLED, FDL_NO_OFFSET, "cancelled");
    pthread_mutex_unlock(&job->lock);
    return rc;
}

static void *consumer_main(void *arg)
{
    struct fdl_consumer *c = arg;
    struct fdl_job *job = c->job;
    struct fdl_err err;

    fdl_err_clear(&err);
    int rc = c->along ? fdl_chain_run(job, &err) : consume_all(c, &err);
    if (rc == FDL_OK && c->list)
        rc = fdl_piece_list_end(c->list, &c->listed, &c->n_listed, &err);
    if (rc == FDL_OK && c->kind == DIGEST)
        fdl_hash_final(c->hash, c->digest);
    if (rc == FDL_OK && c->kind == LAND)
        rc = job->cfg.lander->ops->finish(job->cfg.lander, &err);
    if (rc > FDL_OK) {
        rc = fdl_fail(&err, FDL_E_FORMAT, FDL_NO_OFFSET,
                      "the image's tables come too late to land it while it arrives");
        err.reason = FDL_REASON_NEEDS_STAGING;
    }
    /* Of several mirrors, who sent it wrong may have sent other pieces wrong as well.
     */
    if (rc == FDL_E_INTEGRITY && c->kind == PIECES && job->cfg.n_mirrors == 1)
        err.reason = FDL_REASON_WRONG_PIECE;
    if (rc != FDL_OK) {
        pthread_mutex_lock(&job->lock);
        if (!job->stop)
            fdl_job_fail(job, &err);
        pthread_mutex_unlock(&job->lock);
    }
    return NULL;
}

static int add(struct fdl_job *job, enum kind kind, int alg, struct fdl_err *err)
{
    struct fdl_consumer *c = &job->consumers[job->n_consumers++];

    c->job = job;
    c->kind = kind;
    if (kind == LAND)
        return FDL_OK;
    c->alg = (enum fdl_hash_alg)alg;
    int rc = fdl_hash_new(&c->hash, c->alg, err);
    if (rc != FDL_OK)
        return rc;
    if (kind == DIGEST && c->alg == FDL_HASH_SHA256 && job->cfg.list_pieces > 0)
        return fdl_piece_list_new(&c->list, c->alg, job->cfg.list_pieces, err);
    bool as_they_come = job->pieces.mode == FDL_PIECES_IN_BLOCK ||
                        job->pieces.mode == FDL_PIECES_OF_BLOCKS;
    if (kind == DIGEST && as_they_come && fdl_hash_pairs(c->hash, job->pieces.like)) {
        c->along = true;
        return fdl_chain_init(job, c->hash, err);
    }
    return FDL_OK;
}

int fdl_consumers_init(struct fdl_job *job, struct fdl_err *err)
{
    int rc = FDL_OK;

    job->consumers = calloc(CONSUMERS_MAX, sizeof *job->consumers);
    if (!job->consumers)
        return fdl_nomem(err, "the transfer");
    for (size_t i = 0; rc == FDL_OK && i < job->cfg.n_algs; i++)
        rc = add(job, DIGEST, (int)job->cfg.algs[i], err);
    if (rc == FDL_OK && job->pieces.mode == FDL_PIECES_IN_ORDER)
        rc = add(job, PIECES, (int)job->pieces.digests.alg, err);
    if (rc == FDL_OK && job->cfg.lander)
        rc = add(job, LAND, 0, err);
    return rc;
}

int fdl_consumers_start(struct fdl_job *job, struct fdl_err *err)
{
    for (int i = 0; i < job->n_consumers; i++) {
        struct fdl_consumer *c = &job->consumers[i];
        if (pthread_create(&c->thread, NULL, consumer_main, c) != 0) {
            fdl_fail(err, FDL_E_LIMIT, FDL_NO_OFFSET, "no thread can be started");
            pthread_mutex_lock(&job->lock);
            fdl_job_fail(job, err);
            pthread_mutex_unlock(&job->lock);
            fdl_consumers_join(job);
            return FDL_E_LIMIT;
        }
        c->started = true;
    }
    return FDL_OK;
}

void fdl_consumers_join(struct fdl_job *job)
{
    for (int i = 0; i < job->n_consumers; i++)
        if (job->consumers[i].started)
            pthread_join(job->consumers[i].thread, NULL);
    for (int i = 0; i < job->n_consumers; i++)
        job->consumers[i].started = false;
}

void fdl_consumers_result(const struct fdl_job *job, struct fdl_job_result *result)
{
    for (int i = 0; i < job->n_consumers; i++) {
        const struct fdl_consumer *c = &job->consumers[i];
        if (c->kind != DIGEST)
            continue;
        result->algs[result->n_digests] = c->alg;
        memcpy(result->digests[result->n_digests++], c->digest, FDL_HASH_MAX);
    }
}

const unsigned char *fdl_consumers_piece_list(const struct fdl_job *job, size_t *n)
{
    *n = 0;
    for (int i = 0; i < job->n_consumers; i++)
        if (job->consumers[i].n_listed > 0) {
            *n = job->consumers[i].n_listed;
            return job->consumers[i].listed;
        }
    return NULL;
}

void fdl_consumers_destroy(struct fdl_job *job)
{
    for (int i = 0; i < job->n_consumers; i++) {
        fdl_hash_free(job->consumers[i].hash);
        fdl_piece_list_free(job->consumers[i].list);
    }
    free(job->consumers);
    fdl_chain_destroy(job);
}
