/* SPDX-License-Identifier: Apache-2.0 */
/* http/http.h - FETCH: HTTP/1.1 responses, read strictly: pure functions over buffers.
 *
 * Rules: RFC 9112 (framing) and RFC 9110 (ranges, validators), with the limits of
 * FDL_HTTP_*. Whatever is doubtful is refused: a downloader that guesses where a body
 * ends writes the guess to a disk. */
#ifndef FDL_HTTP_H
#define FDL_HTTP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

/* 64 KiB of fields, and a status line. Signed links and policies fill whole fields. */
#define FDL_HTTP_HEAD_MAX (72 * 1024)
#define FDL_HTTP_FIELDS_MAX 128
#define FDL_HTTP_LINE_MAX (64 * 1024)
#define FDL_HTTP_FOLDED_MAX (8 * 1024)
#define FDL_HTTP_1XX_MAX 8
#define FDL_HTTP_CHUNK_EXT_MAX 256
#define FDL_HTTP_CHUNK_EXT_TOTAL_MAX (64 * 1024)
#define FDL_HTTP_TRAILER_MAX (8 * 1024)
#define FDL_HTTP_ETAG_MAX 512

/* A piece of the head buffer: not NUL-terminated. */
struct fdl_str {
    const char *ptr; /* BORROWED from the buffer given to fdl_http_parse_head() */
    size_t len;
};

struct fdl_http_field {
    struct fdl_str name;
    struct fdl_str value; /* without surrounding white space */
};

enum fdl_http_framing {
    FDL_HTTP_NO_BODY,
    FDL_HTTP_LENGTH,
    FDL_HTTP_CHUNKED,
    FDL_HTTP_UNTIL_CLOSE,
};

/* How a body is compressed, according to Content-Encoding. */
enum fdl_http_coding {
    FDL_HTTP_PLAIN,
    FDL_HTTP_GZIP,
    FDL_HTTP_BZIP2,
    FDL_HTTP_XZ,
    FDL_HTTP_ZSTD,
    FDL_HTTP_COMPRESS,
    FDL_HTTP_LZMA,
    FDL_HTTP_LZIP,
    FDL_HTTP_BROTLI,
    FDL_HTTP_UNKNOWN_CODING, /* another one, or several */
};

struct fdl_http_range {
    uint64_t first;
    uint64_t last;  /* inclusive */
    uint64_t total; /* UINT64_MAX if the server sent `*` */
};

struct fdl_http_head {
    int minor_version; /* HTTP/1.x */
    int status;
    size_t n_fields;
    struct fdl_http_field
        fields[FDL_HTTP_FIELDS_MAX]; /* into the buffer, or unfolded */
    enum fdl_http_framing framing;
    uint64_t content_length; /* with FDL_HTTP_LENGTH */
    bool keep_alive;
    bool has_range;             /* a valid Content-Range with first-last (206); agrees
                                   with Content-Length where there is one */
    bool maybe_part;            /* a 200 with a Content-Range that does not cover all */
    bool has_unsatisfied_range; /* `bytes * / N` (416): range.total is N */
    struct fdl_http_range range; /* only where has_range or has_unsatisfied_range */
    enum fdl_http_coding coding;
    bool multipart;      /* Content-Type: multipart/byteranges */
    struct fdl_str etag; /* with quotes and W/; empty where absent or malformed */
    bool etag_strong;
    struct fdl_str last_modified; /* empty where absent or malformed */
    bool last_modified_strong;    /* at least 60 s before Date (RFC 9110, 8.8.2.2) */
    struct fdl_str location;
    struct fdl_str content_type;
    int64_t retry_after_s; /* -1 where absent or garbage; a date is checked by Date */
    size_t unfolded_len;   /* private */
    char unfolded[FDL_HTTP_FOLDED_MAX]; /* lines that were folded, as one line each */
};

