/* SPDX-License-Identifier: Apache-2.0 */
/* test_sched.c - the scheduler's decisions, from mirrors, a plan and numbers alone.
 *
 * How much of the source a connection takes at once: what flows in a tenth of a second
 * and two round trips, however long it had to wait for its responses; never more than
 * its share of the window, nor than a kill may cost. Which mirror comes next, what
 * becomes of one that failed, and which block is fetched a second time. */
#undef NDEBUG
#include "base/clock.h"
#include "job/sched.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define MIB ((size_t)1 << 20)
#define MB 1e6 /* bytes/s */
#define MS FDL_NS_PER_MS
#define FAR (100 * MS)
#define BLOCKS 1000
#define PEERS 3 /* mirrors, and workers: worker i has mirror i */

struct rig {
    struct fdl_sched sched;
    struct fdl_plan plan;
    struct fdl_mirror *mirrors[PEERS];
    struct fdl_progress progress[PEERS];
};

/* One connection of `conns`, a mirror so far away, a window of so many blocks. */
static struct rig *rig_new(int conns, uint64_t rtt_ns, uint32_t window, size_t block)
{
    struct rig *rig = aligned_alloc(_Alignof(struct rig), sizeof *rig);

    assert(rig);
    memset(rig, 0, sizeof *rig);
    assert(fdl_plan_init(&rig->plan, BLOCKS, window, 1) == 0);
    for (int i = 0; i < PEERS; i++) {
        rig->mirrors[i] = fdl_mirror_new(FDL_MIRROR_HTTP, "http://mirror/", NULL);
        assert(rig->mirrors[i]);
        rig->mirrors[i]->max_conns = rig->mirrors[i]->cap = 4;
        rig->mirrors[i]->rtt_ns = rtt_ns;
        rig->mirrors[i]->run_max = 64 * MIB; /* long responses have come well */
        rig->mirrors[i]->provable = true;
        rig->progress[i].mirror = rig->mirrors[i];
        atomic_store(&rig->progress[i].block, FDL_NO_BLOCK);
    }
    rig->sched = (struct fdl_sched){.mirrors = rig->mirrors,
                                    .n_mirrors = PEERS,
                                    .plan = &rig->plan,
                                    .progress = rig->progress,
                                    .n_workers = PEERS,
                                    .n_conns = conns,
                                    .block = block,
                                    .retry = 3};
    return rig;
}

static void rig_free(struct rig *rig)
{
    for (int i = 0; i < PEERS; i++)
        fdl_mirror_free(rig->mirrors[i]);
    fdl_plan_destroy(&rig->plan);
    free(rig);
}

/* ---- runs ------------------------------------------------------------------ */

/* The blocks of the next run, 0: none is given out. They are free again afterwards. */
static uint64_t run(struct rig *rig)
{
    struct fdl_run run;

    if (!fdl_sched_next_run(&rig->sched, 0, 1, &run))
        return 0;
    assert(run.first == 0);
    for (uint64_t b = run.first; b < run.end; b++)
        fdl_plan_give_back(&rig->plan, 0, b);
    return run.end - run.first;
}

static uint64_t run_at(struct rig *rig, double flow)
{
    rig->progress[0].flow = flow;
    return run(rig);
}

static void the_wait_for_a_response_makes_no_run_shorter(void)
{
    struct rig *rig = rig_new(4, FAR, 64, MIB);

    /* One block came in 10 ms, and its response's head after 100: 9.5 MB/s altogether.
     */
    rig->progress[0].rate = rig->mirrors[0]->rate = 9.5 * MB;
    assert(run_at(rig, 100 * MB) == 8);
    assert(run_at(rig, 20 * MB) == 5); /* 0.3 s of it */
    rig_free(rig);
}

static void a_mirror_nearby_gets_a_tenth_of_a_second(void)
{
    struct rig *rig = rig_new(4, 0, 64, MIB);

    assert(run_at(rig, 1000 * MB) == 8);
    assert(run_at(rig, 40 * MB) == 3);
    assert(run_at(rig, 10 * MB) == 1);
    rig_free(rig);
}

static void a_trickle_gets_one_block_however_far_it_comes(void)
{
    struct rig *rig = rig_new(4, 0, 64, MIB);

    assert(run_at(rig, MB) == 1);
    rig->mirrors[0]->rtt_ns = FAR;
    assert(run_at(rig, MB) == 1);
    assert(run_at(rig, 1) == 1);
    rig_free(rig);
}

