/* SPDX-License-Identifier: Apache-2.0 */
/* base/sha256_armv8.c - two chains with the SHA2 instructions of ARMv8's cryptographic
 * extension. */
#include "base/sha256_priv.h"

#if defined(__aarch64__)
#include <arm_neon.h>
#include <sys/auxv.h>

#ifndef HWCAP_SHA2
#define HWCAP_SHA2 (1 << 6)
#endif
#define CRYPTO __attribute__((target("+crypto")))

struct chain {
    uint32x4_t abcd, efgh;
    uint32x4_t w[4]; /* the schedule's last sixteen words */
};

static bool usable(void)
{
    return (getauxval(AT_HWCAP) & HWCAP_SHA2) != 0;
}

/* Rounds 4i to 4i+3. */
CRYPTO static inline __attribute__((always_inline)) void
rounds(struct chain *c, int i, const unsigned char *block)
{
    uint32x4_t *w = c->w, abcd = c->abcd;

    if (i < 4)
        w[i] = vreinterpretq_u32_u8(vrev32q_u8(vld1q_u8(block + 16 * i)));
    else
        w[i & 3] = vsha256su1q_u32(vsha256su0q_u32(w[i & 3], w[(i + 1) & 3]),
                                   w[(i + 2) & 3], w[(i + 3) & 3]);
    uint32x4_t wk = vaddq_u32(w[i & 3], vld1q_u32(fdl_sha256_k + 4 * i));
    c->abcd = vsha256hq_u32(c->abcd, c->efgh, wk);
    c->efgh = vsha256h2q_u32(c->efgh, abcd, wk);
}

CRYPTO static void sha256_one(uint32_t state[8], const unsigned char *data, size_t n)
{
    struct chain c = {.abcd = vld1q_u32(state), .efgh = vld1q_u32(state + 4)};

    for (; n > 0; n--, data += FDL_SHA256_BLOCK) {
        uint32x4_t abcd = c.abcd, efgh = c.efgh;
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++)
            rounds(&c, i, data);
        c.abcd = vaddq_u32(c.abcd, abcd);
        c.efgh = vaddq_u32(c.efgh, efgh);
    }
    vst1q_u32(state, c.abcd);
    vst1q_u32(state + 4, c.efgh);
}

CRYPTO static void sha256_run(uint32_t *const state[],
                              const unsigned char *const data[], size_t n)
{
    const unsigned char *from_a = data[0], *from_b = data[1];
    struct chain a = {.abcd = vld1q_u32(state[0]), .efgh = vld1q_u32(state[0] + 4)};
    struct chain b = {.abcd = vld1q_u32(state[1]), .efgh = vld1q_u32(state[1] + 4)};

    for (; n > 0; n--, from_a += FDL_SHA256_BLOCK, from_b += FDL_SHA256_BLOCK) {
        uint32x4_t a_abcd = a.abcd, a_efgh = a.efgh, b_abcd = b.abcd, b_efgh = b.efgh;
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++) {
            rounds(&a, i, from_a);
            rounds(&b, i, from_b);
        }
        a.abcd = vaddq_u32(a.abcd, a_abcd);
        a.efgh = vaddq_u32(a.efgh, a_efgh);
        b.abcd = vaddq_u32(b.abcd, b_abcd);
        b.efgh = vaddq_u32(b.efgh, b_efgh);
    }
    vst1q_u32(state[0], a.abcd);
    vst1q_u32(state[0] + 4, a.efgh);
    vst1q_u32(state[1], b.abcd);
    vst1q_u32(state[1] + 4, b.efgh);
}

const struct fdl_sha256_kernel fdl_sha256_armv8 = {.name = "armv8",
                                                   .lanes = 2,
                                                   .usable = usable,
                                                   .one = sha256_one,
                                                   .run = sha256_run};
#endif
