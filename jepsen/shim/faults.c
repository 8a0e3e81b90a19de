/* Preloaded into a node: lets its disk fail to sync or to read, or dawdle, and its wall clock jump, as a file shared with the fault suite
 * says, and notes in that file how much of each of the node's files has been synced.
 *
 * Only what the node is told by the system is changed: nothing here knows of Quorate. The monotonic clock is never
 * touched, for nothing that keeps time correctly may jump there. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define SLOTS 65536

/* The layout is that of `nodes/shim.rs`. */
struct control {
    /* Set by the suite. */
    volatile int64_t clock_ahead_ns;
    volatile uint32_t syncs_fail;
    volatile uint32_t sync_delay_us;
    /* Counted here. */
    volatile uint64_t syncs;
    volatile uint64_t syncs_failed;
    volatile uint64_t syncs_delayed;
    volatile uint64_t clock_reads_ahead;
    /* Set by the suite. */
    volatile uint32_t reads_fail;
    uint32_t padding;
    /* Counted here. */
    volatile uint64_t reads_failed;
    char unused[4096 - 64];
    /* How long the file with an inode was when it was last synced. */
    struct {
        volatile uint64_t inode;
        volatile uint64_t synced_bytes;
    } files[SLOTS];
};

static struct control *control;

/* Found in the constructor, which is late: an allocator that is part of the program begins before it, and opens files.
 * What is asked of the kernel here needs no finding; only reading the clock is much slower that way. */
static int (*real_clock_gettime)(clockid_t, struct timespec *);

__attribute__((constructor)) static void begin(void) {
    real_clock_gettime = dlsym(RTLD_NEXT, "clock_gettime");
    const char *path = getenv("JEPSEN_SHIM");
    if (!path) return;
    int file = (int)syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC, 0);
    if (file < 0) return;
    void *at = mmap(NULL, sizeof(struct control), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (at != MAP_FAILED) control = at;
}

static void note(int file, int only_new) {
    struct stat about;
    if (fstat(file, &about) != 0 || !S_ISREG(about.st_mode)) return;
    if (only_new && about.st_size != 0) return;
    uint64_t inode = about.st_ino;
    for (uint32_t step = 0; step < SLOTS; step++) {
        uint32_t slot = (uint32_t)((inode * 2654435761u + step) % SLOTS);
        uint64_t free = 0;
        if (control->files[slot].inode == inode ||
            __atomic_compare_exchange_n(&control->files[slot].inode, &free, inode, 0, __ATOMIC_SEQ_CST,
                                        __ATOMIC_SEQ_CST) ||
            free == inode) {
            control->files[slot].synced_bytes = (uint64_t)about.st_size;
            return;
        }
    }
}

static int sync_with(int file, long call) {
    if (!control) return (int)syscall(call, file);
    __atomic_add_fetch(&control->syncs, 1, __ATOMIC_RELAXED);
    uint32_t delay = control->sync_delay_us;
    if (delay) {
        struct timespec pause = {delay / 1000000, (long)(delay % 1000000) * 1000};
        __atomic_add_fetch(&control->syncs_delayed, 1, __ATOMIC_RELAXED);
        nanosleep(&pause, NULL);
    }
    if (control->syncs_fail) {
        __atomic_add_fetch(&control->syncs_failed, 1, __ATOMIC_RELAXED);
        errno = EIO;
        return -1;
    }
    note(file, 0);
    return (int)syscall(call, file);
}

int fsync(int file) { return sync_with(file, SYS_fsync); }
int fdatasync(int file) { return sync_with(file, SYS_fdatasync); }

/* Whether a file holds what the node has stored: tables and large values, by RocksDB's endings. */
static int is_stored(int file) {
    char link[32], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 5) return 0;
    path[length] = 0;
    return strcmp(path + length - 4, ".sst") == 0 || strcmp(path + length - 5, ".blob") == 0;
}

static ssize_t reading(int file, void *into, size_t bytes, off_t from) {
    if (control && control->reads_fail && is_stored(file)) {
        __atomic_add_fetch(&control->reads_failed, 1, __ATOMIC_RELAXED);
        errno = EIO;
        return -1;
    }
    return (ssize_t)syscall(SYS_pread64, file, into, bytes, from);
}

ssize_t pread(int file, void *into, size_t bytes, off_t from) { return reading(file, into, bytes, from); }
ssize_t pread64(int file, void *into, size_t bytes, off_t from) { return reading(file, into, bytes, from); }

static int opening(int folder, const char *path, int flags, mode_t mode) {
    int file = (int)syscall(SYS_openat, folder, path, flags, mode);
    /* A file that is made takes over the number of one that is gone, not what of that one was synced. */
    if (control && file >= 0 && (flags & (O_CREAT | O_TRUNC))) note(file, 1);
    return file;
}

#define MODE_OF(flags)                                  \
    mode_t mode = 0;                                    \
    if (flags & (O_CREAT | O_TMPFILE)) {                \
        va_list more;                                   \
        va_start(more, flags);                          \
        mode = va_arg(more, mode_t);                    \
        va_end(more);                                   \
    }

int open(const char *path, int flags, ...) {
    MODE_OF(flags)
    return opening(AT_FDCWD, path, flags, mode);
}
int open64(const char *path, int flags, ...) {
    MODE_OF(flags)
    return opening(AT_FDCWD, path, flags, mode);
}
int openat(int folder, const char *path, int flags, ...) {
    MODE_OF(flags)
    return opening(folder, path, flags, mode);
}
int openat64(int folder, const char *path, int flags, ...) {
    MODE_OF(flags)
    return opening(folder, path, flags, mode);
}

static int64_t ahead_ns(void) {
    if (!control) return 0;
    int64_t ahead = control->clock_ahead_ns;
    if (ahead) __atomic_add_fetch(&control->clock_reads_ahead, 1, __ATOMIC_RELAXED);
    return ahead;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int result = real_clock_gettime ? real_clock_gettime(clock, now) : (int)syscall(SYS_clock_gettime, clock, now);
    if (result != 0 || (clock != CLOCK_REALTIME && clock != CLOCK_REALTIME_COARSE)) return result;
    int64_t ahead = ahead_ns();
    if (ahead) {
        int64_t all = (int64_t)now->tv_sec * 1000000000 + now->tv_nsec + ahead;
        now->tv_sec = all / 1000000000;
        now->tv_nsec = all % 1000000000;
    }
    return result;
}

int gettimeofday(struct timeval *now, void *zone) {
    (void)zone;
    struct timespec precise;
    int result = clock_gettime(CLOCK_REALTIME, &precise);
    if (result == 0) *now = (struct timeval){precise.tv_sec, precise.tv_nsec / 1000};
    return result;
}

time_t time(time_t *into) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (into) *into = now.tv_sec;
    return now.tv_sec;
}
