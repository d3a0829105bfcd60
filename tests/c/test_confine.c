/* SPDX-License-Identifier: Apache-2.0 */
/* test_confine.c - what a process may ask of the kernel after fdl_confine_calls(): each
 * line is tried in a child of its own, as root where the test runs as root, so that it
 * is the filter which refuses. The attacks with all other protections in force are
 * tests/integration/test_confinement.py. */
#undef NDEBUG
#include "base/confine.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#define NETWORK FDL_CONFINE_NETWORK

static int parent_pid;

/* Runs `attempt` confined in a child; its errno, 0 where it succeeded, -1 where the
 * child died. */
static int tried(unsigned allow, long (*attempt)(void))
{
    parent_pid = getpid();
    pid_t child = fork();
    int status;

    assert(child >= 0);
    if (child == 0) {
        assert(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
        if (fdl_confine_calls(allow, NULL) != 0)
            _exit(255);
        errno = 0;
        _exit(attempt() < 0 ? errno : 0);
    }
    assert(waitpid(child, &status, 0) == child);
    if (!WIFEXITED(status))
        return -1;
    if (WEXITSTATUS(status) == 255) {
        printf("skip: no filter on this machine\n");
        exit(0);
    }
    return WEXITSTATUS(status);
}

#define LINE(name, ...)                                                                \
    static long name(void)                                                             \
    {                                                                                  \
        return __VA_ARGS__;                                                            \
    }

static long option(int level, int name)
{
    int fd = socket(AF_INET6, SOCK_STREAM, 0), one = 1;

    return setsockopt(fd, level, name, &one, sizeof one);
}

static long map(int flags)
{
    return mmap(NULL, 4096, PROT_READ | PROT_WRITE, flags, -1, 0) == MAP_FAILED ? -1
                                                                                : 0;
}

/* ---- refused -----------------------------------------------------------------------
 */

LINE(new_process, syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0))
LINE(new_namespace, syscall(SYS_unshare, CLONE_NEWUSER))
LINE(thread_in_namespace,
     syscall(SYS_clone, CLONE_THREAD | CLONE_SIGHAND | CLONE_VM | CLONE_NEWNET, 0, 0, 0,
             0))
