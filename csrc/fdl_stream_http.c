/* SPDX-License-Identifier: Apache-2.0 */
/* fdl_stream_http.c - one range per request over a kept-alive connection: redirects
 * judged hop by hop, every answer checked before a byte of it is given away. */
#include "fdl_stream.h"

#include <arpa/inet.h>
#include <curl/curl.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* Of a body, at most this much is copied once. */
#define HEAD_READ (16 * 1024)
/* Framing and body come mixed: all of it is copied. */
#define CHUNKED_READ (64 * 1024)
/* A shorter rest is read away to keep a connection. */
#define DRAIN_MAX (64 * 1024)
#define REQUEST_MAX (24 * 1024)

struct place {
    char *base;   /* OWNED: scheme://host:port */
    char *host;   /* OWNED: without brackets */
    char *field;  /* OWNED: value of the Host field */
    char *target; /* OWNED: path and query */
    bool tls;
};

struct http_stream {
    struct fdl_stream base;
    struct fdl_net *net;
    struct fdl_wake *wake;
    struct fdl_conn_times *times;
    struct fdl_conn *conn;
    char *conn_base; /* OWNED: what conn is connected to */
    int served;      /* answers completed on conn */
    enum fdl_addr_class peer;

    char buf[FDL_HTTP_HEAD_MAX + CHUNKED_READ];
    size_t body_at; /* what lies before in buf is the head, which `head` points into */
    size_t have, pos; /* bytes in buf, bytes of them used */
    struct fdl_http_head head;
    bool head_valid;

    bool body_open;
    uint64_t left; /* body bytes to come (LENGTH, UNTIL_CLOSE) */
    struct fdl_http_chunked chunked;
    bool clean_end; /* connection may serve another request after the body */
    bool if_range;  /* the last request carried a validator */

    uint64_t asked_off, asked_len; /* pipelined request that nobody has read yet */
    bool pipelined;

    EVP_MD_CTX *md; /* OWNED or NULL: Content-Digest of this answer (RFC 9530) */
    unsigned char md_want[EVP_MAX_MD_SIZE];
    unsigned md_len;
};

static struct http_stream *self_of(struct fdl_stream *base)
{
    return (struct http_stream *)base;
}

/* ---- places ---------------------------------------------------------------- */

static void place_clear(struct place *p)
{
    free(p->base);
    free(p->host);
    free(p->field);
    free(p->target);
    memset(p, 0, sizeof *p);
}

static char *join(const char *a, const char *b, const char *c)
{
    size_t n = strlen(a) + strlen(b) + strlen(c) + 1;
    char *s = malloc(n);

    if (s) {
        strcpy(s, a);
        strcat(s, b);
        strcat(s, c);
    }
    return s;
}

static int place_from(CURLU *u, struct place *p, struct fdl_err *err)
{
    char *scheme = NULL, *host = NULL, *port = NULL, *path = NULL, *query = NULL;
    int rc = FDL_OK;

    memset(p, 0, sizeof *p);
    if (curl_url_get(u, CURLUPART_SCHEME, &scheme, 0) != CURLUE_OK ||
        curl_url_get(u, CURLUPART_HOST, &host, 0) != CURLUE_OK ||
        curl_url_get(u, CURLUPART_PORT, &port, CURLU_DEFAULT_PORT) != CURLUE_OK ||
        curl_url_get(u, CURLUPART_PATH, &path, 0) != CURLUE_OK) {
        rc = fdl_fail(err, FDL_E_POLICY, FDL_NO_OFFSET, "the URL cannot be used");
        goto out;
    }
    curl_url_get(u, CURLUPART_QUERY, &query, 0);
    p->tls = strcasecmp(scheme, "https") == 0;
    if (!p->tls && strcasecmp(scheme, "http") != 0) {
        rc = fdl_fail(err, FDL_E_POLICY, FDL_NO_OFFSET,
                      "only http and https may be followed");
        goto out;
    }
    char *authority = join(host, ":", port);
    if (authority)
        p->base = join(p->tls ? "https" : "http", "://", authority);
    bool usual = strcmp(port, p->tls ? "443" : "80") == 0;
    p->field = usual ? strdup(host) : authority ? strdup(authority) : NULL;
    free(authority);
    size_t n = strlen(host);
    p->host = host[0] == '[' && n > 2 ? strndup(host + 1, n - 2) : strdup(host);
    p->target = query ? join(path, "?", query) : strdup(path);
    if (!p->base || !p->host || !p->field || !p->target) {
        place_clear(p);
        rc = fdl_fail(err, FDL_E_INTERNAL, FDL_NO_OFFSET, "no memory");
    }
out:
    curl_free(scheme);
    curl_free(host);
    curl_free(port);
    curl_free(path);
    curl_free(query);
    return rc;
}

