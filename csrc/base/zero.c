/* SPDX-License-Identifier: Apache-2.0 */
#include "base/zero.h"

#include <stdint.h>
#include <string.h>

bool fdl_is_zero(const void *buf, size_t len)
{
    const unsigned char *p = buf;
    uint64_t head[2] = {0, 0};

    /* Sixteen bytes decide nearly always; then memcmp of the memory with itself,
     * shifted, lets libc's widest loads do the rest. */
    if (len <= sizeof head)
        return memcmp(p, head, len) == 0;
    return memcmp(p, head, sizeof head) == 0 &&
           memcmp(p, p + sizeof head, len - sizeof head) == 0;
}
