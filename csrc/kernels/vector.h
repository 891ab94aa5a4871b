// Vectors of the instruction set that this file is compiled for, on GCC's vector extensions. Included once per
// instruction set, each in its own namespace.
#pragma once

#ifdef __x86_64__
#include <immintrin.h>
#endif

#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <utility>

#ifndef SO3KRATES_KERNEL_SET
#error "SO3KRATES_KERNEL_SET names the instruction set"
#endif

namespace so3krates::kernels::SO3KRATES_KERNEL_SET {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

template <typename Element, int lanes>
struct VectorOf {
  typedef Element type __attribute__((vector_size(lanes * sizeof(Element))));
};

// At least four lanes, which the compiler makes from two registers where it must.
template <typename Real>
constexpr int kLanes = kVectorBytes / sizeof(Real) < 4 ? 4 : kVectorBytes / static_cast<int>(sizeof(Real));

template <typename Real>
using Vector = typename VectorOf<Real, kLanes<Real>>::type;
template <typename Real>
using Quad = typename VectorOf<Real, 4>::type;

#define SO3KRATES_INLINE inline __attribute__((always_inline))

template <typename V>
using ElementOf = std::remove_reference_t<decltype(std::declval<V&>()[0])>;
template <typename V>
constexpr int kLanesOf = sizeof(V) / sizeof(ElementOf<V>);

template <typename V>
SO3KRATES_INLINE V load(const ElementOf<V>* from) {
  V v;
  __builtin_memcpy(&v, from, sizeof v);
  return v;
}
template <typename V>
SO3KRATES_INLINE void store(ElementOf<V>* to, V v) {
  __builtin_memcpy(to, &v, sizeof v);
}
template <typename V>
SO3KRATES_INLINE V splat(ElementOf<V> x) {
  return x - V{};
}
template <typename V>
SO3KRATES_INLINE void add_to(ElementOf<V>* to, V v) {
  store<V>(to, load<V>(to) + v);
}

// The quad in every four lanes. (Zero-masked forms: GCC 12 warns of its own header in the plain ones.)
template <typename V>
SO3KRATES_INLINE V repeat(Quad<ElementOf<V>> q) {
  if constexpr (kLanesOf<V> == 4) return q;
#ifdef __AVX2__
  if constexpr (kLanesOf<V> == 8 && sizeof(q[0]) == 4) return (V)_mm256_broadcast_ps((const __m128*)&q);
#endif
#ifdef __AVX512F__
  if constexpr (kLanesOf<V> == 16) return (V)_mm512_maskz_broadcast_f32x4(-1, (__m128)q);
  if constexpr (kLanesOf<V> == 8 && sizeof(q[0]) == 8) return (V)_mm512_maskz_broadcast_f64x4(-1, (__m256d)q);
#endif
}

template <typename V, std::size_t... lane>
SO3KRATES_INLINE auto halves_sum(V v, std::index_sequence<lane...>) {
  constexpr int half = kLanesOf<V> / 2;
  return __builtin_shufflevector(v, v, static_cast<int>(lane)...) +
         __builtin_shufflevector(v, v, static_cast<int>(lane) + half...);
}

// Sums of the lanes that are equal modulo four.
template <typename V>
SO3KRATES_INLINE Quad<ElementOf<V>> fold(V v) {
  if constexpr (kLanesOf<V> == 4) {
    return v;
  } else {
    return fold(halves_sum(v, std::make_index_sequence<kLanesOf<V> / 2>()));
  }
}

// The sums over the lanes of each of four vectors. (Folded first: shuffles of whole vectors are many instructions.)
template <typename V>
SO3KRATES_INLINE Quad<ElementOf<V>> sums(V a, V b, V c, V d) {
  const auto p = fold(a), q = fold(b), r = fold(c), s = fold(d);
  const auto pq = __builtin_shufflevector(p, q, 0, 4, 1, 5) + __builtin_shufflevector(p, q, 2, 6, 3, 7);
  const auto rs = __builtin_shufflevector(r, s, 0, 4, 1, 5) + __builtin_shufflevector(r, s, 2, 6, 3, 7);
  return __builtin_shufflevector(pq, rs, 0, 1, 4, 5) + __builtin_shufflevector(pq, rs, 2, 3, 6, 7);
}
template <typename Q>
SO3KRATES_INLINE auto sum(Q q) {
  return (q[0] + q[2]) + (q[1] + q[3]);
}

// Sums over a head's features from their quads: lane l is head l % group, in every lane.
template <typename Q>
SO3KRATES_INLINE Q head_sums(Q q, int group) {
  if (group < 4) q += __builtin_shufflevector(q, q, 2, 3, 0, 1);
  if (group < 2) q += __builtin_shufflevector(q, q, 1, 0, 3, 2);
  return q;
}

template <typename V>
SO3KRATES_INLINE V at_most(V a, V b) {
  return a < b ? a : b;
}
template <typename V>
SO3KRATES_INLINE V at_least(V a, V b) {
  return a > b ? a : b;
}

template <typename V>
SO3KRATES_INLINE V square_root(V v) {
  for (int lane = 0; lane < kLanesOf<V>; ++lane) v[lane] = __builtin_sqrt(v[lane]);
  return v;
}
#ifdef __AVX512F__
template <>
SO3KRATES_INLINE Vector<float> square_root(Vector<float> v) {
  return (Vector<float>)_mm512_maskz_sqrt_ps(-1, (__m512)v);
}
#elif defined(__AVX2__)
template <>
SO3KRATES_INLINE Vector<float> square_root(Vector<float> v) {
  return (Vector<float>)_mm256_sqrt_ps((__m256)v);
}
#endif

// to[column][row] = from[row][column]; both numbers are multiples of four.
template <typename Real>
SO3KRATES_INLINE void transpose(int rows, int columns, const Real* from, std::ptrdiff_t from_stride, Real* to,
                                std::ptrdiff_t to_stride) {
  using Q = Quad<Real>;
  for (int r = 0; r < rows; r += 4)
    for (int c = 0; c < columns; c += 4) {
      Q q[4];
      for (int k = 0; k < 4; ++k) q[k] = load<Q>(from + (r + k) * from_stride + c);
      const Q low_01 = __builtin_shufflevector(q[0], q[1], 0, 4, 1, 5),
              low_23 = __builtin_shufflevector(q[2], q[3], 0, 4, 1, 5),
              high_01 = __builtin_shufflevector(q[0], q[1], 2, 6, 3, 7),
              high_23 = __builtin_shufflevector(q[2], q[3], 2, 6, 3, 7);
      store<Q>(to + c * to_stride + r, __builtin_shufflevector(low_01, low_23, 0, 1, 4, 5));
      store<Q>(to + (c + 1) * to_stride + r, __builtin_shufflevector(low_01, low_23, 2, 3, 6, 7));
      store<Q>(to + (c + 2) * to_stride + r, __builtin_shufflevector(high_01, high_23, 0, 1, 4, 5));
      store<Q>(to + (c + 3) * to_stride + r, __builtin_shufflevector(high_01, high_23, 2, 3, 6, 7));
    }
}

template <typename Real>
constexpr bool kIsDouble = sizeof(Real) == 8;

// 1 / n!
template <typename Real>
struct InverseFactorials {
  Real of[32];
  constexpr InverseFactorials() : of() {
    double value = 1;
    for (int n = 0; n < 32; ++n) {
      if (n > 0) value /= n;
      of[n] = static_cast<Real>(value);
    }
  }
};

// exp(x) to rounding: x = n log 2 + r, Taylor series of exp(r).
template <typename V>
SO3KRATES_INLINE V exponential(V x) {
  using Real = ElementOf<V>;
  using Bits = std::conditional_t<kIsDouble<Real>, std::int64_t, std::int32_t>;
  using BitVector = typename VectorOf<Bits, kLanesOf<V>>::type;
  constexpr int mantissa = kIsDouble<Real> ? 52 : 23;
  constexpr Real most = kIsDouble<Real> ? Real(708) : Real(87);
  constexpr Real round = Real(1.5) * static_cast<Real>(std::int64_t{1} << mantissa);  // its lowest bits become n
  constexpr Real log2_high = kIsDouble<Real> ? Real(0.693145751953125) : Real(0.693359375);
  constexpr Real log2_low = kIsDouble<Real> ? Real(1.42860682030941723212e-6) : Real(-2.12194440054690583e-4);
  constexpr int degree = kIsDouble<Real> ? 13 : 7;
  x = at_least(at_most(x, splat<V>(most)), splat<V>(-most));
  const V shifted = x * Real(1.44269504088896340736) + round;
  const V n = shifted - round;
  const V r = (x - n * log2_high) - n * log2_low;
  constexpr InverseFactorials<Real> c;
  V sum = splat<V>(c.of[degree]);
#pragma GCC unroll 16
  for (int k = degree - 1; k >= 0; --k) sum = sum * r + c.of[k];
  const BitVector power = ((BitVector)shifted + (kIsDouble<Real> ? 1023 : 127)) << mantissa;
  return sum * (V)power;
}

template <typename V>
SO3KRATES_INLINE V sigmoid(V x) {
  return ElementOf<V>(1) / (ElementOf<V>(1) + exponential(-x));
}

// sin and cos of x in [0, pi / 2] by their Taylor series.
template <typename V>
SO3KRATES_INLINE void sine_cosine(V x, V& sine, V& cosine) {
  using Real = ElementOf<V>;
  constexpr int terms = kIsDouble<Real> ? 11 : 7;
  constexpr InverseFactorials<Real> c;
  const V square = -x * x;
  sine = splat<V>(c.of[2 * terms + 1]);
  cosine = splat<V>(c.of[2 * terms]);
#pragma GCC unroll 16
  for (int k = terms - 1; k >= 0; --k) {
    sine = sine * square + c.of[2 * k + 1];
    cosine = cosine * square + c.of[2 * k];
  }
  sine *= x;
}

}  // namespace so3krates::kernels::SO3KRATES_KERNEL_SET
