/* SPDX-License-Identifier: Apache-2.0 */
/* test_job.c - whatever the mirrors do, a job ends in time, with the right bytes or
 * with the right error. The mirrors are HTTP servers inside this process that cut,
 * stall, lie. */
#undef NDEBUG
#include "base/clock.h"
#include "job/job.h"

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

#define BLOCK ((size_t)16384)
#define CONNS_MAX 256
#define NOTHING UINT64_MAX

/* ---- an origin --------------------------------------------------------------- */

struct origin {
    /* what it does */
    const unsigned char *data;
    uint64_t size;
    const char *etag;    /* NULL: none */
    const char *extra;   /* more header lines, or NULL */
    bool no_ranges;      /* 200 with everything */
    bool chunked;        /* 200, no Content-Length */
    size_t chunk;        /* bytes a chunk */
    bool hide_total;     /* Content-Range: bytes a-b / * */
    uint64_t cut_every;  /* closes after so many body bytes on a connection */
    uint64_t stall_at;   /* this byte of the source and what follows is never sent */
    uint64_t lie_at;     /* this byte is sent inverted */
    uint64_t short_by;   /* a 206 holds at most so many bytes, 0: what was asked for */
    atomic_int refusals; /* so many responses are 503 */
    int slow_us;         /* sleeps before each 4 KiB */
    /* what it saw */
    atomic_int connections, requests;
    atomic_uint_fast64_t sent;
    /* its machinery */
    int listener, port;
    pthread_t thread, conns[CONNS_MAX];
    int n_conns;
    atomic_bool quit;
};

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

