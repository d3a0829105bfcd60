/* SPDX-License-Identifier: Apache-2.0 */
/* test_job_faults.c - whatever the mirrors do, a transfer ends in time, with the right
 * bytes or with the right error. */
#undef NDEBUG
#include "base/clock.h"
#include "job_rig.h"

#include <arpa/inet.h>
#include <assert.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

/* Before a block, and before the last byte of one: all it gave before was fast. */
static void a_stalled_mirror_does_not_hold_the_others_up(void)
{
    uint64_t size = 100 * BLOCK;
    unsigned char *data = random_bytes(size, 9);

    for (uint64_t withheld = 0; withheld <= 1; withheld++) {
        struct run *r = new_run(data, size, 2);

        r->stall_ms = 20000;
        r->origins[0].stall_at = withheld ? 0 : 2 * BLOCK;
        r->origins[0].withheld = withheld;
        go(r);
        expect_bytes(r, data, size);
        assert(r->ended_after_ns < 10 * FDL_NS_PER_S); /* far from the stall time */
        done(r);
    }
    free(data);
}

static void the_last_mirrors_death_is_told_with_its_cause(void)
{
    uint64_t size = 30 * BLOCK;
    unsigned char *data = random_bytes(size, 10);

    for (int kind = 0; kind < 3; kind++) {
        struct run *r = new_run(data, size, 1 + kind % 2);
        r->cfg.retry = 1;
        r->stall_ms = 100;
        for (int i = 0; i < r->n; i++) {
            if (kind == 0)
                atomic_store(&r->origins[i].refusals, 1000);
            else if (kind == 1)
                r->origins[i].stall_at = 9 * BLOCK;
            else
                r->origins[i].size = size - 1;
        }
        go(r);
        assert(r->rc == (kind == 0   ? FDL_E_HTTP_STATUS
                         : kind == 1 ? FDL_E_NET
                                     : FDL_E_SIZE));
        assert(r->err.mirror >= 0 && (kind != 0 || r->err.http_status == 503));
        done(r);
    }
    free(data);
}

static void a_short_outage_is_survived(void)
{
    uint64_t size = 60 * BLOCK;
    unsigned char *data = random_bytes(size, 11);
    struct run *r = new_run(data, size, 1);
    struct rusage before, after;

    atomic_store(&r->origins[0].refusals, 2);
    getrusage(RUSAGE_SELF, &before);
    go(r);
    getrusage(RUSAGE_SELF, &after);
    expect_bytes(r, data, size);
    assert(r->origins[0].requests < 100); /* it waited in between */
    /* Waiting is cheap: a spinning thread would have switched, or computed, far more.
     */
    assert(after.ru_utime.tv_sec - before.ru_utime.tv_sec < 2);
    done(r);
    free(data);
}

static void a_cancelled_job_ends_within_a_second(void)
{
    uint64_t size = 400 * BLOCK;
    unsigned char *data = random_bytes(size, 16);

    for (unsigned i = 0; i < 24; i++) {
        struct run *r = new_run(data, size, 2);
        unsigned char *digests = i % 2 ? cut_pieces(r, data, 2 * BLOCK) : NULL;
        r->cancel_after_us = 1 + i * i * 97;
        r->stall_ms = 30000;
        switch (i % 6) {
        case 0:
            r->origins[0].stall_at = r->origins[1].stall_at = 50 * BLOCK;
            break;
        case 1:
            r->origins[0].slow_us = r->origins[1].slow_us = 500;
            break;
        case 2:
            atomic_store(&r->origins[0].refusals, 1000); /* in back-off */
            atomic_store(&r->origins[1].refusals, 1000);
            r->cfg.retry = 1000;
            break;
        case 3:
            r->pace.rate = 100000;
            r->cfg.pace = &r->pace;
            break;
        case 4:
            r->origins[0].no_ranges = r->origins[1].no_ranges = true;
            break;
        default:
            break;
        }
        go(r);
        assert(r->rc == FDL_OK || r->rc == FDL_E_CANCELLED);
        assert(r->ended_after_ns < UINT64_C(1000000000));
        free(digests);
        done(r);
    }
    free(data);
}

