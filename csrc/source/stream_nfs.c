/* SPDX-License-Identifier: Apache-2.0 */
/* source/stream_nfs.c - ranges of a file on an NFS server, read in user space: no
 * mount.
 *
 * A URL does not say where the export ends and the path in it begins. Version 4 has one
 * name space for all exports; with version 3 the file's folders are offered to the
 * server from the longest to the shortest. Version 4 is tried first, unless the URL
 * says. */
#include "source/stream.h"

#ifdef FDL_WITH_NFS

#include <curl/curl.h>
#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "source/nfs.h"
#include "source/nfs_url.h"
#include "net/resolve.h"

#define MOUNT_TRIES 16

struct nfs_stream {
    struct fdl_stream base;
    struct fdl_net *net;
    struct fdl_wakeup *wakeup;
    struct fdl_conn_times *times;
    struct fdl_nfs *nfs; /* OWNED or NULL */
};

static struct nfs_stream *self_of(struct fdl_stream *base)
{
    return (struct nfs_stream *)base;
}

/* The next connection need not search again. */
static void remember(struct fdl_mirror *m, int version, const char *export)
{
    char *escaped = curl_easy_escape(NULL, export, 0), *url = NULL;

    if (escaped && asprintf(&url, "%s%sversion=%d&export=%s", m->url,
                            strchr(m->url, '?') ? "&" : "?", version, escaped) > 0) {
        pthread_mutex_lock(&m->lock);
        if (!m->final_url) {
            m->final_url = url;
            url = NULL;
        }
        pthread_mutex_unlock(&m->lock);
        free(url);
    }
    curl_free(escaped);
}

/* ---- opening -------------------------------------------------------------------- */

static struct fdl_nfs_wait waiting(const struct nfs_stream *s, long limit_ms)
{
    return (struct fdl_nfs_wait){
        .wakeup = s->wakeup, .times = s->times, .limit_ms = limit_ms};
}

static int try_open(struct nfs_stream *s, const struct fdl_nfs_url *p,
                    const char *address, int version, const char *export,
                    const char *file, enum fdl_nfs_step *step, struct fdl_err *err)
{
    struct fdl_nfs_location location = {.address = address,
                                        .version = version,
                                        .nfs_port = p->nfs_port,
                                        .mount_port = p->mount_port,
                                        .uid = p->uid,
                                        .gid = p->gid,
                                        .export = export,
                                        .file = file};
    struct fdl_nfs_wait connect = waiting(s, s->net->connect_timeout_ms);
    struct fdl_nfs_wait wait = waiting(s, s->net->stall_timeout_ms);
    int rc = fdl_nfs_open(&s->nfs, &location, &connect, &wait, step, err);

    if (rc == FDL_OK)
        remember(s->base.mirror, version, export);
    return rc;
}

/* The rest of the path below the export; NULL if it is elsewhere. */
static const char *below(const char *path, const char *export)
{
    size_t n = strlen(export);

    while (n > 0 && export[n - 1] == '/')
        n--;
    return strncmp(path, export, n) == 0 && path[n] == '/' ? path + n : NULL;
}

/* Version 3: the longest folder that the server lets us mount. */
static int search_export(struct nfs_stream *s, const struct fdl_nfs_url *p,
                         const char *address, struct fdl_err *err)
{
    char *export = strdup(p->path);
    int rc = FDL_E_INTERNAL;

    if (!export)
        return fdl_nomem(err, "a path");
    for (int i = 0; i < MOUNT_TRIES; i++) {
        enum fdl_nfs_step step;
        char *slash = strrchr(export, '/');
        const char *file = p->path + (slash - export);
        *(slash == export ? slash + 1 : slash) = '\0';
        rc = try_open(s, p, address, 3, export, file, &step, err);
        /* A refusal to mount may concern only this folder. */
        if (rc == FDL_OK || step != FDL_NFS_MOUNT || slash == export)
            break;
    }
    free(export);
    return rc;
}

static int open_version(struct nfs_stream *s, const struct fdl_nfs_url *p,
                        const char *address, int version, struct fdl_err *err)
{
    enum fdl_nfs_step step;

    if (p->export) {
        const char *file = below(p->path, p->export);
        if (!file)
            return fdl_fail(err, FDL_E_USAGE, FDL_NO_OFFSET,
                            "the path of the NFS URL does not lie in its export");
        return try_open(s, p, address, version, p->export, file, &step, err);
    }
    if (version == 4)
        return try_open(s, p, address, 4, "/", p->path, &step, err);
    return search_export(s, p, address, err);
}

static int open_address(struct nfs_stream *s, const struct fdl_nfs_url *p,
                        const char *address, struct fdl_err *err)
{
    struct fdl_err second;
    int rc;

    if (p->version != 0)
        return open_version(s, p, address, p->version, err);
    rc = open_version(s, p, address, 4, err);
    /* Silence is the host's, not the version's. */
    if ((rc != FDL_E_NET && rc != FDL_E_HTTP_STATUS) ||
        (rc == FDL_E_NET && err->os_errno == ETIMEDOUT))
        return rc;
    int again = open_version(s, p, address, 3, &second);
    /* That there is no such file says more than that a version is not spoken. */
    if (again == FDL_OK || again == FDL_E_CANCELLED || rc == FDL_E_NET) {
        *err = second;
        return again;
    }
    return rc;
}

