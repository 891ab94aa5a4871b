// XLA's flags: those of the environment variable XLA_FLAGS, checked before XLA ends the program for one.
#pragma once

#include <string>

namespace so3krates {

// Throws Error where XLA_FLAGS has a flag that the plugin's file does not name, or a truth or number that is none.
// plugin: its path.
void check_xla_flags(const std::string& plugin);

// Whether the plugin's file names this flag (without dashes).
bool has_flag(const std::string& plugin, const std::string& flag);

}  // namespace so3krates
