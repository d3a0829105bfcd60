/* SPDX-License-Identifier: Apache-2.0 */
/* test_http.c - what the head parser, the chunked decoder and the request renderer
 * accept, and that they refuse the rest. */
#undef NDEBUG
#include "http/http.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

static struct fdl_http_head head;
static struct fdl_err err;

static long parse_bytes(const char *bytes, size_t len)
{
    memset(&head, 0xa5, sizeof head); /* nothing may be left unset */
    fdl_err_clear(&err);
    return fdl_http_parse_head(bytes, len, &head, &err);
}

/* Parses lines joined by CRLF; fails the test where they are not a whole, good head. */
static void accept(const char *text)
{
    long rc = parse_bytes(text, strlen(text));
    if (rc != (long)strlen(text))
        fprintf(stderr, "%ld (%s) for:\n%s\n", rc, err.what, text);
    assert(rc == (long)strlen(text));
}

static void refuse_bytes(const char *bytes, size_t len)
{
    long rc = parse_bytes(bytes, len);
    if (rc != FDL_E_HTTP_PROTOCOL)
        fprintf(stderr, "%ld for:\n%.*s\n", rc, (int)len, bytes);
    assert(rc == FDL_E_HTTP_PROTOCOL && err.code == FDL_E_HTTP_PROTOCOL);
    assert(err.what[0] != '\0');
}

static void refuse(const char *text)
{
    refuse_bytes(text, strlen(text));
}

/* Static: the head that is parsed from it borrows its pieces. */
static const char *with_field(const char *status, const char *field)
{
    static char text[2 * FDL_HTTP_FOLDED_MAX];
    int n = snprintf(text, sizeof text, "%s\r\n%s\r\n\r\n", status, field);
    assert(n > 0 && (size_t)n < sizeof text);
    return text;
}

static void accept_field(const char *status, const char *field)
{
    accept(with_field(status, field));
}

static void refuse_field(const char *status, const char *field)
{
    refuse(with_field(status, field));
}

static bool is(struct fdl_str s, const char *literal)
{
    return s.len == strlen(literal) && memcmp(s.ptr, literal, s.len) == 0;
}

#define OK "HTTP/1.1 200 OK"
#define PARTIAL "HTTP/1.1 206 Partial Content"

/* ---- lines ---- */

static void a_usual_answer_is_understood(void)
{
    accept("HTTP/1.1 206 Partial Content\r\n"
           "Server: x\r\n"
           "Date: Sun, 06 Nov 1994 08:50:37 GMT\r\n"
           "Content-Type: \t application/octet-stream \r\n"
           "Content-Length: 5\r\n"
           "content-range: bytes 10-14/100\r\n"
           "Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT\r\n"
           "ETag: \"5f-a\"\r\n"
           "X-Empty:\r\n"
           "Location:/x\r\n"
           "\r\n");
    assert(head.status == 206 && head.minor_version == 1 && head.n_fields == 9);
    assert(head.framing == FDL_HTTP_LENGTH && head.content_length == 5);
    assert(head.keep_alive && head.coding == FDL_HTTP_PLAIN && !head.multipart);
    assert(head.has_range && !head.has_unsatisfied_range);
    assert(head.range.first == 10 && head.range.last == 14 && head.range.total == 100);
    assert(is(head.etag, "\"5f-a\"") && head.etag_strong);
    assert(is(head.last_modified, "Sun, 06 Nov 1994 08:49:37 GMT"));
    assert(head.last_modified_strong);
    assert(is(head.content_type, "application/octet-stream"));
    assert(is(head.location, "/x") && head.retry_after_s == -1);
    assert(is(fdl_http_field_value(&head, "SERVER"), "x"));
    assert(is(fdl_http_field_value(&head, "x-empty"), ""));
    assert(is(fdl_http_field_value(&head, "absent"), ""));
}

static void a_cut_head_asks_for_more_at_each_byte(void)
{
    static const char text[] = OK "\r\nContent-Length: 5\r\nETag: \"a\"\r\n\r\n";

    for (size_t len = 0; len < sizeof text - 1; len++) {
        char *copy = malloc(len); /* exactly that size: overruns are seen */
        assert(copy || len == 0);
        memcpy(copy ? copy : (char *)&head, text, len);
        assert(parse_bytes(copy, len) == 0);
        free(copy);
    }
    accept(text);
}

static void what_follows_a_head_is_not_looked_at(void)
{
    static const char text[] = OK "\r\nContent-Length: 1\r\n\r\n\n\r\0 garbage";
    assert(parse_bytes(text, sizeof text) == 38);
}

