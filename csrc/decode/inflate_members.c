/* SPDX-License-Identifier: Apache-2.0 */
/* gz and bz2: concatenated members and streams, and what follows the last one
 * is ignored, as their own tools do. */
#include "decode/inflate_ops.h"

#include <bzlib.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

static unsigned clip(size_t n)
{
    return n > UINT_MAX ? UINT_MAX : (unsigned)n;
}

/* --- where one stream ends and another may begin ---------------------------------- */

#define MAGIC_MAX 4

/* Between streams: bytes that may be the magic of the next one are held back, and what
 * is none is ignored to the end, as gzip and bzip2 do. */
struct boundary {
    unsigned char head[MAGIC_MAX];
    unsigned len; /* held back */
    bool seen;    /* a stream was completed */
    bool over;    /* no other stream comes */
    uint64_t ignored;
};

/* Takes the bytes of a boundary. 1 once the magic is complete in b->head, 0 where there
 * is nothing more to take, -1 where not even a first stream begins. */
static int next_stream(struct boundary *b, struct fdl_inflate_io *io,
                       bool (*fits)(unsigned at, unsigned char byte), unsigned want)
{
    while (!b->over && b->len < want && io->in_len > 0) {
        b->over = !fits(b->len, *io->in);
        if (b->over && !b->seen)
            return -1;
        if (!b->over) {
            b->head[b->len++] = *io->in++;
            io->in_len--;
        }
    }
    if (b->over) {
        b->ignored += b->len + io->in_len;
        b->len = 0;
        io->in += io->in_len;
        io->in_len = 0;
    }
    return b->len == want;
}

static bool may_end(const struct boundary *b, bool open)
{
    return b->seen && !open;
}

/* Also what was held back, and never became a magic. */
static uint64_t behind(const struct boundary *b)
{
    return b->ignored + (b->seen ? b->len : 0);
}

/* --- gzip ------------------------------------------------------------------------- */

struct gz {
    z_stream z;
    bool open; /* inside a member */
    struct boundary boundary;
};

void *fdl_inflate_gz_new(void)
{
    struct gz *g = calloc(1, sizeof *g);

    /* 16: gzip headers only, checksum and length verified by zlib. */
    if (g && inflateInit2(&g->z, 16 + MAX_WBITS) != Z_OK) {
        free(g);
        g = NULL;
    }
    return g;
}

static bool gz_magic(unsigned at, unsigned char byte)
{
    return byte == (const unsigned char[]){0x1f, 0x8b, 0x08}[at];
}

static int gz_begin(struct gz *g, struct fdl_inflate_io *io, struct fdl_err *err)
{
    unsigned char spare;
    int rc = next_stream(&g->boundary, io, gz_magic, 3);

    if (rc < 0)
        return broken(io, err, "gz: the stream is broken");
    if (rc == 0)
        return FDL_OK;
    if (inflateReset(&g->z) != Z_OK)
        return broken(io, err, "gz: cannot restart");
    g->open = true;
    g->z.next_in = g->boundary.head;
    g->z.avail_in = g->boundary.len;
    g->z.next_out = &spare; /* a header makes no output */
    g->z.avail_out = 1;
    g->boundary.len = 0;
    return inflate(&g->z, Z_NO_FLUSH) == Z_OK
               ? FDL_OK
               : broken(io, err, "gz: the stream is broken");
}

static int gz_feed(void *state, struct fdl_inflate_io *io, struct fdl_err *err)
{
    struct gz *g = state;

    while (io->in_len > 0 || g->open) {
        if (!g->open) {
            int begun = gz_begin(g, io, err);
            if (begun < 0 || !g->open)
                return begun;
        }
        unsigned in = clip(io->in_len), out = clip(io->out_len);
        g->z.next_in = (unsigned char *)(uintptr_t)io->in;
        g->z.avail_in = in;
        g->z.next_out = io->out;
        g->z.avail_out = out;
        int rc = inflate(&g->z, Z_NO_FLUSH);
        io->in += in - g->z.avail_in;
        io->in_len -= in - g->z.avail_in;
        io->out += out - g->z.avail_out;
        io->out_len -= out - g->z.avail_out;
        if (rc == Z_STREAM_END) {
            g->open = false;
            g->boundary.seen = true;
            continue;
        }
        if (rc == Z_BUF_ERROR || (rc == Z_OK && (!io->in_len || !io->out_len)))
            return FDL_OK;
        if (rc == Z_MEM_ERROR)
            return fdl_nomem(err, "the gz decoder");
        if (rc != Z_OK)
            return broken(io, err, "gz: the stream is broken");
    }
    return FDL_OK;
}