static int refuse(const struct nfs_stream *s, struct fdl_err *err)
{
    return fdl_fail(err, FDL_E_POLICY, FDL_NO_OFFSET,
                    s->net->policy.strict
                        ? "the address policy allows no NFS server at the host's "
                          "address (--allow-nfs; direct.download.nfs.servers)"
                        : FDL_ADDR_FORBIDDEN);
}

static int check_peer(struct nfs_stream *s, struct fdl_err *err)
{
    const struct fdl_mirror *m = s->base.mirror;
    struct sockaddr_storage ss;
    socklen_t len = sizeof ss;

    if (getpeername(fdl_nfs_fd(s->nfs), (struct sockaddr *)&ss, &len) != 0)
        return fdl_fail_os(err, FDL_E_NET, errno, FDL_NO_OFFSET,
                           "the connection was lost");
    if (!fdl_addr_allowed_nfs((struct sockaddr *)&ss, &s->net->policy, m->via, m->from))
        return refuse(s, err);
    s->base.peer = fdl_addr_classify((struct sockaddr *)&ss);
    return FDL_OK;
}

static void drop(struct nfs_stream *s)
{
    fdl_nfs_close(s->nfs);
    s->nfs = NULL;
}

/* The name is looked up here and checked; libnfs gets the address that was checked. */
static int open_location(struct nfs_stream *s, const struct fdl_nfs_url *p,
                         struct fdl_err *err)
{
    const struct fdl_mirror *m = s->base.mirror;
    struct fdl_addrs addrs;
    char text[NI_MAXHOST];
    int rc = fdl_resolve(p->host, s->net->route.family, s->net->connect_timeout_ms,
                         s->wakeup, &addrs, err);
    bool tried = false;

    if (rc != FDL_OK) {
        fdl_net_note(s->net, NULL);
        return rc;
    }
    for (size_t i = 0; i < addrs.n; i++) {
        const struct sockaddr *sa = (const struct sockaddr *)&addrs.list[i];
        socklen_t len = sa->sa_family == AF_INET6 ? sizeof(struct sockaddr_in6)
                                                  : sizeof(struct sockaddr_in);
        fdl_net_note(s->net, sa);
        if (!fdl_addr_allowed_nfs(sa, &s->net->policy, m->via, m->from) ||
            getnameinfo(sa, len, text, sizeof text, NULL, 0, NI_NUMERICHOST) != 0)
            continue;
        tried = true;
        rc = open_address(s, p, text, err);
        if (rc != FDL_E_NET)
            break;
    }
    if (!tried)
        return refuse(s, err);
    if (rc == FDL_OK)
        rc = check_peer(s, err);
    if (rc != FDL_OK)
        drop(s);
    return rc;
}

static int open_file(struct nfs_stream *s, struct fdl_err *err)
{
    struct fdl_mirror *m = s->base.mirror;
    struct fdl_nfs_url p = {0};
    struct fdl_err own;
    int rc = FDL_E_INTERNAL;

    pthread_mutex_lock(&m->lock);
    char *url = strdup(m->final_url ? m->final_url : m->url);
    pthread_mutex_unlock(&m->lock);
    fdl_nomem(&own, "a path");
    if (url)
        rc = fdl_nfs_url_parse(url, &p, &own);
    if (rc == FDL_OK)
        rc = open_location(s, &p, &own);
    fdl_nfs_url_clear(&p);
    free(url);
    if (rc != FDL_OK && err)
        *err = own;
    return rc;
}

/* ---- the stream -------------------------------------------------------------------
 */

/* A server may have forgotten a session that rested (a lease, a restart): one fresh
 * try, which is no error of the mirror. */
static int ask_size(struct nfs_stream *s, struct fdl_nfs_stat *st, struct fdl_err *err)
{
    struct fdl_nfs_wait wait = waiting(s, s->net->stall_timeout_ms);

    if (s->nfs) {
        int rc = fdl_nfs_stat(s->nfs, &wait, st, err);
        if (rc == FDL_OK || rc == FDL_E_CANCELLED || rc == FDL_E_HTTP_STATUS) {
            if (rc != FDL_OK)
                drop(s);
            return rc;
        }
        drop(s);
    }
    int rc = open_file(s, err);
    if (rc == FDL_OK)
        rc = fdl_nfs_stat(s->nfs, &wait, st, err);
    if (rc != FDL_OK)
        drop(s);
    return rc;
}

