/* SPDX-License-Identifier: Apache-2.0 */
#undef NDEBUG
#include "http_rig.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

struct fdl_http_head head;
struct fdl_err err;

long parse_bytes(const char *bytes, size_t len)
{
    memset(&head, 0xa5, sizeof head); /* nothing may be left unset */
    fdl_err_clear(&err);
    return fdl_http_parse_head(bytes, len, &head, &err);
}

void accept_head(const char *text)
{
    long rc = parse_bytes(text, strlen(text));
    if (rc != (long)strlen(text))
        fprintf(stderr, "%ld (%s) for:\n%s\n", rc, err.what, text);
    assert(rc == (long)strlen(text));
}

void refuse_bytes(const char *bytes, size_t len)
{
    long rc = parse_bytes(bytes, len);
    if (rc != FDL_E_HTTP_PROTOCOL)
        fprintf(stderr, "%ld for:\n%.*s\n", rc, (int)len, bytes);
    assert(rc == FDL_E_HTTP_PROTOCOL && err.code == FDL_E_HTTP_PROTOCOL);
    assert(err.what[0] != '\0');
}

void refuse(const char *text)
{
    refuse_bytes(text, strlen(text));
}

const char *with_field(const char *status, const char *field)
{
    static char text[2 * FDL_HTTP_FOLDED_MAX];
    int n = snprintf(text, sizeof text, "%s\r\n%s\r\n\r\n", status, field);
    assert(n > 0 && (size_t)n < sizeof text);
    return text;
}

void accept_field(const char *status, const char *field)
{
    accept_head(with_field(status, field));
}

void refuse_field(const char *status, const char *field)
{
    refuse(with_field(status, field));
}

bool is(struct fdl_str s, const char *literal)
{
    return s.len == strlen(literal) && memcmp(s.ptr, literal, s.len) == 0;
}
