/* SPDX-License-Identifier: Apache-2.0 */
/* sink/nbd_priv.h - what nbd.c (connections, one request) and nbd_range.c (ranges of
 * any kind) share. Nobody else includes it. */
#ifndef FDL_NBD_PRIV_H
#define FDL_NBD_PRIV_H

#include <pthread.h>
#include <stdatomic.h>

#include "sink/nbd.h"

#define FDL_NBD_ZEROS_BYTES ((size_t)1 << 20)

struct fdl_nbd_conn {
    pthread_mutex_t lock;
    struct nbd_handle *handle; /* OWNED; NULL once it is lost */
};

struct fdl_nbd {
    struct fdl_nbd_conn conns[FDL_NBD_CONNS_MAX];
    int n_conns;
    atomic_uint next;
    atomic_int limit_ms;
    atomic_bool hurried;
    uint64_t size;
    size_t min_block;
    size_t max_request;
    bool read_only;
    bool can_flush;
    atomic_bool can_zero;
    pthread_mutex_t edge_lock; /* one ragged end at a time: they may share a block */
    unsigned char *edge;       /* OWNED: min_block bytes */
    unsigned char *zeros;      /* OWNED: FDL_NBD_ZEROS_BYTES of zeros */
};

enum fdl_nbd_verb { FDL_NBD_READ, FDL_NBD_WRITE, FDL_NBD_ZERO, FDL_NBD_FLUSH };

/* One request of a size that the server takes. Returns 0 or a positive errno. */
int fdl_nbd_request(struct fdl_nbd *nbd, enum fdl_nbd_verb verb, void *in,
                    const void *out, uint64_t len, uint64_t off);

/* What fails with that errno. */
int fdl_nbd_fail(enum fdl_nbd_verb verb, int os_errno, uint64_t off,
                 struct fdl_err *err);

#endif
