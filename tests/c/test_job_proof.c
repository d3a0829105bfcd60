/* SPDX-License-Identifier: Apache-2.0 */
/* test_job_proof.c - no byte counts that nothing proves: of mirrors that lie, and of
 * what an earlier run left. */
#undef NDEBUG
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

static void find_the_liar(void)
{
    uint64_t size = 64 * BLOCK + 1000;
    static const uint64_t lengths[] = {4096, BLOCK / 2, BLOCK, 2 * BLOCK, 4 * BLOCK};
    unsigned char *data = random_bytes(size, 6);

    for (size_t i = 0; i < 5; i++)
        for (int conns = 2; conns <= 8; conns += 6) {
            struct run *r = new_run(data, size, 3);
            unsigned char *digests = cut_pieces(r, data, lengths[i]);
            r->cfg.max_conns = conns;
            r->origins[1].lie_at = 30 * BLOCK + 17;
            r->origins[2].lie_at = 30 * BLOCK + 18;
            go(r);
            expect_bytes(r, data, size);
            assert(r->states[0] == FDL_MIRROR_READY);
            done(r);
            free(digests);
        }
    free(data);
}

/* With every kernel that this processor has, and with none. */
static void by_each_kernel(void (*claim)(void))
{
    for (const struct fdl_sha256_kernel *const *k = fdl_sha256_kernels; *k; k++) {
        if (!(*k)->usable())
            continue;
        assert(setenv("FASTDL_SHA256", (*k)->name, 1) == 0);
        claim();
    }
    assert(setenv("FASTDL_SHA256", "openssl", 1) == 0);
    claim();
    assert(unsetenv("FASTDL_SHA256") == 0);
}

/* Whether the thread of the file's digest checks the pieces, or who received them, one
 * by one or those of several blocks together. */
static void pieces_find_the_liar(void)
{
    by_each_kernel(find_the_liar);
}

/* Wrong pieces among right ones, in the blocks of the same pass, and the short last
 * one: only who sent them is blamed. */
static void lie_among_others(void)
{
    uint64_t size = 48 * BLOCK + 1000;
    unsigned char *data = random_bytes(size, 23);
    static const uint64_t at[] = {25 * BLOCK, 31 * BLOCK + 9, 48 * BLOCK + 999};

    for (size_t i = 0; i < 3; i++)
        for (uint64_t length = BLOCK / 4; length <= BLOCK; length *= 2) {
            struct run *r = new_run(data, size, 2);
            unsigned char *digests = cut_pieces(r, data, length);
            r->per_mirror = 1;
            r->cfg.max_conns = 2;
            r->origins[0].slow_us = 100; /* the other one gets to its lie */
            r->origins[1].lie_at = at[i];
            go(r);
            expect_bytes(r, data, size);
            assert(r->states[0] == FDL_MIRROR_READY);
            done(r);
            free(digests);
        }
    free(data);
}

static void a_lie_among_right_pieces_is_its_mirrors(void)
{
    by_each_kernel(lie_among_others);
}

/* One mirror holds the order up while the others lie and go on: what came ahead of the
 * order is checked all the same, and the file's digest takes no wrong byte in. */
static void a_lie_ahead_of_the_order_is_found(void)
{
    uint64_t size = 96 * BLOCK;
    static const uint64_t lengths[] = {BLOCK, 4 * BLOCK};
    unsigned char *data = random_bytes(size, 21);

    for (size_t i = 0; i < 2; i++) {
        struct run *r = new_run(data, size, 3);
        unsigned char *digests = cut_pieces(r, data, lengths[i]);
        r->per_mirror = 1;
        r->origins[0].slow_us = 2000;
        r->origins[1].lie_at = 60 * BLOCK + 1;
        r->origins[2].lie_at = 61 * BLOCK + 1;
        go(r);
        expect_bytes(r, data, size);
        assert(r->states[0] == FDL_MIRROR_READY);
        done(r);
        free(digests);
    }
    free(data);
}

static void stall(void)
{
    uint64_t size = 40 * BLOCK;
    unsigned char *data = random_bytes(size, 22);
    struct run *r = new_run(data, size, 1);
    unsigned char *digests = cut_pieces(r, data, BLOCK);

    r->cfg.record = true;
    r->cfg.max_conns = r->per_mirror = 1;
    r->origins[0].stall_at = 20 * BLOCK + 1;
    r->stall_ms = 60000;
    r->cancel_after_us = 500000;
    go(r);
    assert(r->rc == FDL_E_CANCELLED);
    assert(r->n_records == 20);
    done(r);
    free(digests);
    free(data);
}

