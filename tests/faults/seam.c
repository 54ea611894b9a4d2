/* Loaded into one process of a test (LD_PRELOAD): its wall clock runs off by a length that the test sets, and its
   writes to a disk or to its log wait while the test says so. The page is a file of two numbers. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define STALL_DISK 1
#define STALL_LOG 2
#define LOOK_AGAIN 2000000L
#define LONGEST 2500 /* looks: no stall lasts longer than five seconds */

static const volatile struct { int64_t offset; int64_t stalled; } *page;
static int (*real_clock_gettime)(clockid_t, struct timespec *);
static int (*real_fsync)(int);
static int (*real_fdatasync)(int);
static ssize_t (*real_write)(int, const void *, size_t);

__attribute__((constructor)) static void open_page(void) {
    real_clock_gettime = dlsym(RTLD_NEXT, "clock_gettime");
    real_fsync = dlsym(RTLD_NEXT, "fsync");
    real_fdatasync = dlsym(RTLD_NEXT, "fdatasync");
    real_write = dlsym(RTLD_NEXT, "write");
    const char *path = getenv("APPVSS_TEST_SEAM");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0) return;
    void *mapped = mmap(NULL, sizeof *page, PROT_READ, MAP_SHARED, file, 0);
    close(file);
    if (mapped != MAP_FAILED) page = mapped;
}

static void wait_while(int64_t what) {
    struct timespec pause = {0, LOOK_AGAIN};
    for (int looks = 0; page && (page->stalled & what) && looks < LONGEST; looks++) nanosleep(&pause, NULL);
}

int clock_gettime(clockid_t id, struct timespec *now) {
    if (!real_clock_gettime) open_page();
    int result = real_clock_gettime(id, now);
    int is_wall = id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE || id == CLOCK_TAI;
    if (!result && is_wall && page && page->offset) {
        int64_t moved = now->tv_sec * 1000000000LL + now->tv_nsec + page->offset;
        now->tv_sec = moved / 1000000000LL;
        now->tv_nsec = moved % 1000000000LL;
    }
    return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec exact;
    (void)zone;
    int result = clock_gettime(CLOCK_REALTIME, &exact);
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return result;
}

time_t time(time_t *out) {
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    if (out) *out = exact.tv_sec;
    return exact.tv_sec;
}

int fsync(int file) {
    wait_while(STALL_DISK);
    return real_fsync(file);
}

int fdatasync(int file) {
    wait_while(STALL_DISK);
    return real_fdatasync(file);
}

ssize_t write(int file, const void *bytes, size_t size) {
    if (file == STDERR_FILENO) wait_while(STALL_LOG);
    return real_write(file, bytes, size);
}
