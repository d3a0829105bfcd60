/* SPDX-License-Identifier: Apache-2.0 */
/* decode/land_stream.h - a lander for compressed sources: blocks are decoded in order
 * and written as a raw image, or passed to the qcow2 lander.
 *
 * The pushing thread decodes; other threads write, so that both overlap. Memory: three
 * blocks for raw; for qcow2 `qcow2_blocks` of them. */
#ifndef FDL_LAND_STREAM_H
#define FDL_LAND_STREAM_H

#include "decode/inflate.h"
#include "decode/land.h"
#include "decode/land_qcow2.h"
#include "decode/qcow2.h"

/* What push() and finish() return besides 0 and codes: the decoded image is a qcow2
 * whose tables do not come first. Nothing was written; stage the source to a file
 * instead. */
#define FDL_LAND_NEEDS_STAGING 1

enum fdl_decoded {
    FDL_DECODED_RAW,  /* land the bytes as they are */
    FDL_DECODED_QCOW2 /* read them as qcow2 */
};

struct fdl_land_stream_options {
    enum fdl_inflate_kind kind;
    struct fdl_inflate_limits limits; /* max_output also bounds a decoded qcow2 file */
    bool detect_zeros;
    enum fdl_decoded decoded; /* what the caller found the decoded image to be */
    uint64_t sink_size;       /* a larger image is FDL_E_SINK_SPACE; 0 = no bound */
    struct fdl_qcow2_policy qcow2_policy;
    struct fdl_land_qcow2_options qcow2;
    size_t block; /* decoded bytes in one block, a multiple of 4 KiB; 0 = 1 MiB */
    unsigned qcow2_blocks; /* how far tables may come after data; 0 = 32 */
};

/* Decoded bytes that do not fit on the sink: FDL_E_SINK_SPACE.
 *   sink     BORROWED until the lander is freed.
 *   options  BORROWED during the call.
 *   *out     OWNED: out->ops->free(). */
int fdl_land_stream_new(struct fdl_lander **out, struct fdl_sink *sink,
                        const struct fdl_land_stream_options *options,
                        struct fdl_err *err);

/* Decoded bytes so far: the size of the raw image (or of the decoded qcow2 file). */
uint64_t fdl_land_stream_decoded(const struct fdl_lander *self);

/* The last bytes that were decoded, at most FDL_LAND_STREAM_TAIL of them; their number.
 * After finish(). */
#define FDL_LAND_STREAM_TAIL 512
size_t fdl_land_stream_tail(const struct fdl_lander *self,
                            unsigned char out[FDL_LAND_STREAM_TAIL]);

/* Bytes after the compressed streams that were ignored (decode/inflate.h). After
 * finish().
 */
uint64_t fdl_land_stream_trailing(const struct fdl_lander *self);

/* The virtual size of a decoded qcow2, 0 while unknown or raw. */
uint64_t fdl_land_stream_virtual_size(const struct fdl_lander *self);

#endif
