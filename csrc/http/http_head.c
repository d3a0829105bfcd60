/* SPDX-License-Identifier: Apache-2.0 */
/* http/http_head.c - what does this response's head say, and is it acceptable? */
#include "http/http_field.h"
#include "http/http_chars.h"
#include "http/http_str.h"

#include <stddef.h>
#include <string.h>

#define VERSION_PREFIX "HTTP/1."
#define VERSION_PREFIX_LEN (sizeof VERSION_PREFIX - 1)

/* Last-Modified counts as strong only where it is that much older than Date. */
#define STRONG_DATE_S 60

static int refuse(struct fdl_err *err, const char *why)
{
    return fdl_fail(err, FDL_E_HTTP_PROTOCOL, FDL_NO_OFFSET, why);
}

static bool same(struct fdl_str a, struct fdl_str b)
{
    return a.len == b.len && memcmp(a.ptr, b.ptr, a.len) == 0;
}

/* 1 to 19 digits and no sign, at most the kernel's largest offset. */
static bool parse_decimal(struct fdl_str s, uint64_t *out)
{
    uint64_t value = 0;

    if (s.len < 1 || s.len > 19)
        return false;
    for (size_t i = 0; i < s.len; i++) {
        if (s.ptr[i] < '0' || s.ptr[i] > '9')
            return false;
        value = value * 10 + (uint64_t)(s.ptr[i] - '0');
    }
    *out = value;
    return value <= INT64_MAX;
}

/* ---- the lines of a head ---- */

/* Measures the head without looking into its lines, so that a server that drips its
 * head byte by byte makes us run memchr() and not the parser on each byte, and one that
 * sends garbage is refused at the first byte that cannot be. Returns like
 * fdl_http_parse_head(). */
static long measure_head(const char *buf, size_t len, struct fdl_err *err)
{
    size_t seen = len < FDL_HTTP_HEAD_MAX ? len : FDL_HTTP_HEAD_MAX;
    size_t lines = 0;

    if (memcmp(buf, VERSION_PREFIX,
               seen < VERSION_PREFIX_LEN ? seen : VERSION_PREFIX_LEN) != 0)
        return refuse(err, "response is not HTTP/1.x");

    for (size_t at = 0; at < seen;) {
        const char *line = buf + at;
        const char *lf = memchr(line, '\n', seen - at);
        size_t line_len = lf ? (size_t)(lf - line) : seen - at;
        const char *cr = memchr(line, '\r', line_len);

        /* A CR may only be the last byte before LF, or the last one we have. */
        if (cr && cr != line + line_len - 1)
            return refuse(err, "bare CR in the head");
        if (lf && !cr)
            return refuse(err, "line of the head ends in LF alone");
        if (memchr(line, 0, line_len))
            return refuse(err, "NUL in the head");
        if (cr)
            line_len--;
        if (line_len > FDL_HTTP_LINE_MAX)
            return refuse(err, "line of the head is too long");
        if (!lf)
            break;
        at += line_len + 2;
        if (line_len == 0)
            return (long)at;
        if (++lines > FDL_HTTP_FIELDS_MAX + 1)
            return refuse(err, "head has too many fields");
    }
    if (len >= FDL_HTTP_HEAD_MAX)
        return refuse(err, "head is too long");
    return 0;
}

static int parse_status_line(struct fdl_str line, struct fdl_http_head *out,
                             struct fdl_err *err)
{
    /* HTTP/1.1 SP 200; the SP and the reason after it may be missing. */
    const size_t code_at = VERSION_PREFIX_LEN + 2;
    const size_t code_end = code_at + 3;

    if (line.len < code_end ||
        memcmp(line.ptr, VERSION_PREFIX, VERSION_PREFIX_LEN) != 0)
        return refuse(err, "status line is malformed");
    char minor = line.ptr[VERSION_PREFIX_LEN];
    if ((minor != '0' && minor != '1') || line.ptr[code_at - 1] != ' ')
        return refuse(err, "status line is malformed");
    for (size_t i = code_at; i < code_end; i++) {
        char c = line.ptr[i];
        if (c < '0' || c > '9')
            return refuse(err, "status code is not three digits");
        out->status = out->status * 10 + (c - '0');
    }
    if (line.len > code_end && line.ptr[code_end] != ' ')
        return refuse(err, "status code is not three digits");
    for (size_t i = code_end; i < line.len; i++)
        if (!fdl_is_field_char((unsigned char)line.ptr[i]))
            return refuse(err, "control byte in the status line");
    if (out->status < 100 || out->status > 599)
        return refuse(err, "status code is out of range");
    if (out->status == 101)
        return refuse(err, "server switches protocols without being asked");
    out->minor_version = minor - '0';
    return FDL_OK;
}

