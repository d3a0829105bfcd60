/* SPDX-License-Identifier: Apache-2.0 */
/* test_hash.c - the digests are the standards' own: FIPS 180 and RFC 1321 examples, cut
 * into pieces of any length. */
#undef NDEBUG
#include "base/hash.h"

#include <assert.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define LONG                                                                           \
    "abcdefghbcdefghicdefghijdefghijkefghijklfghijklmghijklmnhijklmnoijklmnopjklmnopq" \
    "klm"                                                                              \
    "nopqrlmnopqrsmnopqrstnopqrstu"
#define MIDDLE "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"

static const struct {
    const char *name, *text, *hex;
} vectors[] = {
    {"md5", "", "d41d8cd98f00b204e9800998ecf8427e"},
    {"md5", "abc", "900150983cd24fb0d6963f7d28e17f72"},
    {"md5", "message digest", "f96b697d7cb7938d525a2f31aaf161d0"},
    {"sha-1", "", "da39a3ee5e6b4b0d3255bfef95601890afd80709"},
    {"sha-1", "abc", "a9993e364706816aba3e25717850c26c9cd0d89d"},
    {"sha-1", MIDDLE, "84983e441c3bd26ebaae4aa1f95129e5e54670f1"},
    {"sha-224", "abc", "23097d223405d8228642a477bda255b32aadbce4bda0b3f7e36c9da7"},
    {"sha-224", MIDDLE, "75388b16512776cc5dba5da1fd890150b0c6455cb4f58b1952522525"},
    {"sha-256", "", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
    {"sha-256", "abc",
     "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
    {"sha-256", MIDDLE,
     "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"},
    {"sha-384", "abc",
     "cb00753f45a35e8bb5a03d699ac65007272c32ab0eded1631a8b605a43ff5bed"
     "8086072ba1e7cc2358baeca134c825a7"},
    {"sha-384", LONG,
     "09330c33f71147e83d192fc782cd1b4753111b173b3b05d22fa08086e3b0f712"
     "fcc7c71a557e2db966c3e9fa91746039"},
    {"sha-512", "abc",
     "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a"
     "2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f"},
    {"sha-512", LONG,
     "8e959b75dae313da8cf4f72814fc143f8f7779c6eb9f7fa17299aeadb6889018"
     "501d289e4900f7e4331b99dec4b5433ac7d329eeb6dd26545e96e55b874be909"},
};

static void expect(struct fdl_hash *h, size_t len, const char *want)
{
    unsigned char got[FDL_HASH_MAX];
    char hex[2 * FDL_HASH_MAX + 1] = "";

    fdl_hash_final(h, got);
    for (size_t i = 0; i < len; i++)
        snprintf(hex + 2 * i, 3, "%02x", got[i]);
    assert(strcmp(hex, want) == 0);
}

static struct fdl_hash *new_hash(enum fdl_hash_alg alg)
{
    struct fdl_hash *hash;

    assert(fdl_hash_new(&hash, alg, NULL) == FDL_OK);
    return hash;
}

static void the_standards_examples_come_out_however_they_are_cut(void)
{
    for (size_t v = 0; v < sizeof vectors / sizeof *vectors; v++) {
        int alg = fdl_hash_alg_from_name(vectors[v].name);
        const char *text = vectors[v].text;
        size_t n = strlen(text);
        assert(alg >= 0);
        size_t len = fdl_hash_len((enum fdl_hash_alg)alg);
        struct fdl_hash *h = new_hash((enum fdl_hash_alg)alg);
        assert(h && strlen(vectors[v].hex) == 2 * len && len <= FDL_HASH_MAX);
        for (size_t cut = 0; cut <= n; cut++) { /* final() starts anew each time */
            fdl_hash_update(h, text, cut);
            fdl_hash_update(h, text + cut, n - cut);
            expect(h, len, vectors[v].hex);
        }
        fdl_hash_free(h);
    }
}

static void a_million_letters_come_out(void)
{
    struct fdl_hash *h = new_hash(FDL_HASH_SHA256);
    char part[1009];

    memset(part, 'a', sizeof part);
    for (size_t left = 1000000; left > 0;) {
        size_t n = left < sizeof part ? left : sizeof part;
        fdl_hash_update(h, part, n);
        left -= n;
    }
    expect(h, 32, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
    fdl_hash_free(h);
}

static void a_copy_continues_where_the_first_was(void)
{
    static const char *const makers[] = {"", "openssl"};

    for (size_t i = 0; i < 2; i++) {
        struct fdl_hash *one, *other;
        assert(setenv("FASTDL_SHA256", makers[i], 1) == 0);
        assert(fdl_hash_new(&one, FDL_HASH_SHA256, NULL) == FDL_OK);
        other = fdl_hash_like(one);
        assert(other);
        fdl_hash_update(one, "ab", 2);
        fdl_hash_copy(other, one);
        fdl_hash_update(one, "something else", 14);
        fdl_hash_copy(one, other);
        for (int turn = 0; turn < 2; turn++) {
            struct fdl_hash *h = turn ? one : other;
            fdl_hash_update(h, "c", 1);
            expect(h, 32,
                   "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        }
        fdl_hash_free(one);
        fdl_hash_free(other);
    }
    assert(unsetenv("FASTDL_SHA256") == 0);
}

static void other_names_are_not_guessed(void)
{
    static const char *const names[] = {"",         "sha256", "SHA-256",
                                        "sha-256 ", "sha-3",  "md4"};

    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        assert(fdl_hash_alg_from_name(names[i]) == -1);
    fdl_hash_free(NULL);
}

/* As many random lengths, cuts and pairs as fit in a few seconds, against EVP. */
static void openssl_says_the_same(enum fdl_hash_alg alg, const EVP_MD *md)
{
    static unsigned char data[40000];
    unsigned char got[20 * FDL_HASH_MAX], want[FDL_HASH_MAX];
    const unsigned char *messages[20];
    size_t size = fdl_hash_len(alg);
    struct fdl_hash *a = new_hash(alg), *b = fdl_hash_like(a);
    time_t until = time(NULL) + 2;

    assert(a && b);
    for (size_t i = 0; i < sizeof data; i++)
        data[i] = (unsigned char)random();
    for (int round = 0; round < 1000000 && time(NULL) < until; round++) {
        size_t len = (size_t)random() % (round % 8 ? 300 : 2000);
        size_t n = 1 + (size_t)random() % 20;
        size_t from_a = (size_t)random() % 9000, from_b = (size_t)random() % 9000;
        size_t head_a = (size_t)random() % 200, head_b = (size_t)random() % 200;
        fdl_hash_update(a, data + from_a, head_a);
        fdl_hash_update(b, data + from_b, head_b);
        fdl_hash_update_two(a, data + from_a + head_a, b, data + from_b + head_b, len);
        fdl_hash_final(a, got);
        assert(EVP_Digest(data + from_a, head_a + len, want, NULL, md, NULL) == 1);
        assert(memcmp(got, want, size) == 0);
        fdl_hash_final(b, got);
        assert(EVP_Digest(data + from_b, head_b + len, want, NULL, md, NULL) == 1);
        assert(memcmp(got, want, size) == 0);
        for (size_t i = 0; i < n; i++)
            messages[i] = data + (size_t)random() % (sizeof data - len);
        fdl_hash_many(a, messages, len, n, got);
        for (size_t i = 0; i < n; i++) {
            assert(EVP_Digest(messages[i], len, want, NULL, md, NULL) == 1);
            assert(memcmp(got + i * size, want, size) == 0);
        }
    }
    fdl_hash_free(b);
    fdl_hash_free(a);
}

static void each_kernel_can_be_asked_for(void)
{
    enum fdl_sha256_why why;
    struct fdl_hash *h;
    struct fdl_err err;

    assert(fdl_hash_kernel("openssl", &why) == NULL && why == FDL_SHA256_ASKED);
    assert(fdl_hash_kernel("abacus", &why) == NULL && why == FDL_SHA256_UNKNOWN);
    setenv("FASTDL_SHA256", "abacus", 1);
    assert(fdl_hash_new(&h, FDL_HASH_SHA256, &err) == FDL_E_USAGE && !h);
    h = new_hash(FDL_HASH_SHA512); /* it is none of its business */
    fdl_hash_free(h);
    setenv("FASTDL_SHA256", "openssl", 1);
    openssl_says_the_same(FDL_HASH_SHA256, EVP_sha256());
    for (size_t i = 0; fdl_sha256_kernels[i]; i++) {
        const struct fdl_sha256_kernel *k = fdl_sha256_kernels[i];
        setenv("FASTDL_SHA256", k->name, 1);
        if (k->usable()) {
            assert(fdl_hash_kernel(k->name, &why) == k && why == FDL_SHA256_OURS);
            the_standards_examples_come_out_however_they_are_cut();
            a_million_letters_come_out();
            openssl_says_the_same(FDL_HASH_SHA256, EVP_sha256());
        } else {
            assert(fdl_hash_kernel(k->name, &why) == NULL && why == FDL_SHA256_UNKNOWN);
        }
    }
    unsetenv("FASTDL_SHA256");
}

static const struct fdl_sha256_kernel *broken_from;

static void wrong_beside(uint32_t *const state[], const unsigned char *const data[],
                         size_t n)
{
    broken_from->run(state, data, n);
    state[broken_from->lanes - 1][7] ^= 1;
}

static void wrong_alone(uint32_t state[8], const unsigned char *data, size_t n)
{
    broken_from->one(state, data, n);
    state[0] ^= 0x80000000;
}

static void a_kernel_that_is_wrong_is_not_used(void)
{
    for (size_t i = 0; fdl_sha256_kernels[i]; i++) {
        struct fdl_sha256_kernel broken = *fdl_sha256_kernels[i];
        if (!broken.usable())
            continue;
        broken_from = fdl_sha256_kernels[i];
        assert(fdl_hash_kernel_agrees(&broken));
        broken.run = wrong_beside;
        assert(!fdl_hash_kernel_agrees(&broken));
        broken.run = broken_from->run;
        if (!broken.one)
            continue;
        broken.one = wrong_alone;
        assert(!fdl_hash_kernel_agrees(&broken));
    }
}

static void in_fips_mode_only_openssl_is_used(void)
{
    enum fdl_sha256_why why;

    if (!fdl_hash_kernel(NULL, &why))
        return; /* nothing to be given up */
    assert(EVP_default_properties_enable_fips(NULL, 1) == 1);
    assert(fdl_hash_kernel(NULL, &why) == NULL && why == FDL_SHA256_FIPS);
    assert(EVP_default_properties_enable_fips(NULL, 0) == 1);
    assert(fdl_hash_kernel(NULL, &why) != NULL && why == FDL_SHA256_OURS);
}

/* A system may forbid digests in its openssl.cnf; that is no fault of ours. */
static void a_digest_that_openssl_does_not_offer_is_the_systems_doing(void)
{
    struct fdl_hash *hash;
    struct fdl_err err;

    assert(EVP_set_default_properties(NULL, "fips=yes") == 1);
    assert(fdl_hash_new(&hash, FDL_HASH_MD5, &err) == FDL_E_USAGE);
    assert(!hash && strstr(err.what, "md5"));
    assert(EVP_set_default_properties(NULL, "") == 1);
    fdl_hash_free(new_hash(FDL_HASH_MD5));
}

int main(void)
{
    the_standards_examples_come_out_however_they_are_cut();
    a_million_letters_come_out();
    a_copy_continues_where_the_first_was();
    other_names_are_not_guessed();
    openssl_says_the_same(FDL_HASH_SHA256, EVP_sha256());
    openssl_says_the_same(FDL_HASH_SHA512, EVP_sha512());
    each_kernel_can_be_asked_for();
    a_kernel_that_is_wrong_is_not_used();
    in_fips_mode_only_openssl_is_used();
    a_digest_that_openssl_does_not_offer_is_the_systems_doing();
    return 0;
}
