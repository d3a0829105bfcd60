/* SPDX-License-Identifier: Apache-2.0 */
/* fdl_stream_http.c - one range per request over a kept-alive connection: redirects
 * judged hop by hop, every answer checked before a byte of it is given away. */
#include "fdl_stream_http_priv.h"

#include <stdlib.h>
#include <string.h>

#include "fdl_answer.h"

/* Times that one request is made: without If-Range, without Range, at the typed place.
 */
#define ASK_MAX 4
/* Reading on is cheaper than a new request, up to here. */
#define READ_AWAY_MAX (UINT64_C(1) << 20)

static struct http_stream *self_of(struct fdl_stream *base)
{
    return (struct http_stream *)base;
}

static int follow(const struct http_stream *s, CURLU *u, const struct fdl_place *at,
                  struct fdl_err *err)
{
    if (!s->net->follow_redirects)
        return fdl_fail(err, FDL_E_POLICY, FDL_NO_OFFSET,
                        "redirects are not allowed here");
    return fdl_place_follow(u, s->head.location, at, err);
}

static void remember_place(struct fdl_mirror *m, CURLU *u, enum fdl_addr_via via,
                           enum fdl_addr_class from)
{
    char *url = NULL;

    if (curl_url_get(u, CURLUPART_URL, &url, 0) != CURLUE_OK)
        return;
    pthread_mutex_lock(&m->lock);
    free(m->final_url);
    m->final_url = strdup(url);
    m->final_via = via;
    m->final_from = from;
    pthread_mutex_unlock(&m->lock);
    curl_free(url);
}

static int open_body(struct http_stream *s, const char *target, uint64_t off,
                     uint64_t len, bool *again, struct fdl_err *err)
{
    struct fdl_question question = {.off = off,
                                    .len = len,
                                    .ranged = s->ranged,
                                    .if_range = s->if_range,
                                    .target = target};
    struct fdl_answer answer;

    s->clean_end = s->head.keep_alive && s->head.framing != FDL_HTTP_UNTIL_CLOSE;
    s->body_open = true;
    if (s->head.status != 200 && s->head.status != 206)
        s->base.retry_after_s = s->head.retry_after_s;
    int rc = fdl_answer_judge(s->base.mirror, &s->head, &question, &answer, err);
    *again = rc == FDL_OK && answer.again;
    if (rc != FDL_OK || *again) {
        fdl_http_drop(s);
        return rc;
    }
    s->left = answer.left;
    s->base.off = answer.off;
    s->base.end = answer.end;
    s->base.whole = answer.whole;
    s->packed = answer.packed;
    return fdl_http_body_open(s, err);
}

/* The source ends before `off`, which nobody knew: an empty response there tells it. */
static int end_before(struct http_stream *s, uint64_t off, struct fdl_err *err)
{
    struct fdl_mirror *m = s->base.mirror;

    pthread_mutex_lock(&m->lock);
    bool news = m->total == UINT64_MAX || m->total == s->base.off;
    if (news)
        m->total = s->base.off;
    pthread_mutex_unlock(&m->lock);
    if (!news)
        return fdl_fail(err, FDL_E_ORIGIN_CHANGED, s->base.off,
                        "the source is shorter than before");
    s->base.off = s->base.end = off;
    return FDL_OK;
}

/* What a response has before `off` is read and thrown away. */
static int skip_to(struct http_stream *s, uint64_t off, struct fdl_err *err)
{
    char waste[64 * 1024];

    while (s->base.off < off) {
        if (atomic_load(
                &s->wake->cancel)) /* bytes that are there already wait for nobody */
            return fdl_fail(err, FDL_E_CANCELLED, FDL_NO_OFFSET, "cancelled");
        uint64_t want = off - s->base.off;
        long n = fdl_http_body_read(
            s, waste, want < sizeof waste ? (size_t)want : sizeof waste, err);
        if (n < 0)
            return (int)n;
        if (n == 0)
            return end_before(s, off, err);
    }
    return FDL_OK;
}

static int begin_once(struct http_stream *s, uint64_t off, uint64_t len, bool *again,
                      struct fdl_err *err)
{
    struct fdl_mirror *m = s->base.mirror;
    CURLU *u = curl_url();
    struct fdl_place p = {0};
    int rc;

    pthread_mutex_lock(&m->lock);
    bool remembered = m->final_url != NULL;
    enum fdl_addr_via via = remembered ? m->final_via : m->via;
    enum fdl_addr_class from = remembered ? m->final_from : m->from;
    CURLUcode set =
        u ? curl_url_set(u, CURLUPART_URL, remembered ? m->final_url : m->url, 0)
          : CURLUE_OUT_OF_MEMORY;
    pthread_mutex_unlock(&m->lock);
    if (set != CURLUE_OK) {
        curl_url_cleanup(u);
        return fdl_fail(err, FDL_E_USAGE, FDL_NO_OFFSET, "the URL cannot be used");
    }
    for (int hops = 0;; hops++) {
        fdl_place_clear(&p);
        rc = fdl_place_from(u, &p, err);
        if (rc == FDL_OK)
            rc = fdl_http_exchange(s, &p, via, from, off, len, err);
        if (rc != FDL_OK)
            break;
        if (!fdl_place_is_redirect(s->head.status)) {
            rc = open_body(s, p.target, off, len, again, err);
            if (rc == FDL_OK && hops > 0)
                remember_place(m, u, via, from);
            break;
        }
        if (hops == FDL_REDIRECTS_MAX) {
            rc = fdl_fail(err, FDL_E_POLICY, FDL_NO_OFFSET, "too many redirects");
            break;
        }
        rc = follow(s, u, &p, err);
        if (rc != FDL_OK)
            break;
        via = FDL_VIA_LINKED;
        from = s->base.peer;
        s->left = s->head.framing == FDL_HTTP_LENGTH ? s->head.content_length : 0;
        s->clean_end = s->head.keep_alive && s->head.framing != FDL_HTTP_UNTIL_CLOSE;
        s->body_open = true;
        fdl_http_body_drain(s);
    }
    if (rc != FDL_OK)
        fdl_http_drop(s);
    fdl_place_clear(&p);
    curl_url_cleanup(u);
    if (rc == FDL_E_HTTP_STATUS && remembered && err && err->http_status >= 400 &&
        err->http_status < 500 && err->http_status != 429) {
        /* The place that a redirect named may have been good for a while only. */
        pthread_mutex_lock(&m->lock);
        free(m->final_url);
        m->final_url = NULL;
        pthread_mutex_unlock(&m->lock);
        *again = true;
    }
    return rc;
}

