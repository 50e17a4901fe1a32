/* A disk that fails on command, for real processes: loaded before libc (LD_PRELOAD), it lets fdatasync or pread of the files
   of one device fail with EIO for as long as a file of that name exists in $RINGSTEAD_FAULTS:

       sync-NAME    fdatasync below devices/NAME/
       read-NAME    pread below devices/NAME/log and devices/NAME/blobs

   All else goes to libc untouched. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static int fails(const char *what, int fd, int data_only) {
    const char *faults = getenv("RINGSTEAD_FAULTS");
    char link[64], path[4096], flag[4096 + 512];
    if (!faults)
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length <= 0)
        return 0;
    path[length] = 0;
    char *device = strstr(path, "/devices/");
    if (!device)
        return 0;
    device += strlen("/devices/");
    char *end = strchr(device, '/');
    if (!end || (data_only && strncmp(end, "/log/", 5) && strncmp(end, "/blobs/", 7)))
        return 0;
    snprintf(flag, sizeof flag, "%s/%s-%.*s", faults, what, (int)(end - device), device);
    return access(flag, F_OK) == 0;
}

int fdatasync(int fd) {
    static int (*next)(int);
    if (!next)
        next = dlsym(RTLD_NEXT, "fdatasync");
    if (fails("sync", fd, 0)) {
        errno = EIO;
        return -1;
    }
    return next(fd);
}

#define PREAD(name, offset_type)                                                                                           \
    ssize_t name(int fd, void *buffer, size_t count, offset_type offset) {                                                  \
        static ssize_t (*next)(int, void *, size_t, offset_type);                                                           \
        if (!next)                                                                                                          \
            next = dlsym(RTLD_NEXT, #name);                                                                                 \
        if (fails("read", fd, 1)) {                                                                                         \
            errno = EIO;                                                                                                    \
            return -1;                                                                                                      \
        }                                                                                                                   \
        return next(fd, buffer, count, offset);                                                                             \
    }

PREAD(pread, off_t)
PREAD(pread64, off64_t)
