// The share of the processors' time that control groups (Linux cgroups, version 1 and 2) grant this process.
#pragma once

#include <string>

namespace so3krates {

struct CpuQuota {
  double cores = 0.0;  // processors' worth of time; 0: no limit
  std::string group;   // folder of the control group that sets it
};

// The tightest limit on the way from this process' control groups up to their mount points. Folders and files that are
// missing set no limit. root: put before every path, for tests.
CpuQuota cpu_quota(const std::string& root = "");

}  // namespace so3krates