static void a_new_connection_goes_by_what_its_mirror_has_shown(void)
{
    struct rig *rig = rig_new(4, 0, 64, MIB);

    assert(run(rig) == 1); /* nothing is known */
    rig->mirrors[0]->rate = 50 * MB;
    assert(run(rig) == 4);
    assert(run_at(rig, 20 * MB) == 1); /* its own pace counts for more */
    rig_free(rig);
}

static void no_run_is_more_than_a_share_of_the_window(void)
{
    static const struct {
        int conns;
        uint32_t window;
        uint64_t blocks;
    } cases[] = {{1, 64, 8}, {8, 64, 8}, {8, 48, 6}, {8, 16, 2}, {8, 4, 1}, {0, 4, 4}};

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct rig *rig = rig_new(cases[i].conns, FAR, cases[i].window, MIB);
        assert(run_at(rig, 1000 * MB) == cases[i].blocks);
        rig_free(rig);
    }
}

/* A digest that is slower than the network frees the window block by block: a request
 * for each of them would cost the server twice as many. */
static void a_run_waits_for_room_in_the_window(void)
{
    struct rig *rig = rig_new(4, 0, 64, MIB);
    struct fdl_run run = {0, 0};

    rig->progress[0].flow = 1000 * MB;
    for (uint64_t b = 0; b < 64; b += 8) {
        assert(fdl_sched_next_run(&rig->sched, 0, 1, &run));
        assert(run.first == b && run.end == b + 8);
        for (uint64_t i = b; i < b + 8; i++)
            assert(fdl_plan_fill(&rig->plan, 0, i));
    }
    for (uint64_t b = 0; b < 2; b++) {
        assert(!fdl_sched_next_run(&rig->sched, 0, 1, &run));
        fdl_plan_release_base(&rig->plan);
    }
    assert(fdl_sched_next_run(&rig->sched, 0, 1, &run));
    assert(run.first == 64 && run.end == 66);
    /* What another left behind is no end of the window. */
    fdl_plan_give_back(&rig->plan, 0, 64);
    assert(fdl_sched_next_run(&rig->sched, 0, 1, &run));
    assert(run.first == 64 && run.end == 65);
    rig_free(rig);
}

static void the_end_of_the_source_is_waited_for_by_nobody(void)
{
    struct rig *rig = rig_new(4, 0, 16, MIB);
    struct fdl_run run = {0, 0};

    rig->progress[0].flow = 1000 * MB;
    rig->plan.n_blocks = 17;
    for (uint64_t b = 0; b < 16; b += 4)
        assert(fdl_sched_next_run(&rig->sched, 0, 1, &run));
    for (uint64_t b = 0; b < 16; b++)
        assert(fdl_plan_fill(&rig->plan, 0, b));
    fdl_plan_release_base(&rig->plan);
    assert(fdl_sched_next_run(&rig->sched, 0, 1, &run));
    assert(run.first == 16 && run.end == 17);
    rig_free(rig);
}

static void a_run_is_a_range_of_bytes_whatever_a_block_is(void)
{
    static const struct {
        size_t block;
        uint64_t blocks;
    } cases[] = {{MIB / 16, 128}, {MIB, 8}, {8 * MIB, 1}, {16 * MIB, 1}};

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct rig *rig = rig_new(1, FAR, 256, cases[i].block);
        assert(run_at(rig, 1000 * MB) == cases[i].blocks);
        rig_free(rig);
    }
}

/* After a response whose first block took so many ms, each of the `rest` so many. */
static uint64_t after(struct rig *rig, uint64_t first_ms, uint64_t each_ms,
                      uint32_t rest)
{
    struct fdl_pace_of_response pace = {first_ms * MS, each_ms * MS * rest, rest};

    fdl_sched_responded(&rig->sched, 0, &pace);
    return run_at(rig, 1000 * MB);
}

static void responses_become_longer_while_they_flow(void)
{
    struct rig *rig = rig_new(4, 0, 64, MIB);

    rig->mirrors[0]->run_max = 2 * MIB;
    assert(run_at(rig, 1000 * MB) == 2);
    assert(after(rig, 2, 2, 0) == 2); /* one block says nothing */
    assert(after(rig, 2, 3, 1) == 4);
    assert(after(rig, 2, 3, 3) == 8);
    assert(after(rig, 2, 19, 7) == 8); /* slower, but by little */
    rig_free(rig);
}

