// Products of small blocks of rows with weight matrices.
#pragma once

#include "vector.h"

namespace so3krates::kernels::SO3KRATES_KERNEL_SET {

// Where the elements of a row of the left factor lie: `count` segments of `length` steps, each `step` after the one
// before (0: beside it).
struct Segments {
  int length, count = 1, stride = 0, step = 0;
};

// Accumulators of a tile, chosen to fill the registers.
#ifdef __AVX512F__
constexpr int kTileRows = 8, kTileColumns = 3;
#else
constexpr int kTileRows = 4, kTileColumns = 3;
#endif

// c[r][columns] (+)= sum_k a[r][k] b[k][columns] for `rows` rows and `columns` vectors. With group = 1, a[r][k] is a
// number; with group > 1 it is that many numbers, repeated over the lanes: a matrix of its own for each of `group`
// interleaved heads.
template <typename V, int rows, int columns, int group, bool accumulate, typename Real = ElementOf<V>>
SO3KRATES_INLINE void tile(const Real* a, std::ptrdiff_t a_stride, Segments segments, const Real* b,
                           std::ptrdiff_t b_stride, Real* c, std::ptrdiff_t c_stride) {
  V total[rows][columns];
  const std::ptrdiff_t step = segments.step > 0 ? segments.step : group;
#pragma GCC unroll 16
  for (int r = 0; r < rows; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < columns; ++v) total[r][v] = accumulate ? load<V>(c + r * c_stride + v * kLanesOf<V>) : V{};
  for (int segment = 0; segment < segments.count; ++segment) {
    const Real* left = a + segment * segments.stride;
    for (int k = 0; k < segments.length; ++k, left += step, b += b_stride) {
      V right[columns];
#pragma GCC unroll 4
      for (int v = 0; v < columns; ++v) right[v] = load<V>(b + v * kLanesOf<V>);
#pragma GCC unroll 16
      for (int r = 0; r < rows; ++r) {
        V factor;
        if constexpr (group == 1) {
          factor = splat<V>(left[r * a_stride]);
        } else if constexpr (group == 2) {
          const Real* pair = left + r * a_stride;
          factor = repeat<V>(Quad<Real>{pair[0], pair[1], pair[0], pair[1]});
        } else {
          factor = repeat<V>(load<Quad<Real>>(left + r * a_stride));
        }
#pragma GCC unroll 4
        for (int v = 0; v < columns; ++v) total[r][v] += factor * right[v];
      }
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < rows; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < columns; ++v) store<V>(c + r * c_stride + v * kLanesOf<V>, total[r][v]);
}

template <typename V, int columns, int group, bool accumulate, typename Real = ElementOf<V>>
SO3KRATES_INLINE void column_of_tiles(int rows, const Real* a, std::ptrdiff_t a_stride, Segments segments,
                                      const Real* b, std::ptrdiff_t b_stride, Real* c, std::ptrdiff_t c_stride) {
  int r = 0;
  const auto tiles_of = [&](auto height) {
    for (; r + height() <= rows; r += height())
      tile<V, height(), columns, group, accumulate>(a + r * a_stride, a_stride, segments, b, b_stride, c + r * c_stride,
                                                    c_stride);
  };
  if constexpr (columns == 1) tiles_of(std::integral_constant<int, 2 * kTileRows>());
  tiles_of(std::integral_constant<int, kTileRows>());
  if constexpr (kTileRows > 4) tiles_of(std::integral_constant<int, 4>());
  tiles_of(std::integral_constant<int, 1>());
}

// The same for any number of rows and `columns` numbers, a multiple of four.
template <int group, bool accumulate, typename Real>
__attribute__((noinline)) void multiply(int rows, const Real* a, std::ptrdiff_t a_stride, Segments segments,
                                        const Real* b, std::ptrdiff_t b_stride, int columns, Real* c,
                                        std::ptrdiff_t c_stride) {
  using V = Vector<Real>;
  constexpr int lanes = kLanes<Real>;
  int n = 0;
  for (; n + kTileColumns * lanes <= columns; n += kTileColumns * lanes)
    column_of_tiles<V, kTileColumns, group, accumulate>(rows, a, a_stride, segments, b + n, b_stride, c + n, c_stride);
  if (n + 2 * lanes <= columns) {
    column_of_tiles<V, 2, group, accumulate>(rows, a, a_stride, segments, b + n, b_stride, c + n, c_stride);
    n += 2 * lanes;
  }
  for (; n + lanes <= columns; n += lanes)
    column_of_tiles<V, 1, group, accumulate>(rows, a, a_stride, segments, b + n, b_stride, c + n, c_stride);
  for (; n < columns; n += kQuad)
    column_of_tiles<Quad<Real>, 1, group, accumulate>(rows, a, a_stride, segments, b + n, b_stride, c + n, c_stride);
}

// With the layout's group.
template <bool accumulate, typename Real>
inline void multiply_heads(int group, int rows, const Real* a, std::ptrdiff_t a_stride, Segments segments,
                           const Real* b, std::ptrdiff_t b_stride, int columns, Real* c, std::ptrdiff_t c_stride) {
  const auto product = group == 1   ? multiply<1, accumulate, Real>
                       : group == 2 ? multiply<2, accumulate, Real>
                                    : multiply<4, accumulate, Real>;
  product(rows, a, a_stride, segments, b, b_stride, columns, c, c_stride);
}

}  // namespace so3krates::kernels::SO3KRATES_KERNEL_SET
