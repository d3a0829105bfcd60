/* SPDX-License-Identifier: Apache-2.0 */
/* fuzz_http_head.c - invariant: whether a head is accepted depends on its own bytes
 * only.
 *
 * Every shorter prefix of it asks for more, bytes after it change nothing, every piece
 * lies within it (or within its unfolded lines), its numbers agree with each other, and
 * what frames the body stands on lines of its own. */
#undef NDEBUG
#include "http/http.h"
#include "replay.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

static bool lies_in(struct fdl_str s, const char *buf, size_t len)
{
    return s.ptr >= buf && s.len <= len && s.ptr - buf <= (ptrdiff_t)(len - s.len);
}

static void check_within(struct fdl_str s, const struct fdl_http_head *head,
                         const char *buf, size_t len)
{
    if (s.len == 0)
        return;
    assert(lies_in(s, buf, len) || lies_in(s, head->unfolded, head->unfolded_len));
    assert(memchr(s.ptr, '\r', s.len) == NULL && memchr(s.ptr, '\n', s.len) == NULL);
}

static void check_numbers(const struct fdl_http_head *head)
{
    assert(head->status >= 100 && head->status <= 599 && head->status != 101);
    assert(head->n_fields <= FDL_HTTP_FIELDS_MAX);
    assert(head->content_length <= INT64_MAX);
    assert(!(head->has_range && head->has_unsatisfied_range));
    if (head->has_range) {
        assert(head->status == 206);
        assert(head->range.first <= head->range.last);
        assert(head->range.last < head->range.total);
        assert(head->range.last <= INT64_MAX);
        if (head->framing == FDL_HTTP_LENGTH)
            assert(head->content_length == head->range.last - head->range.first + 1);
    }
    if (head->has_unsatisfied_range)
        assert(head->status == 416 && head->range.total <= INT64_MAX);
    if (head->framing == FDL_HTTP_CHUNKED)
        assert(head->minor_version == 1);
    if (head->framing == FDL_HTTP_UNTIL_CLOSE)
        assert(!head->keep_alive);
    if (head->etag_strong)
        assert(head->etag.len >= 2 && head->etag.ptr[0] == '"');
    assert(head->retry_after_s >= -1);
}

/* A copy of exactly that size, so that reading on is seen by the sanitizer. */
static long parse_copy(const uint8_t *data, size_t len)
{
    struct fdl_http_head head;
    struct fdl_err err;
    char *copy = malloc(len);

    assert(copy || len == 0);
    if (len > 0)
        memcpy(copy, data, len);
    long rc = fdl_http_parse_head(copy, len, &head, &err);
    free(copy);
    return rc;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char tail[] = "\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n";
    const char *buf = (const char *)data;
    struct fdl_http_head head;
    struct fdl_err err;

    fdl_err_clear(&err);
    long rc = fdl_http_parse_head(buf, size, &head, &err);
    if (rc < 0) {
        assert(rc == FDL_E_HTTP_PROTOCOL && err.code == rc && err.what[0] != '\0');
        return 0;
    }
    assert((size_t)rc <= size);
    if (rc == 0) {
        assert(size < FDL_HTTP_HEAD_MAX);
        return 0;
    }

    size_t len = (size_t)rc;
    check_numbers(&head);
    for (size_t i = 0; i < head.n_fields; i++) {
        check_within(head.fields[i].name, &head, buf, len);
        check_within(head.fields[i].value, &head, buf, len);
        assert(head.fields[i].name.len > 0);
    }
    check_within(head.etag, &head, buf, len);
    check_within(head.last_modified, &head, buf, len);
    check_within(head.location, &head, buf, len);
    check_within(head.content_type, &head, buf, len);

    static const char *const framing[] = {"Content-Length", "Transfer-Encoding"};
    for (size_t i = 0; i < 2; i++) {
        struct fdl_str value = fdl_http_field_value(&head, framing[i]);
        assert(value.len == 0 || lies_in(value, buf, len));
    }
    assert(head.coding ==
           fdl_http_coding_of(fdl_http_field_value(&head, "Content-Encoding")));
    if (head.coding == FDL_HTTP_PLAIN || head.coding == FDL_HTTP_UNKNOWN_CODING)
        assert(!fdl_http_file_is_packed(&head, "/disk.gz"));

    size_t step = len / 256 + 1;
    for (size_t k = 0; k < len; k += step)
        assert(parse_copy(data, k) == 0);
    assert(parse_copy(data, len - 1) == 0);

    char *more = malloc(len + sizeof tail);
    assert(more);
    memcpy(more, data, len);
    memcpy(more + len, tail, sizeof tail);
    assert(parse_copy((const uint8_t *)more, len + sizeof tail) == rc);
    free(more);
    return 0;
}
