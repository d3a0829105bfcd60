/* SPDX-License-Identifier: Apache-2.0 */
/* job_rig.h - a transfer from HTTP servers inside this process that cut, stall and lie,
 * and what it ended with. Linked to the tests that are called test_job*. */
#ifndef JOB_RIG_H
#define JOB_RIG_H

#include "base/clock.h"
#include "job/job.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#define BLOCK ((size_t)16384)
#define CONNS_MAX 256
#define NOTHING UINT64_MAX
#define ORIGINS_MAX 4

struct origin {
    /* what it does */
    const unsigned char *data;
    uint64_t size;
    const char *etag;    /* NULL: none */
    const char *extra;   /* more header lines, or NULL */
    bool no_ranges;      /* 200 with everything */
    bool chunked;        /* 200, no Content-Length */
    size_t chunk;        /* bytes a chunk */
    bool hide_total;     /* Content-Range: bytes a-b / * */
    uint64_t cut_every;  /* closes after so many body bytes on a connection */
    uint64_t stall_at;   /* this byte of the source and what follows is never sent */
    uint64_t withheld;   /* so many bytes at the end of a response never come */
    uint64_t lie_at;     /* this byte is sent inverted */
    uint64_t short_by;   /* a 206 holds at most so many bytes, 0: what was asked for */
    atomic_int refusals; /* so many responses are 503 */
    int slow_us;         /* sleeps before each 4 KiB */
    int share;           /* so many responses at once are as fast as one, 0: any */
    int most;            /* so many are served at once, others are 429; 0: any */
    /* what it saw */
    atomic_int connections, requests, refused;
    atomic_int serving; /* at present */
    atomic_uint_fast64_t sent;
    /* its machinery */
    int listener, port;
    pthread_t thread, conns[CONNS_MAX];
    int n_conns;
    atomic_bool quit;
};

struct run {
    struct origin origins[ORIGINS_MAX];
    int n;
    struct fdl_job_config cfg; /* what a test wants to be different */
    struct fdl_pace pace;
    int per_mirror;
    long stall_ms;
    uint64_t cancel_after_us; /* 0: never */
    /* the outcome */
    int rc;
    struct fdl_err err;
    struct fdl_job_result result;
    struct fdl_job_status status;
    struct fdl_range records[4096];
    size_t n_records;
    int fd; /* the target, for the caller to look at and to close */
    enum fdl_mirror_state states[ORIGINS_MAX];
    uint64_t ended_after_ns; /* since the cancellation, or the start */
};

/* A transfer of data from n origins, to be changed before go(). OWNED, free with
 * done().
 */
struct run *new_run(const unsigned char *data, uint64_t size, int n);
/* Runs it to its end. */
void go(struct run *r);
void done(struct run *r);

/* Every byte was sent once, but for what was fetched twice on purpose. */
void expect_sent(const struct run *r, uint64_t bytes);
/* It ended well, and the target and its digest are those of data. */
void expect_bytes(struct run *r, const unsigned char *data, uint64_t size);

void sha256(const unsigned char *data, size_t len, unsigned char *out);
/* OWNED */
unsigned char *random_bytes(uint64_t size, unsigned seed);

/* pieces of `length` over data; the digests are the caller's to free */
unsigned char *cut_pieces(struct run *r, const unsigned char *data, uint64_t length);

#define CLAIM(name)                                                                    \
    do {                                                                               \
        uint64_t t = fdl_now_ns();                                                     \
        name();                                                                        \
        if (getenv("VERBOSE"))                                                         \
            fprintf(stderr, "%6.2f s  %s\n", (double)(fdl_now_ns() - t) / 1e9, #name); \
    } while (0)

#endif