LINE(clone3, syscall(SYS_clone3, NULL, 0))
LINE(program, execl("/bin/true", "true", (char *)NULL))
LINE(kill_parent, kill(parent_pid, 0))
LINE(thread_of_parent, syscall(SYS_tgkill, parent_pid, parent_pid, 0))
LINE(trace, syscall(SYS_ptrace, 16 /* ATTACH */, parent_pid, 0, 0))
LINE(read_memory, syscall(SYS_process_vm_readv, parent_pid, NULL, 0, NULL, 0, 0))
LINE(take_descriptor, syscall(438 /* pidfd_getfd */, 0, 0, 0))
LINE(pidfd, syscall(434 /* pidfd_open */, parent_pid, 0))
LINE(limit_parent, syscall(SYS_prlimit64, parent_pid, RLIMIT_NOFILE, NULL, NULL))
LINE(mount_something, syscall(SYS_mount, "none", "/", "tmpfs", 0, NULL))
LINE(new_mount, syscall(430 /* fsopen */, "tmpfs", 0))
LINE(change_root, syscall(SYS_chroot, "/"))
LINE(device_node, syscall(SYS_mknodat, AT_FDCWD, "/tmp/fdl-node", S_IFCHR | 0600, 0))
LINE(uring, syscall(425 /* io_uring_setup */, 8, NULL))
LINE(bpf, syscall(SYS_bpf, 0, NULL, 0))
LINE(perf, syscall(SYS_perf_event_open, NULL, 0, -1, -1, 0))
LINE(keys, syscall(SYS_keyctl, 0, -3, 0, 0, 0))
LINE(new_key, syscall(SYS_add_key, "user", "x", "x", 1, -2))
LINE(faults, syscall(SYS_userfaultfd, 0))
LINE(module, syscall(SYS_finit_module, 0, "", 0))
LINE(reboot_machine, syscall(SYS_reboot, 0, 0, 0, NULL))
LINE(hidden_file, syscall(SYS_memfd_create, "x", 0))
LINE(hidden_mode, syscall(437 /* openat2 */, AT_FDCWD, "/", NULL, 0))
LINE(symlink_it, syscall(SYS_symlinkat, "/", AT_FDCWD, "/tmp/fdl-link"))
LINE(own_it, syscall(SYS_fchown, 0, 0, 0))
LINE(become_root, syscall(SYS_setresuid, 0, 0, 0))
LINE(set_host_name, syscall(SYS_sethostname, "x", 1))
LINE(set_clock, syscall(SYS_clock_settime, 0, NULL))
LINE(more_dumpable, prctl(PR_SET_DUMPABLE, 1, 0, 0, 0))
LINE(other_filter, syscall(SYS_seccomp, 0, 0, NULL))
LINE(set_id_of_open, openat(AT_FDCWD, "/dev/null", O_RDONLY | O_CREAT, 04600))
LINE(set_id_of_folder, syscall(SYS_mkdirat, AT_FDCWD, "/tmp/fdl-d", 02700))
LINE(set_id_later, fchmod(0, 04700))
LINE(set_id_by_name, syscall(SYS_fchmodat, AT_FDCWD, "/dev/null", 02666))
LINE(type_for_another, ioctl(0, TIOCSTI, "x"))
LINE(discard, ioctl(0, BLKDISCARD, NULL))
LINE(signal_by_descriptor, fcntl(0, F_SETOWN, parent_pid))
LINE(unix_socket, socket(AF_UNIX, SOCK_STREAM, 0))
LINE(unix_datagrams, socketpair(AF_UNIX, SOCK_DGRAM, 0, (int[2]){0, 0}))
LINE(raw_socket, socket(AF_INET, SOCK_RAW, IPPROTO_ICMP))
LINE(ping_socket, socket(AF_INET, SOCK_DGRAM, IPPROTO_ICMP))
LINE(other_protocol, socket(AF_INET, SOCK_STREAM, 262 /* MPTCP */))
LINE(packet_socket, socket(AF_PACKET, SOCK_DGRAM, 0))
LINE(netlink_socket, socket(AF_NETLINK, SOCK_RAW, 0))
LINE(vsock, socket(AF_VSOCK, SOCK_STREAM, 0))
LINE(alg_socket, socket(AF_ALG, SOCK_SEQPACKET, 0))
LINE(listen_anywhere, listen(0, 1))
LINE(bind_anywhere, bind(0, NULL, 0))
LINE(to_any_address, sendto(1, "x", 1, 0, (struct sockaddr *)&parent_pid, 4))
LINE(to_any_message, sendmsg(1, NULL, 0))
LINE(wait_for_sending, option(SOL_SOCKET, SO_SNDTIMEO))
LINE(socket_filter, option(SOL_SOCKET, SO_ATTACH_FILTER))
LINE(by_device, option(SOL_SOCKET, SO_BINDTODEVICE))
LINE(other_layer, option(IPPROTO_TCP, 31 /* TCP_ULP */))
LINE(repaired, option(IPPROTO_TCP, 19 /* TCP_REPAIR */))
LINE(multicast, option(IPPROTO_IP, IP_ADD_MEMBERSHIP))
LINE(source_route, option(IPPROTO_IP, IP_OPTIONS))
LINE(net_filter, option(IPPROTO_IP, 64 /* IPT_SO_SET_REPLACE */))
LINE(routing_header, option(IPPROTO_IPV6, IPV6_RTHDR))
LINE(name_of_another_level, option(IPPROTO_IP, TCP_SYNCNT))
LINE(tls_records, option(282 /* SOL_TLS */, 1))
LINE(shared_memory, map(MAP_SHARED | MAP_ANONYMOUS))
LINE(growing_memory, map(MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN))
LINE(old_numbers, syscall(0x40000000 | 39))

/* ---- allowed -----------------------------------------------------------------------
 */

static void *nothing(void *arg)
{
    return arg;
}

static long thread(void)
{
    pthread_t t;

    errno = pthread_create(&t, NULL, nothing, NULL);
    return errno || pthread_join(t, NULL) ? -1 : 0;
}

LINE(tcp, socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, IPPROTO_TCP))
LINE(udp6, socket(AF_INET6, SOCK_DGRAM, 0))
LINE(stream_pair, socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, (int[2]){0, 0}))
LINE(read_a_file, openat(AT_FDCWD, "/dev/null", O_RDONLY))
LINE(duplicate, fcntl(2, F_DUPFD_CLOEXEC, 3))
LINE(wake_up, (long)syscall(SYS_eventfd2, 0, 0))
LINE(own_limits, getrlimit(RLIMIT_NOFILE, &(struct rlimit){0}))
LINE(no_delay, option(IPPROTO_TCP, TCP_NODELAY))
LINE(keep_alive, option(SOL_SOCKET, SO_KEEPALIVE))
LINE(bytes_at_once, option(SOL_SOCKET, SO_RCVLOWAT))
LINE(errors_of_datagrams, option(IPPROTO_IPV6, IPV6_RECVERR))
LINE(memory, map(MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK))
LINE(own_thread, syscall(SYS_tgkill, getpid(), getpid(), 0))

