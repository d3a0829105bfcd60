/* SPDX-License-Identifier: Apache-2.0 */
/* source/stream_http.c - one range per request over a kept-alive connection. */
#include "source/stream_http_priv.h"

#include <stdlib.h>
#include <string.h>

/* Reading on is cheaper than a new request, up to here. */
#define READ_AWAY_MAX (UINT64_C(1) << 20)

static struct http_stream *self_of(struct fdl_stream *base)
{
    return (struct http_stream *)base;
}

/* The source ends before `off`, which was unknown: an empty response there shows it. */
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
        if (atomic_load(&s->wakeup->cancel)) /* buffered bytes need no wait */
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

static int http_begin(struct fdl_stream *base, uint64_t off, uint64_t len,
                      struct fdl_err *err)
{
    struct http_stream *s = self_of(base);
    int rc;

    if (s->body_open && base->whole && base->off <= off &&
        (base->mirror->ranges == FDL_RANGES_NO || off - base->off <= READ_AWAY_MAX))
        return skip_to(s, off, err);
    if (s->pipelined && (s->asked_off != off || s->asked_len != len))
        fdl_http_drop(s); /* its response would be for somebody else */
    fdl_http_body_drain(s);
    rc = fdl_http_go(s, off, len, err);
    if (rc == FDL_OK && base->off < off) {
        rc = skip_to(s, off, err);
        fdl_http_give_up(s, rc);
    }
    return rc;
}

static long http_read(struct fdl_stream *base, void *buf, size_t len,
                      struct fdl_err *err)
{
    long n = fdl_http_body_read(self_of(base), buf, len, err);

    if (n < 0)
        fdl_http_give_up(self_of(base), (int)n);
    return n;
}

static void http_prefetch(struct fdl_stream *base, uint64_t off, uint64_t len)
{
    struct http_stream *s = self_of(base);
    struct fdl_mirror *m = base->mirror;
    struct fdl_err ignored;
    struct fdl_location p = {0};
    CURLU *u;

    if (s->pipelined || !s->conn || !s->clean_end || base->whole)
        return;
    pthread_mutex_lock(&m->lock);
    bool may = m->keep_alive_seen && !m->no_pipeline && m->ranges == FDL_RANGES_YES;
    char *url = may ? strdup(m->final_url ? m->final_url : m->url) : NULL;
    s->redirected = m->final_url != NULL;
    pthread_mutex_unlock(&m->lock);
    if (!url)
        return;
    u = curl_url();
    if (u && curl_url_set(u, CURLUPART_URL, url, 0) == CURLUE_OK &&
        fdl_location_of(u, &p, NULL) == FDL_OK && strcmp(p.base, s->conn_base) == 0) {
        s->pipelined = fdl_http_ask(s, &p, fdl_location_same_origin(m->url, &p), off,
                                    len, &ignored) == FDL_OK;
        s->asked_off = off;
        s->asked_len = len;
        if (!s->pipelined)
            s->clean_end = false; /* half a request may be on its way */
    }
    fdl_location_clear(&p);
    curl_url_cleanup(u);
    free(url);
}

static void http_rebind(struct fdl_stream *base, struct fdl_wakeup *wakeup,
                        struct fdl_conn_times *times)
{
    struct http_stream *s = self_of(base);

    s->wakeup = wakeup;
    s->times = times;
    if (s->conn)
        fdl_conn_rebind(s->conn, wakeup, times);
}

static void http_free(struct fdl_stream *base)
{
    struct http_stream *s = self_of(base);

    fdl_http_body_forget_digest(s);
    fdl_http_drop(s);
    fdl_http_drop_redirects(s);
    free(s->led_to);
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
                                       struct fdl_wakeup *wakeup,
                                       struct fdl_conn_times *times)
{
    struct http_stream *s = calloc(1, sizeof *s);

    if (!s)
        return NULL;
    s->base.ops = &http_ops;
    s->base.mirror = mirror;
    s->net = net;
    s->wakeup = wakeup;
    s->times = times;
    s->base.peer = FDL_ADDR_RESERVED;
    return &s->base;
}

const struct fdl_http_head *fdl_stream_http_head(const struct fdl_stream *stream)
{
    const struct http_stream *s = (const struct http_stream *)stream;

    return stream->ops == &http_ops && s->head_valid ? &s->head : NULL;
}

void fdl_stream_http_keep_redirects(struct fdl_stream *stream)
{
    if (stream->ops == &http_ops)
        self_of(stream)->keep_redirects = true;
}

size_t fdl_stream_http_redirects(const struct fdl_stream *stream,
                                 const struct fdl_redirect **list)
{
    const struct http_stream *s = (const struct http_stream *)stream;

    *list = stream->ops == &http_ops ? s->redirects : NULL;
    return stream->ops == &http_ops ? s->n_redirects : 0;
}

struct fdl_stream *fdl_stream_new(struct fdl_mirror *mirror, struct fdl_net *net,
                                  struct fdl_wakeup *wakeup,
                                  struct fdl_conn_times *times)
{
    switch (mirror->kind) {
    case FDL_MIRROR_HTTP:
        return fdl_stream_http_new(mirror, net, wakeup, times);
    case FDL_MIRROR_FILE:
        return fdl_stream_file_new(mirror, times);
    default:
        return fdl_stream_nfs_new(mirror, net, wakeup, times);
    }
}
