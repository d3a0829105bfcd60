/* SPDX-License-Identifier: Apache-2.0 */
/* sink/sink.h - LAND: bytes at absolute offsets of the target.
 *
 * A sink never decides whether bytes are good; digests did that. It may be written
 * from several threads at once as long as the ranges are disjoint.
 *
 * Held back: with `hold` > 0, what is written to [0, hold) and [size - hold, size)
 * stays in memory until fdl_sink_release(); fdl_sink_begin() has zeroed both ranges
 * before, so that a killed job leaves nothing that looks like an image. */
#ifndef FDL_SINK_H
#define FDL_SINK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/landed.h"

#define FDL_SIZE_UNKNOWN UINT64_MAX

struct fdl_sink;

struct fdl_sink_stats {
    uint64_t written_bytes; /* through pwrite */
    uint64_t zeroed_bytes;  /* by a zeroing command, not by writing zeros */
    uint64_t busy_ns;       /* summed over threads */
};

/* A file or a block device.
 *   fd           BORROWED until fdl_sink_free(): O_DIRECT where `align` > 1
 *   buffered_fd  BORROWED: the same target without O_DIRECT, for ragged ends
 *   align        1 = fd is buffered; else offset, length and address must be multiples
 *   size         bytes of the image on the target, FDL_SIZE_UNKNOWN while unknown
 *   hold         bytes held back at head and tail (0 for files)
 *   blank        the target is known to read as zeros (a new file): zeroing may be
 * skipped */
int fdl_sink_open_fd(struct fdl_sink **out, int fd, int buffered_fd, size_t align,
                     uint64_t size, size_t hold, bool blank, struct fdl_err *err);

/* Discards everything (`null:`): for benchmarks. */
int fdl_sink_open_null(struct fdl_sink **out, struct fdl_err *err);

/* An export of an NBD server. Bytes past its end: FDL_E_SINK_SPACE.
 *   nbd  BORROWED until fdl_sink_free() */
struct fdl_nbd;
int fdl_sink_open_nbd(struct fdl_sink **out, struct fdl_nbd *nbd, uint64_t size,
                      size_t hold, struct fdl_err *err);

/* Zeroes and flushes the held-back ranges on the target. Call once before the first
 * write. */
int fdl_sink_begin(struct fdl_sink *sink, struct fdl_err *err);

/* Writes all of buf[0..len) at off, or fails; never a short write. Memory, offset and
 * length need not be aligned: only aligned ones go past the page cache.
 *   buf  BORROWED for the duration of the call.
 * Errors: FDL_E_SIZE (beyond size, nothing written), FDL_E_SINK_SPACE, FDL_E_SINK_IO.
 */
int fdl_sink_pwrite(struct fdl_sink *sink, const void *buf, size_t len, uint64_t off,
                    struct fdl_err *err);

/* Makes [off, off + len) read as zeros: the first of punch hole, ZERO_RANGE, BLKZEROOUT
 * that the target supports (remembered), else writes zeros. */
int fdl_sink_zero(struct fdl_sink *sink, uint64_t off, uint64_t len,
                  struct fdl_err *err);

/* fdl_sink_pwrite(), but with `detect_zeros` grains of the target (aligned to
 * FDL_ZERO_GRAIN there) that are all zeros go to fdl_sink_zero(), and the rest is
 * written in as few pieces as possible. */
int fdl_sink_write(struct fdl_sink *sink, const void *buf, size_t len, uint64_t off,
                   bool detect_zeros, struct fdl_err *err);

/* Everything written so far is durable on return. Not for held-back bytes. */
int fdl_sink_flush(struct fdl_sink *sink, struct fdl_err *err);

/* Writes tail, then head, each flushed, and last of all the logical blocks by which the
 * target is recognised: the only step that makes a device valid. A power cut leaves
 * nothing that looks like an image and is none. The caller has proof of digest, size
 * and format. */
int fdl_sink_release(struct fdl_sink *sink, struct fdl_err *err);

/* Copies [off, off + len) to buf where all of it is held back; false where not. */
bool fdl_sink_held(struct fdl_sink *sink, void *buf, size_t len, uint64_t off);

/* From now on everything that lands on the target itself is listed (held-back bytes
 * when they are released), for a read-back by the caller. */
void fdl_sink_keep_log(struct fdl_sink *sink);

/* Moves up to cap ranges, the oldest first, out of the log. FDL_E_LIMIT where one was
 * lost for want of memory: then the read-back is incomplete. Returns their number. */
long fdl_sink_drain_log(struct fdl_sink *sink, struct fdl_range *out, size_t cap,
                        struct fdl_err *err);

void fdl_sink_get_stats(const struct fdl_sink *sink, struct fdl_sink_stats *out);

/* Writes nothing. NULL is allowed. */
void fdl_sink_free(struct fdl_sink *sink);

#endif
