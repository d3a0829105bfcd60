/* SPDX-License-Identifier: Apache-2.0 */
/* test_piece_list.c - a list of pieces says what OpenSSL says of each of them,
 * and of the whole, however the stream is cut. */
#undef NDEBUG
#include "base/piece_list.h"

#include <assert.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SIZE 50000

static unsigned char data[SIZE];

static void one(enum fdl_hash_alg alg, const EVP_MD *md, size_t size, size_t piece)
{
    struct fdl_err err;
    struct fdl_hash *whole;
    struct fdl_piece_list *list;
    unsigned char got[FDL_HASH_MAX], want[FDL_HASH_MAX];
    const unsigned char *digests;
    size_t n, len = fdl_hash_len(alg);

    assert(fdl_hash_new(&whole, alg, &err) == FDL_OK);
    assert(fdl_piece_list_new(&list, alg, piece, &err) == FDL_OK);
    for (size_t at = 0; at < size;) {
        size_t cut = (size_t)rand() % 3000;

        cut = cut > size - at ? size - at : cut;
        assert(fdl_piece_list_feed(list, whole, data + at, cut, &err) == FDL_OK);
        at += cut;
    }
    assert(fdl_piece_list_end(list, &digests, &n, &err) == FDL_OK);
    assert(n == (size + piece - 1) / piece);
    for (size_t i = 0; i < n; i++) {
        size_t rest = size - i * piece;

        assert(EVP_Digest(data + i * piece, rest < piece ? rest : piece, want, NULL, md,
                          NULL) == 1);
        assert(memcmp(want, digests + i * len, len) == 0);
    }
    fdl_hash_final(whole, got);
    assert(EVP_Digest(data, size, want, NULL, md, NULL) == 1);
    assert(memcmp(want, got, len) == 0);
    fdl_piece_list_free(list);
    fdl_hash_free(whole);
}

/* Above the limit the list is refused, and the chain of the whole still right.
 */
static void too_many(void)
{
    struct fdl_err err;
    struct fdl_hash *whole;
    struct fdl_piece_list *list;
    unsigned char got[FDL_HASH_MAX], want[FDL_HASH_MAX];
    size_t size = FDL_PIECE_LIST_MAX + 100;
    unsigned char *zeros = calloc(1, size);

    assert(zeros);
    assert(fdl_hash_new(&whole, FDL_HASH_SHA256, &err) == FDL_OK);
    assert(fdl_piece_list_new(&list, FDL_HASH_SHA256, 1, &err) == FDL_OK);
    assert(fdl_piece_list_feed(list, whole, zeros, size, &err) == FDL_E_LIMIT);
    fdl_hash_final(whole, got);
    assert(EVP_Digest(zeros, size, want, NULL, EVP_sha256(), NULL) == 1);
    assert(memcmp(want, got, FDL_SHA256_LEN) == 0);
    fdl_piece_list_free(list);
    fdl_hash_free(whole);
    free(zeros);
}

int main(void)
{
    static const size_t sizes[] = {0, 1, 63, 4096, 4097, SIZE};
    static const size_t pieces[] = {1000, 4096, SIZE, 2 * SIZE};

    for (size_t i = 0; i < SIZE; i++)
        data[i] = (unsigned char)(i * 167 + (i >> 8));
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (size_t j = 0; j < sizeof pieces / sizeof *pieces; j++) {
            one(FDL_HASH_SHA256, EVP_sha256(), sizes[i], pieces[j]);
            one(FDL_HASH_SHA512, EVP_sha512(), sizes[i], pieces[j]);
        }
    too_many();
    puts("piece lists ok");
    return 0;
}
