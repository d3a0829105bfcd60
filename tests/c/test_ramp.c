/* SPDX-License-Identifier: Apache-2.0 */
/* test_ramp.c - connections are added while they pay, in larger steps where a step
 * takes long to show what it gave, and never more than are allowed. */
#undef NDEBUG
#include "job/ramp.h"

#include <assert.h>

#define MS UINT64_C(1000000)
#define MIB (UINT64_C(1) << 20)

/* A transfer that has so many connections; its first measurement began at 0. */
struct rig {
    struct fdl_ramp ramp;
    struct fdl_ramp_sample sample;
};

static struct rig rig_with(int conns, int max, uint64_t rtt_ns)
{
    struct rig rig = {.sample = {.rtt_ns = rtt_ns, .conns = conns, .room = max}};

    const struct fdl_ramp_start start = {.max = max, .mirrors = 1, .first = max};

    fdl_ramp_init(&rig.ramp, &start);
    rig.ramp.wanted = conns;
    fdl_ramp_update(&rig.ramp, &rig.sample);
    return rig;
}

/* The wanted connections after `bytes` more came until `at`. Each brings something at
 * once. */
static int after(struct rig *rig, uint64_t at, uint64_t bytes)
{
    rig->sample.now_ns = at;
    rig->sample.bytes += bytes;
    fdl_ramp_update(&rig->ramp, &rig->sample);
    rig->sample.conns = rig->ramp.wanted;
    fdl_ramp_update(&rig->ramp, &rig->sample);
    return rig->ramp.wanted;
}

static int initial(const struct fdl_ramp_start *start)
{
    struct fdl_ramp ramp;

    fdl_ramp_init(&ramp, start);
    return ramp.wanted;
}

#define INITIAL(...) initial(&(struct fdl_ramp_start){__VA_ARGS__})

static void starts_with_one_nearby_and_a_few_far_away(void)
{
    assert(INITIAL(.max = 8, .first = 8, .mirrors = 1) == 1);
    assert(INITIAL(.max = 8, .first = 8, .mirrors = 5) == 3);
    assert(INITIAL(.max = 8, .first = 8, .mirrors = 1, .far_away = true) == 8);
    assert(INITIAL(.max = 20, .first = 20, .mirrors = 1, .far_away = true) == 8);
    assert(INITIAL(.max = 2, .first = 2, .mirrors = 1, .far_away = true) == 2);
    /* Nobody said that it stands more. */
    assert(INITIAL(.max = 32, .first = 4, .mirrors = 1, .far_away = true) == 4);
    assert(INITIAL(.max = 32, .first = 12, .mirrors = 3, .far_away = true) == 8);
    assert(!fdl_ramp_is_far(MS / 5) && fdl_ramp_is_far(50 * MS));
}

static void starts_with_a_few_that_do_more_than_receive(void)
{
    assert(INITIAL(.max = 8, .first = 4, .mirrors = 1, .busy = true) == 4);
    assert(INITIAL(.max = 8, .first = 12, .mirrors = 3, .busy = true) == 4);
    assert(INITIAL(.max = 8, .first = 2, .mirrors = 1, .busy = true) == 2);
    assert(INITIAL(.max = 3, .first = 4, .mirrors = 1, .busy = true) == 3);
    assert(INITIAL(.max = 32, .first = 12, .mirrors = 3, .busy = true,
                   .far_away = true) == 8);
}

static void adds_while_it_pays(void)
{
    struct rig rig = rig_with(1, 8, MS / 5);

    assert(after(&rig, 20 * MS, 10 * MIB) == 2);
    assert(after(&rig, 40 * MS, 20 * MIB) == 3);
    assert(after(&rig, 60 * MS, 30 * MIB) == 4);
    assert(after(&rig, 80 * MS, 30 * MIB) == 4);  /* no faster: it stays */
    assert(after(&rig, 100 * MS, 60 * MIB) == 4); /* and pauses */
}

/* Past a few connections a step has to bring half of what the connections before it
 * brought each: they take a server's room from others. */
static void many_have_to_pay_well(void)
{
    struct rig rig = rig_with(4, 64, MS / 5);

    assert(after(&rig, 20 * MS, 8 * MIB) == 4); /* too soon to tell */
    assert(after(&rig, 100 * MS, 32 * MIB) == 6);
    assert(after(&rig, 200 * MS, 60 * MIB) == 9);  /* each brought as much */
    assert(after(&rig, 300 * MS, 80 * MIB) == 13); /* two thirds of it */
    assert(after(&rig, 400 * MS, 90 * MIB) == 9);  /* an eighth for 44 % more */
    assert(after(&rig, 500 * MS, 90 * MIB) == 9);  /* and pauses */
}

