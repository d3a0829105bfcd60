/* SPDX-License-Identifier: Apache-2.0 */
/* base/confine.c - the list, and the filter program that is made of it. */
#include "base/confine.h"

#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>

#if defined(__x86_64__) && defined(__LP64__)
#define ARCH AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define ARCH AUDIT_ARCH_AARCH64
#endif

#ifdef ARCH

#include <fcntl.h>
#include <linux/fs.h>
#include <linux/prctl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <stdbool.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>

#define PROGRAM_MAX 600
#define X32_BIT 0x40000000u /* x86-64's second numbering of the same calls */
#ifndef PR_SET_VMA
#define PR_SET_VMA 0x53564d41 /* glibc names its memory */
#endif
#ifndef F_OFD_GETLK
#define F_OFD_GETLK 36
#define F_OFD_SETLK 37
#define F_OFD_SETLKW 38
#endif

/* Calls that older headers do not know; the numbers are the same everywhere. */
#ifndef __NR_close_range
#define __NR_close_range 436
#endif
#ifndef __NR_faccessat2
#define __NR_faccessat2 439
#endif
#ifndef __NR_epoll_pwait2
#define __NR_epoll_pwait2 441
#endif

struct program {
    struct sock_filter code[PROGRAM_MAX];
    unsigned short n;
};

/* ---- instructions ---------------------------------------------------------------- */

static void put(struct program *p, unsigned code, unsigned yes, unsigned no, uint32_t k)
{
    /* One too many is seen at the end: see build(). */
    if (p->n < PROGRAM_MAX)
        p->code[p->n] = (struct sock_filter){
            .code = (uint16_t)code, .jt = (uint8_t)yes, .jf = (uint8_t)no, .k = k};
    p->n++;
}

static void load(struct program *p, size_t offset)
{
    put(p, BPF_LD | BPF_W | BPF_ABS, 0, 0, (uint32_t)offset);
}

/* The lower half is all that the kernel takes of an int; both machines are
 * little-endian.
 */
static void load_low(struct program *p, unsigned arg)
{
    load(p, offsetof(struct seccomp_data, args) + 8 * (size_t)arg);
}

static void load_high(struct program *p, unsigned arg)
{
    load(p, offsetof(struct seccomp_data, args) + 8 * (size_t)arg + 4);
}

static void end(struct program *p, uint32_t action)
{
    put(p, BPF_RET | BPF_K, 0, 0, action);
}

#define ALLOWED SECCOMP_RET_ALLOW
#define FORBIDDEN (SECCOMP_RET_ERRNO | EPERM)
#define UNKNOWN (SECCOMP_RET_ERRNO | ENOSYS)

/* ---- conditions: each ends the program ------------------------------------------- */

static void if_one_of(struct program *p, const uint32_t *values, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        put(p, BPF_JMP | BPF_JEQ | BPF_K, n - i, 0, values[i]);
    end(p, FORBIDDEN);
    end(p, ALLOWED);
}
#define IF_ONE_OF(p, ...)                                                              \
    do {                                                                               \
        const uint32_t values[] = {__VA_ARGS__};                                       \
        if_one_of(p, values, sizeof values / sizeof *values);                          \
    } while (0)

/* A test of the loaded word that ends the program where it fails. */
static void require(struct program *p, uint32_t a, uint32_t b)
{
    put(p, BPF_JMP | BPF_JEQ | BPF_K, 2, 0, a);
    put(p, BPF_JMP | BPF_JEQ | BPF_K, 1, 0, b);
    end(p, FORBIDDEN);
}

static void if_no_bits(struct program *p, unsigned arg, uint32_t bits)
{
    load_low(p, arg);
    put(p, BPF_JMP | BPF_JSET | BPF_K, 1, 0, bits);
    end(p, ALLOWED);
    end(p, FORBIDDEN);
}

static void if_plain_mode(struct program *p, unsigned arg)
{
    if_no_bits(p, arg, S_ISUID | S_ISGID | S_ISVTX);
}

static void if_null(struct program *p, unsigned arg)
{
    load_low(p, arg);
    put(p, BPF_JMP | BPF_JEQ | BPF_K, 0, 2, 0);
    load_high(p, arg);
    put(p, BPF_JMP | BPF_JEQ | BPF_K, 1, 0, 0);
    end(p, FORBIDDEN);
    end(p, ALLOWED);
}

