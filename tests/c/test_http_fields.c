/* SPDX-License-Identifier: Apache-2.0 */
/* test_http_fields.c - what do the fields of a head say? */
#undef NDEBUG
#include "http_rig.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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

int main(void)
{
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
    return 0;
}