static int parse_field(struct fdl_str line, struct fdl_http_field *out,
                       struct fdl_err *err)
{
    struct fdl_str value;

    if (line.len > 0 && fdl_is_blank(line.ptr[0]))
        return refuse(err, "white space before the first field");
    if (!fdl_str_split(line, ':', &out->name, &value))
        return refuse(err, "field line without a colon");
    if (out->name.len == 0)
        return refuse(err, "field line without a name");
    for (size_t i = 0; i < out->name.len; i++)
        if (!fdl_is_token_char((unsigned char)out->name.ptr[i]))
            return refuse(err, "field name is not a token");
    for (size_t i = 0; i < value.len; i++)
        if (!fdl_is_field_char((unsigned char)value.ptr[i]))
            return refuse(err, "control byte in a field value");
    out->value = fdl_str_trim(value);
    return FDL_OK;
}

/* A line that begins with a blank continues the one before it (RFC 9112, 5.2): each
 * such break becomes a space. Not in fields that determine where the body ends, and not
 * where the line holds nothing else: what one reader takes for the end of the head,
 * another may not. */
static int unfold(struct fdl_http_head *out, struct fdl_str *line, struct fdl_str *rest,
                  struct fdl_err *err)
{
    char *text = out->unfolded + out->unfolded_len;
    size_t room = sizeof out->unfolded - out->unfolded_len, len = 0;
    struct fdl_str part = *line, name, value;

    fdl_str_split(*line, ':', &name, &value);
    if (fdl_str_equals(name, "Content-Length") ||
        fdl_str_equals(name, "Transfer-Encoding"))
        return refuse(err, "folded line in the framing of the body");
    for (;;) {
        if (part.len + 1 > room - len)
            return refuse(err, "folded lines are too long");
        memcpy(text + len, part.ptr, part.len);
        len += part.len;
        if (!fdl_is_blank(rest->ptr[0]))
            break;
        part = fdl_str_trim(fdl_str_take_line(rest));
        if (part.len == 0)
            return refuse(err, "line of blanks in the head");
        text[len++] = ' ';
    }
    *line = (struct fdl_str){text, len};
    out->unfolded_len += len;
    return FDL_OK;
}

/* ---- what the fields mean ---- */

struct fdl_str fdl_http_field_value(const struct fdl_http_head *head, const char *name)
{
    return fdl_http_value_of(head, name);
}

/* Fields with a single value must not have two. Repeating oneself is tolerated
 * here, and nowhere in framing. */
static int refuse_conflicts(const struct fdl_http_head *head, struct fdl_err *err)
{
    static const char *const singles[] = {
        "Content-Range", "ETag",         "Last-Modified",
        "Location",      "Content-Type", "Content-Encoding",
    };

    for (size_t i = 0; i < sizeof singles / sizeof singles[0]; i++) {
        size_t at = 0;
        const struct fdl_http_field *first = fdl_http_next_field(head, singles[i], &at);
        const struct fdl_http_field *other;
        while ((other = fdl_http_next_field(head, singles[i], &at)))
            if (!same(first->value, other->value))
                return refuse(err, "two fields contradict each other");
    }
    return FDL_OK;
}

static bool has_connection_option(const struct fdl_http_head *head, const char *option)
{
    size_t at = 0;
    const struct fdl_http_field *field;

    while ((field = fdl_http_next_field(head, "Connection", &at))) {
        struct fdl_str rest = field->value;
        while (rest.len > 0) {
            struct fdl_str item;
            fdl_str_split(rest, ',', &item, &rest);
            if (fdl_str_equals(fdl_str_trim(item), option))
                return true;
        }
    }
    return false;
}

