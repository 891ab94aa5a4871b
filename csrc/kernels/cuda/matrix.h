// Products of a warp on matrix units: D[8 halves][8] += A[8 halves][8] B[8][8].
//
// Lane 4 g + t holds, for each half (eight rows) of A and D,
//   of A: row g, columns t and t + 4, as a[half] and a[halves + half];
//   of B: column g, rows t and t + 4, as b0 and b1;
//   of D: row g, columns 2 t and 2 t + 1, as d[2 half] and d[2 half + 1],
// the fragments of PTX's mma.m16n8k8 for tf32 and of mma.m8n8k4 for f64. In HIP's language lanes hand each other their
// factors in place of a matrix unit: AMD's take all of a wavefront's lanes, and other fragments.
#pragma once

#include "language.h"

namespace so3krates {

#ifdef __CUDACC__  // tests/gpu/host_cuda.h has them for the host
SO3KRATES_INLINE void mma(float (&d)[4], const float (&a)[4], float b0, float b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(__float_as_uint(a[0])), "r"(__float_as_uint(a[1])), "r"(__float_as_uint(a[2])), "r"(__float_as_uint(a[3])),
        "r"(__float_as_uint(b0)), "r"(__float_as_uint(b1)));
}
SO3KRATES_INLINE void mma(double& d0, double& d1, double a, double b) {
  asm volatile("mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%0, %1}, {%2}, {%3}, {%0, %1};"
               : "+d"(d0), "+d"(d1)
               : "d"(a), "d"(b));
}
#endif

#ifdef __HIP__

template <typename T, int n>
SO3KRATES_INLINE void multiply_rests(T (&)[n], const T (&)[n], T, T) {}
template <typename T, int n>
SO3KRATES_INLINE void multiply_leading(T (&d)[n], const T (&a)[n], T b0, T b1) {
  const int lane = lane_of_thread(), first = lane / 4 * 4, column = lane % 4 * 8;
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    const T even0 = lane_value(b0, column + k), even1 = lane_value(b1, column + k);
    const T odd0 = lane_value(b0, column + 4 + k), odd1 = lane_value(b1, column + 4 + k);
#pragma unroll
    for (int half = 0; half < n / 2; ++half) {
      const T a0 = lane_value(a[half], first + k), a1 = lane_value(a[n / 2 + half], first + k);
      d[2 * half] += a0 * even0 + a1 * even1;
      d[2 * half + 1] += a0 * odd0 + a1 * odd1;
    }
  }
}

#else

// A float takes three products of TF32 numbers, of 11 bits: cut off a float's leading ones, and 13 are left. The unit
// cuts off what its sums cannot hold, so the products of what is left are summed first, or apart.
SO3KRATES_INLINE float leading(float x) {
  return __uint_as_float(__float_as_uint(x) & 0xffffe000u);
}
SO3KRATES_INLINE void multiply_rests(float (&d)[4], const float (&a)[4], float b0, float b1) {
  float first[4], rest[4];
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    first[k] = leading(a[k]);
    rest[k] = a[k] - first[k];
  }
  mma(d, rest, leading(b0), leading(b1));
  mma(d, first, b0 - leading(b0), b1 - leading(b1));
}
SO3KRATES_INLINE void multiply_leading(float (&d)[4], const float (&a)[4], float b0, float b1) {
  const float first[4] = {leading(a[0]), leading(a[1]), leading(a[2]), leading(a[3])};
  mma(d, first, leading(b0), leading(b1));
}

template <int n>
SO3KRATES_INLINE void multiply_rests(double (&)[n], const double (&)[n], double, double) {}
template <int n>
SO3KRATES_INLINE void multiply_leading(double (&d)[n], const double (&a)[n], double b0, double b1) {
#pragma unroll
  for (int half = 0; half < n / 2; ++half) {
    mma(d[2 * half], d[2 * half + 1], a[half], b0);
    mma(d[2 * half], d[2 * half + 1], a[n / 2 + half], b1);
  }
}

#endif

}  // namespace so3krates
