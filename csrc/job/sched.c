/* SPDX-License-Identifier: Apache-2.0 */
#include "job/sched.h"
#include "base/clock.h"
#include "job/ramp.h"

#define RUN_TIME_S 0.10            /* a run flows for about this, and two round trips */
#define UNSETTLED_BYTES (5u << 20) /* for each connection; with a run it is a range */
#define RUN_BYTES_MAX (8u << 20)
#define SLOW_FACTOR 6.0 /* a mirror this much slower than the best stands back */
#define HEDGE_BYTES (UINT64_C(32) << 20) /* may come twice of what has no known end */
#define HEDGE_SHARE 8                    /* and one in so many of what has */
#define HEDGE_ANYWAY_NS (1ull * FDL_NS_PER_S)
#define HEDGE_WASTE_MAX 2
#define VAIN_NS (300 * FDL_NS_PER_MS)
#define STUCK_NS (2ull * FDL_NS_PER_S)
#define HEDGE_CANDIDATES 4 /* only the blocks that the others wait for */
#define HEDGE_MIN_NS (5 * FDL_NS_PER_MS)
#define UNKNOWN_RATE 20e6 /* bytes/s that an unmeasured mirror is given credit for */
#define SAME_MIRROR_MIN_NS (250 * FDL_NS_PER_MS)
#define RETRY_AFTER_MAX_S 600
#define LOST_HEDGES_MAX 6
#define STAND_BACK_NS (250 * FDL_NS_PER_MS)
#define BACKOFF_MAX_NS (8ull * FDL_NS_PER_S)
/* This much since the last failure makes it a new start. */
#define PROGRESS_BYTES (64u << 10)

/* ---- mirrors --------------------------------------------------------------- */

static double best_rate(const struct fdl_sched *sched)
{
    double best = 0;

    for (size_t i = 0; i < sched->n_mirrors; i++)
        if (sched->mirrors[i]->state == FDL_MIRROR_READY &&
            sched->mirrors[i]->rate > best)
            best = sched->mirrors[i]->rate;
    return best;
}

/* Better first: not known to be slow; never tried, since only trying shows (one
 * connection is enough for that); then by priority, then by what was measured. */
static bool better(const struct fdl_mirror *a, const struct fdl_mirror *b, double best)
{
    bool slow_a = a->lost_hedges > 0 || (a->rate > 0 && a->rate * SLOW_FACTOR < best);
    bool slow_b = b->lost_hedges > 0 || (b->rate > 0 && b->rate * SLOW_FACTOR < best);

    bool new_a = a->rate <= 0 && a->active == 0, new_b = b->rate <= 0 && b->active == 0;

    if (slow_a != slow_b)
        return slow_b;
    if (new_a != new_b)
        return new_a;
    if (a->priority != b->priority)
        return a->priority < b->priority;
    if (a->active != b->active)
        return a->active < b->active;
    return (a->rate > 0 ? a->rate : best) > (b->rate > 0 ? b->rate : best);
}

/* Connections that it would accept. Without ranges every offset in the source costs
 * everything before it: such a mirror serves one, as does one whose responses cannot be
 * joined. */
static int capacity(struct fdl_mirror *m)
{
    return m->ranges == FDL_RANGES_NO || !fdl_mirror_can_join(m) ? 1 : m->cap;
}

int fdl_sched_pick_mirror(const struct fdl_sched *sched, uint64_t now_ns)
{
    int pick = FDL_NO_MIRROR;
    double best = best_rate(sched);
    bool ranged_ready = false;

    for (size_t i = 0; i < sched->n_mirrors; i++)
        if (sched->mirrors[i]->state == FDL_MIRROR_READY &&
            sched->mirrors[i]->ranges != FDL_RANGES_NO)
            ranged_ready = true;
    for (size_t i = 0; i < sched->n_mirrors; i++) {
        struct fdl_mirror *m = sched->mirrors[i];
        /* One without ranges is used only where no other can be. */
        if (m->state != FDL_MIRROR_READY ||
            (m->ranges == FDL_RANGES_NO && ranged_ready))
            continue;
        if (m->active >= capacity(m) || m->not_before_ns > now_ns ||
            (m->active > 0 && m->more_after_ns > now_ns))
            continue;
        if (pick == FDL_NO_MIRROR || better(m, sched->mirrors[pick], best))
            pick = (int)i;
    }
    return pick;
}