/* RFC 9112, 6.3, without its leniences. */
static int check_framing(struct fdl_http_head *head, struct fdl_err *err)
{
    size_t at = 0;
    const struct fdl_http_field *length =
        fdl_http_next_field(head, "Content-Length", &at);
    if (length && fdl_http_next_field(head, "Content-Length", &at))
        return refuse(err, "several Content-Length fields");
    at = 0;
    const struct fdl_http_field *coding =
        fdl_http_next_field(head, "Transfer-Encoding", &at);
    if (coding && fdl_http_next_field(head, "Transfer-Encoding", &at))
        return refuse(err, "several Transfer-Encoding fields");

    if (length && coding)
        return refuse(err, "Content-Length together with Transfer-Encoding");
    if (coding && head->minor_version == 0)
        return refuse(err, "Transfer-Encoding in HTTP/1.0");
    if (coding && !fdl_str_equals(coding->value, "chunked"))
        return refuse(err, "Transfer-Encoding other than chunked");
    if (length && !parse_decimal(length->value, &head->content_length))
        return refuse(err, "Content-Length is not a number");

    if (head->status < 200 || head->status == 204 || head->status == 304) {
        head->framing = FDL_HTTP_NO_BODY;
        head->content_length = 0;
    } else if (coding) {
        head->framing = FDL_HTTP_CHUNKED;
    } else {
        head->framing = length ? FDL_HTTP_LENGTH : FDL_HTTP_UNTIL_CLOSE;
    }
    head->keep_alive =
        head->framing != FDL_HTTP_UNTIL_CLOSE &&
        !has_connection_option(head, "close") &&
        (head->minor_version == 1 || has_connection_option(head, "keep-alive"));
    return FDL_OK;
}

/* RFC 9110, 14.4: `bytes first-last/total`, `bytes first-last/ *` or `bytes * /total`.
 */
static bool parse_content_range(struct fdl_str value, struct fdl_http_range *out,
                                bool *satisfied)
{
    struct fdl_str unit, range, total, first, last;

    if (!fdl_str_split(value, ' ', &unit, &range) || !fdl_str_equals(unit, "bytes"))
        return false;
    if (!fdl_str_split(range, '/', &range, &total))
        return false;
    bool total_known = !fdl_str_equals(total, "*");
    out->total = UINT64_MAX;
    if (total_known && !parse_decimal(total, &out->total))
        return false;
    *satisfied = !fdl_str_equals(range, "*");
    if (!*satisfied)
        return total_known;
    return fdl_str_split(range, '-', &first, &last) &&
           parse_decimal(first, &out->first) && parse_decimal(last, &out->last) &&
           out->first <= out->last && out->last < out->total;
}

bool fdl_http_status_is_transient(int status)
{
    switch (status) {
    case 408:
    case 421: /* this connection leads to the wrong server */
    case 425:
    case 429:
        return true;
    case 501:
    case 505:
        return false;
    default:
        return status >= 500;
    }
}

bool fdl_http_status_refuses_range(int status)
{
    return status == 400 || status == 403 || status == 405 || status == 406 ||
           status == 416 || status == 501;
}

bool fdl_http_is_empty(const struct fdl_http_head *head)
{
    return head->framing == FDL_HTTP_LENGTH && head->content_length == 0;
}

/* Content-Range has a meaning in 206 and 416 only; of a 200 that has one, it says that
 * this may not be the whole. */
static int check_range(struct fdl_http_head *head, struct fdl_err *err)
{
    size_t at = 0;
    bool satisfied;

    if (head->status != 200 && head->status != 206 && head->status != 416)
        return FDL_OK;
    const struct fdl_http_field *field =
        fdl_http_next_field(head, "Content-Range", &at);
    if (!field)
        return FDL_OK;
    bool read = parse_content_range(field->value, &head->range, &satisfied);
    if (head->status == 200) {
        head->maybe_part = !read || !satisfied || head->range.first > 0 ||
                           head->range.last + 1 != head->range.total;
        return FDL_OK;
    }
    if (!read || satisfied != (head->status == 206)) {
        /* It describes no bytes: the same as if it were absent. */
        if (head->status == 416 || fdl_http_is_empty(head))
            return FDL_OK;
        return refuse(err, "Content-Range is malformed");
    }
    head->has_range = satisfied;
    head->has_unsatisfied_range = !satisfied;

    if (head->has_range && head->framing == FDL_HTTP_LENGTH &&
        head->content_length != head->range.last - head->range.first + 1)
        return refuse(err, "Content-Length contradicts Content-Range");
    return FDL_OK;
}

