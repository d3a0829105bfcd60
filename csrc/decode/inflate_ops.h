/* SPDX-License-Identifier: Apache-2.0 */
/* decode/inflate_ops.h - what a decoder provides. Only inflate*.c include it. */
#ifndef FDL_INFLATE_OPS_H
#define FDL_INFLATE_OPS_H

#include "decode/inflate.h"

/* One call's input and output; a decoder moves the pointers as it goes. */
struct fdl_inflate_io {
    const unsigned char *in;
    size_t in_len;
    unsigned char *out;
    size_t out_len;
    uint64_t at; /* offset of `in` in the stream when the call began, for messages */
};

struct fdl_inflate_ops {
    /* Consumes until the input or the room for output is used up. */
    int (*feed)(void *state, struct fdl_inflate_io *io, struct fdl_err *err);
    /* FDL_OK where the stream may end here. */
    int (*finish)(void *state, struct fdl_err *err);
    /* Bytes after the end that were ignored; NULL if nothing may follow. */
    uint64_t (*trailing)(const void *state);
    void (*free)(void *state);
};

/* The two ways in which a stream is malformed. */
static inline int broken(const struct fdl_inflate_io *io, struct fdl_err *err,
                         const char *what)
{
    return fdl_fail(err, FDL_E_FORMAT, io->at, what);
}

static inline int cut_off(struct fdl_err *err, const char *what)
{
    return fdl_fail(err, FDL_E_FORMAT, FDL_NO_OFFSET, what);
}

/* Each returns its state (OWNED), or NULL without memory. */
void *fdl_inflate_gz_new(void);
void *fdl_inflate_bz2_new(void);
void *fdl_inflate_xz_new(void);
void *fdl_inflate_zst_new(void);
void *fdl_inflate_zip_new(void);

extern const struct fdl_inflate_ops fdl_inflate_gz_ops, fdl_inflate_bz2_ops,
    fdl_inflate_xz_ops, fdl_inflate_zst_ops, fdl_inflate_zip_ops;

#endif