static void reason_and_the_space_before_it_may_be_missing(void)
{
    accept("HTTP/1.1 200\r\n\r\n");
    accept("HTTP/1.1 200 \r\n\r\n");
    accept("HTTP/1.0 404 Not\tF\xc3\xb6und here\r\n\r\n");
    assert(head.status == 404 && head.minor_version == 0);
}

static void malformed_status_lines_are_refused(void)
{
    static const char *const lines[] = {
        "HTTP/1.2 200 OK", "HTTP/1. 200 OK",   "HTTP/1.1  200 OK", "HTTP/1.1\t200 OK",
        "HTTP/1.1 20 OK",  "HTTP/1.1 2000 OK", "HTTP/1.1 2x0 OK",  "HTTP/1.1 200OK",
        "HTTP/1.1 099 x",  "HTTP/1.1 600 x",   "HTTP/1.1",         "HTTP/1.1 ",
        "HTTP/1.1 -20 OK", "HTTP/1.1 200 O\1", "HTTP/1.10 200 OK", "HTTP/1.1 200\tOK",
    };
    for (size_t i = 0; i < COUNT(lines); i++)
        refuse_field(lines[i], "X: y");
}

static void other_protocols_are_refused_at_their_first_bytes(void)
{
    refuse("<");
    refuse("HTTQ");
    refuse("HTTP/2");
    refuse("http/1.1 200 OK");
    refuse("ICY 200 OK");
    refuse("\r\n");
    refuse(" HTTP/1.1 200 OK");
    refuse_bytes("\0\0\x12\x04", 4); /* HTTP/2 SETTINGS */
    refuse_bytes("\x15\x03\x03", 3); /* TLS alert */
}

static void line_ends_other_than_crlf_are_refused_before_the_head_is_whole(void)
{
    refuse(OK "\n");
    refuse(OK "\r\nX: y\n");
    refuse(OK "\r\r");
    refuse(OK "\rX: y");
    refuse(OK "\r\nX: a\rb");
    refuse(OK "\r\nX: y\r\r\n");
    refuse_bytes(OK "\r\nX: \0", sizeof OK + 5);
}

static void malformed_fields_are_refused(void)
{
    static const char *const fields[] = {
        " X: folded at once",
        "\tX: folded at once",
        "X : y",
        "X\t: y",
        "X",
        ": y",
        "X(: y",
        "X y: z",
        "X: \1",
        "X: \x7f",
        "X: a\x1f\bb",
        "X: a\vb",
        "X\x80: y",
        "\"X\": y",
        "X: y\r\nno colon",
        "X\r\n: y",
        "X: y\r\n:",
        "X@: y",
        "{X}: y",
    };
    for (size_t i = 0; i < COUNT(fields); i++)
        refuse_field(OK, fields[i]);
    accept_field(OK, "!#$%&'*+-.^_`|~09azAZ: \xff\t\x80:");
}

static void limits_hold_before_the_head_is_whole(void)
{
    char *text = malloc(FDL_HTTP_HEAD_MAX + 64);
    assert(text);
    int start = sprintf(text, OK "\r\nX:");

    /* A line of exactly the limit, and one byte more. */
    memset(text + start, 'a', FDL_HTTP_LINE_MAX);
    size_t line_end = (size_t)start - 2 + FDL_HTTP_LINE_MAX;
    assert(parse_bytes(text, line_end) == 0);
    refuse_bytes(text, line_end + 1);
    memcpy(text + line_end, "\r\n\r\n", 4);
    assert(parse_bytes(text, line_end + 4) == (long)line_end + 4);

    /* As many fields as allowed, and one more. */
    size_t at = (size_t)start - 2;
    for (int i = 0; i < FDL_HTTP_FIELDS_MAX; i++, at += 5)
        memcpy(text + at, "X:y\r\n", 5);
    memcpy(text + at, "\r\n", 2);
    assert(parse_bytes(text, at + 2) == (long)at + 2);
    assert(head.n_fields == FDL_HTTP_FIELDS_MAX);
    memcpy(text + at, "X:y\r\n", 5);
    refuse_bytes(text, at + 5);

    /* A head that fills the limit, and one that does not end within it. */
    at = (size_t)start - 2;
    while (at + 1002 < FDL_HTTP_HEAD_MAX) {
        memcpy(text + at, "X:", 2);
        memset(text + at + 2, 'b', 996);
        memcpy(text + at + 998, "\r\n", 2);
        at += 1000;
    }
    size_t left = FDL_HTTP_HEAD_MAX - at;
    memcpy(text + at, "Y:", 2);
    memset(text + at + 2, 'c', left);
    assert(parse_bytes(text, FDL_HTTP_HEAD_MAX - 1) == 0);
    refuse_bytes(text, FDL_HTTP_HEAD_MAX);
    refuse_bytes(text, FDL_HTTP_HEAD_MAX + 32);
    memcpy(text + FDL_HTTP_HEAD_MAX - 3, "\r\n\r\n", 4);
    refuse_bytes(text, FDL_HTTP_HEAD_MAX + 1);
    memcpy(text + FDL_HTTP_HEAD_MAX - 4, "\r\n\r\n", 4);
    assert(parse_bytes(text, FDL_HTTP_HEAD_MAX + 32) == FDL_HTTP_HEAD_MAX);
    free(text);
}

