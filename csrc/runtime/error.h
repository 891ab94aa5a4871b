// The one exception type of the runtime.
#pragma once

#include <stdexcept>

namespace so3krates {

struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

}  // namespace so3krates
