/* SPDX-License-Identifier: Apache-2.0 */
/* test_sha256.c - every kernel that this processor can run says what FIPS 180-4 says,
 * however a message is cut and whatever runs beside it. The standard is written out
 * once more here, as plainly as it stands there: no OpenSSL, so that the test runs
 * under an emulator too. Exit code 77: no kernel is usable. */
#undef NDEBUG
#include "base/sha256.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MOST 1100u
#define ROOM (FDL_SHA256_LANES_MAX * MOST)

static unsigned char noise[ROOM + 64];
static uint64_t seed = 88172645463325252ULL;

static unsigned dice(unsigned sides)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return (unsigned)(seed % sides);
}

/* ---- the standard, word by word ---------------------------------------------- */

static uint32_t fraction_of_root(unsigned prime, int cubic)
{
    /* floor(root * 2^32): the largest r with r^2 or r^3 <= prime * 2^(32 * degree) */
    unsigned __int128 r = 0;
    for (int bit = 35; bit >= 0; bit--) {
        unsigned __int128 t = r | (unsigned __int128)1 << bit;
        unsigned __int128 power = cubic ? t * t * t : t * t;
        if (power <= (unsigned __int128)prime << (cubic ? 96 : 64))
            r = t;
    }
    return (uint32_t)r;
}

static uint32_t rotr(uint32_t x, int n)
{
    return x >> n | x << (32 - n);
}

static uint32_t constants[64], start[8];

static void make_constants(void)
{
    unsigned n = 0;

    for (unsigned p = 2; n < 64; p++) {
        unsigned d = 2;
        while (d * d <= p && p % d != 0)
            d++;
        if (d * d <= p)
            continue;
        if (n < 8)
            start[n] = fraction_of_root(p, 0);
        constants[n++] = fraction_of_root(p, 1);
    }
}

static void standard_block(uint32_t h[8], const unsigned char *m)
{
    uint32_t w[64], v[8];

    for (int t = 0; t < 16; t++)
        w[t] = (uint32_t)m[4 * t] << 24 | (uint32_t)m[4 * t + 1] << 16 |
               (uint32_t)m[4 * t + 2] << 8 | m[4 * t + 3];
    for (int t = 16; t < 64; t++)
        w[t] = (rotr(w[t - 2], 17) ^ rotr(w[t - 2], 19) ^ w[t - 2] >> 10) + w[t - 7] +
               (rotr(w[t - 15], 7) ^ rotr(w[t - 15], 18) ^ w[t - 15] >> 3) + w[t - 16];
    memcpy(v, h, sizeof v);
    for (int t = 0; t < 64; t++) {
        uint32_t t1 = v[7] + (rotr(v[4], 6) ^ rotr(v[4], 11) ^ rotr(v[4], 25)) +
                      ((v[4] & v[5]) ^ (~v[4] & v[6])) + constants[t] + w[t];
        uint32_t t2 = (rotr(v[0], 2) ^ rotr(v[0], 13) ^ rotr(v[0], 22)) +
                      ((v[0] & v[1]) ^ (v[0] & v[2]) ^ (v[1] & v[2]));
        memmove(v + 1, v, 7 * sizeof *v);
        v[4] += t1;
        v[0] = t1 + t2;
    }
    for (int i = 0; i < 8; i++)
        h[i] += v[i];
}

static void standard(const unsigned char *data, size_t len, unsigned char *out)
{
    unsigned char end[128] = {0};
    uint32_t h[8];
    size_t whole = len / 64 * 64, rest = len - whole, last = rest < 56 ? 64 : 128;

    memcpy(h, start, sizeof h);
    for (size_t at = 0; at < whole; at += 64)
        standard_block(h, data + at);
    memcpy(end, data + whole, rest);
    end[rest] = 0x80;
    for (size_t i = 0; i < 8; i++)
        end[last - 1 - i] = (unsigned char)((uint64_t)len * 8 >> 8 * i);
    for (size_t at = 0; at < last; at += 64)
        standard_block(h, end + at);
    for (int i = 0; i < 32; i++)
        out[i] = (unsigned char)(h[i / 4] >> (24 - 8 * (i % 4)));
}

/* ---- what a kernel must do ----------------------------------------------------- */

static void hex_is(const unsigned char *got, const char *want)
{
    char hex[65] = "";

    for (size_t i = 0; i < 32; i++)
        snprintf(hex + 2 * i, 3, "%02x", got[i]);
    assert(strcmp(hex, want) == 0);
}