/* ---- framing ---- */

static void content_length_is_digits_once(void)
{
    static const char *const bad[] = {
        "Content-Length: +5",
        "Content-Length: -5",
        "Content-Length: 5,5",
        "Content-Length: 5, 6",
        "Content-Length: 5 6",
        "Content-Length: 0x5",
        "Content-Length: 5.0",
        "Content-Length:",
        "Content-Length: 5;",
        "Content-Length: \"5\"",
        "Content-Length: 00000000000000000005",
        "Content-Length: 9223372036854775808",
        "Content-Length: 18446744073709551616",
        "Content-Length: 5\r\nContent-Length: 5",
        "Content-Length: 5\r\ncontent-length: 6",
    };
    for (size_t i = 0; i < COUNT(bad); i++)
        refuse_field(OK, bad[i]);

    accept_field(OK, "CONTENT-LENGTH:  007\t");
    assert(head.framing == FDL_HTTP_LENGTH && head.content_length == 7);
    accept_field(OK, "Content-Length: 0");
    assert(head.framing == FDL_HTTP_LENGTH && head.content_length == 0);
    accept_field(OK, "Content-Length: 9223372036854775807");
    assert(head.content_length == INT64_MAX);
}

static void only_plain_chunked_is_a_transfer_coding(void)
{
    static const char *const bad[] = {
        "Transfer-Encoding: gzip",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: chunked, chunked",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: chunked;q=1",
        "Transfer-Encoding: identity",
        "Transfer-Encoding:",
        "Transfer-Encoding: \"chunked\"",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        "Transfer-Encoding: chunked\r\nContent-Length: 5",
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
    };
    for (size_t i = 0; i < COUNT(bad); i++)
        refuse_field(OK, bad[i]);
    refuse_field("HTTP/1.0 200 OK", "Transfer-Encoding: chunked");

    accept_field(OK, "transfer-encoding: Chunked");
    assert(head.framing == FDL_HTTP_CHUNKED && head.keep_alive);
}

static void answers_without_a_body_have_none_whatever_they_say(void)
{
    static const char *const status[] = {"HTTP/1.1 100 Continue", "HTTP/1.1 103 Hints",
                                         "HTTP/1.1 204 No",
                                         "HTTP/1.1 304 Not Modified"};
    for (size_t i = 0; i < COUNT(status); i++) {
        accept_field(status[i], "Content-Length: 5");
        assert(head.framing == FDL_HTTP_NO_BODY && head.content_length == 0);
        accept_field(status[i], "Transfer-Encoding: chunked");
        assert(head.framing == FDL_HTTP_NO_BODY && head.keep_alive);
        refuse_field(status[i], "Content-Length: x");
    }
    refuse("HTTP/1.1 101 Switching\r\nUpgrade: h2c\r\n\r\n");
}

static void a_connection_lives_on_only_where_both_ends_know_where_the_body_ends(void)
{
    accept_field(OK, "X: y");
    assert(head.framing == FDL_HTTP_UNTIL_CLOSE && !head.keep_alive);
    accept_field(OK, "Connection: keep-alive");
    assert(!head.keep_alive);
    accept_field(OK, "Content-Length: 1\r\nConnection: Close");
    assert(!head.keep_alive);
    accept_field(OK, "Content-Length: 1\r\nConnection: a ,\tCLOSE , b");
    assert(!head.keep_alive);
    accept_field(OK, "Content-Length: 1\r\nConnection: x\r\nConnection: close");
    assert(!head.keep_alive);
    accept_field(OK, "Content-Length: 1\r\nConnection: enclosed, closely, ,");
    assert(head.keep_alive);
    accept_field("HTTP/1.0 200 OK", "Content-Length: 1");
    assert(!head.keep_alive);
    accept_field("HTTP/1.0 200 OK", "Content-Length: 1\r\nConnection: Keep-Alive");
    assert(head.keep_alive);
    accept_field("HTTP/1.0 200 OK",
                 "Content-Length: 1\r\nConnection: keep-alive, close");
    assert(!head.keep_alive);
}

/* ---- ranges and validators ---- */

