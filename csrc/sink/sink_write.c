/* SPDX-License-Identifier: Apache-2.0 */
/* sink_write.c - writing with zeros made on the target instead of sent to it. */
#include "base/zero.h"
#include "sink/sink.h"

static int put(struct fdl_sink *sink, const unsigned char *p, size_t len, uint64_t off,
               bool zero, struct fdl_err *err)
{
    if (len == 0)
        return FDL_OK;
    return zero ? fdl_sink_zero(sink, off, len, err)
                : fdl_sink_pwrite(sink, p, len, off, err);
}

int fdl_sink_write(struct fdl_sink *sink, const void *buf, size_t len, uint64_t off,
                   bool detect_zeros, struct fdl_err *err)
{
    const unsigned char *p = buf;
    size_t start = 0, at = 0;
    bool run_zero = false;

    if (!detect_zeros)
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
