// The processor that this process runs on, and how much of it.
#pragma once

#include <string>
#include <vector>

#include "cpu_quota.h"

namespace so3krates {

struct HostCpu {
  std::string model;         // e.g. "AMD EPYC 7B13"
  std::string instructions;  // every line of the kernel's description that decides which machine code runs here
};

const HostCpu& host_cpu();

// Cores that this process may use: those of the calling thread's affinity mask (taskset, cpusets, a batch system's
// binding), and no more than the CPU quota of its control groups pays for.
struct Cores {
  int machine = 1;         // that are switched on
  std::vector<bool> mask;  // [number of the core] whether it is allowed
  CpuQuota quota;

  int allowed() const;
  int usable() const;  // at least 1; a quota is rounded down: threads that wait for each other must all run
  // What keeps this process from the machine's other cores, e.g. "affinity mask allows 4 of 128 cores"; empty: nothing.
  std::string limits() const;
};

Cores cores_of_process();

// Throws Error unless this machine has a use for so many threads and lets this process start them.
void check_threads(int threads);

}  // namespace so3krates
