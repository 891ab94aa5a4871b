// The processor that this process runs on.
#pragma once

#include <string>

namespace so3krates {

struct HostCpu {
  std::string model;         // e.g. "AMD EPYC 7B13"
  std::string instructions;  // every line of the kernel's description that decides which machine code runs here
  int cores = 1;             // that this process may use
};

const HostCpu& host_cpu();

}  // namespace so3krates