/* ---- connection ------------------------------------------------------------ */

static void drop_conn(struct http_stream *s)
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

static void md_drop(struct http_stream *s)
{
    EVP_MD_CTX_free(s->md);
    s->md = NULL;
}

static int connect_to(struct http_stream *s, const struct place *p,
                      enum fdl_addr_via via, enum fdl_addr_class from,
                      struct fdl_err *err)
{
    struct fdl_target_host host = {
        .base_url = p->base, .host = p->host, .tls = p->tls, .via = via, .from = from};

    if (s->conn && strcmp(s->conn_base, p->base) == 0)
        return FDL_OK;
    drop_conn(s);
    if (s->net->proxy) {
        /* A proxy resolves names where our policy cannot see it; literal addresses are
         * judged all the same. */
        struct sockaddr_in in = {.sin_family = AF_INET};
        struct sockaddr_in6 in6 = {.sin6_family = AF_INET6};
        struct sockaddr *sa = NULL;
        if (inet_pton(AF_INET, p->host, &in.sin_addr) == 1)
            sa = (struct sockaddr *)&in;
        else if (inet_pton(AF_INET6, p->host, &in6.sin6_addr) == 1)
            sa = (struct sockaddr *)&in6;
        if (sa && !fdl_addr_allowed(sa, &s->net->policy, via, from))
            return fdl_fail(err, FDL_E_POLICY, FDL_NO_OFFSET,
                            "the address policy forbids the host's address");
    }
    int rc = fdl_conn_open(&s->conn, s->net, &host, s->wake, s->times, err);
    if (rc != FDL_OK)
        return rc;
    s->conn_base = strdup(p->base);
    if (!s->conn_base) {
        drop_conn(s);
        return fdl_fail(err, FDL_E_INTERNAL, FDL_NO_OFFSET, "no memory");
    }
    s->peer = fdl_conn_peer_class(s->conn);
    return FDL_OK;
}

/* An http proxy wants the whole URL for plain http; SOCKS and tunnels do not see it. */
static bool absolute_form(const struct http_stream *s, const struct place *p)
{
    return s->net->proxy && !p->tls && strncasecmp(s->net->proxy, "socks", 5) != 0;
}

static int send_request(struct http_stream *s, const struct place *p, bool own_origin,
                        uint64_t off, uint64_t len, struct fdl_err *err)
{
    struct fdl_mirror *m = s->base.mirror;
    char out[REQUEST_MAX], validator[FDL_HTTP_ETAG_MAX + 1] = "";
    struct fdl_http_request req = {.target = p->target,
                                   .host = p->field,
                                   .user_agent = s->net->user_agent,
                                   .extra = own_origin ? m->headers : NULL};
    char *whole = NULL;

    pthread_mutex_lock(&m->lock);
    if (m->ranges != FDL_RANGES_NO) {
        req.ranged = true;
        req.first = off;
        req.last = len == UINT64_MAX ? UINT64_MAX : off + len - 1;
        if (m->pinned && !m->no_if_range) {
            const char *v = m->etag[0] ? m->etag : m->last_modified;
            memcpy(validator, v, strlen(v) + 1);
        }
    }
    pthread_mutex_unlock(&m->lock);
    s->if_range = validator[0] != '\0';
    if (s->if_range)
        req.if_range = validator;
    if (absolute_form(s, p)) {
        whole = join("http://", p->field, p->target);
        if (!whole)
            return fdl_fail(err, FDL_E_INTERNAL, FDL_NO_OFFSET, "no memory");
        req.target = whole;
    }
    long n = fdl_http_render_get(&req, out, sizeof out, err);
    free(whole);
    if (n < 0)
        return (int)n;
    atomic_fetch_add_explicit(&m->requests, 1, memory_order_relaxed);
    return fdl_conn_send(s->conn, out, (size_t)n, err);
}

