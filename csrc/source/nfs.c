/* SPDX-License-Identifier: Apache-2.0 */
/* source/nfs.c - libnfs' asynchronous calls, each driven to its end by one poll loop.
 */
#ifdef FDL_WITH_NFS

#include "source/nfs.h"
#include "base/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/rand.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/time.h> /* libnfs.h uses struct timeval without it */
#include <unistd.h>

#include <nfsc/libnfs.h>

#define WAIT_SLICE_MS 200
#define READ_BYTES ((size_t)1 << 20)
#define FAREWELL_MS 500
#define VERIFIER_BYTES 8

struct fdl_nfs {
    struct nfs_context *ctx; /* OWNED */
    struct nfsfh *file;      /* OWNED; NULL before it is open */
    bool broken;             /* a response is missing: no more requests are possible */

    /* The call under way, of which there is at most one. */
    bool done;
    int rc;    /* bytes, 0, or -errno */
    void *buf; /* BORROWED: of a read; NULL once its response is not awaited */
    size_t cap;
    struct nfs_stat_64 st;
};

static const char not_a_file[] = "the source is not a regular file";

/* ---- callbacks ----------------------------------------------------------------- */

static void on_done(int rc, struct nfs_context *ctx, void *data, void *arg)
{
    struct fdl_nfs *nfs = arg;

    (void)ctx, (void)data;
    nfs->rc = rc;
    nfs->done = true;
}

static void on_open(int rc, struct nfs_context *ctx, void *data, void *arg)
{
    struct fdl_nfs *nfs = arg;

    if (rc >= 0)
        nfs->file = data;
    on_done(rc, ctx, data, arg);
}

static void on_stat(int rc, struct nfs_context *ctx, void *data, void *arg)
{
    struct fdl_nfs *nfs = arg;

    if (rc >= 0)
        nfs->st = *(const struct nfs_stat_64 *)data;
    on_done(rc, ctx, data, arg);
}

static void on_read(int rc, struct nfs_context *ctx, void *data, void *arg)
{
    struct fdl_nfs *nfs = arg;

    if (rc > 0 && (!nfs->buf || (size_t)rc > nfs->cap))
        rc = -EPROTO; /* more than requested */
    if (rc > 0)
        memcpy(nfs->buf, data, (size_t)rc);
    on_done(rc, ctx, data, arg);
}

/* ---- waiting ------------------------------------------------------------------- */

static int broken(struct fdl_nfs *nfs, int code, int os_errno, struct fdl_err *err,
                  const char *what)
{
    nfs->broken = true;
    nfs->buf = NULL;
    return fdl_fail_os(err, code, os_errno, FDL_NO_OFFSET, what);
}

/* Drives the call that `queued` (libnfs' response to queueing it) has begun.
 * FDL_OK: nfs->rc is the server's response, which may be a refusal. */
static int drive(struct fdl_nfs *nfs, int queued, const struct fdl_nfs_wait *wait,
                 struct fdl_err *err)
{
    uint64_t start = fdl_now_ns(), before = start;

    if (queued < 0)
        return broken(nfs, FDL_E_NET, 0, err, "the NFS server cannot be asked");
    while (!nfs->done) {
        struct pollfd fds[2] = {
            {.fd = nfs_get_fd(nfs->ctx), .events = (short)nfs_which_events(nfs->ctx)},
            {.fd = wait->wakeup->fd, .events = POLLIN}};
        if (fdl_wakeup_is_set(wait->wakeup))
            return broken(nfs, FDL_E_CANCELLED, 0, err, "cancelled");
        int n = poll(fds, 2, WAIT_SLICE_MS);
        uint64_t now = fdl_now_ns();
        atomic_fetch_add_explicit(&wait->times->wait_ns, now - before,
                                  memory_order_relaxed);
        if (n < 0 && errno != EINTR)
            return broken(nfs, FDL_E_NET, errno, err, "poll");
        if (fdl_wakeup_is_set(wait->wakeup))
            return broken(nfs, FDL_E_CANCELLED, 0, err, "cancelled");
        if (fds[0].revents && nfs_service(nfs->ctx, fds[0].revents) < 0 && !nfs->done)
            return broken(nfs, FDL_E_NET, 0, err,
                          "the connection to the NFS server was cut");
        before = fdl_now_ns();
        atomic_fetch_add_explicit(&wait->times->recv_ns, before - now,
                                  memory_order_relaxed);
        if (!nfs->done && before - start >= (uint64_t)wait->limit_ms * FDL_NS_PER_MS)
            return broken(nfs, FDL_E_NET, ETIMEDOUT, err,
                          "the NFS server does not respond");
    }
    return FDL_OK;
}

