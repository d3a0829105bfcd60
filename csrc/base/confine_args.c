/* SPDX-License-Identifier: Apache-2.0 */
/* base/confine_args.c - which arguments a call may have that is not allowed with all.
 */
#include "base/confine_priv.h"

#ifdef FDL_CONFINE_ARCH

#include <fcntl.h>
#include <linux/fs.h>
#include <linux/prctl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef PR_SET_VMA
#define PR_SET_VMA 0x53564d41 /* glibc names its memory */
#endif
#ifndef F_OFD_GETLK
#define F_OFD_GETLK 36
#define F_OFD_SETLK 37
#define F_OFD_SETLKW 38
#endif

/* ---- instructions ---------------------------------------------------------------- */

void fdl_program_put(struct fdl_program *p, unsigned code, unsigned yes, unsigned no,
                     uint32_t k)
{
    /* One too many is seen at the end: see confine.c. */
    if (p->n < FDL_PROGRAM_MAX)
        p->code[p->n] = (struct sock_filter){
            .code = (uint16_t)code, .jt = (uint8_t)yes, .jf = (uint8_t)no, .k = k};
    p->n++;
}

void fdl_program_load(struct fdl_program *p, size_t offset)
{
    fdl_program_put(p, BPF_LD | BPF_W | BPF_ABS, 0, 0, (uint32_t)offset);
}

/* The lower half is all that the kernel takes of an int; both machines are
 * little-endian.
 */
static void load_low(struct fdl_program *p, unsigned arg)
{
    fdl_program_load(p, offsetof(struct seccomp_data, args) + 8 * (size_t)arg);
}

static void load_high(struct fdl_program *p, unsigned arg)
{
    fdl_program_load(p, offsetof(struct seccomp_data, args) + 8 * (size_t)arg + 4);
}

void fdl_program_end(struct fdl_program *p, uint32_t action)
{
    fdl_program_put(p, BPF_RET | BPF_K, 0, 0, action);
}

/* ---- conditions: each ends the program ------------------------------------------- */

static void if_one_of(struct fdl_program *p, const uint32_t *values, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        fdl_program_put(p, BPF_JMP | BPF_JEQ | BPF_K, n - i, 0, values[i]);
    fdl_program_end(p, FDL_CALL_FORBIDDEN);
    fdl_program_end(p, FDL_CALL_ALLOWED);
}
#define IF_ONE_OF(p, ...)                                                              \
    do {                                                                               \
        const uint32_t values[] = {__VA_ARGS__};                                       \
        if_one_of(p, values, sizeof values / sizeof *values);                          \
    } while (0)

/* A test of the loaded word that ends the program where it fails. */
static void require(struct fdl_program *p, uint32_t a, uint32_t b)
{
    fdl_program_put(p, BPF_JMP | BPF_JEQ | BPF_K, 2, 0, a);
    fdl_program_put(p, BPF_JMP | BPF_JEQ | BPF_K, 1, 0, b);
    fdl_program_end(p, FDL_CALL_FORBIDDEN);
}

static void if_no_bits(struct fdl_program *p, unsigned arg, uint32_t bits)
{
    load_low(p, arg);
    fdl_program_put(p, BPF_JMP | BPF_JSET | BPF_K, 1, 0, bits);
    fdl_program_end(p, FDL_CALL_ALLOWED);
    fdl_program_end(p, FDL_CALL_FORBIDDEN);
}

static void if_plain_mode(struct fdl_program *p, unsigned arg)
{
    if_no_bits(p, arg, S_ISUID | S_ISGID | S_ISVTX);
}

static void if_null(struct fdl_program *p, unsigned arg)
{
    load_low(p, arg);
    fdl_program_put(p, BPF_JMP | BPF_JEQ | BPF_K, 0, 2, 0);
    load_high(p, arg);
    fdl_program_put(p, BPF_JMP | BPF_JEQ | BPF_K, 1, 0, 0);
    fdl_program_end(p, FDL_CALL_FORBIDDEN);
    fdl_program_end(p, FDL_CALL_ALLOWED);
}

/* The first argument, a process, is 0 or ourselves. */
static void if_self(struct fdl_program *p)
{
    load_low(p, 0);
    IF_ONE_OF(p, 0, (uint32_t)getpid());
}

static void if_thread(struct fdl_program *p)
{
    load_low(p, 0);
    fdl_program_put(p, BPF_JMP | BPF_JSET | BPF_K, 0, 2, CLONE_THREAD);
    fdl_program_put(p, BPF_JMP | BPF_JSET | BPF_K, 1, 0,
                    CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC |
                        CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET);
    fdl_program_end(p, FDL_CALL_ALLOWED);
    fdl_program_end(p, FDL_CALL_FORBIDDEN);
}

