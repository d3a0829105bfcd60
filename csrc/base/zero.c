/* SPDX-License-Identifier: Apache-2.0 */
#include "base/zero.h"

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

static int put(struct fdl_sink *sink, const unsigned char *p, size_t len, uint64_t off,
               bool zero, struct fdl_err *err)
{
    if (len == 0)
        return FDL_OK;
    return zero ? fdl_sink_zero(sink, off, len, err)
                : fdl_sink_pwrite(sink, p, len, off, err);
}

int fdl_zero_write(struct fdl_sink *sink, const void *buf, size_t len, uint64_t off,
                   bool detect, struct fdl_err *err)
{
    const unsigned char *p = buf;
    size_t start = 0, at = 0;
    bool run_zero = false;

    if (!detect)
        return put(sink, p, len, off, false, err);
    while (at < len) {
        size_t n = FDL_ZERO_GRAIN - (size_t)((off + at) % FDL_ZERO_GRAIN);
        if (n > len - at)
            n = len - at;
        bool zero = n == FDL_ZERO_GRAIN && fdl_is_zero(p + at, n);
        if (zero != run_zero) {
            int rc = put(sink, p + start, at - start, off + start, run_zero, err);
            if (rc < 0)
                return rc;
            start = at;
            run_zero = zero;
        }
        at += n;
    }
    return put(sink, p + start, len - start, off + start, run_zero, err);
}
