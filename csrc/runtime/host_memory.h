// Large arrays in host memory.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <memory>

namespace so3krates {

struct Unmap {
  std::size_t bytes;
  void operator()(void* data) const { munmap(data, bytes); }
};

// Page-aligned host memory; pages that are never touched cost nothing.
using HostMemory = std::unique_ptr<void, Unmap>;

// Zeros. Throws Error where the system has no memory left.
HostMemory allocate_host(std::size_t bytes);

}  // namespace so3krates
