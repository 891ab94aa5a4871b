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
template <typename T>
T exchange(T value, unsigned from) {
  return gather(value)[from];
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

// ---- matrix units: fragments as in matrix.h, that is of PTX's mma.m16n8k8 for tf32 and mma.m8n8k4 for f64

inline float __expf(float x) {
  return std::exp(x);
}
inline float __fdividef(float x, float y) {
  return x / y;
}
inline unsigned __float_as_uint(float x) {
  unsigned bits;
  std::memcpy(&bits, &x, sizeof(bits));
  return bits;
}
inline float __uint_as_float(unsigned bits) {
  float x;
  std::memcpy(&x, &bits, sizeof(x));
  return x;
}

namespace host_cuda {

inline float toward_zero(double x) {
  const float nearest = static_cast<float>(x);
  return std::abs(static_cast<double>(nearest)) > std::abs(x) ? std::nextafter(nearest, 0.0f) : nearest;
}

}  // namespace host_cuda

// The unit reads 11 bits of a factor and cuts off what its sums cannot hold.
inline void mma(float (&d)[4], const float (&a)[4], float b0, float b1) {
  struct Lane {
    float a[4], b[2];
  } own{{a[0], a[1], a[2], a[3]}, {b0, b1}};
  for (float* value = own.a; value < own.b + 2; ++value)
    *value = __uint_as_float(__float_as_uint(*value) & 0xffffe000u);
  const Lane* lanes = host_cuda::gather(own);
  const unsigned group = threadIdx.x % host_cuda::kWarp / 4, t = threadIdx.x % 4;
  for (unsigned k = 0; k < 4; ++k) {
    double sum = d[k];
    for (unsigned n = 0; n < 8; ++n)
      sum += static_cast<double>(lanes[4 * group + n % 4].a[n / 4 * 2 + k / 2]) *
             lanes[4 * (2 * t + k % 2) + n % 4].b[n / 4];
    d[k] = host_cuda::toward_zero(sum);
  }
}
inline void mma(double& d0, double& d1, double a, double b) {
  struct Lane {
    double a, b;
  };
  const Lane* lanes = host_cuda::gather(Lane{a, b});
  const unsigned group = threadIdx.x % host_cuda::kWarp / 4, t = threadIdx.x % 4;
  for (unsigned n = 0; n < 4; ++n) {
    d0 += lanes[4 * group + n].a * lanes[4 * (2 * t) + n].b;
    d1 += lanes[4 * group + n].a * lanes[4 * (2 * t + 1) + n].b;
  }
}
