/* SPDX-License-Identifier: Apache-2.0 */
/* base/confine.c - the list of calls, and the filter program that is made of it. */
#include "base/confine.h"
#include "base/confine_priv.h"

#include <sys/syscall.h>
#include <unistd.h>

#ifdef FDL_CONFINE_ARCH

#include <stdbool.h>

#define X32_BIT 0x40000000u /* x86-64's second numbering of the same calls */

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

/* ---- the program ----------------------------------------------------------------- */

/* `condition` decides about `call`; the call's number is in the accumulator, before and
 * after. */
static void rule(struct fdl_program *p, unsigned call,
                 void (*condition)(struct fdl_program *p), uint32_t action)
{
    unsigned short at = p->n;

    fdl_program_put(p, BPF_JMP | BPF_JEQ | BPF_K, 0, 0, call);
    if (condition)
        condition(p);
    else
        fdl_program_end(p, action);
    if (at < FDL_PROGRAM_MAX)
        p->code[at].jf = (uint8_t)(p->n - at - 1);
}

static int build(struct fdl_program *p, unsigned allow)
{
    p->n = 0;
    fdl_program_load(p, offsetof(struct seccomp_data, arch));
    fdl_program_put(p, BPF_JMP | BPF_JEQ | BPF_K, 1, 0, FDL_CONFINE_ARCH);
    fdl_program_end(p, SECCOMP_RET_KILL_PROCESS);
    fdl_program_load(p, offsetof(struct seccomp_data, nr));
    fdl_program_put(p, BPF_JMP | BPF_JGE | BPF_K, 0, 1, X32_BIT);
    fdl_program_end(p, FDL_CALL_UNKNOWN);
    for (size_t i = 0; i < sizeof free_calls / sizeof *free_calls; i++)
        rule(p, free_calls[i], NULL, FDL_CALL_ALLOWED);
    for (size_t i = 0; i < fdl_confine_n_bounded; i++)
        rule(p, fdl_confine_bounded[i].call, fdl_confine_bounded[i].condition,
             FDL_CALL_FORBIDDEN);
    if (allow & FDL_CONFINE_NETWORK) {
        bool brokered = allow & FDL_CONFINE_BROKER;
        rule(p, __NR_socket, fdl_confine_if_ip_socket, FDL_CALL_FORBIDDEN);
        rule(p, __NR_connect, NULL,
             brokered ? SECCOMP_RET_USER_NOTIF : FDL_CALL_ALLOWED);
        /* EACCES: what libnfs takes for "no ports below 1024 for this user". */
        rule(p, __NR_bind, NULL,
             brokered ? SECCOMP_RET_USER_NOTIF : SECCOMP_RET_ERRNO | EACCES);
    } else {
        rule(p, __NR_socket, NULL, FDL_CALL_FORBIDDEN);
    }
    if (allow & FDL_CONFINE_PROGRAM)
        rule(p, __NR_execve, NULL, FDL_CALL_ALLOWED);
    fdl_program_end(p, FDL_CALL_UNKNOWN);
    return p->n <= FDL_PROGRAM_MAX ? 0 : E2BIG;
}

int fdl_confine_calls(unsigned allow, int *listener)
{
    struct fdl_program p;
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
