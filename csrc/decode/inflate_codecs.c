/* SPDX-License-Identifier: Apache-2.0 */
/* xz and zstd: the libraries' streaming decoders, one after the other for concatenated
 * streams, and nothing but streams. */
#include "decode/inflate_ops.h"

#include <lzma.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <zstd.h>
#include <zstd_errors.h>

/* --- xz --------------------------------------------------------------------------- */

struct xz {
    lzma_stream z;
};

void *fdl_inflate_xz_new(void)
{
    const lzma_stream init = LZMA_STREAM_INIT;
    struct xz *x = calloc(1, sizeof *x);

    if (!x)
        return NULL;
    x->z = init;
    if (lzma_stream_decoder(&x->z, FDL_INFLATE_MEMORY_MAX,
                            LZMA_CONCATENATED | LZMA_TELL_UNSUPPORTED_CHECK) !=
        LZMA_OK) {
        free(x);
        return NULL;
    }
    return x;
}

static int xz_code(struct xz *x, struct fdl_inflate_io *io, lzma_action action,
                   struct fdl_err *err)
{
    x->z.next_in = io->in;
    x->z.avail_in = io->in_len;
    x->z.next_out = io->out;
    x->z.avail_out = io->out_len;
    lzma_ret rc = lzma_code(&x->z, action);
    io->in = x->z.next_in;
    io->in_len = x->z.avail_in;
    io->out = x->z.next_out;
    io->out_len = x->z.avail_out;
    if (rc == LZMA_OK || rc == LZMA_STREAM_END)
        return rc == LZMA_STREAM_END;
    if (rc == LZMA_BUF_ERROR)
        return action == LZMA_FINISH ? cut_off(err, "xz: the stream ends too early")
                                     : 0;
    if (rc == LZMA_MEMLIMIT_ERROR || rc == LZMA_MEM_ERROR)
        return fdl_fail(err, FDL_E_LIMIT, io->at, "xz: needs more than 128 MiB");
    if (rc == LZMA_UNSUPPORTED_CHECK)
        return broken(io, err, "xz: the kind of its check is unknown");
    return broken(io, err, "xz: the stream is broken");
}

static int xz_feed(void *state, struct fdl_inflate_io *io, struct fdl_err *err)
{
    int rc;

    do {
        rc = xz_code(state, io, LZMA_RUN, err);
    } while (rc == 0 && io->in_len && io->out_len);
    return rc < 0 ? rc : FDL_OK;
}

static int xz_finish(void *state, struct fdl_err *err)
{
    unsigned char spare;
    struct fdl_inflate_io io = {NULL, 0, &spare, 1, FDL_NO_OFFSET};
    int rc = xz_code(state, &io, LZMA_FINISH, err);

    if (rc < 0)
        return rc;
    return rc == 1 && io.out_len == 1 ? FDL_OK
                                      : cut_off(err, "xz: the stream ends too early");
}

static void xz_free(void *state)
{
    struct xz *x = state;
    lzma_end(&x->z);
    free(x);
}

const struct fdl_inflate_ops fdl_inflate_xz_ops = {xz_feed, xz_finish, NULL, xz_free};

/* --- zstd ------------------------------------------------------------------------- */

#define ZST_WINDOW_LOG_MAX 27 /* 128 MiB */
#define ZST_SKIP_MAX (64u << 20)
#define ZST_SKIP_MAGIC 0x184d2a50u

struct zst {
    ZSTD_DCtx *ctx;
    bool open, seen;
    unsigned char head[8]; /* of the frame that begins: magic, and a skip's length */
    unsigned head_len, head_fed;
    uint64_t skip, skipped; /* bytes of this skippable frame left; of all so far */
};

void *fdl_inflate_zst_new(void)
{
    struct zst *z = calloc(1, sizeof *z);

    if (z)
        z->ctx = ZSTD_createDCtx();
    if (z && (!z->ctx || ZSTD_isError(ZSTD_DCtx_setParameter(
                             z->ctx, ZSTD_d_windowLogMax, ZST_WINDOW_LOG_MAX)))) {
        ZSTD_freeDCtx(z->ctx);
        free(z);
        z = NULL;
    }
    return z;
}

static uint32_t le32(const unsigned char *p)
{
    return (uint32_t)p[3] << 24 | (uint32_t)p[2] << 16 | (uint32_t)p[1] << 8 | p[0];
}