static void malformed_content_ranges_are_refused(void)
{
    static const char *const bad[] = {
        "bytes=0-9/10",
        "bytes 5-4/10",
        "bytes 0-10/10",
        "bytes 0-9/9",
        "items 0-9/10",
        "0-9/10",
        "bytes 0-9",
        "bytes 0-9/",
        "bytes -9/10",
        "bytes 0-/10",
        "bytes 0-9/1 0",
        "bytes  0-9/10",
        "bytes\t0-9/10",
        "bytes 0 - 9/10",
        "bytes +0-9/10",
        "bytes 0--9/10",
        "bytes */10",
        "bytes */*",
        "bytes 0-9/**",
        "bytes 0-9/10/10",
        "bytes 0x0-9/a",
        "bytes 0-9/10, 5",
        "",
        "bytes",
        "bytes 0-18446744073709551615/18446744073709551616",
        "bytes 0-9223372036854775808/*",
        "bytes 0-00000000000000000009/10",
        "bytes 18446744073709551616-18446744073709551617/*",
    };
    char field[256];

    for (size_t i = 0; i < COUNT(bad); i++) {
        snprintf(field, sizeof field, "Content-Range: %s", bad[i]);
        refuse_field(PARTIAL, field);
        accept_field(OK, field); /* without a meaning there */
        assert(!head.has_range && !head.has_unsatisfied_range);
    }
    /* Where no byte comes under it, it says no more than if it were absent. */
    static const char *const nothing[] = {"bytes 0-9/10", "bytes */*", "bytes */-1",
                                          "0"};
    for (size_t i = 0; i < COUNT(nothing); i++) {
        snprintf(field, sizeof field, "Content-Range: %s", nothing[i]);
        accept_field("HTTP/1.1 416 x", field);
        assert(!head.has_range && !head.has_unsatisfied_range);
    }
    accept_field(PARTIAL, "Content-Length: 0\r\nContent-Range: bytes 0--1/0");
    assert(!head.has_range && fdl_http_is_empty(&head));
    refuse_field(PARTIAL, "Content-Length: 0\r\nContent-Range: bytes 0-0/1");
}

static void good_content_ranges_are_read(void)
{
    accept_field(PARTIAL, "Content-Range: Bytes 0-0/1");
    assert(head.has_range && head.range.first == 0 && head.range.total == 1);
    accept_field(PARTIAL, "Content-Range: bytes 7-9/*");
    assert(head.has_range && head.range.last == 9 && head.range.total == UINT64_MAX);
    accept_field(PARTIAL,
                 "Content-Range: bytes 9223372036854775806-9223372036854775806/"
                 "9223372036854775807");
    assert(head.has_range && head.range.first == INT64_MAX - 1);
    accept_field("HTTP/1.1 416 x", "Content-Range: bytes */10");
    assert(!head.has_range && head.has_unsatisfied_range && head.range.total == 10);
    accept_field(PARTIAL, "X: y");
    assert(!head.has_range);
    accept_field("HTTP/1.1 416 x", "X: y");
    assert(!head.has_unsatisfied_range);
}

static void a_part_as_long_as_it_says_and_no_other(void)
{
    accept_field(PARTIAL, "Content-Length: 10\r\nContent-Range: bytes 0-9/10");
    refuse_field(PARTIAL, "Content-Length: 11\r\nContent-Range: bytes 0-9/20");
    refuse_field(PARTIAL, "Content-Length: 9\r\nContent-Range: bytes 0-9/20");
    accept_field(PARTIAL, "Transfer-Encoding: chunked\r\nContent-Range: bytes 0-9/20");
    assert(head.framing == FDL_HTTP_CHUNKED && head.has_range);
}

static void contradictions_are_refused_and_repetitions_are_not(void)
{
    static const char *const fields[][2] = {
        {"ETag: \"a\"\r\netag: \"a\"", "ETag: \"a\"\r\nETag: \"b\""},
        {"Location: /a\r\nLocation: /a", "Location: /a\r\nLocation: /b"},
        {"Content-Encoding: gzip\r\nContent-Encoding: gzip",
         "Content-Encoding: gzip\r\nContent-Encoding: identity"},
        {"Content-Range: bytes 0-0/2\r\nContent-Range: bytes 0-0/2",
         "Content-Range: bytes 0-0/2\r\nContent-Range: bytes 1-1/2"},
        {"Content-Type: a/b\r\nContent-Type: a/b",
         "Content-Type: a/b\r\nContent-Type: multipart/byteranges"},
        {"Last-Modified: x\r\nLast-Modified: x",
         "Last-Modified: x\r\nLast-Modified: y"},
    };
    for (size_t i = 0; i < COUNT(fields); i++) {
        accept_field(PARTIAL, fields[i][0]);
        refuse_field(PARTIAL, fields[i][1]);
    }
}

