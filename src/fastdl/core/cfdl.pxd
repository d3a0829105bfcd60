# SPDX-License-Identifier: Apache-2.0
# The headers of csrc/ that Python needs, in the order of the path of a byte. No logic here.
from libc.stdint cimport int64_t, uint64_t
from libcpp cimport bool


cdef extern from "base/err.h" nogil:
    enum:
        FDL_OK
        FDL_E_CANCELLED
        FDL_ERR_WHAT_MAX
    struct fdl_err:
        int code
        int os_errno
        int reason
        int http_status
        int mirror
        int64_t retry_after_s
        uint64_t offset
        char what[120]
    const uint64_t FDL_NO_OFFSET
    void fdl_err_clear(fdl_err *err)


cdef extern from "<sys/socket.h>" nogil:
    struct sockaddr:
        pass
    struct sockaddr_storage:
        pass


cdef extern from "base/addr.h" nogil:
    enum fdl_addr_class:
        FDL_ADDR_PUBLIC
        FDL_ADDR_LOOPBACK
        FDL_ADDR_RESERVED
    enum fdl_addr_via:
        FDL_VIA_TYPED
        FDL_VIA_LINKED
    struct fdl_addr_policy:
        bint strict
    fdl_addr_class fdl_addr_classify(const sockaddr *sa)
    bint fdl_addr_allowed(const sockaddr *sa, const fdl_addr_policy *policy, fdl_addr_via via,
                          fdl_addr_class from_class)
    bint fdl_addr_allowed_nfs(const sockaddr *sa, const fdl_addr_policy *policy,
                              fdl_addr_via via, fdl_addr_class from_class)
    bint fdl_addr_hop_port(int port)


cdef extern from "net/tls.h" nogil:
    struct fdl_identity:
        pass
    int fdl_identity_from_pem(const char *cert, size_t cert_len, const char *key,
                              size_t key_len, const char *password, fdl_identity **out,
                              fdl_err *err)


cdef extern from "net/net.h" nogil:
    struct fdl_net:
        fdl_identity *identity
        long connect_timeout_ms
        long stall_timeout_ms
        bint follow_redirects
        bint system_trust
        fdl_addr_policy policy
        unsigned tried
    fdl_net *fdl_net_new()
    void fdl_net_free(fdl_net *net)
    int fdl_net_trust_pem(fdl_net *net, const char *pem, size_t len, fdl_err *err)
    int fdl_net_allow_cidr(fdl_net *net, const char *text, fdl_err *err)
    int fdl_net_allow_nfs(fdl_net *net, const char *text, fdl_err *err)
    int fdl_net_use_proxies(fdl_net *net, const char *http, const char *https,
                            const char *exempt, fdl_err *err)


cdef extern from "net/wakeup.h" nogil:
    struct fdl_wakeup:
        int fd
    int fdl_wakeup_init(fdl_wakeup *wakeup, fdl_err *err)
    void fdl_wakeup_destroy(fdl_wakeup *wakeup)
    void fdl_wakeup_cancel(fdl_wakeup *wakeup)


cdef extern from "net/conn.h" nogil:
    struct fdl_conn_times:
        pass


cdef extern from "http/http.h" nogil:
    struct fdl_str:
        const char *ptr
        size_t len
    struct fdl_http_field:
        fdl_str name
        fdl_str value
    struct fdl_http_head:
        int status
        size_t n_fields
        fdl_http_field *fields
    bint fdl_http_status_passes(int status)


