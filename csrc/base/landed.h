/* SPDX-License-Identifier: Apache-2.0 */
/* base/landed.h - what has landed on a target, with its XXH3: a list of ranges for a
 * journal or a read-back. Not locked. */
#ifndef FDL_LANDED_H
#define FDL_LANDED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct fdl_range {
    uint64_t off, len;
    uint64_t xxh3; /* of the bytes; of nothing where `zero` */
    bool zero;     /* a zeroing command covered it */
};

/* Zeroed memory is an empty list. */
struct fdl_landed {
    struct fdl_range *ranges; /* OWNED, grown on demand, the oldest first */
    size_t n, cap;
};

/* False without memory: then this range is not listed. */
bool fdl_landed_add(struct fdl_landed *landed, const struct fdl_range *range);

/* Moves up to cap ranges, the oldest first, to out. Returns their number. */
size_t fdl_landed_drain(struct fdl_landed *landed, struct fdl_range *out, size_t cap);

/* Empties the list and frees its memory. */
void fdl_landed_clear(struct fdl_landed *landed);

#endif