/* Nobody delivers any more: what waits, for the file's digest or for other blocks to be
 * checked together, is checked and written all the same. */
static void what_came_is_written_though_the_mirror_stalls(void)
{
    by_each_kernel(stall);
}

static void cancel_among_passes(void)
{
    uint64_t size = 90 * BLOCK + 77, lie = 40 * BLOCK + 5;
    unsigned char *data = random_bytes(size, 24), got[BLOCK];

    for (unsigned i = 0; i < 12; i++) {
        struct run *r = new_run(data, size, 2);
        unsigned char *digests = cut_pieces(r, data, i % 2 ? BLOCK : BLOCK / 4);
        r->cfg.record = true;
        r->cfg.n_algs = 0;
        r->origins[0].slow_us = r->origins[1].slow_us = 20;
        r->origins[1].lie_at = lie;
        r->cancel_after_us = 1 + i * i * 150;
        go(r);
        assert(r->rc == FDL_E_CANCELLED || r->rc == FDL_OK);
        for (size_t n = 0; n < r->n_records; n++) {
            const struct fdl_range *is = &r->records[n];
            assert(pread(r->fd, got, is->len, (off_t)is->off) == (ssize_t)is->len);
            assert(memcmp(got, data + is->off, is->len) == 0);
        }
        done(r);
        free(digests);
    }
    free(data);
}

/* Cancelled while blocks wait for a pass, are in one, or are written after it. */
static void what_is_recorded_before_a_cancellation_is_right(void)
{
    by_each_kernel(cancel_among_passes);
}

/* The window ends inside a piece while its start waits for a mirror: what lies behind
 * the end shares slots with the start. */
static void a_piece_across_the_windows_end_waits_for_it(void)
{
    uint64_t size = 80 * BLOCK;
    unsigned char *data = random_bytes(size, 20);

    for (size_t window = 26; window < 30; window++) {
        struct run *r = new_run(data, size, 2);
        unsigned char *digests = cut_pieces(r, data, 4 * BLOCK);
        r->cfg.window = window * BLOCK;
        r->cfg.max_conns = 2;
        r->per_mirror = 1;
        r->origins[0].stall_at = BLOCK + 1;
        go(r);
        expect_bytes(r, data, size);
        assert(r->states[1] == FDL_MIRROR_READY);
        done(r);
        free(digests);
    }
    free(data);
}

static void a_piece_as_large_as_a_small_source_finds_the_liar_too(void)
{
    uint64_t size = 3 * BLOCK;
    unsigned char *data = random_bytes(size, 18);

    for (uint64_t length = 2 * BLOCK; length <= 4 * BLOCK; length += BLOCK) {
        struct run *r = new_run(data, size, 2);
        unsigned char *digests = cut_pieces(r, data, length);
        r->origins[0].lie_at = BLOCK + 1;
        go(r);
        expect_bytes(r, data, size);
        done(r);
        free(digests);
    }
    free(data);
}

static void a_lone_liar_ends_the_job_and_says_where(void)
{
    uint64_t size = 40 * BLOCK;
    static const uint64_t lengths[] = {BLOCK, 4 * BLOCK, 5000, 20 * BLOCK};
    unsigned char *data = random_bytes(size, 7);

    for (size_t i = 0; i < 4; i++) {
        struct run *r = new_run(data, size, 1);
        unsigned char *digests = cut_pieces(r, data, lengths[i]);
        r->origins[0].lie_at = 21 * BLOCK + 1;
        go(r);
        assert(r->rc == FDL_E_INTEGRITY);
        assert(r->err.offset == r->origins[0].lie_at / lengths[i] * lengths[i]);
        assert(i >= 2 ||
               (r->err.mirror == 0 && r->states[0] == FDL_MIRROR_DISQUALIFIED));
        done(r);
        free(digests);
    }
    free(data);
}

static void pieces_that_do_not_cover_the_source_are_refused(void)
{
    unsigned char *data = random_bytes(10 * BLOCK, 8);

    for (int i = 0; i < 3; i++) {
        struct run *r = new_run(data, 10 * BLOCK, 1);
        unsigned char *digests = cut_pieces(r, data, BLOCK);
        if (i == 0)
            r->cfg.pieces.count--;
        else if (i == 1)
            r->cfg.pieces.length = 0;
        else
            r->cfg.total = FDL_SIZE_UNKNOWN;
        go(r);
        assert(r->rc == FDL_E_SIZE);
        done(r);
        free(digests);
    }
    free(data);
}

