# SPDX-License-Identifier: Apache-2.0
"""Connections for the resolve phase, and what a job shares with it: trust, mirrors, streams."""
cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint64_t
from libc.string cimport memcpy, memset

from fastdl.core cimport cfdl
from fastdl.core.error cimport check

KINDS = {"http": cfdl.FDL_MIRROR_HTTP, "file": cfdl.FDL_MIRROR_FILE, "nfs": cfdl.FDL_MIRROR_NFS}
RANGES = {cfdl.FDL_RANGES_UNKNOWN: None, cfdl.FDL_RANGES_YES: True, cfdl.FDL_RANGES_NO: False}
STATES = {cfdl.FDL_MIRROR_READY: "ok", cfdl.FDL_MIRROR_DISQUALIFIED: "struck",
          cfdl.FDL_MIRROR_IDLE: "unused"}
LOCAL_CLASS = cfdl.FDL_ADDR_LOOPBACK


cdef bytes field_text(cfdl.fdl_str s):
    return s.ptr[:s.len] if s.len else b""


cdef const char *or_null(bytes text):
    return NULL if text is None else <const char *> text


cdef int copy_address(const unsigned char[::1] address, cfdl.sockaddr_storage *out) except -1:
    if not 16 <= address.shape[0] <= <Py_ssize_t> sizeof(out[0]):
        raise ValueError("not a socket address")
    memset(out, 0, sizeof(out[0]))
    memcpy(out, &address[0], address.shape[0])
    return 0


def address_class(const unsigned char[::1] address not None):
    cdef cfdl.sockaddr_storage sa
    copy_address(address, &sa)
    return <int> cfdl.fdl_addr_classify(<cfdl.sockaddr *> &sa)


def is_hop_port(int port):
    return bool(cfdl.fdl_addr_hop_port(port))


cdef class Net:
    def __cinit__(self, *, double connect_timeout, double stall_timeout, bint follow_redirects,
                  bint strict, allowed_cidrs=(), nfs_servers=(), bint system_trust=True,
                  anchors=(), identity=None, proxies=None):
        cdef cfdl.fdl_err err
        cdef bytes text, cert, key, password
        cdef const char *p
        cdef size_t n
        self._ptr = cfdl.fdl_net_new()
        if self._ptr is NULL:
            raise MemoryError
        self._ptr.connect_timeout_ms = max(1, <long> (connect_timeout * 1000))
        self._ptr.stall_timeout_ms = max(1, <long> (stall_timeout * 1000))
        self._ptr.follow_redirects = follow_redirects
        self._ptr.policy.strict = strict
        for cidr in allowed_cidrs:
            text = cidr.encode("ascii", "replace")
            check(cfdl.fdl_net_allow_cidr(self._ptr, text, &err), &err)
        for cidr in nfs_servers:
            text = cidr.encode("ascii", "replace")
            check(cfdl.fdl_net_allow_nfs(self._ptr, text, &err), &err)
        self._ptr.system_trust = system_trust
        for anchor in anchors:
            text = anchor.encode("utf-8")
            p = text
            n = len(text)
            check(cfdl.fdl_net_trust_pem(self._ptr, p, n, &err), &err)
        if identity is not None:
            cert, key, password = identity
            check(cfdl.fdl_identity_from_pem(cert, len(cert), key, len(key),
                                             or_null(password), &self._ptr.identity, &err), &err)
        if proxies is not None:
            http, https, exempt = (None if p is None else p.encode("utf-8") for p in proxies)
            check(cfdl.fdl_net_use_proxies(self._ptr, or_null(http), or_null(https),
                                           or_null(exempt), &err), &err)

    def __dealloc__(self):
        cfdl.fdl_net_free(self._ptr)

    def allows(self, const unsigned char[::1] address not None, *, from_class=None,
               bint nfs=False):
        cdef cfdl.sockaddr_storage sa
        cdef cfdl.fdl_addr_via via = cfdl.FDL_VIA_TYPED
        cdef int start = 0
        copy_address(address, &sa)
        if from_class is not None:
            via, start = cfdl.FDL_VIA_LINKED, from_class
        if nfs:
            return bool(cfdl.fdl_addr_allowed_nfs(<cfdl.sockaddr *> &sa, &self._ptr.policy, via,
                                                  <cfdl.fdl_addr_class> start))
        return bool(cfdl.fdl_addr_allowed(<cfdl.sockaddr *> &sa, &self._ptr.policy, via,
                                          <cfdl.fdl_addr_class> start))

    @property
    def public_only(self):
        return self._ptr.tried == 1 << <int> cfdl.FDL_ADDR_PUBLIC


