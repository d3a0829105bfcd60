/* SPDX-License-Identifier: Apache-2.0 */
/* fdl_http.c - what does this answer's head say, and is it fit to be believed? */
#include "fdl_http.h"
#include "fdl_http_chars.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#define VERSION_PREFIX "HTTP/1."
#define VERSION_PREFIX_LEN (sizeof VERSION_PREFIX - 1)

/* Last-Modified counts as strong only where it is that much older than Date. */
#define STRONG_DATE_S 60

static const struct fdl_str empty = {"", 0};

static int refuse(struct fdl_err *err, const char *why)
{
    return fdl_fail(err, FDL_E_HTTP_PROTOCOL, FDL_NO_OFFSET, why);
}

static bool is_blank(char c)
{
    return c == ' ' || c == '\t';
}

/* Compares with a literal, ASCII case ignored. */
static bool equals(struct fdl_str s, const char *literal)
{
    size_t len = strlen(literal);
    return s.len == len && strncasecmp(s.ptr, literal, len) == 0;
}

static bool same(struct fdl_str a, struct fdl_str b)
{
    return a.len == b.len && memcmp(a.ptr, b.ptr, a.len) == 0;
}

static struct fdl_str trim(struct fdl_str s)
{
    while (s.len > 0 && is_blank(s.ptr[0])) {
        s.ptr++;
        s.len--;
    }
    while (s.len > 0 && is_blank(s.ptr[s.len - 1]))
        s.len--;
    return s;
}

/* Splits at the first `sep`; without one, everything is *before and *after is empty. */
static bool split(struct fdl_str s, char sep, struct fdl_str *before,
                  struct fdl_str *after)
{
    const char *at = memchr(s.ptr, sep, s.len);

    *before = s;
    *after = empty;
    if (!at)
        return false;
    before->len = (size_t)(at - s.ptr);
    after->ptr = at + 1;
    after->len = s.len - before->len - 1;
    return true;
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
        return refuse(err, "answer is not HTTP/1.x");

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

    if (line.len > 0 && is_blank(line.ptr[0]))
        return refuse(err, "folded field line");
    if (!split(line, ':', &out->name, &value))
        return refuse(err, "field line without a colon");
    if (out->name.len == 0)
        return refuse(err, "field line without a name");
    for (size_t i = 0; i < out->name.len; i++)
        if (!fdl_is_token_char((unsigned char)out->name.ptr[i]))
            return refuse(err, "field name is not a token");
    for (size_t i = 0; i < value.len; i++)
        if (!fdl_is_field_char((unsigned char)value.ptr[i]))
            return refuse(err, "control byte in a field value");
    out->value = trim(value);
    return FDL_OK;
}

/* Takes one line, which measure_head() has seen to end in CRLF, off the front. */
static struct fdl_str take_line(struct fdl_str *rest)
{
    struct fdl_str line, after;

    split(*rest, '\n', &line, &after);
    line.len--;
    *rest = after;
    return line;
}

/* ---- what the fields mean ---- */

/* The first field of that name at or after *at, which moves behind it; NULL for none.
 */
static const struct fdl_http_field *next_field(const struct fdl_http_head *head,
                                               const char *name, size_t *at)
{
    while (*at < head->n_fields) {
        const struct fdl_http_field *field = &head->fields[(*at)++];
        if (equals(field->name, name))
            return field;
    }
    return NULL;
}

struct fdl_str fdl_http_field_value(const struct fdl_http_head *head, const char *name)
{
    size_t at = 0;
    const struct fdl_http_field *field = next_field(head, name, &at);
    return field ? field->value : empty;
}

/* Fields that can only say one thing must not say two. Repeating oneself is tolerated
 * here, and nowhere in framing. */