/* The first argument, a process, is 0 or ourselves. */
static void if_self(struct program *p)
{
    load_low(p, 0);
    IF_ONE_OF(p, 0, (uint32_t)getpid());
}

static void if_thread(struct program *p)
{
    load_low(p, 0);
    put(p, BPF_JMP | BPF_JSET | BPF_K, 0, 2, CLONE_THREAD);
    put(p, BPF_JMP | BPF_JSET | BPF_K, 1, 0,
        CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER |
            CLONE_NEWPID | CLONE_NEWNET);
    end(p, ALLOWED);
    end(p, FORBIDDEN);
}

static void load_type(struct program *p)
{
    load_low(p, 1);
    put(p, BPF_ALU | BPF_AND | BPF_K, 0, 0, ~(uint32_t)(SOCK_CLOEXEC | SOCK_NONBLOCK));
}

static void if_ip_socket(struct program *p)
{
    load_low(p, 0);
    require(p, AF_INET, AF_INET6);
    load_type(p);
    require(p, SOCK_STREAM, SOCK_DGRAM);
    load_low(p, 2);
    IF_ONE_OF(p, 0, IPPROTO_TCP, IPPROTO_UDP);
}

/* Not of datagrams: those could be sent to any socket that has a name. */
static void if_stream_pair(struct program *p)
{
    load_low(p, 0);
    require(p, AF_UNIX, AF_UNIX);
    load_type(p);
    IF_ONE_OF(p, SOCK_STREAM);
}

static void if_harmless_ioctl(struct program *p)
{
    load_low(p, 1);
    IF_ONE_OF(p, FIOCLEX, FIONCLEX, FIONBIO, FIONREAD, TCGETS, BLKZEROOUT, BLKSSZGET,
              BLKPBSZGET, BLKGETSIZE64);
}

/* No signals by way of a descriptor's owner, no leases. */
static void if_harmless_fcntl(struct program *p)
{
    load_low(p, 1);
    IF_ONE_OF(p, F_DUPFD, F_DUPFD_CLOEXEC, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_GETLK,
              F_SETLK, F_SETLKW, F_OFD_GETLK, F_OFD_SETLK, F_OFD_SETLKW);
}

/* What libcurl, libnfs and the resolver set, and nothing of the rest, which is a large
 * part of the kernel (ULPs, filters, routing headers, multicast). Not SO_SNDTIMEO: the
 * broker of connections relies on its own (agent/broker.py). */
static void if_harmless_option(struct program *p)
{
    static const struct {
        uint32_t level, name;
    } options[] = {
        {SOL_SOCKET, SO_KEEPALIVE},  {SOL_SOCKET, SO_LINGER},
        {SOL_SOCKET, SO_REUSEADDR},  {IPPROTO_TCP, TCP_KEEPCNT},
        {IPPROTO_TCP, TCP_KEEPIDLE}, {IPPROTO_TCP, TCP_KEEPINTVL},
        {IPPROTO_TCP, TCP_NODELAY},  {IPPROTO_TCP, TCP_SYNCNT},
        {IPPROTO_IP, IP_RECVERR},    {IPPROTO_IPV6, IPV6_RECVERR},
    };

    for (size_t i = 0; i < sizeof options / sizeof *options; i++) {
        load_low(p, 1);
        put(p, BPF_JMP | BPF_JEQ | BPF_K, 0, 3, options[i].level);
        load_low(p, 2);
        put(p, BPF_JMP | BPF_JEQ | BPF_K, 0, 1, options[i].name);
        end(p, ALLOWED);
    }
    end(p, FORBIDDEN);
}

/* Memory that RLIMIT_DATA counts: not what is shared without a file, nor what grows as
 * a stack does. */
static void if_counted(struct program *p)
{
    load_low(p, 3);
    put(p, BPF_JMP | BPF_JSET | BPF_K, 4, 0, MAP_GROWSDOWN);
    put(p, BPF_JMP | BPF_JSET | BPF_K, 0, 2, MAP_ANONYMOUS);
    put(p, BPF_ALU | BPF_AND | BPF_K, 0, 0, MAP_TYPE);
    put(p, BPF_JMP | BPF_JEQ | BPF_K, 0, 1, MAP_PRIVATE);
    end(p, ALLOWED);
    end(p, FORBIDDEN);
}

