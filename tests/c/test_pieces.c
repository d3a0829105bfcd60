/* SPDX-License-Identifier: Apache-2.0 */
/* test_pieces.c - pieces are checked however they lie to the blocks, and none is passed
 * over. */
#undef NDEBUG
#include "job/gather.h"

#include <assert.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK 4096u
#define TOTAL (10 * BLOCK + 77)
#define WINDOW 8
#define MIB ((size_t)1 << 20)

static unsigned char source[TOTAL];
static unsigned char digests[TOTAL / 512 + 1][FDL_HASH_MAX];

static struct fdl_hash *new_hash(enum fdl_hash_alg alg)
{
    struct fdl_hash *hash;

    assert(fdl_hash_new(&hash, alg, NULL) == FDL_OK);
    return hash;
}

/* The digests of the source's pieces, packed. */
static struct fdl_piece_digests digests_of(uint64_t length)
{
    size_t n = fdl_hash_len(FDL_HASH_SHA256), count = 0;
    struct fdl_hash *hash = new_hash(FDL_HASH_SHA256);
    unsigned char *out = digests[0], one[FDL_HASH_MAX];

    assert(hash);
    for (size_t at = 0; at < TOTAL; at += length, count++) {
        fdl_hash_update(hash, source + at, TOTAL - at < length ? TOTAL - at : length);
        fdl_hash_final(hash, one);
        memcpy(out + count * n, one, n);
    }
    fdl_hash_free(hash);
    return (struct fdl_piece_digests){
        .alg = FDL_HASH_SHA256, .length = length, .count = count, .digests = out};
}

static struct fdl_buf *block_at(struct fdl_pool *pool, uint64_t off)
{
    struct fdl_buf *buf = fdl_pool_get(pool);

    assert(buf);
    buf->off = off;
    buf->len = TOTAL - off < BLOCK ? (size_t)(TOTAL - off) : BLOCK;
    memcpy(buf->data, source + off, buf->len);
    return buf;
}

static enum fdl_piece_mode mode_of(uint64_t length, uint32_t window)
{
    struct fdl_piece_digests wanted = digests_of(length);
    struct fdl_pieces pieces;

    assert(fdl_pieces_init(&pieces, &wanted, TOTAL, BLOCK, window, NULL) == FDL_OK);
    enum fdl_piece_mode mode = pieces.mode;
    fdl_pieces_destroy(&pieces);
    return mode;
}

static void the_mode_follows_from_the_lengths(void)
{
    assert(mode_of(BLOCK, WINDOW) == FDL_PIECES_IN_BLOCK);
    assert(mode_of(BLOCK / 4, WINDOW) == FDL_PIECES_IN_BLOCK);
    assert(mode_of(2 * BLOCK, WINDOW) == FDL_PIECES_OF_BLOCKS);
    assert(mode_of(4 * BLOCK, WINDOW) == FDL_PIECES_IN_ORDER); /* too few fit */
    assert(mode_of(4 * BLOCK, 64) == FDL_PIECES_OF_BLOCKS);    /* all of them do */
    assert(mode_of(BLOCK + 512, WINDOW) == FDL_PIECES_IN_ORDER);
}

static void pieces_that_do_not_cover_the_source_are_refused(void)
{
    struct fdl_piece_digests wanted = digests_of(BLOCK);
    struct fdl_pieces pieces;

    wanted.count--;
    assert(fdl_pieces_init(&pieces, &wanted, TOTAL, BLOCK, WINDOW, NULL) == FDL_E_SIZE);
    wanted.count++;
    assert(fdl_pieces_init(&pieces, &wanted, UINT64_MAX, BLOCK, WINDOW, NULL) ==
           FDL_E_SIZE);
    wanted.length = 0;
    assert(fdl_pieces_init(&pieces, &wanted, TOTAL, BLOCK, WINDOW, NULL) == FDL_E_SIZE);
}

