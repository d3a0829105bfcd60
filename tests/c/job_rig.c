/* SPDX-License-Identifier: Apache-2.0 */
#undef NDEBUG
#include "job_rig.h"

#include <arpa/inet.h>
#include <assert.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/buf.h"

/* ---- an origin --------------------------------------------------------------- */

struct client {
    struct origin *o;
    int fd;
};

static bool readable(struct origin *o, int fd)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};

    while (!atomic_load(&o->quit))
        if (poll(&p, 1, 20) > 0)
            return true;
    return false;
}

static bool put(int fd, const void *buf, size_t len)
{
    const char *p = buf;

    while (len > 0) {
        ssize_t n = send(fd, p, len, MSG_NOSIGNAL);
        if (n <= 0)
            return false;
        p += n;
        len -= (size_t)n;
    }
    return true;
}

/* Before each 4 KiB: longer where more than can be served as fast share it. */
static useconds_t pause_us(struct origin *o)
{
    int serving = atomic_load(&o->serving);

    if (o->share == 0 || serving <= o->share)
        return (useconds_t)o->slow_us;
    return (useconds_t)(o->slow_us * serving / o->share);
}

/* The body from `at` to `end`; false where the connection is over. */
static bool put_body(struct origin *o, int fd, uint64_t at, uint64_t end,
                     uint64_t *budget)
{
    unsigned char part[4096];
    uint64_t stop = o->stall_at < end - o->withheld ? o->stall_at : end - o->withheld;

    while (at < end) {
        uint64_t n = o->chunked ? o->chunk : sizeof part;
        if (n > sizeof part)
            n = sizeof part;
        if (n > end - at)
            n = end - at;
        if (at >= stop) {
            while (!atomic_load(&o->quit) && !readable(o, fd))
                ;
            return false;
        }
        if (n > stop - at)
            n = stop - at;
        if (*budget == 0)
            return false;
        if (n > *budget)
            n = *budget;
        if (o->slow_us > 0)
            usleep(pause_us(o));
        memcpy(part, o->data + at, n);
        if (o->lie_at >= at && o->lie_at < at + n)
            part[o->lie_at - at] ^= 0xFF;
        char line[32];
        int k = snprintf(line, sizeof line, "%llx\r\n", (unsigned long long)n);
        if (o->chunked && !put(fd, line, (size_t)k))
            return false;
        if (!put(fd, part, n) || (o->chunked && !put(fd, "\r\n", 2)))
            return false;
        atomic_fetch_add(&o->sent, n);
        at += n;
        *budget -= n;
    }
    return !o->chunked || put(fd, "0\r\n\r\n", 5);
}

static bool answer_served(struct origin *o, int fd, const char *request,
                          uint64_t *budget)
{
    char head[512], etag[240] = "", total[24] = "*";
    const char *range = strstr(request, "Range: bytes=");
    unsigned long long first = 0, last = NOTHING;
    int n;

    if (atomic_fetch_sub(&o->refusals, 1) > 0) {
        const char *no = "HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n";
        return put(fd, no, strlen(no));
    }
    atomic_store(&o->refusals, 0);
    if (o->etag)
        snprintf(etag, sizeof etag, "ETag: \"%s\"\r\n%s", o->etag,
                 o->extra ? o->extra : "");
    if (!range || o->no_ranges || o->chunked) {
        char length[48];
        snprintf(length, sizeof length, "Content-Length: %llu\r\n",
                 (unsigned long long)o->size);
        n = snprintf(head, sizeof head, "HTTP/1.1 200 OK\r\n%s%s\r\n", etag,
                     o->chunked ? "Transfer-Encoding: chunked\r\n" : length);
        return put(fd, head, (size_t)n) && put_body(o, fd, 0, o->size, budget);
    }
    sscanf(range, "Range: bytes=%llu-%llu", &first, &last);
    if (!o->hide_total || first >= o->size)
        snprintf(total, sizeof total, "%llu", (unsigned long long)o->size);
    if (first >= o->size) {
        n = snprintf(
            head, sizeof head,
            "HTTP/1.1 416 No\r\nContent-Range: bytes */%s\r\nContent-Length: 0\r\n\r\n",
            total);
        return put(fd, head, (size_t)n);
    }
    if (last >= o->size)
        last = o->size - 1;
    if (o->short_by && last - first >= o->short_by)
        last = first + o->short_by - 1;
    n = snprintf(head, sizeof head,
                 "HTTP/1.1 206 Part\r\n%sContent-Range: bytes %llu-%llu/%s\r\n"
                 "Content-Length: %llu\r\n\r\n",
                 etag, first, last, total, last - first + 1);
    return put(fd, head, (size_t)n) && put_body(o, fd, first, last + 1, budget);
}

