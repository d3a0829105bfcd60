/* SPDX-License-Identifier: Apache-2.0 */
#include "job/ramp.h"
#include "base/clock.h"

/* Over distance one connection fills a link by chance only, and a step takes three
 * round trips to show what it gave: start with all that are usual. */
#define FAR_NS (10 * FDL_NS_PER_MS)
#define FAR_CONNS 8
#define GROW_BYTES (2u << 20)
#define GROW_GAIN 1.05
#define SETTLE_MAX_NS (8ull * FDL_NS_PER_S)

/* Whether every mirror that has answered yet is far away. */
static bool far_away(const struct fdl_job *job)
{
    bool far = false;

    for (size_t i = 0; i < job->cfg.n_mirrors; i++) {
        const struct fdl_mirror *m = job->cfg.mirrors[i];
        if (m->state != FDL_MIRROR_READY || m->rtt_ns == 0)
            continue;
        if (m->rtt_ns < FAR_NS)
            return false;
        far = true;
    }
    return far;
}

/* Distinct mirrors are worth a try at once; more connections to one have to earn it. */
int fdl_grow_first(const struct fdl_job *job, int mirrors)
{
    int wanted = mirrors < 3 ? mirrors : 3;

    if (wanted < FAR_CONNS && far_away(job))
        wanted = FAR_CONNS;
    return wanted < job->cfg.max_conns ? wanted : job->cfg.max_conns;
}

/* More connections are tried; they stay where the whole became faster. What holds the
 * transfer up may also be the digest or the target: then more only cost. */
void fdl_grow_tick(struct fdl_job *job, uint64_t now_ns)
{
    uint64_t bytes = atomic_load(&job->fetched);
    uint64_t starved = atomic_load(&job->window_wait_ns);
    uint64_t rtt = 0;

    for (int i = 0; i < job->n_workers; i++)
        if (job->workers[i].mirror && job->workers[i].mirror->rtt_ns > rtt)
            rtt = job->workers[i].mirror->rtt_ns;
    uint64_t span = now_ns - job->grow_from_ns, least = 15 * FDL_NS_PER_MS;
    if (span < least || span < 3 * rtt || now_ns < job->grow_at_ns)
        return;
    if (bytes - job->grow_from_bytes < GROW_BYTES && span < FDL_NS_PER_S / 4)
        return;
    double rate = (double)(bytes - job->grow_from_bytes) * FDL_NS_PER_S / (double)span;
    double idle = (double)(starved - job->grow_from_starved) /
                  ((double)span * (job->n_net > 0 ? job->n_net : 1));
    bool settle =
        idle > 0.25 || (job->grow_rate > 0 && rate < job->grow_rate * GROW_GAIN);

    if (settle) {
        job->settle_ns = job->settle_ns ? job->settle_ns * 2 : FDL_NS_PER_S / 4;
        if (job->settle_ns > SETTLE_MAX_NS)
            job->settle_ns = SETTLE_MAX_NS;
        job->grow_at_ns = now_ns + job->settle_ns;
        job->grow_rate = 0; /* measured anew when it is tried again */
    } else {
        job->settle_ns = 0;
        job->grow_rate = rate;
        if (job->wanted_conns < job->cfg.max_conns && job->n_net >= job->wanted_conns)
            job->wanted_conns += rtt >= FAR_NS            ? job->wanted_conns
                                 : job->wanted_conns >= 4 ? 2
                                                          : 1;
        if (job->wanted_conns > job->cfg.max_conns)
            job->wanted_conns = job->cfg.max_conns;
    }
    job->grow_from_ns = now_ns;
    job->grow_from_bytes = bytes;
    job->grow_from_starved = starved;
}