int fdl_sched_usable(const struct fdl_sched *sched)
{
    int n = 0;

    for (size_t i = 0; i < sched->n_mirrors; i++)
        n += sched->mirrors[i]->state == FDL_MIRROR_READY;
    return n;
}

int fdl_sched_room(const struct fdl_sched *sched)
{
    int n = 0;

    for (size_t i = 0; i < sched->n_mirrors; i++)
        if (sched->mirrors[i]->state == FDL_MIRROR_READY)
            n += capacity(sched->mirrors[i]);
    return n;
}

bool fdl_sched_all_far(const struct fdl_sched *sched)
{
    bool far = false;

    for (size_t i = 0; i < sched->n_mirrors; i++) {
        const struct fdl_mirror *m = sched->mirrors[i];
        if (m->state != FDL_MIRROR_READY || m->rtt_ns == 0)
            continue;
        if (!fdl_ramp_is_far(m->rtt_ns))
            return false;
        far = true;
    }
    return far;
}

uint64_t fdl_sched_rtt_ns(const struct fdl_sched *sched)
{
    uint64_t rtt = 0;

    for (int i = 0; i < sched->n_workers; i++) {
        const struct fdl_mirror *m = sched->progress[i].mirror;
        if (m && m->rtt_ns > rtt)
            rtt = m->rtt_ns;
    }
    return rtt;
}

/* ---- failures -------------------------------------------------------------- */

/* How much an error reveals about the source, the most first. */
static int severity(int code)
{
    static const int order[] = {
        FDL_E_INTEGRITY, FDL_E_ORIGIN_CHANGED, FDL_E_SIZE,        FDL_E_TLS_TRUST,
        FDL_E_POLICY,    FDL_E_HTTP_PROTOCOL,  FDL_E_HTTP_STATUS, FDL_E_NET};

    for (int i = 0; i < (int)(sizeof order / sizeof *order); i++)
        if (order[i] == code)
            return i;
    return 99;
}

bool fdl_sched_exhausted(const struct fdl_sched *sched, struct fdl_err *err)
{
    const struct fdl_err *worst = NULL;

    for (size_t i = 0; i < sched->n_mirrors; i++) {
        const struct fdl_mirror *m = sched->mirrors[i];
        if (m->state == FDL_MIRROR_READY)
            return false;
        if (m->state != FDL_MIRROR_IDLE && m->last_err.code != FDL_OK &&
            (!worst || severity(m->last_err.code) < severity(worst->code)))
            worst = &m->last_err;
    }
    if (worst)
        *err = *worst;
    else
        fdl_fail(err, FDL_E_NET, FDL_NO_OFFSET, "no usable mirror is left");
    return true;
}

void fdl_sched_step_in(struct fdl_sched *sched)
{
    for (size_t i = 0; i < sched->n_mirrors; i++)
        if (sched->mirrors[i]->failures == 0)
            sched->mirrors[i]->not_before_ns = 0;
}

static uint64_t backoff_ns(int failures)
{
    uint64_t ns = 100ull * FDL_NS_PER_MS;

    for (int i = 1; i < failures && ns < BACKOFF_MAX_NS; i++)
        ns *= 2;
    return ns < BACKOFF_MAX_NS ? ns : BACKOFF_MAX_NS;
}

