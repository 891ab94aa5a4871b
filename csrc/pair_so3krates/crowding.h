// Ranks of a machine that have less than they ask for.
#pragma once

#include <string>

namespace so3krates::ranks {

// What is said where ranks with so many threads each share fewer cores, or fewer GPUs, of which they take one in turn
// (0: they do not); else empty. A single GPU may be a rank's own, that its launcher shows it.
inline std::string crowding(int ranks, int threads, int cores, int gpus) {
  const auto count = [](int number, const char* what) {
    return std::to_string(number) + " " + what + (number == 1 ? "" : "s");
  };
  if (gpus > 1 && ranks > gpus)
    return count(ranks, "rank") + " of this machine share its " + count(gpus, "GPU") +
           ", and each takes memory for itself. Start at most as many ranks on a machine as it has GPUs";
  if (ranks * threads <= cores) return "";
  return count(ranks, "rank") + " of " + count(threads, "thread") + " on this machine share " + count(cores, "core") +
         ": they wait for each other without giving up their core. Start fewer ranks, or give fewer threads";
}

}  // namespace so3krates::ranks
