// Filters of pairs and their adjoint (docs/model.md): the part of the degrees as products of a batch, the radial part
// as splines, pair by pair.
#pragma once

#include "batch.h"
#include "gemm.h"
#include "layout.h"
#include "vector.h"

namespace so3krates::kernels::SO3KRATES_KERNEL_SET {

// Filters of a batch before the radial part is added, and what their adjoint needs. Of the arrays of two parts the
// first belongs to the features' filter, the second to the geometric one.
template <typename Real>
struct FilterScratch {
  Real* difference;       // [kBatch][kMostOrders] chi_j - chi_i
  Real* invariants;       // [channels or 1][kQuad][kBatch] of the difference; in the adjoint their adjoints
  Real* hidden;           // [2][hidden][kBatch]; in the adjoint its adjoints
  Real* hidden_slope;     // the derivative of silu
  Real* reduced;          // [2][rank][kBatch]; in the adjoint its adjoints
  Real* filter;           // [kBatch][filter_stride]
  Real* adjoint;          // [channels][kBatch][filter_stride]
  Real* reduced_adjoint;  // [kBatch][rank_stride]
};

// The two functions below agree on the size, in numbers; channels = 0 where there is no adjoint.
inline std::size_t filter_scratch_size(const Layout& layout, int channels) {
  const int most_rank = layout.hidden + kPadding;
  return kBatch * static_cast<std::size_t>(kMostOrders + (channels > 0 ? channels : 1) * kQuad + 4 * layout.hidden +
                                           3 * most_rank + (1 + channels) * layout.filter_stride);
}

template <typename Real>
FilterScratch<Real> filter_scratch(const Layout& layout, int channels, Real* memory) {
  // Padding that no product writes is read as zero.
  __builtin_memset(memory, 0, filter_scratch_size(layout, channels) * sizeof(Real));
  const int most_rank = layout.hidden + kPadding;
  FilterScratch<Real> s;
  s.difference = memory;
  s.invariants = s.difference + kBatch * kMostOrders;
  s.hidden = s.invariants + kBatch * (channels > 0 ? channels : 1) * kQuad;
  s.hidden_slope = s.hidden + kBatch * 2 * layout.hidden;
  s.reduced = s.hidden_slope + kBatch * 2 * layout.hidden;
  s.reduced_adjoint = s.reduced + kBatch * 2 * most_rank;
  s.filter = s.reduced_adjoint + kBatch * most_rank;
  s.adjoint = s.filter + kBatch * layout.filter_stride;
  return s;
}

// Which lanes of the Euclidean variables belong to each degree, and the harmonics' signs under inversion.
template <typename Real>
struct Degrees {
  alignas(64) Real select[kMostDegrees][kMostOrders];
  Quad<Real> parity;

  explicit Degrees(const Layout& layout) {
    parity = Quad<Real>{};
    int first = 0;
    for (int l = 0; l < kMostDegrees; ++l)
      for (int m = 0; m < kMostOrders; ++m) select[l][m] = 0;
    for (int l = 0; l < layout.degrees; ++l) {
      for (int m = 0; m < 2 * layout.degree[l] + 1; ++m) select[l][first++] = 1;
      parity[l] = layout.degree[l] % 2 == 0 ? 1 : -1;
    }
  }

