/* SPDX-License-Identifier: Apache-2.0 */
/* decode/land_carry.h - which bytes of a file are at hand while it passes in blocks:
 * the carry (kept from earlier blocks) and the block of now.
 *
 * A cluster may begin in one block and end in another, and others may be anywhere
 * around it: share its bytes, end before it, begin and end inside it. Nothing here
 * relies on their order. What is copied is what the wanted range and the memory have in
 * common, and what is not at hand is said so.
 *
 * Not thread-safe: the pushing thread's. */
#ifndef FDL_LAND_CARRY_H
#define FDL_LAND_CARRY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"

struct fdl_carry {
    unsigned char *data; /* OWNED: file bytes [off, off + len) */
    size_t room;
    uint64_t off;
    size_t len;
};

/* False without memory for `room` bytes; fdl_carry_destroy() is allowed then too. */
bool fdl_carry_init(struct fdl_carry *carry, size_t room);
void fdl_carry_destroy(struct fdl_carry *carry);

/* Copies file bytes [off, off + len) to out[0..len). False where some are not at hand;
 * out then holds anything.
 *   buf  BORROWED: follows the carry; NULL for none. */
bool fdl_carry_read(const struct fdl_carry *carry, const struct fdl_buf *buf,
                    uint64_t off, size_t len, unsigned char *out);

/* The carry becomes the file bytes from `from` to the end of buf. False, and the carry
 * is as it was, where some are not at hand or there is no room.
 *   buf  BORROWED: follows the carry. */
bool fdl_carry_keep(struct fdl_carry *carry, const struct fdl_buf *buf, uint64_t from);

#endif