/* The file's number and time of change stand in for an entity tag. */
static bool pin(struct fdl_mirror *m, const struct fdl_nfs_stat *st)
{
    char etag[sizeof m->etag];
    bool same;

    snprintf(etag, sizeof etag, "\"nfs-%llx-%llu.%09llu-%llu\"",
             (unsigned long long)st->inode, (unsigned long long)st->mtime_s,
             (unsigned long long)st->mtime_ns, (unsigned long long)st->size);
    pthread_mutex_lock(&m->lock);
    same = !m->pinned || strcmp(m->etag, etag) == 0;
    if (same) {
        memcpy(m->etag, etag, sizeof etag);
        m->total = st->size;
        m->ranges = FDL_RANGES_YES;
        m->pinned = true;
    }
    pthread_mutex_unlock(&m->lock);
    return same;
}

static int nfs_begin(struct fdl_stream *base, uint64_t off, uint64_t len,
                     struct fdl_err *err)
{
    struct nfs_stream *s = self_of(base);
    struct fdl_mirror *m = base->mirror;
    struct fdl_nfs_stat st;

    atomic_fetch_add_explicit(&m->requests, 1, memory_order_relaxed);
    if (base->tap.log)
        fdl_request_log_add(
            &base->tap, &(struct fdl_request_note){
                            .event = FDL_REQUEST_SENT, .off = off, .end = off + len});
    int rc = ask_size(s, &st, err);
    if (rc != FDL_OK)
        return rc;
    if (!pin(m, &st) || off > st.size)
        return fdl_fail(err, FDL_E_ORIGIN_CHANGED, off,
                        "the source changed during the transfer");
    base->off = off;
    base->end = off + (len < st.size - off ? len : st.size - off);
    base->whole = false;
    return FDL_OK;
}

/* Without entity tags in the responses, only a look afterwards tells that what was read
 * since begin() is of one file. (The server may answer from a cache of attributes of
 * its own.) */
static int check_same(struct nfs_stream *s, const struct fdl_nfs_wait *wait,
                      struct fdl_err *err)
{
    struct fdl_nfs_stat st;
    int rc = fdl_nfs_stat(s->nfs, wait, &st, err);

    if (rc == FDL_OK && !pin(s->base.mirror, &st))
        rc = fdl_fail(err, FDL_E_ORIGIN_CHANGED, s->base.off,
                      "the source changed during the transfer");
    return rc;
}

static long nfs_read(struct fdl_stream *base, void *buf, size_t len,
                     struct fdl_err *err)
{
    struct nfs_stream *s = self_of(base);
    struct fdl_nfs_wait wait = waiting(s, s->net->stall_timeout_ms);
    uint64_t rest = base->end - base->off;
    long n;

    if (rest == 0)
        return 0;
    if (!s->nfs)
        return fdl_fail(err, FDL_E_NET, base->off, "the connection was lost");
    if (len > rest)
        len = (size_t)rest;
    n = fdl_nfs_read(s->nfs, &wait, buf, len, base->off, err);
    if (n == 0) /* a retry would give the same response, endlessly */
        n = fdl_fail(err, FDL_E_ORIGIN_CHANGED, base->off, "the source became shorter");
    if (n > 0 && (uint64_t)n == rest) {
        int rc = check_same(s, &wait, err);
        n = rc == FDL_OK ? n : rc;
    }
    if (n < 0) {
        drop(s);
        return n;
    }
    base->off += (uint64_t)n;
    atomic_fetch_add_explicit(&base->mirror->bytes, (uint64_t)n, memory_order_relaxed);
    return n;
}

static void nfs_prefetch(struct fdl_stream *base, uint64_t off, uint64_t len)
{
    (void)base, (void)off, (void)len; /* a request costs one round trip of 1 MiB */
}

static void nfs_rebind(struct fdl_stream *base, struct fdl_wakeup *wakeup,
                       struct fdl_conn_times *times)
{
    self_of(base)->wakeup = wakeup;
    self_of(base)->times = times;
}

static void nfs_free(struct fdl_stream *base)
{
    drop(self_of(base));
    free(base);
}

static const struct fdl_stream_ops nfs_ops = {
    .begin = nfs_begin,
    .read = nfs_read,
    .prefetch = nfs_prefetch,
    .rebind = nfs_rebind,
    .free = nfs_free,
};

struct fdl_stream *fdl_stream_nfs_new(struct fdl_mirror *mirror, struct fdl_net *net,
                                      struct fdl_wakeup *wakeup,
                                      struct fdl_conn_times *times)
{
    struct nfs_stream *s = calloc(1, sizeof *s);

    if (!s)
        return NULL;
    s->base.ops = &nfs_ops;
    s->base.mirror = mirror;
    s->base.peer = FDL_ADDR_RESERVED;
    s->net = net;
    s->wakeup = wakeup;
    s->times = times;
    return &s->base;
}

#else

struct fdl_stream *fdl_stream_nfs_new(struct fdl_mirror *mirror, struct fdl_net *net,
                                      struct fdl_wakeup *wakeup,
                                      struct fdl_conn_times *times)
{
    (void)mirror, (void)net, (void)wakeup, (void)times;
    return NULL;
}

#endif
