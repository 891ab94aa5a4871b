// CUDA's language for the host's compiler, and HIP's, of which a source with the macro __HIP__ makes use. A block's
// threads are fibers, or, with the macro HOST_THREADS, threads.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstring>
#include <utility>

#define __device__
#define __global__
#define __shared__
#define __forceinline__ inline
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __launch_bounds__(threads)

struct Index {
  unsigned x, y, z;
};
static Index blockIdx, blockDim, gridDim;

using std::exp;
using std::floor;
using std::log;
using std::sqrt;
inline int __popc(unsigned mask) {
  return __builtin_popcount(mask);
}

namespace host_cuda {

constexpr unsigned kWarp = 32;

}  // namespace host_cuda

// threadIdx, __syncwarp, __syncthreads; in host_cuda gather(value), the values of all lanes, and
// launch_blocks(kernel, first, end, blocks, threads, values), which runs the blocks first, ..., end - 1 of a grid.
#ifdef HOST_THREADS
#include "host_threads.h"
#else
#include "host_fibers.h"
#endif

namespace host_cuda {

template <typename T>
T exchange(T value, unsigned from) {
  return gather(value)[from];
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
  launch_blocks(kernel, 0, blocks, blocks, threads, values);
}

}  // namespace host_cuda

template <typename T>
T __shfl_xor_sync(unsigned, T value, int mask) {
  return host_cuda::exchange(value, threadIdx.x % host_cuda::kWarp ^ mask);
}
template <typename T>
T __shfl_sync(unsigned, T value, int from) {
  return host_cuda::exchange(value, from);
}
inline unsigned __ballot_sync(unsigned, bool value) {
  unsigned mask = 0;
  const unsigned lane = threadIdx.x % host_cuda::kWarp;
  unsigned mine = value ? 1u << lane : 0u;
  for (unsigned step = 1; step < host_cuda::kWarp; step *= 2) mine |= host_cuda::exchange(mine, lane ^ step);
  mask = mine;
  return mask;
}

// ---- HIP, on a processor with wavefronts of 64 lanes, halves of which are warps: whatever one half does, the bits of
// the other in a ballot are set.

constexpr unsigned kWavefront = 64;

inline unsigned __lane_id() {
  return threadIdx.x % kWavefront;
}
template <typename T>
T __shfl_xor(T value, int mask, int) {
  return __shfl_xor_sync(0, value, mask);
}
template <typename T>
T __shfl(T value, int from, int) {
  return __shfl_sync(0, value, from);
}
inline unsigned long long __ballot(bool value) {
  const unsigned long long mine = __ballot_sync(0, value);
  return __lane_id() < host_cuda::kWarp ? mine | 0xffffffffull << 32 : mine << 32 | 0xffffffffull;
}
#define __builtin_amdgcn_fence(order, scope)
#define __builtin_amdgcn_wave_barrier() __syncwarp()

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
  const auto lanes = host_cuda::gather(own);
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
  const auto lanes = host_cuda::gather(Lane{a, b});
  const unsigned group = threadIdx.x % host_cuda::kWarp / 4, t = threadIdx.x % 4;
  for (unsigned n = 0; n < 4; ++n) {
    d0 += lanes[4 * group + n].a * lanes[4 * (2 * t) + n].b;
    d1 += lanes[4 * group + n].a * lanes[4 * (2 * t + 1) + n].b;
  }
}
