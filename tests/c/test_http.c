/* SPDX-License-Identifier: Apache-2.0 */
/* test_http.c - which heads are responses, and where does a body end? */
#undef NDEBUG
#include "http_rig.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- lines ---- */

static void a_usual_answer_is_understood(void)
{
    accept_head("HTTP/1.1 206 Partial Content\r\n"
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
    accept_head(text);
}

static void what_follows_a_head_is_not_looked_at(void)
{
    static const char text[] = OK "\r\nContent-Length: 1\r\n\r\n\n\r\0 garbage";
    assert(parse_bytes(text, sizeof text) == 38);
}

static void reason_and_the_space_before_it_may_be_missing(void)
{
    accept_head("HTTP/1.1 200\r\n\r\n");
    accept_head("HTTP/1.1 200 \r\n\r\n");
    accept_head("HTTP/1.0 404 Not\tF\xc3\xb6und here\r\n\r\n");
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
    return 0;
}
