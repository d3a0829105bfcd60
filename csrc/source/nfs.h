/* SPDX-License-Identifier: Apache-2.0 */
/* source/nfs.h - FETCH: one opened file on an NFS server, through libnfs: no mount, no
 * shell.
 *
 * One thread at a time. Every call ends: with a response, when its time is over, or
 * when the thread's wakeup is set. After an error the session is of no use but to be
 * closed. Compiled in only with FDL_WITH_NFS. */
#ifndef FDL_NFS_H
#define FDL_NFS_H

#include <stddef.h>
#include <stdint.h>

#include "net/conn.h"
#include "base/err.h"

struct fdl_nfs;

/* What to open; all strings BORROWED for the call. */
struct fdl_nfs_location {
    const char *address; /* numeric: libnfs must not look anything up */
    int version;         /* 3 or 4 */
    int nfs_port;        /* 0: 2049 for version 4, the portmapper's for version 3 */
    int mount_port;      /* version 3; 0: the portmapper's response */
    long uid, gid;       /* -1: those of this process */
    const char *export;  /* what is mounted; "/" is the whole name space of version 4 */
    const char *file;    /* absolute, within the export */
};

/* Who waits, and how long. */
struct fdl_nfs_wait {
    struct fdl_wakeup *wakeup;    /* BORROWED */
    struct fdl_conn_times *times; /* BORROWED */
    long limit_ms;
};

struct fdl_nfs_stat {
    uint64_t size;
    uint64_t inode;
    uint64_t mtime_s;
    uint64_t mtime_ns;
};

/* Which step of fdl_nfs_open() failed. */
enum fdl_nfs_step { FDL_NFS_CONNECT, FDL_NFS_MOUNT, FDL_NFS_OPEN };

/* Connects, mounts (an exchange of the protocol, nothing in this machine's file system)
 * and opens for reading. connect: limit for connecting and mounting. *out is OWNED;
 * *step is set on failure.
 * Errors: FDL_E_NET, FDL_E_HTTP_STATUS (the server refused: no such file or export,
 * access denied, not a regular file), FDL_E_CANCELLED. */
int fdl_nfs_open(struct fdl_nfs **out, const struct fdl_nfs_location *location,
                 const struct fdl_nfs_wait *connect, const struct fdl_nfs_wait *wait,
                 enum fdl_nfs_step *step, struct fdl_err *err);

/* Asks the server again. Errors: FDL_E_NET, FDL_E_ORIGIN_CHANGED (removed), _CANCELLED.
 */
int fdl_nfs_stat(struct fdl_nfs *nfs, const struct fdl_nfs_wait *wait,
                 struct fdl_nfs_stat *out, struct fdl_err *err);

/* 1..len bytes from off on (short reads are normal), 0 at the end of the file. */
long fdl_nfs_read(struct fdl_nfs *nfs, const struct fdl_nfs_wait *wait, void *buf,
                  size_t len, uint64_t off, struct fdl_err *err);

/* The socket to the server, for getpeername(). */
int fdl_nfs_fd(const struct fdl_nfs *nfs);

/* NULL is allowed. */
void fdl_nfs_close(struct fdl_nfs *nfs);

#endif
