/* SPDX-License-Identifier: Apache-2.0 */
/* fuzz_sha256.c - invariant: every kernel that this processor can run says what OpenSSL
 * says, of one message in any parts, of two side by side, and of many at a time.
 *
 * The input is the message; its first bytes say where it is cut. */
#undef NDEBUG
#include "base/sha256.h"
#include "replay.h"

#include <assert.h>
#include <openssl/evp.h>
#include <string.h>

static void check(const unsigned char *got, const uint8_t *data, size_t size)
{
    unsigned char want[FDL_SHA256_LEN];

    assert(EVP_Digest(data, size, want, NULL, EVP_sha256(), NULL) == 1);
    assert(memcmp(got, want, sizeof want) == 0);
}

/* A length from 0 to left: short ones and long ones are equally likely. */
static size_t cut(const uint8_t *data, size_t size, size_t *at, size_t left)
{
    size_t n = data[*at % size], scale = data[(*at + 1) % size] % 3;

    *at += 2;
    n = scale == 0 ? n % 130 : scale == 1 ? n * 16 : n * left / 255;
    return n < left ? n : left;
}

static void in_parts(const struct fdl_sha256_kernel *k, const uint8_t *data,
                     size_t size)
{
    unsigned char got[FDL_SHA256_LEN];
    struct fdl_sha256 s;
    size_t at = 0;

    fdl_sha256_init(&s, k);
    for (size_t done = 0, parts = 0; done < size; parts++) {
        size_t n = parts < 64 ? cut(data, size, &at, size - done) : size - done;
        fdl_sha256_update(&s, data + done, n);
        done += n;
    }
    fdl_sha256_final(&s, got);
    check(got, data, size);
}

/* The message from its start, and from somewhere else, in the same parts. */
static void side_by_side(const struct fdl_sha256_kernel *k, const uint8_t *data,
                         size_t size)
{
    unsigned char got[FDL_SHA256_LEN];
    struct fdl_sha256 a, b;
    size_t at = 1, from = cut(data, size, &at, size), len = size - from;
    size_t ahead = cut(data, size, &at, len);

    fdl_sha256_init(&a, k);
    fdl_sha256_init(&b, k);
    fdl_sha256_update(&b, data + from, ahead); /* it stands elsewhere in its block */
    for (size_t done = 0, parts = 0; done + ahead < len; parts++) {
        size_t left = len - ahead - done;
        size_t n = parts < 64 ? cut(data, size, &at, left) : left;
        fdl_sha256_update_two(&a, data + done, &b, data + from + ahead + done, n);
        done += n;
    }
    fdl_sha256_final(&a, got);
    check(got, data, len - ahead);
    fdl_sha256_final(&b, got);
    check(got, data + from, len);
}

static void many(const struct fdl_sha256_kernel *k, const uint8_t *data, size_t size)
{
    unsigned char got[FDL_SHA256_LANES_MAX * FDL_SHA256_LEN];
    const unsigned char *messages[FDL_SHA256_LANES_MAX];
    size_t n = 1 + data[0] % k->lanes, len = size / n;

    for (size_t i = 0; i < n; i++)
        messages[i] = data + i * len;
    fdl_sha256_many(k, messages, len, n, got);
    for (size_t i = 0; i < n; i++)
        check(got + i * FDL_SHA256_LEN, data + i * len, len);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    for (const struct fdl_sha256_kernel *const *k = fdl_sha256_kernels; *k; k++) {
        if (!(*k)->usable())
            continue;
        many(*k, data, size);
        if (!(*k)->one)
            continue;
        in_parts(*k, data, size);
        side_by_side(*k, data, size);
    }
    return 0;
}
