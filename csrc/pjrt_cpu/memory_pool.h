// Memory for arrays and temporaries that is handed back and forth rather than mapped anew at every run: page faults on
// a fresh block cost more than the arithmetic done in it.
#pragma once

#include <cstddef>
#include <memory>
#include <mutex>
#include <vector>

#include "absl/status/statusor.h"
#include "xla/pjrt/plugin/xla_cpu/cpu_memory.h"

namespace so3krates::pjrt_cpu {

// Thread safe. Blocks hold their pool, which lives as long as the last of them.
class MemoryPool : public std::enable_shared_from_this<MemoryPool> {
 public:
  // idle_limit: bytes that may lie unused in the pool; what is returned beyond it goes back to the system, oldest
  // first.
  explicit MemoryPool(std::size_t idle_limit) : idle_limit_(idle_limit) {}
  ~MemoryPool();
  MemoryPool(const MemoryPool&) = delete;
  MemoryPool& operator=(const MemoryPool&) = delete;

  // A block of at least `bytes`; its values are undefined and no page of a new one is touched.
  absl::StatusOr<std::unique_ptr<xla::CpuMemory>> allocate(std::size_t bytes, std::size_t alignment);

 private:
  class Block;
  struct Mapping {
    void* base = nullptr;
    std::size_t capacity = 0;
  };
  Mapping take(std::size_t capacity);
  void give_back(Mapping mapping);

  const std::size_t idle_limit_;
  std::mutex mutex_;
  std::vector<Mapping> idle_;  // oldest first
  std::size_t idle_bytes_ = 0;
};

}  // namespace so3krates::pjrt_cpu
