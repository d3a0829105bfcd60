/* SPDX-License-Identifier: Apache-2.0 */
/* job/job.h - the engine: one transfer from mirrors to a sink. The only part that knows
 * all stages; it starts the threads, bounds them, and joins them.
 *
 * Threads: one a connection (fetch, piece digests, writes), one a whole-file digest,
 * one for the lander where there is one, one monitor. No callback into the caller: it
 * looks at counters (fdl_job_status) and waits (fdl_job_wait). */
#ifndef FDL_JOB_H
#define FDL_JOB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/landed.h"
#include "job/config.h"
#include "source/request_log.h"

struct fdl_job;

struct fdl_job_status {
    uint64_t total;         /* FDL_SIZE_UNKNOWN until the end has been seen */
    uint64_t done_bytes;    /* of the source: verified (as far as can be) and landed */
    uint64_t fetched_bytes; /* from mirrors, known bytes included */
    uint64_t resumed_bytes; /* from the target */
    uint64_t hedged_bytes;
    int conns;
    int mirrors;      /* that these use */
    uint64_t rest_ns; /* until a mirror may be asked again; 0: one may be */
    bool running;
    bool wants_spool; /* there is a block to keep: fdl_job_keep() */
    /* busy nanoseconds, summed over threads */
    uint64_t along_bytes; /* of the file's digest, that went along with a piece's */
    uint64_t passes, pass_blocks; /* over pieces of several blocks; these, in all */
    uint64_t fetch_ns, tls_ns, hash_ns, decode_ns, write_ns, flush_ns;
    uint64_t net_wait_ns;    /* connections waiting for mirrors */
    uint64_t window_wait_ns; /* connections waiting for room in the window */
    uint64_t elapsed_ns;
};

/* The largest block size up to `wanted` (a multiple of FDL_BUF_ALIGN) that fits a piece
 * length: whole pieces in a block or whole blocks in a piece. Where only much smaller
 * ones would, `wanted` itself: then pieces are checked in order. */
size_t fdl_job_block_for(uint64_t piece_length, size_t wanted);

/* *out is OWNED. On failure nothing was started and config->first has been freed. */
int fdl_job_start(struct fdl_job **out, const struct fdl_job_config *config,
                  struct fdl_err *err);

/* True when the job has ended; false after timeout_ms, where `records` (> 0) blocks
 * wait to be drained, or where the job wants a spool. */
bool fdl_job_wait(struct fdl_job *job, int timeout_ms, size_t records);

void fdl_job_status(struct fdl_job *job, struct fdl_job_status *out);

/* From now on blocks are kept in `spool`, too, each at its own offset, and recorded.
 * NULL: nothing is kept. At most once.
 *   spool  BORROWED until fdl_job_free() */
void fdl_job_keep(struct fdl_job *job, struct fdl_sink *spool);

/* Moves up to cap ranges, blocks that have been written since the last call. They
 * are durable only after the next fdl_sink_flush(). */
size_t fdl_job_drain(struct fdl_job *job, struct fdl_range *out, size_t cap);

/* n drained records have been made durable: what a kill would cost is that much less.
 * The job claims no more while too much is unsettled. */
void fdl_job_settle(struct fdl_job *job, size_t n);

/* Moves up to cap notes about requests, the oldest first; 0 without
 * config.log_requests. *lost: how many more there were than could be kept. */
size_t fdl_job_requests(struct fdl_job *job, struct fdl_request_note *out, size_t cap,
                        size_t *lost);

/* From any thread, any number of times. */
void fdl_job_cancel(struct fdl_job *job);

/* Joins all threads. FDL_OK: all bytes landed, were flushed, pieces agree; the digests
 * are in *result for the caller to check. Else the first error. */
int fdl_job_finish(struct fdl_job *job, struct fdl_job_result *result,
                   struct fdl_err *err);

/* After fdl_job_finish(): the SHA-256 of the pieces, as config.list_pieces asked for;
 * *n is 0 without. BORROWED until fdl_job_free(). */
const unsigned char *fdl_job_piece_list(const struct fdl_job *job, size_t *n);

/* After fdl_job_finish(): the caller may free the lander, and must before the sink and
 * the job go: where the job failed, its threads may still hold blocks and write. */
void fdl_job_forget_lander(struct fdl_job *job);

/* Cancels and joins if need be. NULL is allowed. */
void fdl_job_free(struct fdl_job *job);

#endif
