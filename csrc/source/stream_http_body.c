/* SPDX-License-Identifier: Apache-2.0 */
/* source/stream_http_body.c - the bytes of a response, however it is framed, to exactly
 * its end. */
#include "source/response.h"
#include "source/stream_http_priv.h"

#include <string.h>
#include <strings.h>

/* A shorter rest is read away to keep a connection. */
#define DRAIN_MAX (64 * 1024)

void fdl_http_body_forget_digest(struct http_stream *s)
{
    EVP_MD_CTX_free(s->md);
    s->md = NULL;
}

static long fill_raw(struct http_stream *s, void *buf, size_t len, struct fdl_err *err)
{
    if (s->pos < s->have) {
        size_t n = s->have - s->pos < len ? s->have - s->pos : len;
        memcpy(buf, s->buf + s->pos, n);
        s->pos += n;
        return (long)n;
    }
    return fdl_conn_recv(s->conn, buf, len, s->left == UINT64_MAX ? 1 : s->left, err);
}

static int body_finished(struct http_stream *s, struct fdl_err *err)
{
    s->body_open = false;
    if (s->md) {
        unsigned char got[EVP_MAX_MD_SIZE];
        unsigned n = 0;
        EVP_DigestFinal_ex(s->md, got, &n);
        fdl_http_body_forget_digest(s);
        if (n != s->md_len || memcmp(got, s->md_want, n) != 0)
            return fdl_fail(err, FDL_E_INTEGRITY, s->base.off,
                            "the body does not match its Content-Digest");
    }
    if (!s->clean_end) {
        fdl_http_drop(s);
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
            long n = fdl_conn_recv(s->conn, s->buf + s->have, CHUNKED_READ, 1, err);
            if (n < 0)
                return n;
            /* All that the body has came: trailers mean nothing (RFC 9112, 8). */
            if (n == 0 && s->chunked.complete) {
                s->clean_end = false;
                return 0;
            }
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

/* Whether data follows a body without a length. */
static bool surplus(struct http_stream *s)
{
    struct fdl_err ignored;
    char byte;

    return fill_raw(s, &byte, 1, &ignored) > 0;
}

long fdl_http_body_read(struct http_stream *s, void *buf, size_t len,
                        struct fdl_err *err)
{
    struct fdl_stream *base = &s->base;
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
            if (n == 0 && s->left != UINT64_MAX)
                n = fdl_fail(err, FDL_E_NET, base->off,
                             "the connection was closed before the end of the body");
            if (n > 0 && s->left != UINT64_MAX)
                s->left -= (uint64_t)n;
        }
    }
    if (n > 0 && s->packed != FDL_HTTP_PLAIN) {
        if (!fdl_http_looks_packed(s->packed, buf, (size_t)n))
            n = fdl_fail(err, FDL_E_HTTP_PROTOCOL, base->off, FDL_WHAT_CODING);
        s->packed = FDL_HTTP_PLAIN;
    }
    if (n < 0) {
        fdl_http_body_forget_digest(s);
        fdl_http_drop(s);
        base->end = base->off; /* it was cut here, which is not the source's end */
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
    if (over && s->head.framing == FDL_HTTP_UNTIL_CLOSE && n > 0 && surplus(s))
        return fdl_fail(err, FDL_E_SIZE, base->off,
                        "the source is longer than expected");
    if (over) {
        int rc = body_finished(s, err);
        if (rc != FDL_OK)
            return rc;
    }
    return n;
}

void fdl_http_body_drain(struct http_stream *s)
{
    char waste[8192];
    struct fdl_err ignored;

    fdl_http_body_forget_digest(s);
    if (!s->body_open)
        return;
    if (!s->clean_end || s->head.framing == FDL_HTTP_CHUNKED || s->left > DRAIN_MAX) {
        fdl_http_drop(s);
        return;
    }
    while (s->body_open && s->left > 0) {
        long n =
            fill_raw(s, waste, s->left < sizeof waste ? (size_t)s->left : sizeof waste,
                     &ignored);
        if (n <= 0) {
            fdl_http_drop(s);
            return;
        }
        s->left -= (uint64_t)n;
    }
    s->body_open = false;
    s->served++;
}

/* Content-Digest covers exactly this response's content (RFC 9530, 2). */
static void expect_content_digest(struct http_stream *s)
{
    struct fdl_str v = fdl_http_field_value(&s->head, "content-digest");
    static const struct {
        const char *key;
        const char *md;
        size_t b64;
    } known[] = {{"sha-512=:", "SHA512", 88}, {"sha-256=:", "SHA256", 44}};

    fdl_http_body_forget_digest(s);
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
            int digest = md ? EVP_MD_get_size(md) : 0;
            if (digest <= 0 || got < digest) /* blanks around it are not decoded */
                return;
            s->md_len = (unsigned)digest;
            memcpy(s->md_want, raw, s->md_len);
            s->md = EVP_MD_CTX_new();
            if (s->md && EVP_DigestInit_ex(s->md, md, NULL) != 1)
                fdl_http_body_forget_digest(s);
            return;
        }
    }
}

int fdl_http_body_open(struct http_stream *s, struct fdl_err *err)
{
    if (s->head.framing == FDL_HTTP_CHUNKED)
        fdl_http_chunked_init(&s->chunked);
    else if (s->head.framing == FDL_HTTP_NO_BODY || s->head.status == 416)
        s->left = 0;
    expect_content_digest(s);
    if (s->head.framing != FDL_HTTP_CHUNKED && s->left == 0) {
        if (s->head.status == 416)
            fdl_http_drop(s);
        else
            return body_finished(s, err);
    }
    return FDL_OK;
}