/* A server that sends the first MiB or two of a response at once and the rest at 8
 * MiB/s: the same bytes come sooner in responses of two. */
static void throttled_responses_become_shorter(void)
{
    struct rig *rig = rig_new(4, 0, 64, MIB);

    assert(after(rig, 5, 120, 7) == 8); /* once is chance */
    assert(after(rig, 5, 120, 7) == 4);
    assert(after(rig, 5, 80, 3) == 2);
    assert(after(rig, 5, 5, 1) == 2);
    for (int i = 0; i < 62; i++)
        assert(after(rig, 5, 5, 1) == 2);
    assert(after(rig, 5, 5, 1) == 4); /* now and then it is tried again */
    assert(after(rig, 5, 80, 3) == 2);
    /* All of a response at the same pace is no throttle that a new one escapes. */
    assert(after(rig, 125, 125, 1) == 2);
    rig_free(rig);
}

static void far_away_a_response_is_worth_its_round_trip(void)
{
    struct rig *rig = rig_new(4, FAR, 64, MIB);

    rig->mirrors[0]->run_max = 2 * MIB;
    assert(run_at(rig, 1000 * MB) == 8);
    assert(after(rig, 150, 400, 7) == 8);
    assert(after(rig, 150, 400, 7) == 4); /* unless it is throttled there too */
    rig_free(rig);
}

static void no_run_is_given_out_while_a_kill_would_cost_too_much(void)
{
    struct rig *rig = rig_new(4, FAR, 64, MIB);

    rig->sched.unsettled = 4 * 5 - 1;
    assert(run_at(rig, 100 * MB) == 8);
    rig->sched.unsettled = 4 * 5;
    assert(run_at(rig, 100 * MB) == 0);
    rig->sched.unsettled = 0;
    assert(run_at(rig, 100 * MB) == 8);
    rig_free(rig);
}

/* What came and waits for others is lost as well; it may be a pass more, so that there
 * is one. */
static void blocks_that_wait_for_one_another_are_what_a_kill_would_cost(void)
{
    struct rig *rig = rig_new(4, FAR, 64, MIB);

    rig->sched.gathers = 16;
    for (uint64_t b = 30; b < 60; b++)
        fdl_plan_slot(&rig->plan, b)->state = FDL_SLOT_FILLED;
    rig->sched.unsettled = 4 * 5 + 16 - 30 - 1;
    assert(run_at(rig, 100 * MB) == 8);
    rig->sched.unsettled++;
    assert(run_at(rig, 100 * MB) == 0);
    /* Once it is written it is counted among those whose records are not durable. */
    for (uint64_t b = 30; b < 60; b++)
        fdl_plan_slot(&rig->plan, b)->written = true;
    assert(run_at(rig, 100 * MB) == 8);
    rig_free(rig);
}

/* ---- mirrors --------------------------------------------------------------- */

static void fail_with(struct fdl_err *err, int code, int status)
{
    fdl_fail(err, code, FDL_NO_OFFSET, "failed");
    err->http_status = status;
}

static void the_mirror_of_the_best_priority_comes_first_until_it_is_full(void)
{
    struct rig *rig = rig_new(1, 0, 64, MIB);

    rig->mirrors[0]->priority = 2;
    rig->mirrors[1]->priority = 1;
    rig->mirrors[2]->priority = 3;
    assert(fdl_sched_pick_mirror(&rig->sched, 1) == 1);
    rig->mirrors[1]->active = rig->mirrors[1]->cap;
    assert(fdl_sched_pick_mirror(&rig->sched, 1) == 0);
    rig->mirrors[0]->not_before_ns = 100;
    assert(fdl_sched_pick_mirror(&rig->sched, 1) == 2);
    assert(fdl_sched_pick_mirror(&rig->sched, 100) == 0);
    rig->mirrors[0]->state = rig->mirrors[2]->state = FDL_MIRROR_DISQUALIFIED;
    assert(fdl_sched_pick_mirror(&rig->sched, 100) == FDL_NO_MIRROR);
    rig_free(rig);
}

