/* SPDX-License-Identifier: Apache-2.0 */
#include "base/sha256_priv.h"

#include <string.h>

const uint32_t fdl_sha256_k[64] __attribute__((aligned(64))) = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4,
    0xab1c5ed5, 0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe,
    0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f,
    0x4a7484aa, 0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7,
    0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967, 0x27b70a85, 0x2e1b2138, 0x4d2c6dfc,
    0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85, 0xa2bfe8a1, 0xa81a664b,
    0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116,
    0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7,
    0xc67178f2,
};

const struct fdl_sha256_kernel *const fdl_sha256_kernels[] = {
#if defined(__x86_64__)
    &fdl_sha256_shani,
    &fdl_sha256_avx512,
    &fdl_sha256_avx2,
#elif defined(__aarch64__)
    &fdl_sha256_armv8,
#endif
    NULL,
};

/* FIPS 180-4, 5.3.3. */
static const uint32_t initial[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                    0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};

static void digest_of(const uint32_t state[8], unsigned char *out)
{
    for (int i = 0; i < 8; i++) {
        uint32_t be = __builtin_bswap32(state[i]);
        memcpy(out + 4 * i, &be, sizeof be);
    }
}

/* FIPS 180-4, 5.1.1: the last one or two blocks of a message of len bytes, whose last
 * len % 64 are `rest`. Returns how many. */
static size_t padded(unsigned char out[2 * FDL_SHA256_BLOCK], const unsigned char *rest,
                     uint64_t len)
{
    size_t n = len % FDL_SHA256_BLOCK, blocks = n < FDL_SHA256_BLOCK - 8 ? 1 : 2;
    uint64_t bits = __builtin_bswap64(len * 8);

    memset(out, 0, 2 * FDL_SHA256_BLOCK);
    memcpy(out, rest, n);
    out[n] = 0x80;
    memcpy(out + blocks * FDL_SHA256_BLOCK - sizeof bits, &bits, sizeof bits);
    return blocks;
}

void fdl_sha256_init(struct fdl_sha256 *s, const struct fdl_sha256_kernel *kernel)
{
    s->kernel = kernel;
    s->len = 0;
    memcpy(s->state, initial, sizeof initial);
}

/* Takes up to n bytes to complete the block that has been begun. Returns how many. */
static size_t complete(struct fdl_sha256 *s, const unsigned char *data, size_t n)
{
    size_t have = s->len % FDL_SHA256_BLOCK, want = FDL_SHA256_BLOCK - have;

    if (have == 0)
        return 0;
    if (n > want)
        n = want;
    memcpy(s->part + have, data, n);
    s->len += n;
    if (n == want)
        s->kernel->one(s->state, s->part, 1);
    return n;
}

void fdl_sha256_update(struct fdl_sha256 *s, const unsigned char *data, size_t len)
{
    if (len == 0)
        return;
    size_t at = complete(s, data, len), blocks = (len - at) / FDL_SHA256_BLOCK;

    if (blocks > 0)
        s->kernel->one(s->state, data + at, blocks);
    at += blocks * FDL_SHA256_BLOCK;
    s->len += blocks * FDL_SHA256_BLOCK + (len - at);
    memcpy(s->part, data + at, s->len % FDL_SHA256_BLOCK ? len - at : 0);
}

void fdl_sha256_update_two(struct fdl_sha256 *a, const unsigned char *data_a,
                           struct fdl_sha256 *b, const unsigned char *data_b,
                           size_t len)
{
    size_t at_a = 0, at_b = 0;

    if (len > 0) {
        at_a = complete(a, data_a, len);
        at_b = complete(b, data_b, len);
    }
    size_t most = at_a > at_b ? at_a : at_b;
    size_t blocks = (len - most) / FDL_SHA256_BLOCK, n = blocks * FDL_SHA256_BLOCK;
    if (a->kernel->lanes == 2 && blocks > 0) {
        uint32_t *const states[2] = {a->state, b->state};
        const unsigned char *const from[2] = {data_a + at_a, data_b + at_b};
        a->kernel->run(states, from, blocks);
        a->len += n;
        b->len += n;
        at_a += n;
        at_b += n;
    }
    fdl_sha256_update(a, data_a + at_a, len - at_a);
    fdl_sha256_update(b, data_b + at_b, len - at_b);
}

void fdl_sha256_final(struct fdl_sha256 *s, unsigned char *out)
{
    unsigned char end[2 * FDL_SHA256_BLOCK];

    s->kernel->one(s->state, end, padded(end, s->part, s->len));
    digest_of(s->state, out);
    fdl_sha256_init(s, s->kernel);
}

void fdl_sha256_many(const struct fdl_sha256_kernel *kernel,
                     const unsigned char *const data[], size_t len, size_t n,
                     unsigned char *out)
{
    unsigned char end[FDL_SHA256_LANES_MAX][2 * FDL_SHA256_BLOCK];
    uint32_t state[FDL_SHA256_LANES_MAX][8];
    uint32_t *states[FDL_SHA256_LANES_MAX];
    const unsigned char *from[FDL_SHA256_LANES_MAX];
    size_t blocks = len / FDL_SHA256_BLOCK, more = 0;

    /* A lane without a message repeats the first one. */
    for (size_t i = 0; i < kernel->lanes; i++) {
        memcpy(state[i], initial, sizeof initial);
        states[i] = state[i];
        from[i] = data[i < n ? i : 0];
    }
    kernel->run(states, from, blocks);
    for (size_t i = 0; i < kernel->lanes; i++) {
        more = padded(end[i], from[i] + blocks * FDL_SHA256_BLOCK, len);
        from[i] = end[i];
    }
    kernel->run(states, from, more);
    for (size_t i = 0; i < n; i++)
        digest_of(state[i], out + i * FDL_SHA256_LEN);
}
