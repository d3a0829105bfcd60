/* SPDX-License-Identifier: Apache-2.0 */
/* job/sched_hedge.c - which block is worth fetching a second time, and what a lost race
 * says of a mirror. */
#include "base/clock.h"
#include "job/sched_priv.h"

#define HEDGE_BYTES (UINT64_C(32) << 20) /* may come twice of what has no known end */
#define HEDGE_SHARE 8                    /* and one in so many of what has */
#define HEDGE_ANYWAY_NS (1ull * FDL_NS_PER_S)
#define HEDGE_WASTE_MAX 2
#define VAIN_NS (300 * FDL_NS_PER_MS)
#define STUCK_NS (2ull * FDL_NS_PER_S)
#define HEDGE_CANDIDATES 4 /* only the blocks that the others wait for */
#define HEDGE_MIN_NS (5 * FDL_NS_PER_MS)
#define SILENCE_MIN_NS (30 * FDL_NS_PER_MS) /* a busy machine's pauses are shorter */
#define UNKNOWN_RATE 20e6 /* bytes/s that an unmeasured mirror is given credit for */
#define SAME_MIRROR_MIN_NS (250 * FDL_NS_PER_MS)
#define LOST_HEDGES_MAX 6
#define STAND_BACK_NS (250 * FDL_NS_PER_MS)

/* The best rate that anybody has shown or shows now, in bytes/s; 0 before the first
 * byte. */
static double shown_rate(const struct fdl_sched *sched, uint64_t now_ns)
{
    double best = fdl_sched_best_rate(sched);

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

/* When the worker will have its block, in ns from now on: as fast as it came until now,
 * but not sooner than after as long a silence as there has been. The rest of one that
 * stops shortly before its end does not come in a moment. 1e18 without a byte. */
static double left_ns(const struct fdl_sched *sched, const struct fdl_progress *p,
                      uint64_t block, uint64_t since_ns, uint64_t now_ns)
{
    uint64_t came_ns = atomic_load(&p->came_ns);
    double size = (double)sched->block, have = 0;
    double silent = now_ns > came_ns ? (double)(now_ns - came_ns) : 0;

    if (atomic_load(&p->block) == block)
        have = (double)atomic_load(&p->filled);
    if (have <= 0)
        return 1e18;
    if (have >= size)
        return 0;
    double flowing = (size - have) * (double)(now_ns - since_ns) / have;
    return silent > SILENCE_MIN_NS && silent > flowing ? silent : flowing;
}

/* Whether `me` would have the block long before `other`, who got it at since_ns. */
static bool late(const struct fdl_sched *sched, const struct fdl_progress *me,
                 const struct fdl_progress *other, uint64_t block, uint64_t since_ns,
                 uint64_t now_ns)
{
    double size = (double)sched->block;
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
    bool some = atomic_load(&other->block) == block && atomic_load(&other->filled) > 0;
    double theirs = left_ns(sched, other, block, since_ns, now_ns);
    double floor = same ? SAME_MIRROR_MIN_NS : HEDGE_MIN_NS;
    double factor = same ? 4 : 2;
    /* Half of our own time shows how fast it comes; silence is given all of it, twice.
     */
    double patience = some && !same ? 0.5 * mine : factor * mine;
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

    if (sched->twice_bytes + sched->block <= budget)
        return true;
    int waste = sched->wasted < HEDGE_WASTE_MAX ? sched->wasted : HEDGE_WASTE_MAX;
    return elapsed > HEDGE_ANYWAY_NS << waste &&
           left_ns(sched, owner, block, slot->claimed_ns, now_ns) > HEDGE_ANYWAY_NS;
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
        double mine =
            left_ns(sched, &sched->progress[i], block, slot->hedged_ns, now_ns);
        double theirs = left_ns(sched, &sched->progress[slot->owner], block,
                                slot->claimed_ns, now_ns);
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
            m->active < fdl_sched_capacity(m) &&
            (m->rate <= 0 || m->rate > pace * FDL_SCHED_SLOW_FACTOR))
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
            left_ns(sched, p, block, slot->claimed_ns, now_ns) > STUCK_NS &&
            better_is_free(sched, p->mirror, have * FDL_NS_PER_S / elapsed, now_ns))
            return i;
    }
    return FDL_NOBODY;
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
    if (m->rate * FDL_SCHED_SLOW_FACTOR >= fdl_sched_best_rate(sched)) {
        m->not_before_ns = now_ns + STAND_BACK_NS;
        return;
    }
    if (m->lost_hedges < LOST_HEDGES_MAX)
        m->lost_hedges++;
    m->not_before_ns = now_ns + (STAND_BACK_NS << m->lost_hedges);
}
