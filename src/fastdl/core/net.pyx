# SPDX-License-Identifier: Apache-2.0
"""Connections for the resolve phase, and what it shares with a job: trust, mirrors, streams."""
cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcpy, memset
from libc.time cimport time

from fastdl.core.c.addr cimport (
    FDL_ADDR_IS_LITERAL, FDL_ADDR_LOOPBACK, FDL_ADDR_PUBLIC, FDL_VIA_LINKED, FDL_VIA_TYPED,
    fdl_addr_allowed, fdl_addr_allowed_nfs, fdl_addr_class, fdl_addr_classify, fdl_addr_from_text,
    fdl_addr_hop_port, fdl_addr_via, sockaddr, sockaddr_storage,
)
from fastdl.core.c.cookie cimport fdl_cookie_location, fdl_cookies_take
from fastdl.core.c.err cimport FDL_ERR_WHAT_MAX, fdl_err
from fastdl.core.c.http cimport fdl_http_head, fdl_str
from fastdl.core.c.mirror cimport (
    FDL_MIRROR_DISQUALIFIED, FDL_MIRROR_FILE, FDL_MIRROR_HTTP, FDL_MIRROR_IDLE, FDL_MIRROR_NFS,
    FDL_MIRROR_READY, FDL_RANGES_NO, FDL_RANGES_UNKNOWN, FDL_RANGES_YES, fdl_mirror_can_join,
    fdl_mirror_free, fdl_mirror_new,
)
from fastdl.core.c.net cimport (
    fdl_net_allow_cidr, fdl_net_allow_nfs, fdl_net_free, fdl_net_new, fdl_net_trust_pem,
    fdl_net_use_proxies, fdl_route_pin, fdl_route_use_interface,
)
from fastdl.core.c.sink cimport FDL_SIZE_UNKNOWN
from fastdl.core.c.stream cimport (
    fdl_redirect, fdl_stream, fdl_stream_http_head, fdl_stream_http_keep_redirects,
    fdl_stream_http_redirects, fdl_stream_new,
)
from fastdl.core.c.tls cimport fdl_identity_from_pem
from fastdl.core.c.wakeup cimport fdl_wakeup_cancel, fdl_wakeup_destroy, fdl_wakeup_init
from fastdl.core.error cimport check

KINDS = {"http": FDL_MIRROR_HTTP, "file": FDL_MIRROR_FILE, "nfs": FDL_MIRROR_NFS}
RANGES = {FDL_RANGES_UNKNOWN: None, FDL_RANGES_YES: True, FDL_RANGES_NO: False}
STATES = {FDL_MIRROR_READY: "ok", FDL_MIRROR_DISQUALIFIED: "disqualified",
          FDL_MIRROR_IDLE: "unused"}
LOCAL_CLASS = FDL_ADDR_LOOPBACK


cdef bytes field_text(fdl_str s):
    return s.ptr[:s.len] if s.len else b""


cdef const char *or_null(bytes text):
    return NULL if text is None else <const char *> text


cdef int copy_address(const unsigned char[::1] address, sockaddr_storage *out) except -1:
    if not 16 <= address.shape[0] <= <Py_ssize_t> sizeof(out[0]):
        raise ValueError("not a socket address")
    memset(out, 0, sizeof(out[0]))
    memcpy(out, &address[0], address.shape[0])
    return 0


cdef int take_cookie(fdl_net *net, bytes host, bytes path, bint tls, bytes field) except -1:
    cdef fdl_cookie_location location
    cdef fdl_str text
    location.host, location.target, location.tls = host, path, tls
    text.ptr, text.len = field, len(field)
    fdl_cookies_take(&net.cookies, &location, text, <int64_t> time(NULL))
    return 0


def address_class(const unsigned char[::1] address not None):
    cdef sockaddr_storage sa
    copy_address(address, &sa)
    return <int> fdl_addr_classify(<sockaddr *> &sa)


def is_site_address(str host not None):
    cdef sockaddr_storage sa
    cdef bytes text = host.encode()
    return (fdl_addr_from_text(text, &sa) == FDL_ADDR_IS_LITERAL
            and fdl_addr_classify(<sockaddr *> &sa) != FDL_ADDR_PUBLIC)


def is_hop_port(int port):
    return bool(fdl_addr_hop_port(port))