cdef extern from "source/mirror.h" nogil:
    enum fdl_mirror_kind:
        FDL_MIRROR_HTTP
        FDL_MIRROR_FILE
        FDL_MIRROR_NFS
    enum fdl_ranges:
        FDL_RANGES_UNKNOWN
        FDL_RANGES_YES
        FDL_RANGES_NO
    enum fdl_mirror_state:
        FDL_MIRROR_READY
        FDL_MIRROR_DISQUALIFIED
        FDL_MIRROR_IDLE
    struct fdl_mirror:
        char *url
        int fd
        int priority
        int max_conns
        int cap
        fdl_addr_via via
        fdl_addr_class from_ "from"
        char *final_url
        uint64_t expected
        bint provable
        bint any_version
        bint pinned
        char *etag
        char *last_modified
        uint64_t total
        fdl_ranges ranges
        uint64_t bytes
        uint64_t requests
        uint64_t errors
        fdl_mirror_state state
        fdl_err last_err
        int active
        int failures
        int lost_hedges
        uint64_t not_before_ns
        int refusals
        uint64_t more_after_ns
        double rate
    fdl_mirror *fdl_mirror_new(fdl_mirror_kind kind, const char *url, const char *headers)
    void fdl_mirror_free(fdl_mirror *mirror)
    bint fdl_mirror_can_join(fdl_mirror *mirror)


cdef extern from "source/stream.h" nogil:
    struct fdl_stream_ops:
        int (*begin)(fdl_stream *self, uint64_t off, uint64_t len, fdl_err *err) noexcept nogil
        long (*read)(fdl_stream *self, void *buf, size_t len, fdl_err *err) noexcept nogil
        void (*rebind)(fdl_stream *self, fdl_wakeup *wakeup, fdl_conn_times *times) noexcept nogil
        void (*free)(fdl_stream *self) noexcept nogil
    struct fdl_stream:
        const fdl_stream_ops *ops
        fdl_mirror *mirror
        uint64_t off
        uint64_t end
        bint whole
        fdl_addr_class peer
    fdl_stream *fdl_stream_new(fdl_mirror *mirror, fdl_net *net, fdl_wakeup *wakeup,
                               fdl_conn_times *times)
    const fdl_http_head *fdl_stream_http_head(const fdl_stream *stream)
    struct fdl_redirect:
        char *url
        char *fields
        fdl_addr_class peer
    void fdl_stream_http_keep_redirects(fdl_stream *stream)
    size_t fdl_stream_http_redirects(const fdl_stream *stream, const fdl_redirect **list)


cdef extern from "base/hash.h" nogil:
    enum: FDL_HASH_MAX
    enum: FDL_HASH_COUNT
    enum fdl_hash_alg:
        FDL_HASH_MD5
    int fdl_hash_alg_from_name(const char *name)
    size_t fdl_hash_len(fdl_hash_alg alg)


cdef extern from "base/landed.h" nogil:
    struct fdl_range:
        uint64_t off
        uint64_t len
        uint64_t xxh3
        bint zero


cdef extern from "sink/nbd.h" nogil:
    enum: FDL_NBD_CONNS_MAX
    struct fdl_nbd:
        pass
    int fdl_nbd_open(fdl_nbd **out, const char *uri, int max_conns, int limit_ms, fdl_err *err)
    uint64_t fdl_nbd_size(const fdl_nbd *nbd)
    bint fdl_nbd_read_only(const fdl_nbd *nbd)
    int fdl_nbd_conns(const fdl_nbd *nbd)
    size_t fdl_nbd_min_block(const fdl_nbd *nbd)
    int fdl_nbd_pread(fdl_nbd *nbd, void *buf, size_t len, uint64_t off, fdl_err *err)
    int fdl_nbd_zero(fdl_nbd *nbd, uint64_t off, uint64_t len, uint64_t *commanded, fdl_err *err)
    int fdl_nbd_flush(fdl_nbd *nbd, fdl_err *err)
    void fdl_nbd_hurry(fdl_nbd *nbd)
    int fdl_nbd_fd(fdl_nbd *nbd, int i)
    void fdl_nbd_close(fdl_nbd *nbd)
    void fdl_nbd_drop(fdl_nbd *nbd)