static void load_type(struct fdl_program *p)
{
    load_low(p, 1);
    fdl_program_put(p, BPF_ALU | BPF_AND | BPF_K, 0, 0,
                    ~(uint32_t)(SOCK_CLOEXEC | SOCK_NONBLOCK));
}

void fdl_confine_if_ip_socket(struct fdl_program *p)
{
    load_low(p, 0);
    require(p, AF_INET, AF_INET6);
    load_type(p);
    require(p, SOCK_STREAM, SOCK_DGRAM);
    load_low(p, 2);
    IF_ONE_OF(p, 0, IPPROTO_TCP, IPPROTO_UDP);
}

/* Not of datagrams: those could be sent to any socket that has a name. */
static void if_stream_pair(struct fdl_program *p)
{
    load_low(p, 0);
    require(p, AF_UNIX, AF_UNIX);
    load_type(p);
    IF_ONE_OF(p, SOCK_STREAM);
}

static void if_harmless_ioctl(struct fdl_program *p)
{
    load_low(p, 1);
    IF_ONE_OF(p, FIOCLEX, FIONCLEX, FIONBIO, FIONREAD, TCGETS, BLKZEROOUT, BLKSSZGET,
              BLKPBSZGET, BLKGETSIZE64);
}

/* No signals by way of a descriptor's owner, no leases. */
static void if_harmless_fcntl(struct fdl_program *p)
{
    load_low(p, 1);
    IF_ONE_OF(p, F_DUPFD, F_DUPFD_CLOEXEC, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_GETLK,
              F_SETLK, F_SETLKW, F_OFD_GETLK, F_OFD_SETLK, F_OFD_SETLKW);
}

/* What libcurl, libnfs and the resolver set, and nothing of the rest, which is a large
 * part of the kernel (ULPs, filters, routing headers, multicast). Not SO_SNDTIMEO: the
 * broker of connections relies on its own (agent/broker.py). */
static void if_harmless_option(struct fdl_program *p)
{
    static const struct {
        uint32_t level, name;
    } options[] = {
        {SOL_SOCKET, SO_KEEPALIVE},   {SOL_SOCKET, SO_LINGER},
        {SOL_SOCKET, SO_RCVLOWAT},    {SOL_SOCKET, SO_REUSEADDR},
        {IPPROTO_TCP, TCP_KEEPCNT},   {IPPROTO_TCP, TCP_KEEPIDLE},
        {IPPROTO_TCP, TCP_KEEPINTVL}, {IPPROTO_TCP, TCP_NODELAY},
        {IPPROTO_TCP, TCP_SYNCNT},    {IPPROTO_IP, IP_RECVERR},
        {IPPROTO_IPV6, IPV6_RECVERR},
    };

    for (size_t i = 0; i < sizeof options / sizeof *options; i++) {
        load_low(p, 1);
        fdl_program_put(p, BPF_JMP | BPF_JEQ | BPF_K, 0, 3, options[i].level);
        load_low(p, 2);
        fdl_program_put(p, BPF_JMP | BPF_JEQ | BPF_K, 0, 1, options[i].name);
        fdl_program_end(p, FDL_CALL_ALLOWED);
    }
    fdl_program_end(p, FDL_CALL_FORBIDDEN);
}

/* Memory that RLIMIT_DATA counts: not what is shared without a file, nor what grows as
 * a stack does. */
static void if_counted(struct fdl_program *p)
{
    load_low(p, 3);
    fdl_program_put(p, BPF_JMP | BPF_JSET | BPF_K, 4, 0, MAP_GROWSDOWN);
    fdl_program_put(p, BPF_JMP | BPF_JSET | BPF_K, 0, 2, MAP_ANONYMOUS);
    fdl_program_put(p, BPF_ALU | BPF_AND | BPF_K, 0, 0, MAP_TYPE);
    fdl_program_put(p, BPF_JMP | BPF_JEQ | BPF_K, 0, 1, MAP_PRIVATE);
    fdl_program_end(p, FDL_CALL_ALLOWED);
    fdl_program_end(p, FDL_CALL_FORBIDDEN);
}

static void if_naming(struct fdl_program *p)
{
    load_low(p, 0);
    IF_ONE_OF(p, PR_SET_NAME, PR_GET_NAME, PR_SET_VMA);
}

/* ---- the calls ------------------------------------------------------------------- */

static void mode_in_1(struct fdl_program *p)
{
    if_plain_mode(p, 1);
}
static void mode_in_2(struct fdl_program *p)
{
    if_plain_mode(p, 2);
}
static void mode_in_3(struct fdl_program *p)
{
    if_plain_mode(p, 3);
}
/* sendto() without an address; sendmsg(), which hides one from us, is not on the list.
 */
static void to_the_peer(struct fdl_program *p)
{
    if_null(p, 4);
}

const struct fdl_confine_rule fdl_confine_bounded[] = {
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

const size_t fdl_confine_n_bounded =
    sizeof fdl_confine_bounded / sizeof *fdl_confine_bounded;

#endif