cdef class Net:
    def __cinit__(self, *, double connect_timeout, double stall_timeout, bint follow_redirects,
                  bint strict, allowed_cidrs=(), nfs_servers=(), bint system_trust=True,
                  anchors=(), identity=None, proxies=None, interface=None, int family=0,
                  pins=(), cookies=()):
        cdef fdl_err err
        cdef bytes text, cert, key, password
        cdef const char *p
        cdef size_t n
        self._ptr = fdl_net_new()
        if self._ptr is NULL:
            raise MemoryError
        self._ptr.connect_timeout_ms = max(1, <long> (connect_timeout * 1000))
        self._ptr.stall_timeout_ms = max(1, <long> (stall_timeout * 1000))
        self._ptr.follow_redirects = follow_redirects
        self._ptr.policy.strict = strict
        for cidr in allowed_cidrs:
            text = cidr.encode("ascii", "replace")
            check(fdl_net_allow_cidr(self._ptr, text, &err), &err)
        for cidr in nfs_servers:
            text = cidr.encode("ascii", "replace")
            check(fdl_net_allow_nfs(self._ptr, text, &err), &err)
        self._ptr.system_trust = system_trust
        for anchor in anchors:
            text = anchor.encode("utf-8")
            p = text
            n = len(text)
            check(fdl_net_trust_pem(self._ptr, p, n, &err), &err)
        if identity is not None:
            cert, key, password = identity
            check(fdl_identity_from_pem(cert, len(cert), key, len(key),
                                        or_null(password), &self._ptr.identity, &err), &err)
        if proxies is not None:
            http, https, exempt = (None if p is None else p.encode("utf-8") for p in proxies)
            check(fdl_net_use_proxies(self._ptr, or_null(http), or_null(https),
                                      or_null(exempt), &err), &err)
        self._ptr.route.family = family
        if interface is not None:
            text = interface.encode("utf-8")
            check(fdl_route_use_interface(&self._ptr.route, text, &err), &err)
        for pin in pins:
            text = pin.encode("utf-8")
            check(fdl_route_pin(&self._ptr.route, text, &err), &err)
        for host, path, tls, field in cookies:
            take_cookie(self._ptr, host.encode(), path.encode(), tls, field.encode("latin-1"))

    def __dealloc__(self):
        fdl_net_free(self._ptr)

    def allows(self, const unsigned char[::1] address not None, *, from_class=None,
               bint nfs=False):
        cdef sockaddr_storage sa
        cdef fdl_addr_via via = FDL_VIA_TYPED
        cdef int start = 0
        copy_address(address, &sa)
        if from_class is not None:
            via, start = FDL_VIA_LINKED, from_class
        if nfs:
            return bool(fdl_addr_allowed_nfs(<sockaddr *> &sa, &self._ptr.policy, via,
                                             <fdl_addr_class> start))
        return bool(fdl_addr_allowed(<sockaddr *> &sa, &self._ptr.policy, via,
                                     <fdl_addr_class> start))

    @property
    def public_only(self):
        return self._ptr.tried == 1 << <int> FDL_ADDR_PUBLIC


cdef class Wakeup:
    def __cinit__(self):
        cdef fdl_err err
        self._wakeup.fd = -1
        check(fdl_wakeup_init(&self._wakeup, &err), &err)

    def __dealloc__(self):
        fdl_wakeup_destroy(&self._wakeup)

    def cancel(self):
        fdl_wakeup_cancel(&self._wakeup)