static int gz_finish(void *state, struct fdl_err *err)
{
    struct gz *g = state;
    return may_end(&g->boundary, g->open)
               ? FDL_OK
               : cut_off(err, "gz: the stream ends too early");
}

static uint64_t gz_trailing(const void *state)
{
    return behind(&((const struct gz *)state)->boundary);
}

static void gz_free(void *state)
{
    struct gz *g = state;
    inflateEnd(&g->z);
    free(g);
}

const struct fdl_inflate_ops fdl_inflate_gz_ops = {gz_feed, gz_finish, gz_trailing,
                                                   gz_free};

/* --- bzip2 ------------------------------------------------------------------------ */

struct bz2 {
    bz_stream z;
    bool open;
    struct boundary boundary;
};

void *fdl_inflate_bz2_new(void)
{
    return calloc(1, sizeof(struct bz2));
}

static bool bz2_magic(unsigned at, unsigned char byte)
{
    return at < 3 ? byte == "BZh"[at] : byte >= '1' && byte <= '9';
}

static int bz2_begin(struct bz2 *b, struct fdl_inflate_io *io, struct fdl_err *err)
{
    char spare;
    int rc = next_stream(&b->boundary, io, bz2_magic, 4);

    if (rc < 0)
        return broken(io, err, "bz2: the stream is broken");
    if (rc == 0)
        return FDL_OK;
    if (BZ2_bzDecompressInit(&b->z, 0, 0) != BZ_OK)
        return fdl_nomem(err, "the bz2 decoder");
    b->open = true;
    b->z.next_in = (char *)b->boundary.head;
    b->z.avail_in = b->boundary.len;
    b->z.next_out = &spare;
    b->z.avail_out = 1;
    b->boundary.len = 0;
    rc = BZ2_bzDecompress(&b->z);
    if (rc == BZ_MEM_ERROR)
        return fdl_nomem(err, "the bz2 decoder");
    return rc == BZ_OK ? FDL_OK : broken(io, err, "bz2: the stream is broken");
}

static int bz2_feed(void *state, struct fdl_inflate_io *io, struct fdl_err *err)
{
    struct bz2 *b = state;

    while (io->in_len > 0 || b->open) {
        if (!b->open) {
            int begun = bz2_begin(b, io, err);
            if (begun < 0 || !b->open)
                return begun;
        }
        unsigned in = clip(io->in_len), out = clip(io->out_len);
        b->z.next_in = (char *)(uintptr_t)io->in;
        b->z.avail_in = in;
        b->z.next_out = (char *)io->out;
        b->z.avail_out = out;
        int rc = BZ2_bzDecompress(&b->z);
        unsigned used = in - b->z.avail_in, made = out - b->z.avail_out;
        io->in += used;
        io->in_len -= used;
        io->out += made;
        io->out_len -= made;
        if (rc == BZ_STREAM_END) {
            BZ2_bzDecompressEnd(&b->z);
            memset(&b->z, 0, sizeof b->z);
            b->open = false;
            b->boundary.seen = true;
            continue;
        }
        if (rc == BZ_MEM_ERROR)
            return fdl_nomem(err, "the bz2 decoder");
        if (rc != BZ_OK)
            return broken(io, err, "bz2: the stream is broken");
        if (!io->in_len || !io->out_len || (!used && !made))
            return FDL_OK;
    }
    return FDL_OK;
}

static int bz2_finish(void *state, struct fdl_err *err)
{
    struct bz2 *b = state;
    return may_end(&b->boundary, b->open)
               ? FDL_OK
               : cut_off(err, "bz2: the stream ends too early");
}

static uint64_t bz2_trailing(const void *state)
{
    return behind(&((const struct bz2 *)state)->boundary);
}

static void bz2_free(void *state)
{
    struct bz2 *b = state;
    if (b->open)
        BZ2_bzDecompressEnd(&b->z);
    free(b);
}

const struct fdl_inflate_ops fdl_inflate_bz2_ops = {bz2_feed, bz2_finish, bz2_trailing,
                                                    bz2_free};
