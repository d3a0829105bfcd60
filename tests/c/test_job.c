/* SPDX-License-Identifier: Apache-2.0 */
/* test_job.c - from every kind of server a transfer brings the right bytes, once. */
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

static const uint64_t edges[] = {
    0, 1, 4095, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 7 * BLOCK + 5, 100 * BLOCK + 1};
#define EDGES (sizeof edges / sizeof *edges)

static void every_size_arrives_from_every_kind_of_server(void)
{
    for (size_t e = 0; e < EDGES; e++)
        for (int kind = 0; kind < 4; kind++) {
            unsigned char *data = random_bytes(edges[e], 1);
            struct run *r = new_run(data, edges[e], 1);
            r->origins[0].no_ranges = kind == 1;
            r->origins[0].chunked = kind == 2;
            r->origins[0].hide_total = kind == 3;
            if (kind >= 2)
                r->cfg.total = FDL_SIZE_UNKNOWN;
            go(r);
            expect_bytes(r, data, edges[e]);
            if (kind != 3)
                expect_sent(r, edges[e]);
            done(r);
            free(data);
        }
}

static void one_connection_is_kept_for_all_requests(void)
{
    unsigned char *data = random_bytes(200 * BLOCK, 2);
    struct run *r = new_run(data, 200 * BLOCK, 1);

    r->cfg.max_conns = 1;
    go(r);
    expect_bytes(r, data, 200 * BLOCK);
    assert(r->origins[0].connections == 1);
    expect_sent(r, 200 * BLOCK);
    done(r);
    free(data);
}

/* Content-Digest is about one response. Blanks where the digest should be decode to
 * fewer bytes than it has: that is no digest, and not one of whatever lay in memory. */
static void a_content_digest_counts_where_it_is_one(void)
{
    static const struct {
        const char *field;
        int rc;
    } cases[] = {
        {"Content-Digest: "
         "sha-256=:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=:\r\n",
         FDL_E_INTEGRITY},
        {"Content-Digest: "
         "sha-256=:                                AAAAAAAAAAA=:\r\n",
         FDL_OK},
        {"Content-Digest: sha-256=:AAAA:\r\n", FDL_OK},
    };
    unsigned char *data = random_bytes(BLOCK, 5);

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct run *r = new_run(data, BLOCK, 1);
        r->origins[0].extra = cases[i].field;
        r->cfg.retry = 0;
        go(r);
        assert(r->rc == cases[i].rc);
        done(r);
    }
    free(data);
}

static void any_chunk_length_is_read(void)
{
    static const size_t lengths[] = {1, 7, 999, 4095, 4096};

    for (size_t i = 0; i < 5; i++) {
        uint64_t size = i == 0 ? 3000 : 5 * BLOCK + 77;
        unsigned char *data = random_bytes(size, 3);
        struct run *r = new_run(data, size, 1);
        r->origins[0].chunked = true;
        r->origins[0].chunk = lengths[i];
        r->cfg.total = FDL_SIZE_UNKNOWN;
        go(r);
        expect_bytes(r, data, size);
        done(r);
        free(data);
    }
}

static void a_source_that_goes_on_is_not_cut_to_size(void)
{
    unsigned char *data = random_bytes(5 * BLOCK, 19);

    for (uint64_t size = 5 * BLOCK - 1; size <= 5 * BLOCK; size++)
        for (int chunked = 0; chunked < 2; chunked++) {
            struct run *r = new_run(data, 5 * BLOCK, 1);
            r->cfg.total = size;
            r->origins[0].chunked = chunked;
            go(r);
            assert(r->rc == (size < 5 * BLOCK ? FDL_E_SIZE : FDL_OK));
            done(r);
        }
    free(data);
}

static void two_servers_of_unknown_size_agree_on_the_end(void)
{
    for (int i = 0; i < 8; i++) {
        uint64_t size = 40 * BLOCK + (uint64_t)(i % 2);
        unsigned char *data = random_bytes(size, 4);
        struct run *r = new_run(data, size, 2);
        r->origins[0].chunked = r->origins[1].chunked = true;
        r->origins[i % 2].slow_us = 300;
        r->cfg.total = FDL_SIZE_UNKNOWN;
        go(r);
        expect_bytes(r, data, size);
        done(r);
        free(data);
    }
}

static void cut_connections_and_short_ranges_are_taken_up_again(void)
{
    uint64_t size = 90 * BLOCK + 3;
    unsigned char *data = random_bytes(size, 5);

    for (int i = 0; i < 4; i++) {
        struct run *r = new_run(data, size, i % 2 ? 3 : 1);
        for (int k = 0; k < r->n; k++) {
            if (i < 2)
                r->origins[k].cut_every = 70000 + 9999 * (uint64_t)k;
            else
                r->origins[k].short_by = 5000 + 1000 * (uint64_t)k;
        }
        go(r);
        expect_bytes(r, data, size);
        done(r);
    }
    free(data);
}

int main(void)
{
    signal(SIGPIPE, SIG_IGN);
    alarm(120); /* a job that never ends is a failure, not a wait */
    CLAIM(every_size_arrives_from_every_kind_of_server);
    CLAIM(one_connection_is_kept_for_all_requests);
    CLAIM(a_content_digest_counts_where_it_is_one);
    CLAIM(any_chunk_length_is_read);
    CLAIM(a_source_that_goes_on_is_not_cut_to_size);
    CLAIM(two_servers_of_unknown_size_agree_on_the_end);
    CLAIM(cut_connections_and_short_ranges_are_taken_up_again);
    return 0;
}