static void begin(struct fdl_nfs *nfs, void *buf, size_t cap)
{
    nfs->done = false;
    nfs->rc = 0;
    nfs->buf = buf;
    nfs->cap = cap;
}

/* The server's -errno as an error of ours. libnfs says EFAULT, EINTR or EIO where it
 * was the connection that failed. */
static int refusal(struct fdl_nfs *nfs, bool opened, struct fdl_err *err)
{
    switch (-nfs->rc) {
    case ENOENT:
    case ENOTDIR:
    case ENAMETOOLONG:
    case ESTALE:
        if (opened)
            return fdl_fail(err, FDL_E_ORIGIN_CHANGED, FDL_NO_OFFSET,
                            "the source was removed or replaced");
        return fdl_fail(err, FDL_E_HTTP_STATUS, FDL_NO_OFFSET,
                        "the NFS server has no such file or export");
    case EISDIR:
        return fdl_fail(err, FDL_E_HTTP_STATUS, FDL_NO_OFFSET, not_a_file);
    case EACCES:
    case EPERM:
    case EROFS:
        return fdl_fail(err, FDL_E_HTTP_STATUS, FDL_NO_OFFSET,
                        "the NFS server denies access");
    case EFAULT:
    case EINTR:
        return broken(nfs, FDL_E_NET, 0, err,
                      opened ? "the connection to the NFS server was cut"
                             : "the NFS server cannot be connected to");
    default:
        return broken(nfs, FDL_E_NET, -nfs->rc, err, "the NFS server failed");
    }
}

/* ---- a session ----------------------------------------------------------------- */

/* Ports and versions can be set only by way of a URL. */
static int configure(struct fdl_nfs *nfs, const struct fdl_nfs_location *location)
{
    unsigned char random[VERIFIER_BYTES * 2];
    char text[200], name[64];
    int n = snprintf(text, sizeof text,
                     "nfs://server/?version=%d&autoreconnect=0&auto-traverse-mounts=0"
                     "&dircache=0",
                     location->version);
    size_t at = (size_t)n;

    if (location->nfs_port > 0)
        at += (size_t)snprintf(text + at, sizeof text - at, "&nfsport=%d",
                               location->nfs_port);
    if (location->mount_port > 0)
        snprintf(text + at, sizeof text - at, "&mountport=%d", location->mount_port);
    struct nfs_url *url = nfs_parse_url_incomplete(nfs->ctx, text);
    if (!url || RAND_bytes(random, sizeof random) != 1) {
        nfs_destroy_url(url);
        return -1;
    }
    nfs_destroy_url(url);
    if (location->uid >= 0)
        nfs_set_uid(nfs->ctx, (int)location->uid);
    if (location->gid >= 0)
        nfs_set_gid(nfs->ctx, (int)location->gid);
    /* libnfs names its clients by process and second: a second context of ours would
     * look like a restart of the first, and the server would take the first one's file
     * away. */
    snprintf(name, sizeof name, "fastdl %ld %02x%02x%02x%02x%02x%02x%02x%02x",
             (long)getpid(), random[8], random[9], random[10], random[11], random[12],
             random[13], random[14], random[15]);
    nfs4_set_client_name(nfs->ctx, name);
    nfs4_set_verifier(nfs->ctx, (const char *)random);
    return 0;
}

static int mount_and_open(struct fdl_nfs *nfs, const struct fdl_nfs_location *location,
                          const struct fdl_nfs_wait *connect,
                          const struct fdl_nfs_wait *wait, enum fdl_nfs_step *step,
                          struct fdl_err *err)
{
    *step = FDL_NFS_CONNECT;
    begin(nfs, NULL, 0);
    int rc = drive(
        nfs,
        nfs_mount_async(nfs->ctx, location->address, location->export, on_done, nfs),
        connect, err);
    if (rc != FDL_OK)
        return rc;
    if (nfs->rc < 0) {
        rc = refusal(nfs, false, err);
        if (rc == FDL_E_HTTP_STATUS)
            *step = FDL_NFS_MOUNT;
        return rc;
    }
    *step = FDL_NFS_OPEN;
    begin(nfs, NULL, 0);
    rc = drive(nfs, nfs_open_async(nfs->ctx, location->file, O_RDONLY, on_open, nfs),
               wait, err);
    if (rc == FDL_OK && nfs->rc < 0)
        rc = refusal(nfs, false, err);
    return rc;
}

