/* SPDX-License-Identifier: Apache-2.0 */
/* A seam between a program and the kernel, loaded with LD_PRELOAD: each call of
 * seam_calls.c is numbered, logged, and the n-th one fails, comes short, or kills the
 * process. seam.py builds it and says how it is asked.
 *
 *   SEAM_LOG=FILE       a line for each call: thread, number, name, what it is about
 *   SEAM_NTH=N          the call meant: the N-th of SEAM_CALL, from 1
 *   SEAM_CALL=NAME      or * for any
 *   SEAM_DO=kill        before the call
 *           tear        in the middle of a write
 *           short       half of it is done
 *           flip        a bit of what is read or received changes
 *           clock       from then on the wall clock is SEAM_CLOCK off
 *           NUMBER      it fails with that errno
 *   SEAM_FOR=once|ever  that call alone, or it and all later ones
 *   SEAM_ONLY=TEXT      only calls on descriptors or paths that contain TEXT; a TCP
 *                       socket's name ends with tcp: and its peer's port
 *   SEAM_AFTER=TEXT     only from the first call on that contains TEXT
 *   SEAM_CLOCK=SECONDS  the wall clock is that far off
 *   SEAM_RECORD=FILE    what is asked of storage, see seam.h
 *   SEAM_INODES=A:B,... the inode number A looks like B; eight pairs at most
 *
 * Programs that this one starts run without the seam. A program that was forked from
 * one with the seam reads its environment anew with seam_arm(). */
#define _GNU_SOURCE
#include "seam.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { INODES = 8 };

static atomic_long counted, met;
static long nth;
static int log_fd = -1, fail_with;
static enum verdict bends;
static bool on, kills, clocks, ever;
static long clock_s;
static atomic_long jump_s;
static unsigned long inode_real[INODES], inode_shown[INODES];
static const char *call_name = "*", *only, *after;
static atomic_bool begun;

_Noreturn void seam_die(void)
{
    syscall(SYS_kill, syscall(SYS_getpid), SIGKILL);
    for (;;)
        syscall(SYS_pause);
}

static const char *word(const char *name)
{
    const char *text = getenv(name);

    return text && *text ? text : NULL;
}

static long number_of(const char *name)
{
    return word(name) ? atol(word(name)) : 0;
}

void seam_arm(void)
{
    const char *text = word("SEAM_DO"), *inode = word("SEAM_INODES");

    if (log_fd >= 0)
        syscall(SYS_close, log_fd);
    log_fd = -1;
    if (word("SEAM_LOG"))
        log_fd = (int)syscall(SYS_openat, AT_FDCWD, word("SEAM_LOG"),
                              O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    record_to(word("SEAM_RECORD"));
    atomic_store(&counted, 0);
    atomic_store(&met, 0);
    nth = number_of("SEAM_NTH");
    call_name = word("SEAM_CALL") ? word("SEAM_CALL") : "*";
    only = word("SEAM_ONLY");
    after = word("SEAM_AFTER");
    atomic_store(&begun, after == NULL);
    ever = word("SEAM_FOR") && strcmp(word("SEAM_FOR"), "ever") == 0;
    kills = text && strcmp(text, "kill") == 0;
    clocks = text && strcmp(text, "clock") == 0;
    bends = !text                        ? PASS
            : strcmp(text, "tear") == 0  ? TEAR
            : strcmp(text, "short") == 0 ? SHORT
            : strcmp(text, "flip") == 0  ? FLIP
                                         : PASS;
    fail_with = text && !kills && !clocks && bends == PASS ? atoi(text) : 0;
    clock_s = number_of("SEAM_CLOCK");
    atomic_store(&jump_s, clocks ? 0 : clock_s);
    memset(inode_real, 0, sizeof inode_real);
    for (int i = 0; inode && i < INODES; i++) {
        if (sscanf(inode, "%lu:%lu", &inode_real[i], &inode_shown[i]) != 2)
            break;
        inode = strchr(inode, ',') ? strchr(inode, ',') + 1 : NULL;
    }
    on = nth > 0 || log_fd >= 0;
}

__attribute__((constructor)) static void start(void)
{
    seam_arm();
    unsetenv("LD_PRELOAD");
}

/* What the call is about: its path, or the name of its descriptor. */
static void name_of(int fd, const char *path, char *out, size_t room)
{
    char link[64];
    ssize_t n;

    if (path) {
        snprintf(out, room, "%s", path);
        return;
    }
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    n = syscall(SYS_readlink, link, out, room - 1);
    out[n > 0 ? n : 0] = '\0';
    if (strncmp(out, "socket:", 7) == 0) {
        struct sockaddr_in6 peer;
        socklen_t size = sizeof peer;

        if (syscall(SYS_getpeername, fd, &peer, &size) == 0 &&
            (peer.sin6_family == AF_INET || peer.sin6_family == AF_INET6))
            snprintf(out + n, room - (size_t)n, " tcp:%d", ntohs(peer.sin6_port));
    }
}

/* Python's own files: what fails to load is no download's fault. */
static bool is_code(const char *name)
{
    const char *dot = strrchr(name, '.');

    return strstr(name, "/lib/python") || strstr(name, "site-packages") ||
           (dot && (strcmp(dot, ".py") == 0 || strncmp(dot, ".pyc", 4) == 0 ||
                    strncmp(dot, ".so", 3) == 0));
}

enum verdict seam_meet(const char *call, int fd, const char *path)
{
    char name[512] = "", line[640];
    long number;

    if (!on)
        return PASS;
    int saved = errno;
    name_of(fd, path, name, sizeof name);
    if (log_fd >= 0 && strcmp(name, "/dev/null") != 0) {
        int n = snprintf(line, sizeof line, "%d %ld %s %s\n", (int)syscall(SYS_gettid),
                         atomic_fetch_add(&counted, 1) + 1, call, name);
        syscall(SYS_write, log_fd, line, (size_t)n);
    }
    errno = saved;
    if (!atomic_load(&begun) && strstr(name, after))
        atomic_store(&begun, true);
    if (nth <= 0 || !atomic_load(&begun) ||
        (strcmp(call_name, "*") != 0 && strcmp(call_name, call) != 0) ||
        (only && !strstr(name, only)) || (fail_with && is_code(name)))
        return PASS;
    number = atomic_fetch_add(&met, 1) + 1;
    if (number < nth || (number > nth && !ever))
        return PASS;
    if (kills)
        seam_die();
    if (clocks)
        atomic_store(&jump_s, clock_s);
    if (bends != PASS || fail_with == 0)
        return bends;
    errno = fail_with;
    return FAIL;
}

long seam_nth(void)
{
    return nth;
}

long seam_clock_s(void)
{
    return atomic_load(&jump_s);
}

unsigned long seam_inode(unsigned long inode)
{
    for (int i = 0; i < INODES && inode_real[i]; i++)
        if (inode == inode_real[i])
            return inode_shown[i];
    return inode;
}