/* A server that gives no more to more connections is asked ever more rarely. */
static void more_are_tried_ever_more_rarely(void)
{
    struct rig rig = rig_with(4, 64, MS / 5);
    int tries = 0, longest = 0;

    for (uint64_t at = 100 * MS; at < 60000 * MS; at += 100 * MS) {
        int before = rig.ramp.wanted, now = after(&rig, at, 10 * MIB);
        tries += now > before;
        longest = now > longest ? now : longest;
    }
    assert(longest == 6);
    assert(tries <= 8); /* after 0.25, 0.5, 1, 2, 4, 8, 16 and 32 seconds */
}

/* What was learned to be too many is not asked for: a refusal lowers them at once. */
static void never_more_than_the_mirrors_take(void)
{
    struct rig rig = rig_with(4, 64, MS / 5);

    assert(after(&rig, 100 * MS, 32 * MIB) == 6);
    rig.sample.room = 5;
    assert(after(&rig, 110 * MS, 3 * MIB) == 5);
    for (uint64_t at = 210 * MS, n = 30; at < 2000 * MS; at += 100 * MS, n *= 2)
        assert(after(&rig, at, n * MIB) == 5); /* however well it goes */
}

static void takes_larger_steps_far_away(void)
{
    struct rig rig = rig_with(4, 10, 50 * MS);

    assert(after(&rig, 95 * MS, 10 * MIB) == 4); /* too soon to tell */
    assert(after(&rig, 100 * MS, 0) == 8);
    assert(after(&rig, 195 * MS, 20 * MIB) == 8);
    assert(after(&rig, 200 * MS, 0) == 10);       /* as many as are allowed */
    assert(after(&rig, 300 * MS, 20 * MIB) == 8); /* the last two bring nothing */
}

/* The time until new connections bring something says nothing of what they bring. */
static void a_step_is_measured_from_when_it_has_settled(void)
{
    struct rig rig = rig_with(4, 32, 100 * MS);
    struct fdl_ramp_sample *s = &rig.sample;

    s->now_ns = 200 * MS;
    s->bytes = 10 * MIB;
    fdl_ramp_update(&rig.ramp, s);
    assert(rig.ramp.wanted == 8 && !rig.ramp.settled);
    s->now_ns = 450 * MS; /* four of eight */
    s->bytes += 12 * MIB;
    fdl_ramp_update(&rig.ramp, s);
    assert(rig.ramp.wanted == 8 && !rig.ramp.settled);
    s->now_ns = 460 * MS;
    s->conns = 8;
    fdl_ramp_update(&rig.ramp, s);
    assert(rig.ramp.settled && rig.ramp.from_bytes == 22 * MIB);
    s->now_ns = 660 * MS;
    s->bytes += 20 * MIB;
    fdl_ramp_update(&rig.ramp, s);
    assert(rig.ramp.wanted == 16);
    s->conns = 11; /* five never come */
    s->now_ns = 1650 * MS;
    fdl_ramp_update(&rig.ramp, s);
    assert(!rig.ramp.settled);
    s->now_ns = 1660 * MS;
    fdl_ramp_update(&rig.ramp, s);
    assert(rig.ramp.settled);
}

static void adds_none_while_the_target_holds_the_transfer_up(void)
{
    struct rig rig = rig_with(2, 8, MS / 5);

    rig.sample.starved_ns = 20 * MS; /* of twice 20 */
    assert(after(&rig, 20 * MS, 10 * MIB) == 2);
    assert(after(&rig, 300 * MS, 10 * MIB) ==
           3); /* after the pause it is tried again */
}

static void pauses_grow_longer_and_have_an_end(void)
{
    struct rig rig = rig_with(2, 8, MS / 5);
    uint64_t longest = 0;

    for (uint64_t at = 20 * MS; at < 100000 * MS; at += 20 * MS) {
        rig.sample.starved_ns += 40 * MS;
        assert(after(&rig, at, 10 * MIB) == 2);
        if (rig.ramp.pause_ns > longest)
            longest = rig.ramp.pause_ns;
    }
    assert(longest == 32000 * MS);
}

int main(void)
{
    starts_with_one_nearby_and_a_few_far_away();
    starts_with_a_few_that_do_more_than_receive();
    adds_while_it_pays();
    many_have_to_pay_well();
    more_are_tried_ever_more_rarely();
    never_more_than_the_mirrors_take();
    takes_larger_steps_far_away();
    a_step_is_measured_from_when_it_has_settled();
    adds_none_while_the_target_holds_the_transfer_up();
    pauses_grow_longer_and_have_an_end();
    return 0;
}
