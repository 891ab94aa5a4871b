// Compiled programs kept on disk. An entry is used only on the kind of machine, and with the plugin, that made it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "pjrt.h"

namespace so3krates {

// Nothing here throws for want of a usable folder or entry: the price is a compilation.
class ProgramCache {
 public:
  // folder: empty: $SO3KRATES_CACHE, else $XDG_CACHE_HOME/so3krates, else ~/.cache/so3krates; "off": keep nothing.
  // It is created, for this user alone, when the first program is stored.
  explicit ProgramCache(const std::string& folder = "");

  // key: 64 hexadecimal digits. Nothing when there is no entry, or, with a warning, when it can't be read, is damaged,
  // truncated or another's.
  std::optional<std::string> find(const std::string& key);
  void store(const std::string& key, const std::string& program);

  bool is_on() const { return !folder_.empty(); }
  const std::filesystem::path& folder() const { return folder_; }
  // One line on why programs are not kept, or were not taken from where they are kept: the first that happened.
  const std::string& warning() const { return warning_; }
  // A program is compiled by one process at a time, whose turn lasts as long as this; others wait and find it stored.
  // Those that have waited for a minute, or whose folder knows no locks, compile it themselves.
  class Turn {
   public:
    Turn(const ProgramCache& cache, const std::string& key);
    ~Turn();
    Turn(const Turn&) = delete;
    Turn& operator=(const Turn&) = delete;
    bool waited() const { return waited_; }

   private:
    std::filesystem::path file_;
    int descriptor_ = -1;
    bool waited_ = false;
  };

  void warn(const std::string& reason);                             // programs are not kept
  void warn_of(const std::string& key, const std::string& reason);  // an entry is not used

 private:
  std::filesystem::path file(const std::string& key) const;
  std::filesystem::path folder_;  // empty: off
  std::string warning_;
};

// artifact: a StableHLO portable artifact of `bytes` bytes. loaded: set to whether the cache had it.
pjrt::Executable compile_or_load(pjrt::Client& client, ProgramCache& cache, const std::uint8_t* artifact,
                                 std::size_t bytes, const std::string& name, bool* loaded = nullptr);

}  // namespace so3krates
