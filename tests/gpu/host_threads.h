// A block's threads as threads, for sanitizers; for host_cuda.h. Barriers order memory and ThreadSanitizer sees them;
// shuffles, ballots and products on matrix units exchange values and order nothing else, as PTX has it.
#pragma once

#include <pthread.h>

#include <array>
#include <thread>
#include <vector>

#ifdef __SANITIZE_THREAD__
extern "C" {
void AnnotateIgnoreSyncBegin(const char* file, int line);
void AnnotateIgnoreSyncEnd(const char* file, int line);
void AnnotateIgnoreReadsBegin(const char* file, int line);
void AnnotateIgnoreReadsEnd(const char* file, int line);
void AnnotateIgnoreWritesBegin(const char* file, int line);
void AnnotateIgnoreWritesEnd(const char* file, int line);
}
#endif

static thread_local Index threadIdx;

namespace host_cuda {

// What happens while this lives is not seen.
struct Hidden {
#ifdef __SANITIZE_THREAD__
  Hidden() {
    AnnotateIgnoreSyncBegin(__FILE__, __LINE__);
    AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
    AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
  }
  ~Hidden() {
    AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
    AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
    AnnotateIgnoreSyncEnd(__FILE__, __LINE__);
  }
#else
  Hidden() {}
#endif
};

struct Warp {
  pthread_barrier_t barrier, exchange;
  alignas(8) char values[2][kWarp * 24];
};

static std::vector<Warp> warps;
static pthread_barrier_t block_barrier;
static thread_local unsigned generation;

template <typename T>
std::array<T, kWarp> gather(const T& value) {
  const Hidden hidden;
  Warp& warp = warps[threadIdx.x / kWarp];
  static_assert(kWarp * sizeof(T) <= sizeof(warp.values[0]), "");
  char* values = warp.values[generation++ % 2];  // the next exchange does not overwrite what is still read
  std::memcpy(values + threadIdx.x % kWarp * sizeof(T), &value, sizeof(T));
  pthread_barrier_wait(&warp.exchange);
  std::array<T, kWarp> all;
  std::memcpy(all.data(), values, sizeof(all));
  return all;
}

inline void launch_blocks(void (*kernel)(void**), unsigned first, unsigned end, unsigned blocks, unsigned threads,
                          void** values) {
  blockDim = {threads, 1, 1};
  gridDim = {blocks, 1, 1};
  for (unsigned block = first; block < end; ++block) {
    blockIdx = {block, 0, 0};
    warps = std::vector<Warp>(threads / kWarp);
    for (Warp& warp : warps) {
      pthread_barrier_init(&warp.barrier, nullptr, kWarp);
      pthread_barrier_init(&warp.exchange, nullptr, kWarp);
    }
    pthread_barrier_init(&block_barrier, nullptr, threads);
    std::vector<std::thread> all;
    for (unsigned k = 0; k < threads; ++k)
      all.emplace_back([=] {
        threadIdx = {k, 0, 0};
        kernel(values);
      });
    for (std::thread& thread : all) thread.join();
  }
}

}  // namespace host_cuda

inline void __syncwarp() {
  pthread_barrier_wait(&host_cuda::warps[threadIdx.x / host_cuda::kWarp].barrier);
}
inline void __syncthreads() {
  pthread_barrier_wait(&host_cuda::block_barrier);
}
