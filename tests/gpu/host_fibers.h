// A block's threads as fibers of one thread, which take turns wherever they wait for each other; for host_cuda.h.
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <vector>

static Index threadIdx;

namespace host_cuda {

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
  alignas(8) char values[2][kWarp * 24];
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

// The values of all lanes. Those of two generations are kept: the next ones do not overwrite what is still read.
template <typename T>
const T* gather(const T& value) {
  Warp& warp = warps[threadIdx.x / kWarp];
  static_assert(kWarp * sizeof(T) <= sizeof(warp.values[0]), "");
  char* values = warp.values[warp.barrier.generation % 2];
  std::memcpy(values + threadIdx.x % kWarp * sizeof(T), &value, sizeof(T));
  wait(warp.barrier, kWarp);
  return reinterpret_cast<const T*>(values);
}
inline void fiber() {
  run(parameters);
  fibers[threadIdx.x].is_done = true;
  _longjmp(scheduler, 1);
}

inline void launch_blocks(void (*kernel)(void**), unsigned first, unsigned end, unsigned blocks, unsigned threads,
                          void** values) {
  run = kernel;
  parameters = values;
  blockDim = {threads, 1, 1};
  gridDim = {blocks, 1, 1};
  for (unsigned block = first; block < end; ++block) {
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