/* Two fast ones that lost by chance, one after the other, and a slow one that won. */
static void who_stood_back_is_tried_again_by_one_connection(void)
{
    struct rig *rig = rig_new(4, MS, 64, MIB);
    struct fdl_mirror *lost = rig->mirrors[0], *slow = rig->mirrors[1];

    rig->mirrors[2]->state = FDL_MIRROR_DISQUALIFIED;
    slow->rate = 100 * MB; /* as it seemed */
    slow->active = 2;
    lost->rate = 1 * MB;
    lost->lost_hedges = 1;
    lost->not_before_ns = 500 * MS;
    assert(fdl_sched_pick_mirror(&rig->sched, 400 * MS) == 1);
    assert(fdl_sched_pick_mirror(&rig->sched, 500 * MS) == 0);
    lost->active = 1; /* one is enough to see */
    assert(fdl_sched_pick_mirror(&rig->sched, 500 * MS) == 1);
    rig_free(rig);
}

static void a_mirror_without_ranges_serves_only_where_no_other_can(void)
{
    struct rig *rig = rig_new(1, 0, 64, MIB);

    rig->mirrors[0]->ranges = FDL_RANGES_NO;
    rig->mirrors[0]->priority = -1;
    assert(fdl_sched_pick_mirror(&rig->sched, 1) == 1);
    assert(fdl_sched_room(&rig->sched) == 1 + 4 + 4);
    rig->mirrors[1]->state = rig->mirrors[2]->state = FDL_MIRROR_DISQUALIFIED;
    assert(fdl_sched_pick_mirror(&rig->sched, 1) == 0);
    rig->mirrors[0]->active = 1;
    assert(fdl_sched_pick_mirror(&rig->sched, 1) == FDL_NO_MIRROR);
    rig_free(rig);
}

static void a_mirror_that_lied_is_disqualified_at_once(void)
{
    static const int codes[] = {FDL_E_INTEGRITY, FDL_E_ORIGIN_CHANGED, FDL_E_SIZE,
                                FDL_E_TLS_TRUST, FDL_E_POLICY};
    struct fdl_err err;

    for (size_t i = 0; i < sizeof codes / sizeof *codes; i++) {
        struct rig *rig = rig_new(1, 0, 64, MIB);
        fail_with(&err, codes[i], 0);
        assert(fdl_sched_failed(&rig->sched, 0, &err, 1) == FDL_DECIDE_DISQUALIFY);
        assert(rig->mirrors[0]->state == FDL_MIRROR_READY); /* the caller's to do */
        rig_free(rig);
    }
}

static void a_cut_is_retried_at_once_then_ever_later_then_given_up(void)
{
    struct rig *rig = rig_new(1, 0, 64, MIB);
    struct fdl_err err;
    uint64_t now = MS, wait = 0;

    fail_with(&err, FDL_E_NET, 0);
    assert(fdl_sched_failed(&rig->sched, 0, &err, now) == FDL_DECIDE_RETRY);
    assert(rig->mirrors[0]->not_before_ns <= now);
    for (int i = 1; i < rig->sched.retry; i++) {
        assert(fdl_sched_failed(&rig->sched, 0, &err, now) == FDL_DECIDE_RETRY);
        assert(rig->mirrors[0]->not_before_ns - now > wait);
        wait = rig->mirrors[0]->not_before_ns - now;
        now = rig->mirrors[0]->not_before_ns;
    }
    assert(fdl_sched_failed(&rig->sched, 0, &err, now) == FDL_DECIDE_DISQUALIFY);
    rig_free(rig);
}

static void connections_that_fail_together_are_one_failure(void)
{
    struct rig *rig = rig_new(3, 0, 64, MIB);
    struct fdl_err err;

    fail_with(&err, FDL_E_HTTP_STATUS, 503);
    for (int i = 0; i < PEERS; i++)
        rig->progress[i].mirror = rig->mirrors[0];
    for (int i = 0; i < PEERS; i++)
        assert(fdl_sched_failed(&rig->sched, i, &err, MS) == FDL_DECIDE_RETRY);
    assert(rig->mirrors[0]->failures == 1);
    rig_free(rig);
}