static void if_naming(struct program *p)
{
    load_low(p, 0);
    IF_ONE_OF(p, PR_SET_NAME, PR_GET_NAME, PR_SET_VMA);
}

/* ---- the list -------------------------------------------------------------------- */

static const unsigned free_calls[] = {
    /* memory */
    __NR_brk,
    __NR_madvise,
    __NR_mincore,
    __NR_mprotect,
    __NR_mremap,
    __NR_munmap,
    /* threads and time */
    __NR_clock_getres,
    __NR_clock_gettime,
    __NR_clock_nanosleep,
    __NR_exit,
    __NR_exit_group,
    __NR_futex,
    __NR_get_robust_list,
    __NR_getcpu,
    __NR_getrusage,
    __NR_gettid,
    __NR_gettimeofday,
    __NR_membarrier,
    __NR_nanosleep,
    __NR_restart_syscall,
    __NR_rseq,
    __NR_sched_getaffinity,
    __NR_sched_yield,
    __NR_set_robust_list,
    __NR_set_tid_address,
    __NR_times,
    /* who and where am I */
    __NR_capget,
    __NR_getegid,
    __NR_geteuid,
    __NR_getgid,
    __NR_getgroups,
    __NR_getpgid,
    __NR_getpid,
    __NR_getppid,
    __NR_getresgid,
    __NR_getresuid,
    __NR_getsid,
    __NR_getuid,
    __NR_sysinfo,
    __NR_umask,
    __NR_uname,
    /* signals to itself */
    __NR_rt_sigaction,
    __NR_rt_sigpending,
    __NR_rt_sigprocmask,
    __NR_rt_sigreturn,
    __NR_rt_sigsuspend,
    __NR_rt_sigtimedwait,
    __NR_sigaltstack,
    /* descriptors */
    __NR_close,
    __NR_close_range,
    __NR_copy_file_range,
    __NR_dup,
    __NR_dup3,
    __NR_fadvise64,
    __NR_fallocate,
    __NR_fdatasync,
    __NR_flock,
    __NR_fstat,
    __NR_fstatfs,
    __NR_fsync,
    __NR_ftruncate,
    __NR_lseek,
    __NR_pipe2,
    __NR_pread64,
    __NR_preadv,
    __NR_preadv2,
    __NR_pwrite64,
    __NR_pwritev,
    __NR_pwritev2,
    __NR_read,
    __NR_readv,
    __NR_sendfile,
    __NR_sync_file_range,
    __NR_write,
    __NR_writev,
    /* names: Landlock and permissions say which */
    __NR_chdir,
    __NR_faccessat,
    __NR_faccessat2,
    __NR_fchdir,
    __NR_getcwd,
    __NR_getdents64,
    __NR_linkat,
    __NR_newfstatat,
    __NR_readlinkat,
    __NR_renameat,
    __NR_renameat2,
    __NR_statfs,
    __NR_statx,
    __NR_truncate,
    __NR_unlinkat,
    /* waiting */
    __NR_epoll_create1,
    __NR_epoll_ctl,
    __NR_epoll_pwait,
    __NR_epoll_pwait2,
    __NR_eventfd2,
    __NR_ppoll,
    __NR_pselect6,
    __NR_timerfd_create,
    __NR_timerfd_gettime,
    __NR_timerfd_settime,
    /* sockets that exist */
    __NR_getpeername,
    __NR_getsockname,
    __NR_getsockopt,
    __NR_recvfrom,
    __NR_recvmsg,
    __NR_shutdown,
    __NR_getrandom,
#ifdef __x86_64__
    /* the older spellings */
    __NR_access,
    __NR_arch_prctl,
    __NR_dup2,
    __NR_epoll_create,
    __NR_epoll_wait,
    __NR_getdents,
    __NR_getpgrp,
    __NR_getrlimit,
    __NR_lstat,
    __NR_link,
    __NR_pipe,
    __NR_poll,
    __NR_readlink,
    __NR_rename,
    __NR_rmdir,
    __NR_select,
    __NR_stat,
    __NR_time,
    __NR_unlink,
#endif
};

struct rule {
    unsigned call;
    void (*condition)(struct program *p);
};

