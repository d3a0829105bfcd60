/* SPDX-License-Identifier: Apache-2.0 */
/* decode/land_qcow2.h - a lander for qcow2: host clusters in file order become writes
 * at guest offsets; zero and unallocated clusters become zeros.
 *
 * Memory: threads x max(1 MiB, cluster) for output, and at most 4 x threads jobs, each
 * holding one reference to a pushed block or a copy of one compressed cluster (4 MiB at
 * most). A pool that feeds it needs 5 x threads + 2 blocks to never wait for it. */
#ifndef FDL_LAND_QCOW2_H
#define FDL_LAND_QCOW2_H

#include "decode/land.h"
#include "decode/qcow2.h"

struct fdl_land_qcow2_options {
    unsigned threads;  /* that decode, write and zero; 0 = 2, at most 64 */
    bool detect_zeros; /* data that is all zeros is zeroed, not written */
};

/* Starts zeroing at once, so call fdl_sink_begin() before.
 *   img      STOLEN also on failure; ready().
 *   sink     BORROWED until the lander is freed; its size is >= the virtual size.
 *   options  BORROWED during the call, may be NULL.
 *   *out     OWNED: out->ops->free().
 * push() ignores bytes that no guest cluster needs and lets blocks be left out where
 * fdl_qcow2_next_extent() names none. finish() ends with every guest byte written.
 * Errors of push and finish: FDL_E_FORMAT (a cluster does not decode to one cluster,
 * the stream ends early), FDL_E_SINK_*, FDL_E_CANCELLED. */
int fdl_land_qcow2_new(struct fdl_lander **out, struct fdl_qcow2 *img,
                       struct fdl_sink *sink,
                       const struct fdl_land_qcow2_options *options,
                       struct fdl_err *err);

#endif
