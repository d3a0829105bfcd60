/* SPDX-License-Identifier: Apache-2.0 */
/* source/stream_http_priv.h - what the files of an HTTP stream share. */
#ifndef FDL_STREAM_HTTP_PRIV_H
#define FDL_STREAM_HTTP_PRIV_H

#include <openssl/evp.h>

#include "http/location.h"
#include "source/stream.h"

/* Framing and body come mixed: all of it is copied. */
#define CHUNKED_READ (64 * 1024)

struct http_stream {
    struct fdl_stream base;
    struct fdl_net *net;
    struct fdl_wakeup *wakeup;
    struct fdl_conn_times *times;
    struct fdl_conn *conn;
    char *conn_base; /* OWNED: what conn is connected to */
    int served;      /* responses completed on conn */

    char buf[FDL_HTTP_HEAD_MAX + CHUNKED_READ];
    size_t
        body_at; /* the bytes before it in buf are the head, which `head` points into */
    size_t have, pos; /* bytes in buf, bytes of them used */
    struct fdl_http_head head;
    bool head_valid;

    bool body_open;
    uint64_t left; /* body bytes to come (LENGTH, UNTIL_CLOSE); UINT64_MAX: unknown */
    struct fdl_http_chunked chunked;
    bool clean_end;        /* connection may serve another request after the body */
    bool ranged, if_range; /* the last request was for a range, with a validator */
    enum fdl_http_coding packed; /* the body must begin as one that is packed so */

    uint64_t asked_off, asked_len; /* pipelined request not read yet */
    bool pipelined;

    bool redirected; /* what is requested is not the typed URL */
    char *led_to;    /* OWNED or NULL: where redirects led the present response */
    bool keep_redirects;
    struct fdl_redirect redirects[FDL_REDIRECTS_MAX]; /* OWNED strings */
    size_t n_redirects;

    EVP_MD_CTX *md; /* OWNED or NULL: Content-Digest of this response (RFC 9530) */
    unsigned char md_want[EVP_MAX_MD_SIZE];
    unsigned md_len;
};

/* source/stream_http_redirects.c: over redirects to a response whose body may be read
 */

/* Asks for the range, follows redirects, checks the response. What fails at a copy that
 * a redirect led to sends back to the typed URL for another one. */
int fdl_http_go(struct http_stream *s, uint64_t off, uint64_t len, struct fdl_err *err);
/* The response ended with rc: its copy is not used again if that is its fault. */
void fdl_http_give_up(struct http_stream *s, int rc);
void fdl_http_drop_redirects(struct http_stream *s);

/* source/stream_http_exchange.c: a request and the head of its response */

/* Asks `location` for the range and reads the head of the response into s->head. */
int fdl_http_exchange(struct http_stream *s, const struct fdl_location *location,
                      enum fdl_addr_via via, enum fdl_addr_class from, uint64_t off,
                      uint64_t len, struct fdl_err *err);
/* Sends a request on the open connection. own_origin: with the mirror's headers. */
int fdl_http_ask(struct http_stream *s, const struct fdl_location *location,
                 bool own_origin, uint64_t off, uint64_t len, struct fdl_err *err);
void fdl_http_drop(struct http_stream *s);

/* source/stream_http_body.c: the bytes of a response */

/* The body of s->head is to be read: s->left bytes of it, or chunks. */
int fdl_http_body_open(struct http_stream *s, struct fdl_err *err);
long fdl_http_body_read(struct http_stream *s, void *buf, size_t len,
                        struct fdl_err *err);
/* Drains an unwanted body if that is cheaper than a new connection. */
void fdl_http_body_drain(struct http_stream *s);
void fdl_http_body_forget_digest(struct http_stream *s);

#endif
