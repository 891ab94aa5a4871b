// Small blocks come from malloc, which recycles them by itself; large ones are mapped, so that untouched pages cost
// nothing and a freed block leaves the process at once.
#include "memory_pool.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace so3krates::pjrt_cpu {
namespace {

constexpr std::size_t kPage = 4096;
constexpr std::size_t kSmall = 128 * 1024;  // bytes; mapping costs too much below

// A block is not used for much less than it holds.
bool fits(std::size_t block, std::size_t wanted) {
  return block >= wanted && block - wanted <= wanted / 4;
}

absl::Status out_of_memory(std::size_t bytes) {
  return absl::ResourceExhaustedError(absl::StrCat("the system gives no ", bytes, " bytes for an array"));
}

class SmallBlock : public xla::CpuMemory {
 public:
  SmallBlock(void* base, std::size_t bytes) : base_(base), bytes_(bytes) {}
  ~SmallBlock() override { std::free(base_); }
  void* base() const override { return base_; }
  std::size_t size_bytes() const override { return bytes_; }

 private:
  void* base_;
  std::size_t bytes_;
};

}  // namespace

class MemoryPool::Block : public xla::CpuMemory {
 public:
  Block(std::shared_ptr<MemoryPool> pool, Mapping mapping, std::size_t bytes)
      : pool_(std::move(pool)), mapping_(mapping), bytes_(bytes) {}
  ~Block() override { pool_->give_back(mapping_); }
  void* base() const override { return mapping_.base; }
  std::size_t size_bytes() const override { return bytes_; }

 private:
  std::shared_ptr<MemoryPool> pool_;
  Mapping mapping_;
  std::size_t bytes_;
};

MemoryPool::~MemoryPool() {
  for (const Mapping& mapping : idle_) munmap(mapping.base, mapping.capacity);
}

absl::StatusOr<std::unique_ptr<xla::CpuMemory>> MemoryPool::allocate(std::size_t bytes, std::size_t alignment) {
  if (bytes < kSmall) {
    void* base = nullptr;
    if (posix_memalign(&base, std::max(alignment, sizeof(void*)), std::max<std::size_t>(bytes, 1)) != 0)
      return out_of_memory(bytes);
    return std::make_unique<SmallBlock>(base, bytes);
  }
  const std::size_t capacity = (bytes + kPage - 1) / kPage * kPage;
  Mapping mapping = take(capacity);
  if (mapping.base == nullptr) {
    // Nothing is reserved: arrays are sized for a capacity, of which a run touches what it needs.
    void* base = mmap(nullptr, capacity, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED) return out_of_memory(bytes);
    mapping = {base, capacity};
  }
  return std::make_unique<Block>(shared_from_this(), mapping, bytes);
}

MemoryPool::Mapping MemoryPool::take(std::size_t capacity) {
  const std::lock_guard<std::mutex> lock(mutex_);
  auto best = idle_.end();
  for (auto it = idle_.begin(); it != idle_.end(); ++it)  // of equals the youngest: it is the warmest in cache
    if (fits(it->capacity, capacity) && (best == idle_.end() || it->capacity <= best->capacity)) best = it;
  if (best == idle_.end()) return {};
  const Mapping mapping = *best;
  idle_.erase(best);
  idle_bytes_ -= mapping.capacity;
  return mapping;
}

void MemoryPool::give_back(Mapping mapping) {
  std::vector<Mapping> surplus;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    idle_.push_back(mapping);
    idle_bytes_ += mapping.capacity;
    auto kept = idle_.begin();
    for (; idle_bytes_ > idle_limit_; ++kept) idle_bytes_ -= kept->capacity;
    surplus.assign(idle_.begin(), kept);
    idle_.erase(idle_.begin(), kept);
  }
  for (const Mapping& old : surplus) munmap(old.base, old.capacity);
}

}  // namespace so3krates::pjrt_cpu
