// Reads /proc/self/mountinfo and /proc/self/cgroup, as proc(5) and cgroups(7) describe them, then the groups' limits.
#include "cpu_quota.h"

#include <fstream>
#include <map>
#include <sstream>
#include <vector>

namespace so3krates {
namespace {

std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts;
  std::istringstream stream(text);
  for (std::string part; std::getline(stream, part, separator);) parts.push_back(part);
  return parts;
}

// In mountinfo a space within a path is \040.
std::string unescaped(const std::string& text) {
  std::string plain;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const bool is_octal = text[i] == '\\' && text.find_first_not_of("01234567", i + 1) >= i + 4 && i + 4 <= text.size();
    plain += is_octal ? static_cast<char>(std::stoi(text.substr(i + 1, 3), nullptr, 8)) : text[i];
    if (is_octal) i += 3;
  }
  return plain;
}

bool has_word(const std::string& list, const std::string& word) {
  for (const std::string& one : split(list, ','))
    if (one == word) return true;
  return false;
}

struct Mount {
  std::string root, point;  // the group that is mounted, and where
  bool is_version_2 = false;
};

// Of version 2, and of the controller "cpu" of version 1.
std::vector<Mount> mounts(const std::string& root) {
  std::vector<Mount> found;
  std::ifstream file(root + "/proc/self/mountinfo");
  for (std::string line; std::getline(file, line);) {
    const std::size_t dash = line.find(" - ");
    if (dash == std::string::npos) continue;
    const std::vector<std::string> before = split(line.substr(0, dash), ' '), after = split(line.substr(dash + 3), ' ');
    if (before.size() < 5 || after.size() < 3) continue;
    const bool is_version_2 = after[0] == "cgroup2";
    if (is_version_2 || (after[0] == "cgroup" && has_word(after[2], "cpu")))
      found.push_back({unescaped(before[3]), unescaped(before[4]), is_version_2});
  }
  return found;
}

// This process' group of version 2, or of the controller "cpu" of version 1.
std::string group_of_process(const std::string& root, bool is_version_2) {
  std::ifstream file(root + "/proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {  // ID:CONTROLLERS:PATH
    const std::size_t first = line.find(':'), second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    if (is_version_2 ? controllers.empty() : has_word(controllers, "cpu")) return line.substr(second + 1);
  }
  return "/";
}

// The group's path below the mount point; empty where the mount does not show it.
std::string below(const std::string& group, const std::string& mounted) {
  const std::string top = mounted == "/" ? "" : mounted;
  const bool is_below =
      group.compare(0, top.size(), top) == 0 && (group.size() == top.size() || group[top.size()] == '/');
  const std::string path = is_below ? group.substr(top.size()) : "";
  return path.find("/..") == std::string::npos && path != "/" ? path : "";
}

// Processors' worth of time that one group grants; 0: no limit.
double limit_of(const std::string& folder, bool is_version_2) {
  double quota = 0.0, period = 0.0;
  if (is_version_2) {
    std::ifstream(folder + "/cpu.max") >> quota >> period;  // "max PERIOD" leaves 0
  } else {
    std::ifstream(folder + "/cpu.cfs_quota_us") >> quota;
    std::ifstream(folder + "/cpu.cfs_period_us") >> period;
  }
  return quota > 0.0 && period > 0.0 ? quota / period : 0.0;
}

}  // namespace

CpuQuota cpu_quota(const std::string& root) {
  CpuQuota tightest;
  for (const Mount& mount : mounts(root)) {
    std::string path = below(group_of_process(root, mount.is_version_2), mount.root);
    for (bool is_top = false; !is_top; path.resize(is_top ? 0 : path.rfind('/'))) {
      is_top = path.empty();
      const double cores = limit_of(root + mount.point + path, mount.is_version_2);
      if (cores > 0.0 && (tightest.cores == 0.0 || cores < tightest.cores)) tightest = {cores, mount.point + path};
    }
  }
  return tightest;
}

}  // namespace so3krates
