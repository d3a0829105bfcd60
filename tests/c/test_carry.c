/* SPDX-License-Identifier: Apache-2.0 */
/* test_carry.c - whatever range is asked for, in whatever order: its bytes are the
 * file's, or it is said that they are not at hand. All small cases, under sanitizers.
 */
#undef NDEBUG
#include "decode/land_carry.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define FILE_LEN 24u
#define ROOM 10u

static unsigned char byte_at(uint64_t off)
{
    return (unsigned char)(7 * off + 1);
}

/* The block [off, off + len) in memory of exactly that size. */
static struct fdl_buf block(uint64_t off, size_t len)
{
    struct fdl_buf buf = {.data = malloc(len ? len : 1), .len = len, .off = off};

    assert(buf.data);
    for (size_t i = 0; i < len; i++)
        buf.data[i] = byte_at(off + i);
    return buf;
}

/* Every range, and each byte of it is at hand or none of them counts. */
static void check_reads(const struct fdl_carry *carry, const struct fdl_buf *buf)
{
    for (uint64_t off = 0; off < FILE_LEN + 2; off++) {
        for (size_t len = 1; len < FILE_LEN; len++) {
            unsigned char *out = malloc(len);
            bool all = true;
            assert(out);
            for (uint64_t at = off; at < off + len; at++)
                all &= (at >= carry->off && at < carry->off + carry->len) ||
                       (buf && at >= buf->off && at < buf->off + buf->len);
            assert(fdl_carry_read(carry, buf, off, len, out) == all);
            for (size_t i = 0; all && i < len; i++)
                assert(out[i] == byte_at(off + i));
            free(out);
        }
    }
}

/* What may be kept, and what must not be. */
static bool may_keep(const struct fdl_carry *carry, const struct fdl_buf *buf,
                     uint64_t from)
{
    uint64_t end = buf->off + buf->len;
    bool joined = carry->off + carry->len == buf->off;

    if (from > end || end - from > ROOM)
        return false;
    return from >= buf->off || (joined && from >= carry->off);
}

static void check_keeps(const struct fdl_carry *before, const struct fdl_buf *buf)
{
    for (uint64_t from = 0; from < FILE_LEN + 2; from++) {
        struct fdl_carry carry;
        assert(fdl_carry_init(&carry, ROOM));
        memcpy(carry.data, before->data, before->len);
        carry.off = before->off;
        carry.len = before->len;
        bool kept = fdl_carry_keep(&carry, buf, from);
        assert(kept == may_keep(before, buf, from));
        if (kept)
            assert(carry.off == from && carry.off + carry.len == buf->off + buf->len);
        else
            assert(carry.off == before->off && carry.len == before->len);
        for (size_t i = 0; i < carry.len; i++)
            assert(carry.data[i] == byte_at(carry.off + i));
        if (kept)
            check_reads(&carry, NULL);
        fdl_carry_destroy(&carry);
    }
}

static void all_small_cases(void)
{
    for (uint64_t off = 0; off < 6; off++) {
        for (size_t len = 0; len <= ROOM; len++) {
            struct fdl_carry carry;
            struct fdl_buf first = block(off, len);
            assert(fdl_carry_init(&carry, ROOM) && fdl_carry_keep(&carry, &first, off));
            for (uint64_t gap = 0; gap < 2; gap++) {
                for (size_t n = 1; off + len + gap + n <= FILE_LEN; n += 3) {
                    struct fdl_buf next = block(off + len + gap, n);
                    check_reads(&carry, &next);
                    check_keeps(&carry, &next);
                    free(next.data);
                }
            }
            check_reads(&carry, NULL);
            free(first.data);
            fdl_carry_destroy(&carry);
        }
    }
}

static void offsets_near_the_end_of_64_bits_do_not_wrap(void)
{
    struct fdl_buf buf = block(UINT64_MAX - 8, 4);
    struct fdl_carry carry;
    unsigned char out[16];

    assert(fdl_carry_init(&carry, ROOM));
    assert(fdl_carry_read(&carry, &buf, UINT64_MAX - 8, 4, out));
    assert(!fdl_carry_read(&carry, &buf, UINT64_MAX - 8, 16, out));
    assert(!fdl_carry_read(&carry, &buf, 0, 4, out));
    assert(!fdl_carry_keep(&carry, &buf, UINT64_MAX));
    assert(!fdl_carry_keep(&carry, &buf, 0));
    assert(fdl_carry_keep(&carry, &buf, UINT64_MAX - 6) && carry.len == 2);
    fdl_carry_destroy(&carry);
    free(buf.data);
}

int main(void)
{
    all_small_cases();
    offsets_near_the_end_of_64_bits_do_not_wrap();
    return 0;
}