/* RFC 9110, 8.8.3: [W/] DQUOTE *etagc DQUOTE. */
static bool is_entity_tag(struct fdl_str tag, bool *strong)
{
    *strong = !(tag.len >= 2 && memcmp(tag.ptr, "W/", 2) == 0);
    size_t open = *strong ? 0 : 2;

    if (tag.len > FDL_HTTP_ETAG_MAX || tag.len < open + 2)
        return false;
    if (tag.ptr[open] != '"' || tag.ptr[tag.len - 1] != '"')
        return false;
    for (size_t i = open + 1; i < tag.len - 1; i++) {
        unsigned char c = (unsigned char)tag.ptr[i];
        if (c <= 0x20 || c == 0x7f || c == '"')
            return false;
    }
    return true;
}

/* Seconds to wait by Retry-After; a date is checked against the server's own clock. */
static int64_t parse_retry_after(struct fdl_str value, int64_t now)
{
    uint64_t seconds;

    if (parse_decimal(value, &seconds))
        return (int64_t)seconds;
    int64_t then = fdl_http_parse_date(value.ptr, value.len);
    if (then < 0 || now < 0)
        return -1;
    return then > now ? then - now : 0;
}

static void note_validators(struct fdl_http_head *head)
{
    size_t at = 0;
    int64_t now = -1;
    const struct fdl_http_field *date = fdl_http_next_field(head, "Date", &at);

    /* Two clocks are no clock. */
    if (date && !fdl_http_next_field(head, "Date", &at))
        now = fdl_http_parse_date(date->value.ptr, date->value.len);

    head->etag = fdl_http_value_of(head, "ETag");
    if (!is_entity_tag(head->etag, &head->etag_strong)) {
        head->etag = fdl_str_empty;
        head->etag_strong = false;
    }
    head->last_modified = fdl_http_value_of(head, "Last-Modified");
    int64_t modified =
        fdl_http_parse_date(head->last_modified.ptr, head->last_modified.len);
    if (modified < 0)
        head->last_modified = fdl_str_empty;
    head->last_modified_strong = modified >= 0 && now - modified >= STRONG_DATE_S;
    head->retry_after_s =
        parse_retry_after(fdl_http_value_of(head, "Retry-After"), now);
}

static void note_content(struct fdl_http_head *head)
{
    struct fdl_str media_type, parameters;

    head->coding = fdl_http_coding_of(fdl_http_value_of(head, "Content-Encoding"));
    head->location = fdl_http_value_of(head, "Location");
    head->content_type = fdl_http_value_of(head, "Content-Type");
    fdl_str_split(head->content_type, ';', &media_type, &parameters);
    head->multipart = fdl_str_equals(fdl_str_trim(media_type), "multipart/byteranges");
}

long fdl_http_parse_head(const char *buf, size_t len, struct fdl_http_head *out,
                         struct fdl_err *err)
{
    if (len == 0)
        return 0;
    long head_len = measure_head(buf, len, err);
    if (head_len <= 0)
        return head_len;

    memset(out, 0, offsetof(struct fdl_http_head, unfolded));
    struct fdl_str rest = {buf, (size_t)head_len};
    int rc = parse_status_line(fdl_str_take_line(&rest), out, err);
    while (rc == FDL_OK && rest.len > 2) { /* 2: the empty line */
        struct fdl_str line = fdl_str_take_line(&rest);
        if (out->n_fields > 0 || !fdl_is_blank(line.ptr[0]))
            rc = fdl_is_blank(rest.ptr[0]) ? unfold(out, &line, &rest, err) : FDL_OK;
        if (rc == FDL_OK)
            rc = parse_field(line, &out->fields[out->n_fields++], err);
    }
    if (rc == FDL_OK)
        rc = refuse_conflicts(out, err);
    if (rc == FDL_OK)
        rc = check_framing(out, err);
    if (rc == FDL_OK)
        rc = check_range(out, err);
    if (rc != FDL_OK)
        return rc;
    note_validators(out);
    note_content(out);
    return head_len;
}
