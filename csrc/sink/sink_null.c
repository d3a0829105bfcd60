/* SPDX-License-Identifier: Apache-2.0 */
/* sink/sink_null.c - the target `null:`: counts what it is given and keeps nothing. */
#include "sink/sink_ops.h"

#include <stdlib.h>

static int null_pwrite(struct fdl_sink *sink, const void *buf, size_t len, uint64_t off,
                       struct fdl_err *err)
{
    (void)buf;
    (void)off;
    (void)err;
    atomic_fetch_add(&sink->written, len);
    return FDL_OK;
}

static int null_zero(struct fdl_sink *sink, uint64_t off, uint64_t len,
                     struct fdl_err *err)
{
    (void)off;
    (void)err;
    atomic_fetch_add(&sink->zeroed, len);
    return FDL_OK;
}

static int null_flush(struct fdl_sink *sink, struct fdl_err *err)
{
    (void)sink;
    (void)err;
    return FDL_OK;
}

static void null_free(struct fdl_sink *sink)
{
    free(sink);
}

static const struct fdl_sink_ops null_ops = {
    .pwrite = null_pwrite,
    .zero = null_zero,
    .flush = null_flush,
    .free = null_free,
};

int fdl_sink_open_null(struct fdl_sink **out, struct fdl_err *err)
{
    struct fdl_sink *sink = calloc(1, sizeof *sink);
    int rc;

    if (!sink)
        return fdl_nomem(err, "a sink");
    rc = fdl_sink_init(sink, &null_ops, FDL_SIZE_UNKNOWN, 0, err);
    if (rc) {
        free(sink);
        return rc;
    }
    *out = sink;
    return FDL_OK;
}
