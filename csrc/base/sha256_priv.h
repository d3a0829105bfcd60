/* SPDX-License-Identifier: Apache-2.0 */
/* base/sha256_priv.h - what the kernels share. */
#ifndef FDL_SHA256_PRIV_H
#define FDL_SHA256_PRIV_H

#include "base/sha256.h"

/* FIPS 180-4, 4.2.2. */
extern const uint32_t fdl_sha256_k[64];

#if defined(__x86_64__)
extern const struct fdl_sha256_kernel fdl_sha256_shani;
extern const struct fdl_sha256_kernel fdl_sha256_avx512;
extern const struct fdl_sha256_kernel fdl_sha256_avx2;
#elif defined(__aarch64__)
extern const struct fdl_sha256_kernel fdl_sha256_armv8;
#endif

#endif
