/* SPDX-License-Identifier: Apache-2.0 */
#include "base/sum_priv.h"

#include <stdbool.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#ifdef FDL_SUM_AVX2
static bool wide(void)
{
    return __builtin_cpu_supports("avx2");
}
#endif

static XXH3_state_t *state_of(struct fdl_sum *sum)
{
    return (XXH3_state_t *)sum;
}

uint64_t fdl_sum_of(const void *buf, size_t len)
{
#ifdef FDL_SUM_AVX2
    if (wide())
        return fdl_sum_of_avx2(buf, len);
#endif
    return XXH3_64bits(buf, len);
}

struct fdl_sum *fdl_sum_new(void)
{
    XXH3_state_t *state = XXH3_createState();

    if (state)
        XXH3_64bits_reset(state);
    return (struct fdl_sum *)state;
}

void fdl_sum_reset(struct fdl_sum *sum)
{
    XXH3_64bits_reset(state_of(sum));
}

void fdl_sum_update(struct fdl_sum *sum, const void *buf, size_t len)
{
#ifdef FDL_SUM_AVX2
    if (wide()) {
        fdl_sum_update_avx2(sum, buf, len);
        return;
    }
#endif
    XXH3_64bits_update(state_of(sum), buf, len);
}

uint64_t fdl_sum_value(const struct fdl_sum *sum)
{
    return XXH3_64bits_digest((const XXH3_state_t *)sum);
}

void fdl_sum_free(struct fdl_sum *sum)
{
    XXH3_freeState(state_of(sum));
}
