/* SPDX-License-Identifier: Apache-2.0 */
/* job/sched.c - which mirror takes a connection, and how much it is given to fetch. */
#include "base/clock.h"
#include "job/ramp.h"
#include "job/sched_priv.h"

#include <limits.h>

#define RUN_TIME_S 0.10            /* a run flows for about this, and two round trips */
#define UNSETTLED_BYTES (5u << 20) /* for each connection; with a run it is a range */
#define RUN_BYTES_MAX (8u << 20)
#define THROTTLED 2
#define THROTTLED_MIN_NS (20 * FDL_NS_PER_MS)
#define THROTTLED_VOTES 2
#define LONG_RUN_BYTES (UINT64_C(16) << 20) /* from there on nothing is limited */
#define RETRY_LONGER 64                     /* responses */

/* ---- mirrors --------------------------------------------------------------- */

double fdl_sched_best_rate(const struct fdl_sched *sched)
{
    double best = 0;

    for (size_t i = 0; i < sched->n_mirrors; i++)
        if (sched->mirrors[i]->state == FDL_MIRROR_READY &&
            sched->mirrors[i]->rate > best)
            best = sched->mirrors[i]->rate;
    return best;
}

/* Stood back after a lost hedge, for as long as that said, and nobody has tried it
 * since. On a busy machine the fastest may lose one by chance, and those that won it be
 * the slow ones: if it were not tried again, all would stay with these. */
static bool is_to_retry(const struct fdl_mirror *m)
{
    return m->lost_hedges > 0 && m->active == 0;
}

static bool is_slow(const struct fdl_mirror *m, double best)
{
    return !is_to_retry(m) && (m->lost_hedges > 0 ||
                               (m->rate > 0 && m->rate * FDL_SCHED_SLOW_FACTOR < best));
}

static bool is_untried(const struct fdl_mirror *m)
{
    return is_to_retry(m) || (m->rate <= 0 && m->active == 0);
}

/* Better first: not known to be slow; never tried, since only trying shows (one
 * connection is enough for that); then by priority, then by what was measured. */
