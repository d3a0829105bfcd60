# SPDX-License-Identifier: Apache-2.0
from libc.stdint cimport uint64_t

from fastdl.core.c.config cimport fdl_job_config, fdl_job_result
from fastdl.core.c.err cimport fdl_err
from fastdl.core.c.landed cimport fdl_range
from fastdl.core.c.request_log cimport fdl_request_note
from fastdl.core.c.sink cimport fdl_sink


cdef extern from "job/job.h" nogil:
    struct fdl_job:
        pass
    struct fdl_job_status_s "fdl_job_status":
        uint64_t total
        uint64_t done_bytes
        uint64_t fetched_bytes
        uint64_t resumed_bytes
        uint64_t hedged_bytes
        uint64_t along_bytes
        uint64_t passes
        uint64_t pass_blocks
        int conns
        int mirrors
        uint64_t rest_ns
        bint running
        bint wants_spool
        uint64_t fetch_ns
        uint64_t tls_ns
        uint64_t hash_ns
        uint64_t decode_ns
        uint64_t write_ns
        uint64_t flush_ns
        uint64_t net_wait_ns
        uint64_t window_wait_ns
        uint64_t elapsed_ns
    size_t fdl_job_block_for(uint64_t piece_length, size_t wanted)
    int fdl_job_start(fdl_job **out, const fdl_job_config *config, fdl_err *err)
    bint fdl_job_wait(fdl_job *job, int timeout_ms, size_t records)
    void fdl_job_status(fdl_job *job, fdl_job_status_s *out)
    void fdl_job_keep(fdl_job *job, fdl_sink *spool)
    size_t fdl_job_drain(fdl_job *job, fdl_range *out, size_t cap)
    void fdl_job_settle(fdl_job *job, size_t n)
    size_t fdl_job_requests(fdl_job *job, fdl_request_note *out, size_t cap, size_t *lost)
    void fdl_job_cancel(fdl_job *job)
    int fdl_job_finish(fdl_job *job, fdl_job_result *result, fdl_err *err)
    void fdl_job_forget_lander(fdl_job *job)
    void fdl_job_free(fdl_job *job)
    const unsigned char *fdl_job_piece_list(const fdl_job *job, size_t *n)