static void mode_in_1(struct program *p)
{
    if_plain_mode(p, 1);
}
static void mode_in_2(struct program *p)
{
    if_plain_mode(p, 2);
}
static void mode_in_3(struct program *p)
{
    if_plain_mode(p, 3);
}
/* sendto() without an address; sendmsg(), which hides one from us, is not on the list.
 */
static void to_the_peer(struct program *p)
{
    if_null(p, 4);
}

static const struct rule bounded_calls[] = {
    {__NR_clone, if_thread},           {__NR_fcntl, if_harmless_fcntl},
    {__NR_fchmod, mode_in_1},          {__NR_fchmodat, mode_in_2},
    {__NR_ioctl, if_harmless_ioctl},   {__NR_mkdirat, mode_in_2},
    {__NR_openat, mode_in_3},          {__NR_prctl, if_naming},
    {__NR_mmap, if_counted},           {__NR_prlimit64, if_self},
    {__NR_sendto, to_the_peer},        {__NR_setsockopt, if_harmless_option},
    {__NR_socketpair, if_stream_pair}, {__NR_tgkill, if_self},
#ifdef __x86_64__
    {__NR_chmod, mode_in_1},           {__NR_creat, mode_in_1},
    {__NR_mkdir, mode_in_1},           {__NR_open, mode_in_2},
#endif
};

/* ---- the program ----------------------------------------------------------------- */

/* `condition` decides about `call`; the call's number is in the accumulator, before and
 * after. */
static void rule(struct program *p, unsigned call, void (*condition)(struct program *p),
                 uint32_t action)
{
    unsigned short at = p->n;

    put(p, BPF_JMP | BPF_JEQ | BPF_K, 0, 0, call);
    if (condition)
        condition(p);
    else
        end(p, action);
    if (at < PROGRAM_MAX)
        p->code[at].jf = (uint8_t)(p->n - at - 1);
}

static int build(struct program *p, unsigned allow)
{
    p->n = 0;
    load(p, offsetof(struct seccomp_data, arch));
    put(p, BPF_JMP | BPF_JEQ | BPF_K, 1, 0, ARCH);
    end(p, SECCOMP_RET_KILL_PROCESS);
    load(p, offsetof(struct seccomp_data, nr));
    put(p, BPF_JMP | BPF_JGE | BPF_K, 0, 1, X32_BIT);
    end(p, UNKNOWN);
    for (size_t i = 0; i < sizeof free_calls / sizeof *free_calls; i++)
        rule(p, free_calls[i], NULL, ALLOWED);
    for (size_t i = 0; i < sizeof bounded_calls / sizeof *bounded_calls; i++)
        rule(p, bounded_calls[i].call, bounded_calls[i].condition, FORBIDDEN);
    if (allow & FDL_CONFINE_NETWORK) {
        bool brokered = allow & FDL_CONFINE_BROKER;
        rule(p, __NR_socket, if_ip_socket, FORBIDDEN);
        rule(p, __NR_connect, NULL, brokered ? SECCOMP_RET_USER_NOTIF : ALLOWED);
        /* EACCES: what libnfs takes for "no ports below 1024 for this user". */
        rule(p, __NR_bind, NULL,
             brokered ? SECCOMP_RET_USER_NOTIF : SECCOMP_RET_ERRNO | EACCES);
    } else {
        rule(p, __NR_socket, NULL, FORBIDDEN);
    }
    if (allow & FDL_CONFINE_PROGRAM)
        rule(p, __NR_execve, NULL, ALLOWED);
    end(p, UNKNOWN);
    return p->n <= PROGRAM_MAX ? 0 : E2BIG;
}

int fdl_confine_calls(unsigned allow, int *listener)
{
    struct program p;
    unsigned flags = allow & FDL_CONFINE_BROKER ? SECCOMP_FILTER_FLAG_NEW_LISTENER : 0;
    int rc = build(&p, allow);

    if (rc != 0)
        return rc;
    struct sock_fprog whole = {.len = p.n, .filter = p.code};
    long fd = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &whole);
    if (fd < 0)
        return errno;
    if (listener)
        *listener = flags ? (int)fd : -1;
    return 0;
}

#else

int fdl_confine_calls(unsigned allow, int *listener)
{
    (void)allow, (void)listener;
    return ENOSYS;
}

#endif
