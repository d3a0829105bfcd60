/* SPDX-License-Identifier: Apache-2.0 */
#include "base/landed.h"

#include <stdlib.h>
#include <string.h>

#define FIRST_CAP 256

bool fdl_landed_add(struct fdl_landed *landed, const struct fdl_range *range)
{
    if (landed->n == landed->cap) {
        size_t cap = landed->cap ? landed->cap * 2 : FIRST_CAP;
        struct fdl_range *grown = realloc(landed->ranges, cap * sizeof *grown);
        if (!grown)
            return false;
        landed->ranges = grown;
        landed->cap = cap;
    }
    landed->ranges[landed->n++] = *range;
    return true;
}

size_t fdl_landed_drain(struct fdl_landed *landed, struct fdl_range *out, size_t cap)
{
    size_t n = landed->n < cap ? landed->n : cap;

    if (n == 0)
        return 0;
    memcpy(out, landed->ranges, n * sizeof *out);
    landed->n -= n;
    memmove(landed->ranges, landed->ranges + n, landed->n * sizeof *out);
    return n;
}

void fdl_landed_clear(struct fdl_landed *landed)
{
    free(landed->ranges);
    *landed = (struct fdl_landed){0};
}
