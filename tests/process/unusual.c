// Simulate an unusual machine with LD_PRELOAD: each call fails with the errno given in the environment variable of its
// name. With GETPWUID set, the system does not know the user.
#define _GNU_SOURCE
#include <errno.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <pwd.h>
#include <semaphore.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static int should_fail(const char *name) {
    const char *number = getenv(name);
    if (number) errno = atoi(number);
    return number != NULL;
}

// fails for folders only
int fsync(int file) {
    struct stat about;
    if (fstat(file, &about) == 0 && S_ISDIR(about.st_mode) && should_fail("FSYNC_FOLDER")) return -1;
    return syscall(SYS_fsync, file);
}

int flock(int file, int operation) { return should_fail("FLOCK") ? -1 : syscall(SYS_flock, file, operation); }

pid_t fork(void) {
    pid_t (*original)(void) = (pid_t (*)(void))dlsym(RTLD_NEXT, "fork");
    return should_fail("FORK") ? -1 : original();
}

sem_t *sem_open(const char *name, int flags, ...) {
    sem_t *(*original)(const char *, int, ...) = (sem_t * (*)(const char *, int, ...)) dlsym(RTLD_NEXT, "sem_open");
    va_list more;
    va_start(more, flags);
    mode_t mode = va_arg(more, mode_t);
    unsigned value = va_arg(more, unsigned);
    va_end(more);
    return should_fail("SEM_OPEN") ? SEM_FAILED : original(name, flags, mode, value);
}

int getpwuid_r(uid_t user, struct passwd *entry, char *buffer, size_t size, struct passwd **found) {
    int (*original)(uid_t, struct passwd *, char *, size_t, struct passwd **) =
        (int (*)(uid_t, struct passwd *, char *, size_t, struct passwd **))dlsym(RTLD_NEXT, "getpwuid_r");
    if (!should_fail("GETPWUID")) return original(user, entry, buffer, size, found);
    *found = NULL;
    return 0;
}