  // One value per degree for each of its orders.
  template <typename V>
  SO3KRATES_INLINE V spread(const Layout& layout, Quad<Real> values, int order) const {
    V spread{};
    for (int l = 0; l < layout.degrees; ++l) spread += load<V>(select[l] + order) * values[l];
    return spread;
  }
  // sum_m a_lm b_lm for each degree.
  SO3KRATES_INLINE Quad<Real> contract(const Layout& layout, const Real* a, const Real* b) const {
    using V = Vector<Real>;
    V totals[kMostDegrees] = {};
    for (int m = 0; m < layout.order_stride; m += kLanes<Real>) {
      const V product = load<V>(a + m) * load<V>(b + m);
      for (int l = 0; l < layout.degrees; ++l) totals[l] += product * load<V>(select[l] + m);
    }
    return sums(totals[0], totals[1], totals[2], totals[3]);
  }
};

// Degree part of both filters, w = MLP_spherical(I(chi_j - chi_i)); the radial part is added pair by pair from the
// table.
template <typename Real, bool with_slope>
void degree_filters(const Layout& layout, const Degrees<Real>& degrees, const FilterWeights<Real>& weights,
                    const Batch<Real>& batch, const Real* rows, const FilterScratch<Real>& s) {
  using V = Vector<Real>;
  for (int e = 0; e < kBatch; ++e) {
    const Real* chi_i = rows + static_cast<std::size_t>(batch.centre[e]) * layout.row_stride + layout.chi;
    const Real* chi_j = rows + static_cast<std::size_t>(batch.other[e]) * layout.row_stride + layout.chi;
    Real* difference = s.difference + e * kMostOrders;
    for (int m = 0; m < layout.order_stride; m += kLanes<Real>)
      store<V>(difference + m, load<V>(chi_j + m) - load<V>(chi_i + m));
    const Quad<Real> invariants = degrees.contract(layout, difference, difference);
    for (int l = 0; l < layout.degrees; ++l) s.invariants[l * kBatch + e] = invariants[l];
  }
  const Real* bias = weights.hidden_in + layout.degrees * layout.hidden_stride;
  for (int n = 0; n < 2 * layout.hidden; ++n)
    for (int e = 0; e < kBatch; e += kLanes<Real>) {
      V sum = splat<V>(bias[n]);
      for (int l = 0; l < layout.degrees; ++l)
        sum += weights.hidden_in[l * layout.hidden_stride + n] * load<V>(s.invariants + l * kBatch + e);
      const V gate = sigmoid(sum), value = sum * gate;
      store<V>(s.hidden + n * kBatch + e, value);
      if (with_slope) store<V>(s.hidden_slope + n * kBatch + e, gate + value * (Real(1) - gate));
    }
  for (int part = 0; part < 2; ++part) {
    const Real* reduced = s.hidden + part * layout.hidden * kBatch;
    const int first = part == 0 ? 0 : layout.feature_stride;
    if (weights.reduce != nullptr) {
      Real* to = s.reduced + part * weights.rank * kBatch;
      multiply<1, false, Real>(weights.rank, weights.reduce + part * layout.hidden * weights.rank, 1,
                               {layout.hidden, 1, 0, weights.rank}, reduced, kBatch, kBatch, to, kBatch);
      reduced = to;
    }
    multiply<1, false, Real>(kBatch, reduced, 1, {weights.rank, 1, 0, kBatch}, weights.expand + first,
                             layout.filter_stride, part == 0 ? layout.feature_stride : layout.geometric_stride,
                             s.filter + first, layout.filter_stride);
  }
}

// Cubic B-splines of one pair, all filters' features.
template <typename Real>
struct Spline {
  using V = Vector<Real>;
  V weight[4], slope_weight[3];
  const Real* coefficients[4];