/* Whether the same request may succeed later, or over another connection. */
static bool retryable(const struct fdl_mirror *m, const struct fdl_err *err)
{
    switch (err->code) {
    case FDL_E_NET:
    case FDL_E_HTTP_PROTOCOL: /* once: a kept-alive connection may have held rubbish */
        return true;
    case FDL_E_HTTP_STATUS:
        break;
    default:
        return false;
    }
    switch (err->http_status) {
    case 403:
    case 404:
    case 410: /* of one that served before: one edge of many, or a limit */
        return m->vetted && m->bytes > 0;
    default:
        return fdl_http_status_is_transient(err->http_status);
    }
}

/* Whether another connection to the worker's mirror is served. */
static bool serves_another(const struct fdl_sched *sched, int worker)
{
    for (int i = 0; i < sched->n_workers; i++)
        if (i != worker &&
            sched->progress[i].mirror == sched->progress[worker].mirror &&
            atomic_load(&sched->progress[i].served))
            return true;
    return false;
}

/* The mirror serves fewer connections than requested. If a status said so that is
 * final; a connection without a response may be retried, ever more rarely. */
static void learn_limit(struct fdl_mirror *m, const struct fdl_err *err,
                        uint64_t now_ns)
{
    if (err->code == FDL_E_HTTP_STATUS && m->cap >= m->active)
        m->cap = m->active - 1;
    m->refusals++;
    m->more_after_ns = now_ns + backoff_ns(m->refusals);
}

/* A mirror that served a first range and refuses every later one is asked for the whole
 * once, before it is given up. */
static bool try_the_whole(struct fdl_mirror *m, const struct fdl_err *err)
{
    if (err->code != FDL_E_HTTP_STATUS ||
        !fdl_http_status_refuses_range(err->http_status))
        return false;
    pthread_mutex_lock(&m->lock);
    bool yes = m->ranges == FDL_RANGES_YES && !m->asked_without;
    if (yes) {
        m->asked_without = true;
        m->ranges = FDL_RANGES_NO;
    }
    pthread_mutex_unlock(&m->lock);
    return yes;
}

enum fdl_decision fdl_sched_failed(struct fdl_sched *sched, int worker,
                                   const struct fdl_err *err, uint64_t now_ns)
{
    struct fdl_progress *p = &sched->progress[worker];
    struct fdl_mirror *m = p->mirror;
    bool unserved = err->code == FDL_E_HTTP_STATUS ||
                    (err->code == FDL_E_NET && !atomic_load(&p->served));

    if (unserved && serves_another(sched, worker)) {
        learn_limit(m, err, now_ns);
        return FDL_DECIDE_LEAVE;
    }
    if (p->gained >= PROGRESS_BYTES && err->code == FDL_E_NET)
        m->failures = 0; /* the received data is kept: it is progress */
    /* All connections to a server that went down fail together: that is one failure. */
    if (m->failures == 0 || m->not_before_ns <= now_ns)
        m->failures++;
    int limit = err->code == FDL_E_HTTP_PROTOCOL ? 1 : sched->retry;
    bool joins = fdl_mirror_can_join(m); /* if not, what is missing is of no use */
    if (!retryable(m, err) || m->failures > limit ||
        err->retry_after_s > RETRY_AFTER_MAX_S || !joins) {
        if (!joins || !try_the_whole(m, err))
            return FDL_DECIDE_DISQUALIFY;
        m->failures = 0;
        return FDL_DECIDE_RETRY;
    }
    uint64_t wait = backoff_ns(m->failures);
    if (err->retry_after_s > 0 && (uint64_t)err->retry_after_s * FDL_NS_PER_S > wait)
        wait = (uint64_t)err->retry_after_s * FDL_NS_PER_S;
    /* Wait only if the failure requires it: after progress a lost connection is resumed
     * at once. */
    if ((err->code != FDL_E_NET || m->failures > 1) && m->not_before_ns < now_ns + wait)
        m->not_before_ns = now_ns + wait;
    if (err->code == FDL_E_HTTP_STATUS && m->active > 1 && m->cap >= m->active)
        m->cap = m->active - 1; /* it serves fewer at once than assumed */
    return FDL_DECIDE_RETRY;
}