static int refuse_conflicts(const struct fdl_http_head *head, struct fdl_err *err)
{
    static const char *const singles[] = {
        "Content-Range", "ETag",         "Last-Modified",
        "Location",      "Content-Type", "Content-Encoding",
    };

    for (size_t i = 0; i < sizeof singles / sizeof singles[0]; i++) {
        size_t at = 0;
        const struct fdl_http_field *first = next_field(head, singles[i], &at);
        const struct fdl_http_field *other;
        while ((other = next_field(head, singles[i], &at)))
            if (!same(first->value, other->value))
                return refuse(err, "two fields contradict each other");
    }
    return FDL_OK;
}

static bool has_connection_option(const struct fdl_http_head *head, const char *option)
{
    size_t at = 0;
    const struct fdl_http_field *field;

    while ((field = next_field(head, "Connection", &at))) {
        struct fdl_str rest = field->value;
        while (rest.len > 0) {
            struct fdl_str item;
            split(rest, ',', &item, &rest);
            if (equals(trim(item), option))
                return true;
        }
    }
    return false;
}

/* RFC 9112, 6.3, without its leniences. */
static int judge_framing(struct fdl_http_head *head, struct fdl_err *err)
{
    size_t at = 0;
    const struct fdl_http_field *length = next_field(head, "Content-Length", &at);
    if (length && next_field(head, "Content-Length", &at))
        return refuse(err, "several Content-Length fields");
    at = 0;
    const struct fdl_http_field *coding = next_field(head, "Transfer-Encoding", &at);
    if (coding && next_field(head, "Transfer-Encoding", &at))
        return refuse(err, "several Transfer-Encoding fields");

    if (length && coding)
        return refuse(err, "Content-Length together with Transfer-Encoding");
    if (coding && head->minor_version == 0)
        return refuse(err, "Transfer-Encoding in HTTP/1.0");
    if (coding && !equals(coding->value, "chunked"))
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

    if (!split(value, ' ', &unit, &range) || !equals(unit, "bytes"))
        return false;
    if (!split(range, '/', &range, &total))
        return false;
    bool total_known = !equals(total, "*");
    out->total = UINT64_MAX;
    if (total_known && !parse_decimal(total, &out->total))
        return false;
    *satisfied = !equals(range, "*");
    if (!*satisfied)
        return total_known;
    return split(range, '-', &first, &last) && parse_decimal(first, &out->first) &&
           parse_decimal(last, &out->last) && out->first <= out->last &&
           out->last < out->total;
}

/* Content-Range has a meaning in 206 and 416 only. */
static int judge_range(struct fdl_http_head *head, struct fdl_err *err)
{
    size_t at = 0;
    bool satisfied;

    if (head->status != 206 && head->status != 416)
        return FDL_OK;
    const struct fdl_http_field *field = next_field(head, "Content-Range", &at);
    if (!field)
        return FDL_OK;
    if (!parse_content_range(field->value, &head->range, &satisfied) ||
        satisfied != (head->status == 206))
        return refuse(err, "Content-Range is malformed");
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

/* Seconds to wait by Retry-After; a date is judged against the server's own clock. */
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
    const struct fdl_http_field *date = next_field(head, "Date", &at);

    /* Two clocks are no clock. */
    if (date && !next_field(head, "Date", &at))
        now = fdl_http_parse_date(date->value.ptr, date->value.len);

    head->etag = fdl_http_field_value(head, "ETag");
    if (!is_entity_tag(head->etag, &head->etag_strong)) {
        head->etag = empty;
        head->etag_strong = false;
    }
    head->last_modified = fdl_http_field_value(head, "Last-Modified");
    int64_t modified =
        fdl_http_parse_date(head->last_modified.ptr, head->last_modified.len);
    if (modified < 0)
        head->last_modified = empty;
    head->last_modified_strong = modified >= 0 && now - modified >= STRONG_DATE_S;
    head->retry_after_s =
        parse_retry_after(fdl_http_field_value(head, "Retry-After"), now);
}

