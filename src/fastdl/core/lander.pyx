# SPDX-License-Identifier: Apache-2.0
"""Owners of one ``fdl_lander``: qcow2 and compressed sources, decoded while they arrive."""
from libc.stdint cimport UINT32_MAX

from fastdl.core.c.err cimport fdl_err
from fastdl.core.c.inflate cimport fdl_inflate_kind_of
from fastdl.core.c.land_qcow2 cimport fdl_land_qcow2_new, fdl_land_qcow2_options
from fastdl.core.c.land_stream cimport (
    FDL_DECODED_QCOW2, FDL_DECODED_RAW, FDL_LAND_STREAM_TAIL, fdl_land_stream_decoded,
    fdl_land_stream_new, fdl_land_stream_options, fdl_land_stream_tail, fdl_land_stream_trailing,
    fdl_land_stream_virtual_size,
)
from fastdl.core.c.qcow2 cimport fdl_qcow2
from fastdl.core.c.sink cimport fdl_sink
from fastdl.core.error cimport check
from fastdl.core.image cimport Qcow2
from fastdl.core.land cimport Lander
from fastdl.core.sink cimport Sink


cdef class Qcow2Lander(Lander):
    def __init__(self, Qcow2 image not None, Sink sink not None, *, unsigned threads=2,
                 bint detect_zeros=True):
        cdef fdl_err err
        cdef fdl_land_qcow2_options options
        cdef fdl_qcow2 *img = image._ptr
        cdef fdl_sink *s = sink.open_ptr()
        cdef int rc
        if self._ptr is not NULL or img is NULL:
            raise ValueError("used twice")
        image._ptr = NULL  # STOLEN
        options.threads = threads
        options.detect_zeros = detect_zeros
        self._sink = sink
        with nogil:
            rc = fdl_land_qcow2_new(&self._ptr, img, s, &options, &err)
        check(rc, &err)


cdef class StreamLander(Lander):
    def __init__(self, str kind not None, Sink sink not None, *, bint qcow2, max_output=None,
                 sink_size=None, max_virtual_size=None, max_ratio=None, unsigned threads=2,
                 bint detect_zeros=True):
        cdef fdl_err err
        cdef fdl_land_stream_options options
        cdef fdl_sink *s = sink.open_ptr()
        cdef int rc
        if self._ptr is not NULL:
            raise ValueError("used twice")
        name = kind.encode("ascii")
        options.kind = fdl_inflate_kind_of(name)
        options.limits.max_output = max_output or 0
        options.limits.ratio_after = 0
        options.limits.max_ratio = 0 if max_ratio is None else max_ratio or UINT32_MAX
        options.limits.skip_zeros = detect_zeros
        options.detect_zeros = detect_zeros
        options.decoded = FDL_DECODED_QCOW2 if qcow2 else FDL_DECODED_RAW
        options.sink_size = sink_size or 0
        options.qcow2_policy.max_virtual_size = max_virtual_size or 0
        options.qcow2_policy.max_map_bytes = 0
        options.qcow2_policy.allow_snapshots = False
        options.qcow2.threads = threads
        options.qcow2.detect_zeros = detect_zeros
        options.block = 0
        options.qcow2_blocks = 0
        self._sink = sink
        with nogil:
            rc = fdl_land_stream_new(&self._ptr, s, &options, &err)
        check(rc, &err)

    @property
    def decoded(self):
        """Decoded bytes so far."""
        return fdl_land_stream_decoded(self.open_ptr())

    @property
    def tail(self):
        """The last decoded bytes."""
        cdef unsigned char out[FDL_LAND_STREAM_TAIL]
        cdef size_t n = fdl_land_stream_tail(self.open_ptr(), out)
        return out[:n]

    @property
    def trailing(self):
        """Ignored bytes after the compressed streams."""
        return fdl_land_stream_trailing(self.open_ptr())

    @property
    def virtual_size(self):
        """Virtual size of a decoded qcow2; 0 while unknown or raw."""
        return fdl_land_stream_virtual_size(self.open_ptr())
