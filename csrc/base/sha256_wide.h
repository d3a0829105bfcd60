/* SPDX-License-Identifier: Apache-2.0 */
/* base/sha256_wide.h - FIPS 180-4, 6.2.2 with a vector for each word: element i belongs
 * to chain i. For processors without instructions for SHA-256. The file that includes
 * it says how many chains (LANES) and for which processor (TARGET). */
#include "base/sha256_priv.h"

#include <string.h>

typedef uint32_t vec __attribute__((vector_size(4 * LANES)));

#define ROTR(x, n) ((x) >> (n) | (x) << (32 - (n)))
#define BSWAP(x) ((ROTR(x, 8) & 0xff00ff00) | (ROTR(x, 24) & 0x00ff00ff))
#define CH(x, y, z) ((z) ^ ((x) & ((y) ^ (z))))
#define MAJ(x, y, z) (((x) & (y)) | ((z) & ((x) | (y))))
#define SUM0(x) (ROTR(x, 2) ^ ROTR(x, 13) ^ ROTR(x, 22))
#define SUM1(x) (ROTR(x, 6) ^ ROTR(x, 11) ^ ROTR(x, 25))
#define SIGMA0(x) (ROTR(x, 7) ^ ROTR(x, 18) ^ (x) >> 3)
#define SIGMA1(x) (ROTR(x, 17) ^ ROTR(x, 19) ^ (x) >> 10)

/* The letters turn instead of the words: no word is moved. */
#define ROUND(a, b, c, d, e, f, g, h, t)                                               \
    do {                                                                               \
        vec t1 = (h + (fdl_sha256_k[t] + w[(t)&15])) + CH(e, f, g) + SUM1(e);          \
        d += t1;                                                                       \
        h = t1 + SUM0(a) + MAJ(a, b, c);                                               \
    } while (0)

/* What element j of a pair of vectors becomes where blocks of `step` elements change
 * places across its diagonal. */
#define UPPER(j, step) ((j) & (step) ? LANES + (j) - (step) : (j))
#define LOWER(j, step) ((j) & (step) ? LANES + (j) : (j) + (step))
#define FOUR(half, j, step)                                                            \
    half(j, step), half((j) + 1, step), half((j) + 2, step), half((j) + 3, step)
#define EIGHT(half, j, step) FOUR(half, j, step), FOUR(half, (j) + 4, step)
#if LANES == 16
#define ALL(half, step) EIGHT(half, 0, step), EIGHT(half, 8, step)
#else
#define ALL(half, step) EIGHT(half, 0, step)
#endif
#ifndef __has_builtin
#define __has_builtin(name) 0
#endif
#if __has_builtin(__builtin_shufflevector)
#define PICK(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else /* GCC before 12 */
#define PICK(a, b, ...) __builtin_shuffle(a, b, (vec){__VA_ARGS__})
#endif
#define EXCHANGE(v, step)                                                              \
    _Pragma("GCC unroll 16") for (int i = 0; i < LANES; i++)                           \
    {                                                                                  \
        if (i & (step))                                                                \
            continue;                                                                  \
        vec upper = PICK((v)[i], (v)[i + (step)], ALL(UPPER, step));                   \
        (v)[i + (step)] = PICK((v)[i], (v)[i + (step)], ALL(LOWER, step));             \
        (v)[i] = upper;                                                                \
    }

/* From LANES words of each chain's block to vectors of a word of each chain: the matrix
 * is turned over. Word by word that took a sixth of all time. */
#define TURN(v)                                                                        \
    do {                                                                               \
        EXCHANGE(v, 1)                                                                 \
        EXCHANGE(v, 2)                                                                 \
        EXCHANGE(v, 4)                                                                 \
        if (LANES == 16)                                                               \
            EXCHANGE(v, (LANES / 2))                                                   \
    } while (0)

TARGET static void sha256_run(uint32_t *const state[],
                              const unsigned char *const data[], size_t n)
{
    uint32_t words[8][LANES] __attribute__((aligned(64)));
    vec s[8], w[16];

    for (int i = 0; i < 8; i++) {
        for (int lane = 0; lane < LANES; lane++)
            words[i][lane] = state[lane][i];
        memcpy(&s[i], words[i], sizeof s[i]);
    }
    for (size_t at = 0; at < n * FDL_SHA256_BLOCK; at += FDL_SHA256_BLOCK) {
        vec a = s[0], b = s[1], c = s[2], d = s[3], e = s[4], f = s[5], g = s[6],
            h = s[7];
#pragma GCC unroll 2
        for (int t = 0; t < 16; t += LANES) {
#pragma GCC unroll 16
            for (int lane = 0; lane < LANES; lane++) {
                vec big_endian;
                memcpy(&big_endian, data[lane] + at + 4 * t, sizeof big_endian);
                w[t + lane] = BSWAP(big_endian);
            }
            TURN(w + t);
        }
        for (int t = 0; t < 64; t += 16) {
            if (t > 0) {
#pragma GCC unroll 16
                for (int i = 0; i < 16; i++)
                    w[i] += SIGMA1(w[(i + 14) & 15]) + w[(i + 9) & 15] +
                            SIGMA0(w[(i + 1) & 15]);
            }
#pragma GCC unroll 2
            for (int i = t; i < t + 16; i += 8) {
                ROUND(a, b, c, d, e, f, g, h, i);
                ROUND(h, a, b, c, d, e, f, g, i + 1);
                ROUND(g, h, a, b, c, d, e, f, i + 2);
                ROUND(f, g, h, a, b, c, d, e, i + 3);
                ROUND(e, f, g, h, a, b, c, d, i + 4);
                ROUND(d, e, f, g, h, a, b, c, i + 5);
                ROUND(c, d, e, f, g, h, a, b, i + 6);
                ROUND(b, c, d, e, f, g, h, a, i + 7);
            }
        }
        s[0] += a;
        s[1] += b;
        s[2] += c;
        s[3] += d;
        s[4] += e;
        s[5] += f;
        s[6] += g;
        s[7] += h;
    }
    for (int i = 0; i < 8; i++) {
        memcpy(words[i], &s[i], sizeof s[i]);
        for (int lane = 0; lane < LANES; lane++)
            state[lane][i] = words[i][lane];
    }
}