static void what_no_download_needs_is_refused(void)
{
    static const struct {
        const char *name;
        long (*attempt)(void);
        int why;
    } lines[] = {
#define L(name, why) {#name, name, why}
        L(new_process, EPERM),
        L(new_namespace, ENOSYS),
        L(thread_in_namespace, EPERM),
        L(clone3, ENOSYS),
        L(program, ENOSYS),
        L(kill_parent, ENOSYS),
        L(thread_of_parent, EPERM),
        L(trace, ENOSYS),
        L(read_memory, ENOSYS),
        L(take_descriptor, ENOSYS),
        L(pidfd, ENOSYS),
        L(limit_parent, EPERM),
        L(mount_something, ENOSYS),
        L(new_mount, ENOSYS),
        L(change_root, ENOSYS),
        L(device_node, ENOSYS),
        L(uring, ENOSYS),
        L(bpf, ENOSYS),
        L(perf, ENOSYS),
        L(keys, ENOSYS),
        L(new_key, ENOSYS),
        L(faults, ENOSYS),
        L(module, ENOSYS),
        L(reboot_machine, ENOSYS),
        L(hidden_file, ENOSYS),
        L(hidden_mode, ENOSYS),
        L(symlink_it, ENOSYS),
        L(own_it, ENOSYS),
        L(become_root, ENOSYS),
        L(set_host_name, ENOSYS),
        L(set_clock, ENOSYS),
        L(more_dumpable, EPERM),
        L(other_filter, ENOSYS),
        L(set_id_of_open, EPERM),
        L(set_id_of_folder, EPERM),
        L(set_id_later, EPERM),
        L(set_id_by_name, EPERM),
        L(type_for_another, EPERM),
        L(discard, EPERM),
        L(signal_by_descriptor, EPERM),
        L(unix_socket, EPERM),
        L(unix_datagrams, EPERM),
        L(raw_socket, EPERM),
        L(ping_socket, EPERM),
        L(other_protocol, EPERM),
        L(packet_socket, EPERM),
        L(netlink_socket, EPERM),
        L(vsock, EPERM),
        L(alg_socket, EPERM),
        L(listen_anywhere, ENOSYS),
        L(bind_anywhere, EACCES),
        L(to_any_address, EPERM),
        L(to_any_message, ENOSYS),
        L(wait_for_sending, EPERM),
        L(socket_filter, EPERM),
        L(by_device, EPERM),
        L(other_layer, EPERM),
        L(repaired, EPERM),
        L(multicast, EPERM),
        L(source_route, EPERM),
        L(net_filter, EPERM),
        L(routing_header, EPERM),
        L(name_of_another_level, EPERM),
        L(tls_records, EPERM),
        L(shared_memory, EPERM),
        L(growing_memory, EPERM),
        L(old_numbers, ENOSYS),
    };
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        int got = tried(NETWORK, lines[i].attempt);
        if (got != lines[i].why)
            printf("%s: %s\n", lines[i].name, got < 0 ? "died" : strerror(got));
        assert(got == lines[i].why);
    }
}

static void what_a_download_needs_is_allowed(void)
{
    long (*const lines[])(void) = {thread,
                                   tcp,
                                   udp6,
                                   stream_pair,
                                   read_a_file,
                                   duplicate,
                                   wake_up,
                                   own_limits,
                                   own_thread,
                                   no_delay,
                                   keep_alive,
                                   bytes_at_once,
                                   errors_of_datagrams,
                                   memory};

    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++)
        assert(tried(NETWORK, lines[i]) == 0);
}

static void without_a_network_there_is_no_socket(void)
{
    assert(tried(0, tcp) == EPERM);
    assert(tried(0, udp6) == EPERM);
    assert(tried(0, read_a_file) == 0);
}

static void a_program_may_be_run_where_it_was_asked_for(void)
{
    assert(tried(FDL_CONFINE_PROGRAM, program) == 0);
    assert(tried(FDL_CONFINE_PROGRAM, new_process) == EPERM);
}

static void a_broker_gets_a_listener(void)
{
    pid_t child = fork();
    int status, listener = -1;

    if (child == 0) {
        prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        int rc = fdl_confine_calls(NETWORK | FDL_CONFINE_BROKER, &listener);
        _exit(rc == 0 ? listener < 0 : rc == EINVAL ? 0 : 2);
    }
    assert(waitpid(child, &status, 0) == child);
    assert(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

int main(void)
{
    what_no_download_needs_is_refused();
    what_a_download_needs_is_allowed();
    without_a_network_there_is_no_socket();
    a_program_may_be_run_where_it_was_asked_for();
    a_broker_gets_a_listener();
    return 0;
}