/* The body from `at` to `end`; false where the connection is over. */
static bool put_body(struct origin *o, int fd, uint64_t at, uint64_t end,
                     uint64_t *budget)
{
    unsigned char part[4096];

    while (at < end) {
        uint64_t n = o->chunked ? o->chunk : sizeof part;
        if (n > sizeof part)
            n = sizeof part;
        if (n > end - at)
            n = end - at;
        if (at + n > o->stall_at) {
            while (!atomic_load(&o->quit) && !readable(o, fd))
                ;
            return false;
        }
        if (*budget == 0)
            return false;
        if (n > *budget)
            n = *budget;
        if (o->slow_us > 0)
            usleep((useconds_t)o->slow_us);
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

static bool answer(struct origin *o, int fd, const char *request, uint64_t *budget)
{
    char head[512], etag[240] = "", total[24] = "*";
    const char *range = strstr(request, "Range: bytes=");
    unsigned long long first = 0, last = NOTHING;
    int n;

    atomic_fetch_add(&o->requests, 1);
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

#define ORIGINS_MAX 4

struct run {
    struct origin origins[ORIGINS_MAX];
    int n;
    struct fdl_job_config cfg; /* what a test wants to be different */
    struct fdl_pace pace;
    int per_mirror;
    long stall_ms;
    uint64_t cancel_after_us; /* 0: never */
    /* the outcome */
    int rc;
    struct fdl_err err;
    struct fdl_job_result result;
    struct fdl_job_status status;
    struct fdl_range records[4096];
    size_t n_records;
    int fd; /* the target, for the caller to look at and to close */
    enum fdl_mirror_state states[ORIGINS_MAX];
    uint64_t ended_after_ns; /* since the cancellation, or the start */
};

static struct run *new_run(const unsigned char *data, uint64_t size, int n)
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

static void go(struct run *r)
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

static void done(struct run *r)
{
    close(r->fd);
    free(r);
}

/* Every byte was sent once, but for what was fetched twice on purpose. */
static void expect_sent(const struct run *r, uint64_t bytes)
{
    uint64_t sent = 0;

    for (int i = 0; i < r->n; i++)
        sent += r->origins[i].sent;
    assert(sent >= bytes && sent - bytes <= r->status.hedged_bytes);
}

static void sha256(const unsigned char *data, size_t len, unsigned char *out)
{
    struct fdl_hash *h;

    assert(fdl_hash_new(&h, FDL_HASH_SHA256, NULL) == FDL_OK);
    fdl_hash_update(h, data, len);
    fdl_hash_final(h, out);
    fdl_hash_free(h);
}

static void expect_bytes(struct run *r, const unsigned char *data, uint64_t size)
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

static unsigned char *random_bytes(uint64_t size, unsigned seed)
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

/* pieces of `length` over data; the digests are the caller's to free */
static unsigned char *cut_pieces(struct run *r, const unsigned char *data,
                                 uint64_t length)
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

/* ---- claims ------------------------------------------------------------------ */

static const uint64_t edges[] = {
    0, 1, 4095, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 7 * BLOCK + 5, 100 * BLOCK + 1};
#define EDGES (sizeof edges / sizeof *edges)

static void every_size_arrives_from_every_kind_of_server(void)
{
    for (size_t e = 0; e < EDGES; e++)
        for (int kind = 0; kind < 4; kind++) {
            unsigned char *data = random_bytes(edges[e], 1);
            struct run *r = new_run(data, edges[e], 1);
            r->origins[0].no_ranges = kind == 1;
            r->origins[0].chunked = kind == 2;
            r->origins[0].hide_total = kind == 3;
            if (kind >= 2)
                r->cfg.total = FDL_SIZE_UNKNOWN;
            go(r);
            expect_bytes(r, data, edges[e]);
            if (kind != 3)
                expect_sent(r, edges[e]);
            done(r);
            free(data);
        }
}

static void one_connection_is_kept_for_all_requests(void)
{
    unsigned char *data = random_bytes(200 * BLOCK, 2);
    struct run *r = new_run(data, 200 * BLOCK, 1);

    r->cfg.max_conns = 1;
    go(r);
    expect_bytes(r, data, 200 * BLOCK);
    assert(r->origins[0].connections == 1);
    expect_sent(r, 200 * BLOCK);
    done(r);
    free(data);
}

/* Content-Digest is about one response. Blanks where the digest should be decode to
 * fewer bytes than it has: that is no digest, and not one of whatever lay in memory. */
static void a_content_digest_counts_where_it_is_one(void)
{
    static const struct {
        const char *field;
        int rc;
    } cases[] = {
        {"Content-Digest: "
         "sha-256=:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=:\r\n",
         FDL_E_INTEGRITY},
        {"Content-Digest: "
         "sha-256=:                                AAAAAAAAAAA=:\r\n",
         FDL_OK},
        {"Content-Digest: sha-256=:AAAA:\r\n", FDL_OK},
    };
    unsigned char *data = random_bytes(BLOCK, 5);

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct run *r = new_run(data, BLOCK, 1);
        r->origins[0].extra = cases[i].field;
        r->cfg.retry = 0;
        go(r);
        assert(r->rc == cases[i].rc);
        done(r);
    }
    free(data);
}

static void any_chunk_length_is_read(void)
{
    static const size_t lengths[] = {1, 7, 999, 4095, 4096};

    for (size_t i = 0; i < 5; i++) {
        uint64_t size = i == 0 ? 3000 : 5 * BLOCK + 77;
        unsigned char *data = random_bytes(size, 3);
        struct run *r = new_run(data, size, 1);
        r->origins[0].chunked = true;
        r->origins[0].chunk = lengths[i];
        r->cfg.total = FDL_SIZE_UNKNOWN;
        go(r);
        expect_bytes(r, data, size);
        done(r);
        free(data);
    }
}

static void a_source_that_goes_on_is_not_cut_to_size(void)
{
    unsigned char *data = random_bytes(5 * BLOCK, 19);

    for (uint64_t size = 5 * BLOCK - 1; size <= 5 * BLOCK; size++)
        for (int chunked = 0; chunked < 2; chunked++) {
            struct run *r = new_run(data, 5 * BLOCK, 1);
            r->cfg.total = size;
            r->origins[0].chunked = chunked;
            go(r);
            assert(r->rc == (size < 5 * BLOCK ? FDL_E_SIZE : FDL_OK));
            done(r);
        }
    free(data);
}

static void two_servers_of_unknown_size_agree_on_the_end(void)
{
    for (int i = 0; i < 8; i++) {
        uint64_t size = 40 * BLOCK + (uint64_t)(i % 2);
        unsigned char *data = random_bytes(size, 4);
        struct run *r = new_run(data, size, 2);
        r->origins[0].chunked = r->origins[1].chunked = true;
        r->origins[i % 2].slow_us = 300;
        r->cfg.total = FDL_SIZE_UNKNOWN;
        go(r);
        expect_bytes(r, data, size);
        done(r);
        free(data);
    }
}

static void cut_connections_and_short_ranges_are_taken_up_again(void)
{
    uint64_t size = 90 * BLOCK + 3;
    unsigned char *data = random_bytes(size, 5);

    for (int i = 0; i < 4; i++) {
        struct run *r = new_run(data, size, i % 2 ? 3 : 1);
        for (int k = 0; k < r->n; k++) {
            if (i < 2)
                r->origins[k].cut_every = 70000 + 9999 * (uint64_t)k;
            else
                r->origins[k].short_by = 5000 + 1000 * (uint64_t)k;
        }
        go(r);
        expect_bytes(r, data, size);
        done(r);
    }
    free(data);
}

static void pieces_find_the_liar(void)
{
    uint64_t size = 64 * BLOCK + 1000;
    static const uint64_t lengths[] = {4096, BLOCK / 2, BLOCK, 2 * BLOCK, 4 * BLOCK};
    unsigned char *data = random_bytes(size, 6);

    for (size_t i = 0; i < 5; i++)
        for (int conns = 2; conns <= 8; conns += 6) {
            struct run *r = new_run(data, size, 3);
            unsigned char *digests = cut_pieces(r, data, lengths[i]);
            r->cfg.max_conns = conns;
            r->origins[1].lie_at = 30 * BLOCK + 17;
            r->origins[2].lie_at = 30 * BLOCK + 18;
            go(r);
            expect_bytes(r, data, size);
            assert(r->states[0] == FDL_MIRROR_READY);
            done(r);
            free(digests);
        }
    free(data);
}

/* The window ends inside a piece while its start waits for a mirror: what lies behind
 * the end shares slots with the start. */
static void a_piece_across_the_windows_end_waits_for_it(void)
{
    uint64_t size = 80 * BLOCK;
    unsigned char *data = random_bytes(size, 20);

    for (size_t window = 26; window < 30; window++) {
        struct run *r = new_run(data, size, 2);
        unsigned char *digests = cut_pieces(r, data, 4 * BLOCK);
        r->cfg.window = window * BLOCK;
        r->cfg.max_conns = 2;
        r->per_mirror = 1;
        r->origins[0].stall_at = BLOCK + 1;
        go(r);
        expect_bytes(r, data, size);
        assert(r->states[1] == FDL_MIRROR_READY);
        done(r);
        free(digests);
    }
    free(data);
}

static void a_piece_as_large_as_a_small_source_finds_the_liar_too(void)
{
    uint64_t size = 3 * BLOCK;
    unsigned char *data = random_bytes(size, 18);

    for (uint64_t length = 2 * BLOCK; length <= 4 * BLOCK; length += BLOCK) {
        struct run *r = new_run(data, size, 2);
        unsigned char *digests = cut_pieces(r, data, length);
        r->origins[0].lie_at = BLOCK + 1;
        go(r);
        expect_bytes(r, data, size);
        done(r);
        free(digests);
    }
    free(data);
}

static void a_lone_liar_ends_the_job_and_says_where(void)
{
    uint64_t size = 40 * BLOCK;
    static const uint64_t lengths[] = {BLOCK, 4 * BLOCK, 5000, 20 * BLOCK};
    unsigned char *data = random_bytes(size, 7);

    for (size_t i = 0; i < 4; i++) {
        struct run *r = new_run(data, size, 1);
        unsigned char *digests = cut_pieces(r, data, lengths[i]);
        r->origins[0].lie_at = 21 * BLOCK + 1;
        go(r);
        assert(r->rc == FDL_E_INTEGRITY);
        assert(r->err.offset == r->origins[0].lie_at / lengths[i] * lengths[i]);
        assert(i >= 2 ||
               (r->err.mirror == 0 && r->states[0] == FDL_MIRROR_DISQUALIFIED));
        done(r);
        free(digests);
    }
    free(data);
}

static void pieces_that_do_not_cover_the_source_are_refused(void)
{
    unsigned char *data = random_bytes(10 * BLOCK, 8);

    for (int i = 0; i < 3; i++) {
        struct run *r = new_run(data, 10 * BLOCK, 1);
        unsigned char *digests = cut_pieces(r, data, BLOCK);
        if (i == 0)
            r->cfg.pieces.count--;
        else if (i == 1)
            r->cfg.pieces.length = 0;
        else
            r->cfg.total = FDL_SIZE_UNKNOWN;
        go(r);
        assert(r->rc == FDL_E_SIZE);
        done(r);
        free(digests);
    }
    free(data);
}

static void a_stalled_mirror_does_not_hold_the_others_up(void)
{
    uint64_t size = 100 * BLOCK;
    unsigned char *data = random_bytes(size, 9);
    struct run *r = new_run(data, size, 2);

    r->stall_ms = 20000;
    r->origins[0].stall_at = 2 * BLOCK;
    go(r);
    expect_bytes(r, data, size);
    assert(r->ended_after_ns < 10 * UINT64_C(1000000000)); /* far from the stall time */
    done(r);
    free(data);
}

static void the_last_mirrors_death_is_told_with_its_cause(void)
{
    uint64_t size = 30 * BLOCK;
    unsigned char *data = random_bytes(size, 10);

    for (int kind = 0; kind < 3; kind++) {
        struct run *r = new_run(data, size, 1 + kind % 2);
        r->cfg.retry = 1;
        r->stall_ms = 100;
        for (int i = 0; i < r->n; i++) {
            if (kind == 0)
                atomic_store(&r->origins[i].refusals, 1000);
            else if (kind == 1)
                r->origins[i].stall_at = 9 * BLOCK;
            else
                r->origins[i].size = size - 1;
        }
        go(r);
        assert(r->rc == (kind == 0   ? FDL_E_HTTP_STATUS
                         : kind == 1 ? FDL_E_NET
                                     : FDL_E_SIZE));
        assert(r->err.mirror >= 0 && (kind != 0 || r->err.http_status == 503));
        done(r);
    }
    free(data);
}

static void a_short_outage_is_survived(void)
{
    uint64_t size = 60 * BLOCK;
    unsigned char *data = random_bytes(size, 11);
    struct run *r = new_run(data, size, 1);
    struct rusage before, after;

    atomic_store(&r->origins[0].refusals, 2);
    getrusage(RUSAGE_SELF, &before);
    go(r);
    getrusage(RUSAGE_SELF, &after);
    expect_bytes(r, data, size);
    assert(r->origins[0].requests < 100); /* it waited in between */
    /* Waiting is cheap: a spinning thread would have switched, or computed, far more.
     */
    assert(after.ru_utime.tv_sec - before.ru_utime.tv_sec < 2);
    done(r);
    free(data);
}

static void mirrors_without_proof_are_not_mixed(void)
{
    uint64_t size = 60 * BLOCK;
    unsigned char *one = random_bytes(size, 12), *two = random_bytes(size, 13), *got;

    got = malloc(size);
    for (int i = 0; i < 12; i++) {
        struct run *r = new_run(one, size, 2);
        r->cfg.provable = false;
        r->origins[1].data = two;
        r->origins[0].etag = i % 2 ? "one" : NULL;
        r->origins[1].etag = i % 2 ? "two" : NULL;
        r->origins[i % 2].cut_every = i < 6 ? 0 : 100000;
        r->origins[i % 2].stall_at = i % 3 == 2 ? 20 * BLOCK : NOTHING;
        r->stall_ms = 50;
        r->cfg.retry = 1;
        go(r);
        if (r->rc == FDL_OK) {
            assert(pread(r->fd, got, size, 0) == (ssize_t)size);
            assert(memcmp(got, one, size) == 0 || memcmp(got, two, size) == 0);
        }
        done(r);
    }
    free(got);
    free(one);
    free(two);
}

static void known_bytes_are_not_fetched_again(void)
{
    uint64_t size = 50 * BLOCK + 99;
    unsigned char *data = random_bytes(size, 14);
    struct fdl_known known[] = {{0, 40000, data, 0},
                                {5 * BLOCK + 7, 3 * BLOCK, data + 5 * BLOCK + 7, 0},
                                {size - 50, 50, data + size - 50, -1}};
    struct run *r = new_run(data, size, 1);

    r->cfg.known = known;
    r->cfg.n_known = 3;
    go(r);
    expect_bytes(r, data, size);
    expect_sent(r, size - 40000 - 3 * BLOCK - 50);
    assert(r->status.fetched_bytes == size);
    done(r);
    free(data);
}

static void what_an_earlier_run_left_is_used_where_it_is_still_right(void)
{
    uint64_t size = 40 * BLOCK + 10;
    unsigned char *data = random_bytes(size, 15);
    struct run *first = new_run(data, size, 1), *second = new_run(data, size, 1);
    struct fdl_local local[64];

    first->cfg.record = true;
    go(first);
    expect_bytes(first, data, size);
    assert(first->n_records == 41);
    for (int b = 0; b < 41; b++)
        for (size_t i = 0; i < first->n_records; i++)
            if (first->records[i].off == (uint64_t)b * BLOCK)
                local[b] =
                    (struct fdl_local){first->records[i].off, first->records[i].xxh3};
    for (uint64_t b = 3; b < 6; b++) /* damaged behind the journal's back */
        assert(pwrite(first->fd, "damage", 6, (off_t)(b * BLOCK + 100)) == 6);
    second->cfg.local = local;
    second->cfg.n_local = 30;
    close(second->fd);
    second->fd = dup(first->fd);
    second->cfg.local_fd = second->fd;
    go(second);
    expect_bytes(second, data, size);
    assert(second->status.resumed_bytes == 27 * BLOCK);
    expect_sent(second, size - 27 * BLOCK);
    done(first);
    done(second);
    free(data);
}

static void a_cancelled_job_ends_within_a_second(void)
{
    uint64_t size = 400 * BLOCK;
    unsigned char *data = random_bytes(size, 16);

    for (unsigned i = 0; i < 24; i++) {
        struct run *r = new_run(data, size, 2);
        unsigned char *digests = i % 2 ? cut_pieces(r, data, 2 * BLOCK) : NULL;
        r->cancel_after_us = 1 + i * i * 97;
        r->stall_ms = 30000;
        switch (i % 6) {
        case 0:
            r->origins[0].stall_at = r->origins[1].stall_at = 50 * BLOCK;
            break;
        case 1:
            r->origins[0].slow_us = r->origins[1].slow_us = 500;
            break;
        case 2:
            atomic_store(&r->origins[0].refusals, 1000); /* in back-off */
            atomic_store(&r->origins[1].refusals, 1000);
            r->cfg.retry = 1000;
            break;
        case 3:
            r->pace.rate = 100000;
            r->cfg.pace = &r->pace;
            break;
        case 4:
            r->origins[0].no_ranges = r->origins[1].no_ranges = true;
            break;
        default:
            break;
        }
        go(r);
        assert(r->rc == FDL_OK || r->rc == FDL_E_CANCELLED);
        assert(r->ended_after_ns < UINT64_C(1000000000));
        free(digests);
        done(r);
    }
    free(data);
}

static void a_small_window_starves_nobody_for_good(void)
{
    uint64_t size = 300 * BLOCK + 1;
    unsigned char *data = random_bytes(size, 17);

    for (int i = 0; i < 3; i++) {
        struct run *r = new_run(data, size, 2);
        r->cfg.window = BLOCK;
        r->cfg.max_conns = 8;
        r->origins[i % 2].slow_us = i ? 2000 : 0;
        go(r);
        expect_bytes(r, data, size);
        done(r);
    }
    free(data);
}

static void any_mix_of_faults_ends_well_or_says_why(void)
{
    for (unsigned seed = 1; seed <= 30; seed++) {
        srand(seed);
        uint64_t size = (uint64_t)rand() % (60 * BLOCK);
        unsigned char *data = random_bytes(size, seed), *digests = NULL;
        struct run *r = new_run(data, size, 1 + rand() % ORIGINS_MAX);
        bool bad = false;

        r->stall_ms = 100;
        r->cfg.retry = 3;
        r->cfg.max_conns = 1 + rand() % 8;
        r->cfg.window = (size_t)(1 + rand() % 40) * BLOCK;
        r->cfg.detect_zeros = rand() % 2;
        if (rand() % 2)
            digests = cut_pieces(r, data, (uint64_t)(1 + rand() % 12) * BLOCK / 4);
        for (int i = 0; i < r->n; i++) {
            struct origin *o = &r->origins[i];
            o->no_ranges = rand() % 6 == 0;
            o->cut_every = rand() % 4 ? 0 : 1 + (uint64_t)rand() % 200000;
            o->stall_at = rand() % 6 ? 0 : 1 + (uint64_t)rand() % (size + 1);
            o->short_by = rand() % 5 ? 0 : 1000 + (uint64_t)rand() % 50000;
            o->lie_at =
                digests && rand() % 4 == 0 ? 1 + (uint64_t)rand() % (size + 1) : 0;
            o->slow_us = rand() % 4 ? 0 : rand() % 400;
            atomic_store(&o->refusals, rand() % 3);
            bad |= o->cut_every || o->stall_at || o->lie_at || o->refusals;
        }
        go(r);
        if (r->rc == FDL_OK)
            expect_bytes(r, data, size);
        else
            assert(bad && (r->rc == FDL_E_NET || r->rc == FDL_E_INTEGRITY ||
                           r->rc == FDL_E_HTTP_STATUS));
        done(r);
        free(digests);
        free(data);
    }
}

int main(void)
{
    signal(SIGPIPE, SIG_IGN);
    alarm(120); /* a job that never ends is a failure, not a wait */
#define CLAIM(name)                                                                    \
    do {                                                                               \
        uint64_t t = fdl_now_ns();                                                     \
        name();                                                                        \
        if (getenv("VERBOSE"))                                                         \
            fprintf(stderr, "%6.2f s  %s\n", (double)(fdl_now_ns() - t) / 1e9, #name); \
    } while (0)
    CLAIM(every_size_arrives_from_every_kind_of_server);
    CLAIM(one_connection_is_kept_for_all_requests);
    CLAIM(a_content_digest_counts_where_it_is_one);
    CLAIM(any_chunk_length_is_read);
    CLAIM(a_source_that_goes_on_is_not_cut_to_size);
    CLAIM(two_servers_of_unknown_size_agree_on_the_end);
    CLAIM(cut_connections_and_short_ranges_are_taken_up_again);
    CLAIM(pieces_find_the_liar);
    CLAIM(a_piece_across_the_windows_end_waits_for_it);
    CLAIM(a_piece_as_large_as_a_small_source_finds_the_liar_too);
    CLAIM(a_lone_liar_ends_the_job_and_says_where);
    CLAIM(pieces_that_do_not_cover_the_source_are_refused);
    CLAIM(a_stalled_mirror_does_not_hold_the_others_up);
    CLAIM(the_last_mirrors_death_is_told_with_its_cause);
    CLAIM(a_short_outage_is_survived);
    CLAIM(mirrors_without_proof_are_not_mixed);
    CLAIM(known_bytes_are_not_fetched_again);
    CLAIM(what_an_earlier_run_left_is_used_where_it_is_still_right);
    CLAIM(a_cancelled_job_ends_within_a_second);
    CLAIM(a_small_window_starves_nobody_for_good);
    CLAIM(any_mix_of_faults_ends_well_or_says_why);
    return 0;
}
