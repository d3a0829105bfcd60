/* SPDX-License-Identifier: Apache-2.0 */
/* source/stream_http_exchange.c - a request goes out, the head of its response comes
 * in: connections, kept alive, and who gets which headers. */
#include "base/clock.h"
#include "source/stream_http_priv.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

/* Of a body, at most this much is copied once. */
#define HEAD_READ (16 * 1024)
/* The size of a request besides its target, the host (twice), and the caller's lines.
 */
#define REQUEST_REST (2 * 1024 + FDL_HTTP_ETAG_MAX)

void fdl_http_drop(struct http_stream *s)
{
    fdl_conn_close(s->conn);
    s->conn = NULL;
    free(s->conn_base);
    s->conn_base = NULL;
    s->have = s->pos = 0;
    s->body_open = false;
    s->pipelined = false;
    s->served = 0;
}

/* A proxy resolves names where our policy cannot see it. What the text says is checked
 * all the same; a name counts as public when it leads on: it may be anybody's. Without
 * a proxy the connection tells, but for spellings that resolvers read differently. */
static int check_text(struct http_stream *s, const struct fdl_location *p, bool proxied,
                      enum fdl_addr_via via, enum fdl_addr_class from,
                      enum fdl_addr_class *class, struct fdl_err *err)
{
    struct sockaddr_storage ss;
    const struct sockaddr *sa = (const struct sockaddr *)&ss;
    enum fdl_addr_text kind = fdl_addr_from_text(p->host, &ss);
    bool literal = kind == FDL_ADDR_IS_LITERAL, unusual = kind == FDL_ADDR_IS_UNUSUAL;

    if (proxied || unusual)
        fdl_net_note(s->net, literal ? sa : NULL);
    if (unusual ||
        (proxied && literal && !fdl_addr_allowed(sa, &s->net->policy, via, from)))
        return fdl_fail(err, FDL_E_POLICY, FDL_NO_OFFSET, FDL_ADDR_FORBIDDEN);
    *class = literal ? fdl_addr_classify(sa) : FDL_ADDR_PUBLIC;
    return FDL_OK;
}

static const struct fdl_proxy *proxy_for(const struct http_stream *s,
                                         const struct fdl_location *p)
{
    return fdl_proxy_for(&s->net->proxies, p->tls, p->host);
}

static int connect_to(struct http_stream *s, const struct fdl_location *p,
                      enum fdl_addr_via via, enum fdl_addr_class from,
                      struct fdl_err *err)
{
    struct fdl_target_host host = {
        .base_url = p->base, .host = p->host, .tls = p->tls, .via = via, .from = from};

    if (s->conn && strcmp(s->conn_base, p->base) == 0)
        return FDL_OK;
    fdl_http_drop(s);
    enum fdl_addr_class unseen = FDL_ADDR_PUBLIC;
    bool proxied = proxy_for(s, p) != NULL;
    int rc = check_text(s, p, proxied, via, from, &unseen, err);
    if (rc != FDL_OK)
        return rc;
    rc = fdl_conn_open(&s->conn, s->net, &host, s->wakeup, s->times, err);
    if (rc != FDL_OK)
        return rc;
    s->conn_base = strdup(p->base);
    if (!s->conn_base) {
        fdl_http_drop(s);
        return fdl_nomem(err, "a request");
    }
    s->base.peer = proxied ? unseen : fdl_conn_peer_class(s->conn);
    return FDL_OK;
}

/* An http proxy needs the whole URL for plain http; SOCKS and tunnels do not see it.
 * The proxy that will read the request, or NULL. */
static const struct fdl_proxy *plain_proxy(const struct http_stream *s,
                                           const struct fdl_location *p)
{
    const struct fdl_proxy *proxy = proxy_for(s, p);

    return proxy && !p->tls && !proxy->socks ? proxy : NULL;
}

static struct fdl_cookie_location cookie_location(const struct fdl_location *p)
{
    return (struct fdl_cookie_location){
        .host = p->host, .target = p->target, .tls = p->tls};
}

/* Whether the caller's lines hold a field; they were checked where they came in. */
static bool has_field(const char *lines, const char *name)
{
    size_t n = strlen(name);

    for (const char *line = lines; line && *line;) {
        if (strncasecmp(line, name, n) == 0 && line[n] == ':')
            return true;
        line = strchr(line, '\n');
        line = line ? line + 1 : NULL;
    }
    return false;
}