cdef class Mirror:
    def __cinit__(self, str kind, str url, *, headers=None, int priority=999999,
                  int max_connections=1, bint linked=False,
                  int from_class=FDL_ADDR_LOOPBACK, int fd=-1):
        cdef bytes u = url.encode("utf-8", "surrogateescape")
        cdef bytes h = None if headers is None else headers.encode("utf-8")
        self._ptr = fdl_mirror_new(KINDS[kind], u, NULL if h is None else <const char *> h)
        if self._ptr is NULL:
            raise MemoryError
        self._ptr.priority = priority
        self._ptr.max_conns = self._ptr.cap = max(1, max_connections)
        self._ptr.via = FDL_VIA_LINKED if linked else FDL_VIA_TYPED
        self._ptr.from_ = <fdl_addr_class> from_class
        self._ptr.fd = fd

    def __dealloc__(self):
        fdl_mirror_free(self._ptr)

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
        return None if self._ptr.total == FDL_SIZE_UNKNOWN else self._ptr.total

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
        """Why it is no longer used, "" while it is used."""
        return (<bytes> self._ptr.last_err.what).decode("ascii", "replace")

    @property
    def error_code(self):
        """Exit code of its last error, 0 for none."""
        return -self._ptr.last_err.code

    @property
    def max_connections(self): return self._ptr.max_conns

    def limit(self, int max_connections):
        self._ptr.max_conns = self._ptr.cap = max(1, max_connections)

    def expect(self, uint64_t size):
        self._ptr.expected = size

    @property
    def expected(self):
        return None if self._ptr.expected == FDL_SIZE_UNKNOWN else self._ptr.expected

    def prove(self, bint provable):
        self._ptr.provable = provable

    def expire(self, uint64_t seconds):
        self._ptr.expires_s = seconds

    def ignore_validators(self):
        self._ptr.any_version = True

    @property
    def can_join(self): return bool(fdl_mirror_can_join(self._ptr))

    def ask_for_the_whole(self):
        self._ptr.pinned = False
        self._ptr.ranges = FDL_RANGES_NO

    def note_error(self):
        self._ptr.errors += 1

    def disqualify(self, str reason):
        """Exclude it from the next job."""
        self._ptr.state = FDL_MIRROR_DISQUALIFIED
        text = reason.encode("ascii", "replace")[:FDL_ERR_WHAT_MAX - 1]
        self._ptr.last_err.what[:len(text)] = text

    def rest(self):
        """Forget what a job learned about its speed and failures, for the next one."""
        self._ptr.active = self._ptr.failures = self._ptr.lost_hedges = 0
        self._ptr.not_before_ns = self._ptr.more_after_ns = 0
        self._ptr.refusals = 0
        self._ptr.rate = 0
        self._ptr.cap = self._ptr.max_conns
        if self._ptr.state == FDL_MIRROR_IDLE:
            self._ptr.state = FDL_MIRROR_READY


# Not cleared by the collector: the C stream uses what the attributes own until it is freed.
@cython.no_gc_clear
cdef class Stream:
    """One thread at a time; ``wakeup`` may be used from another."""

    def __cinit__(self, Net net not None, Mirror mirror not None, Wakeup wakeup not None):
        self.net = net
        self.mirror = mirror
        self.wakeup = wakeup
        self._ptr = fdl_stream_new(mirror._ptr, net._ptr, &wakeup._wakeup, &self._times)
        if self._ptr is NULL:
            from fastdl.errors import UsageError
            raise UsageError("this build of fastdl has no NFS support (libnfs)")
        fdl_stream_http_keep_redirects(self._ptr)

    def __dealloc__(self):
        self.close()

    cdef fdl_stream *open_ptr(self) except NULL:
        if self._ptr is NULL:
            raise ValueError("the stream is closed")
        return self._ptr

    cdef fdl_stream *take(self) except NULL:
        """Hand the C stream over to the caller."""
        cdef fdl_stream *s = self.open_ptr()
        self._ptr = NULL
        return s

    def begin(self, uint64_t offset, length=None):
        cdef fdl_err err
        cdef fdl_stream *s = self.open_ptr()
        cdef uint64_t n = FDL_SIZE_UNKNOWN if length is None else length
        cdef int rc
        with nogil:
            rc = s.ops.begin(s, offset, n, &err)
        check(rc, &err)

    def head(self):
        """(status, [(lower-case name, value)]) of the last response; (0, []) without HTTP."""
        cdef const fdl_http_head *h = fdl_stream_http_head(self.open_ptr())
        cdef size_t i
        if h is NULL:
            return 0, []
        fields = []
        for i in range(h.n_fields):
            fields.append((field_text(h.fields[i].name).decode("latin-1").lower(),
                           field_text(h.fields[i].value).decode("latin-1")))
        return h.status, fields

    def redirects(self):
        """[(url, class of the sender's address, [(name, value)])] before the last response."""
        cdef const fdl_redirect *hops = NULL
        cdef size_t n = fdl_stream_http_redirects(self.open_ptr(), &hops)
        cdef size_t i
        out = []
        for i in range(n):
            lines = hops[i].fields.decode("latin-1").split("\n")
            pairs = [line.partition(":") for line in lines if line]
            out.append((hops[i].url.decode("utf-8", "replace"), <int> hops[i].peer,
                        [(name.lower(), value) for name, _, value in pairs]))
        return out

    def read(self, size_t size):
        """1..size bytes, b"" at the end of the response."""
        cdef fdl_err err
        cdef fdl_stream *s = self.open_ptr()
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
        return None if end == FDL_SIZE_UNKNOWN else end

    @property
    def whole(self): return bool(self.open_ptr().whole)

    @property
    def peer_class(self): return <int> self.open_ptr().peer

    def close(self):
        if self._ptr is not NULL:
            self._ptr.ops.free(self._ptr)
            self._ptr = NULL