static void standard_is_the_standard(void)
{
    unsigned char got[32];

    make_constants();
    standard((const unsigned char *)"abc", 3, got);
    hex_is(got, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    standard((const unsigned char *)"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmno"
                                    "mnopnopq",
             56, got);
    hex_is(got, "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
    standard((const unsigned char *)"", 0, got);
    hex_is(got, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
}

/* Each message has memory that ends where it ends: reading on is an error. */
static void many_of_one_length(const struct fdl_sha256_kernel *k, size_t len)
{
    unsigned char got[FDL_SHA256_LANES_MAX * 32], want[32];
    const unsigned char *messages[FDL_SHA256_LANES_MAX];

    for (size_t n = 1; n <= k->lanes; n += 1 + dice(k->lanes)) {
        unsigned char *data = malloc(len * n + 1);
        assert(data);
        memcpy(data, noise + dice(64), len * n);
        for (size_t i = 0; i < n; i++)
            messages[i] = data + i * len;
        fdl_sha256_many(k, messages, len, n, got);
        for (size_t i = 0; i < n; i++) {
            standard(data + i * len, len, want);
            assert(memcmp(got + 32 * i, want, 32) == 0);
        }
        free(data);
    }
}

/* Two messages of which either has some bytes before and behind the shared part. */
static void two_side_by_side(const struct fdl_sha256_kernel *k, size_t len)
{
    size_t before[2], after[2];
    struct fdl_sha256 s[2];
    unsigned char got[32], want[32];
    const unsigned char *from[2];

    for (int i = 0; i < 2; i++) {
        before[i] = dice(2) ? dice(130) : 64 * dice(2);
        after[i] = dice(130);
        from[i] = noise + dice(ROOM / 2);
        fdl_sha256_init(&s[i], k);
        fdl_sha256_update(&s[i], from[i], before[i]);
    }
    size_t cut = len ? dice((unsigned)len) : 0;
    fdl_sha256_update_two(&s[0], from[0] + before[0], &s[1], from[1] + before[1], cut);
    fdl_sha256_update_two(&s[0], from[0] + before[0] + cut, &s[1],
                          from[1] + before[1] + cut, len - cut);
    for (int i = 0; i < 2; i++) {
        fdl_sha256_update(&s[i], from[i] + before[i] + len, after[i]);
        fdl_sha256_final(&s[i], got);
        standard(from[i], before[i] + len + after[i], want);
        assert(memcmp(got, want, 32) == 0);
        fdl_sha256_final(&s[i], got); /* it has started anew */
        hex_is(got, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    }
}

static void one_in_parts(const struct fdl_sha256_kernel *k, size_t len)
{
    struct fdl_sha256 s;
    unsigned char got[32], want[32];
    const unsigned char *from = noise + dice(64);

    fdl_sha256_init(&s, k);
    for (size_t at = 0; at < len;) {
        size_t n = 1 + dice((unsigned)(len - at));
        fdl_sha256_update(&s, from + at, n);
        at += n;
    }
    fdl_sha256_final(&s, got);
    standard(from, len, want);
    assert(memcmp(got, want, 32) == 0);
}

static void a_million_letters_come_out(const struct fdl_sha256_kernel *k)
{
    static unsigned char letters[FDL_SHA256_LANES_MAX * 1000000];
    const unsigned char *messages[FDL_SHA256_LANES_MAX];
    unsigned char got[FDL_SHA256_LANES_MAX * 32];

    memset(letters, 'a', sizeof letters);
    for (size_t i = 0; i < k->lanes; i++)
        messages[i] = letters + i * 1000000;
    fdl_sha256_many(k, messages, 1000000, k->lanes, got);
    for (size_t i = 0; i < k->lanes; i++)
        hex_is(got + 32 * i,
               "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

static void holds(const struct fdl_sha256_kernel *k)
{
    time_t until = time(NULL) + 3;

    assert(k->lanes >= 1 && k->lanes <= FDL_SHA256_LANES_MAX);
    assert(!k->one || k->lanes == 2);
    for (size_t len = 0; len <= 260; len++) {
        many_of_one_length(k, len);
        if (k->one) {
            one_in_parts(k, len);
            two_side_by_side(k, len);
        }
    }
    for (int i = 0; i < 100000 && time(NULL) < until; i++) {
        size_t len = dice(MOST);
        many_of_one_length(k, len);
        if (k->one) {
            one_in_parts(k, len);
            two_side_by_side(k, len);
        }
    }
    a_million_letters_come_out(k);
}

int main(void)
{
    int usable = 0;

    standard_is_the_standard();
    for (size_t i = 0; i < sizeof noise; i++)
        noise[i] = (unsigned char)dice(256);
    for (size_t i = 0; fdl_sha256_kernels[i]; i++) {
        if (!fdl_sha256_kernels[i]->usable())
            continue;
        holds(fdl_sha256_kernels[i]);
        printf("%s holds\n", fdl_sha256_kernels[i]->name);
        usable++;
    }
    if (usable > 0)
        return 0;
    puts("no kernel is usable on this processor");
    return 77;
}
