#include "host_memory.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>

#include "error.h"

namespace so3krates {

HostMemory allocate_host(std::size_t bytes) {
  bytes = std::max<std::size_t>(bytes, 1);
  void* data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (data == MAP_FAILED)
    throw MemoryError("allocation of " + std::to_string(bytes) +
                      " bytes of host memory failed: " + std::strerror(errno));
  return HostMemory(data, Unmap{bytes});
}

}  // namespace so3krates