static bool answer(struct origin *o, int fd, const char *request, uint64_t *budget)
{
    bool open;

    atomic_fetch_add(&o->requests, 1);
    if (atomic_fetch_add(&o->serving, 1) >= o->most && o->most > 0) {
        const char *no = "HTTP/1.1 429 Too many\r\nRetry-After: 1\r\n"
                         "Content-Length: 0\r\n\r\n";
        atomic_fetch_add(&o->refused, 1);
        open = put(fd, no, strlen(no));
    } else {
        open = answer_served(o, fd, request, budget);
    }
    atomic_fetch_sub(&o->serving, 1);
    return open;
}

static void *serve(void *arg)
{
    struct client c = *(struct client *)arg;
    char in[16384] = "";
    size_t have = 0;
    uint64_t budget = c.o->cut_every ? c.o->cut_every : NOTHING;
    bool open = true;

    free(arg);
    while (open && readable(c.o, c.fd)) {
        ssize_t n = recv(c.fd, in + have, sizeof in - 1 - have, 0);
        if (n <= 0)
            break;
        have += (size_t)n;
        in[have] = '\0';
        char *end;
        while (open &&
               (end = strstr(in, "\r\n\r\n")) != NULL) { /* pipelined ones too */
            end[2] = '\0';
            open = answer(c.o, c.fd, in, &budget);
            size_t used = (size_t)(end + 4 - in);
            memmove(in, in + used, have - used + 1);
            have -= used;
        }
    }
    close(c.fd);
    return NULL;
}

static void *accept_all(void *arg)
{
    struct origin *o = arg;

    while (readable(o, o->listener)) {
        int fd = accept(o->listener, NULL, NULL);
        assert(fd >= 0 && o->n_conns < CONNS_MAX);
        assert(setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int)) == 0);
        struct client *c = malloc(sizeof *c);
        assert(c);
        *c = (struct client){.o = o, .fd = fd};
        atomic_fetch_add(&o->connections, 1);
        assert(pthread_create(&o->conns[o->n_conns++], NULL, serve, c) == 0);
    }
    return NULL;
}

