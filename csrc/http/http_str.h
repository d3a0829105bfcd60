/* SPDX-License-Identifier: Apache-2.0 */
/* http/http_str.h - pieces of text that are not NUL-terminated: compared, trimmed,
 * split.
 *
 * Private to http/. */
#ifndef FDL_HTTP_STR_H
#define FDL_HTTP_STR_H

#include <string.h>
#include <strings.h>

#include "http/http.h"

static const struct fdl_str fdl_str_empty = {"", 0};

static inline bool fdl_is_blank(char c)
{
    return c == ' ' || c == '\t';
}

/* Compares with a literal, ASCII case ignored. */
static inline bool fdl_str_equals(struct fdl_str s, const char *literal)
{
    size_t len = strlen(literal);
    return s.len == len && strncasecmp(s.ptr, literal, len) == 0;
}

/* Without the blanks at both ends. */
static inline struct fdl_str fdl_str_trim(struct fdl_str s)
{
    while (s.len > 0 && fdl_is_blank(s.ptr[0])) {
        s.ptr++;
        s.len--;
    }
    while (s.len > 0 && fdl_is_blank(s.ptr[s.len - 1]))
        s.len--;
    return s;
}

/* Splits at the first `sep`; without one, everything is *before and *after is empty. */
static inline bool fdl_str_split(struct fdl_str s, char sep, struct fdl_str *before,
                                 struct fdl_str *after)
{
    const char *at = memchr(s.ptr, sep, s.len);

    *before = s;
    *after = fdl_str_empty;
    if (!at)
        return false;
    before->len = (size_t)(at - s.ptr);
    after->ptr = at + 1;
    after->len = s.len - before->len - 1;
    return true;
}

/* Takes one line, which is known to end in CRLF, off the front. */
static inline struct fdl_str fdl_str_take_line(struct fdl_str *rest)
{
    struct fdl_str line, after;

    fdl_str_split(*rest, '\n', &line, &after);
    line.len--;
    *rest = after;
    return line;
}

#endif