/* Reads one head into s->head; 1xx answers are skipped. */
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
                                    "too many interim answers");
                memmove(s->buf, s->buf + n, s->have - (size_t)n);
                s->have -= (size_t)n;
                continue;
            }
        }
        size_t room = sizeof s->buf - s->have;
        long n = fdl_conn_recv(s->conn, s->buf + s->have,
                               room < HEAD_READ ? room : HEAD_READ, err);
        if (n < 0)
            return (int)n;
        if (n == 0)
            return fdl_fail(err, FDL_E_NET, FDL_NO_OFFSET,
                            "the connection was closed before an answer");
        s->have += (size_t)n;
    }
}

/* ---- body ------------------------------------------------------------------ */

static long fill_raw(struct http_stream *s, void *buf, size_t len, struct fdl_err *err)
{
    if (s->pos < s->have) {
        size_t n = s->have - s->pos < len ? s->have - s->pos : len;
        memcpy(buf, s->buf + s->pos, n);
        s->pos += n;
        return (long)n;
    }
    return fdl_conn_recv(s->conn, buf, len, err);
}

static int body_finished(struct http_stream *s, struct fdl_err *err)
{
    s->body_open = false;
    if (s->md) {
        unsigned char got[EVP_MAX_MD_SIZE];
        unsigned n = 0;
        EVP_DigestFinal_ex(s->md, got, &n);
        md_drop(s);
        if (n != s->md_len || memcmp(got, s->md_want, n) != 0)
            return fdl_fail(err, FDL_E_INTEGRITY, s->base.off,
                            "the body does not match its Content-Digest");
    }
    if (!s->clean_end) {
        drop_conn(s);
        return FDL_OK;
    }
    if (++s->served >= 2) {
        pthread_mutex_lock(&s->base.mirror->lock);
        s->base.mirror->keep_alive_seen = true;
        pthread_mutex_unlock(&s->base.mirror->lock);
    }
    return FDL_OK;
}

static long read_chunked(struct http_stream *s, unsigned char *buf, size_t len,
                         struct fdl_err *err)
{
    for (;;) {
        if (s->chunked.done)
            return 0;
        if (s->pos == s->have) {
            s->pos = s->have = s->body_at;
            long n = fdl_conn_recv(s->conn, s->buf + s->have, CHUNKED_READ, err);
            if (n < 0)
                return n;
            if (n == 0)
                return fdl_fail(err, FDL_E_NET, s->base.off,
                                "the connection was closed before the last chunk");
            s->have += (size_t)n;
        }
        size_t room = s->have - s->pos, body_off = 0, body_len = 0;
        /* The decoder consumes a whole run of body, which must fit the caller's memory;
         * how long it is comes out byte by byte. */
        if (s->chunked.left == 0)
            room = 1;
        else if (room > len)
            room = len;
        long used = fdl_http_chunked_feed(&s->chunked, s->buf + s->pos, room, &body_off,
                                          &body_len, err);
        if (used < 0)
            return used;
        const char *src = s->buf + s->pos + body_off;
        s->pos += (size_t)used;
        if (body_len > 0) {
            memcpy(buf, src, body_len);
            return (long)body_len;
        }
        if (s->chunked.done)
            return 0;
    }
}

/* Whether something follows a body that has no length of its own. */
static bool surplus(struct http_stream *s)
{
    struct fdl_err ignored;
    char byte;

    return fill_raw(s, &byte, 1, &ignored) > 0;
}

static long http_read(struct fdl_stream *base, void *buf, size_t len,
                      struct fdl_err *err)
{
    struct http_stream *s = self_of(base);
    long n;