cdef class Cancel:
    def __cinit__(self):
        cdef cfdl.fdl_err err
        self._wakeup.fd = -1
        check(cfdl.fdl_wakeup_init(&self._wakeup, &err), &err)

    def __dealloc__(self):
        cfdl.fdl_wakeup_destroy(&self._wakeup)

    def cancel(self):
        cfdl.fdl_wakeup_cancel(&self._wakeup)


cdef class Mirror:
    def __cinit__(self, str kind, str url, *, headers=None, int priority=999999,
                  int max_connections=1, bint linked=False,
                  int from_class=cfdl.FDL_ADDR_LOOPBACK, int fd=-1):
        cdef bytes u = url.encode("utf-8", "surrogateescape")
        cdef bytes h = None if headers is None else headers.encode("utf-8")
        self._ptr = cfdl.fdl_mirror_new(KINDS[kind], u, NULL if h is None else <const char *> h)
        if self._ptr is NULL:
            raise MemoryError
        self._ptr.priority = priority
        self._ptr.max_conns = self._ptr.cap = max(1, max_connections)
        self._ptr.via = cfdl.FDL_VIA_LINKED if linked else cfdl.FDL_VIA_TYPED
        self._ptr.from_ = <cfdl.fdl_addr_class> from_class
        self._ptr.fd = fd

    def __dealloc__(self):
        cfdl.fdl_mirror_free(self._ptr)

    @property
    def url(self): return self._ptr.url.decode("utf-8", "surrogateescape")

    @property
    def priority(self): return self._ptr.priority

    @property
    def pinned(self): return bool(self._ptr.pinned)

    @property
    def final_url(self):
        if self._ptr.final_url is NULL:
            return None
        return self._ptr.final_url.decode("utf-8", "surrogateescape")

    @property
    def etag(self): return self._ptr.etag.decode("latin-1")

    @property
    def last_modified(self): return self._ptr.last_modified.decode("latin-1")

    @property
    def total(self):
        return None if self._ptr.total == cfdl.FDL_SIZE_UNKNOWN else self._ptr.total

    @property
    def ranges(self): return RANGES[self._ptr.ranges]

    @property
    def bytes(self): return self._ptr.bytes

    @property
    def requests(self): return self._ptr.requests

    @property
    def errors(self): return self._ptr.errors

    @property
    def state(self): return STATES[self._ptr.state]

    @property
    def reason(self):
        """Why it is not used any more, "" where it is."""
        return (<bytes> self._ptr.last_err.what).decode("ascii", "replace")

    @property
    def error_code(self):
        """Exit code of its last error, 0 for none."""
        return -self._ptr.last_err.code

    def limit(self, int max_connections):
        self._ptr.max_conns = self._ptr.cap = max(1, max_connections)

    def expect(self, uint64_t size):
        self._ptr.expected = size

    @property
    def expected(self):
        return None if self._ptr.expected == cfdl.FDL_SIZE_UNKNOWN else self._ptr.expected

    def prove(self, bint provable):
        self._ptr.provable = provable

    def ignore_validators(self):
        self._ptr.any_version = True

    @property
    def can_join(self): return bool(cfdl.fdl_mirror_can_join(self._ptr))

    def ask_for_the_whole(self):
        self._ptr.pinned = False
        self._ptr.ranges = cfdl.FDL_RANGES_NO

    def note_error(self):
        self._ptr.errors += 1

    def strike(self, str reason):
        """Leave it out of the next job."""
        self._ptr.state = cfdl.FDL_MIRROR_DISQUALIFIED
        text = reason.encode("ascii", "replace")[:cfdl.FDL_ERR_WHAT_MAX - 1]
        self._ptr.last_err.what[:len(text)] = text

    def rest(self):
        """Forget what a job learned about its speed and failures, for the next one."""
        self._ptr.active = self._ptr.failures = self._ptr.lost_hedges = 0
        self._ptr.not_before_ns = self._ptr.more_after_ns = 0
        self._ptr.refusals = 0
        self._ptr.rate = 0
        self._ptr.cap = self._ptr.max_conns
        if self._ptr.state == cfdl.FDL_MIRROR_IDLE:
            self._ptr.state = cfdl.FDL_MIRROR_READY


