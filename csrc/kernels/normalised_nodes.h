// What happens at each atom of SO3LR behind the messages and in its heads, and the adjoints (docs/so3lr.md). Adjoints
// have one channel; rows are handled kNodeBlock at a time.
#pragma once

#include "nodes.h"
#include "so3lr.h"

namespace so3krates::kernels::SO3KRATES_KERNEL_SET {

constexpr int kMostHeadColumns = 4;  // hidden columns of the heads over the features

inline std::size_t normalised_scratch_size(const Layout& layout) {
  const std::size_t exchange = 7 * (layout.feature_stride + kPadding) + kPadding;
  const std::size_t heads = static_cast<std::size_t>(kMostHeadColumns) * layout.feature_stride;
  return kNodeBlock * (exchange > heads ? exchange : heads);
}

// One over the standard deviation of a row; `out` (may be `x`) becomes the row less its mean, times that.
template <typename Real>
SO3KRATES_INLINE Real normalise(int width, const Real* x, Real* out) {
  using V = Vector<Real>;
  V total{}, squares{};
  for (int f = 0; f < width; f += kLanes<Real>) total += load<V>(x + f);
  const Real mean = sum(fold(total)) / static_cast<Real>(width);
  for (int f = 0; f < width; f += kLanes<Real>) {
    const V difference = load<V>(x + f) - mean;
    squares += difference * difference;
  }
  const Real variance = sum(fold(squares)) / static_cast<Real>(width) + Real(1e-6);
  const Real inverse = Real(1) / static_cast<Real>(__builtin_sqrt(static_cast<double>(variance)));
  for (int f = 0; f < width; f += kLanes<Real>) store<V>(out + f, (load<V>(x + f) - mean) * inverse);
  return inverse;
}

// The adjoint of a row from `adjoint` (in place), that of scale * normal + bias.
template <typename Real>
SO3KRATES_INLINE void normalise_adjoint(int width, const Real* scale, const Real* normal, Real inverse, Real* adjoint) {
  using V = Vector<Real>;
  V total{}, along{};
  for (int f = 0; f < width; f += kLanes<Real>) {
    const V scaled = load<V>(adjoint + f) * load<V>(scale + f);
    total += scaled;
    along += scaled * load<V>(normal + f);
  }
  const Real mean = sum(fold(total)) / static_cast<Real>(width),
             projection = sum(fold(along)) / static_cast<Real>(width);
  for (int f = 0; f < width; f += kLanes<Real>)
    store<V>(adjoint + f,
             inverse * (load<V>(adjoint + f) * load<V>(scale + f) - mean - load<V>(normal + f) * projection));
}

// What a block of rows is on its way through, and what its adjoint needs.
template <typename Real>
struct NormalisedBlock {
  int width, stride;                   // F; of rows with kQuad numbers behind the features
  Real *first, *second;                // [F] both normalised rows; `second` has a row's b_l behind it
  Real* stream;                        // features in front of the exchange, invariants
  Real *hidden, *slope, *inner_slope;  // silu of the residual network's inputs, derivatives of both silu
  Real* spare;
  Real *inverse_1, *inverse_2;  // [kNodeBlock]