static void one_wrong_byte_in_any_piece_of_a_block_is_found(void)
{
    struct fdl_piece_digests wanted = digests_of(512);
    struct fdl_pool *pool = fdl_pool_new(1, BLOCK);
    struct fdl_pieces pieces;
    struct fdl_err err;

    assert(pool);
    assert(fdl_pieces_init(&pieces, &wanted, TOTAL, BLOCK, WINDOW, NULL) == FDL_OK);
    for (uint64_t off = 0; off < TOTAL; off += BLOCK) {
        struct fdl_buf *buf = block_at(pool, off);
        assert(fdl_pieces_check_block(&pieces, buf, NULL) == FDL_OK);
        for (size_t at = 0; at < buf->len; at += 511) {
            buf->data[at] ^= 1;
            assert(fdl_pieces_check_block(&pieces, buf, &err) == FDL_E_INTEGRITY);
            assert(err.offset == off + at / 512 * 512);
            buf->data[at] ^= 1;
        }
        fdl_buf_unref(buf);
    }
    fdl_pieces_destroy(&pieces);
    fdl_pool_free(pool);
}

/* At the sizes that are usual, all lanes of a wide kernel have a piece. */
static void pieces_of_many_blocks_are_hashed_together(void)
{
    static struct fdl_job job;

    for (const struct fdl_sha256_kernel *const *k = fdl_sha256_kernels; *k; k++)
        for (uint64_t length = 256 << 10; (*k)->usable() && length <= MIB;
             length *= 2) {
            setenv("FASTDL_SHA256", (*k)->name, 1);
            job = (struct fdl_job){.cfg.block = MIB, .plan.window = 46};
            job.pieces.mode = FDL_PIECES_IN_BLOCK;
            job.pieces.digests.length = length;
            assert(fdl_hash_new(&job.pieces.like, FDL_HASH_SHA256, NULL) == FDL_OK);
            fdl_gather_init(&job);
            size_t pieces = job.gather.most * (MIB / length);
            assert(pieces == ((*k)->lanes > 2 ? (*k)->lanes : 0));
            fdl_hash_free(job.pieces.like);
        }
    unsetenv("FASTDL_SHA256");
}

/* Fewer than a pass takes are checked only where no other can come: who has nothing to
 * do waits for the journal as a rule, and checked by twos and threes the lanes would
 * be empty. */
static void a_pass_waits_for_what_is_on_its_way(void)
{
    static struct fdl_job job;
    const struct fdl_buf *bufs[FDL_SHA256_LANES_MAX];
    uint64_t first, count, blocks[FDL_SHA256_LANES_MAX];

    job = (struct fdl_job){.gather.most = 8};
    assert(fdl_plan_init(&job.plan, 12, 32, 1) == 0);
    assert(fdl_plan_claim(&job.plan, 0, false, 12, 1, &first, &count) && count == 12);
    assert(!fdl_gather_is_due(&job));
    for (uint64_t b = 0; b < 12; b++) {
        assert(fdl_plan_fill(&job.plan, 0, b));
        fdl_gather_add(&job, b);
        job.gather.began_ns = UINT64_MAX / 2; /* nothing is late here */
        assert(fdl_gather_is_due(&job) == (b == 7 || b == 11));
        if (b == 7)
            assert(fdl_gather_take(&job, blocks, bufs) == 8 && blocks[7] == 7);
    }
    assert(fdl_gather_take(&job, blocks, bufs) == 4 && blocks[0] == 8);
    assert(!fdl_gather_is_due(&job));
    fdl_plan_destroy(&job.plan);
}

/* One that waits long is checked, whatever is on its way. */
static void a_pass_does_not_wait_for_a_slow_network(void)
{
    static struct fdl_job job;
    uint64_t first, count;

    job = (struct fdl_job){.gather.most = 8};
    assert(fdl_plan_init(&job.plan, 12, 32, 1) == 0);
    assert(fdl_plan_claim(&job.plan, 0, false, 12, 1, &first, &count) && count == 12);
    assert(fdl_plan_fill(&job.plan, 0, 0));
    fdl_gather_add(&job, 0);
    job.gather.began_ns = 0;
    assert(fdl_gather_is_due(&job));
    fdl_plan_destroy(&job.plan);
}