static bool better(const struct fdl_mirror *a, const struct fdl_mirror *b, double best)
{
    bool slow_a = is_slow(a, best), slow_b = is_slow(b, best);
    bool new_a = is_untried(a), new_b = is_untried(b);

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

int fdl_sched_capacity(struct fdl_mirror *m)
{
    return m->ranges == FDL_RANGES_NO || !fdl_mirror_can_join(m) ? 1 : m->cap;
}

int fdl_sched_pick_mirror(const struct fdl_sched *sched, uint64_t now_ns)
{
    int pick = FDL_NO_MIRROR;
    double best = fdl_sched_best_rate(sched);
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
        if (m->active >= fdl_sched_capacity(m) || m->not_before_ns > now_ns ||
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

int fdl_sched_room_at(const struct fdl_sched *sched, int most)
{
    int n = 0;

    for (size_t i = 0; i < sched->n_mirrors; i++) {
        if (sched->mirrors[i]->state != FDL_MIRROR_READY)
            continue;
        int room = fdl_sched_capacity(sched->mirrors[i]);
        n += room < most ? room : most;
    }
    return n;
}

int fdl_sched_room(const struct fdl_sched *sched)
{
    return fdl_sched_room_at(sched, INT_MAX);
}

int fdl_sched_serving(const struct fdl_sched *sched)
{
    int n = 0;

    for (int i = 0; i < sched->n_workers; i++)
        n += sched->progress[i].mirror && atomic_load(&sched->progress[i].served);
    return n;
}

bool fdl_sched_is_surplus(const struct fdl_sched *sched, int worker, int wanted)
{
    const struct fdl_progress *p = &sched->progress[worker];

    if (p->local || sched->n_conns <= wanted)
        return false;
    if (!p->mirror)
        return true;
    if (p->mirror->active < 2)
        return false;
    for (size_t i = 0; i < sched->n_mirrors; i++) {
        const struct fdl_mirror *other = sched->mirrors[i];
        if (other->active > 1 && other->rate < p->mirror->rate)
            return false;
    }
    return true;
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

/* ---- runs ------------------------------------------------------------------ */

static uint32_t conns(const struct fdl_sched *sched)
{
    return sched->n_conns > 0 ? (uint32_t)sched->n_conns : 1;
}

/* Over distance a response is worth its round trip, unless it is throttled. */
static uint64_t run_limit(const struct fdl_mirror *m)
{
    bool any = m->run_max >= LONG_RUN_BYTES ||
               (m->throttled < THROTTLED_VOTES && fdl_ramp_is_far(m->rtt_ns));

    return any ? UINT64_MAX : m->run_max;
}

/* A run is sized by the pace at which a response flows, the wait for its head left out:
 * with it, short runs made a far connection look slow, and so stayed short. */
static uint32_t run_blocks(const struct fdl_sched *sched, const struct fdl_progress *p)
{
    double flow = p->flow, trips = 0;
    uint32_t fair = sched->plan->reach / conns(sched),
             most = RUN_BYTES_MAX / (uint32_t)sched->block;

    if (p->mirror) {
        trips = 2.0 * (double)p->mirror->rtt_ns / FDL_NS_PER_S;
        flow = flow > 0 ? flow : p->mirror->rate;
    }
    double want = flow * (RUN_TIME_S + trips) / (double)sched->block;
    if (most > fair)
        most = fair;
    if (p->mirror && most > run_limit(p->mirror) / sched->block)
        most = (uint32_t)(run_limit(p->mirror) / sched->block);
    if (most < 1)
        most = 1;
    return want < 1 ? 1 : want > most ? most : (uint32_t)want;
}

/* A kill is to cost no more than a range a connection, and the blocks of one pass where
 * they wait for one another: so the journal must keep up. */
static bool journal_is_behind(const struct fdl_sched *sched)
{
    size_t each = UNSETTLED_BYTES / sched->block;
    size_t most = (each > 2 ? each : 2) * conns(sched), lost = sched->unsettled;

    if (sched->gathers > 0)
        lost += fdl_plan_unwritten(sched->plan);
    return lost >= most + sched->gathers;
}

bool fdl_sched_next_run(struct fdl_sched *sched, int worker, uint64_t now_ns,
                        struct fdl_run *run)
{
    const struct fdl_progress *p = &sched->progress[worker];
    uint64_t count;

    uint32_t most = run_blocks(sched, p);

    if (!p->local &&
        (journal_is_behind(sched) || !fdl_plan_has_room(sched->plan, most)))
        return false;
    if (!fdl_plan_claim(sched->plan, worker, p->local, most, now_ns, &run->first,
                        &count)) {
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

/* A block of a throttled response takes much longer than a response of its own. */
static bool is_throttled(const struct fdl_pace_of_response *pace)
{
    uint64_t each = pace->rest > 0 ? pace->rest_ns / pace->rest : 0;

    return each >= THROTTLED_MIN_NS && each >= THROTTLED * pace->first_ns;
}

/* Longer and longer ones, until two are throttled; now and then that is tried again. */
void fdl_sched_responded(struct fdl_sched *sched, int worker,
                         const struct fdl_pace_of_response *pace)
{
    struct fdl_mirror *m = sched->progress[worker].mirror;
    uint64_t len = (pace->rest + UINT64_C(1)) * sched->block;

    if (!m || pace->first_ns == 0)
        return;
    if (is_throttled(pace)) {
        m->run_kept = 0;
        if (++m->throttled >= THROTTLED_VOTES)
            m->run_max = len / 2;
    } else if (len >= m->run_max && m->run_max < LONG_RUN_BYTES) {
        if (m->throttled < THROTTLED_VOTES || ++m->run_kept % RETRY_LONGER == 0) {
            m->run_max *= 2;
            m->throttled = m->throttled > 0;
        }
    }
}
