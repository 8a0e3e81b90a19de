/*
 * faultfs: dies at a chosen step of what a program does to its files, and takes away what it had not synced.
 *
 * One file, two uses:
 *
 *   cc -shared -fPIC -O1 -o faultfs.so faultfs.c -ldl -lpthread     to be preloaded (LD_PRELOAD) by the program
 *   cc -O1 -DFAULTFS_CUT -o faultfs-cut faultfs.c                   cuts the power once the program is dead
 *
 * The program is told by its environment:
 *
 *   FAULTFS_DIR       the folder whose files are watched, absolute, without symbolic links
 *   FAULTFS_STATE     a folder on the same file system and not inside FAULTFS_DIR, for the journal and for what a cut has
 *                     to bring back. Empty before the first program runs on FAULTFS_DIR; several in turn may use it, with
 *                     a cut between them or without
 *   FAULTFS_CRASH_AT  n: the process is killed in place of the n-th step, from 1
 *   FAULTFS_IGNORE    files whose names begin so are not watched (RocksDB's information log is "LOG")
 *   FAULTFS_CONTROL   a file that is looked at before each step, so that faults come and go while the program runs. Its
 *                     first word: "eio" (writes and syncs fail), "enospc" (writes and new files fail), "slow" and a
 *                     number of milliseconds (each sync takes that much longer), "hang" (a sync never ends, whatever
 *                     the file says later). Empty or absent: no fault
 *
 * A step is: a write of any kind, fsync and fdatasync of a file or folder, ftruncate, making a file, link, rename,
 * unlink, mkdir, rmdir. FAULTFS_STATE/steps holds their number, as 8 bytes in the machine's order.
 *
 *   faultfs-cut STATE DIR [SEED]
 *
 * makes DIR what a power cut leaves, and empties STATE. Without SEED, or with 0, everything is lost that may be: each file
 * ends where it was last synced, and changes of names since the last fsync of their folder are undone. With a SEED part
 * of it is kept, another part with each: a file ends anywhere between that and where it ended, and a first part of the
 * changes of names stands. With about half of the seeds any pages between are zeros besides: pages reach the disk in any
 * order, and a file's length before them.
 *
 * Not modelled: what is written through mmap, io_uring or raw system calls. Bytes that are written again within the synced
 * part of a file, and truncations, count as durable at once. The order in which files reach the disk is not known to
 * anybody: files are independent of each other, changes of names keep theirs. fsync of a file does not make its name
 * durable, which is what POSIX says and not what all file systems do.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

/*
 * The journal, one line for each:
 *   F ino length        this file is known, and durable up to there unless an earlier line says less
 *   S ino length        synced up to there
 *   T ino length        cut to there
 *   C path              a name was made
 *   M path              a folder was made
 *   R from TAB to TAB k renamed; k is the number under which STATE keeps what was at `to`, or 0
 *   U path TAB k        a name was removed, and is kept
 *   X path              a folder was removed
 *   D path              the names in a folder are durable
 */

#ifndef FAULTFS_CUT

static struct {
    char dir[PATH_MAX], state[PATH_MAX], ignore[64], control[PATH_MAX];
    size_t dir_len;
    int on, journal;
    uint64_t crash_at, kept;
    uint64_t *steps;
    pthread_mutex_t lock;
} fs = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* Known files. Their number is small; a slot whose file is gone is reused with its inode. */
#define FILES_MAX 65536
static struct file {
    ino_t ino;
    int64_t synced;
} files[FILES_MAX];

/* Names whose removal is not durable yet, and what is kept of them. */
#define PENDING_MAX 65536
static struct {
    char *dir;
    uint64_t kept;
} pending[PENDING_MAX];
static size_t pending_count;