void fdl_sched_lost_hedge(struct fdl_sched *sched, int worker, bool owner,
                          uint64_t filled, uint64_t since_ns, uint64_t now_ns)
{
    struct fdl_mirror *m = sched->progress[worker].mirror;
    uint64_t spared = filled < sched->block ? sched->block - filled : 0;
    double pace = (double)filled * FDL_NS_PER_S / ((double)(now_ns - since_ns) + 1);

    sched->twice_bytes -= spared < sched->twice_bytes ? spared : sched->twice_bytes;
    sched->wasted += spared < sched->block / 2;
    if (m && m->rate <= 0 && pace > 0)
        m->rate = pace;
    if (!m || !owner)
        return;
    /* What it has shown before is no measure any more. */
    if (pace < m->rate || m->rate <= 0)
        m->rate = pace > 1 ? pace : 1;
    if (m->rate * SLOW_FACTOR >= best_rate(sched)) {
        m->not_before_ns = now_ns + STAND_BACK_NS;
        return;
    }
    if (m->lost_hedges < LOST_HEDGES_MAX)
        m->lost_hedges++;
    m->not_before_ns = now_ns + (STAND_BACK_NS << m->lost_hedges);
}

/* ---- runs ------------------------------------------------------------------ */

static uint32_t conns(const struct fdl_sched *sched)
{
    return sched->n_conns > 0 ? (uint32_t)sched->n_conns : 1;
}

/* A run is sized by the pace at which a response flows, the wait for its head left out:
 * with it, short runs made a far connection look slow, and so stayed short. */
static uint32_t run_blocks(const struct fdl_sched *sched, const struct fdl_progress *p)
{
    double flow = p->flow, trips = 0;
    uint32_t fair = sched->plan->window / conns(sched),
             most = RUN_BYTES_MAX / (uint32_t)sched->block;

    if (p->mirror) {
        trips = 2.0 * (double)p->mirror->rtt_ns / FDL_NS_PER_S;
        flow = flow > 0 ? flow : p->mirror->rate;
    }
    double want = flow * (RUN_TIME_S + trips) / (double)sched->block;
    if (most > fair)
        most = fair;
    if (most < 1)
        most = 1;
    return want < 1 ? 1 : want > most ? most : (uint32_t)want;
}

/* A kill is to cost no more than a range a connection: so the journal must keep up. */
static bool journal_is_behind(const struct fdl_sched *sched)
{
    size_t each = UNSETTLED_BYTES / sched->block;

    return sched->unsettled >= (each > 2 ? each : 2) * conns(sched);
}

bool fdl_sched_next_run(struct fdl_sched *sched, int worker, uint64_t now_ns,
                        struct fdl_run *run)
{
    const struct fdl_progress *p = &sched->progress[worker];
    uint64_t count;

    if (!p->local && journal_is_behind(sched))
        return false;
    if (!fdl_plan_claim(sched->plan, worker, p->local, run_blocks(sched, p), now_ns,
                        &run->first, &count)) {
        /* A stolen run has to be worth the request: what the mirror sends in a round
         * trip. */
        double trip =
            p->mirror ? p->rate * (double)p->mirror->rtt_ns / FDL_NS_PER_S : 0;
        uint32_t floor = (uint32_t)(trip / (double)sched->block) + 1;
        if (p->local ||
            !fdl_plan_steal(sched->plan, worker, floor, now_ns, &run->first, &count))
            return false;
    }
    run->end = run->first + count;
    return true;
}

/* ---- hedges ---------------------------------------------------------------- */

/* The best rate that anybody has shown or shows now, in bytes/s; 0 before the first
 * byte. */