static void origin_start(struct origin *o)
{
    struct sockaddr_in sa = {.sin_family = AF_INET,
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof sa;

    o->stall_at = o->stall_at ? o->stall_at : NOTHING;
    o->lie_at = o->lie_at ? o->lie_at : NOTHING;
    o->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert(o->listener >= 0 &&
           bind(o->listener, (struct sockaddr *)&sa, sizeof sa) == 0);
    assert(listen(o->listener, 64) == 0);
    assert(getsockname(o->listener, (struct sockaddr *)&sa, &len) == 0);
    o->port = ntohs(sa.sin_port);
    assert(pthread_create(&o->thread, NULL, accept_all, o) == 0);
}

static void origin_stop(struct origin *o)
{
    atomic_store(&o->quit, true);
    pthread_join(o->thread, NULL);
    for (int i = 0; i < o->n_conns; i++)
        pthread_join(o->conns[i], NULL);
    close(o->listener);
}

/* ---- a job ------------------------------------------------------------------- */

struct run *new_run(const unsigned char *data, uint64_t size, int n)
{
    struct run *r = calloc(1, sizeof *r);

    assert(r && n <= ORIGINS_MAX);
    r->n = n;
    for (int i = 0; i < n; i++)
        r->origins[i] =
            (struct origin){.data = data, .size = size, .etag = "v1", .chunk = 1000};
    r->per_mirror = 4;
    r->stall_ms = 1000;
    r->cfg = (struct fdl_job_config){.total = size,
                                     .block = BLOCK,
                                     .window = 32 * BLOCK,
                                     .max_conns = 4,
                                     .first_conns = 4,
                                     .retry = 4,
                                     .provable = true,
                                     .algs = {FDL_HASH_SHA256},
                                     .n_algs = 1,
                                     .local_fd = -1};
    r->fd = memfd_create("target", MFD_CLOEXEC);
    assert(r->fd >= 0);
    return r;
}

static void drain_records(struct run *r, struct fdl_job *job)
{
    size_t cap = sizeof r->records / sizeof *r->records;
    size_t n = fdl_job_drain(job, r->records + r->n_records, cap - r->n_records);

    r->n_records += n;
    fdl_job_settle(job, n);
}

void go(struct run *r)
{
    struct fdl_mirror *mirrors[ORIGINS_MAX];
    struct fdl_net *net = fdl_net_new();
    struct fdl_sink *sink;
    struct fdl_job *job;
    uint64_t start;

    assert(net);
    net->connect_timeout_ms = 2000;
    net->stall_timeout_ms = r->stall_ms;
    for (int i = 0; i < r->n; i++) {
        char url[64];
        origin_start(&r->origins[i]);
        snprintf(url, sizeof url, "http://127.0.0.1:%d/image", r->origins[i].port);
        mirrors[i] = fdl_mirror_new(FDL_MIRROR_HTTP, url, NULL);
        assert(mirrors[i]);
        mirrors[i]->max_conns = mirrors[i]->cap = r->per_mirror;
    }
    assert(fdl_sink_open_fd(&sink, r->fd, r->fd, 1, r->cfg.total, 0, true, &r->err) ==
           FDL_OK);
    r->cfg.net = net;
    r->cfg.mirrors = mirrors;
    r->cfg.n_mirrors = (size_t)r->n;
    r->cfg.sink = sink;
    start = fdl_now_ns();
    r->rc = fdl_job_start(&job, &r->cfg, &r->err);
    if (r->rc == FDL_OK) {
        if (r->cancel_after_us) {
            usleep((useconds_t)r->cancel_after_us);
            start = fdl_now_ns();
            fdl_job_cancel(job);
        }
        while (!fdl_job_wait(job, 50, r->cfg.record ? 4 : 0))
            drain_records(r, job);
        drain_records(r, job);
        fdl_job_status(job, &r->status);
        r->rc = fdl_job_finish(job, &r->result, &r->err);
        fdl_job_free(job);
    }
    r->ended_after_ns = fdl_now_ns() - start;
    fdl_sink_free(sink);
    for (int i = 0; i < r->n; i++) {
        r->states[i] = mirrors[i]->state;
        origin_stop(&r->origins[i]);
        fdl_mirror_free(mirrors[i]);
    }
    fdl_net_free(net);
}

void done(struct run *r)
{
    close(r->fd);
    free(r);
}

void expect_sent(const struct run *r, uint64_t bytes)
{
    uint64_t sent = 0;

    for (int i = 0; i < r->n; i++)
        sent += r->origins[i].sent;
    assert(sent >= bytes && sent - bytes <= r->status.hedged_bytes);
}

void sha256(const unsigned char *data, size_t len, unsigned char *out)
{
    struct fdl_hash *h;

    assert(fdl_hash_new(&h, FDL_HASH_SHA256, NULL) == FDL_OK);
    fdl_hash_update(h, data, len);
    fdl_hash_final(h, out);
    fdl_hash_free(h);
}

void expect_bytes(struct run *r, const unsigned char *data, uint64_t size)
{
    unsigned char *got = malloc(size + 1), digest[32];

    if (r->rc != FDL_OK)
        fprintf(stderr, "unexpected: %d %s\n", r->rc, r->err.what);
    assert(r->rc == FDL_OK && r->result.total == size && got);
    assert(pread(r->fd, got, size + 1, 0) == (ssize_t)size);
    assert(memcmp(got, data, size) == 0);
    sha256(data, size, digest);
    assert(r->result.n_digests == 1 && memcmp(r->result.digests[0], digest, 32) == 0);
    assert(r->status.done_bytes == size);
    free(got);
}

unsigned char *random_bytes(uint64_t size, unsigned seed)
{
    unsigned char *data = malloc(size + 1);
    uint64_t x = seed * UINT64_C(0x9E3779B97F4A7C15) + 1;

    assert(data);
    for (uint64_t i = 0; i <= size; i++) {
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        data[i] = (unsigned char)x;
    }
    return data;
}

unsigned char *cut_pieces(struct run *r, const unsigned char *data, uint64_t length)
{
    uint64_t size = r->cfg.total, count = size / length + (size % length != 0);
    unsigned char *digests = malloc(count * 32 + 1);

    assert(digests);
    for (uint64_t i = 0; i < count; i++) {
        uint64_t n = size - i * length < length ? size - i * length : length;
        sha256(data + i * length, n, digests + i * 32);
    }
    r->cfg.pieces = (struct fdl_piece_digests){
        .alg = FDL_HASH_SHA256, .length = length, .count = count, .digests = digests};
    return digests;
}