static void a_small_window_starves_nobody_for_good(void)
{
    uint64_t size = 300 * BLOCK + 1;
    unsigned char *data = random_bytes(size, 17);

    for (int i = 0; i < 3; i++) {
        struct run *r = new_run(data, size, 2);
        r->cfg.window = BLOCK;
        r->cfg.max_conns = 8;
        r->origins[i % 2].slow_us = i ? 2000 : 0;
        go(r);
        expect_bytes(r, data, size);
        done(r);
    }
    free(data);
}

/* How many is for test_ramp: here they come and go. */
static void connections_that_bring_nothing_end(void)
{
    uint64_t size = 400 * BLOCK;
    unsigned char *data = random_bytes(size, 19);
    struct run *r = new_run(data, size, 1);

    r->per_mirror = r->cfg.max_conns = 16;
    r->cfg.window = 64 * BLOCK;
    r->origins[0].slow_us = 3000;
    r->origins[0].share = 4;
    go(r);
    expect_bytes(r, data, size);
    done(r);
    free(data);
}

static void refused_connections_end_and_none_takes_their_place(void)
{
    uint64_t size = 800 * BLOCK;
    unsigned char *data = random_bytes(size, 23);
    struct run *r = new_run(data, size, 1);

    r->per_mirror = r->cfg.max_conns = 16;
    r->cfg.window = 64 * BLOCK;
    r->origins[0].slow_us = 500;
    r->origins[0].most = 3;
    go(r);
    expect_bytes(r, data, size);
    assert(r->states[0] == FDL_MIRROR_READY);
    assert(r->origins[0].refused <= 10);
    done(r);
    free(data);
}

static void any_mix_of_faults_ends_well_or_says_why(void)
{
    for (unsigned seed = 1; seed <= 30; seed++) {
        srand(seed);
        uint64_t size = (uint64_t)rand() % (60 * BLOCK);
        unsigned char *data = random_bytes(size, seed), *digests = NULL;
        struct run *r = new_run(data, size, 1 + rand() % ORIGINS_MAX);
        bool bad = false;

        r->stall_ms = 100;
        r->cfg.retry = 3;
        r->cfg.max_conns = 1 + rand() % 8;
        r->cfg.window = (size_t)(1 + rand() % 40) * BLOCK;
        r->cfg.detect_zeros = rand() % 2;
        if (rand() % 2)
            digests = cut_pieces(r, data, (uint64_t)(1 + rand() % 12) * BLOCK / 4);
        for (int i = 0; i < r->n; i++) {
            struct origin *o = &r->origins[i];
            o->no_ranges = rand() % 6 == 0;
            o->cut_every = rand() % 4 ? 0 : 1 + (uint64_t)rand() % 200000;
            o->stall_at = rand() % 6 ? 0 : 1 + (uint64_t)rand() % (size + 1);
            o->short_by = rand() % 5 ? 0 : 1000 + (uint64_t)rand() % 50000;
            o->lie_at =
                digests && rand() % 4 == 0 ? 1 + (uint64_t)rand() % (size + 1) : 0;
            o->slow_us = rand() % 4 ? 0 : rand() % 400;
            atomic_store(&o->refusals, rand() % 3);
            bad |= o->cut_every || o->stall_at || o->lie_at || o->refusals;
        }
        go(r);
        if (r->rc == FDL_OK)
            expect_bytes(r, data, size);
        else
            assert(bad && (r->rc == FDL_E_NET || r->rc == FDL_E_INTEGRITY ||
                           r->rc == FDL_E_HTTP_STATUS));
        done(r);
        free(digests);
        free(data);
    }
}

int main(void)
{
    signal(SIGPIPE, SIG_IGN);
    alarm(120); /* a job that never ends is a failure, not a wait */
    CLAIM(a_stalled_mirror_does_not_hold_the_others_up);
    CLAIM(the_last_mirrors_death_is_told_with_its_cause);
    CLAIM(a_short_outage_is_survived);
    CLAIM(a_cancelled_job_ends_within_a_second);
    CLAIM(a_small_window_starves_nobody_for_good);
    CLAIM(connections_that_bring_nothing_end);
    CLAIM(refused_connections_end_and_none_takes_their_place);
    CLAIM(any_mix_of_faults_ends_well_or_says_why);
    return 0;
}