static void entity_tags_are_strong_weak_or_nothing(void)
{
    static const char *const malformed[] = {
        "a",        "\"",       "\"a", "a\"", "W/a", "W/\"", "w/\"a\"",   "\"a b\"",
        "\"a\"b\"", "W/ \"a\"", "",    "W",   "W/",  "'a'",  "\"a\x7f\"",
    };
    char field[FDL_HTTP_ETAG_MAX + 32];

    for (size_t i = 0; i < COUNT(malformed); i++) {
        snprintf(field, sizeof field, "ETag: %s", malformed[i]);
        if (strchr(field, 0x7f)) {
            refuse_field(OK, field);
            continue;
        }
        accept_field(OK, field);
        assert(head.etag.len == 0 && !head.etag_strong);
    }
    accept_field(OK, "ETag: \"\"");
    assert(is(head.etag, "\"\"") && head.etag_strong);
    accept_field(OK, "ETag: W/\"a\\,\xe4\"");
    assert(is(head.etag, "W/\"a\\,\xe4\"") && !head.etag_strong);

    int n = sprintf(field, "ETag: \"");
    memset(field + n, 'a', FDL_HTTP_ETAG_MAX - 1);
    strcpy(field + n - 1 + FDL_HTTP_ETAG_MAX - 1, "\"");
    accept_field(OK, field);
    assert(head.etag.len == FDL_HTTP_ETAG_MAX);
    strcpy(field + n - 1 + FDL_HTTP_ETAG_MAX - 1, "a\"");
    accept_field(OK, field);
    assert(head.etag.len == 0);
}

static void last_modified_is_strong_only_a_minute_before_date(void)
{
#define MODIFIED "Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT"
    accept_field(OK, MODIFIED "\r\nDate: Sun, 06 Nov 1994 08:50:37 GMT");
    assert(head.last_modified_strong);
    accept_field(OK, MODIFIED "\r\nDate: Sun, 06 Nov 1994 08:50:36 GMT");
    assert(!head.last_modified_strong && head.last_modified.len > 0);
    accept_field(OK, MODIFIED);
    assert(!head.last_modified_strong);
    accept_field(OK, MODIFIED "\r\nDate: Mon, 07 Nov 1994 08:50:36 GMT\r\nDate: x");
    assert(!head.last_modified_strong);
    accept_field(OK, "Last-Modified: 0\r\nDate: Sun, 06 Nov 1994 08:50:36 GMT");
    assert(!head.last_modified_strong && head.last_modified.len == 0);
}

static void content_fields_are_classified(void)
{
    static const struct {
        const char *field;
        enum fdl_http_coding coding;
    } codings[] = {
        {"Content-Encoding: gzip", FDL_HTTP_GZIP},
        {"Content-Encoding: X-GZip", FDL_HTTP_GZIP},
        {"Content-Encoding: identity, gzip ,", FDL_HTTP_GZIP},
        {"Content-Encoding: aws-chunked,zstd", FDL_HTTP_ZSTD},
        {"Content-Encoding: x-bzip2", FDL_HTTP_BZIP2},
        {"Content-Encoding: xz", FDL_HTTP_XZ},
        {"Content-Encoding: br", FDL_HTTP_BROTLI},
        {"Content-Encoding: Identity", FDL_HTTP_PLAIN},
        {"Content-Encoding: utf-8", FDL_HTTP_PLAIN},
        {"Content-Encoding:", FDL_HTTP_PLAIN},
        {"Content-Encoding: gzip, gzip", FDL_HTTP_UNKNOWN_CODING},
        {"Content-Encoding: gzip;q=1", FDL_HTTP_UNKNOWN_CODING},
        {"Content-Encoding: dcb", FDL_HTTP_UNKNOWN_CODING},
    };
    for (size_t i = 0; i < COUNT(codings); i++) {
        accept_field(OK, codings[i].field);
        assert(head.coding == codings[i].coding);
    }
    accept_field(PARTIAL, "Content-Type: Multipart/ByteRanges ; boundary=\"x\"");
    assert(head.multipart);
    accept_field(PARTIAL, "Content-Type: multipart/byterangesque");
    assert(!head.multipart);
}

