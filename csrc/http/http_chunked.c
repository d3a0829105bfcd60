/* SPDX-License-Identifier: Apache-2.0 */
/* http/http_chunked.c - which bytes of a chunked response are body? (RFC 9112, 7.1)
 *
 * A machine that takes one byte of framing at a time. Extensions, trailers and blanks
 * around a size are bounded, must be free of control bytes, and mean nothing: none may
 * change where a body ends. */
#include "http/http.h"
#include "http/http_chars.h"

#include <string.h>

enum {
    SIZE,          /* hex digits of a chunk's size */
    SIZE_SPACE,    /* blanks after the size: the line's end or `;` follows */
    EXTENSION,     /* anything up to CR */
    SIZE_LF,       /* after the CR of a size line */
    DATA,          /* `left` bytes of body */
    DATA_CR,       /* after the last byte of a chunk */
    DATA_LF,       /* after the CR that ends a chunk */
    TRAILER_START, /* at the start of a trailer line: a name or the final CR */
    TRAILER_NAME,  /* in a name, up to `:` */
    TRAILER_VALUE, /* up to CR */
    TRAILER_LF,    /* after the CR of a trailer line */
    END_LF,        /* after the final CR */
    DONE,
    BROKEN, /* an error is final */
};

/* 16 hex digits fit 64 bits; values beyond the kernel's offsets are refused below. */
#define SIZE_DIGITS_MAX 16

void fdl_http_chunked_init(struct fdl_http_chunked *c)
{
    memset(c, 0, sizeof *c);
    c->state = SIZE;
}

static int hex_value(unsigned char byte)
{
    if (byte >= '0' && byte <= '9')
        return byte - '0';
    byte |= 0x20;
    if (byte >= 'a' && byte <= 'f')
        return byte - 'a' + 10;
    return -1;
}

/* Each step returns NULL, or why the byte is refused. */

static const char *step_size(struct fdl_http_chunked *c, unsigned char byte)
{
    int digit = hex_value(byte);

    if (digit >= 0) {
        if (c->digits == SIZE_DIGITS_MAX)
            return "chunk size has too many digits";
        c->digits++;
        c->left = c->left << 4 | (uint64_t)digit;
        return c->left > INT64_MAX ? "chunk size is too large" : NULL;
    }
    if (c->digits == 0) {
        /* Padding that old servers send to overwrite it with the size later. */
        if (byte != ' ' && byte != '\t')
            return "chunk size has no hex digits";
        return ++c->ext_len > FDL_HTTP_CHUNK_EXT_MAX ? "chunk size is too long" : NULL;
    }
    switch (byte) {
    case '\r':
        c->state = SIZE_LF;
        return NULL;
    case ';':
        c->state = EXTENSION;
        return NULL;
    case ' ':
    case '\t':
        c->state = SIZE_SPACE;
        return NULL;
    default:
        return "chunk size is not a hex number";
    }
}

static const char *step_extension(struct fdl_http_chunked *c, unsigned char byte)
{
    if (byte == '\r') {
        c->state = SIZE_LF;
        return NULL;
    }
    if (++c->ext_len > FDL_HTTP_CHUNK_EXT_MAX)
        return "chunk extension is too long";
    if (++c->ext_total > FDL_HTTP_CHUNK_EXT_TOTAL_MAX)
        return "chunk extensions are too long in total";
    if (c->state == SIZE_SPACE) {
        if (byte == ';')
            c->state = EXTENSION;
        else if (byte != ' ' && byte != '\t')
            return "white space after a chunk size";
        return NULL;
    }
    return fdl_is_field_char(byte) ? NULL : "control byte in a chunk extension";
}

static const char *step_trailer(struct fdl_http_chunked *c, unsigned char byte)
{
    if (++c->trailer_len > FDL_HTTP_TRAILER_MAX)
        return "trailer is too long";
    switch (c->state) {
    case TRAILER_START:
        if (byte == '\r') {
            c->state = END_LF;
            return NULL;
        }
        c->state = TRAILER_NAME;
        return fdl_is_token_char(byte) ? NULL
                                       : "trailer line does not start with a name";
    case TRAILER_NAME:
        if (byte == ':')
            c->state = TRAILER_VALUE;
        else if (!fdl_is_token_char(byte))
            return "trailer name is not a token";
        return NULL;
    default:
        if (byte == '\r')
            c->state = TRAILER_LF;
        else if (!fdl_is_field_char(byte))
            return "control byte in a trailer";
        return NULL;
    }
}

/* At the line ends, which decide the next state. */
static const char *step_line_end(struct fdl_http_chunked *c, unsigned char byte)
{
    if (byte != (c->state == DATA_CR ? '\r' : '\n'))
        return c->state == DATA_CR || c->state == DATA_LF
                   ? "chunk is not followed by CRLF"
                   : "line of chunked framing is not ended by CRLF";
    switch (c->state) {
    case SIZE_LF:
        c->complete = c->left == 0;
        c->state = c->complete ? TRAILER_START : DATA;
        return NULL;
    case DATA_CR:
        c->state = DATA_LF;
        return NULL;
    case DATA_LF:
        c->state = SIZE;
        c->digits = 0;
        c->ext_len = 0;
        return NULL;
    case TRAILER_LF:
        c->trailer_len++;
        c->state = TRAILER_START;
        return NULL;
    default:
        c->state = DONE;
        c->done = true;
        return NULL;
    }
}

static const char *step(struct fdl_http_chunked *c, unsigned char byte)
{
    switch (c->state) {
    case SIZE:
        return step_size(c, byte);
    case SIZE_SPACE:
    case EXTENSION:
        return step_extension(c, byte);
    case TRAILER_START:
    case TRAILER_NAME:
    case TRAILER_VALUE:
        return step_trailer(c, byte);
    default:
        return step_line_end(c, byte);
    }
}

long fdl_http_chunked_feed(struct fdl_http_chunked *c, const char *in, size_t len,
                           size_t *body_off, size_t *body_len, struct fdl_err *err)
{
    size_t at = 0;

    *body_off = 0;
    *body_len = 0;
    if (c->state == BROKEN)
        return fdl_fail(err, FDL_E_HTTP_PROTOCOL, FDL_NO_OFFSET,
                        "chunked body is broken");

    for (; at < len && c->state != DATA && c->state != DONE; at++) {
        const char *why = step(c, (unsigned char)in[at]);
        if (why) {
            c->state = BROKEN;
            return fdl_fail(err, FDL_E_HTTP_PROTOCOL, FDL_NO_OFFSET, why);
        }
    }
    if (c->state == DATA) {
        size_t here = len - at;
        if (here > c->left)
            here = (size_t)c->left;
        *body_off = at;
        *body_len = here;
        at += here;
        c->left -= here;
        if (c->left == 0)
            c->state = DATA_CR;
    }
    return (long)at;
}