  NormalisedBlock(const Layout& layout, Real* memory)
      : width(layout.feature_stride), stride(layout.feature_stride + kPadding) {
    const std::size_t size = static_cast<std::size_t>(kNodeBlock) * stride;
    Real** arrays[] = {&first, &second, &stream, &hidden, &slope, &inner_slope, &spare};
    for (Real** array : arrays) {
      *array = memory;
      memory += size;
    }
    inverse_1 = memory;
    inverse_2 = memory + kNodeBlock;
  }
};

template <typename Real>
void normalised_block(const Layout& layout, const NormalisedWeights<Real>& w, std::size_t start, int count,
                      const Real* x, const Real* chi, const NormalisedBlock<Real>& s) {
  using V = Vector<Real>;
  const int width = s.width, stride = s.stride, columns = width + kQuad;
  for (int a = 0; a < count; ++a) {
    Real *normal = s.first + a * stride, *stream = s.stream + a * stride, *hidden = s.hidden + a * stride;
    s.inverse_1[a] = normalise(width, x + (start + a) * layout.feature_stride, normal);
    for (int f = 0; f < width; f += kLanes<Real>) {
      const V value = load<V>(normal + f) * load<V>(w.scale_1 + f) + load<V>(w.bias_1 + f), gate = sigmoid(value);
      const V silu = value * gate;
      store<V>(stream + f, value + load<V>(w.out_bias + f));
      store<V>(hidden + f, silu);
      store<V>(s.slope + a * stride + f, gate + silu * (Real(1) - gate));
    }
    const Real* chi_row = chi + (start + a) * layout.order_stride;
    for (int l = 0; l < kQuad; ++l) stream[width + l] = 0;
    for (int l = 0, first = 0; l < layout.degrees; ++l)
      for (int m = 0; m < 2 * layout.degree[l] + 1; ++m, ++first) stream[width + l] += chi_row[first] * chi_row[first];
  }
  multiply<1, false, Real>(count, s.hidden, stride, {width}, w.residual_in, width, width, s.spare, stride);
  for (int a = 0; a < count; ++a)
    for (int f = 0; f < width; f += kLanes<Real>) {
      const V value = load<V>(s.spare + a * stride + f) + load<V>(w.in_bias + f), gate = sigmoid(value);
      const V silu = value * gate;
      store<V>(s.hidden + a * stride + f, silu);
      store<V>(s.inner_slope + a * stride + f, gate + silu * (Real(1) - gate));
    }
  multiply<1, true, Real>(count, s.hidden, stride, {width}, w.residual_out, width, width, s.stream, stride);
  multiply<1, false, Real>(count, s.stream, stride, {width + layout.degrees}, w.exchange.kernel, columns, columns,
                           s.second, stride);
  for (int a = 0; a < count; ++a) {
    Real* row = s.second + a * stride;
    for (int f = 0; f < width; f += kLanes<Real>)
      store<V>(row + f, load<V>(row + f) + load<V>(w.exchange.bias + f) + load<V>(s.stream + a * stride + f));
    for (int l = 0; l < kQuad; ++l) row[width + l] += w.exchange.bias[width + l];
    s.inverse_2[a] = normalise(width, row, row);
  }
}

// Features x [rows][feature_stride] and Euclidean variables chi [rows][order_stride] after the attention to those after
// the layer.
template <typename Real>
void normalised_exchange(const Layout& layout, const NormalisedWeights<Real>& w, Range range, const Real* x,
                         const Real* chi, Real* next_x, Real* next_chi, Real* memory) {
  using V = Vector<Real>;
  const NormalisedBlock<Real> s(layout, memory);
  for_blocks(range, [&](std::size_t start, int count) {
    normalised_block(layout, w, start, count, x, chi, s);
    for (int a = 0; a < count; ++a) {
      const Real* row = s.second + a * s.stride;
      Real* to = next_x + (start + a) * layout.feature_stride;
      for (int f = 0; f < s.width; f += kLanes<Real>)
        store<V>(to + f, load<V>(row + f) * load<V>(w.scale_2 + f) + load<V>(w.bias_2 + f));
      const Real* from = chi + (start + a) * layout.order_stride;
      Real* to_chi = next_chi + (start + a) * layout.order_stride;
      int first = 0;
      for (int l = 0; l < layout.degrees; ++l)
        for (int m = 0; m < 2 * layout.degree[l] + 1; ++m, ++first)
          to_chi[first] = from[first] * (1 + row[s.width + l]);
      for (; first < layout.order_stride; ++first) to_chi[first] = 0;
    }
  });
}

// Its adjoint, in place on adjoints [rows][message_stride].
template <typename Real>
void normalised_exchange_adjoint(const Layout& layout, const NormalisedWeights<Real>& w, Range range, const Real* x,
                                 const Real* chi, Real* adjoints, Real* memory) {
  using V = Vector<Real>;
  const NormalisedBlock<Real> s(layout, memory);
  const int width = s.width, stride = s.stride, columns = width + kQuad;
  for_blocks(range, [&](std::size_t start, int count) {
    normalised_block(layout, w, start, count, x, chi, s);
    for (int a = 0; a < count; ++a) {
      Real *row = adjoints + (start + a) * layout.message_stride, *stream = s.stream + a * stride;
      normalise_adjoint(width, w.scale_2, s.second + a * stride, s.inverse_2[a], row);
      for (int f = 0; f < width; f += kLanes<Real>) store<V>(stream + f, load<V>(row + f));
      const Real* chi_row = chi + (start + a) * layout.order_stride;
      for (int l = 0, first = 0; l < layout.degrees; ++l) {
        Real total = 0;
        for (int m = 0; m < 2 * layout.degree[l] + 1; ++m, ++first)
          total += row[layout.feature_stride + first] * chi_row[first];
        stream[width + l] = total;
      }
    }
    multiply<1, false, Real>(count, s.stream, stride, {width + layout.degrees}, w.exchange.kernel_t, columns, columns,
                             s.hidden, stride);
    for (int a = 0; a < count; ++a) {
      Real* row = adjoints + (start + a) * layout.message_stride;
      const Real *through = s.hidden + a * stride, *b = s.second + a * stride + width;
      for (int f = 0; f < width; f += kLanes<Real>) {
        const V total = load<V>(s.stream + a * stride + f) + load<V>(through + f);
        store<V>(row + f, total);
        store<V>(s.stream + a * stride + f, total);
      }
      const Real* chi_row = chi + (start + a) * layout.order_stride;
      Real* chi_adjoint = row + layout.feature_stride;
      for (int l = 0, first = 0; l < layout.degrees; ++l)
        for (int m = 0; m < 2 * layout.degree[l] + 1; ++m, ++first)
          chi_adjoint[first] = chi_adjoint[first] * (1 + b[l]) + 2 * chi_row[first] * through[width + l];
    }
    multiply<1, false, Real>(count, s.stream, stride, {width}, w.residual_out_t, width, width, s.spare, stride);
    for (int a = 0; a < count; ++a)
      for (int f = 0; f < width; f += kLanes<Real>)
        store<V>(s.spare + a * stride + f, load<V>(s.spare + a * stride + f) * load<V>(s.inner_slope + a * stride + f));
    multiply<1, false, Real>(count, s.spare, stride, {width}, w.residual_in_t, width, width, s.hidden, stride);
    for (int a = 0; a < count; ++a) {
      Real* row = adjoints + (start + a) * layout.message_stride;
      for (int f = 0; f < width; f += kLanes<Real>)
        add_to<V>(row + f, load<V>(s.hidden + a * stride + f) * load<V>(s.slope + a * stride + f));
      normalise_adjoint(width, w.scale_1, s.first + a * stride, s.inverse_1[a], row);
    }
  });
}

// The heads' hidden layers of a block of rows before silu, [kNodeBlock][stride].
template <typename Real>
void head_inputs(const Layout& layout, const HeadWeights<Real>& w, std::size_t start, int count, const Real* x,
                 Real* hidden) {
  using V = Vector<Real>;
  multiply<1, false, Real>(count, x + start * layout.feature_stride, layout.feature_stride, {layout.feature_width},
                           w.hidden, w.stride, w.stride, hidden, w.stride);
  for (int a = 0; a < count; ++a)
    for (int n = 0; n < w.stride; n += kLanes<Real>) add_to<V>(hidden + a * w.stride + n, load<V>(w.bias + n));
}

// What the heads say of rows, values[kHeads][rows] in float64. Ratios keep their sign.
template <typename Real>
void heads(const Layout& layout, const HeadWeights<Real>& w, Range range, const Real* x, const int* species,
           double* const* values, Real* memory) {
  using V = Vector<Real>;
  for_blocks(range, [&](std::size_t start, int count) {
    head_inputs(layout, w, start, count, x, memory);
    for (int a = 0; a < count; ++a) {
      const std::size_t element = species[start + a];
      const Real* out = w.out + element * w.stride;
      for (int head = 0, n = 0; head < kHeads; ++head) {
        V total{};
        for (; n < w.end[head]; n += kLanes<Real>) {
          const V value = load<V>(memory + a * w.stride + n);
          total += load<V>(out + n) * value * sigmoid(value);
        }
        values[head][start + a] = static_cast<double>(sum(fold(total)) + w.out_bias[element * kQuad + head]);
      }
    }
  });
}

// Adjoints [rows][message_stride] of the features, and zeros of the Euclidean variables: those of `heads` for energies
// 1, for charges charge_slopes less their mean, for ratios' absolute values ratio_slopes.
template <typename Real>
void heads_adjoint(const Layout& layout, const HeadWeights<Real>& w, Range range, const Real* x, const int* species,
                   const double* charge_slopes, double mean_slope, const double* ratio_slopes, Real* adjoints,
                   Real* memory) {
  using V = Vector<Real>;
  for_blocks(range, [&](std::size_t start, int count) {
    head_inputs(layout, w, start, count, x, memory);
    for (int a = 0; a < count; ++a) {
      const std::size_t element = species[start + a];
      const Real* out = w.out + element * w.stride;
      Real of_heads[kHeads] = {1, static_cast<Real>(charge_slopes[start + a] - mean_slope),
                               static_cast<Real>(ratio_slopes[start + a])};
      V ratio{};
      for (int n = w.end[1]; n < w.end[2]; n += kLanes<Real>) {
        const V value = load<V>(memory + a * w.stride + n);
        ratio += load<V>(out + n) * value * sigmoid(value);
      }
      if (sum(fold(ratio)) + w.out_bias[element * kQuad + 2] < 0) of_heads[2] = -of_heads[2];
      for (int head = 0, n = 0; head < kHeads; ++head)
        for (; n < w.end[head]; n += kLanes<Real>) {
          const V value = load<V>(memory + a * w.stride + n), gate = sigmoid(value);
          store<V>(memory + a * w.stride + n,
                   of_heads[head] * load<V>(out + n) * (gate + value * gate * (Real(1) - gate)));
        }
      Real* row = adjoints + (start + a) * layout.message_stride;
      for (int k = layout.feature_stride; k < layout.message_stride; ++k) row[k] = 0;
    }
    multiply<1, false, Real>(count, memory, w.stride, {w.stride}, w.hidden_t, layout.feature_stride,
                             layout.feature_stride, adjoints + start * layout.message_stride, layout.message_stride);
  });
}

}  // namespace so3krates::kernels::SO3KRATES_KERNEL_SET
