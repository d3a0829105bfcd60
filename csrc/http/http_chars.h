/* SPDX-License-Identifier: Apache-2.0 */
/* http/http_chars.h - the two character classes of HTTP fields (RFC 9110, 5.5
 * and 5.6.2).
 *
 * Private to http/. Free of the locale, unlike <ctype.h>. */
#ifndef FDL_HTTP_CHARS_H
#define FDL_HTTP_CHARS_H

#include <stdbool.h>

/* A character of a field's name. */
static inline bool fdl_is_token_char(unsigned char c)
{
    if ((c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z'))
        return true;
    switch (c) {
    case '!':
    case '#':
    case '$':
    case '%':
    case '&':
    case '\'':
    case '*':
    case '+':
    case '-':
    case '.':
    case '^':
    case '_':
    case '`':
    case '|':
    case '~':
        return true;
    default:
        return false;
    }
}

/* A character of a field's value: anything but control bytes; tab is allowed. */
static inline bool fdl_is_field_char(unsigned char c)
{
    return c == '\t' || (c >= 0x20 && c != 0x7f);
}

#endif
