// Variables of the environment: read, and set for as long as a call of somebody else's library reads them.
#pragma once

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <initializer_list>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace so3krates {

// Empty where it is not set.
inline std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

// One line on variables whose names begin as ours do and that nothing reads, misspelt ones above all; empty: none.
inline std::string unread_variables() {
  constexpr std::array<std::string_view, 11> known = {
      "SO3KRATES_CACHE",         "SO3KRATES_CUDA_DRIVER", "SO3KRATES_KERNELS",   "SO3KRATES_NVRTC",
      "SO3KRATES_ONEAPI_DRIVER", "SO3KRATES_PJRT_CPU",    "SO3KRATES_PJRT_CUDA", "SO3KRATES_PJRT_ONEAPI",
      "SO3KRATES_PJRT_ROCM",     "SO3KRATES_ROCM_DRIVER", "SO3KRATES_TRACEBACK"};
  std::string unread, list;
  for (char** entry = environ; entry != nullptr && *entry != nullptr; ++entry) {
    const std::string_view name = std::string_view(*entry).substr(0, std::string_view(*entry).find('='));
    if (name.substr(0, 10) == "SO3KRATES_" && std::find(known.begin(), known.end(), name) == known.end())
      unread += (unread.empty() ? "" : ", ") + std::string(name);
  }
  if (unread.empty()) return unread;
  for (const std::string_view name : known) list += (list.empty() ? "" : ", ") + std::string(name);
  return "nothing reads " + unread + " of the environment; known are " + list;
}

struct Variable {
  const char* name;
  std::string value;
};

// Sets variables and puts back what was there. One at a time in the process: others wait.
class ScopedEnvironment {
 public:
  explicit ScopedEnvironment(std::initializer_list<Variable> variables) : lock_(mutex()) {
    for (const Variable& variable : variables) {
      const char* old = std::getenv(variable.name);
      if (old != nullptr && variable.value == old) continue;  // nothing is written that need not be
      old_.emplace_back(variable.name, old == nullptr ? std::nullopt : std::optional<std::string>(old));
      setenv(variable.name, variable.value.c_str(), 1);
    }
  }
  ~ScopedEnvironment() {
    for (const auto& [name, value] : old_)
      if (value)
        setenv(name, value->c_str(), 1);
      else
        unsetenv(name);
  }
  ScopedEnvironment(const ScopedEnvironment&) = delete;
  ScopedEnvironment& operator=(const ScopedEnvironment&) = delete;

 private:
  static std::mutex& mutex() {
    static std::mutex only;
    return only;
  }
  const std::lock_guard<std::mutex> lock_;
  std::vector<std::pair<const char*, std::optional<std::string>>> old_;
};

}  // namespace so3krates