static double shown_rate(const struct fdl_sched *sched, uint64_t now_ns)
{
    double best = best_rate(sched);

    for (int i = 0; i < sched->n_workers; i++) {
        const struct fdl_progress *p = &sched->progress[i];
        uint64_t block = atomic_load(&p->block);
        if (p->local || !fdl_plan_in_window(sched->plan, block))
            continue;
        const struct fdl_slot *slot = fdl_plan_slot(sched->plan, block);
        double rate = (double)atomic_load(&p->filled) * FDL_NS_PER_S /
                      ((double)(now_ns - slot->claimed_ns) + 1);
        if (slot->owner == i && rate > best)
            best = rate;
    }
    return best;
}

/* Whether `me` would have the block long before `other`, who got it at since_ns. */
static bool late(const struct fdl_sched *sched, const struct fdl_progress *me,
                 const struct fdl_progress *other, uint64_t block, uint64_t since_ns,
                 uint64_t now_ns)
{
    double size = (double)sched->block, have = 0;
    double rate = me->rate > 0 ? me->rate : me->mirror->rate;
    bool same = other->mirror == me->mirror, unmeasured = rate <= 0;

    if (rate <= 0 && same)
        return false; /* nothing suggests that a second connection does better */
    if (rate <= 0)
        rate = shown_rate(sched, now_ns);
    double elapsed = (double)(now_ns - since_ns);
    /* What a trickle has shown says nothing about another mirror: it is tried. */
    if (rate <= 0 ||
        (unmeasured && !same && elapsed > HEDGE_ANYWAY_NS && rate < UNKNOWN_RATE))
        rate = UNKNOWN_RATE;
    double mine = size / rate * FDL_NS_PER_S + (double)me->mirror->rtt_ns;
    if (atomic_load(&other->block) == block)
        have = (double)atomic_load(&other->filled);
    double theirs = have > 0 ? (size - have) * elapsed / have : 1e18;
    double floor = same ? SAME_MIRROR_MIN_NS : HEDGE_MIN_NS;
    double factor = same ? 4 : 2;
    /* Half of our own time shows how fast it comes; silence is given all of it, twice.
     */
    double patience = have > 0 && !same ? 0.5 * mine : factor * mine;
    return elapsed > patience + floor && theirs > factor * mine + floor;
}

/* The owner is late, and so is a hedger where there is one already. */
static bool worth_hedging(const struct fdl_sched *sched, int worker, uint64_t block,
                          uint64_t now_ns)
{
    const struct fdl_slot *slot = fdl_plan_slot(sched->plan, block);
    const struct fdl_progress *me = &sched->progress[worker];

    if (slot->owner == worker || slot->hedger == worker ||
        sched->progress[slot->owner].local ||
        !late(sched, me, &sched->progress[slot->owner], block, slot->claimed_ns,
              now_ns))
        return false;
    return slot->hedger == FDL_NOBODY || late(sched, me, &sched->progress[slot->hedger],
                                              block, slot->hedged_ns, now_ns);
}

/* Whether a block may come a second time. In bulk an eighth of the source may: what
 * is late by chance on a busy machine is not to cost more. A block that would still
 * take seconds after a second is fetched by somebody else whatever was spent: the end
 * of the transfer waits for it. Each hedge for nothing makes that second longer. */
static bool affordable(const struct fdl_sched *sched, uint64_t block, uint64_t now_ns)
{
    const struct fdl_slot *slot = fdl_plan_slot(sched->plan, block);
    const struct fdl_progress *owner = &sched->progress[slot->owner];
    uint64_t n = sched->plan->n_blocks, elapsed = now_ns - slot->claimed_ns;
    uint64_t budget =
        n == FDL_BLOCKS_UNKNOWN ? HEDGE_BYTES : n * sched->block / HEDGE_SHARE;
    double have = 0;

    if (sched->twice_bytes + sched->block <= budget)
        return true;
    if (atomic_load(&owner->block) == block)
        have = (double)atomic_load(&owner->filled);
    int waste = sched->wasted < HEDGE_WASTE_MAX ? sched->wasted : HEDGE_WASTE_MAX;
    return elapsed > HEDGE_ANYWAY_NS << waste &&
           ((double)sched->block - have) * (double)elapsed > have * HEDGE_ANYWAY_NS;
}

