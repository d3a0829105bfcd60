/* SPDX-License-Identifier: Apache-2.0 */
/* fuzz_http_chunked.c - invariant: how the network splits a chunked body changes
 * neither its bytes, nor where it ends, nor whether it is refused.
 *
 * The first byte of the input is the size of the pieces, the rest is what a server
 * sends. */
#undef NDEBUG
#include "http/http.h"
#include "replay.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

struct result {
    long rc; /* bytes consumed, or the error */
    bool done;
    size_t body_len;
    uint8_t *body; /* OWNED */
};

static struct result decode(const uint8_t *data, size_t size, size_t piece)
{
    struct fdl_http_chunked chunked;
    struct result r = {0, false, 0, malloc(size + 1)};
    size_t at = 0, off, len;

    assert(r.body);
    fdl_http_chunked_init(&chunked);
    while (at < size && !chunked.done) {
        size_t here = size - at < piece ? size - at : piece;
        struct fdl_err err;
        long used = fdl_http_chunked_feed(&chunked, (const char *)data + at, here, &off,
                                          &len, &err);
        if (used < 0) {
            assert(used == FDL_E_HTTP_PROTOCOL && err.code == used && len == 0);
            /* An error is final. */
            assert(fdl_http_chunked_feed(&chunked, "0\r\n\r\n", 5, &off, &len, NULL) ==
                   FDL_E_HTTP_PROTOCOL);
            r.rc = used;
            return r;
        }
        assert(used > 0 && (size_t)used <= here);
        assert(off <= (size_t)used && len <= (size_t)used - off);
        memcpy(r.body + r.body_len, data + at + off, len);
        r.body_len += len;
        at += (size_t)used;
    }
    r.rc = (long)at;
    r.done = chunked.done;
    if (chunked.done) {
        assert(fdl_http_chunked_feed(&chunked, "x", 1, &off, &len, NULL) == 0);
        /* Framing is never free: a body is shorter than what carried it. */
        assert(r.body_len < at);
    }
    return r;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    size_t piece = (size_t)data[0] + 1;
    struct result whole = decode(data + 1, size - 1, SIZE_MAX);
    struct result cut = decode(data + 1, size - 1, piece);

    assert(whole.rc == cut.rc && whole.done == cut.done);
    assert(whole.body_len == cut.body_len);
    assert(memcmp(whole.body, cut.body, whole.body_len) == 0);
    free(whole.body);
    free(cut.body);
    return 0;
}