# Not cleared by the collector: the C stream uses what the attributes own until it is freed.
@cython.no_gc_clear
cdef class Stream:
    """One thread at a time; ``cancel`` may be rung from another."""

    def __cinit__(self, Net net not None, Mirror mirror not None, Cancel cancel not None):
        self.net = net
        self.mirror = mirror
        self.cancel = cancel
        self._ptr = cfdl.fdl_stream_new(mirror._ptr, net._ptr, &cancel._wakeup, &self._times)
        if self._ptr is NULL:
            from fastdl.errors import UsageError
            raise UsageError("this build of fastdl has no NFS support (libnfs)")
        cfdl.fdl_stream_http_keep_redirects(self._ptr)

    def __dealloc__(self):
        self.close()

    cdef cfdl.fdl_stream *open_ptr(self) except NULL:
        if self._ptr is NULL:
            raise ValueError("the stream is closed")
        return self._ptr

    cdef cfdl.fdl_stream *take(self) except NULL:
        """The C stream becomes the caller's."""
        cdef cfdl.fdl_stream *s = self.open_ptr()
        self._ptr = NULL
        return s

    def begin(self, uint64_t offset, length=None):
        cdef cfdl.fdl_err err
        cdef cfdl.fdl_stream *s = self.open_ptr()
        cdef uint64_t n = cfdl.FDL_SIZE_UNKNOWN if length is None else length
        cdef int rc
        with nogil:
            rc = s.ops.begin(s, offset, n, &err)
        check(rc, &err)

    def head(self):
        """(status, [(lower-case name, value)]) of the last answer; (0, []) without HTTP."""
        cdef const cfdl.fdl_http_head *h = cfdl.fdl_stream_http_head(self.open_ptr())
        cdef size_t i
        if h is NULL:
            return 0, []
        fields = []
        for i in range(h.n_fields):
            fields.append((field_text(h.fields[i].name).decode("latin-1").lower(),
                           field_text(h.fields[i].value).decode("latin-1")))
        return h.status, fields

    def redirects(self):
        """[(url, class of who said it, [(name, value)])] on the way to the last answer."""
        cdef const cfdl.fdl_redirect *hops = NULL
        cdef size_t n = cfdl.fdl_stream_http_redirects(self.open_ptr(), &hops)
        cdef size_t i
        out = []
        for i in range(n):
            lines = hops[i].fields.decode("latin-1").split("\n")
            pairs = [line.partition(":") for line in lines if line]
            out.append((hops[i].url.decode("utf-8", "replace"), <int> hops[i].peer,
                        [(name.lower(), value) for name, _, value in pairs]))
        return out

    def read(self, size_t size):
        """1..size bytes, b"" at the end of the answer."""
        cdef cfdl.fdl_err err
        cdef cfdl.fdl_stream *s = self.open_ptr()
        cdef bytes out = PyBytes_FromStringAndSize(NULL, size)
        cdef char *p = PyBytes_AS_STRING(out)
        cdef long n
        with nogil:
            n = s.ops.read(s, p, size, &err)
        check(n, &err)
        return out[:n]

    @property
    def offset(self): return self.open_ptr().off

    @property
    def end(self):
        cdef uint64_t end = self.open_ptr().end
        return None if end == cfdl.FDL_SIZE_UNKNOWN else end

    @property
    def whole(self): return bool(self.open_ptr().whole)

    @property
    def peer_class(self): return <int> self.open_ptr().peer

    def close(self):
        if self._ptr is not NULL:
            self._ptr.ops.free(self._ptr)
            self._ptr = NULL