/* The caller's lines, for the origin that they were given for and no other, the cookies
 * of the job, unless the caller gave his own, and the credentials for a proxy that
 * reads the request. OWNED, NULL without memory. */
static char *extra_lines(struct http_stream *s, const struct fdl_location *p,
                         bool own_origin)
{
    const char *own =
        own_origin && s->base.mirror->headers ? s->base.mirror->headers : "";
    const struct fdl_proxy *proxy = plain_proxy(s, p);
    const char *credentials = proxy && proxy->field ? proxy->field : "";
    struct fdl_cookie_location location = cookie_location(p);
    char cookies[FDL_COOKIE_FIELD_MAX] = "", *lines;

    if (!has_field(own, "cookie"))
        fdl_cookies_render(&s->net->cookies, &location, cookies, sizeof cookies);
    int n = asprintf(&lines, "%s%s%s%s%s", own, credentials, *cookies ? "Cookie: " : "",
                     cookies, *cookies ? "\r\n" : "");
    return n < 0 ? NULL : lines;
}

static void take_cookies(struct http_stream *s, const struct fdl_location *p)
{
    struct fdl_cookie_location location = cookie_location(p);

    for (size_t i = 0; i < s->head.n_fields; i++) {
        const struct fdl_http_field *f = &s->head.fields[i];
        if (f->name.len == strlen("set-cookie") &&
            strncasecmp(f->name.ptr, "set-cookie", f->name.len) == 0)
            fdl_cookies_take(&s->net->cookies, &location, f->value,
                             (int64_t)time(NULL));
    }
}

/* Renders and sends. */
static int send_request(struct http_stream *s, const struct fdl_http_request *req,
                        struct fdl_err *err)
{
    size_t cap =
        REQUEST_REST + strlen(req->target) + 2 * strlen(req->host) + strlen(req->extra);
    char *out = malloc(cap);

    if (!out)
        return fdl_nomem(err, "a request");
    long n = fdl_http_render_get(req, out, cap, err);
    if (n > 0) {
        atomic_fetch_add_explicit(&s->base.mirror->requests, 1, memory_order_relaxed);
        n = fdl_conn_send(s->conn, out, (size_t)n, err);
    }
    free(out);
    return (int)n;
}

static void note_sent(const struct http_stream *s, const struct fdl_location *p,
                      const struct fdl_http_request *req)
{
    struct fdl_request_note note = {.event = FDL_REQUEST_SENT,
                                    .off = req->ranged ? req->first : UINT64_MAX,
                                    .end = UINT64_MAX,
                                    .fresh = s->served == 0 && !s->body_open};

    if (req->ranged && req->last != UINT64_MAX)
        note.end = req->last + 1;
    if (s->redirected)
        snprintf(note.where, sizeof note.where, "%s%.*s", p->base,
                 (int)strcspn(p->target, "?"), p->target);
    fdl_request_log_add(&s->base.tap, &note);
}

static void note_answered(const struct http_stream *s, uint64_t took_ns)
{
    struct fdl_request_note note = {.event = FDL_REQUEST_ANSWERED,
                                    .off = UINT64_MAX,
                                    .end = UINT64_MAX,
                                    .status = s->head.status,
                                    .took_ns = took_ns};

    if (s->head.has_range) {
        note.off = s->head.range.first;
        note.end = s->head.range.last + 1;
    }
    fdl_request_log_add(&s->base.tap, &note);
}

int fdl_http_ask(struct http_stream *s, const struct fdl_location *p, bool own_origin,
                 uint64_t off, uint64_t len, struct fdl_err *err)
{
    struct fdl_mirror *m = s->base.mirror;
    char validator[FDL_HTTP_ETAG_MAX + 1] = "";
    struct fdl_http_request req = {
        .target = p->target, .host = p->field, .user_agent = s->net->user_agent};
    char *whole = NULL, *extra = extra_lines(s, p, own_origin);
    int rc;

    pthread_mutex_lock(&m->lock);
    if (m->ranges != FDL_RANGES_NO) {
        req.ranged = true;
        req.first = off;
        req.last = len == UINT64_MAX ? UINT64_MAX : off + len - 1;
        /* Another copy may have other tags: its response is compared instead. */
        if (m->pinned && !m->no_if_range && !m->any_version &&
            fdl_location_is(p, m->location)) {
            const char *v = m->etag[0] ? m->etag : m->last_modified;
            memcpy(validator, v, strlen(v) + 1);
        }
    }
    pthread_mutex_unlock(&m->lock);
    s->ranged = req.ranged;
    s->if_range = validator[0] != '\0';
    if (s->if_range)
        req.if_range = validator;
    if (plain_proxy(s, p))
        req.target = whole = fdl_join("http://", p->field, p->target);
    req.extra = extra;
    if (s->base.tap.log)
        note_sent(s, p, &req);
    if (!extra || !req.target)
        rc = fdl_nomem(err, "a request");
    else
        rc = send_request(s, &req, err);
    free(whole);
    free(extra);
    return rc;
}