static void a_connection_too_many_leaves_and_the_mirror_keeps_the_others(void)
{
    struct rig *rig = rig_new(2, 0, 64, MIB);
    struct fdl_err err;

    fail_with(&err, FDL_E_HTTP_STATUS, 503);
    rig->progress[1].mirror = rig->mirrors[0];
    rig->mirrors[0]->active = 2;
    atomic_store(&rig->progress[0].served, true);
    assert(fdl_sched_failed(&rig->sched, 1, &err, MS) == FDL_DECIDE_LEAVE);
    assert(rig->mirrors[0]->cap == 1 && rig->mirrors[0]->failures == 0);
    err.retry_after_s = 30; /* another one may be tried, but not before */
    assert(fdl_sched_failed(&rig->sched, 1, &err, MS) == FDL_DECIDE_LEAVE);
    assert(rig->mirrors[0]->more_after_ns == MS + 30 * FDL_NS_PER_S);
    rig_free(rig);
}

static void a_mirror_is_waited_for_as_long_as_it_asks_within_reason(void)
{
    struct rig *rig = rig_new(1, 0, 64, MIB);
    struct fdl_err err;

    fail_with(&err, FDL_E_HTTP_STATUS, 503);
    err.retry_after_s = 7;
    assert(fdl_sched_failed(&rig->sched, 0, &err, MS) == FDL_DECIDE_RETRY);
    assert(rig->mirrors[0]->not_before_ns == MS + 7 * FDL_NS_PER_S);
    err.retry_after_s = 601;
    assert(fdl_sched_failed(&rig->sched, 1, &err, MS) == FDL_DECIDE_DISQUALIFY);
    rig_free(rig);
}

static void the_last_mirror_takes_its_most_telling_error_with_it(void)
{
    struct rig *rig = rig_new(1, 0, 64, MIB);
    struct fdl_err err;

    for (int i = 0; i < PEERS; i++) {
        assert(!fdl_sched_exhausted(&rig->sched, &err));
        rig->mirrors[i]->state = FDL_MIRROR_DISQUALIFIED;
    }
    assert(fdl_sched_exhausted(&rig->sched, &err) && err.code == FDL_E_NET);
    fail_with(&rig->mirrors[0]->last_err, FDL_E_HTTP_STATUS, 404);
    fail_with(&rig->mirrors[1]->last_err, FDL_E_INTEGRITY, 0);
    assert(fdl_sched_exhausted(&rig->sched, &err) && err.code == FDL_E_INTEGRITY);
    rig_free(rig);
}

/* ---- hedges ---------------------------------------------------------------- */

/* The worker is at that block, of which so many bytes have come, the last of them then.
 */
static void came(struct rig *rig, int worker, uint64_t block, uint64_t bytes,
                 uint64_t then_ns)
{
    struct fdl_progress *p = &rig->progress[worker];

    atomic_store(&p->block, block);
    atomic_store(&p->filled, bytes);
    atomic_store(&p->came_ns, then_ns);
}

static void a_late_block_is_fetched_again_by_a_faster_mirror(void)
{
    struct rig *rig = rig_new(2, 0, 64, MIB);
    struct fdl_run run;
    uint64_t block;

    rig->progress[0].flow = 1; /* one block at a time */
    assert(fdl_sched_next_run(&rig->sched, 0, MS, &run) && run.first == 0);
    atomic_store(&rig->progress[0].block, 0);
    rig->progress[1].rate = 100 * MB;                              /* 10 ms a block */
    assert(!fdl_sched_find_hedge(&rig->sched, 1, 2 * MS, &block)); /* too soon */
    assert(fdl_sched_find_hedge(&rig->sched, 1, 1000 * MS, &block) && block == 0);
    assert(fdl_plan_slot(&rig->plan, 0)->hedger == FDL_NOBODY); /* the caller's to do */
    assert(fdl_plan_hedge(&rig->plan, 1, block, 1000 * MS) == FDL_NOBODY);
    assert(!fdl_sched_find_hedge(&rig->sched, 2, 1001 * MS, &block)); /* not late yet */
    rig_free(rig);
}

/* A server with a limit on its rate stops when that is reached, be it by a head shortly
 * before the end of a block: as fast as it came until then the rest would be there in
 * no time. */
