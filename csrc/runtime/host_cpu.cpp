// Reads /proc/cpuinfo and the scheduler's mask.
#include "host_cpu.h"

#include <sched.h>

#include <fstream>

namespace so3krates {
namespace {

HostCpu read_host_cpu() {
  HostCpu cpu;
  std::ifstream file("/proc/cpuinfo");
  std::string line;
  while (std::getline(file, line) && !line.empty()) {  // the first processor's paragraph
    const std::string key = line.substr(0, line.find_first_of("\t:"));
    const std::size_t colon = line.find(": ");
    if (colon == std::string::npos) continue;
    if (key == "model name") cpu.model = line.substr(colon + 2);
    for (const char* deciding : {"vendor_id", "cpu family", "model", "model name", "flags", "Features",
                                 "CPU implementer", "CPU variant", "CPU part"})
      if (key == deciding) cpu.instructions += line + "\n";
  }
  if (cpu.model.empty()) cpu.model = "unnamed processor";
  cpu_set_t mask;
  if (sched_getaffinity(0, sizeof mask, &mask) == 0) cpu.cores = CPU_COUNT(&mask);
  return cpu;
}

}  // namespace

const HostCpu& host_cpu() {
  static const HostCpu cpu = read_host_cpu();
  return cpu;
}

}  // namespace so3krates
