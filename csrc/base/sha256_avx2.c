/* SPDX-License-Identifier: Apache-2.0 */
/* base/sha256_avx2.c - eight chains with AVX2, for processors without SHA instructions.
 */
#if defined(__x86_64__)
#define LANES 8
#define TARGET __attribute__((target("avx2")))
#include "base/sha256_wide.h"

static bool usable(void)
{
    return __builtin_cpu_supports("avx2");
}

const struct fdl_sha256_kernel fdl_sha256_avx2 = {
    .name = "avx2", .lanes = LANES, .usable = usable, .run = sha256_run};
#else
typedef int nothing; /* a file may not be empty */
#endif