static void a_coding_of_the_file_is_told_from_one_of_the_transfer(void)
{
#define GZIP "Content-Encoding: gzip"
    static const struct {
        const char *field, *target;
        bool packed;
    } files[] = {
        {GZIP, "/disk.raw.gz", true},
        {GZIP, "/DISK.TGZ?sig=x", true},
        {GZIP, "/get?name=disk.raw.gz", true},
        {GZIP, "/disk.raw", false},
        {GZIP, "/disk.raw.xz", false},
        {GZIP, "/disk.gz/raw", false},
        {GZIP, ".gz", false},
        {GZIP, "", false},
        {GZIP "\r\nContent-Type: application/x-gzip; a=b", "/disk", true},
        {GZIP "\r\nContent-Type: Application/GZIP", "/disk", true},
        {GZIP "\r\nContent-Type: application/octet-stream", "/disk", false},
        {GZIP "\r\nContent-Type: application/x-xz", "/disk", false},
        {GZIP "\r\nContent-Type: text/gzip", "/disk", false},
        {GZIP "\r\nContent-Disposition: attachment; filename=\"d.gz\"", "/7", true},
        {GZIP "\r\nContent-Disposition: attachment; filename=\"d.raw\"", "/7", false},
        {"Content-Encoding: xz", "/disk.raw.xz", true},
        {"Content-Encoding: zstd", "/disk.zst", true},
        {"Content-Encoding: x-compress", "/disk.Z", true},
        {"Content-Encoding: gzip, gzip", "/disk.gz", false},
        {"X: y", "/disk.gz", false},
    };
    for (size_t i = 0; i < COUNT(files); i++) {
        accept_field(OK, files[i].field);
        assert(fdl_http_file_is_packed(&head, files[i].target) == files[i].packed);
    }
    assert(fdl_http_looks_packed(FDL_HTTP_GZIP, "\x1f\x8b\x08", 3));
    assert(fdl_http_looks_packed(FDL_HTTP_GZIP, "\x1f", 1));
    assert(!fdl_http_looks_packed(FDL_HTTP_GZIP, "\x1f", 0));
    assert(!fdl_http_looks_packed(FDL_HTTP_GZIP, "\x1f\x8c", 2));
    assert(fdl_http_looks_packed(FDL_HTTP_XZ,
                                 "\xfd"
                                 "7zXZ",
                                 6));
    assert(!fdl_http_looks_packed(FDL_HTTP_BROTLI, "abc", 3));
    assert(!fdl_http_looks_packed(FDL_HTTP_PLAIN, "abc", 3));
}

static void folded_lines_become_one(void)
{
    static const char *const refused[] = {
        "Content-Length:\r\n 5",
        "Content-Length: 5\r\n 6",
        "transfer-encoding:\r\n\tchunked",
        "X: a\r\n ",
        "X: a\r\n \t \r\n b",
        "X: a\r\n b\x01",
        "X\r\n : a",
    };
    accept_field(OK, "X: one,\r\n two");
    assert(is(fdl_http_field_value(&head, "x"), "one, two"));
    accept_field(OK, "X: one, \t\r\n\t \ttwo \r\n three\r\nETag: \"a\"");
    assert(is(head.etag, "\"a\""));
    assert(is(fdl_http_field_value(&head, "x"), "one, \t two three"));
    accept_field(OK, "Content-Type:\r\n application/gzip;\r\n a=b\r\nX: y\r\n z");
    assert(is(head.content_type, " application/gzip; a=b" + 1));
    assert(is(fdl_http_field_value(&head, "x"), "y z") && head.n_fields == 2);
    accept_field(PARTIAL, "Content-Range:\r\n bytes 0-4/10\r\nContent-Length: 5");
    assert(head.has_range && head.range.total == 10);
    for (size_t i = 0; i < COUNT(refused); i++)
        refuse_field(OK, refused[i]);

    static char field[2 * FDL_HTTP_FOLDED_MAX];
    int n = sprintf(field, "X: a\r\n ");
    memset(field + n, 'b', FDL_HTTP_FOLDED_MAX - 8);
    accept_field(OK, field);
    strcat(field, "\r\nY: a\r\n cdefghijk");
    refuse_field(OK, field);
}

static void retry_after_is_seconds_or_a_date_by_the_servers_clock(void)
{
#define BUSY "HTTP/1.1 503 Busy"
#define NOW "Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n"
    accept_field(BUSY, "Retry-After: 120");
    assert(head.retry_after_s == 120);
    accept_field(BUSY, "Retry-After: 315360000");
    assert(head.retry_after_s == 315360000);
    accept_field(BUSY, NOW "Retry-After: Sun, 06 Nov 1994 08:51:37 GMT");
    assert(head.retry_after_s == 120);
    accept_field(BUSY, NOW "Retry-After: Sun, 06 Nov 1994 08:00:00 GMT");
    assert(head.retry_after_s == 0);
    accept_field(BUSY, "Retry-After: Sun, 06 Nov 1994 08:51:37 GMT");
    assert(head.retry_after_s == -1);
    static const char *const garbage[] = {"Retry-After: soon",
                                          "Retry-After: -5",
                                          "Retry-After: 1.5",
                                          "Retry-After:",
                                          "Retry-After: 99999999999999999999",
                                          "X: y"};
    for (size_t i = 0; i < COUNT(garbage); i++) {
        accept_field(BUSY, garbage[i]);
        assert(head.retry_after_s == -1);
    }
}

