/* SPDX-License-Identifier: Apache-2.0 */
/* base/confine.h - which system calls may a process that reads hostile bytes still
 * make?
 *
 * A list of what it needs; everything else does not exist for it (ENOSYS), and what
 * exists is bounded by its arguments where they matter (EPERM): no process, no program,
 * no signal to others, no socket but TCP and UDP over IP, none that listens, no device
 * control but what a block device is zeroed with, no mode with set-user-id or
 * set-group-id.
 *
 * x86-64 and AArch64. */
#ifndef FDL_CONFINE_H
#define FDL_CONFINE_H

#define FDL_CONFINE_NETWORK 1u /* sockets, to connect with */
#define FDL_CONFINE_PROGRAM 2u /* execve, of a program that needs no other process */
/* connect and bind wait for the process that reads the listener, seccomp_unotify(2) */
#define FDL_CONFINE_BROKER 4u

/* Binds the calling thread, and all threads and programs it starts, for good.
 * no_new_privs must be set before. `allow`: FDL_CONFINE_*. With FDL_CONFINE_BROKER
 * *listener is set to the listener's descriptor (OWNED).
 *
 * Returns 0 or a positive errno: ENOSYS if the architecture or the kernel has no
 * filter, EINVAL if it has no listener. Then nothing has changed. */
int fdl_confine_calls(unsigned allow, int *listener);

#endif