static void mirrors_without_proof_are_not_mixed(void)
{
    uint64_t size = 60 * BLOCK;
    unsigned char *one = random_bytes(size, 12), *two = random_bytes(size, 13), *got;

    got = malloc(size);
    for (int i = 0; i < 12; i++) {
        struct run *r = new_run(one, size, 2);
        r->cfg.provable = false;
        r->origins[1].data = two;
        r->origins[0].etag = i % 2 ? "one" : NULL;
        r->origins[1].etag = i % 2 ? "two" : NULL;
        r->origins[i % 2].cut_every = i < 6 ? 0 : 100000;
        r->origins[i % 2].stall_at = i % 3 == 2 ? 20 * BLOCK : NOTHING;
        r->stall_ms = 50;
        r->cfg.retry = 1;
        go(r);
        if (r->rc == FDL_OK) {
            assert(pread(r->fd, got, size, 0) == (ssize_t)size);
            assert(memcmp(got, one, size) == 0 || memcmp(got, two, size) == 0);
        }
        done(r);
    }
    free(got);
    free(one);
    free(two);
}

static void known_bytes_are_not_fetched_again(void)
{
    uint64_t size = 50 * BLOCK + 99;
    unsigned char *data = random_bytes(size, 14);
    struct fdl_known known[] = {{0, 40000, data, 0},
                                {5 * BLOCK + 7, 3 * BLOCK, data + 5 * BLOCK + 7, 0},
                                {size - 50, 50, data + size - 50, -1}};
    struct run *r = new_run(data, size, 1);

    r->cfg.known = known;
    r->cfg.n_known = 3;
    go(r);
    expect_bytes(r, data, size);
    expect_sent(r, size - 40000 - 3 * BLOCK - 50);
    assert(r->status.fetched_bytes == size);
    done(r);
    free(data);
}

static void what_an_earlier_run_left_is_used_where_it_is_still_right(void)
{
    uint64_t size = 40 * BLOCK + 10;
    unsigned char *data = random_bytes(size, 15);
    struct run *first = new_run(data, size, 1), *second = new_run(data, size, 1);
    struct fdl_local local[64];

    first->cfg.record = true;
    go(first);
    expect_bytes(first, data, size);
    assert(first->n_records == 41);
    for (int b = 0; b < 41; b++)
        for (size_t i = 0; i < first->n_records; i++)
            if (first->records[i].off == (uint64_t)b * BLOCK)
                local[b] =
                    (struct fdl_local){first->records[i].off, first->records[i].xxh3};
    for (uint64_t b = 3; b < 6; b++) /* damaged behind the journal's back */
        assert(pwrite(first->fd, "damage", 6, (off_t)(b * BLOCK + 100)) == 6);
    second->cfg.local = local;
    second->cfg.n_local = 30;
    close(second->fd);
    second->fd = dup(first->fd);
    second->cfg.local_fd = second->fd;
    go(second);
    expect_bytes(second, data, size);
    assert(second->status.resumed_bytes == 27 * BLOCK);
    expect_sent(second, size - 27 * BLOCK);
    done(first);
    done(second);
    free(data);
}

int main(void)
{
    signal(SIGPIPE, SIG_IGN);
    alarm(120); /* a job that never ends is a failure, not a wait */
    CLAIM(pieces_find_the_liar);
    CLAIM(a_lie_ahead_of_the_order_is_found);
    CLAIM(a_lie_among_right_pieces_is_its_mirrors);
    CLAIM(what_came_is_written_though_the_mirror_stalls);
    CLAIM(what_is_recorded_before_a_cancellation_is_right);
    CLAIM(a_piece_across_the_windows_end_waits_for_it);
    CLAIM(a_piece_as_large_as_a_small_source_finds_the_liar_too);
    CLAIM(a_lone_liar_ends_the_job_and_says_where);
    CLAIM(pieces_that_do_not_cover_the_source_are_refused);
    CLAIM(mirrors_without_proof_are_not_mixed);
    CLAIM(known_bytes_are_not_fetched_again);
    CLAIM(what_an_earlier_run_left_is_used_where_it_is_still_right);
    return 0;
}
