/* SPDX-License-Identifier: Apache-2.0 */
#include "decode/land_carry.h"

#include <stdlib.h>
#include <string.h>

bool fdl_carry_init(struct fdl_carry *carry, size_t room)
{
    *carry = (struct fdl_carry){.data = malloc(room), .room = room};
    return carry->data != NULL;
}

void fdl_carry_destroy(struct fdl_carry *carry)
{
    free(carry->data);
    *carry = (struct fdl_carry){0};
}

/* Copies what [off, off + len) has in common with the `have_len` file bytes from
 * `have_off` to its place in out[0..len). Returns how much that is. */
static size_t copy_common(unsigned char *out, uint64_t off, size_t len,
                          const unsigned char *have, uint64_t have_off, size_t have_len)
{
    size_t skip_out = have_off > off ? (size_t)(have_off - off) : 0;
    size_t skip_have = off > have_off ? (size_t)(off - have_off) : 0;

    if (skip_out >= len || skip_have >= have_len)
        return 0;
    size_t n = len - skip_out, rest = have_len - skip_have;
    if (n > rest)
        n = rest;
    memcpy(out + skip_out, have + skip_have, n);
    return n;
}

bool fdl_carry_read(const struct fdl_carry *carry, const struct fdl_buf *buf,
                    uint64_t off, size_t len, unsigned char *out)
{
    size_t n = copy_common(out, off, len, carry->data, carry->off, carry->len);

    /* The two never hold the same byte, so the sum shows whether all are present. */
    if (buf)
        n += copy_common(out, off, len, buf->data, buf->off, buf->len);
    return n == len;
}

bool fdl_carry_keep(struct fdl_carry *carry, const struct fdl_buf *buf, uint64_t from)
{
    size_t kept = 0, skip = 0;

    if (from < buf->off) {
        if (from < carry->off || carry->len != buf->off - carry->off)
            return false; /* begins before the carry, or a block between is missing */
        kept = (size_t)(buf->off - from);
    } else {
        if (from - buf->off > buf->len)
            return false;
        skip = (size_t)(from - buf->off);
    }
    if (kept > carry->room || buf->len - skip > carry->room - kept)
        return false;
    if (kept && kept < carry->len)
        memmove(carry->data, carry->data + (carry->len - kept), kept);
    memcpy(carry->data + kept, buf->data + skip, buf->len - skip);
    carry->off = from;
    carry->len = kept + (buf->len - skip);
    return true;
}
