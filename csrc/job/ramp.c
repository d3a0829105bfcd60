/* SPDX-License-Identifier: Apache-2.0 */
#include "job/ramp.h"
#include "base/clock.h"

/* Over distance one connection fills a link by chance only, and a step takes four
 * round trips to show what it gave: start with all that are usual. */
#define FAR_NS (10 * FDL_NS_PER_MS)
#define FAR_CONNS 8
#define FIRST_MIRRORS 3
#define STEP_BYTES (2u << 20)
#define STEP_MIN_NS (15 * FDL_NS_PER_MS)
#define STEP_MANY_NS (100 * FDL_NS_PER_MS) /* past a few: chance is not to add more */
#define STEP_MAX_NS (FDL_NS_PER_S / 4) /* after that it counts, however little came */
#define STEP_TRIPS 2                   /* round trips that a measurement takes */
#define SETTLE_MAX_NS                                                                  \
    FDL_NS_PER_S /* new connections have brought something by then                     \
                  */
/* What the whole has to gain by a step that pays. Connections past a few take a
 * server's room from others: there it is half of what they would bring if each brought
 * as much as those before. */
#define GAIN 1.05
#define FEW 4 /* also those of which each receives for a third of its time */
#define PAUSE_MIN_NS (FDL_NS_PER_S / 4)
#define PAUSE_MAX_NS (32 * FDL_NS_PER_S)
#define STARVED 0.25 /* of the time: the digest or the target holds the transfer up */

bool fdl_ramp_is_far(uint64_t rtt_ns)
{
    return rtt_ns >= FAR_NS;
}

void fdl_ramp_init(struct fdl_ramp *ramp, const struct fdl_ramp_start *start)
{
    int wanted = start->mirrors < FIRST_MIRRORS ? start->mirrors : FIRST_MIRRORS;
    int usual = start->far_away ? FAR_CONNS : start->busy ? FEW : 0;

    if (usual > start->first)
        usual = start->first;
    if (start->far_away || usual > wanted)
        wanted = usual;
    *ramp = (struct fdl_ramp){.wanted = wanted < start->max ? wanted : start->max,
                              .max = start->max,
                              .settling_ns = start->now_ns};
}

/* The next measurement begins here. */
static void measure_from(struct fdl_ramp *ramp, const struct fdl_ramp_sample *sample)
{
    ramp->from_ns = sample->now_ns;
    ramp->from_bytes = sample->bytes;
    ramp->from_starved_ns = sample->starved_ns;
}

static void pause_steps(struct fdl_ramp *ramp, uint64_t now_ns)
{
    ramp->pause_ns = ramp->pause_ns ? ramp->pause_ns * 2 : PAUSE_MIN_NS;
    if (ramp->pause_ns > PAUSE_MAX_NS)
        ramp->pause_ns = PAUSE_MAX_NS;
    ramp->pause_until = now_ns + ramp->pause_ns;
}

/* The last step did not make the whole faster: what it added past a few is given back
 * to the server. */
static void step_back(struct fdl_ramp *ramp)
{
    if (ramp->before >= FEW)
        ramp->wanted = ramp->before;
    ramp->before = 0;
}

static void step_up(struct fdl_ramp *ramp, const struct fdl_ramp_sample *sample)
{
    bool far = fdl_ramp_is_far(sample->rtt_ns);
    int before = ramp->wanted, step = far ? before : before >= FEW ? before / 2 : 1;
    int most = sample->room < ramp->max ? sample->room : ramp->max;

    ramp->before = 0;
    if (sample->conns < before || before >= most)
        return;
    ramp->before = before;
    ramp->wanted = step < most - before ? before + step : most;
    ramp->gain =
        before < FEW ? GAIN : 1 + 0.5 * (ramp->wanted - before) / (double)before;
    ramp->settled = false;
    ramp->settling_ns = sample->now_ns;
}

/* A mirror refused connections, or is not used any more: what nobody takes is not
 * wanted. */
static bool lower_to_room(struct fdl_ramp *ramp, int room)
{
    if (room < 1 || ramp->wanted <= room)
        return false;
    ramp->wanted = room;
    ramp->before = 0;
    return true;
}

/* More connections are tried; they stay where the whole became faster. What holds the
 * transfer up may also be the digest or the target: then more only cost. */
void fdl_ramp_update(struct fdl_ramp *ramp, const struct fdl_ramp_sample *sample)
{
    if (lower_to_room(ramp, sample->room))
        measure_from(ramp, sample);
    if (!ramp->settled) {
        if (sample->conns < ramp->wanted &&
            sample->now_ns - ramp->settling_ns < SETTLE_MAX_NS)
            return;
        ramp->settled = true;
        measure_from(ramp, sample);
        return;
    }
    uint64_t span = sample->now_ns - ramp->from_ns;
    uint64_t came = sample->bytes - ramp->from_bytes;
    uint64_t least = ramp->wanted < FEW ? STEP_MIN_NS : STEP_MANY_NS;

    if (span < least || span < STEP_TRIPS * sample->rtt_ns ||
        sample->now_ns < ramp->pause_until)
        return;
    if (came < STEP_BYTES && span < STEP_MAX_NS)
        return;
    double rate = (double)came * FDL_NS_PER_S / (double)span;
    double starved = (double)(sample->starved_ns - ramp->from_starved_ns) /
                     ((double)span * (sample->conns > 0 ? sample->conns : 1));
    bool tried = ramp->before > 0;

    if (starved > STARVED || (tried && rate < ramp->rate * ramp->gain)) {
        step_back(ramp);
        pause_steps(ramp, sample->now_ns);
    } else {
        if (tried)
            ramp->pause_ns = 0;
        ramp->rate = rate;
        step_up(ramp, sample);
    }
    measure_from(ramp, sample);
}