static bool skips(const struct zst *z)
{
    return (le32(z->head) & 0xfffffff0u) == ZST_SKIP_MAGIC;
}

/* Collects what distinguishes a frame from a skippable one: the library would skip
 * endlessly.
 */
static int zst_begin(struct zst *z, struct fdl_inflate_io *io, struct fdl_err *err)
{
    unsigned want = z->head_len < 4 || !skips(z) ? 4 : 8;

    while (z->head_len < want && io->in_len > 0) {
        z->head[z->head_len++] = *io->in++;
        io->in_len--;
        if (z->head_len == 4 && skips(z))
            want = 8;
    }
    if (z->head_len < want)
        return FDL_OK;
    if (want == 8) {
        z->skip = le32(z->head + 4);
        z->skipped += z->skip + 8;
        z->head_len = 0;
        if (z->skipped > ZST_SKIP_MAX)
            return fdl_fail(err, FDL_E_LIMIT, io->at,
                            "zst: skippable frames above 64 MiB");
        return FDL_OK;
    }
    z->open = true;
    z->head_fed = 0;
    return FDL_OK;
}

static int zst_error(size_t rc, const struct zst *z, const struct fdl_inflate_io *io,
                     struct fdl_err *err)
{
    switch (ZSTD_getErrorCode(rc)) {
    case ZSTD_error_frameParameter_windowTooLarge:
        return fdl_fail(err, FDL_E_LIMIT, io->at, "zst: window above 128 MiB");
    case ZSTD_error_memory_allocation:
        return fdl_nomem(err, "the zst decoder");
    case ZSTD_error_dictionary_wrong:
        return broken(io, err, "zst: a dictionary is needed");
    case ZSTD_error_prefix_unknown:
        return broken(io, err,
                      z->seen ? "zst: garbage behind the last frame"
                              : "zst: no zstd stream");
    default:
        return broken(io, err, "zst: the stream is broken");
    }
}

/* One call of the library: first the bytes of the head, then the caller's. */
static int zst_step(struct zst *z, struct fdl_inflate_io *io, struct fdl_err *err)
{
    bool head = z->head_fed < z->head_len;
    ZSTD_inBuffer in = {head ? z->head + z->head_fed : io->in,
                        head ? z->head_len - z->head_fed : io->in_len, 0};
    ZSTD_outBuffer out = {io->out, io->out_len, 0};
    size_t rc = ZSTD_decompressStream(z->ctx, &out, &in);

    if (ZSTD_isError(rc))
        return zst_error(rc, z, io, err);
    if (head) {
        z->head_fed += (unsigned)in.pos;
    } else {
        io->in += in.pos;
        io->in_len -= in.pos;
    }
    io->out += out.pos;
    io->out_len -= out.pos;
    if (rc == 0) {
        z->open = false;
        z->seen = true;
        z->head_len = 0;
    }
    return FDL_OK;
}

static int zst_feed(void *state, struct fdl_inflate_io *io, struct fdl_err *err)
{
    struct zst *z = state;
    int rc = FDL_OK;

    while (rc == FDL_OK && (io->in_len > 0 || z->open)) {
        size_t in = io->in_len, out = io->out_len;
        unsigned fed = z->head_fed;
        if (z->skip) {
            size_t n = z->skip < io->in_len ? (size_t)z->skip : io->in_len;
            io->in += n;
            io->in_len -= n;
            z->skip -= n;
        } else if (!z->open) {
            rc = zst_begin(z, io, err);
        } else {
            rc = zst_step(z, io, err);
            if (io->in_len == in && io->out_len == out && z->head_fed == fed && z->open)
                break; /* needs more input or more room */
        }
    }
    return rc;
}

static int zst_finish(void *state, struct fdl_err *err)
{
    struct zst *z = state;
    return z->seen && !z->open && !z->skip && !z->head_len
               ? FDL_OK
               : cut_off(err, "zst: the stream ends too early");
}

static void zst_free(void *state)
{
    struct zst *z = state;
    ZSTD_freeDCtx(z->ctx);
    free(z);
}

const struct fdl_inflate_ops fdl_inflate_zst_ops = {zst_feed, zst_finish, NULL,
                                                    zst_free};
