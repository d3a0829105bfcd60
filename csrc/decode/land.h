/* SPDX-License-Identifier: Apache-2.0 */
/* decode/land.h - DECODE: source blocks in file order become writes on a sink.
 *
 * One thread pushes; a lander may use its own threads for decompression and writes.
 * A source that lands as it is needs no lander: the fetching threads write its blocks.
 */
#ifndef FDL_LAND_H
#define FDL_LAND_H

#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "sink/sink.h"

struct fdl_lander;

/* push() and finish() return more than 0 where the tables of a decoded image do not
 * come first: nothing was written, and the source must be staged
 * (FDL_REASON_NEEDS_STAGING). */
struct fdl_lander_ops {
    /* The next block in file order; blocks until there is room for it.
     *   buf  BORROWED: take a reference with fdl_buf_ref() to keep it after return. */
    int (*push)(struct fdl_lander *self, struct fdl_buf *buf, struct fdl_err *err);
    /* No more blocks: returns when everything is written (not flushed). FDL_E_FORMAT
     * where the stream ends too early. */
    int (*finish)(struct fdl_lander *self, struct fdl_err *err);
    /* Makes push() and finish() of another thread return soon with FDL_E_CANCELLED. */
    void (*abort)(struct fdl_lander *self);
    /* Bytes on the target so far, and busy nanoseconds of decoding (summed over
     * threads). */
    void (*stats)(const struct fdl_lander *self, uint64_t *target_bytes,
                  uint64_t *busy_ns);
    void (*free)(struct fdl_lander *self);
};

struct fdl_lander {
    const struct fdl_lander_ops *ops; /* first member of every lander */
};

#endif
