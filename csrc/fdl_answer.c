/* SPDX-License-Identifier: Apache-2.0 */
#include "fdl_answer.h"

#include <pthread.h>
#include <string.h>

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

/* Whether what the response says of its version is what the first one said. A tag that
 * is missing now says nothing, a strong date then still does; where a digest decides,
 * nothing has to. Mirror locked. */
static bool same_version(const struct fdl_mirror *m, const struct fdl_http_head *h)
{
    bool same_date = m->last_modified[0] && str_is(h->last_modified, m->last_modified);

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
                              uint64_t off, uint64_t total)
{
    if (!m->pinned)
        return NULL;
    if (!m->provable && !has_strong_validator(m)) {
        if (off > 0)
            return "two responses cannot be joined: the server sends no strong "
                   "validator, and no checksum is known";
        m->pinned = false;
        m->total = UINT64_MAX;
        return NULL;
    }
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
    m->etag[0] = m->weak_etag[0] = m->last_modified[0] = '\0';
    if (h->etag_strong)
        copy_str(m->etag, sizeof m->etag, h->etag);
    else
        copy_str(m->weak_etag, sizeof m->weak_etag, h->etag);
    if (h->last_modified_strong)
        copy_str(m->last_modified, sizeof m->last_modified, h->last_modified);
}

static int judge_206(struct fdl_mirror *m, const struct fdl_http_head *h,
                     const struct fdl_question *q, struct fdl_answer *out,
                     struct fdl_err *err)
{
    uint64_t off = q->off, len = q->len;

    if (h->multipart || h->encoded || !h->has_range)
        return fdl_fail(err, FDL_E_HTTP_PROTOCOL, off,
                        h->multipart ? "a multipart answer to a single range"
                        : h->encoded ? "a content coding nobody asked for"
                                     : "a partial answer without Content-Range");
    if (h->range.first != off)
        return fdl_fail(err, FDL_E_HTTP_PROTOCOL, off, "another range than asked for");
    if (len != UINT64_MAX && h->range.last - off >= len)
        return fdl_fail(err, FDL_E_HTTP_PROTOCOL, off, "a longer range than asked for");
    uint64_t n = h->range.last - h->range.first + 1;
    if (h->framing == FDL_HTTP_LENGTH && h->content_length != n)
        return fdl_fail(err, FDL_E_HTTP_PROTOCOL, off,
                        "Content-Length and Content-Range contradict each other");
    pthread_mutex_lock(&m->lock);
    const char *why = check_join(m, h, off, h->range.total);
    if (!why) {
        pin(m, h, h->range.total);
        if (m->total == UINT64_MAX)
            m->total = h->range.total;
        m->ranges = FDL_RANGES_YES;
    }
    pthread_mutex_unlock(&m->lock);
    if (why)
        return fdl_fail(err, FDL_E_ORIGIN_CHANGED, off, why);
    *out = (struct fdl_answer){.off = off, .end = off + n, .left = n};
    return FDL_OK;
}

/* A 200 is the whole body from offset 0: never a segment (RFC 9110, 14.2). */
static int judge_200(struct fdl_mirror *m, const struct fdl_http_head *h,
                     const struct fdl_question *q, struct fdl_answer *out,
                     struct fdl_err *err)
{
    uint64_t off = q->off;
    bool again = false;
    uint64_t total = h->framing == FDL_HTTP_LENGTH ? h->content_length : UINT64_MAX;

    if (h->encoded)
        return fdl_fail(err, FDL_E_HTTP_PROTOCOL, off,
                        "a content coding nobody asked for");
    pthread_mutex_lock(&m->lock);
    const char *why = check_join(m, h, off, total);
    uint64_t known = m->total;
    bool had_ranges = m->ranges == FDL_RANGES_YES;
    bool same_tag = m->etag[0] && str_is(h->etag, m->etag);
    if (!why && had_ranges && q->if_range && same_tag) {
        /* Nothing changed, but this server answers If-Range with 200 (seen on CDNs). */
        m->no_if_range = true;
        again = true;
    } else if (!why && (!had_ranges || !q->if_range || !m->etag[0])) {
        pin(m, h, total);
        m->ranges = FDL_RANGES_NO;
    } else if (!why) {
        why = "the source changed during the transfer";
    }
    pthread_mutex_unlock(&m->lock);
    if (why)
        return fdl_fail(err, FDL_E_ORIGIN_CHANGED, off, why);
    if (again) {
        *out = (struct fdl_answer){.again = true};
        return FDL_OK;
    }
    if (h->framing == FDL_HTTP_UNTIL_CLOSE) {
        if (known == UINT64_MAX)
            known = m->expected;
        if (known == UINT64_MAX)
            return fdl_fail(err, FDL_E_HTTP_PROTOCOL, off,
                            "a body without length: its end cannot be told from a cut");
        total = known;
    }
    *out = (struct fdl_answer){
        .end = total == UINT64_MAX ? known : total, .left = total, .whole = true};
    return FDL_OK;
}

static int judge_status(struct fdl_mirror *m, const struct fdl_http_head *h,
                        uint64_t off, struct fdl_answer *out, struct fdl_err *err)
{
    int status = h->status;

    if (status == 416 && h->has_unsatisfied_range) {
        pthread_mutex_lock(&m->lock);
        bool same = m->pinned && m->total == h->range.total;
        bool end =
            off >= h->range.total && (same || !m->pinned || m->total == UINT64_MAX);
        if (end) {
            pin(m, h, h->range.total);
            m->total = h->range.total;
            m->ranges = FDL_RANGES_YES;
        }
        pthread_mutex_unlock(&m->lock);
        /* Ranges of a source whose size no answer had told, or an empty one. */
        if (end) {
            *out = (struct fdl_answer){.off = off, .end = off, .whole = true};
            return FDL_OK;
        }
        return fdl_fail(err, same ? FDL_E_HTTP_PROTOCOL : FDL_E_ORIGIN_CHANGED, off,
                        same ? "a range inside the source was refused"
                             : "the source changed: the range is outside of it now");
    }
    fdl_fail(err, FDL_E_HTTP_STATUS, FDL_NO_OFFSET,
             status == 401 || status == 403   ? "the server denies access"
             : status == 404 || status == 410 ? "the server has no such file"
             : status == 429                  ? "the server asks for fewer requests"
             : status >= 500                  ? "the server failed"
                                              : "the server gave an unusable status");
    if (err)
        err->http_status = status;
    return FDL_E_HTTP_STATUS;
}

int fdl_answer_judge(struct fdl_mirror *m, const struct fdl_http_head *h,
                     const struct fdl_question *q, struct fdl_answer *out,
                     struct fdl_err *err)
{
    if (h->status == 206)
        return judge_206(m, h, q, out, err);
    if (h->status == 200)
        return judge_200(m, h, q, out, err);
    return judge_status(m, h, q->off, out, err);
}