    if (!s->body_open)
        return 0;
    if (s->head.framing == FDL_HTTP_CHUNKED) {
        n = read_chunked(s, buf, len, err);
        if (n == 0 && base->end != UINT64_MAX && base->off != base->end)
            n = fdl_fail(err, FDL_E_HTTP_PROTOCOL, base->off,
                         "the body is shorter than its range");
        if (n > 0 && base->end != UINT64_MAX && (uint64_t)n > base->end - base->off)
            n = fdl_fail(err, FDL_E_HTTP_PROTOCOL, base->off,
                         "the body is longer than its range");
        else if (n > 0 && base->end - base->off == (uint64_t)n && !s->chunked.done) {
            unsigned char more;
            long rest =
                read_chunked(s, &more, 1, err); /* only the last chunk may follow */
            if (rest > 0)
                rest = fdl_fail(err, FDL_E_HTTP_PROTOCOL, base->end,
                                "the body is longer than its range");
            if (rest < 0)
                n = rest;
        }
    } else {
        if (s->left == 0) {
            n = 0;
        } else {
            n = fill_raw(s, buf, s->left < len ? (size_t)s->left : len, err);
            if (n == 0)
                n = fdl_fail(err, FDL_E_NET, base->off,
                             "the connection was closed before the end of the body");
            if (n > 0)
                s->left -= (uint64_t)n;
        }
    }
    if (n < 0) {
        md_drop(s);
        drop_conn(s);
        return n;
    }
    if (n > 0) {
        base->off += (uint64_t)n;
        atomic_fetch_add_explicit(&base->mirror->bytes, (uint64_t)n,
                                  memory_order_relaxed);
        if (s->md)
            EVP_DigestUpdate(s->md, buf, (size_t)n);
    }
    bool over = n == 0 ||
                (s->head.framing == FDL_HTTP_CHUNKED ? s->chunked.done : s->left == 0);
    if (over && s->head.framing == FDL_HTTP_UNTIL_CLOSE && surplus(s))
        return fdl_fail(err, FDL_E_SIZE, base->off,
                        "the source is longer than expected");
    if (over) {
        int rc = body_finished(s, err);
        if (rc != FDL_OK)
            return rc;
    }
    return n;
}

/* Reads a body that nobody wants, where that is cheaper than a new connection. */
static void drain(struct http_stream *s)
{
    char waste[8192];
    struct fdl_err ignored;

    md_drop(s);
    if (!s->body_open)
        return;
    if (!s->clean_end || s->head.framing == FDL_HTTP_CHUNKED || s->left > DRAIN_MAX) {
        drop_conn(s);
        return;
    }
    while (s->body_open && s->left > 0) {
        long n =
            fill_raw(s, waste, s->left < sizeof waste ? (size_t)s->left : sizeof waste,
                     &ignored);
        if (n <= 0) {
            drop_conn(s);
            return;
        }
        s->left -= (uint64_t)n;
    }
    s->body_open = false;
    s->served++;
}

/* Content-Digest covers exactly this answer's content (RFC 9530, 2). */
static void expect_content_digest(struct http_stream *s)
{
    struct fdl_str v = fdl_http_field_value(&s->head, "content-digest");
    static const struct {
        const char *key;
        const char *md;
        size_t b64;
    } known[] = {{"sha-512=:", "SHA512", 88}, {"sha-256=:", "SHA256", 44}};

    md_drop(s);
    for (size_t k = 0; k < 2; k++) {
        size_t n = strlen(known[k].key), want = known[k].b64;
        for (size_t i = 0; i + n + want + 1 <= v.len; i++) {
            if (strncasecmp(v.ptr + i, known[k].key, n) != 0 ||
                v.ptr[i + n + want] != ':')
                continue;
            unsigned char raw[96];
            int got =
                EVP_DecodeBlock(raw, (const unsigned char *)v.ptr + i + n, (int)want);
            const EVP_MD *md = EVP_get_digestbyname(known[k].md);
            if (got <= 0 || !md)
                return;
            s->md_len = (unsigned)EVP_MD_get_size(md);
            memcpy(s->md_want, raw, s->md_len);
            s->md = EVP_MD_CTX_new();
            if (s->md && EVP_DigestInit_ex(s->md, md, NULL) != 1)
                md_drop(s);
            return;
        }
    }
}

/* ---- judging an answer ----------------------------------------------------- */

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

/* Whether the representation is still the one of the first answer. Mirror locked. */
static bool same_version(const struct fdl_mirror *m, const struct fdl_http_head *h)
{
    if (m->etag[0])
        return h->etag.len == 0 || str_is(h->etag, m->etag);
    if (m->last_modified[0] && h->last_modified.len > 0)
        return str_is(h->last_modified, m->last_modified);
    return true;
}

static void pin(struct fdl_mirror *m, const struct fdl_http_head *h, uint64_t total)
{
    if (m->pinned)
        return;
    m->pinned = true;
    m->total = total;
    if (h->etag_strong)
        copy_str(m->etag, sizeof m->etag, h->etag);
    if (h->last_modified_strong)
        copy_str(m->last_modified, sizeof m->last_modified, h->last_modified);
}

