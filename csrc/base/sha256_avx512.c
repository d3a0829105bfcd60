/* SPDX-License-Identifier: Apache-2.0 */
/* base/sha256_avx512.c - sixteen chains with AVX512, for processors without SHA
 * instructions. */
#if defined(__x86_64__)
#define LANES 16
#define TARGET __attribute__((target("avx512f")))
#include "base/sha256_wide.h"

static bool usable(void)
{
    return __builtin_cpu_supports("avx512f");
}

const struct fdl_sha256_kernel fdl_sha256_avx512 = {
    .name = "avx512", .lanes = LANES, .usable = usable, .run = sha256_run};
#else
typedef int nothing; /* a file may not be empty */
#endif