static int http_begin(struct fdl_stream *base, uint64_t off, uint64_t len,
                      struct fdl_err *err)
{
    struct http_stream *s = self_of(base);
    int rc = FDL_OK;

    base->retry_after_s = -1;
    if (s->body_open && base->whole && base->off <= off &&
        (base->mirror->ranges == FDL_RANGES_NO || off - base->off <= READ_AWAY_MAX))
        return skip_to(s, off, err);
    if (s->pipelined && (s->asked_off != off || s->asked_len != len))
        fdl_http_drop(s); /* its answer would be for somebody else */
    fdl_http_body_drain(s);
    for (int attempt = 0; attempt < ASK_MAX; attempt++) {
        bool again = false;
        rc = begin_once(s, off, len, &again, err);
        if (!again)
            break;
    }
    if (rc == FDL_OK && base->off < off)
        rc = skip_to(s, off, err);
    return rc;
}

static long http_read(struct fdl_stream *base, void *buf, size_t len,
                      struct fdl_err *err)
{
    return fdl_http_body_read(self_of(base), buf, len, err);
}

static void http_prefetch(struct fdl_stream *base, uint64_t off, uint64_t len)
{
    struct http_stream *s = self_of(base);
    struct fdl_mirror *m = base->mirror;
    struct fdl_err ignored;
    struct fdl_place p = {0};
    CURLU *u;

    if (s->pipelined || !s->conn || !s->clean_end || base->whole)
        return;
    pthread_mutex_lock(&m->lock);
    bool may = m->keep_alive_seen && !m->no_pipeline && m->ranges == FDL_RANGES_YES;
    char *url = may ? strdup(m->final_url ? m->final_url : m->url) : NULL;
    pthread_mutex_unlock(&m->lock);
    if (!url)
        return;
    u = curl_url();
    if (u && curl_url_set(u, CURLUPART_URL, url, 0) == CURLUE_OK &&
        fdl_place_from(u, &p, NULL) == FDL_OK && strcmp(p.base, s->conn_base) == 0) {
        s->pipelined = fdl_http_ask(s, &p, fdl_place_same_origin(m->url, &p), off, len,
                                    &ignored) == FDL_OK;
        s->asked_off = off;
        s->asked_len = len;
        if (!s->pipelined)
            s->clean_end = false; /* half a request may be on its way */
    }
    fdl_place_clear(&p);
    curl_url_cleanup(u);
    free(url);
}

static void http_rebind(struct fdl_stream *base, struct fdl_wake *wake,
                        struct fdl_conn_times *times)
{
    struct http_stream *s = self_of(base);

    s->wake = wake;
    s->times = times;
    if (s->conn)
        fdl_conn_rebind(s->conn, wake, times);
}

static void http_free(struct fdl_stream *base)
{
    struct http_stream *s = self_of(base);

    fdl_http_body_forget_digest(s);
    fdl_http_drop(s);
    free(s);
}

static const struct fdl_stream_ops http_ops = {
    .begin = http_begin,
    .read = http_read,
    .prefetch = http_prefetch,
    .rebind = http_rebind,
    .free = http_free,
};

struct fdl_stream *fdl_stream_http_new(struct fdl_mirror *mirror, struct fdl_net *net,
                                       struct fdl_wake *wake,
                                       struct fdl_conn_times *times)
{
    struct http_stream *s = calloc(1, sizeof *s);

    if (!s)
        return NULL;
    s->base.ops = &http_ops;
    s->base.mirror = mirror;
    s->base.retry_after_s = -1;
    s->net = net;
    s->wake = wake;
    s->times = times;
    s->base.peer = FDL_ADDR_RESERVED;
    return &s->base;
}

const struct fdl_http_head *fdl_stream_http_head(const struct fdl_stream *stream)
{
    const struct http_stream *s = (const struct http_stream *)stream;

    return stream->ops == &http_ops && s->head_valid ? &s->head : NULL;
}

struct fdl_stream *fdl_stream_new(struct fdl_mirror *mirror, struct fdl_net *net,
                                  struct fdl_wake *wake, struct fdl_conn_times *times)
{
    switch (mirror->kind) {
    case FDL_MIRROR_HTTP:
        return fdl_stream_http_new(mirror, net, wake, times);
    case FDL_MIRROR_FILE:
        return fdl_stream_file_new(mirror, times);
    default:
        return fdl_stream_nfs_new(mirror, net, wake, times);
    }
}
