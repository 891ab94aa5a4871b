// The custom calls of this library, for whoever registers them with XLA.
#pragma once

#include <cstddef>

namespace so3krates::kernels {

extern "C" {

struct Kernel {
  const char* name;  // of the custom call
  void* handler;     // XLA_FFI_Handler*
};

// An array of `*count` entries that lives as long as the library.
__attribute__((visibility("default"))) const Kernel* so3krates_kernels(std::size_t* count);
}

}  // namespace so3krates::kernels