#define REAL(result, name, ...)                                    \
    static result (*real)(__VA_ARGS__);                            \
    if (!real) real = (result(*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name)

static int real_openat(int at, const char *path, int flags, mode_t mode) {
    REAL(int, openat64, int, const char *, int, ...);
    return real(at, path, flags, mode);
}
static ssize_t real_write(int fd, const void *data, size_t size) {
    REAL(ssize_t, write, int, const void *, size_t);
    return real(fd, data, size);
}
static int real_linkat(int a, const char *from, int b, const char *to, int flags) {
    REAL(int, linkat, int, const char *, int, const char *, int);
    return real(a, from, b, to, flags);
}
static int real_unlinkat(int at, const char *path, int flags) {
    REAL(int, unlinkat, int, const char *, int);
    return real(at, path, flags);
}

static void give_up(const char *why) {
    dprintf(2, "faultfs: %s: %s\n", why, strerror(errno));
    _exit(111);
}

__attribute__((constructor)) static void begin(void) {
    const char *dir = getenv("FAULTFS_DIR"), *state = getenv("FAULTFS_STATE");
    if (!dir || !state) return;
    char path[PATH_MAX + 16];
    snprintf(fs.dir, sizeof fs.dir, "%s", dir);
    snprintf(fs.state, sizeof fs.state, "%s", state);
    fs.dir_len = strlen(fs.dir);
    if (getenv("FAULTFS_IGNORE")) snprintf(fs.ignore, sizeof fs.ignore, "%s", getenv("FAULTFS_IGNORE"));
    if (getenv("FAULTFS_CONTROL")) snprintf(fs.control, sizeof fs.control, "%s", getenv("FAULTFS_CONTROL"));
    if (getenv("FAULTFS_CRASH_AT")) fs.crash_at = strtoull(getenv("FAULTFS_CRASH_AT"), NULL, 10);
    snprintf(path, sizeof path, "%s/journal", fs.state);
    fs.journal = real_openat(AT_FDCWD, path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (fs.journal < 0) give_up(path);
    snprintf(path, sizeof path, "%s/steps", fs.state);
    int steps = real_openat(AT_FDCWD, path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    char zero[8] = {0};
    if (steps < 0 || real_write(steps, zero, 8) != 8) give_up(path);
    fs.steps = mmap(NULL, 8, PROT_READ | PROT_WRITE, MAP_SHARED, steps, 0);
    if (fs.steps == MAP_FAILED) give_up(path);
    /* No other program that uses this state has the same numbers. */
    fs.kept = (uint64_t)(time(NULL) & 0xffff) << 44 | (uint64_t)getpid() << 20;
    fs.on = 1;
}

static void note(const char *format, ...) {
    char line[3 * PATH_MAX];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    if (real_write(fs.journal, line, (size_t)length) != length) give_up("journal");
}

/* The path as seen from the root, without "." and "..". No link is followed: there is none in what is watched. */
static int absolute(int at, const char *path, char *out) {
    char joined[2 * PATH_MAX], base[PATH_MAX] = "";
    if (path[0] != '/') {
        if (at == AT_FDCWD) {
            if (!getcwd(base, sizeof base)) return 0;
        } else {
            char link[64];
            snprintf(link, sizeof link, "/proc/self/fd/%d", at);
            ssize_t length = readlink(link, base, sizeof base - 1);
            if (length < 0) return 0;
            base[length] = 0;
        }
    }
    snprintf(joined, sizeof joined, "%s/%s", base, path);
    size_t length = 0;
    for (char *rest, *part = strtok_r(joined, "/", &rest); part; part = strtok_r(NULL, "/", &rest)) {
        if (!strcmp(part, ".")) continue;
        if (!strcmp(part, "..")) {
            while (length && out[--length] != '/') {}
            continue;
        }
        if (length + strlen(part) + 2 > PATH_MAX) return 0;
        length += (size_t)sprintf(out + length, "/%s", part);
    }
    out[length] = 0;
    return 1;
}

static int is_watched(const char *path) {
    if (strncmp(path, fs.dir, fs.dir_len) || (path[fs.dir_len] != '/' && path[fs.dir_len])) return 0;
    const char *name = strrchr(path, '/') + 1;
    return !fs.ignore[0] || strncmp(name, fs.ignore, strlen(fs.ignore));
}

static int watched(int at, const char *path, char *out) {
    return fs.on && path && absolute(at, path, out) && is_watched(out);
}

enum kind { WRITE, SYNC, NAME };

/* Counts a step, dies in its place, or says with which error it fails. Under the lock. */
static int step(enum kind kind) {
    uint64_t now = __atomic_add_fetch(fs.steps, 1, __ATOMIC_SEQ_CST);
    if (now == fs.crash_at) kill(getpid(), SIGKILL);
    if (!fs.control[0]) return 0;
    char word[16] = "";
    unsigned ms = 0;
    int control = real_openat(AT_FDCWD, fs.control, O_RDONLY | O_CLOEXEC, 0);
    if (control < 0) return 0;
    char text[64];
    ssize_t length = read(control, text, sizeof text - 1);
    close(control);
    text[length < 0 ? 0 : length] = 0;
    sscanf(text, "%15s %u", word, &ms);
    if (!strcmp(word, "eio") && kind != NAME) return EIO;
    if (!strcmp(word, "enospc") && kind != SYNC) return ENOSPC;
    if (!strcmp(word, "slow") && kind == SYNC) {
        struct timespec pause = {ms / 1000, (long)(ms % 1000) * 1000000};
        nanosleep(&pause, NULL);
    }
    if (!strcmp(word, "hang") && kind == SYNC) {
        pthread_mutex_unlock(&fs.lock); /* Other threads go on. */
        for (;;) pause();
    }
    return 0;
}

static struct file *slot(ino_t ino) {
    size_t at = (size_t)(ino * 0x9E3779B97F4A7C15ull >> 48) % FILES_MAX;
    for (size_t tried = 0; tried < FILES_MAX; tried++, at = (at + 1) % FILES_MAX)
        if (files[at].ino == ino || !files[at].ino) return &files[at];
    give_up("too many files");
    return NULL;
}

/* The file behind a descriptor, if it is watched. */
static struct file *file_of(int fd, struct stat *found) {
    if (!fs.on || fd < 0 || fd == fs.journal || fstat(fd, found) || !S_ISREG(found->st_mode)) return NULL;
    struct file *file = slot(found->st_ino);
    return file->ino ? file : NULL;
}

static void know(int fd, int is_new) {
    struct stat found;
    if (fd < 0 || fstat(fd, &found) || !S_ISREG(found.st_mode)) return;
    struct file *file = slot(found.st_ino);
    if (file->ino && !is_new) return;
    file->ino = found.st_ino;
    /* Of a file that was there nobody knows here how much is durable; the journal may, from a program before. */
    file->synced = is_new ? 0 : -1;
    note("F %lu %ld\n", (unsigned long)found.st_ino, is_new ? 0 : (long)found.st_size);
}

static void cut_known(struct stat *found, struct file *file, off_t length) {
    if (file->synced < 0 || file->synced > length) {
        file->synced = file->synced < 0 ? -1 : length;
        note("T %lu %ld\n", (unsigned long)found->st_ino, (long)length);
    }
}

/* Keeps what a name stands for, so that a cut can bring it back. 0 if there is nothing. */
static uint64_t keep(const char *path) {
    char kept[PATH_MAX + 32];
    snprintf(kept, sizeof kept, "%s/%lu", fs.state, (unsigned long)++fs.kept);
    if (real_linkat(AT_FDCWD, path, AT_FDCWD, kept, 0)) return 0;
    if (pending_count == PENDING_MAX) give_up("too many names");
    char *dir = strdup(path);
    *strrchr(dir, '/') = 0;
    pending[pending_count].dir = dir;
    pending[pending_count++].kept = fs.kept;
    return fs.kept;
}

static void names_synced(const char *dir) {
    note("D %s\n", dir);
    size_t left = 0;
    for (size_t at = 0; at < pending_count; at++) {
        if (strcmp(pending[at].dir, dir)) {
            pending[left++] = pending[at];
            continue;
        }
        char kept[PATH_MAX + 32];
        snprintf(kept, sizeof kept, "%s/%lu", fs.state, (unsigned long)pending[at].kept);
        real_unlinkat(AT_FDCWD, kept, 0);
        free(pending[at].dir);
    }
    pending_count = left;
}

static int fail(int error) {
    pthread_mutex_unlock(&fs.lock);
    errno = error;
    return -1;
}

static int open_any(int at, const char *path, int flags, mode_t mode) {
    char full[PATH_MAX];
    if ((flags & O_DIRECTORY) || !watched(at, path, full))
        return real_openat(at, path, flags, mode);
    pthread_mutex_lock(&fs.lock);
    struct stat before;
    int is_new = (flags & O_CREAT) && lstat(full, &before);
    if (is_new) {
        int error = step(NAME);
        if (error) return fail(error);
        note("C %s\n", full);
    }
    int fd = real_openat(at, path, flags, mode);
    know(fd, is_new);
    struct stat found;
    struct file *file = (flags & O_TRUNC) ? file_of(fd, &found) : NULL;
    if (file) cut_known(&found, file, 0);
    pthread_mutex_unlock(&fs.lock);
    return fd;
}

#define OPEN(name, at, ...)                                  \
    int name(__VA_ARGS__, int flags, ...) {                  \
        mode_t mode = 0;                                     \
        if (flags & (O_CREAT | O_TMPFILE)) {                 \
            va_list more;                                    \
            va_start(more, flags);                           \
            mode = va_arg(more, mode_t);                     \
            va_end(more);                                    \
        }                                                    \
        return open_any(at, path, flags, mode);              \
    }
OPEN(open, AT_FDCWD, const char *path)
OPEN(open64, AT_FDCWD, const char *path)
OPEN(openat, dirfd, int dirfd, const char *path)
OPEN(openat64, dirfd, int dirfd, const char *path)
int creat(const char *path, mode_t mode) { return open_any(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode); }
int creat64(const char *path, mode_t mode) { return open_any(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode); }

/* A write is a step of its own, and not made under the lock: a sync that began before it does not cover it. */
static int before_write(int fd) {
    struct stat found;
    if (!fs.on) return 0;
    pthread_mutex_lock(&fs.lock);
    int error = file_of(fd, &found) ? step(WRITE) : 0;
    pthread_mutex_unlock(&fs.lock);
    return error;
}

#define WRITES(result, name, parameters, arguments)          \
    result name parameters {                                 \
        static result(*real) parameters;                     \
        if (!real) real = (result(*) parameters)dlsym(RTLD_NEXT, #name); \
        int error = before_write(fd);                        \
        if (error) {                                         \
            errno = error;                                   \
            return -1;                                       \
        }                                                    \
        return real arguments;                               \
    }
WRITES(ssize_t, write, (int fd, const void *data, size_t size), (fd, data, size))
WRITES(ssize_t, pwrite, (int fd, const void *data, size_t size, off_t at), (fd, data, size, at))
WRITES(ssize_t, pwrite64, (int fd, const void *data, size_t size, off64_t at), (fd, data, size, at))
WRITES(ssize_t, writev, (int fd, const struct iovec *parts, int count), (fd, parts, count))
WRITES(ssize_t, pwritev, (int fd, const struct iovec *parts, int count, off_t at), (fd, parts, count, at))
WRITES(ssize_t, pwritev64, (int fd, const struct iovec *parts, int count, off64_t at), (fd, parts, count, at))

static int sync_any(int fd, int (*real)(int)) {
    struct stat found;
    char link[64], path[PATH_MAX];
    if (!fs.on || fstat(fd, &found)) return real(fd);
    pthread_mutex_lock(&fs.lock);
    int is_dir = S_ISDIR(found.st_mode);
    if (is_dir) {
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        ssize_t length = readlink(link, path, sizeof path - 1);
        path[length < 0 ? 0 : length] = 0;
        is_dir = is_watched(path);
    }
    struct file *file = file_of(fd, &found);
    int error = is_dir || file ? step(SYNC) : 0;
    if (error) return fail(error);
    pthread_mutex_unlock(&fs.lock);
    int result = real(fd);
    pthread_mutex_lock(&fs.lock);
    if (!result && is_dir) names_synced(path);
    if (!result && file && file->synced < found.st_size) {
        file->synced = found.st_size;
        note("S %lu %ld\n", (unsigned long)found.st_ino, (long)found.st_size);
    }
    pthread_mutex_unlock(&fs.lock);
    return result;
}
int fsync(int fd) {
    REAL(int, fsync, int);
    return sync_any(fd, real);
}
int fdatasync(int fd) {
    REAL(int, fdatasync, int);
    return sync_any(fd, real);
}

static int truncate_any(int fd, off_t length) {
    REAL(int, ftruncate64, int, off64_t);
    struct stat found;
    pthread_mutex_lock(&fs.lock);
    struct file *file = file_of(fd, &found);
    int error = file ? step(WRITE) : 0;
    if (error) return fail(error);
    if (file) cut_known(&found, file, length);
    int result = real(fd, length);
    pthread_mutex_unlock(&fs.lock);
    return result;
}
int ftruncate(int fd, off_t length) { return truncate_any(fd, length); }
int ftruncate64(int fd, off64_t length) { return truncate_any(fd, length); }

int renameat(int a, const char *from, int b, const char *to) {
    REAL(int, renameat, int, const char *, int, const char *);
    char full_from[PATH_MAX], full_to[PATH_MAX];
    if (!watched(b, to, full_to) || !watched(a, from, full_from)) return real(a, from, b, to);
    pthread_mutex_lock(&fs.lock);
    int error = step(NAME);
    if (error) return fail(error);
    uint64_t kept = keep(full_to);
    note("R %s\t%s\t%lu\n", full_from, full_to, (unsigned long)kept);
    int result = real(a, from, b, to);
    pthread_mutex_unlock(&fs.lock);
    return result;
}
int rename(const char *from, const char *to) { return renameat(AT_FDCWD, from, AT_FDCWD, to); }

int linkat(int a, const char *from, int b, const char *to, int flags) {
    char full[PATH_MAX];
    if (!watched(b, to, full)) return real_linkat(a, from, b, to, flags);
    pthread_mutex_lock(&fs.lock);
    int error = step(NAME);
    if (error) return fail(error);
    note("C %s\n", full);
    int result = real_linkat(a, from, b, to, flags);
    pthread_mutex_unlock(&fs.lock);
    return result;
}
int link(const char *from, const char *to) { return linkat(AT_FDCWD, from, AT_FDCWD, to, 0); }

int unlinkat(int at, const char *path, int flags) {
    char full[PATH_MAX];
    if (!watched(at, path, full)) return real_unlinkat(at, path, flags);
    pthread_mutex_lock(&fs.lock);
    int error = step(SYNC); /* Counted as one that a full disk does not refuse. */
    if (error) return fail(error);
    uint64_t kept = (flags & AT_REMOVEDIR) ? 0 : keep(full);
    if (kept) note("U %s\t%lu\n", full, (unsigned long)kept);
    if (flags & AT_REMOVEDIR) note("X %s\n", full);
    int result = real_unlinkat(at, path, flags);
    pthread_mutex_unlock(&fs.lock);
    return result;
}
int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }
int rmdir(const char *path) { return unlinkat(AT_FDCWD, path, AT_REMOVEDIR); }

int mkdirat(int at, const char *path, mode_t mode) {
    REAL(int, mkdirat, int, const char *, mode_t);
    char full[PATH_MAX];
    struct stat found;
    if (!watched(at, path, full) || !lstat(full, &found)) return real(at, path, mode);
    pthread_mutex_lock(&fs.lock);
    int error = step(NAME);
    if (error) return fail(error);
    note("M %s\n", full);
    int result = real(at, path, mode);
    pthread_mutex_unlock(&fs.lock);
    return result;
}
int mkdir(const char *path, mode_t mode) { return mkdirat(AT_FDCWD, path, mode); }

#else /* FAULTFS_CUT */

struct op {
    char kind, *path, *to;
    uint64_t kept;
    int durable;
};
static struct op *ops;
static size_t op_count;
static struct {
    unsigned long ino;
    long synced;
} *known;
static size_t known_count;
static uint64_t seed;
static int has_holes;

static uint64_t draw(uint64_t below) {
    seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
    return below ? seed % below : 0;
}

static int is_in(const char *path, const char *dir) {
    size_t length = strlen(dir);
    return !strncmp(path, dir, length) && path[length] == '/' && !strchr(path + length + 1, '/');
}

static long *synced_of(unsigned long ino) {
    for (size_t at = known_count; at-- > 0;)
        if (known[at].ino == ino) return &known[at].synced;
    return NULL;
}

static void take(char *line) {
    char kind = line[0], *rest = line + 2;
    unsigned long ino;
    long length;
    if (strchr("FST", kind)) {
        if (sscanf(rest, "%lu %ld", &ino, &length) != 2) return;
        long *synced = synced_of(ino);
        if (!synced) {
            known = realloc(known, (known_count + 1) * sizeof *known);
            known[known_count].ino = ino;
            synced = &known[known_count++].synced;
            *synced = length;
        }
        if (kind == 'S' || *synced > length) *synced = length;
        return;
    }
    if (kind == 'D') {
        for (size_t at = 0; at < op_count; at++)
            if (is_in(ops[at].to ? ops[at].to : ops[at].path, rest)) ops[at].durable = 1;
        return;
    }
    char *path = strtok(rest, "\t"), *second = strtok(NULL, "\t"), *third = strtok(NULL, "\t");
    struct op op = {kind, strdup(path), NULL, 0, 0};
    if (kind == 'R') op.to = strdup(second), op.kept = strtoull(third, NULL, 10);
    if (kind == 'U') op.kept = strtoull(second, NULL, 10);
    ops = realloc(ops, (op_count + 1) * sizeof *ops);
    ops[op_count++] = op;
}

static void remove_tree(const char *path) {
    DIR *dir = opendir(path);
    for (struct dirent *entry; dir && (entry = readdir(dir));) {
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")) continue;
        char below[PATH_MAX];
        snprintf(below, sizeof below, "%s/%s", path, entry->d_name);
        remove_tree(below);
    }
    if (dir) closedir(dir);
    remove(path);
}

static void undo(const struct op *op, const char *state) {
    char kept[PATH_MAX];
    struct stat found;
    snprintf(kept, sizeof kept, "%s/%lu", state, (unsigned long)op->kept);
    switch (op->kind) {
    case 'C':
        unlink(op->path);
        break;
    case 'M':
        remove_tree(op->path);
        break;
    case 'R':
        if (lstat(op->path, &found)) rename(op->to, op->path);
        if (op->kept && !link(kept, op->to)) unlink(kept);
        break;
    case 'U':
        link(kept, op->path);
        break;
    case 'X':
        mkdir(op->path, 0755);
        break;
    }
}

#define PAGE 4096

/* Takes away what was not written between two places of a file, and is read as zeros. */
static void make_holes(const char *path, long from, long to) {
    static const char zeros[PAGE];
    int fd = open(path, O_WRONLY);
    for (long at = from, end; at < to; at = end) {
        end = (at / PAGE + 1) * PAGE;
        if (end > to) end = to;
        if (!draw(3) && pwrite(fd, zeros, (size_t)(end - at), at) != end - at) perror(path);
    }
    close(fd);
}

static void shorten(const char *path) {
    DIR *dir = opendir(path);
    for (struct dirent *entry; dir && (entry = readdir(dir));) {
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")) continue;
        char below[PATH_MAX];
        struct stat found;
        snprintf(below, sizeof below, "%s/%s", path, entry->d_name);
        if (lstat(below, &found)) continue;
        if (S_ISDIR(found.st_mode)) shorten(below);
        long *synced = S_ISREG(found.st_mode) ? synced_of(found.st_ino) : NULL;
        if (!synced || found.st_size <= *synced) continue;
        long keep = *synced + (seed ? (long)draw((uint64_t)(found.st_size - *synced) + 1) : 0);
        /* A record that ends too early is one thing, one that is as long as it should be another. */
        if (has_holes && draw(4)) keep = found.st_size;
        if (truncate(below, keep)) perror(below);
        if (has_holes) make_holes(below, *synced, keep);
    }
    if (dir) closedir(dir);
}

int main(int count, char **arguments) {
    if (count < 3) {
        fprintf(stderr, "usage: faultfs-cut STATE DIR [SEED]\n");
        return 2;
    }
    const char *state = arguments[1];
    char path[PATH_MAX], *line = NULL;
    size_t room = 0;
    ssize_t length;
    seed = count > 3 ? strtoull(arguments[3], NULL, 10) * 0x9E3779B97F4A7C15ull : 0;
    snprintf(path, sizeof path, "%s/journal", state);
    FILE *journal = fopen(path, "r");
    if (!journal) {
        perror(path);
        return 2;
    }
    while ((length = getline(&line, &room, journal)) > 0 && line[length - 1] == '\n') {
        line[length - 1] = 0;
        take(line);
    }
    fclose(journal);
    size_t stands = seed ? draw(op_count + 1) : 0, undone = 0;
    has_holes = seed && draw(2);
    for (size_t at = op_count; at-- > stands;)
        if (!ops[at].durable) undo(&ops[at], state), undone++;
    shorten(arguments[2]);
    printf("%zu of %zu changes of names undone\n", undone, op_count);
    DIR *dir = opendir(state);
    for (struct dirent *entry; dir && (entry = readdir(dir));) {
        snprintf(path, sizeof path, "%s/%s", state, entry->d_name);
        if (entry->d_name[0] != '.') unlink(path);
    }
    return 0;
}
#endif
