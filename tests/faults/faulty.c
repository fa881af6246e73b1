// SPDX-License-Identifier: BSD-3-Clause
//
// A library to preload (LD_PRELOAD): some calls on some paths fail, or take
// seconds, and the clock is wrong. What it does is in the environment:
//
// FAULTY_PATH     paths that it is about, as fnmatch(3) has them
// FAULTY_CALLS    names of calls with blanks between and around them, such as
//                 " write fsync "; "*" for all
// FAULTY_FIRST    number of the first such call, in each process, that fails
// FAULTY_LAST     number of the last one; where it is unset, there is none
// FAULTY_ERRNO    with which number it fails; 0 for none
// FAULTY_SHORT    where set, the first write that fails writes one half
// FAULTY_DELAY    seconds that each such call takes
// FAULTY_CLOCK    a file with the seconds by which the clock is wrong
// FAULTY_PROCESS  the command lines that it is about, as fnmatch(3) has them

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define REAL(name) ((__typeof__(&name))real(#name))

static int count;

static void *real(const char *name) { return dlsym(RTLD_NEXT, name); }

static const char *setting(const char *name) {
    const char *value = getenv(name);
    return value && *value ? value : NULL;
}

static long number(const char *name) {
    const char *value = setting(name);
    return value ? atol(value) : 0;
}

// Read a small file without any call of this library.
static ssize_t contents(const char *path, char *text, size_t size) {
    int fd = (int)syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return -1;
    ssize_t length = syscall(SYS_read, fd, text, size - 1);
    syscall(SYS_close, fd);
    if (length >= 0) text[length] = 0;
    return length;
}

static int concerns_process(void) {
    const char *pattern = setting("FAULTY_PROCESS");
    char line[4096];
    if (!pattern) return 1;
    ssize_t length = contents("/proc/self/cmdline", line, sizeof line);
    for (ssize_t at = 0; at + 1 < length; at++)
        if (!line[at]) line[at] = ' ';
    return length > 0 && fnmatch(pattern, line, 0) == 0;
}

// Tell whether a call is to fail: 0 for no, 1 for the first time, 2 from then on.
static int fails(const char *call, const char *path) {
    const char *pattern = setting("FAULTY_PATH"), *calls = setting("FAULTY_CALLS");
    char word[40];
    if (!pattern || !calls || !path || fnmatch(pattern, path, 0)) return 0;
    snprintf(word, sizeof word, " %s ", call);
    if (strcmp(calls, "*") && !strstr(calls, word)) return 0;
    if (!concerns_process()) return 0;
    const char *delay = setting("FAULTY_DELAY");
    if (delay) {
        double seconds = atof(delay);
        struct timespec pause = {(time_t)seconds, (long)((seconds - (time_t)seconds) * 1e9)};
        nanosleep(&pause, NULL);
    }
    int first = (int)number("FAULTY_FIRST");
    int now = __atomic_add_fetch(&count, 1, __ATOMIC_SEQ_CST);
    if (now < first || !number("FAULTY_ERRNO")) return 0;
    if (setting("FAULTY_LAST") && now > number("FAULTY_LAST")) return 0;
    return now > first ? 2 : 1;
}

static int fails_here(const char *call, int fd) {
    char link[40], path[4096];
    if (!setting("FAULTY_PATH")) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = syscall(SYS_readlink, link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return fails(call, path);
}

static int failed(void) {
    errno = (int)number("FAULTY_ERRNO");
    return -1;
}

ssize_t write(int fd, const void *data, size_t size) {
    int how = fails_here("write", fd);
    if (how == 1 && setting("FAULTY_SHORT") && size > 1) return REAL(write)(fd, data, size / 2);
    return how ? failed() : REAL(write)(fd, data, size);
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t where) {
    return fails_here("pwrite", fd) ? failed() : REAL(pwrite64)(fd, data, size, where);
}

int fsync(int fd) { return fails_here("fsync", fd) ? failed() : REAL(fsync)(fd); }

int ftruncate64(int fd, off64_t size) {
    return fails_here("ftruncate", fd) ? failed() : REAL(ftruncate64)(fd, size);
}

static mode_t given_mode(int flags, va_list more) {
    return flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0;
}

#define OPEN(name)                                                        \
    int name(const char *path, int flags, ...) {                          \
        va_list more;                                                     \
        va_start(more, flags);                                            \
        mode_t mode = given_mode(flags, more);                            \
        va_end(more);                                                     \
        return fails("open", path) ? failed() : REAL(name)(path, flags, mode); \
    }

OPEN(open)
OPEN(open64)

#define OPENAT(name)                                                      \
    int name(int directory, const char *path, int flags, ...) {           \
        va_list more;                                                     \
        va_start(more, flags);                                            \
        mode_t mode = given_mode(flags, more);                            \
        va_end(more);                                                     \
        return fails("open", path) ? failed() : REAL(name)(directory, path, flags, mode); \
    }

OPENAT(openat)
OPENAT(openat64)

int rename(const char *from, const char *to) {
    return fails("rename", to) ? failed() : REAL(rename)(from, to);
}

int link(const char *from, const char *to) {
    return fails("link", to) ? failed() : REAL(link)(from, to);
}

int linkat(int from_directory, const char *from, int to_directory, const char *to, int flags) {
    return fails("link", to) ? failed() : REAL(linkat)(from_directory, from, to_directory, to, flags);
}

int mkdir(const char *path, mode_t mode) {
    return fails("mkdir", path) ? failed() : REAL(mkdir)(path, mode);
}

int stat64(const char *path, struct stat64 *found) {
    return fails("stat", path) ? failed() : REAL(stat64)(path, found);
}

int stat(const char *path, struct stat *found) {
    return fails("stat", path) ? failed() : REAL(stat)(path, found);
}

// The clock.

static long offset(void) {
    char text[40];
    const char *path = setting("FAULTY_CLOCK");
    if (!path || !concerns_process() || contents(path, text, sizeof text) <= 0) return 0;
    return atol(text);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int code = REAL(clock_gettime)(clock, now);
    if (!code && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += offset();
    return code;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    int code = REAL(gettimeofday)(now, zone);
    if (!code) now->tv_sec += offset();
    return code;
}

time_t time(time_t *now) {
    struct timespec found;
    clock_gettime(CLOCK_REALTIME, &found);
    if (now) *now = found.tv_sec;
    return found.tv_sec;
}

// Where the kernel's clock is wrong, so are the times that it gives to files.
int futimens(int fd, const struct timespec times[2]) {
    struct timespec both[2];
    if (!times && offset()) {
        clock_gettime(CLOCK_REALTIME, &both[0]);
        both[1] = both[0];
        times = both;
    }
    return REAL(futimens)(fd, times);
}
