/* SPDX-License-Identifier: Apache-2.0 */
#include "source/response.h"
#include "net/conn.h"

#include <pthread.h>
#include <string.h>

/* Of a response that starts before the wanted range, at most this much is read away. */
#define SKIP_MAX (UINT64_C(16) << 20)

static bool str_is(struct fdl_str s, const char *text)
{
    return s.len == strlen(text) && memcmp(s.ptr, text, s.len) == 0;
}

static void copy_str(char *out, size_t cap, struct fdl_str s)
{
    size_t n = s.len < cap ? s.len : 0; /* too long: as if absent */

    memcpy(out, s.ptr, n);
    out[n] = '\0';
}

static bool has_strong_validator(const struct fdl_mirror *m)
{
    return m->etag[0] || m->last_modified[0];
}

/* Whether the response has the same version as the first one. A missing tag says
 * nothing, a strong date then still does; where a digest decides, nothing has to.
 * Mirror locked. */
static bool same_version(const struct fdl_mirror *m, const struct fdl_http_head *h)
{
    bool same_date = m->last_modified[0] && str_is(h->last_modified, m->last_modified);

    if (m->provable && m->any_version)
        return true;
    if (m->etag[0] && h->etag.len > 0)
        return str_is(h->etag, m->etag);
    if (m->provable)
        return m->etag[0] || !m->last_modified[0] || h->last_modified.len == 0 ||
               same_date;
    if (m->weak_etag[0] && h->etag.len > 0 && !str_is(h->etag, m->weak_etag))
        return false;
    return same_date;
}

/* NULL, or why bytes of this response cannot follow those of the first one. A response
 * that starts at 0 follows nothing: without a strong validator it is a new first one.
 * Mirror locked. */
static const char *check_join(struct fdl_mirror *m, const struct fdl_http_head *h,
                              const struct fdl_request *q, uint64_t total)
{
    if (!m->pinned)
        return NULL;
    if (!m->provable && !has_strong_validator(m)) {
        if (q->off > 0)
            return "two responses cannot be joined: the server sends no strong "
                   "validator, and no checksum is known";
        m->pinned = false;
        m->total = UINT64_MAX;
        return NULL;
    }
    /* A validator distinguishes versions of one copy, and says nothing about another
     * one. */
    if (q->elsewhere && !m->provable)
        return "a redirect led to another copy, and no checksum is known";
    bool same_size = m->total == UINT64_MAX || total == UINT64_MAX || total == m->total;
    return same_size && same_version(m, h) ? NULL
                                           : "the source changed during the transfer";
}

static void pin(struct fdl_mirror *m, const struct fdl_http_head *h, uint64_t total)
{
    if (m->pinned)
        return;
    m->pinned = true;
    m->total = total;
    m->coding = h->coding;
    m->etag[0] = m->weak_etag[0] = m->last_modified[0] = '\0';
    if (h->etag_strong)
        copy_str(m->etag, sizeof m->etag, h->etag);
    else
        copy_str(m->weak_etag, sizeof m->weak_etag, h->etag);
    if (h->last_modified_strong)
        copy_str(m->last_modified, sizeof m->last_modified, h->last_modified);
}

/* ---- codings ---- */

/* Whether the bytes are the file's as they come: it is not packed, it is packed itself,
 * or an earlier response of the same kind was taken. Where a digest decides, a body
 * that begins as a packed one does is taken as well: *check. Mirror locked. */
static bool coding_fits(const struct fdl_mirror *m, const struct fdl_http_head *h,
                        const struct fdl_request *q, enum fdl_http_coding *check)
{
    *check = FDL_HTTP_PLAIN;
    if (h->coding == FDL_HTTP_PLAIN || (m->pinned && m->coding == h->coding) ||
        fdl_http_file_is_packed(h, q->target) || fdl_http_file_is_packed(h, m->url))
        return true;
    if (!m->provable || q->off > 0)
        return false;
    *check = h->coding;
    return h->coding != FDL_HTTP_UNKNOWN_CODING;
}

static int refuse_coding(uint64_t off, struct fdl_err *err)
{
    return fdl_fail(err, FDL_E_HTTP_PROTOCOL, off, FDL_WHAT_CODING);
}

/* ---- statuses ---- */