static void who_stops_just_before_the_end_is_late_too(void)
{
    struct rig *rig = rig_new(2, 0, 64, MIB);
    struct fdl_run run;
    uint64_t block;

    rig->progress[0].flow = 1;
    assert(fdl_sched_next_run(&rig->sched, 0, MS, &run));
    came(rig, 0, 0, MIB - 300, 10 * MS);
    rig->progress[1].rate = 100 * MB; /* 10 ms a block */
    assert(!fdl_sched_find_hedge(&rig->sched, 1, 30 * MS, &block));
    assert(fdl_sched_find_hedge(&rig->sched, 1, 50 * MS, &block) && block == 0);
    came(rig, 0, 0, MIB - 200, 49 * MS);
    assert(!fdl_sched_find_hedge(&rig->sched, 1, 50 * MS, &block));
    came(rig, 0, 0, MIB, 10 * MS); /* it is there, and looked at */
    assert(!fdl_sched_find_hedge(&rig->sched, 1, 50 * MS, &block));
    rig_free(rig);
}

/* Nor is a hedge in vain that is slower than such a one. */
static void who_stops_just_before_the_end_keeps_its_hedge(void)
{
    struct rig *rig = rig_new(2, 0, 64, MIB);
    struct fdl_run run;

    rig->progress[0].flow = 1;
    assert(fdl_sched_next_run(&rig->sched, 0, MS, &run));
    assert(fdl_plan_hedge(&rig->plan, 1, 0, 100 * MS) == FDL_NOBODY);
    came(rig, 0, 0, MIB - 300, 600 * MS);
    came(rig, 1, 0, MIB / 2, 600 * MS);
    assert(fdl_sched_find_vain(&rig->sched, 600 * MS) == 1);
    came(rig, 0, 0, MIB - 300, 10 * MS);
    assert(fdl_sched_find_vain(&rig->sched, 600 * MS) == FDL_NOBODY);
    rig_free(rig);
}

static void hedges_end_with_their_budget(void)
{
    struct rig *rig = rig_new(2, 0, 64, MIB);
    struct fdl_run run;
    uint64_t block;

    rig->progress[0].flow = 1;
    assert(fdl_sched_next_run(&rig->sched, 0, MS, &run));
    rig->progress[1].rate = 100 * MB;
    rig->sched.twice_bytes = BLOCKS / 8 * MIB;
    assert(!fdl_sched_find_hedge(&rig->sched, 1, 900 * MS, &block));
    rig->sched.twice_bytes = 0;
    assert(fdl_sched_find_hedge(&rig->sched, 1, 900 * MS, &block));
    rig_free(rig);
}

static void a_block_that_hardly_comes_is_hedged_whatever_was_spent(void)
{
    struct rig *rig = rig_new(2, 0, 64, MIB);
    struct fdl_run run;
    uint64_t block;

    rig->progress[0].flow = 1;
    assert(fdl_sched_next_run(&rig->sched, 0, MS, &run));
    came(rig, 0, 0, 1200, 1100 * MS);
    rig->progress[1].rate = 100 * MB;
    rig->mirrors[0]->rate = 1000 * MB; /* what it gave once says nothing now */
    rig->sched.twice_bytes = BLOCKS * MIB;
    assert(fdl_sched_find_hedge(&rig->sched, 1, 1100 * MS, &block) && block == 0);
    rig->sched.wasted = 1000;
    assert(!fdl_sched_find_hedge(&rig->sched, 1, 3900 * MS, &block));
    assert(fdl_sched_find_hedge(&rig->sched, 1, 4100 * MS, &block));
    came(rig, 0, 0, MIB / 8 * 7, 4100 * MS); /* done in a moment */
    assert(!fdl_sched_find_hedge(&rig->sched, 1, 4100 * MS, &block));
    rig_free(rig);
}

static void who_lost_a_hedge_hedges_again(void)
{
    struct rig *rig = rig_new(2, 0, 64, MIB);
    struct fdl_run run;
    uint64_t block;

    rig->progress[0].flow = 1;
    rig->mirrors[2]->rate = 100 * MB;
    assert(fdl_sched_next_run(&rig->sched, 0, MS, &run));
    rig->progress[1].rate = 100 * MB;
    rig->sched.twice_bytes = MIB;
    fdl_sched_lost_hedge(&rig->sched, 1, true, 10, 0, 100 * MS);
    assert(rig->sched.twice_bytes == 10 && rig->mirrors[1]->rate < 1000);
    assert(!fdl_sched_find_hedge(&rig->sched, 1, 500 * MS, &block));
    assert(fdl_sched_find_hedge(&rig->sched, 1, 700 * MS, &block));
    /* By a hair: it stands back for a moment alone. */
    rig->mirrors[1]->lost_hedges = 0;
    rig->mirrors[1]->rate = 90 * MB;
    fdl_sched_lost_hedge(&rig->sched, 1, true, MIB, 1000 * MS, 1012 * MS);
    assert(rig->mirrors[1]->lost_hedges == 0 && rig->sched.wasted == 1);
    rig_free(rig);
}

