/* SPDX-License-Identifier: Apache-2.0 */
/* base/sum_priv.h - what the two compilations of XXH3 share: the state looks the same
 * to both. */
#ifndef FDL_SUM_PRIV_H
#define FDL_SUM_PRIV_H

#include "base/sum.h"

/* Only gcc lets a single file use more than the build's baseline and tells it to the
 * preprocessor, by which xxhash.h chooses. */
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define FDL_SUM_AVX2 1
#endif

void fdl_sum_update_avx2(struct fdl_sum *sum, const void *buf, size_t len);
uint64_t fdl_sum_of_avx2(const void *buf, size_t len);

#endif