static int64_t date(const char *s)
{
    return fdl_http_parse_date(s, strlen(s));
}

static void dates_of_all_three_forms_are_read(void)
{
    assert(date("Sun, 06 Nov 1994 08:49:37 GMT") == 784111777);
    assert(date("Sunday, 06-Nov-94 08:49:37 GMT") == 784111777);
    assert(date("Sun Nov  6 08:49:37 1994") == 784111777);
    assert(date("Wed Nov 16 08:49:37 1994") == 784975777);
    assert(date("Thu, 01 Jan 1970 00:00:00 GMT") == 0);
    assert(date("Tue, 29 Feb 2000 23:59:60 GMT") == 951868800);
    assert(date("Wed, 31 Dec 2008 23:59:59 GMT") == 1230767999);
    assert(date("Thu, 29 Feb 2024 00:00:00 GMT") == 1709164800);
    assert(date("Fri, 01 Mar 2024 00:00:00 GMT") == 1709251200);
    assert(date("Mon, 01 Mar 2100 00:00:00 GMT") == 4107542400);
    assert(date("Fri, 31 Dec 9999 23:59:59 GMT") == 253402300799);
    assert(date("Monday, 01-Jan-68 00:00:00 GMT") == 3092601600);
}

static void malformed_dates_are_refused(void)
{
    static const char *const bad[] = {
        "",
        "0",
        "Sun, 06 Nov 1994 08:49:37",
        "Sun, 06 Nov 1994 08:49:37 UTC",
        "Sun, 06 Nov 1994 08:49:37 GMT ",
        "Sun, 6 Nov 1994 08:49:37 GMT",
        "sun, 06 nov 1994 08:49:37 gmt",
        "Sun, 00 Nov 1994 08:49:37 GMT",
        "Sun, 31 Nov 1994 08:49:37 GMT",
        "Sun, 29 Feb 2100 08:49:37 GMT",
        "Sun, 29 Feb 2023 08:49:37 GMT",
        "Sun, 06 Nov 1994 24:00:00 GMT",
        "Sun, 06 Nov 1994 08:60:00 GMT",
        "Sun, 06 Nov 1994 08:49:61 GMT",
        "Sun, 06 Nov 1969 08:49:37 GMT",
        "Sun, 06 Nov 0000 08:49:37 GMT",
        "Sun, 06 Nov 94 08:49:37 GMT",
        "Sun, 06 Foo 1994 08:49:37 GMT",
        "Xun, 06 Nov 1994 08:49:37 GMT",
        "Sunday, 06-Nov-1994 08:49:37 GMT",
        "Sun Nov 6 08:49:37 1994",
        "Sun Nov  6 08:49:37 19941",
        "Sun, -6 Nov 1994 08:49:37 GMT",
    };
    for (size_t i = 0; i < COUNT(bad); i++)
        assert(date(bad[i]) == -1);
}

/* ---- chunked ---- */

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

/* ---- requests ---- */

static char out[1024];

static long render(const struct fdl_http_request *req)
{
    return fdl_http_render_get(req, out, sizeof out, &err);
}

static void a_request_holds_what_it_must_and_nothing_else(void)
{
    struct fdl_http_request req = {
        .target = "/a?b", .host = "h:8080", .user_agent = "u/1"};
    static const char plain[] = "GET /a?b HTTP/1.1\r\n"
                                "Host: h:8080\r\n"
                                "User-Agent: u/1\r\n"
                                "Accept: */*\r\n"
                                "Accept-Encoding: identity\r\n"
                                "Want-Repr-Digest: sha-512=3, sha-256=10\r\n"
                                "\r\n";
    req.if_range = "\"t\""; /* without a range: not sent */
    assert(render(&req) == (long)strlen(plain) && strcmp(out, plain) == 0);

    req.ranged = true;
    req.first = 5;
    req.last = 9;
    req.extra = "Authorization: Bearer x\r\nX: \r\n";
    assert(render(&req) == (long)strlen(out));
    assert(strstr(out, "\r\nRange: bytes=5-9\r\nIf-Range: \"t\"\r\n"
                       "Authorization: Bearer x\r\nX: \r\n\r\n"));
    req.last = UINT64_MAX;
    req.if_range = NULL;
    assert(render(&req) > 0 && strstr(out, "\r\nRange: bytes=5-\r\nAuth"));
}

