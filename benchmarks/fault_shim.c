/* Counts a process's file operations below one directory, and kills it or fills its disk at one of them.

   Loaded by LD_PRELOAD, so that it also sees the operations of C++ libraries. See fault_operations.py. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { RENAME, SYNC, MKDIR, UNLINK, WRITE, CREATE, KINDS };
enum { COUNT, KILL, FILL };

static char root[PATH_MAX];
static int kind_at, number_at, action;
static atomic_int filled;
static atomic_int *counts;

/* From now on counts operations below a directory into `shared`; at the `number`th of a kind kills the process,
   or lets this and each later write, creation and mkdir fail for lack of space. */
void fault_arm(const char *directory, int kind, int number, int what, int *shared) {
  strncpy(root, directory, sizeof root - 1);
  kind_at = kind, number_at = number, action = what, counts = (atomic_int *)shared;
}

static int is_below(int directory, const char *path) {
  char name[2 * PATH_MAX], link[64];
  ssize_t size = 0;
  if (!counts) return 0;
  if (!path || path[0] != '/') {
    if (directory == AT_FDCWD) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", directory);
    size = readlink(link, name, PATH_MAX);
    if (size < 0) return 0;
  } else {
    size = snprintf(name, sizeof name, "%s", path);
  }
  name[size] = 0;
  return strncmp(name, root, strlen(root)) == 0;
}

/* Whether the operation fails for lack of space. `torn` is called where the process is killed. */
static int meet(int kind) {
  int number = atomic_fetch_add(&counts[kind], 1) + 1;
  if (action == FILL && kind == kind_at && number == number_at) atomic_store(&filled, 1);
  if (atomic_load(&filled) && (kind == WRITE || kind == CREATE || kind == MKDIR)) {
    errno = ENOSPC;
    return 1;
  }
  return 0;
}

static int kills(int kind) {
  return action == KILL && kind == kind_at && atomic_load(&counts[kind]) == number_at;
}

static void end(void) {
  kill(getpid(), SIGKILL);
  for (;;) pause();
}

#define REAL(name) ((typeof(&name))dlsym(RTLD_NEXT, #name))
#define MEET(kind, directory, path)      \
  if (is_below(directory, path)) {       \
    if (meet(kind)) return -1;           \
    if (kills(kind)) end();              \
  }
/* A killed write has written a half. */
#define MEET_WRITE(file, half)           \
  if (is_below(file, NULL)) {            \
    if (meet(WRITE)) return -1;          \
    if (kills(WRITE)) { half; end(); }   \
  }

int rename(const char *a, const char *b) { MEET(RENAME, AT_FDCWD, a) return REAL(rename)(a, b); }
int renameat(int f, const char *a, int g, const char *b) { MEET(RENAME, f, a) return REAL(renameat)(f, a, g, b); }
int fsync(int f) { MEET(SYNC, f, NULL) return REAL(fsync)(f); }
int fdatasync(int f) { MEET(SYNC, f, NULL) return REAL(fdatasync)(f); }
int mkdir(const char *a, mode_t m) { MEET(MKDIR, AT_FDCWD, a) return REAL(mkdir)(a, m); }
int mkdirat(int f, const char *a, mode_t m) { MEET(MKDIR, f, a) return REAL(mkdirat)(f, a, m); }
int unlink(const char *a) { MEET(UNLINK, AT_FDCWD, a) return REAL(unlink)(a); }
int unlinkat(int f, const char *a, int g) { MEET(UNLINK, f, a) return REAL(unlinkat)(f, a, g); }
int rmdir(const char *a) { MEET(UNLINK, AT_FDCWD, a) return REAL(rmdir)(a); }

ssize_t write(int f, const void *data, size_t n) {
  MEET_WRITE(f, REAL(write)(f, data, n / 2))
  return REAL(write)(f, data, n);
}
ssize_t pwrite(int f, const void *data, size_t n, off_t at) {
  MEET_WRITE(f, REAL(pwrite)(f, data, n / 2, at))
  return REAL(pwrite)(f, data, n, at);
}
ssize_t pwrite64(int f, const void *data, size_t n, off64_t at) {
  MEET_WRITE(f, REAL(pwrite64)(f, data, n / 2, at))
  return REAL(pwrite64)(f, data, n, at);
}
ssize_t writev(int f, const struct iovec *parts, int n) {
  MEET_WRITE(f, REAL(writev)(f, parts, n / 2))
  return REAL(writev)(f, parts, n);
}

#define MODE                             \
  mode_t mode = 0;                       \
  if (flags & (O_CREAT | O_TMPFILE)) {   \
    va_list more;                        \
    va_start(more, flags);               \
    mode = va_arg(more, mode_t);         \
    va_end(more);                        \
  }
#define IS_NEW (flags & O_CREAT)
int open(const char *a, int flags, ...) {
  MODE
  if (IS_NEW) { MEET(CREATE, AT_FDCWD, a) }
  return REAL(open)(a, flags, mode);
}
int open64(const char *a, int flags, ...) {
  MODE
  if (IS_NEW) { MEET(CREATE, AT_FDCWD, a) }
  return REAL(open64)(a, flags, mode);
}
int openat(int f, const char *a, int flags, ...) {
  MODE
  if (IS_NEW) { MEET(CREATE, f, a) }
  return REAL(openat)(f, a, flags, mode);
}
int openat64(int f, const char *a, int flags, ...) {
  MODE
  if (IS_NEW) { MEET(CREATE, f, a) }
  return REAL(openat64)(f, a, flags, mode);
}
FILE *fopen(const char *a, const char *how) {
  if (strchr(how, 'r') == NULL && is_below(AT_FDCWD, a)) {
    if (meet(CREATE)) return NULL;
    if (kills(CREATE)) end();
  }
  return REAL(fopen)(a, how);
}