/* A server that cannot do ranges should ignore them, and some refuse them instead: one
 * that never served one is tried once without. Mirror locked. */
static bool try_without_range(struct fdl_mirror *m, const struct fdl_request *q)
{
    if (!q->ranged || m->ranges != FDL_RANGES_UNKNOWN || m->asked_without)
        return false;
    m->asked_without = true;
    m->ranges = FDL_RANGES_NO;
    return true;
}

static bool ask_without_range(struct fdl_mirror *m, const struct fdl_request *q,
                              struct fdl_response *out)
{
    pthread_mutex_lock(&m->lock);
    bool yes = try_without_range(m, q);
    pthread_mutex_unlock(&m->lock);
    if (yes)
        *out = (struct fdl_response){.again = true};
    return yes;
}

static int check_206(struct fdl_mirror *m, const struct fdl_http_head *h,
                     const struct fdl_request *q, struct fdl_response *out,
                     struct fdl_err *err)
{
    const struct fdl_http_range *r = &h->range;
    uint64_t off = q->off, asked_end = q->len == UINT64_MAX ? q->len : off + q->len;
    enum fdl_http_coding packed;

    if (!h->has_range && fdl_http_is_empty(h) && ask_without_range(m, q, out))
        return FDL_OK;
    if (h->multipart || !h->has_range)
        return fdl_fail(err, FDL_E_HTTP_PROTOCOL, off,
                        h->multipart ? "a multipart response to a single range"
                                     : "a partial response without Content-Range");
    /* What it covers beyond the wanted range is as good as the rest. */
    if (r->first > off || r->last < off)
        return fdl_fail(err, FDL_E_HTTP_PROTOCOL, off, "another range than asked for");
    bool all = r->first == 0 && r->last + 1 == r->total;
    if (off - r->first > SKIP_MAX && !all)
        return fdl_fail(err, FDL_E_HTTP_PROTOCOL, off,
                        "the range starts too far before the one asked for");
    uint64_t n = r->last - r->first + 1;
    pthread_mutex_lock(&m->lock);
    bool fits = coding_fits(m, h, q, &packed);
    const char *why = fits ? check_join(m, h, q, r->total) : NULL;
    if (fits && !why) {
        pin(m, h, r->total);
        if (m->total == UINT64_MAX)
            m->total = r->total;
        /* The whole under the name of a part: this server has no ranges. */
        m->ranges = all && off > 0 ? FDL_RANGES_NO : FDL_RANGES_YES;
    }
    pthread_mutex_unlock(&m->lock);
    if (!fits)
        return refuse_coding(off, err);
    if (why)
        return fdl_fail(err, FDL_E_ORIGIN_CHANGED, off, why);
    *out =
        (struct fdl_response){.off = r->first,
                              .end = r->first + n,
                              .left = n,
                              .whole = r->last + 1 == r->total && r->last >= asked_end,
                              .packed = packed};
    return FDL_OK;
}

/* A 200 is the whole body from offset 0: never a segment (RFC 9110, 14.2). */
static int check_200(struct fdl_mirror *m, const struct fdl_http_head *h,
                     const struct fdl_request *q, struct fdl_response *out,
                     struct fdl_err *err)
{
    uint64_t off = q->off;
    uint64_t total = h->framing == FDL_HTTP_LENGTH ? h->content_length : UINT64_MAX;
    enum fdl_http_coding packed;
    bool again = false;

