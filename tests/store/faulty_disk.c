/* A disk that fails, to be loaded before a program: the TAUGATE_FAULT_SYNC-th sync of a store
 * fails once, and so do TAUGATE_FAULT_WRITES writes from the TAUGATE_FAULT_WRITE-th on. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static atomic_long syncs, writes;

static long setting(const char *name) {
    const char *text = getenv(name);
    return text ? atol(text) : 0;
}

static int is_store(int fd) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length <= 0) return 0;
    path[length] = 0;
    return strstr(path, "/store.db") != NULL;
}

static int sync_fails(int fd) {
    if (!is_store(fd) || ++syncs != setting("TAUGATE_FAULT_SYNC")) return 0;
    errno = EIO;
    return 1;
}

static int write_fails(int fd) {
    long first = setting("TAUGATE_FAULT_WRITE");
    if (first == 0 || !is_store(fd)) return 0;
    long number = ++writes;
    if (number < first || number >= first + setting("TAUGATE_FAULT_WRITES")) return 0;
    errno = ENOSPC;
    return 1;
}

int fsync(int fd) {
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
    return sync_fails(fd) ? -1 : real(fd);
}

int fdatasync(int fd) {
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
    return sync_fails(fd) ? -1 : real(fd);
}

ssize_t write(int fd, const void *from, size_t length) {
    ssize_t (*real)(int, const void *, size_t) =
        (ssize_t(*)(int, const void *, size_t))dlsym(RTLD_NEXT, "write");
    return write_fails(fd) ? -1 : real(fd, from, length);
}

ssize_t pwrite64(int fd, const void *from, size_t length, off_t at) {
    ssize_t (*real)(int, const void *, size_t, off_t) =
        (ssize_t(*)(int, const void *, size_t, off_t))dlsym(RTLD_NEXT, "pwrite64");
    return write_fails(fd) ? -1 : real(fd, from, length, at);
}

ssize_t pwrite(int fd, const void *from, size_t length, off_t at) {
    ssize_t (*real)(int, const void *, size_t, off_t) =
        (ssize_t(*)(int, const void *, size_t, off_t))dlsym(RTLD_NEXT, "pwrite");
    return write_fails(fd) ? -1 : real(fd, from, length, at);
}
