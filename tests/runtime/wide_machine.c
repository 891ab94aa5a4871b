// Preloaded: a machine with 4096 processors, of which this process may use those with the numbers 1500 to 1507.
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <string.h>

int sched_getaffinity(pid_t pid, size_t bytes, cpu_set_t* set) {
  (void)pid;
  if (bytes < 4096 / 8) {
    errno = EINVAL;
    return -1;
  }
  memset(set, 0, bytes);
  for (int core = 1500; core < 1508; ++core) CPU_SET_S(core, bytes, set);
  return 0;
}