/* Reads one head into s->head; 1xx responses are skipped. */
static int read_head(struct http_stream *s, struct fdl_err *err)
{
    int informational = 0;

    if (s->pos > 0) {
        memmove(s->buf, s->buf + s->pos, s->have - s->pos);
        s->have -= s->pos;
        s->pos = 0;
    }
    for (;;) {
        if (s->have > 0) {
            long n = fdl_http_parse_head(s->buf, s->have, &s->head, err);
            if (n < 0)
                return (int)n;
            if (n > 0 && s->head.status >= 200) {
                s->pos = s->body_at = (size_t)n;
                s->head_valid = true;
                return FDL_OK;
            }
            if (n > 0) {
                if (++informational > FDL_HTTP_1XX_MAX)
                    return fdl_fail(err, FDL_E_HTTP_PROTOCOL, FDL_NO_OFFSET,
                                    "too many interim responses");
                memmove(s->buf, s->buf + n, s->have - (size_t)n);
                s->have -= (size_t)n;
                continue;
            }
        }
        size_t room = sizeof s->buf - s->have;
        long n = fdl_conn_recv(s->conn, s->buf + s->have,
                               room < HEAD_READ ? room : HEAD_READ, 1, err);
        if (n < 0)
            return (int)n;
        if (n == 0)
            return fdl_fail(err, FDL_E_NET, FDL_NO_OFFSET,
                            s->have == 0 && fdl_conn_wants_identity(s->conn)
                                ? FDL_WHAT_ANONYMOUS
                                : "the connection was closed before a response");
        s->have += (size_t)n;
    }
}

/* Sends the request and reads the head; a kept-alive connection that the server closed
 * meanwhile gets one fresh try, which is no error of the mirror. */
int fdl_http_exchange(struct http_stream *s, const struct fdl_location *p,
                      enum fdl_addr_via via, enum fdl_addr_class from, uint64_t off,
                      uint64_t len, struct fdl_err *err)
{
    struct fdl_mirror *m = s->base.mirror;
    bool own = fdl_location_same_origin(m->url, p);

    /* Requests sent elsewhere get no response here. */
    if (s->pipelined && (!s->conn || strcmp(s->conn_base, p->base) != 0))
        fdl_http_drop(s);
    for (int attempt = 0;; attempt++) {
        bool asked = s->pipelined;
        s->pipelined = false;
        if (!asked && s->conn && (s->pos < s->have || !fdl_conn_is_quiet(s->conn)))
            fdl_http_drop(s); /* closed, or it sent unsolicited data */
        int rc = connect_to(s, p, via, from, err);
        bool reused = s->served > 0;
        uint64_t sent = fdl_now_ns();
        if (rc == FDL_OK && !asked)
            rc = fdl_http_ask(s, p, own, off, len, err);
        if (rc == FDL_OK)
            rc = read_head(s, err);
        if (rc == FDL_OK) {
            take_cookies(s, p);
            uint64_t took = fdl_now_ns() - sent;
            if (!asked) {
                pthread_mutex_lock(&m->lock);
                if (m->rtt_ns == 0 || took < m->rtt_ns)
                    m->rtt_ns = took;
                pthread_mutex_unlock(&m->lock);
            }
            if (s->base.tap.log)
                note_answered(s, asked ? 0 : took);
            return FDL_OK;
        }
        bool fresh_try = rc == FDL_E_NET && reused && s->have == 0 && attempt == 0;
        if (asked && fresh_try) {
            pthread_mutex_lock(&m->lock);
            m->no_pipeline = true;
            pthread_mutex_unlock(&m->lock);
        }
        fdl_http_drop(s);
        if (!fresh_try)
            return rc;
        if (s->base.tap.log)
            fdl_request_log_add(
                &s->base.tap,
                &(struct fdl_request_note){.event = FDL_REQUEST_LEFT, .err = *err});
    }
}
