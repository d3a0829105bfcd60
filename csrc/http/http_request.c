/* SPDX-License-Identifier: Apache-2.0 */
/* http/http_request.c - what do we request? One GET, with nothing in it that could
 * become a second one. */
#include "http/http.h"
#include "http/http_chars.h"
#include "http/http_str.h"

#include <inttypes.h>
#include <stdio.h>

/* Visible ASCII only: what may stand in a request line or a Host field. */
static bool is_visible(const char *s)
{
    if (*s == '\0')
        return false;
    for (; *s; s++)
        if (*s <= 0x20 || *s >= 0x7f)
            return false;
    return true;
}

static bool is_field_value(struct fdl_str s)
{
    for (size_t i = 0; i < s.len; i++)
        if (!fdl_is_field_char((unsigned char)s.ptr[i]))
            return false;
    return true;
}

static struct fdl_str str(const char *text)
{
    return (struct fdl_str){text, strlen(text)};
}

/* `name: value` with a token for a name. */
static bool is_field_line(struct fdl_str line)
{
    struct fdl_str name, value;

    if (!fdl_str_split(line, ':', &name, &value) || name.len == 0)
        return false;
    for (size_t i = 0; i < name.len; i++)
        if (!fdl_is_token_char((unsigned char)name.ptr[i]))
            return false;
    return is_field_value(value);
}

/* Whole field lines and nothing else: an empty line among them would end our head. */
static bool are_field_lines(const char *s)
{
    struct fdl_str rest = str(s);

    while (rest.len > 0) {
        const char *lf = memchr(rest.ptr, '\n', rest.len);
        if (!lf || lf == rest.ptr || lf[-1] != '\r' ||
            !is_field_line(fdl_str_take_line(&rest)))
            return false;
    }
    return true;
}

struct text {
    char *at;
    size_t room; /* a NUL not counted */
    bool full;
};

static void put(struct text *out, const char *s, size_t len)
{
    if (len > out->room) {
        out->full = true;
        return;
    }
    memcpy(out->at, s, len);
    out->at += len;
    out->room -= len;
}

static void put_text(struct text *out, const char *s)
{
    put(out, s, strlen(s));
}

static void put_field(struct text *out, const char *name, const char *value)
{
    put_text(out, name);
    put_text(out, ": ");
    put_text(out, value);
    put_text(out, "\r\n");
}

static const char *const ours[] = {"Host", "User-Agent", "Accept", "Accept-Encoding",
                                   "Want-Repr-Digest"};
#define N_OURS (sizeof ours / sizeof *ours)

/* Our field, or those that the caller gave for it. */
static void put_ours(struct text *out, size_t i, const char *value, const char *extra)
{
    struct fdl_str rest = str(extra), name, given;
    bool replaced = false;

    while (rest.len > 0) {
        struct fdl_str line = fdl_str_take_line(&rest);
        fdl_str_split(line, ':', &name, &given);
        if (!fdl_str_equals(name, ours[i]))
            continue;
        replaced = true;
        if (fdl_str_trim(given).len > 0)
            put(out, line.ptr, line.len + 2);
    }
    if (!replaced)
        put_field(out, ours[i], value);
}

static bool is_ours(struct fdl_str name)
{
    for (size_t i = 0; i < N_OURS; i++)
        if (fdl_str_equals(name, ours[i]))
            return true;
    return false;
}

static void put_others(struct text *out, const char *extra)
{
    struct fdl_str rest = str(extra), name, given;

    while (rest.len > 0) {
        struct fdl_str line = fdl_str_take_line(&rest);
        fdl_str_split(line, ':', &name, &given);
        if (!is_ours(name))
            put(out, line.ptr, line.len + 2);
    }
}

static void put_range(struct text *out, const struct fdl_http_request *req)
{
    char range[64];

    if (req->last == UINT64_MAX)
        snprintf(range, sizeof range, "bytes=%" PRIu64 "-", req->first);
    else
        snprintf(range, sizeof range, "bytes=%" PRIu64 "-%" PRIu64, req->first,
                 req->last);
    put_field(out, "Range", range);
    if (req->if_range && *req->if_range)
        put_field(out, "If-Range", req->if_range);
}

long fdl_http_render_get(const struct fdl_http_request *req, char *out, size_t cap,
                         struct fdl_err *err)
{
    const char *if_range = req->ranged && req->if_range ? req->if_range : "";
    const char *extra = req->extra ? req->extra : "";
    const char *const values[N_OURS] = {req->host, req->user_agent, "*/*", "identity",
                                        "sha-512=3, sha-256=10"};

    if (!is_visible(req->target) || !is_visible(req->host) ||
        !is_field_value(str(req->user_agent)) || !is_field_value(str(if_range)) ||
        !are_field_lines(extra))
        return fdl_fail(err, FDL_E_USAGE, FDL_NO_OFFSET,
                        "request would hold a forbidden character");
    if (req->ranged && req->first > req->last)
        return fdl_fail(err, FDL_E_USAGE, req->first, "range ends before it starts");
    if (strncmp(if_range, "W/", 2) == 0) /* RFC 9110, 13.1.5 */
        return fdl_fail(err, FDL_E_USAGE, FDL_NO_OFFSET, "If-Range with a weak tag");

    struct text text = {.at = out, .room = cap > 0 ? cap - 1 : 0, .full = cap == 0};
    put_text(&text, "GET ");
    put_text(&text, req->target);
    put_text(&text, " HTTP/1.1\r\n");
    for (size_t i = 0; i < N_OURS; i++)
        put_ours(&text, i, values[i], extra);
    if (req->ranged)
        put_range(&text, req);
    put_others(&text, extra);
    put_text(&text, "\r\n");
    if (text.full)
        return fdl_fail(err, FDL_E_USAGE, FDL_NO_OFFSET, "request is too long");
    *text.at = '\0';
    return text.at - out;
}
