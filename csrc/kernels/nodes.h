// What happens at each atom: projections, exchange block, energy head, and their adjoints (docs/model.md). Rows are
// handled kNodeBlock at a time.
#pragma once

#include "gemm.h"
#include "layout.h"
#include "vector.h"

namespace so3krates::kernels::SO3KRATES_KERNEL_SET {

constexpr int kNodeBlock = 24;

// body(f, position of feature f in an interleaved row) for all features in the model's order.
template <typename Body>
SO3KRATES_INLINE void for_features(const Layout& layout, Body&& body) {
  const int count = layout.degrees * layout.block_width;
  for (int f = 0, h = 0; f < count; ++h)
    for (int n = 0; n < layout.head_features; ++n, ++f) body(f, n * layout.group + h);
}

inline std::size_t node_scratch_size(const Layout& layout) {
  int widest = layout.message_stride;
  if (layout.readout_stride > widest) widest = layout.readout_stride;
  if (layout.geometric_stride > widest) widest = layout.geometric_stride;
  return std::size_t{3} * kNodeBlock * static_cast<std::size_t>(widest + kPadding);
}

template <typename Body>
SO3KRATES_INLINE void for_blocks(Range range, Body&& body) {
  for (int start = range.begin; start < range.end; start += kNodeBlock)
    body(static_cast<std::size_t>(start), range.end - start < kNodeBlock ? range.end - start : kNodeBlock);
}

// Queries, keys, values and Euclidean variables of rows.
template <typename Real>
void project(const Layout& layout, const ProjectionWeights<Real>& w, Range range, const Real* x, const Real* chi,
             Real* rows, Real* memory) {
  const int natural_stride = layout.degrees * layout.block_width;
  for_blocks(range, [&](std::size_t start, int count) {
    const Real* x_block = x + start * layout.feature_stride;
    Real* block = rows + start * layout.row_stride;
    multiply_heads<false, Real>(layout.group, count, x_block, layout.feature_stride, {layout.head_features}, w.feature,
                                3 * layout.feature_stride, 3 * layout.feature_stride, block, layout.row_stride);
    for (int a = 0; a < count; ++a)
      for_features(layout, [&](int f, int position) {
        memory[a * natural_stride + f] = x_block[a * layout.feature_stride + position];
      });
    for (int l = 0; l < layout.degrees; ++l)
      for (int part = 0; part < 2; ++part)
        multiply<1, false, Real>(
            count, memory + l * layout.block_width, natural_stride, {layout.block_width},
            w.geometric + (l * layout.block_width * 2 + part) * layout.block_stride, 2 * layout.block_stride,
            layout.block_stride,
            block + (part == 0 ? layout.geometric_query : layout.geometric_key) + l * layout.block_stride,
            layout.row_stride);
    for (int a = 0; a < count; ++a)
      for (int m = 0; m < layout.order_stride; ++m)
        block[a * layout.row_stride + layout.chi + m] = chi[(start + a) * layout.order_stride + m];
  });
}

// Adjoint of project: adds to adjoints [rows][channels][..] of that stride what comes through the projections'
// adjoints.
template <typename Real>
void project_adjoint(const Layout& layout, const ProjectionWeights<Real>& w, int channels, Range range,
                     const Real* row_gradients, Real* adjoints, int stride, Real* memory) {
  for_blocks({range.begin * channels, range.end * channels}, [&](std::size_t start, int count) {
    const Real* gradients = row_gradients + start * layout.row_stride;
    Real* block = adjoints + start * stride;
    multiply_heads<true, Real>(layout.group, count, gradients, layout.row_stride,
                               {layout.head_features, 3, layout.feature_stride}, w.feature_t, layout.feature_stride,
                               layout.feature_stride, block, stride);
    for (int l = 0; l < layout.degrees; ++l) {
      multiply<1, false, Real>(count, gradients + layout.geometric_query + l * layout.block_stride, layout.row_stride,
                               {layout.block_width, 2, layout.geometric_key - layout.geometric_query},
                               w.geometric_t + l * 2 * layout.block_width * layout.block_stride, layout.block_stride,
                               layout.block_stride, memory + l * layout.block_stride, layout.geometric_stride);
    }
    for (int a = 0; a < count; ++a) {
      const Real* blocks = memory + a * layout.geometric_stride;
      int f_in_block = 0;
      for_features(layout, [&](int, int position) {
        block[a * stride + position] += blocks[f_in_block];
        if (++f_in_block == layout.block_width) {
          f_in_block = 0;
          blocks += layout.block_stride;
        }
      });
      for (int m = 0; m < layout.order_stride; ++m)
        block[a * stride + layout.feature_stride + m] += gradients[a * layout.row_stride + layout.chi + m];
    }
  });
}

// Exchange block in place: x [rows][feature_stride]; chi -> next_chi [rows][order_stride]; scale [rows][kQuad] keeps
// b_l.
template <typename Real>
void exchange(const Layout& layout, const ExchangeWeights<Real>& w, Range range, const Real* chi, Real* x,
              Real* next_chi, Real* scale, Real* memory) {
  const int width = layout.feature_width, in_stride = width + kQuad, out_stride = layout.feature_stride + kQuad;
  Real* in = memory;
  Real* out = memory + kNodeBlock * in_stride;
  for_blocks(range, [&](std::size_t start, int count) {
    for (int a = 0; a < count; ++a) {
      const Real* x_row = x + (start + a) * layout.feature_stride;
      const Real* chi_row = chi + (start + a) * layout.order_stride;
      for (int f = 0; f < width; ++f) in[a * in_stride + f] = x_row[f];
      for (int l = 0, first = 0; l < layout.degrees; ++l) {
        Real invariant = 0;
        for (int m = 0; m < 2 * layout.degree[l] + 1; ++m, ++first) invariant += chi_row[first] * chi_row[first];
        in[a * in_stride + width + l] = invariant;
      }
    }
    multiply<1, false, Real>(count, in, in_stride, {width + layout.degrees}, w.kernel, out_stride, out_stride, out,
                             out_stride);
    for (int a = 0; a < count; ++a) {
      Real* x_row = x + (start + a) * layout.feature_stride;
      const Real* out_row = out + a * out_stride;
      for (int f = 0; f < layout.feature_stride; ++f) x_row[f] += out_row[f] + w.bias[f];
      Real* b = scale + (start + a) * kQuad;
      for (int l = 0; l < kQuad; ++l) b[l] = out_row[layout.feature_stride + l] + w.bias[layout.feature_stride + l];
      const Real* from = chi + (start + a) * layout.order_stride;
      Real* to = next_chi + (start + a) * layout.order_stride;
      int first = 0;
      for (int l = 0; l < layout.degrees; ++l)
        for (int m = 0; m < 2 * layout.degree[l] + 1; ++m, ++first) to[first] = from[first] * (1 + b[l]);
      for (; first < layout.order_stride; ++first) to[first] = 0;
    }
  });
}

// Adjoint of exchange, in place on adjoints [rows * channels][message_stride]; `range` counts rows.
template <typename Real>
void exchange_adjoint(const Layout& layout, const ExchangeWeights<Real>& w, int channels, Range range, const Real* chi,
                      const Real* scale, Real* adjoints, Real* memory) {
  const int width = layout.feature_width, in_stride = width + kQuad, out_stride = layout.feature_stride + kQuad;
  Real* in = memory;
  Real* out = memory + kNodeBlock * in_stride;
  for_blocks({range.begin * channels, range.end * channels}, [&](std::size_t start, int count) {
    for (int a = 0; a < count; ++a) {
      const Real* row = adjoints + (start + a) * layout.message_stride;
      const Real* chi_row = chi + (start + a) / channels * layout.order_stride;
      for (int f = 0; f < width; ++f) in[a * in_stride + f] = row[f];
      for (int l = 0, first = 0; l < layout.degrees; ++l) {
        Real total = 0;
        for (int m = 0; m < 2 * layout.degree[l] + 1; ++m, ++first)
          total += row[layout.feature_stride + first] * chi_row[first];
        in[a * in_stride + width + l] = total;
      }
    }
    multiply<1, false, Real>(count, in, in_stride, {width + layout.degrees}, w.kernel_t, out_stride, out_stride, out,
                             out_stride);
    for (int a = 0; a < count; ++a) {
      Real* row = adjoints + (start + a) * layout.message_stride;
      const Real* out_row = out + a * out_stride;
      for (int f = 0; f < layout.feature_stride; ++f) row[f] += out_row[f];
      const Real* chi_row = chi + (start + a) / channels * layout.order_stride;
      const Real* b = scale + (start + a) / channels * kQuad;
      Real* chi_adjoint = row + layout.feature_stride;
      for (int l = 0, first = 0; l < layout.degrees; ++l)
        for (int m = 0; m < 2 * layout.degree[l] + 1; ++m, ++first)
          chi_adjoint[first] =
              chi_adjoint[first] * (1 + b[l]) + 2 * chi_row[first] * out_row[layout.feature_stride + l];
    }
  });
}

// Energies of rows (float64, eV), returned summed, and the adjoints [rows][channels][message_stride] of the features in
// channel 0.
template <typename Real>
double readout(const Layout& layout, const ReadoutWeights<Real>& w, int channels, Range range, const Real* x,
               double* energies, Real* adjoints, Real* memory) {
  using V = Vector<Real>;
  double total = 0;
  Real* hidden = memory;
  for_blocks(range, [&](std::size_t start, int count) {
    multiply<1, false, Real>(count, x + start * layout.feature_stride, layout.feature_stride, {layout.feature_width},
                             w.hidden, layout.readout_stride, layout.readout_stride, hidden, layout.readout_stride);
    for (int a = 0; a < count; ++a) {
      V energy{};
      for (int n = 0; n < layout.readout_stride; n += kLanes<Real>) {
        Real* at = hidden + a * layout.readout_stride + n;
        const V sum = load<V>(at) + load<V>(w.bias + n), gate = sigmoid(sum), value = sum * gate,
                out = load<V>(w.out + n);
        energy += out * value;
        store<V>(at, out * (gate + value * (Real(1) - gate)));
      }
      energies[start + a] = static_cast<double>(sum(fold(energy)) + w.out_bias);
      total += energies[start + a];
      Real* row = adjoints + (start + a) * channels * layout.message_stride;
      for (int k = 0; k < channels * layout.message_stride; ++k) row[k] = 0;
    }
    multiply<1, false, Real>(count, hidden, layout.readout_stride, {layout.readout}, w.hidden_t, layout.feature_stride,
                             layout.feature_stride, adjoints + start * channels * layout.message_stride,
                             channels * layout.message_stride);
  });
  return total;
}

}  // namespace so3krates::kernels::SO3KRATES_KERNEL_SET
