/* SPDX-License-Identifier: Apache-2.0 */
/* test_http_chunked.c - which chunked bodies are accepted? */
#undef NDEBUG
#include "http/http.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

static struct fdl_err err;

static char body[256];

/* Feeds in pieces; returns what the last feed returned where it failed, else the bytes
 * consumed. */
static long decode(const char *in, size_t len, size_t piece, bool *done,
                   size_t *body_len)
{
    struct fdl_http_chunked chunked;
    size_t at = 0;

    fdl_http_chunked_init(&chunked);
    *body_len = 0;
    while (at < len && !chunked.done) {
        size_t off, n, here = len - at < piece ? len - at : piece;
        long used = fdl_http_chunked_feed(&chunked, in + at, here, &off, &n, &err);
        if (used < 0)
            return used;
        assert(used > 0 && off + n <= (size_t)used && (size_t)used <= here);
        assert(*body_len + n <= sizeof body);
        memcpy(body + *body_len, in + at + off, n);
        *body_len += n;
        at += (size_t)used;
    }
    *done = chunked.done;
    return (long)at;
}

static void check_chunked(const char *in, const char *expected, const char *surplus)
{
    size_t len = strlen(in), body_len;
    bool done = false;

    for (size_t piece = 1; piece <= len; piece++) {
        assert(decode(in, len, piece, &done, &body_len) ==
               (long)(len - strlen(surplus)));
        assert(done && body_len == strlen(expected));
        assert(memcmp(body, expected, body_len) == 0);
    }
}

static void chunked_bodies_are_found_however_they_are_cut(void)
{
    check_chunked("0\r\n\r\n", "", "");
    check_chunked("5\r\nhello\r\n0\r\n\r\n", "hello", "");
    check_chunked("5\r\nhello\r\n006\r\n world\r\n000\r\n\r\n", "hello world", "");
    check_chunked("A\r\n0123456789\r\n0b\r\n0123456789a\r\n0\r\n\r\n",
                  "01234567890123456789a", "");
    check_chunked("2;a\r\n\r\n\r\n1 \t;\tb=\"c;d\"\r\nx\r\n0;end\r\n\r\n", "\r\nx", "");
    check_chunked("1\r\nx\r\n0\r\nExpires: never\r\nA:\r\n\r\n", "x", "");
    check_chunked("1\r\nx\r\n0\r\n\r\nHTTP/1.1 200 OK\r\n", "x", "HTTP/1.1 200 OK\r\n");
    check_chunked("0000000000000001\r\nx\r\n0000000000000000\r\n\r\n", "x", "");
    check_chunked("1       \r\nx\r\n0 \t\r\n\r\n", "x", "");
    check_chunked("       1\r\nx\r\n\t0\r\n\r\n", "x", "");
    check_chunked(" 1 ;a\r\nx\r\n 0 \r\n\r\n", "x", "");
}

static void a_cut_chunked_body_is_never_done(void)
{
    static const char text[] = "5;x\r\nhello\r\n0\r\nA: b\r\n\r\n";
    size_t body_len;
    bool done;

    for (size_t len = 0; len < sizeof text - 1; len++) {
        done = false;
        assert(decode(text, len, SIZE_MAX, &done, &body_len) == (long)len);
        assert(!done && body_len <= 5);
    }
}

static void refuse_chunked(const char *in)
{
    size_t body_len;
    bool done;

    assert(decode(in, strlen(in), SIZE_MAX, &done, &body_len) == FDL_E_HTTP_PROTOCOL);
    assert(decode(in, strlen(in), 1, &done, &body_len) == FDL_E_HTTP_PROTOCOL);
    assert(err.code == FDL_E_HTTP_PROTOCOL && err.what[0] != '\0');
}

