/* SPDX-License-Identifier: Apache-2.0 */
/* job/config.h - what a transfer is given, and what it gives back. */
#ifndef FDL_CONFIG_H
#define FDL_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/hash.h"
#include "decode/land.h"
#include "job/pace.h"
#include "job/pieces.h"
#include "net/net.h"
#include "sink/sink.h"
#include "source/mirror.h"
#include "source/stream.h"

#define FDL_CONNS_MAX 64
#define FDL_BLOCK_DEFAULT ((size_t)1 << 20)

/* Bytes of the source that the caller has already. */
struct fdl_known {
    uint64_t off;
    size_t len;
    const unsigned char *data;
    int mirror; /* index of the one that gave them, -1: unknown */
};

/* A block that the target holds from an earlier run: trusted only if its XXH3 agrees.
 */
struct fdl_local {
    uint64_t off;
    uint64_t xxh3;
};

/* Everything is BORROWED until fdl_job_free(), but `first`. */
struct fdl_job_config {
    struct fdl_net *net;
    struct fdl_mirror **mirrors;
    size_t n_mirrors;
    struct fdl_sink *sink;
    struct fdl_lander *lander; /* NULL: blocks land at their own offsets */
    bool keeps;                /* with a lander: blocks are to be kept besides, once
                                  fdl_job_keep() has said where */
    uint64_t total;            /* bytes of the source, FDL_SIZE_UNKNOWN */
    size_t block;              /* multiple of FDL_BUF_ALIGN; fdl_job_block_for() */
    size_t window;             /* bytes of all blocks together */
    int max_conns;
    int first_conns;       /* to one mirror, before more have shown to pay */
    struct fdl_pace *pace; /* NULL: no limit */
    int retry;             /* failures in a row after which a mirror is given up */
    uint64_t retry_ns;     /* or this long after the first of them; 0: no limit */
    uint64_t delay_ns;     /* between two of them; 0: ever longer */
    bool provable;     /* a digest or pieces prove the bytes: mirrors may be mixed */
    bool record;       /* list blocks that were written, for fdl_job_drain() */
    bool log_requests; /* keep notes of the requests for fdl_job_requests() */
    bool detect_zeros; /* blocks of zeros become fdl_sink_zero() */
    size_t hold;       /* what the recorded sink holds back: not recorded */
    enum fdl_hash_alg algs[FDL_HASH_COUNT];
    size_t n_algs;
    struct fdl_piece_digests pieces;
    uint64_t list_pieces; /* bytes of a piece: list their SHA-256 beside the whole's,
                             which is among algs; not where pieces are given. 0: no */
    const struct fdl_known *known; /* ascending, disjoint */
    size_t n_known;
    const struct fdl_local *local; /* ascending, block-aligned */
    size_t n_local;
    int local_fd;         /* where they are read from */
    const uint64_t *skip; /* blocks that are not needed, ascending */
    size_t n_skip;
    struct fdl_stream *first; /* STOLEN, NULL: an open response to continue with */
};

struct fdl_job_result {
    uint64_t total;
    size_t n_digests;
    enum fdl_hash_alg algs[FDL_HASH_COUNT];
    unsigned char digests[FDL_HASH_COUNT][FDL_HASH_MAX];
};

#endif