static void a_field_of_the_caller_replaces_ours(void)
{
    struct fdl_http_request req = {.target = "/", .host = "h", .user_agent = "u"};
    static const char replaced[] = "GET / HTTP/1.1\r\n"
                                   "HOST: other\r\n"
                                   "user-agent: Mozilla/5.0\r\n"
                                   "Accept: a/b\r\n"
                                   "Accept: c/d\r\n"
                                   "Accept-Encoding: identity\r\n"
                                   "Cookie: a=b\r\n"
                                   "\r\n";

    req.extra = "Accept: a/b\r\nCookie: a=b\r\nuser-agent: Mozilla/5.0\r\n"
                "Want-Repr-Digest: \r\nAccept: c/d\r\nHOST: other\r\n";
    assert(render(&req) == (long)strlen(replaced) && strcmp(out, replaced) == 0);
}

static void requests_that_would_say_more_than_asked_are_refused(void)
{
    const struct fdl_http_request good = {
        .target = "/", .host = "h", .user_agent = "u"};
    static const char *const bad_targets[] = {"",    "/a b",  "/a\r\nX: y",
                                              "/\t", "/\x7f", "/\xc3\xa4"};
    static const char *const bad_hosts[] = {"", "h\r\nX: y", "h x", "h\n"};
    static const char *const bad_extra[] = {"X: y",         "X: y\n",    "\r\n",
                                            "X: y\r\n\r\n", "X: y\r\nZ", "X : y\r\n",
                                            "X: a\rb\r\n",  " X: y\r\n", "X: y\r\n\n"};
    struct fdl_http_request req;

    assert(render(&good) > 0);
    for (size_t i = 0; i < COUNT(bad_targets); i++) {
        req = good;
        req.target = bad_targets[i];
        assert(render(&req) == FDL_E_USAGE && err.code == FDL_E_USAGE);
    }
    for (size_t i = 0; i < COUNT(bad_hosts); i++) {
        req = good;
        req.host = bad_hosts[i];
        assert(render(&req) == FDL_E_USAGE);
    }
    for (size_t i = 0; i < COUNT(bad_extra); i++) {
        req = good;
        req.extra = bad_extra[i];
        assert(render(&req) == FDL_E_USAGE);
    }
    req = good;
    req.user_agent = "u\r\nX: y";
    assert(render(&req) == FDL_E_USAGE);
    req = good;
    req.ranged = true;
    req.if_range = "\"a\"\r\nX: y";
    assert(render(&req) == FDL_E_USAGE);
    req.if_range = "W/\"a\"";
    assert(render(&req) == FDL_E_USAGE);
    req.if_range = NULL;
    req.first = 1;
    req.last = 0;
    assert(render(&req) == FDL_E_USAGE);
}

static void a_request_that_does_not_fit_is_refused(void)
{
    const struct fdl_http_request req = {.target = "/", .host = "h", .user_agent = "u"};
    long len = render(&req);

    assert(fdl_http_render_get(&req, out, (size_t)len + 1, &err) == len);
    for (size_t cap = 0; cap <= (size_t)len; cap++) {
        char *exact = malloc(cap);
        assert(exact || cap == 0);
        assert(fdl_http_render_get(&req, exact, cap, &err) == FDL_E_USAGE);
        free(exact);
    }
}

int main(void)
{
    a_usual_answer_is_understood();
    a_cut_head_asks_for_more_at_each_byte();
    what_follows_a_head_is_not_looked_at();
    reason_and_the_space_before_it_may_be_missing();
    malformed_status_lines_are_refused();
    other_protocols_are_refused_at_their_first_bytes();
    line_ends_other_than_crlf_are_refused_before_the_head_is_whole();
    malformed_fields_are_refused();
    limits_hold_before_the_head_is_whole();

    content_length_is_digits_once();
    only_plain_chunked_is_a_transfer_coding();
    answers_without_a_body_have_none_whatever_they_say();
    a_connection_lives_on_only_where_both_ends_know_where_the_body_ends();

    malformed_content_ranges_are_refused();
    good_content_ranges_are_read();
    a_part_as_long_as_it_says_and_no_other();
    contradictions_are_refused_and_repetitions_are_not();
    entity_tags_are_strong_weak_or_nothing();
    last_modified_is_strong_only_a_minute_before_date();
    content_fields_are_classified();
    a_coding_of_the_file_is_told_from_one_of_the_transfer();
    folded_lines_become_one();
    retry_after_is_seconds_or_a_date_by_the_servers_clock();
    dates_of_all_three_forms_are_read();
    malformed_dates_are_refused();

    chunked_bodies_are_found_however_they_are_cut();
    a_cut_chunked_body_is_never_done();
    malformed_chunks_are_refused();
    extensions_and_trailers_are_bounded();

    a_request_holds_what_it_must_and_nothing_else();
    a_field_of_the_caller_replaces_ours();
    requests_that_would_say_more_than_asked_are_refused();
    a_request_that_does_not_fit_is_refused();
    return 0;
}