int fdl_nfs_open(struct fdl_nfs **out, const struct fdl_nfs_location *location,
                 const struct fdl_nfs_wait *connect, const struct fdl_nfs_wait *wait,
                 enum fdl_nfs_step *step, struct fdl_err *err)
{
    struct fdl_nfs *nfs = calloc(1, sizeof *nfs);
    int rc;

    *step = FDL_NFS_CONNECT;
    if (!nfs)
        return fdl_nomem(err, "a connection");
    nfs->ctx = nfs_init_context();
    if (!nfs->ctx || configure(nfs, location) != 0) {
        fdl_nfs_close(nfs);
        return fdl_fail(err, FDL_E_INTERNAL, FDL_NO_OFFSET, "libnfs gave no context");
    }
    rc = mount_and_open(nfs, location, connect, wait, step, err);
    if (rc != FDL_OK) {
        fdl_nfs_close(nfs);
        return rc;
    }
    *out = nfs;
    return FDL_OK;
}

int fdl_nfs_stat(struct fdl_nfs *nfs, const struct fdl_nfs_wait *wait,
                 struct fdl_nfs_stat *out, struct fdl_err *err)
{
    begin(nfs, NULL, 0);
    int rc =
        drive(nfs, nfs_fstat64_async(nfs->ctx, nfs->file, on_stat, nfs), wait, err);

    if (rc != FDL_OK)
        return rc;
    if (nfs->rc < 0)
        return refusal(nfs, true, err);
    if (!S_ISREG(nfs->st.nfs_mode))
        return fdl_fail(err, FDL_E_HTTP_STATUS, FDL_NO_OFFSET, not_a_file);
    out->size = nfs->st.nfs_size;
    out->inode = nfs->st.nfs_ino;
    out->mtime_s = nfs->st.nfs_mtime;
    out->mtime_ns = nfs->st.nfs_mtime_nsec;
    return FDL_OK;
}

long fdl_nfs_read(struct fdl_nfs *nfs, const struct fdl_nfs_wait *wait, void *buf,
                  size_t len, uint64_t off, struct fdl_err *err)
{
    uint64_t most = nfs_get_readmax(nfs->ctx);

    /* With version 4 libnfs does not query the limit: the server then returns less.
     */
    if (most == 0 || most > READ_BYTES)
        most = READ_BYTES;
    if (len > most)
        len = (size_t)most;
    begin(nfs, buf, len);
    int rc = drive(nfs, nfs_pread_async(nfs->ctx, nfs->file, off, len, on_read, nfs),
                   wait, err);
    nfs->buf = NULL;
    if (rc != FDL_OK)
        return rc;
    return nfs->rc < 0 ? refusal(nfs, true, err) : nfs->rc;
}

int fdl_nfs_fd(const struct fdl_nfs *nfs)
{
    return nfs_get_fd(nfs->ctx);
}

/* Version 4 keeps the file open for us until we close it, or the lease ends. */
static void close_file(struct fdl_nfs *nfs)
{
    struct fdl_wakeup wakeup = {.fd = -1};
    struct fdl_conn_times times = {0};
    struct fdl_nfs_wait wait = {
        .wakeup = &wakeup, .times = &times, .limit_ms = FAREWELL_MS};
    struct nfsfh *file = nfs->file;

    nfs->file = NULL;
    begin(nfs, NULL, 0);
    int queued = nfs_close_async(nfs->ctx, file, on_done, nfs);
    if (!nfs->broken)
        drive(nfs, queued, &wait, NULL);
}

void fdl_nfs_close(struct fdl_nfs *nfs)
{
    if (!nfs)
        return;
    if (nfs->file)
        close_file(nfs);
    if (nfs->ctx)
        nfs_destroy_context(nfs->ctx); /* ends what is under way through its callback */
    free(nfs);
}

#else

typedef int fdl_nfs_is_not_built; /* ISO C requires a declaration in every file */

#endif