/* Parses the head at buf[0..len).
 * Returns the bytes it took (> 0, the body starts there), 0 where more bytes are needed
 * (never for len >= FDL_HTTP_HEAD_MAX), or FDL_E_HTTP_PROTOCOL with the reason in err.
 * 1xx heads are returned like others: skipping (at most FDL_HTTP_1XX_MAX) is the
 * caller's. Content-Range is checked only for 206 and 416; a malformed one counts as
 * absent where no byte comes under it. */
long fdl_http_parse_head(const char *buf, size_t len, struct fdl_http_head *out,
                         struct fdl_err *err);

/* The value of the first field with that name (any case), or an empty string. */
struct fdl_str fdl_http_field_value(const struct fdl_http_head *head, const char *name);

/* Whether another try, some time later or over another connection, may not meet this
 * error status again. */
bool fdl_http_status_is_transient(int status);

/* Whether servers that cannot do ranges, and should ignore them, refuse them so. */
bool fdl_http_status_refuses_range(int status);

/* Whether it declares an empty body. */
bool fdl_http_is_empty(const struct fdl_http_head *head);

/* The coding that a Content-Encoding names. Words that servers send for bytes as they
 * are (RFC 9110 knows `identity` only) count as FDL_HTTP_PLAIN. */
enum fdl_http_coding fdl_http_coding_of(struct fdl_str value);

/* Whether the file itself is packed that way: its name says so (the target's path or
 * query, or Content-Disposition), or its media type. Then the coding tells nothing of
 * the transfer, and the bytes are the file's as they come. */
bool fdl_http_file_is_packed(const struct fdl_http_head *head, const char *target);

/* Whether a body that begins with these bytes can be packed that way; false for codings
 * that nothing distinguishes. */
bool fdl_http_looks_packed(enum fdl_http_coding coding, const void *start, size_t len);

/* Chunked transfer coding (RFC 9112, 7.1): the decoder copies nothing, it tells which
 * bytes of the input are body. */
struct fdl_http_chunked {
    int state;          /* private */
    int digits;         /* private */
    uint64_t left;      /* body bytes left in the present chunk */
    size_t ext_len;     /* private */
    size_t ext_total;   /* private */
    size_t trailer_len; /* private */
    bool complete;      /* the last chunk has been read: of the body nothing is left */
    bool done;          /* and the trailer */
};

void fdl_http_chunked_init(struct fdl_http_chunked *c);

/* Looks at in[0..len). Consumes framing until body bytes come; then sets
 * *body_off and *body_len to the body bytes that lie in the input (possibly 0).
 * Returns the bytes consumed, body included (> 0 unless len is 0 or the body is done:
 * what is left then is no part of this response); call again with the rest.
 * FDL_E_HTTP_PROTOCOL on anything that is not exactly the grammar, and ever after. */
long fdl_http_chunked_feed(struct fdl_http_chunked *c, const char *in, size_t len,
                           size_t *body_off, size_t *body_len, struct fdl_err *err);

/* Seconds since 1970 of an HTTP-date in any of its three forms (RFC 9110, 5.6.7), -1
 * where malformed or before 1970. */
int64_t fdl_http_parse_date(const char *s, size_t len);

struct fdl_http_request {
    const char *target; /* path and query, or absolute-form for a plain proxy */
    const char *host;   /* value of the Host field */
    uint64_t first;     /* with ranged */
    uint64_t last;      /* inclusive; UINT64_MAX = open-ended */
    bool ranged;
    const char *if_range; /* strong ETag or date, or NULL; sent with ranged only */
    const char *user_agent;
    const char *extra; /* whole field lines, each ended by CRLF; or NULL */
};

/* Renders a GET with `Accept`, `Accept-Encoding: identity` and `Want-Repr-Digest`. A
 * field of `extra` replaces ours of that name; where its value is empty, none is sent.
 * Returns its length (a NUL follows and must fit as well), or FDL_E_USAGE where it does
 * not fit, a part holds CR, LF, blanks or control bytes where none may be, or if_range
 * is a weak tag. Which names `extra` may have is the caller's. */
long fdl_http_render_get(const struct fdl_http_request *req, char *out, size_t cap,
                         struct fdl_err *err);

#endif