  SO3KRATES_INLINE Spline(const Layout& layout, const Real* table, const Batch<Real>& batch, int e) {
    for (int k = 0; k < 4; ++k) {
      weight[k] = splat<V>(batch.spline[k][e]);
      coefficients[k] = table + static_cast<std::size_t>(batch.node[e] + k) * layout.filter_stride;
    }
    for (int k = 0; k < 3; ++k) slope_weight[k] = splat<V>(batch.spline_slope[k][e]);
  }
  SO3KRATES_INLINE V at(int f) const {
    return (weight[0] * load<V>(coefficients[0] + f) + weight[1] * load<V>(coefficients[1] + f)) +
           (weight[2] * load<V>(coefficients[2] + f) + weight[3] * load<V>(coefficients[3] + f));
  }
  SO3KRATES_INLINE V slope_at(int f) const {
    const V c[4] = {load<V>(coefficients[0] + f), load<V>(coefficients[1] + f), load<V>(coefficients[2] + f),
                    load<V>(coefficients[3] + f)};
    return slope_weight[0] * (c[1] - c[0]) + slope_weight[1] * (c[2] - c[1]) + slope_weight[2] * (c[3] - c[2]);
  }
};

// Adjoint of degree_filters: from the filters' adjoints to the Euclidean variables of both rows. Written are the
// channels from `first_channel` on; axis: of the first moment.
template <typename Real, int channels, int first_channel>
void degree_filters_adjoint(const Layout& layout, const Degrees<Real>& degrees, const FilterWeights<Real>& weights,
                            const Batch<Real>& batch, const FilterScratch<Real>& s, int axis, Real* row_gradients) {
  using V = Vector<Real>;
  const int hidden = layout.hidden, rank = weights.rank, stride = weights.rank_stride;
  // One or two columns beyond the last multiple of kPadding are sums along rows, more of them are padded.
  const int rest = rank % kPadding, whole = rest > 2 ? stride : rank - rest;
  for (int c = 0; c < channels; ++c) {
    const Real* adjoint = s.adjoint + c * kBatch * layout.filter_stride;
    for (int part = 0; part < 2; ++part) {
      const int first = part == 0 ? 0 : layout.feature_stride,
                end = part == 0 ? layout.feature_stride : layout.filter_stride;
      const Segments along = part == 0 ? Segments{layout.feature_width}
                                       : Segments{layout.block_width, layout.degrees, layout.block_stride};
      Real* reduced = (weights.reduce == nullptr ? s.hidden : s.reduced) + part * rank * kBatch;
      multiply<1, false, Real>(kBatch, adjoint + first, layout.filter_stride, along,
                               weights.expand_t + part * layout.feature_width * stride, stride, whole,
                               s.reduced_adjoint, stride);
      transpose(kBatch, rank / kQuad * kQuad, s.reduced_adjoint, stride, reduced, kBatch);
      for (int n = rank / kQuad * kQuad; n < rank; ++n)
        for (int e = 0; e < kBatch; ++e) {
          if (n < whole) {
            reduced[n * kBatch + e] = s.reduced_adjoint[e * stride + n];
            continue;
          }
          V total{};
          for (int f = first; f < end; f += kLanes<Real>)
            total += load<V>(adjoint + e * layout.filter_stride + f) *
                     load<V>(weights.expand + n * layout.filter_stride + f);
          reduced[n * kBatch + e] = sum(fold(total));
        }
      if (weights.reduce != nullptr)
        multiply<1, false, Real>(hidden, weights.reduce + part * hidden * rank, rank, {rank}, reduced, kBatch, kBatch,
                                 s.hidden + part * hidden * kBatch, kBatch);
    }
    for (int e = 0; e < kBatch; e += kLanes<Real>) {
      V totals[2][kMostDegrees] = {};
      for (int n = 0; n < hidden; ++n)
        for (int part = 0; part < 2; ++part) {
          const int unit = part * hidden + n;
          const V through = load<V>(s.hidden + unit * kBatch + e) * load<V>(s.hidden_slope + unit * kBatch + e);
          for (int l = 0; l < layout.degrees; ++l)
            totals[part][l] += weights.hidden_in[l * layout.hidden_stride + unit] * through;
        }
      for (int l = 0; l < layout.degrees; ++l)
        store<V>(s.invariants + (c * kQuad + l) * kBatch + e, Real(2) * (totals[0][l] + totals[1][l]));
    }
  }
  for (int e = 0; e < batch.count; ++e) {
    const std::size_t i = batch.centre[e], j = batch.other[e];
    Real r[3] = {};
    for (int a = 0; a < channels - 1; ++a) r[a] = -batch.vector[axis + a][e];
    Quad<Real> of_invariants[channels];
    for (int c = 0; c < channels; ++c) {
      const Real* of_pair = s.invariants + c * kQuad * kBatch + e;
      of_invariants[c] = Quad<Real>{of_pair[0], of_pair[kBatch], of_pair[2 * kBatch], of_pair[3 * kBatch]};
    }
    for (int c = first_channel; c < channels; ++c) {
      constexpr int written = channels - first_channel;
      Real* to_i = row_gradients + (i * written + c - first_channel) * layout.row_stride + layout.chi;
      Real* to_j = row_gradients + (j * written + c - first_channel) * layout.row_stride + layout.chi;
      const Quad<Real> about_j = moved(of_invariants, c, r);
      for (int m = 0; m < layout.order_stride; m += kLanes<Real>) {
        const V difference = load<V>(s.difference + e * kMostOrders + m);
        add_to<V>(to_i + m, -difference * degrees.template spread<V>(layout, of_invariants[c], m));
        if (batch.is_two_sided[e]) add_to<V>(to_j + m, difference * degrees.template spread<V>(layout, about_j, m));
      }
    }
  }
}

}  // namespace so3krates::kernels::SO3KRATES_KERNEL_SET