/* Nothing can be compared: no mirror may be blamed for it. */
static void without_the_digest_nothing_starts(void)
{
    struct fdl_piece_digests wanted = digests_of(512);
    struct fdl_pieces pieces;
    struct fdl_err err;

    assert(EVP_set_default_properties(NULL, "fips=yes") == 1);
    assert(fdl_pieces_init(&pieces, &wanted, TOTAL, BLOCK, WINDOW, &err) ==
           FDL_E_USAGE);
    fdl_pieces_destroy(&pieces);
    assert(EVP_set_default_properties(NULL, "") == 1);
}

static void pieces_across_blocks_are_checked_in_order(void)
{
    struct fdl_piece_digests wanted = digests_of(BLOCK + 512);
    struct fdl_pool *pool = fdl_pool_new(1, BLOCK);

    assert(pool);
    for (size_t wrong = 0; wrong <= TOTAL; wrong += 1000) {
        struct fdl_hash *hash = new_hash(FDL_HASH_SHA256);
        struct fdl_pieces pieces;
        struct fdl_err err;
        int rc = FDL_OK;
        assert(hash);
        assert(fdl_pieces_init(&pieces, &wanted, TOTAL, BLOCK, WINDOW, NULL) == FDL_OK);
        for (uint64_t off = 0; rc == FDL_OK && off < TOTAL; off += BLOCK) {
            struct fdl_buf *buf = block_at(pool, off);
            if (wrong >= off && wrong < off + buf->len)
                buf->data[wrong - off] ^= 1;
            rc = fdl_pieces_feed(&pieces, hash, buf, &err);
            fdl_buf_unref(buf);
        }
        assert(rc == (wrong < TOTAL ? FDL_E_INTEGRITY : FDL_OK));
        if (rc != FDL_OK)
            assert(err.offset == wrong / (BLOCK + 512) * (BLOCK + 512));
        fdl_pieces_destroy(&pieces);
        fdl_hash_free(hash);
    }
    fdl_pool_free(pool);
}

static void a_place_in_the_cache_starts_anew_with_another_piece(void)
{
    struct fdl_piece_digests wanted = digests_of(2 * BLOCK);
    struct fdl_pieces pieces;

    assert(fdl_pieces_init(&pieces, &wanted, TOTAL, BLOCK, WINDOW, NULL) == FDL_OK);
    struct fdl_piece *piece, *same;
    assert(fdl_pieces_of(&pieces, 1, &piece, NULL) == FDL_OK);
    assert(piece->index == 0 && piece->next == 0);
    piece->next = 1;
    piece->failures = 2;
    assert(fdl_pieces_of(&pieces, 0, &same, NULL) == FDL_OK);
    assert(same == piece && piece->next == 1);
    uint64_t later = pieces.n_cache * pieces.blocks;
    assert(fdl_pieces_of(&pieces, later, &same, NULL) == FDL_OK && same == piece);
    assert(piece->index == pieces.n_cache && piece->next == later);
    assert(piece->failures == 0);
    fdl_pieces_destroy(&pieces);
}

int main(void)
{
    for (size_t i = 0; i < TOTAL; i++)
        source[i] = (unsigned char)(i * 2654435761u >> 13);
    the_mode_follows_from_the_lengths();
    pieces_that_do_not_cover_the_source_are_refused();
    one_wrong_byte_in_any_piece_of_a_block_is_found();
    pieces_of_many_blocks_are_hashed_together();
    a_pass_waits_for_what_is_on_its_way();
    a_pass_does_not_wait_for_a_slow_network();
    pieces_across_blocks_are_checked_in_order();
    a_place_in_the_cache_starts_anew_with_another_piece();
    without_the_digest_nothing_starts();
    return 0;
}
