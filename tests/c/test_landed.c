/* SPDX-License-Identifier: Apache-2.0 */
/* test_landed.c - every range comes out once, the oldest first, however it is drained.
 */
#undef NDEBUG
#include "base/landed.h"

#include <assert.h>

#define RANGES 1000

static void ranges_come_out_once_and_in_order(void)
{
    struct fdl_landed landed = {0};
    struct fdl_range out[7];
    uint64_t added = 0, drained = 0;

    while (drained < RANGES) {
        for (int i = 0; i < 13 && added < RANGES; i++, added++)
            assert(
                fdl_landed_add(&landed, &(struct fdl_range){.off = added, .len = 1}));
        size_t n = fdl_landed_drain(&landed, out, 7);
        for (size_t i = 0; i < n; i++)
            assert(out[i].off == drained++);
        assert(landed.n == added - drained);
    }
    assert(fdl_landed_drain(&landed, out, 7) == 0);
    fdl_landed_clear(&landed);
}

int main(void)
{
    ranges_come_out_once_and_in_order();
    return 0;
}