static void note_content(struct fdl_http_head *head)
{
    struct fdl_str coding = fdl_http_field_value(head, "Content-Encoding");
    struct fdl_str media_type, parameters;

    head->encoded = coding.len > 0 && !equals(coding, "identity");
    head->location = fdl_http_field_value(head, "Location");
    head->content_type = fdl_http_field_value(head, "Content-Type");
    split(head->content_type, ';', &media_type, &parameters);
    head->multipart = equals(trim(media_type), "multipart/byteranges");
}

long fdl_http_parse_head(const char *buf, size_t len, struct fdl_http_head *out,
                         struct fdl_err *err)
{
    if (len == 0)
        return 0;
    long head_len = measure_head(buf, len, err);
    if (head_len <= 0)
        return head_len;

    memset(out, 0, sizeof *out);
    struct fdl_str rest = {buf, (size_t)head_len};
    int rc = parse_status_line(take_line(&rest), out, err);
    while (rc == FDL_OK && rest.len > 2) /* 2: the empty line */
        rc = parse_field(take_line(&rest), &out->fields[out->n_fields++], err);
    if (rc == FDL_OK)
        rc = refuse_conflicts(out, err);
    if (rc == FDL_OK)
        rc = judge_framing(out, err);
    if (rc == FDL_OK)
        rc = judge_range(out, err);
    if (rc != FDL_OK)
        return rc;
    note_validators(out);
    note_content(out);
    return head_len;
}

/* ---- requests ---- */

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

static bool is_field_value(const char *s)
{
    for (; *s; s++)
        if (!fdl_is_field_char((unsigned char)*s))
            return false;
    return true;
}

/* Whole field lines and nothing else: an empty line among them would end our head. */
static bool are_field_lines(const char *s)
{
    struct fdl_str rest = {s, strlen(s)};
    struct fdl_http_field field;

    while (rest.len > 0) {
        const char *lf = memchr(rest.ptr, '\n', rest.len);
        if (!lf || lf == rest.ptr || lf[-1] != '\r')
            return false;
        if (parse_field(take_line(&rest), &field, NULL) != FDL_OK)
            return false;
    }
    return true;
}

long fdl_http_render_get(const struct fdl_http_request *req, char *out, size_t cap,
                         struct fdl_err *err)
{
    char range[64] = "";
    const char *if_range = req->ranged && req->if_range ? req->if_range : "";
    const char *extra = req->extra ? req->extra : "";

    if (!is_visible(req->target) || !is_visible(req->host) ||
        !is_field_value(req->user_agent) || !is_field_value(if_range) ||
        !are_field_lines(extra))
        return fdl_fail(err, FDL_E_USAGE, FDL_NO_OFFSET,
                        "request would hold a forbidden character");
    if (req->ranged && req->first > req->last)
        return fdl_fail(err, FDL_E_USAGE, req->first, "range ends before it starts");
    if (strncmp(if_range, "W/", 2) == 0) /* RFC 9110, 13.1.5 */
        return fdl_fail(err, FDL_E_USAGE, FDL_NO_OFFSET, "If-Range with a weak tag");

    if (req->ranged && req->last == UINT64_MAX)
        snprintf(range, sizeof range, "Range: bytes=%" PRIu64 "-\r\n", req->first);
    else if (req->ranged)
        snprintf(range, sizeof range, "Range: bytes=%" PRIu64 "-%" PRIu64 "\r\n",
                 req->first, req->last);

    int n = snprintf(out, cap,
                     "GET %s HTTP/1.1\r\n"
                     "Host: %s\r\n"
                     "User-Agent: %s\r\n"
                     "Accept: */*\r\n"
                     "Accept-Encoding: identity\r\n"
                     "Want-Repr-Digest: sha-512=3, sha-256=10\r\n"
                     "%s%s%s%s%s\r\n",
                     req->target, req->host, req->user_agent, range,
                     *if_range ? "If-Range: " : "", if_range, *if_range ? "\r\n" : "",
                     extra);
    if (n < 0 || (size_t)n >= cap)
        return fdl_fail(err, FDL_E_USAGE, FDL_NO_OFFSET, "request is too long");
    return n;
}
