# SPDX-License-Identifier: Apache-2.0
from libc.stdint cimport uint32_t, uint64_t
from libcpp cimport bool

from fastdl.core.c.err cimport fdl_err


cdef extern from "decode/qcow2.h" nogil:
    const uint64_t FDL_QCOW2_SIZE_UNKNOWN
    struct fdl_qcow2
    struct fdl_qcow2_policy:
        uint64_t max_virtual_size
        uint64_t max_map_bytes
        bool allow_snapshots
    struct fdl_qcow2_info:
        unsigned version
        uint32_t cluster_size
        uint32_t unit
        uint64_t virtual_size
        uint64_t file_size
        bool zstd
        bool extended_l2
        bool dirty
        uint32_t snapshots
        uint64_t data_bytes
        uint64_t compressed_bytes
        uint64_t table_bytes
        uint64_t tables_end
        uint64_t first_data
        uint64_t needed_end
    struct fdl_qcow2_entry:
        uint64_t host
        uint64_t host_len
        uint64_t guest
        uint64_t len
    int fdl_qcow2_open(fdl_qcow2 **out, const void *buf, size_t len, uint64_t file_size,
                       const fdl_qcow2_policy *policy, size_t *need, fdl_err *err)
    void fdl_qcow2_free(fdl_qcow2 *img)
    const fdl_qcow2_info *fdl_qcow2_get_info(const fdl_qcow2 *img)
    bool fdl_qcow2_need(const fdl_qcow2 *img, uint64_t start, uint64_t *off, uint64_t *len)
    int fdl_qcow2_feed(fdl_qcow2 *img, uint64_t off, const void *buf, size_t len, fdl_err *err)
    bool fdl_qcow2_ready(const fdl_qcow2 *img)
    size_t fdl_qcow2_plain_count(const fdl_qcow2 *img)
    void fdl_qcow2_plain(const fdl_qcow2 *img, size_t i, fdl_qcow2_entry *out)
    size_t fdl_qcow2_compressed_count(const fdl_qcow2 *img)
    void fdl_qcow2_compressed(const fdl_qcow2 *img, size_t i, fdl_qcow2_entry *out)
    bool fdl_qcow2_zero_run(const fdl_qcow2 *img, size_t i, uint64_t *off, uint64_t *len)
    bool fdl_qcow2_next_extent(const fdl_qcow2 *img, uint64_t start, uint64_t *off,
                               uint64_t *len)
