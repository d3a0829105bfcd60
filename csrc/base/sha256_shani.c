/* SPDX-License-Identifier: Apache-2.0 */
/* base/sha256_shani.c - two chains with Intel's SHA extensions: SHA256RNDS2 takes four
 * cycles and more, but another one may start meanwhile. */
#include "base/sha256_priv.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>

#define SHANI __attribute__((target("sha,sse4.1,ssse3")))

/* The registers of one chain: the instructions want the state as (A,B,E,F), (C,D,G,H).
 */
struct chain {
    __m128i abef, cdgh;
    __m128i w[4]; /* the schedule's last sixteen words */
};

static bool usable(void)
{
    unsigned a, b, c, d;

    /* gcc 12 has no name for "sha" in __builtin_cpu_supports(): leaf 7, EBX bit 29. */
    return __builtin_cpu_supports("sse4.1") &&
           __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b >> 29 & 1) != 0;
}

SHANI static inline __attribute__((always_inline)) void load(struct chain *c,
                                                             const uint32_t state[8])
{
    __m128i badc = _mm_shuffle_epi32(_mm_loadu_si128((const __m128i *)state), 0xb1);
    __m128i hgfe = _mm_shuffle_epi32(_mm_loadu_si128((const __m128i *)state + 1), 0x1b);

    c->abef = _mm_alignr_epi8(badc, hgfe, 8);
    c->cdgh = _mm_blend_epi16(hgfe, badc, 0xf0);
}

SHANI static inline __attribute__((always_inline)) void store(const struct chain *c,
                                                              uint32_t state[8])
{
    __m128i abef = _mm_shuffle_epi32(c->abef, 0x1b);
    __m128i dcgh = _mm_shuffle_epi32(c->cdgh, 0xb1);

    _mm_storeu_si128((__m128i *)state, _mm_blend_epi16(abef, dcgh, 0xf0));
    _mm_storeu_si128((__m128i *)state + 1, _mm_alignr_epi8(dcgh, abef, 8));
}

/* Rounds 4i to 4i+3. */
SHANI static inline __attribute__((always_inline)) void
rounds(struct chain *c, int i, const unsigned char *block)
{
    const __m128i big_endian =
        _mm_set_epi64x(0x0c0d0e0f08090a0bLL, 0x0405060700010203LL);
    __m128i *w = c->w;

    if (i < 4) {
        w[i] =
            _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)block + i), big_endian);
    } else {
        __m128i next = _mm_sha256msg1_epu32(w[i & 3], w[(i + 1) & 3]);
        next = _mm_add_epi32(next, _mm_alignr_epi8(w[(i + 3) & 3], w[(i + 2) & 3], 4));
        w[i & 3] = _mm_sha256msg2_epu32(next, w[(i + 3) & 3]);
    }
    __m128i k = _mm_load_si128((const __m128i *)fdl_sha256_k + i);
    __m128i wk = _mm_add_epi32(w[i & 3], k);
    c->cdgh = _mm_sha256rnds2_epu32(c->cdgh, c->abef, wk);
    c->abef = _mm_sha256rnds2_epu32(c->abef, c->cdgh, _mm_shuffle_epi32(wk, 0x0e));
}

SHANI static void sha256_one(uint32_t state[8], const unsigned char *data, size_t n)
{
    struct chain c;

    load(&c, state);
    for (; n > 0; n--, data += FDL_SHA256_BLOCK) {
        __m128i abef = c.abef, cdgh = c.cdgh;
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++)
            rounds(&c, i, data);
        c.abef = _mm_add_epi32(c.abef, abef);
        c.cdgh = _mm_add_epi32(c.cdgh, cdgh);
    }
    store(&c, state);
}

SHANI static void sha256_run(uint32_t *const state[], const unsigned char *const data[],
                             size_t n)
{
    const unsigned char *from_a = data[0], *from_b = data[1];
    struct chain a, b;

    load(&a, state[0]);
    load(&b, state[1]);
    for (; n > 0; n--, from_a += FDL_SHA256_BLOCK, from_b += FDL_SHA256_BLOCK) {
        __m128i a_abef = a.abef, a_cdgh = a.cdgh, b_abef = b.abef, b_cdgh = b.cdgh;
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++) {
            rounds(&a, i, from_a);
            rounds(&b, i, from_b);
        }
        a.abef = _mm_add_epi32(a.abef, a_abef);
        a.cdgh = _mm_add_epi32(a.cdgh, a_cdgh);
        b.abef = _mm_add_epi32(b.abef, b_abef);
        b.cdgh = _mm_add_epi32(b.cdgh, b_cdgh);
    }
    store(&a, state[0]);
    store(&b, state[1]);
}

const struct fdl_sha256_kernel fdl_sha256_shani = {.name = "sha-ni",
                                                   .lanes = 2,
                                                   .usable = usable,
                                                   .one = sha256_one,
                                                   .run = sha256_run};
#endif
