# SPDX-License-Identifier: Apache-2.0
"""Owners of one ``fdl_lander``: qcow2 and compressed sources, decoded while they arrive."""
from libc.stdint cimport UINT32_MAX, uint64_t
from libcpp cimport bool

from fastdl.core cimport cfdl, cfdl_image
from fastdl.core.error cimport check
from fastdl.core.image cimport Qcow2
from fastdl.core.sink cimport Sink


cdef extern from "decode/land_qcow2.h" nogil:
    struct fdl_land_qcow2_options:
        unsigned threads
        bool detect_zeros
    int fdl_land_qcow2_new(cfdl.fdl_lander **out, cfdl_image.fdl_qcow2 *img, cfdl.fdl_sink *sink,
                           const fdl_land_qcow2_options *options, cfdl.fdl_err *err)


cdef extern from "decode/land_stream.h" nogil:
    enum fdl_decoded:
        FDL_DECODED_RAW
        FDL_DECODED_QCOW2
    struct fdl_land_stream_options:
        cfdl_image.fdl_inflate_kind kind
        cfdl_image.fdl_inflate_limits limits
        bool detect_zeros
        int (*judge)(void *ctx, const void *head, size_t len, bool whole, fdl_decoded *verdict,
                     cfdl.fdl_err *err) noexcept nogil
        void *judge_ctx
        uint64_t sink_size
        cfdl_image.fdl_qcow2_policy qcow2_policy
        fdl_land_qcow2_options qcow2
        size_t block
        unsigned qcow2_blocks
    int fdl_land_stream_new(cfdl.fdl_lander **out, cfdl.fdl_sink *sink,
                            const fdl_land_stream_options *options, cfdl.fdl_err *err)
    uint64_t fdl_land_stream_decoded(const cfdl.fdl_lander *self)
    enum:
        FDL_LAND_STREAM_TAIL
    size_t fdl_land_stream_tail(const cfdl.fdl_lander *self, unsigned char *out)
    uint64_t fdl_land_stream_trailing(const cfdl.fdl_lander *self)
    uint64_t fdl_land_stream_virtual_size(const cfdl.fdl_lander *self)


cdef int is_qcow2(void *ctx, const void *head, size_t length, bool whole, fdl_decoded *verdict,
                  cfdl.fdl_err *err) noexcept nogil:
    """The caller has looked at the decoded head already: ctx is not NULL for a qcow2."""
    verdict[0] = FDL_DECODED_QCOW2 if ctx is not NULL else FDL_DECODED_RAW
    return 0


cdef class Lander:
    cdef cfdl.fdl_lander *_ptr  # OWNED: freed in close()/__dealloc__, NULL after
    cdef object _sink           # keeps the borrowed sink alive

    def __dealloc__(self):
        self.close()

    def close(self):
        if self._ptr is not NULL:
            with nogil:
                self._ptr.ops.free(self._ptr)
            self._ptr = NULL

    def address(self):
        """For ``Job``: the C lander, BORROWED while the job lives."""
        return <size_t> self.open_ptr()

    cdef cfdl.fdl_lander *open_ptr(self) except NULL:
        """It ends with its job: what it has to tell is to be asked before."""
        if self._ptr is NULL:
            raise ValueError("the lander is closed")
        return self._ptr


cdef class Qcow2Lander(Lander):
    def __init__(self, Qcow2 image not None, Sink sink not None, *, unsigned threads=2,
                 bint detect_zeros=True):
        cdef cfdl.fdl_err err
        cdef fdl_land_qcow2_options options
        cdef cfdl_image.fdl_qcow2 *img = image._ptr
        cdef cfdl.fdl_sink *s = sink.open_ptr()
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
        cdef cfdl.fdl_err err
        cdef fdl_land_stream_options options
        cdef cfdl.fdl_sink *s = sink.open_ptr()
        cdef int rc
        if self._ptr is not NULL:
            raise ValueError("used twice")
        name = kind.encode("ascii")
        options.kind = cfdl_image.fdl_inflate_kind_of(name)
        options.limits.max_output = max_output or 0
        options.limits.ratio_after = 0
        options.limits.max_ratio = 0 if max_ratio is None else max_ratio or UINT32_MAX
        options.limits.skip_zeros = detect_zeros
        options.detect_zeros = detect_zeros
        options.judge = is_qcow2
        options.judge_ctx = <void *> &is_qcow2 if qcow2 else NULL
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
        """Ignored bytes behind the compressed streams."""
        return fdl_land_stream_trailing(self.open_ptr())

    @property
    def virtual_size(self):
        """Virtual size of a decoded qcow2; 0 while unknown or raw."""
        return fdl_land_stream_virtual_size(self.open_ptr())