    /* Nothing at all for a range may be a refusal too; without one it is the file. */
    if ((fdl_http_is_empty(h) || h->maybe_part) && ask_without_range(m, q, out))
        return FDL_OK;
    if (h->maybe_part)
        return fdl_fail(err, FDL_E_HTTP_PROTOCOL, off,
                        "a part of the file under the status of the whole");
    pthread_mutex_lock(&m->lock);
    bool fits = coding_fits(m, h, q, &packed);
    const char *why = fits ? check_join(m, h, q, total) : NULL;
    uint64_t known = m->total;
    bool had_ranges = m->ranges == FDL_RANGES_YES;
    bool same_tag = m->etag[0] && str_is(h->etag, m->etag);
    if (fits && !why && had_ranges && q->if_range && same_tag) {
        /* Nothing changed, but this server responds 200 to If-Range (seen on CDNs). */
        m->no_if_range = true;
        again = true;
    } else if (fits && !why && (!had_ranges || !q->if_range || !m->etag[0])) {
        pin(m, h, total);
        m->ranges = FDL_RANGES_NO;
    } else if (!why) {
        why = "the source changed during the transfer";
    }
    pthread_mutex_unlock(&m->lock);
    if (!fits)
        return refuse_coding(off, err);
    if (why)
        return fdl_fail(err, FDL_E_ORIGIN_CHANGED, off, why);
    if (again) {
        *out = (struct fdl_response){.again = true};
        return FDL_OK;
    }
    if (h->framing == FDL_HTTP_UNTIL_CLOSE) {
        if (known == UINT64_MAX)
            known = m->expected;
        if (known == UINT64_MAX && !m->provable)
            return fdl_fail(
                err, FDL_E_HTTP_PROTOCOL, off,
                "a body without length: its end looks like a lost connection, and "
                "no checksum is known");
        total = known;
    }
    *out = (struct fdl_response){.end = total == UINT64_MAX ? known : total,
                                 .left = total,
                                 .whole = true,
                                 .packed = packed};
    return FDL_OK;
}

/* 416 reports the size, if the request was beyond it. */
static int check_416(struct fdl_mirror *m, const struct fdl_http_head *h,
                     const struct fdl_request *q, struct fdl_response *out,
                     struct fdl_err *err)
{
    uint64_t off = q->off;

    pthread_mutex_lock(&m->lock);
    bool same = m->pinned && m->total == h->range.total;
    bool end = h->has_unsatisfied_range && off >= h->range.total &&
               (same || !m->pinned || m->total == UINT64_MAX);
    if (end) {
        pin(m, h, h->range.total);
        m->total = h->range.total;
        m->ranges = FDL_RANGES_YES;
    }
    bool again = !end && try_without_range(m, q);
    pthread_mutex_unlock(&m->lock);
    /* Ranges of a source whose size no response had reported, or an empty one. */
    if (end)
        *out = (struct fdl_response){.off = off, .end = off, .whole = true};
    else if (again)
        *out = (struct fdl_response){.again = true};
    if (end || again)
        return FDL_OK;
    return fdl_fail(err, same ? FDL_E_HTTP_PROTOCOL : FDL_E_ORIGIN_CHANGED, off,
                    same ? "a range inside the source was refused"
                         : "the source changed: the range is outside of it now");
}

static const char *what_of(int status, bool anonymous)
{
    if (anonymous && (status == 400 || status == 401 || status == 403))
        return "the server denies access: it wants a client certificate (--cert, "
               "--key)";
    switch (status) {
    case 203:
        return "a proxy changed the file on its way (203), and no checksum is known";
    case 401:
        return "the server wants a login or token, or refuses the one it got "
               "(-u, -n, --bearer-file)";
    case 403:
        return "the server denies access";
    case 404:
    case 410:
        return "the server has no such file";
    case 407:
        return FDL_WHAT_PROXY_CREDENTIALS;
    case 429:
        return "the server limits the rate of requests";
    default:
        return status >= 500 ? "the server failed"
                             : "the server gave an unusable status";
    }
}

static int check_status(struct fdl_mirror *m, const struct fdl_http_head *h,
                        const struct fdl_request *q, struct fdl_response *out,
                        struct fdl_err *err)
{
    if (fdl_http_status_refuses_range(h->status) && ask_without_range(m, q, out))
        return FDL_OK;
    fdl_fail(err, FDL_E_HTTP_STATUS, FDL_NO_OFFSET, what_of(h->status, q->anonymous));
    if (err) {
        err->http_status = h->status;
        err->retry_after_s = h->retry_after_s;
    }
    return FDL_E_HTTP_STATUS;
}

int fdl_response_check(struct fdl_mirror *m, const struct fdl_http_head *h,
                       const struct fdl_request *q, struct fdl_response *out,
                       struct fdl_err *err)
{
    if (h->status == 206)
        return check_206(m, h, q, out, err);
    /* 203 is a 200 from somebody else (RFC 9110, 15.3.4). */
    if (h->status == 200 || (h->status == 203 && m->provable))
        return check_200(m, h, q, out, err);
    if (h->status == 416 && h->has_unsatisfied_range)
        return check_416(m, h, q, out, err);
    return check_status(m, h, q, out, err);
}