static int judge_206(struct http_stream *s, uint64_t off, uint64_t len,
                     struct fdl_err *err)
{
    struct fdl_http_head *h = &s->head;
    struct fdl_mirror *m = s->base.mirror;

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
    bool total_ok = !m->pinned || m->total == UINT64_MAX ||
                    h->range.total == UINT64_MAX || h->range.total == m->total;
    bool same = !m->pinned || same_version(m, h);
    if (total_ok && same) {
        pin(m, h, h->range.total);
        if (m->total == UINT64_MAX)
            m->total = h->range.total;
        m->ranges = FDL_RANGES_YES;
    }
    pthread_mutex_unlock(&m->lock);
    if (!total_ok || !same)
        return fdl_fail(err, FDL_E_ORIGIN_CHANGED, off,
                        "the source changed during the transfer");
    s->left = n;
    s->base.off = off;
    s->base.end = off + n;
    s->base.whole = false;
    return FDL_OK;
}

/* A 200 is the whole body from offset 0: never a segment (RFC 9110, 14.2). */
static int judge_200(struct http_stream *s, uint64_t off, bool *again,
                     struct fdl_err *err)
{
    struct fdl_http_head *h = &s->head;
    struct fdl_mirror *m = s->base.mirror;
    uint64_t total = h->framing == FDL_HTTP_LENGTH ? h->content_length : UINT64_MAX;

