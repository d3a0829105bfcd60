# SPDX-License-Identifier: Apache-2.0
from libc.stdint cimport uint64_t
from libcpp cimport bool

from fastdl.core.c.err cimport fdl_err
from fastdl.core.c.inflate cimport fdl_inflate_kind, fdl_inflate_limits
from fastdl.core.c.land cimport fdl_lander
from fastdl.core.c.land_qcow2 cimport fdl_land_qcow2_options
from fastdl.core.c.qcow2 cimport fdl_qcow2_policy
from fastdl.core.c.sink cimport fdl_sink


cdef extern from "decode/land_stream.h" nogil:
    enum fdl_decoded:
        FDL_DECODED_RAW
        FDL_DECODED_QCOW2
    struct fdl_land_stream_options:
        fdl_inflate_kind kind
        fdl_inflate_limits limits
        bool detect_zeros
        fdl_decoded decoded
        uint64_t sink_size
        fdl_qcow2_policy qcow2_policy
        fdl_land_qcow2_options qcow2
        size_t block
        unsigned qcow2_blocks
    int fdl_land_stream_new(fdl_lander **out, fdl_sink *sink,
                            const fdl_land_stream_options *options, fdl_err *err)
    uint64_t fdl_land_stream_decoded(const fdl_lander *self)
    enum:
        FDL_LAND_STREAM_TAIL
    size_t fdl_land_stream_tail(const fdl_lander *self, unsigned char *out)
    uint64_t fdl_land_stream_trailing(const fdl_lander *self)
    uint64_t fdl_land_stream_virtual_size(const fdl_lander *self)
