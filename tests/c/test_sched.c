/* SPDX-License-Identifier: Apache-2.0 */
/* test_sched.c - how much of the source a connection takes at once: what flows in a
 * tenth of a second and two round trips, however long it had to wait for its answers;
 * never more than its share of the window, nor than a kill may cost. */
#undef NDEBUG
#include "base/clock.h"
#include "job/job_priv.h"

#include <assert.h>
#include <stdlib.h>

#define MIB ((size_t)1 << 20)
#define MB 1e6 /* bytes/s */
#define FAR (100 * FDL_NS_PER_MS)
#define BLOCKS 1000

struct rig {
    struct fdl_job job;
    struct fdl_mirror mirror;
    struct fdl_worker worker;
};

/* One connection of `conns`, a mirror so far away, a window of so many blocks. */
static struct rig *rig_new(int conns, uint64_t rtt_ns, uint32_t window, size_t block)
{
    struct rig *rig = calloc(1, sizeof *rig);

    assert(rig);
    rig->job.cfg.block = block;
    rig->job.n_net = conns;
    rig->mirror.rtt_ns = rtt_ns;
    rig->worker.job = &rig->job;
    rig->worker.mirror = &rig->mirror;
    assert(fdl_plan_init(&rig->job.plan, BLOCKS, window, 1) == 0);
    return rig;
}

static void rig_free(struct rig *rig)
{
    fdl_plan_destroy(&rig->job.plan);
    free(rig);
}

/* The blocks of the next run, 0: none is given out. They are free again afterwards. */
static uint64_t run(struct rig *rig)
{
    uint64_t first, end;

    if (!fdl_sched_next_run(&rig->worker, 1, &first, &end))
        return 0;
    assert(first == 0);
    for (uint64_t b = first; b < end; b++)
        fdl_plan_give_back(&rig->job.plan, rig->worker.id, b);
    return end - first;
}

static uint64_t run_at(struct rig *rig, double flow)
{
    rig->worker.flow = flow;
    return run(rig);
}

static void the_wait_for_an_answer_makes_no_run_shorter(void)
{
    struct rig *rig = rig_new(4, FAR, 64, MIB);

    /* One block came in 10 ms, and its answer's head after 100: 9.5 MB/s altogether. */
    rig->worker.rate = rig->mirror.rate = 9.5 * MB;
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
    rig->mirror.rtt_ns = FAR;
    assert(run_at(rig, MB) == 1);
    assert(run_at(rig, 1) == 1);
    rig_free(rig);
}

static void a_new_connection_goes_by_what_its_mirror_has_shown(void)
{
    struct rig *rig = rig_new(4, 0, 64, MIB);

    assert(run(rig) == 1); /* nothing is known */
    rig->mirror.rate = 50 * MB;
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

static void no_run_is_given_out_while_a_kill_would_cost_too_much(void)
{
    struct rig *rig = rig_new(4, FAR, 64, MIB);

    rig->job.unsettled = 4 * 5 - 1;
    assert(run_at(rig, 100 * MB) == 8);
    rig->job.unsettled = 4 * 5;
    assert(run_at(rig, 100 * MB) == 0);
    rig->job.unsettled = 0;
    assert(run_at(rig, 100 * MB) == 8);
    rig_free(rig);
}

int main(void)
{
    the_wait_for_an_answer_makes_no_run_shorter();
    a_mirror_nearby_gets_a_tenth_of_a_second();
    a_trickle_gets_one_block_however_far_it_comes();
    a_new_connection_goes_by_what_its_mirror_has_shown();
    no_run_is_more_than_a_share_of_the_window();
    a_run_is_a_range_of_bytes_whatever_a_block_is();
    no_run_is_given_out_while_a_kill_would_cost_too_much();
    return 0;
}
