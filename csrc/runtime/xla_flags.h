// The environment variable XLA_FLAGS, checked before XLA ends the program for it.
#pragma once

#include <string>

namespace so3krates {

// Throws Error where XLA_FLAGS has a flag that the plugin's file does not name, or a truth or number that is none.
// plugin: its path.
void check_xla_flags(const std::string& plugin);

}  // namespace so3krates
