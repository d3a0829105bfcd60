# SPDX-License-Identifier: Apache-2.0
"""Owners of one ``fdl_qcow2`` and one ``fdl_inflate``."""
from libc.stdint cimport uint64_t

from fastdl.core.c.err cimport fdl_err
from fastdl.core.c.inflate cimport (
    fdl_inflate, fdl_inflate_feed, fdl_inflate_finish, fdl_inflate_free, fdl_inflate_kind_of,
    fdl_inflate_limits, fdl_inflate_open, fdl_inflate_trailing,
)
from fastdl.core.c.qcow2 cimport (
    FDL_QCOW2_SIZE_UNKNOWN, fdl_qcow2, fdl_qcow2_compressed, fdl_qcow2_compressed_count,
    fdl_qcow2_entry, fdl_qcow2_feed, fdl_qcow2_free, fdl_qcow2_get_info, fdl_qcow2_info,
    fdl_qcow2_need, fdl_qcow2_next_extent, fdl_qcow2_open, fdl_qcow2_plain, fdl_qcow2_plain_count,
    fdl_qcow2_policy, fdl_qcow2_ready, fdl_qcow2_zero_run,
)
from fastdl.core.error cimport check

cdef class Qcow2:
    def __init__(self, const unsigned char[::1] head not None, file_size, *,
                 max_virtual_size=None, max_map_bytes=None, bint allow_snapshots=False):
        cdef fdl_err err
        cdef size_t need = 0
        cdef uint64_t size = (FDL_QCOW2_SIZE_UNKNOWN if file_size is None
                              else file_size)
        cdef fdl_qcow2_policy policy
        if self._ptr is not NULL:
            raise ValueError("opened twice")
        policy.max_virtual_size = max_virtual_size or 0
        policy.max_map_bytes = max_map_bytes or 0
        policy.allow_snapshots = allow_snapshots
        check(fdl_qcow2_open(&self._ptr, &head[0] if head.shape[0] else NULL,
                             <size_t> head.shape[0], size, &policy, &need, &err),
              &err)
        if need:
            raise NeedMore(need)

    def __dealloc__(self):
        fdl_qcow2_free(self._ptr)

    cdef fdl_qcow2 *open_ptr(self) except NULL:
        """A lander takes the image over: it must not be used otherwise from then on."""
        if self._ptr is NULL:
            raise ValueError("the image was taken over")
        return self._ptr

    def need(self, uint64_t start=0):
        cdef uint64_t off, length
        if not fdl_qcow2_need(self.open_ptr(), start, &off, &length):
            return None
        return off, length

    def feed(self, uint64_t offset, const unsigned char[::1] data not None):
        cdef fdl_err err
        cdef int rc = 0
        cdef size_t n = <size_t> data.shape[0]
        if n == 0:
            return
        cdef const unsigned char *p = &data[0]
        cdef fdl_qcow2 *image = self.open_ptr()
        with nogil:
            rc = fdl_qcow2_feed(image, offset, p, n, &err)
        check(rc, &err)

    @property
    def ready(self):
        return fdl_qcow2_ready(self.open_ptr())

    @property
    def virtual_size(self):
        return fdl_qcow2_get_info(self.open_ptr()).virtual_size

    def info(self):
        cdef const fdl_qcow2_info *i = fdl_qcow2_get_info(self.open_ptr())
        facts = {
            "version": i.version,
            "cluster_size": i.cluster_size,
            "compression": "zstd" if i.zstd else "zlib",
            "extended_l2": bool(i.extended_l2),
            "dirty": bool(i.dirty),
            "snapshots": i.snapshots,
        }
        if fdl_qcow2_ready(self.open_ptr()):
            facts["data_bytes"] = i.data_bytes
            facts["compressed_bytes"] = i.compressed_bytes
            facts["table_bytes"] = i.table_bytes
            facts["tables_first"] = i.tables_end <= i.first_data
            facts["needed_end"] = i.needed_end
        return facts

    def _whole(self):
        if not fdl_qcow2_ready(self.open_ptr()):
            raise ValueError("the tables are not complete")

    def plain(self):
        cdef fdl_qcow2_entry e
        cdef size_t i
        self._whole()
        runs = []
        for i in range(fdl_qcow2_plain_count(self.open_ptr())):
            fdl_qcow2_plain(self.open_ptr(), i, &e)
            runs.append((e.host, e.guest, e.len))
        return runs

    def compressed(self):
        cdef fdl_qcow2_entry e
        cdef size_t i
        self._whole()
        clusters = []
        for i in range(fdl_qcow2_compressed_count(self.open_ptr())):
            fdl_qcow2_compressed(self.open_ptr(), i, &e)
            clusters.append((e.host, e.host_len, e.guest, e.len))
        return clusters

    def zeros(self):
        cdef uint64_t off, length
        self._whole()
        runs = []
        while fdl_qcow2_zero_run(self.open_ptr(), len(runs), &off, &length):
            runs.append((off, length))
        return [run for run in runs if run[1]]

    def extents(self):
        cdef uint64_t off = 0, length = 0
        self._whole()
        found = []
        while fdl_qcow2_next_extent(self.open_ptr(), off + length, &off, &length):
            found.append((off, length))
        return found


class NeedMore(Exception):
    def __init__(self, length):
        super().__init__(f"{length} bytes of the header are needed")
        self.length = length


cdef class Inflate:
    cdef fdl_inflate *_ptr  # OWNED: freed in __dealloc__

    def __init__(self, str kind not None, *, max_output=None, ratio_after=None, max_ratio=None,
                 bint skip_zeros=False):
        cdef fdl_err err
        cdef fdl_inflate_limits limits
        if self._ptr is not NULL:
            raise ValueError("opened twice")
        limits.max_output = max_output or 0
        limits.ratio_after = ratio_after or 0
        limits.max_ratio = max_ratio or 0
        limits.skip_zeros = skip_zeros
        name = kind.encode("ascii")
        check(fdl_inflate_open(&self._ptr, fdl_inflate_kind_of(name),
                               &limits, &err), &err)

    def __dealloc__(self):
        fdl_inflate_free(self._ptr)

    def feed(self, const unsigned char[::1] data not None, size_t limit):
        cdef fdl_err err
        cdef int rc
        cdef size_t consumed = 0, produced = 0, n = <size_t> data.shape[0]
        cdef const unsigned char *p = &data[0] if n else <const unsigned char *> b""
        cdef bytearray out = bytearray(limit)
        cdef unsigned char[::1] view = out
        if limit == 0:
            raise ValueError("no room for output")
        cdef unsigned char *o = &view[0]
        with nogil:
            rc = fdl_inflate_feed(self._ptr, p, n, o, limit, &consumed, &produced,
                                  &err)
        check(rc, &err)
        return consumed, bytes(view[:produced])

    def finish(self):
        cdef fdl_err err
        check(fdl_inflate_finish(self._ptr, &err), &err)

    @property
    def trailing(self):
        return fdl_inflate_trailing(self._ptr)
