// CUDA's language for the host's compiler: a block's threads are fibers of one thread, which take turns wherever they
// wait for each other.
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <cmath>
#include <cstddef>
#include <cstring>
#include <utility>
#include <vector>

#define __device__
#define __global__
#define __shared__
#define __forceinline__ inline
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __launch_bounds__(threads)

struct Index {
  unsigned x, y, z;
};
static Index threadIdx, blockIdx, blockDim, gridDim;

using std::exp;
using std::sqrt;
inline void sincos(float x, float* sine, float* cosine) {
  *sine = std::sin(x);
  *cosine = std::cos(x);
}
inline int __popc(unsigned mask) {
  return __builtin_popcount(mask);
}

namespace host_cuda {

constexpr unsigned kWarp = 32;

struct Fiber {
  std::vector<char> stack = std::vector<char>(1 << 18);
  ucontext_t start;
  jmp_buf state;
  bool is_started = false, is_done = false;
};

struct Barrier {
  unsigned arrived = 0, generation = 0;
};

struct Warp {
  Barrier barrier;
  char values[2][kWarp][8];
};

static jmp_buf scheduler;
static std::vector<Fiber> fibers;
static std::vector<Warp> warps;
static Barrier block_barrier;
static void (*run)(void**);
static void** parameters;

__attribute__((noinline)) inline void yield() {
  if (_setjmp(fibers[threadIdx.x].state) == 0) _longjmp(scheduler, 1);
}

inline void wait(Barrier& barrier, unsigned members) {
  const unsigned generation = barrier.generation;
  if (++barrier.arrived == members) {
    barrier.arrived = 0;
    ++barrier.generation;
  } else {
    while (barrier.generation == generation) yield();
  }
}

// The value of lane `from`. Values of two generations are kept: the next ones do not overwrite what is still read.
template <typename T>
T exchange(T value, unsigned from) {
  static_assert(sizeof(T) <= 8, "");
  Warp& warp = warps[threadIdx.x / kWarp];
  const unsigned generation = warp.barrier.generation % 2;
  std::memcpy(warp.values[generation][threadIdx.x % kWarp], &value, sizeof(T));
  wait(warp.barrier, kWarp);
  std::memcpy(&value, warp.values[generation][from], sizeof(T));
  return value;
}

inline void fiber() {
  run(parameters);
  fibers[threadIdx.x].is_done = true;
  _longjmp(scheduler, 1);
}

template <typename... Arguments, std::size_t... k>
void call(void (*kernel)(Arguments...), void** values, std::index_sequence<k...>) {
  kernel(*static_cast<Arguments*>(values[k])...);
}
template <typename... Arguments>
void call(void (*kernel)(Arguments...), void** values) {
  call(kernel, values, std::index_sequence_for<Arguments...>());
}

inline void launch(void (*kernel)(void**), unsigned blocks, unsigned threads, void** values) {
  run = kernel;
  parameters = values;
  blockDim = {threads, 1, 1};
  gridDim = {blocks, 1, 1};
  for (unsigned block = 0; block < blocks; ++block) {
    blockIdx = {block, 0, 0};
    fibers = std::vector<Fiber>(threads);
    warps = std::vector<Warp>(threads / kWarp);
    block_barrier = {};
    for (volatile bool is_busy = true; is_busy;) {
      is_busy = false;
      for (volatile unsigned k = 0; k < threads; k = k + 1) {
        Fiber& next = fibers[k];
        if (next.is_done) continue;
        is_busy = true;
        threadIdx = {k, 0, 0};
        if (_setjmp(scheduler) != 0) continue;
        if (next.is_started) _longjmp(next.state, 1);
        next.is_started = true;
        getcontext(&next.start);
        next.start.uc_stack.ss_sp = next.stack.data();
        next.start.uc_stack.ss_size = next.stack.size();
        next.start.uc_link = nullptr;
        makecontext(&next.start, fiber, 0);
        setcontext(&next.start);
      }
    }
  }
}

}  // namespace host_cuda

inline void __syncwarp() {
  host_cuda::wait(host_cuda::warps[threadIdx.x / host_cuda::kWarp].barrier, host_cuda::kWarp);
}
inline void __syncthreads() {
  host_cuda::wait(host_cuda::block_barrier, blockDim.x);
}
template <typename T>
T __shfl_xor_sync(unsigned, T value, int mask) {
  return host_cuda::exchange(value, threadIdx.x % host_cuda::kWarp ^ mask);
}
inline unsigned __ballot_sync(unsigned, bool value) {
  unsigned mask = 0;
  const unsigned lane = threadIdx.x % host_cuda::kWarp;
  unsigned mine = value ? 1u << lane : 0u;
  for (unsigned step = 1; step < host_cuda::kWarp; step *= 2) mine |= host_cuda::exchange(mine, lane ^ step);
  mask = mine;
  return mask;
}