    if (h->encoded)
        return fdl_fail(err, FDL_E_HTTP_PROTOCOL, off,
                        "a content coding nobody asked for");
    pthread_mutex_lock(&m->lock);
    uint64_t known = m->total;
    bool same =
        !m->pinned || (same_version(m, h) &&
                       (total == UINT64_MAX || known == UINT64_MAX || total == known));
    bool had_ranges = m->ranges == FDL_RANGES_YES;
    bool provable = m->etag[0] && str_is(h->etag, m->etag);
    if (same && had_ranges && s->if_range && provable) {
        /* Nothing changed, but this server answers If-Range with 200 (seen on CDNs). */
        m->no_if_range = true;
        *again = true;
    } else if (same && (!had_ranges || !s->if_range || !m->etag[0])) {
        pin(m, h, total);
        m->ranges = FDL_RANGES_NO;
    } else {
        same = false;
    }
    pthread_mutex_unlock(&m->lock);
    if (!same)
        return fdl_fail(err, FDL_E_ORIGIN_CHANGED, off,
                        "the source changed during the transfer");
    if (*again) {
        drop_conn(s);
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
    s->left = total;
    s->base.off = 0;
    s->base.end = total == UINT64_MAX ? known : total;
    s->base.whole = true;
    return FDL_OK;
}

static int judge_status(struct http_stream *s, uint64_t off, struct fdl_err *err)
{
    int status = s->head.status;
    struct fdl_mirror *m = s->base.mirror;

    s->base.retry_after_s = s->head.retry_after_s;
    if (status == 416 && s->head.has_unsatisfied_range) {
        pthread_mutex_lock(&m->lock);
        bool empty = !m->pinned && off == 0 && s->head.range.total == 0;
        bool same = m->pinned && m->total == s->head.range.total;
        bool end =
            m->pinned && (same || m->total == UINT64_MAX) && off >= s->head.range.total;
        if (end)
            m->total = s->head.range.total;
        if (empty) {
            pin(m, &s->head, 0);
            m->ranges = FDL_RANGES_YES;
        }
        pthread_mutex_unlock(&m->lock);
        if (empty || end) { /* ranges of a source whose size no answer had told */
            s->base.off = s->base.end = off;
            s->base.whole = true;
            s->left = 0;
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

/* ---- redirects ------------------------------------------------------------- */

static bool is_redirect(int status)
{
    return status == 301 || status == 302 || status == 303 || status == 307 ||
           status == 308;
}

static int follow(struct http_stream *s, CURLU *u, bool was_tls, struct fdl_err *err)
{
    char *scheme = NULL;

    if (!s->net->follow_redirects)
        return fdl_fail(err, FDL_E_POLICY, FDL_NO_OFFSET,
                        "redirects are not allowed here");
    if (s->head.location.len == 0)
        return fdl_fail(err, FDL_E_HTTP_PROTOCOL, FDL_NO_OFFSET,
                        "a redirect without a destination");
    char *to = strndup(s->head.location.ptr, s->head.location.len);
    if (!to)
        return fdl_fail(err, FDL_E_INTERNAL, FDL_NO_OFFSET, "no memory");
    CURLUcode rc = curl_url_set(u, CURLUPART_URL, to, CURLU_NON_SUPPORT_SCHEME);
    free(to);
    if (rc != CURLUE_OK || curl_url_get(u, CURLUPART_SCHEME, &scheme, 0) != CURLUE_OK)
        return fdl_fail(err, FDL_E_POLICY, FDL_NO_OFFSET,
                        "a redirect to something that is not a usable URL");
    bool https = strcasecmp(scheme, "https") == 0,
         http = strcasecmp(scheme, "http") == 0;
    curl_free(scheme);
    if (!http && !https)
        return fdl_fail(err, FDL_E_POLICY, FDL_NO_OFFSET,
                        "a redirect to a scheme other than http and https");
    if (was_tls && !https)
        return fdl_fail(err, FDL_E_POLICY, FDL_NO_OFFSET,
                        "a redirect from https to http");
    /* Credentials that a server writes into a Location are not ours to use. */
    curl_url_set(u, CURLUPART_USER, NULL, 0);
    curl_url_set(u, CURLUPART_PASSWORD, NULL, 0);
    curl_url_set(u, CURLUPART_FRAGMENT, NULL, 0);
    return FDL_OK;
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

/* ---- begin ----------------------------------------------------------------- */

static bool same_origin(const char *url, const struct place *p)
{
    CURLU *u = curl_url();
    struct place own = {0};
    bool same = false;

    if (u && curl_url_set(u, CURLUPART_URL, url, 0) == CURLUE_OK &&
        place_from(u, &own, NULL) == FDL_OK)
        same = strcasecmp(own.base, p->base) == 0;
    place_clear(&own);
    curl_url_cleanup(u);
    return same;
}

/* Sends the request and reads the head; a kept-alive connection that the server closed
 * meanwhile gets one fresh try, which is no error of the mirror. */
static int exchange(struct http_stream *s, const struct place *p, enum fdl_addr_via via,
                    enum fdl_addr_class from, uint64_t off, uint64_t len,
                    struct fdl_err *err)
{
    struct fdl_mirror *m = s->base.mirror;
    bool own = same_origin(m->url, p);

    for (int attempt = 0;; attempt++) {
        bool asked = s->pipelined;
        s->pipelined = false;
        if (!asked && s->conn && (s->pos < s->have || !fdl_conn_is_quiet(s->conn)))
            drop_conn(s); /* closed by the server, or it sent what nobody asked for */
        int rc = connect_to(s, p, via, from, err);
        bool reused = s->served > 0;
        uint64_t sent = fdl_now_ns();
        if (rc == FDL_OK && !asked)
            rc = send_request(s, p, own, off, len, err);
        if (rc == FDL_OK)
            rc = read_head(s, err);
        if (rc == FDL_OK) {
            uint64_t took = fdl_now_ns() - sent;
            if (!asked) {
                pthread_mutex_lock(&m->lock);
                if (m->rtt_ns == 0 || took < m->rtt_ns)
                    m->rtt_ns = took;
                pthread_mutex_unlock(&m->lock);
            }
            return FDL_OK;
        }
        bool fresh_try = rc == FDL_E_NET && reused && s->have == 0 && attempt == 0;
        if (asked && fresh_try) {
            pthread_mutex_lock(&m->lock);
            m->no_pipeline = true;
            pthread_mutex_unlock(&m->lock);
        }
        drop_conn(s);
        if (!fresh_try)
            return rc;
    }
}

static int open_body(struct http_stream *s, uint64_t off, uint64_t len, bool *again,
                     struct fdl_err *err)
{
    int rc;

    s->clean_end = s->head.keep_alive && s->head.framing != FDL_HTTP_UNTIL_CLOSE;
    s->body_open = true;
    if (s->head.status == 206)
        rc = judge_206(s, off, len, err);
    else if (s->head.status == 200)
        rc = judge_200(s, off, again, err);
    else
        rc = judge_status(s, off, err);
    if (rc != FDL_OK || *again) {
        drop_conn(s);
        return rc;
    }
    if (s->head.framing == FDL_HTTP_CHUNKED)
        fdl_http_chunked_init(&s->chunked);
    else if (s->head.framing == FDL_HTTP_NO_BODY || s->head.status == 416)
        s->left = 0;
    expect_content_digest(s);
    if (s->head.framing != FDL_HTTP_CHUNKED && s->left == 0) {
        if (s->head.status == 416)
            drop_conn(s);
        else
            return body_finished(s, err);
    }
    return FDL_OK;
}

/* A server without ranges: what lies before `off` is read and thrown away. */
static int skip_to(struct http_stream *s, uint64_t off, struct fdl_err *err)
{
    char waste[64 * 1024];

    while (s->base.off < off) {
        if (atomic_load(
                &s->wake->cancel)) /* bytes that are there already wait for nobody */
            return fdl_fail(err, FDL_E_CANCELLED, FDL_NO_OFFSET, "cancelled");
        uint64_t want = off - s->base.off;
        long n = http_read(&s->base, waste,
                           want < sizeof waste ? (size_t)want : sizeof waste, err);
        if (n < 0)
            return (int)n;
        if (n == 0)
            return fdl_fail(err, FDL_E_ORIGIN_CHANGED, s->base.off,
                            "the source is shorter than before");
    }
    return FDL_OK;
}

static int begin_once(struct http_stream *s, uint64_t off, uint64_t len, bool *again,
                      struct fdl_err *err)
{
    struct fdl_mirror *m = s->base.mirror;
    CURLU *u = curl_url();
    struct place p = {0};
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
        place_clear(&p);
        rc = place_from(u, &p, err);
        if (rc == FDL_OK)
            rc = exchange(s, &p, via, from, off, len, err);
        if (rc != FDL_OK)
            break;
        if (!is_redirect(s->head.status)) {
            rc = open_body(s, off, len, again, err);
            if (rc == FDL_OK && hops > 0)
                remember_place(m, u, via, from);
            break;
        }
        if (hops == FDL_REDIRECTS_MAX) {
            rc = fdl_fail(err, FDL_E_POLICY, FDL_NO_OFFSET, "too many redirects");
            break;
        }
        rc = follow(s, u, p.tls, err);
        if (rc != FDL_OK)
            break;
        via = FDL_VIA_LINKED;
        from = s->peer;
        s->left = s->head.framing == FDL_HTTP_LENGTH ? s->head.content_length : 0;
        s->clean_end = s->head.keep_alive && s->head.framing != FDL_HTTP_UNTIL_CLOSE;
        s->body_open = true;
        drain(s);
    }
    if (rc != FDL_OK)
        drop_conn(s);
    place_clear(&p);
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
    if (s->body_open && base->whole && base->off <= off)
        return skip_to(s, off, err);
    if (s->pipelined && (s->asked_off != off || s->asked_len != len))
        drop_conn(s); /* its answer would be for somebody else */
    drain(s);
    for (int attempt = 0; attempt < 3; attempt++) {
        bool again = false;
        rc = begin_once(s, off, len, &again, err);
        if (!again)
            break;
    }
    if (rc == FDL_OK && base->whole)
        rc = skip_to(s, off, err);
    return rc;
}

static void http_prefetch(struct fdl_stream *base, uint64_t off, uint64_t len)
{
    struct http_stream *s = self_of(base);
    struct fdl_mirror *m = base->mirror;
    struct fdl_err ignored;
    struct place p = {0};
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
        place_from(u, &p, NULL) == FDL_OK && strcmp(p.base, s->conn_base) == 0) {
        s->pipelined =
            send_request(s, &p, same_origin(m->url, &p), off, len, &ignored) == FDL_OK;
        s->asked_off = off;
        s->asked_len = len;
        if (!s->pipelined)
            s->clean_end = false; /* half a request may be on its way */
    }
    place_clear(&p);
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

    md_drop(s);
    drop_conn(s);
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
    s->peer = FDL_ADDR_RESERVED;
    return &s->base;
}

const struct fdl_http_head *fdl_stream_http_head(const struct fdl_stream *stream)
{
    const struct http_stream *s = (const struct http_stream *)stream;

    return stream->ops == &http_ops && s->head_valid ? &s->head : NULL;
}

enum fdl_addr_class fdl_stream_http_peer(const struct fdl_stream *stream)
{
    const struct http_stream *s = (const struct http_stream *)stream;

    return stream->ops == &http_ops ? s->peer : FDL_ADDR_LOOPBACK;
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
