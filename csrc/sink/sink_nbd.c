/* SPDX-License-Identifier: Apache-2.0 */
/* sink/sink_nbd.c - an NBD export as a target: the road to whatever qemu or nbdkit
 * writes. */
#include <stdlib.h>

#include "sink/nbd.h"
#include "sink/sink_ops.h"

struct nbd_sink {
    struct fdl_sink base;
    struct fdl_nbd *nbd; /* BORROWED */
};

static struct fdl_nbd *nbd_of(struct fdl_sink *sink)
{
    return ((struct nbd_sink *)sink)->nbd; /* base is the first member */
}

static int nbd_sink_pwrite(struct fdl_sink *sink, const void *buf, size_t len,
                           uint64_t off, struct fdl_err *err)
{
    int rc = fdl_nbd_pwrite(nbd_of(sink), buf, len, off, err);

    if (rc == FDL_OK)
        atomic_fetch_add(&sink->written, len);
    return rc;
}

static int nbd_sink_zero(struct fdl_sink *sink, uint64_t off, uint64_t len,
                         struct fdl_err *err)
{
    uint64_t commanded;
    int rc = fdl_nbd_zero(nbd_of(sink), off, len, &commanded, err);

    atomic_fetch_add(&sink->zeroed, commanded);
    if (rc == FDL_OK)
        atomic_fetch_add(&sink->written, len - commanded);
    return rc;
}

static int nbd_sink_flush(struct fdl_sink *sink, struct fdl_err *err)
{
    return fdl_nbd_flush(nbd_of(sink), err);
}

static void nbd_sink_free(struct fdl_sink *sink)
{
    free(sink);
}

static const struct fdl_sink_ops nbd_ops = {
    .pwrite = nbd_sink_pwrite,
    .zero = nbd_sink_zero,
    .flush = nbd_sink_flush,
    .free = nbd_sink_free,
};

int fdl_sink_open_nbd(struct fdl_sink **out, struct fdl_nbd *nbd, uint64_t size,
                      size_t hold, struct fdl_err *err)
{
    struct nbd_sink *s = calloc(1, sizeof *s);
    int rc;

    if (!s)
        return fdl_nomem(err, "a sink");
    if (fdl_nbd_min_block(nbd) > FDL_SECTOR_BYTES)
        s->base.block = fdl_nbd_min_block(nbd);
    rc = fdl_sink_init(&s->base, &nbd_ops, size, hold, err);
    if (rc != FDL_OK) {
        free(s);
        return rc;
    }
    s->nbd = nbd;
    *out = &s->base;
    return FDL_OK;
}