bool fdl_sched_find_hedge(const struct fdl_sched *sched, int worker, uint64_t now_ns,
                          uint64_t *block)
{
    const struct fdl_progress *me = &sched->progress[worker];
    const struct fdl_mirror *m = me->mirror;
    int seen = 0;

    if (me->local || !m || m->not_before_ns > now_ns)
        return false;
    for (uint64_t b = sched->plan->base; fdl_plan_in_window(sched->plan, b); b++) {
        if (fdl_plan_slot(sched->plan, b)->state != FDL_SLOT_CLAIMED)
            continue;
        if (++seen > HEDGE_CANDIDATES)
            return false;
        if (worth_hedging(sched, worker, b, now_ns) && affordable(sched, b, now_ns)) {
            *block = b;
            return true;
        }
    }
    return false;
}

/* When the worker will have its block, in ns from now on, and 1e18 without a byte. */
static double left_ns(const struct fdl_sched *sched, int worker, uint64_t block,
                      uint64_t since_ns, uint64_t now_ns)
{
    const struct fdl_progress *p = &sched->progress[worker];
    double have = atomic_load(&p->block) == block ? (double)atomic_load(&p->filled) : 0;

    if (have <= 0)
        return 1e18;
    return ((double)sched->block - have) * (double)(now_ns - since_ns) / have;
}

int fdl_sched_find_vain(const struct fdl_sched *sched, uint64_t now_ns)
{
    for (int i = 0; i < sched->n_workers; i++) {
        uint64_t block = atomic_load(&sched->progress[i].block);
        if (!fdl_plan_in_window(sched->plan, block))
            continue;
        const struct fdl_slot *slot = fdl_plan_slot(sched->plan, block);
        if (slot->state != FDL_SLOT_CLAIMED || slot->hedger != i ||
            now_ns - slot->hedged_ns < VAIN_NS)
            continue;
        double mine = left_ns(sched, i, block, slot->hedged_ns, now_ns);
        double theirs = left_ns(sched, slot->owner, block, slot->claimed_ns, now_ns);
        if (mine < 1e18 && mine > theirs)
            return i;
    }
    return FDL_NOBODY;
}

/* Whether a mirror that would do much better than `pace` could serve one more. */
static bool better_is_free(const struct fdl_sched *sched, const struct fdl_mirror *than,
                           double pace, uint64_t now_ns)
{
    for (size_t i = 0; i < sched->n_mirrors; i++) {
        struct fdl_mirror *m = sched->mirrors[i];
        if (m != than && m->state == FDL_MIRROR_READY && m->not_before_ns <= now_ns &&
            m->active < capacity(m) && (m->rate <= 0 || m->rate > pace * SLOW_FACTOR))
            return true;
    }
    return false;
}

int fdl_sched_find_stuck(const struct fdl_sched *sched, uint64_t now_ns)
{
    for (int i = 0; i < sched->n_workers; i++) {
        const struct fdl_progress *p = &sched->progress[i];
        uint64_t block = atomic_load(&p->block);
        if (p->local || !p->mirror || !fdl_plan_in_window(sched->plan, block))
            continue;
        const struct fdl_slot *slot = fdl_plan_slot(sched->plan, block);
        if (slot->state != FDL_SLOT_CLAIMED || slot->owner != i)
            continue;
        double have = (double)atomic_load(&p->filled);
        double elapsed = (double)(now_ns - slot->claimed_ns);
        if (elapsed > STUCK_NS &&
            ((double)sched->block - have) * elapsed > have * STUCK_NS &&
            better_is_free(sched, p->mirror, have * FDL_NS_PER_S / elapsed, now_ns))
            return i;
    }
    return FDL_NOBODY;
}