static void malformed_chunks_are_refused(void)
{
    static const char *const bad[] = {
        "\r\n",
        ";x\r\n",
        " \r\n",
        " ;x\r\n",
        "5 5\r\n",
        " 5 5\r\n",
        "5 x\r\n",
        "5 \n",
        "5\v\r\n",
        "5\f\r\n",
        "\r\n5\r\n",
        "-5\r\n",
        "+5\r\n",
        "0x5\r\n",
        "5h\r\n",
        "5,\r\n",
        "g\r\n",
        "5\n",
        "5\rx",
        "5;x\n",
        "5;x\ry",
        "5;\1\r\n",
        "8000000000000000\r\n",
        "ffffffffffffffff\r\n",
        "10000000000000000\r\n",
        "00000000000000005\r\n",
        "1\r\nxx\r\n",
        "1\r\nx\n",
        "1\r\nx0\r\n\r\n",
        "1\r\nx\r0",
        "1\r\nx\r\n\r\n",
        "0\r\n\n",
        "0\r\n\rx",
        "0\r\n: x\r\n\r\n",
        "0\r\n x\r\n\r\n",
        "0\r\nA : x\r\n\r\n",
        "0\r\nA\r\n\r\n",
        "0\r\nA: x\n",
        "0\r\nA: x\ry",
        "0\r\nA: \1\r\n\r\n",
        "0\r\nA: x\r\n y\r\n\r\n",
    };
    for (size_t i = 0; i < COUNT(bad); i++)
        refuse_chunked(bad[i]);
}

static void extensions_and_trailers_are_bounded(void)
{
    size_t n = 0;
    char *text = malloc(1 << 20);
    size_t body_len;
    bool done;
    assert(text);

    /* One extension: the limit counts the bytes after the first `;`. */
    n = (size_t)sprintf(text, "0;%0*d\r\n\r\n", FDL_HTTP_CHUNK_EXT_MAX, 0);
    assert(decode(text, n, SIZE_MAX, &done, &body_len) == (long)n && done);
    n = (size_t)sprintf(text, "0;%0*d\r\n\r\n", FDL_HTTP_CHUNK_EXT_MAX + 1, 0);
    assert(decode(text, n, SIZE_MAX, &done, &body_len) == FDL_E_HTTP_PROTOCOL);

    /* Blanks around a size count like one. */
    n = (size_t)sprintf(text, "%*c\r\n\r\n", FDL_HTTP_CHUNK_EXT_MAX + 1, '0');
    assert(decode(text, n, SIZE_MAX, &done, &body_len) == (long)n && done);
    n = (size_t)sprintf(text, "%*c\r\n\r\n", FDL_HTTP_CHUNK_EXT_MAX + 2, '0');
    assert(decode(text, n, SIZE_MAX, &done, &body_len) == FDL_E_HTTP_PROTOCOL);
    n = (size_t)sprintf(text, "0%*c\r\n\r\n", FDL_HTTP_CHUNK_EXT_MAX + 2, ' ');
    assert(decode(text, n, SIZE_MAX, &done, &body_len) == FDL_E_HTTP_PROTOCOL);

    /* All of them together. */
    struct fdl_http_chunked chunked;
    size_t off, len;
    fdl_http_chunked_init(&chunked);
    n = (size_t)sprintf(text, "1;%0*d\r\nx\r\n", FDL_HTTP_CHUNK_EXT_MAX, 0);
    for (int i = 0; i < FDL_HTTP_CHUNK_EXT_TOTAL_MAX / FDL_HTTP_CHUNK_EXT_MAX; i++)
        for (size_t at = 0; at < n;) {
            long used =
                fdl_http_chunked_feed(&chunked, text + at, n - at, &off, &len, &err);
            assert(used > 0);
            at += (size_t)used;
        }
    assert(fdl_http_chunked_feed(&chunked, "0;x\r\n\r\n", 7, &off, &len, &err) ==
           FDL_E_HTTP_PROTOCOL);
    /* An error is final. */
    assert(fdl_http_chunked_feed(&chunked, "0\r\n\r\n", 5, &off, &len, &err) ==
           FDL_E_HTTP_PROTOCOL);

    /* The trailer. */
    n = (size_t)sprintf(text, "0\r\nA:%0*d\r\n\r\n", FDL_HTTP_TRAILER_MAX - 5, 0);
    assert(decode(text, n, SIZE_MAX, &done, &body_len) == (long)n && done);
    n = (size_t)sprintf(text, "0\r\nA:%0*d\r\n\r\n", FDL_HTTP_TRAILER_MAX - 4, 0);
    assert(decode(text, n, SIZE_MAX, &done, &body_len) == FDL_E_HTTP_PROTOCOL);
    free(text);
}

int main(void)
{
    chunked_bodies_are_found_however_they_are_cut();
    a_cut_chunked_body_is_never_done();
    malformed_chunks_are_refused();
    extensions_and_trailers_are_bounded();
    return 0;
}
