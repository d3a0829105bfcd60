/* SPDX-License-Identifier: Apache-2.0 */
/* fuzz_response.c - invariant: an accepted response yields requested bytes of the same
 * version as the first response, whatever sequence a server sends.
 *
 * The input is a row of requests and responses: 4 bytes each for offset and length, 1
 * for options, then the head up to and including its empty line. */
#undef NDEBUG
#include "source/response.h"
#include "replay.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define PREFIX 9

static uint32_t be32(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static void check_accepted(const struct fdl_http_head *h, const struct fdl_request *q,
                           const struct fdl_response *a)
{
    const bool whole = h->status == 200 || h->status == 203;

    if (a->again) /* without a validator, or without a range */
        assert((whole && q->if_range) ||
               (q->ranged && (!whole || fdl_http_is_empty(h) || h->maybe_part)));
    else if (h->status == 206) {
        assert(a->off <= q->off && q->off < a->end && a->left == a->end - a->off);
        assert(h->range.total == UINT64_MAX || a->end <= h->range.total);
        assert(!a->whole || a->end == h->range.total);
        assert(!h->multipart);
    } else if (h->status == 416) {
        assert(a->off == q->off && a->end == a->off && a->left == 0);
    } else {
        assert(whole && a->off == 0 && a->whole);
        if (h->framing == FDL_HTTP_LENGTH)
            assert(a->end == h->content_length && a->left == h->content_length);
    }
    /* A body that somebody packed on the way counts only where that can be told. */
    assert(a->packed == FDL_HTTP_PLAIN || (a->packed == h->coding && q->off == 0));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fdl_mirror *m = fdl_mirror_new(FDL_MIRROR_HTTP, "http://origin/", NULL);
    struct fdl_http_head head;
    struct fdl_err err;

    assert(m);
    m->provable = size && data[size - 1] & 1;
    while (size > PREFIX) {
        struct fdl_request q = {.off = be32(data),
                                .len = data[8] & 1 ? UINT64_MAX : be32(data + 4) + 1ull,
                                .if_range = data[8] & 2,
                                .ranged = data[8] & 4,
                                .elsewhere = data[8] & 16,
                                .anonymous = data[8] & 32,
                                .target = data[8] & 8 ? "/disk.gz" : "/disk"};
        struct fdl_response a = {0};
        long n = fdl_http_parse_head((const char *)data + PREFIX, size - PREFIX, &head,
                                     &err);
        if (n <= 0)
            break;
        uint64_t total = m->total;
        char etag[sizeof m->etag];
        memcpy(etag, m->etag, sizeof etag);
        int rc = fdl_response_check(m, &head, &q, &a, &err);
        if (rc == FDL_OK) {
            check_accepted(&head, &q, &a);
            /* What a strong tag stands for has one size, and one tag. */
            if (etag[0])
                assert(strcmp(etag, m->etag) == 0 &&
                       (total == UINT64_MAX || total == m->total));
        } else {
            assert(err.code == rc);
            assert(rc == FDL_E_HTTP_PROTOCOL || rc == FDL_E_ORIGIN_CHANGED ||
                   rc == FDL_E_HTTP_STATUS);
            assert(rc != FDL_E_HTTP_STATUS || err.http_status == head.status);
        }
        data += PREFIX + n;
        size -= PREFIX + (size_t)n;
    }
    fdl_mirror_free(m);
    return 0;
}
