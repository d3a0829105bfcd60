/* SPDX-License-Identifier: Apache-2.0 */
/* source/mirror.h - one source of the bytes, and what was learned about it.
 *
 * The first part never changes after fdl_mirror_new(). The second is shared by the
 * streams of all threads under `lock`; what is atomic there is also read without it, by
 * the job. The third belongs to the job, under its lock. */
#ifndef FDL_MIRROR_H
#define FDL_MIRROR_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/addr.h"
#include "base/err.h"
#include "http/http.h"

#define FDL_MIRRORS_MAX 64

enum fdl_mirror_kind { FDL_MIRROR_HTTP, FDL_MIRROR_FILE, FDL_MIRROR_NFS };

enum fdl_ranges { FDL_RANGES_UNKNOWN, FDL_RANGES_YES, FDL_RANGES_NO };

enum fdl_mirror_state {
    FDL_MIRROR_READY,
    FDL_MIRROR_DISQUALIFIED, /* it lied or failed for good: not used again in this job
                              */
    FDL_MIRROR_IDLE, /* not allowed to join: nothing proves that its bytes are the same
                      */
};

#define FDL_RUN_FIRST (UINT64_C(2) << 20)

struct fdl_mirror {
    /* fixed */
    char *url; /* OWNED, without userinfo */
    char
        *headers; /* OWNED or NULL: header lines for the origin of `url` and no other */
    enum fdl_mirror_kind kind;
    int fd; /* FILE: OWNED */
    int priority;
    int max_conns;
    enum fdl_addr_via via;
    enum fdl_addr_class from;
    uint64_t expected;  /* size reported by another mirror, UINT64_MAX: unknown */
    uint64_t expires_s; /* a signed link's end in seconds since 1970; 0: none known */
    bool provable;      /* a digest or pieces decide whether its bytes are right */
    bool any_version;   /* then its validators, which contradicted each other, do not */

    /* learned, under lock */
    pthread_mutex_t lock;
    char *final_url; /* OWNED or NULL: where redirects led */
    enum fdl_addr_via final_via;
    enum fdl_addr_class final_from;
    char *location; /* OWNED or NULL: of fdl_location_url(), where the validators are
                       from */
    atomic_bool pinned; /* validators and size below are from its first response */
    char etag[FDL_HTTP_ETAG_MAX + 1];      /* strong one, or "" */
    char weak_etag[FDL_HTTP_ETAG_MAX + 1]; /* weak one, or "" */
    char last_modified[64];                /* strong one, or "" */
    atomic_uint_fast64_t total;            /* UINT64_MAX: unknown */
    enum fdl_http_coding coding;           /* of its first response */
    atomic_int ranges;                     /* enum fdl_ranges */
    bool asked_without;   /* it refused a range; the whole file was requested instead */
    bool no_if_range;     /* it responds 200 to If-Range although nothing changed */
    bool keep_alive_seen; /* a second request on one connection got a response */
    bool no_pipeline;
    atomic_uint_fast64_t rtt_ns; /* least time from request to first byte; 0: unknown */

    /* statistics */
    atomic_uint_fast64_t bytes;
    atomic_uint_fast64_t requests;
    atomic_uint_fast64_t errors;

    /* the job's, under its lock */
    enum fdl_mirror_state state;
    struct fdl_err last_err;
    bool vetted;            /* in this job: it has the same source as far as known */
    int active;             /* threads using it */
    int cap;                /* learned limit of connections, <= max_conns */
    int failures;           /* in a row, without progress */
    uint64_t failing_ns;    /* when the first of them was */
    int lost_hedges;        /* in a row */
    uint64_t not_before_ns; /* not used before */
    int refusals;           /* connections that it refused while it served others */
    uint64_t more_after_ns; /* no connections beyond the served ones before */
    double rate;            /* bytes/s of one connection, smoothed; 0: unknown */
    uint64_t run_max;       /* bytes of a response (fdl_sched_responded()) */
    int throttled;          /* responses that slowed down once they had begun */
    int run_kept;           /* responses since that kept to the limit */
};

/* url and headers are copied. Returns OWNED, or NULL without memory. */
struct fdl_mirror *fdl_mirror_new(enum fdl_mirror_kind kind, const char *url,
                                  const char *headers);
void fdl_mirror_free(struct fdl_mirror *mirror);

/* Whether parts from two of its responses may be joined: under a strong validator
 * (RFC 9110, 15.3.7.3), or where a digest will tell. If not, all bytes have to come in
 * one response. Takes the mirror's lock; nothing speaks against a mirror that has not
 * responded yet. */
bool fdl_mirror_can_join(struct fdl_mirror *mirror);

#endif