cdef extern from "sink/sink.h" nogil:
    const uint64_t FDL_SIZE_UNKNOWN
    struct fdl_sink:
        pass
    struct fdl_sink_stats:
        uint64_t written_bytes
        uint64_t zeroed_bytes
        uint64_t busy_ns
    int fdl_sink_open_fd(fdl_sink **out, int fd, int buffered_fd, size_t align, uint64_t size,
                         size_t hold, bool blank, fdl_err *err)
    int fdl_sink_open_nbd(fdl_sink **out, fdl_nbd *nbd, uint64_t size, size_t hold, fdl_err *err)
    int fdl_sink_open_null(fdl_sink **out, fdl_err *err)
    int fdl_sink_begin(fdl_sink *sink, fdl_err *err)
    int fdl_sink_pwrite(fdl_sink *sink, const void *buf, size_t len, uint64_t off, fdl_err *err)
    int fdl_sink_zero(fdl_sink *sink, uint64_t off, uint64_t len, fdl_err *err)
    int fdl_sink_flush(fdl_sink *sink, fdl_err *err)
    int fdl_sink_release(fdl_sink *sink, fdl_err *err)
    bool fdl_sink_held(fdl_sink *sink, void *buf, size_t len, uint64_t off)
    void fdl_sink_keep_log(fdl_sink *sink)
    long fdl_sink_drain_log(fdl_sink *sink, fdl_range *out, size_t cap, fdl_err *err)
    void fdl_sink_get_stats(const fdl_sink *sink, fdl_sink_stats *out)
    void fdl_sink_free(fdl_sink *sink)


cdef extern from "decode/land.h" nogil:
    struct fdl_lander_ops:
        void (*stats)(const fdl_lander *self, uint64_t *target_bytes,
                      uint64_t *busy_ns) noexcept nogil
        void (*free)(fdl_lander *self) noexcept nogil
    struct fdl_lander:
        const fdl_lander_ops *ops


cdef extern from "job/job.h" nogil:
    enum: FDL_MIRRORS_MAX
    struct fdl_job:
        pass
    struct fdl_known:
        uint64_t off
        size_t len
        const unsigned char *data
        int mirror
    struct fdl_local:
        uint64_t off
        uint64_t xxh3
    struct fdl_piece_digests:
        fdl_hash_alg alg
        uint64_t length
        uint64_t count
        const unsigned char *digests
    struct fdl_job_config:
        fdl_net *net
        fdl_mirror **mirrors
        size_t n_mirrors
        fdl_sink *sink
        fdl_lander *lander
        uint64_t total
        size_t block
        size_t window
        int max_conns
        uint64_t limit_rate
        int retry
        bint provable
        bint any_version
        bint record
        bint detect_zeros
        size_t hold
        fdl_hash_alg algs[6]
        size_t n_algs
        fdl_piece_digests pieces
        const fdl_known *known
        size_t n_known
        const fdl_local *local
        size_t n_local
        int local_fd
        const uint64_t *skip
        size_t n_skip
        fdl_stream *first
    struct fdl_job_status_s "fdl_job_status":
        uint64_t total
        uint64_t done_bytes
        uint64_t fetched_bytes
        uint64_t resumed_bytes
        uint64_t hedged_bytes
        int conns
        bint running
        uint64_t fetch_ns
        uint64_t tls_ns
        uint64_t hash_ns
        uint64_t decode_ns
        uint64_t write_ns
        uint64_t flush_ns
        uint64_t net_wait_ns
        uint64_t window_wait_ns
        uint64_t elapsed_ns
    struct fdl_job_result:
        uint64_t total
        size_t n_digests
        fdl_hash_alg algs[6]
        unsigned char digests[6][64]
    size_t fdl_job_block_for(uint64_t piece_length, size_t wanted)
    int fdl_job_start(fdl_job **out, const fdl_job_config *config, fdl_err *err)
    bint fdl_job_wait(fdl_job *job, int timeout_ms, size_t records)
    void fdl_job_status(fdl_job *job, fdl_job_status_s *out)
    size_t fdl_job_drain(fdl_job *job, fdl_range *out, size_t cap)
    void fdl_job_settle(fdl_job *job, size_t n)
    void fdl_job_cancel(fdl_job *job)
    int fdl_job_finish(fdl_job *job, fdl_job_result *result, fdl_err *err)
    void fdl_job_forget_lander(fdl_job *job)
    void fdl_job_free(fdl_job *job)