static void a_stuck_connection_goes_to_the_better_mirror(void)
{
    struct rig *rig = rig_new(1, 0, 64, MIB);
    struct fdl_run run;

    rig->sched.n_workers = 1;
    rig->mirrors[0]->active = 1;
    rig->progress[0].flow = 1;
    assert(fdl_sched_next_run(&rig->sched, 0, MS, &run));
    came(rig, 0, 0, 2000, 1900 * MS);
    assert(fdl_sched_find_stuck(&rig->sched, 1900 * MS) == FDL_NOBODY);
    assert(fdl_sched_find_stuck(&rig->sched, 2100 * MS) == 0);
    rig->mirrors[1]->state = rig->mirrors[2]->state = FDL_MIRROR_DISQUALIFIED;
    assert(fdl_sched_find_stuck(&rig->sched, 2100 * MS) == FDL_NOBODY);
    rig_free(rig);
}

/* What is one too many: who has no mirror, and of mirrors with several connections the
 * slowest; none loses its last. */
static void a_surplus_connection_is_of_the_slowest_that_has_several(void)
{
    struct rig *rig = rig_new(6, 0, 64, MIB);

    rig->mirrors[0]->active = rig->mirrors[1]->active = 2;
    rig->mirrors[2]->active = 1;
    rig->mirrors[0]->rate = 50 * MB;
    rig->mirrors[1]->rate = 20 * MB;
    rig->mirrors[2]->rate = MB;
    assert(!fdl_sched_is_surplus(&rig->sched, 1, 6));
    assert(!fdl_sched_is_surplus(&rig->sched, 0, 5));
    assert(fdl_sched_is_surplus(&rig->sched, 1, 5));
    assert(!fdl_sched_is_surplus(&rig->sched, 2, 5));
    rig->mirrors[1]->active = 1;
    assert(fdl_sched_is_surplus(&rig->sched, 0, 5));
    rig->progress[2].mirror = NULL;
    assert(fdl_sched_is_surplus(&rig->sched, 2, 5));
    rig->progress[2].local = true;
    assert(!fdl_sched_is_surplus(&rig->sched, 2, 5));
    rig_free(rig);
}

int main(void)
{
    the_wait_for_a_response_makes_no_run_shorter();
    a_mirror_nearby_gets_a_tenth_of_a_second();
    a_trickle_gets_one_block_however_far_it_comes();
    a_new_connection_goes_by_what_its_mirror_has_shown();
    no_run_is_more_than_a_share_of_the_window();
    a_run_waits_for_room_in_the_window();
    the_end_of_the_source_is_waited_for_by_nobody();
    a_run_is_a_range_of_bytes_whatever_a_block_is();
    responses_become_longer_while_they_flow();
    throttled_responses_become_shorter();
    far_away_a_response_is_worth_its_round_trip();
    no_run_is_given_out_while_a_kill_would_cost_too_much();
    blocks_that_wait_for_one_another_are_what_a_kill_would_cost();
    the_mirror_of_the_best_priority_comes_first_until_it_is_full();
    who_stood_back_is_tried_again_by_one_connection();
    a_mirror_without_ranges_serves_only_where_no_other_can();
    a_mirror_that_lied_is_disqualified_at_once();
    a_cut_is_retried_at_once_then_ever_later_then_given_up();
    connections_that_fail_together_are_one_failure();
    a_connection_too_many_leaves_and_the_mirror_keeps_the_others();
    a_mirror_is_waited_for_as_long_as_it_asks_within_reason();
    the_last_mirror_takes_its_most_telling_error_with_it();
    a_late_block_is_fetched_again_by_a_faster_mirror();
    who_stops_just_before_the_end_is_late_too();
    who_stops_just_before_the_end_keeps_its_hedge();
    hedges_end_with_their_budget();
    a_block_that_hardly_comes_is_hedged_whatever_was_spent();
    who_lost_a_hedge_hedges_again();
    a_stuck_connection_goes_to_the_better_mirror();
    a_surplus_connection_is_of_the_slowest_that_has_several();
    return 0;
}
