// Reads /proc/cpuinfo and the scheduler's mask.
#include "host_cpu.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <fstream>
#include <memory>
#include <mutex>
#include <thread>

#include "error.h"

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
  return cpu;
}

std::vector<bool> read_mask() {
  constexpr int most = 1 << 20;
  for (int size = CPU_SETSIZE; size <= most; size *= 2) {  // the kernel says EINVAL until its own mask fits
    const std::unique_ptr<cpu_set_t, void (*)(cpu_set_t*)> set(CPU_ALLOC(size), [](cpu_set_t* s) { CPU_FREE(s); });
    const std::size_t bytes = CPU_ALLOC_SIZE(size);
    if (set == nullptr) break;
    CPU_ZERO_S(bytes, set.get());
    if (sched_getaffinity(0, bytes, set.get()) == 0) {
      std::vector<bool> mask(static_cast<std::size_t>(size));
      for (int core = 0; core < size; ++core) mask[core] = CPU_ISSET_S(core, bytes, set.get());
      return mask;
    }
    if (errno != EINVAL) break;
  }
  return std::vector<bool>(std::max(1u, std::thread::hardware_concurrency()), true);
}

std::string short_number(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.3g", value);
  return text;
}

}  // namespace

const HostCpu& host_cpu() {
  static const HostCpu cpu = read_host_cpu();
  return cpu;
}

int Cores::allowed() const {
  return std::max(1, static_cast<int>(std::count(mask.begin(), mask.end(), true)));
}

int Cores::usable() const {
  const int paid = quota.cores > 0.0 ? static_cast<int>(std::min(quota.cores + 1e-6, 1e6)) : allowed();
  return std::max(1, std::min(allowed(), paid));
}

std::string Cores::limits() const {
  std::string text;
  const std::string all = std::to_string(machine) + (machine == 1 ? " core" : " cores");
  if (allowed() < machine) text = "affinity mask allows " + std::to_string(allowed()) + " of " + all;
  if (quota.cores > 0.0 && quota.cores < allowed())
    text += (text.empty() ? "" : ", ") + std::string("CPU quota allows ") + short_number(quota.cores) + " of " + all;
  return text;
}

Cores cores_of_process() {
  Cores cores;
  cores.mask = read_mask();
  cores.machine = std::max(static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN)), cores.allowed());
  cores.quota = cpu_quota();
  return cores;
}

void check_threads(int threads) {
  const int machine = cores_of_process().machine, most = std::max(64, 4 * machine);
  const std::string asked = "threads is " + std::to_string(threads);
  if (threads < 0) throw Error(asked + ": give a number of threads, or 0 for every core that this process may use");
  if (threads > most)
    throw Error(asked + ", but this machine has " + std::to_string(machine) + (machine == 1 ? " core" : " cores") +
                ": give at most " + std::to_string(most) + ", or 0 for every core that this process may use");
  // XLA ends the program where it can't start its threads (two pools): all of them are tried here first.
  std::mutex mutex;  // held until all are there, so that none ends before
  std::unique_lock<std::mutex> hold(mutex);
  std::vector<std::thread> tried;
  tried.reserve(2 * static_cast<std::size_t>(threads) + 2);
  std::string problem;
  try {
    for (int k = 0; threads > 1 && k < 2 * threads + 2; ++k)
      tried.emplace_back([&mutex] { const std::lock_guard<std::mutex> wait(mutex); });
  } catch (const std::exception& error) {
    problem = error.what();
  }
  hold.unlock();
  for (std::thread& thread : tried) thread.join();
  if (!problem.empty())
    throw Error(asked + ", but this process cannot start thread " + std::to_string(tried.size() + 1) + " of " +
                std::to_string(2 * threads + 2) + " (" + problem +
                "): give fewer threads, or raise the limit (ulimit -u, ulimit -v, the batch system's)");
}

}  // namespace so3krates
