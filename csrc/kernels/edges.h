// Messages of one layer along pairs of atoms, and their adjoint (docs/model.md). A pair is visited once for both of its
// directions, i <- j and j <- i, which share their filters; only the centre's row is written where the pair is not
// two-sided.
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
    Quad<Real> totals[kMostDegrees] = {};
    for (int m = 0; m < layout.order_stride; m += kLanes<Real>) {
      const V product = load<V>(a + m) * load<V>(b + m);
      for (int l = 0; l < layout.degrees; ++l) totals[l] += fold(product * load<V>(select[l] + m));
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

// Where the parts of a row of projections, or of their adjoints, begin.
template <typename Real>
struct Ends {
  Real *query, *key, *value, *geometric_query, *geometric_key;
  SO3KRATES_INLINE Ends(const Layout& layout, Real* row)
      : query(row),
        key(row + layout.key),
        value(row + layout.value),
        geometric_query(row + layout.geometric_query),
        geometric_key(row + layout.geometric_key) {}
};

// Adds the messages of one pair to features and Euclidean variables.
template <typename Real, bool both>
SO3KRATES_INLINE void add_messages(const Layout& layout, const Degrees<Real>& degrees, const Real* table,
                                   const Batch<Real>& batch, int e, const Real* filter, const Real* rows, Real* x,
                                   Real* chi) {
  using V = Vector<Real>;
  constexpr int lanes = kLanes<Real>;
  const std::size_t i = batch.centre[e], j = batch.other[e];
  const Ends<const Real> at_i(layout, rows + i * layout.row_stride), at_j(layout, rows + j * layout.row_stride);
  Real *x_i = x + i * layout.feature_stride, *x_j = x + j * layout.feature_stride;
  Real *chi_i = chi + i * layout.order_stride, *chi_j = chi + j * layout.order_stride;
  const Spline<Real> spline(layout, table, batch, e);
  const Real phi = batch.cutoff[e];
  const int width = layout.feature_width, block = layout.block_stride, geometric = layout.feature_stride;

  V a_ij{}, a_ji{};
  for (int f = 0; f < width; f += lanes) {
    const V w = load<V>(filter + f) + spline.at(f);
    a_ij += w * (load<V>(at_i.query + f) * load<V>(at_j.key + f));
    if (both) a_ji += w * (load<V>(at_j.query + f) * load<V>(at_i.key + f));
  }
  const V alpha_ij = repeat<V>(head_sums(fold(a_ij), layout.group) * phi);
  const V alpha_ji = repeat<V>(head_sums(fold(a_ji), layout.group) * phi);
  for (int f = 0; f < width; f += lanes) {
    add_to<V>(x_i + f, alpha_ij * load<V>(at_j.value + f));
    if (both) add_to<V>(x_j + f, alpha_ji * load<V>(at_i.value + f));
  }

  Quad<Real> b_ij[kMostDegrees] = {}, b_ji[kMostDegrees] = {};
  for (int l = 0, start = 0; l < layout.degrees; ++l, start += block) {
    V ij{}, ji{};
    for (int f = start; f < start + block; f += lanes) {
      const V w = load<V>(filter + geometric + f) + spline.at(geometric + f);
      ij += w * (load<V>(at_i.geometric_query + f) * load<V>(at_j.geometric_key + f));
      if (both) ji += w * (load<V>(at_j.geometric_query + f) * load<V>(at_i.geometric_key + f));
    }
    b_ij[l] = fold(ij);
    b_ji[l] = fold(ji);
  }
  const Quad<Real> beta_ij = sums(b_ij[0], b_ij[1], b_ij[2], b_ij[3]) * phi;
  const Quad<Real> beta_ji = sums(b_ji[0], b_ji[1], b_ji[2], b_ji[3]) * phi * degrees.parity;
  for (int m = 0; m < layout.order_stride; m += lanes) {
    const V y = load<V>(batch.harmonics[e] + m);
    add_to<V>(chi_i + m, degrees.template spread<V>(layout, beta_ij, m) * y);
    if (both) add_to<V>(chi_j + m, degrees.template spread<V>(layout, beta_ji, m) * y);
  }
}

// Adds the messages of all pairs of a visit to features x [rows][feature_stride] and Euclidean variables chi
// [rows][order_stride]; rows: projections of all atoms.
template <typename Real>
void messages(const Layout& layout, const FilterWeights<Real>& weights, const PairTable<Real>& pairs, Visit visit,
              const Real* rows, Real* x, Real* chi, Real* memory) {
  const FilterScratch<Real> s = filter_scratch(layout, 0, memory);
  const Degrees<Real> degrees(layout);
  Batch<Real> batch;
  PairCursor<Real> cursor(pairs, visit);
  while (cursor.next(batch)) {
    fill_geometry(layout, batch);
    degree_filters<Real, false>(layout, degrees, weights, batch, rows, s);
    for (int e = 0; e < batch.count; ++e) {
      const Real* filter = s.filter + e * layout.filter_stride;
      if (batch.is_two_sided[e])
        add_messages<Real, true>(layout, degrees, weights.table, batch, e, filter, rows, x, chi);
      else
        add_messages<Real, false>(layout, degrees, weights.table, batch, e, filter, rows, x, chi);
    }
  }
}

// Channels 1 to 3 are moments about an atom: moving the origin by r adds r_a times channel 0.
template <typename T, typename Real>
SO3KRATES_INLINE T moved(const T* channel, int c, const Real* r) {
  return c == 0 ? channel[0] : channel[c] + r[c - 1] * channel[0];
}

// Adjoint of add_messages. All channels are taken about the centre; what the other row gets is moved to that row.
//   rows, row_gradients: projections and their adjoints ([rows][channels][row_stride]); sums_adjoint:
//   [rows][channels][message_stride].
// Replaces `filter` by w and writes the filters' adjoints and those of the geometry.
template <typename Real, int channels, bool both>
SO3KRATES_INLINE void add_message_adjoints(const Layout& layout, const Degrees<Real>& degrees, const Real* table,
                                           const Batch<Real>& batch, int e, const FilterScratch<Real>& s,
                                           const Real* rows, const Real* sums_adjoint, Real* row_gradients,
                                           GeometryAdjoint<Real>* geometry) {
  using V = Vector<Real>;
  using Q = Quad<Real>;
  constexpr int lanes = kLanes<Real>;
  const std::size_t i = batch.centre[e], j = batch.other[e];
  const Ends<const Real> at_i(layout, rows + i * layout.row_stride), at_j(layout, rows + j * layout.row_stride);
  const Ends<Real> to_i(layout, row_gradients + i * channels * layout.row_stride),
      to_j(layout, row_gradients + j * channels * layout.row_stride);
  const Real *lambda_i = sums_adjoint + i * channels * layout.message_stride,
             *lambda_j = sums_adjoint + j * channels * layout.message_stride;
  Real* filter = s.filter + e * layout.filter_stride;
  Real* filter_adjoint = s.adjoint + e * layout.filter_stride;
  // Strides between channels.
  const int of_filter = kBatch * layout.filter_stride, of_row = layout.row_stride, of_lambda = layout.message_stride;
  const int width = layout.feature_width, block = layout.block_stride, geometric = layout.feature_stride;
  const Spline<Real> spline(layout, table, batch, e);
  const Real phi = batch.cutoff[e];
  const Real r[3] = {batch.vector[0][e], batch.vector[1][e], batch.vector[2][e]};
  const Real minus_r[3] = {-r[0], -r[1], -r[2]};

  // Feature attention: coefficients, their derivatives with respect to the distance, and their adjoints.
  V a_ij{}, a_ji{}, da_ij{}, da_ji{}, p_ij[channels] = {}, p_ji[channels] = {};
  for (int f = 0; f < width; f += lanes) {
    const V w = load<V>(filter + f) + spline.at(f), w_slope = spline.slope_at(f);
    store<V>(filter + f, w);
    const V ij = load<V>(at_i.query + f) * load<V>(at_j.key + f), ji = load<V>(at_j.query + f) * load<V>(at_i.key + f);
    a_ij += w * ij;
    a_ji += w * ji;
    da_ij += w_slope * ij;
    da_ji += w_slope * ji;
    const V v_i = load<V>(at_i.value + f), v_j = load<V>(at_j.value + f);
    for (int c = 0; c < channels; ++c) {
      p_ij[c] += load<V>(lambda_i + c * of_lambda + f) * v_j;
      p_ji[c] += load<V>(lambda_j + c * of_lambda + f) * v_i;
    }
  }
  const Q raw_ij = fold(a_ij), raw_ji = fold(a_ji), slope_ij = fold(da_ij), slope_ji = fold(da_ji);
  Q of_ij[channels], of_ji[channels], about_j[channels], cutoff_adjoint[channels], distance_adjoint[channels];
  for (int c = 0; c < channels; ++c) {
    of_ij[c] = head_sums(fold(p_ij[c]), layout.group);
    about_j[c] = head_sums(fold(p_ji[c]), layout.group);
  }
  for (int c = 0; c < channels; ++c) {
    of_ji[c] = moved(about_j, c, r);
    // The lanes of a head hold parts of its coefficient: `sum` below completes them.
    cutoff_adjoint[c] = of_ij[c] * raw_ij + of_ji[c] * raw_ji;
    distance_adjoint[c] = (of_ij[c] * slope_ij + of_ji[c] * slope_ji) * phi;
  }
  const V alpha_ij = repeat<V>(head_sums(raw_ij, layout.group) * phi);
  const V alpha_ji = repeat<V>(head_sums(raw_ji, layout.group) * phi);
  V s_ij[channels], s_ji[channels];
  for (int c = 0; c < channels; ++c) {
    s_ij[c] = repeat<V>(of_ij[c] * phi);
    s_ji[c] = repeat<V>(of_ji[c] * phi);
  }
  for (int f = 0; f < width; f += lanes) {
    const V w = load<V>(filter + f);
    const V q_i = load<V>(at_i.query + f), k_i = load<V>(at_i.key + f);
    const V q_j = load<V>(at_j.query + f), k_j = load<V>(at_j.key + f);
    const V ij = q_i * k_j, ji = q_j * k_i, w_k_j = w * k_j, w_q_j = w * q_j;
    V own[channels], other[channels];
    for (int c = 0; c < channels; ++c) {
      own[c] = load<V>(lambda_i + c * of_lambda + f);
      other[c] = load<V>(lambda_j + c * of_lambda + f);
    }
    for (int c = 0; c < channels; ++c) {
      add_to<V>(to_i.query + c * of_row + f, s_ij[c] * w_k_j);
      add_to<V>(to_i.key + c * of_row + f, s_ji[c] * w_q_j);
      add_to<V>(to_i.value + c * of_row + f, alpha_ji * moved(other, c, r));
      store<V>(filter_adjoint + c * of_filter + f, s_ij[c] * ij + s_ji[c] * ji);
    }
    if (both) {
      const V w_k_i = w * k_i, w_q_i = w * q_i;
      for (int c = 0; c < channels; ++c) {
        add_to<V>(to_j.query + c * of_row + f, moved(s_ji, c, minus_r) * w_k_i);
        add_to<V>(to_j.key + c * of_row + f, moved(s_ij, c, minus_r) * w_q_i);
        add_to<V>(to_j.value + c * of_row + f, alpha_ij * moved(own, c, minus_r));
      }
    }
  }

  // Geometric attention, the same way; its lambda are contracted with the harmonics first.
  Q b_ij[kMostDegrees] = {}, b_ji[kMostDegrees] = {}, db_ij[kMostDegrees] = {}, db_ji[kMostDegrees] = {};
  for (int l = 0, start = 0; l < layout.degrees; ++l, start += block) {
    V ij{}, ji{}, dij{}, dji{};
    for (int f = start; f < start + block; f += lanes) {
      const V w = load<V>(filter + geometric + f) + spline.at(geometric + f), w_slope = spline.slope_at(geometric + f);
      store<V>(filter + geometric + f, w);
      const V product_ij = load<V>(at_i.geometric_query + f) * load<V>(at_j.geometric_key + f);
      const V product_ji = load<V>(at_j.geometric_query + f) * load<V>(at_i.geometric_key + f);
      ij += w * product_ij;
      ji += w * product_ji;
      dij += w_slope * product_ij;
      dji += w_slope * product_ji;
    }
    b_ij[l] = fold(ij);
    b_ji[l] = fold(ji);
    db_ij[l] = fold(dij);
    db_ji[l] = fold(dji);
  }
  const Q beta_ij = sums(b_ij[0], b_ij[1], b_ij[2], b_ij[3]), beta_ji = sums(b_ji[0], b_ji[1], b_ji[2], b_ji[3]);
  const Q dbeta_ij = sums(db_ij[0], db_ij[1], db_ij[2], db_ij[3]);
  const Q dbeta_ji = sums(db_ji[0], db_ji[1], db_ji[2], db_ji[3]);
  const Real* harmonics = batch.harmonics[e];
  for (int c = 0; c < channels; ++c) {
    of_ij[c] = degrees.contract(layout, harmonics, lambda_i + c * of_lambda + geometric);
    about_j[c] = degrees.contract(layout, harmonics, lambda_j + c * of_lambda + geometric) * degrees.parity;
  }
  for (int c = 0; c < channels; ++c) {
    of_ji[c] = moved(about_j, c, r);
    geometry[c].cutoff[e] = sum(cutoff_adjoint[c] + of_ij[c] * beta_ij + of_ji[c] * beta_ji);
    geometry[c].distance[e] = sum(distance_adjoint[c] + (of_ij[c] * dbeta_ij + of_ji[c] * dbeta_ji) * phi);
    of_ij[c] *= phi;
    of_ji[c] *= phi;
  }
  for (int m = 0; m < layout.order_stride; m += lanes) {
    const V along_ij = degrees.template spread<V>(layout, beta_ij * phi, m);
    const V along_ji = degrees.template spread<V>(layout, beta_ji * phi * degrees.parity, m);
    V other[channels];
    for (int c = 0; c < channels; ++c) {
      other[c] = load<V>(lambda_j + c * of_lambda + geometric + m);
      store<V>(geometry[c].harmonics[e] + m,
               along_ij * load<V>(lambda_i + c * of_lambda + geometric + m) + along_ji * moved(other, c, r));
    }
  }
  for (int l = 0, start = 0; l < layout.degrees; ++l, start += block) {
    Real of_ij_l[channels], of_ji_l[channels];
    for (int c = 0; c < channels; ++c) {
      of_ij_l[c] = of_ij[c][l];
      of_ji_l[c] = of_ji[c][l];
    }
    for (int f = start; f < start + block; f += lanes) {
      const V w = load<V>(filter + geometric + f);
      const V q_i = load<V>(at_i.geometric_query + f), k_i = load<V>(at_i.geometric_key + f);
      const V q_j = load<V>(at_j.geometric_query + f), k_j = load<V>(at_j.geometric_key + f);
      const V ij = q_i * k_j, ji = q_j * k_i, w_k_j = w * k_j, w_q_j = w * q_j;
      for (int c = 0; c < channels; ++c) {
        add_to<V>(to_i.geometric_query + c * of_row + f, w_k_j * of_ij_l[c]);
        add_to<V>(to_i.geometric_key + c * of_row + f, w_q_j * of_ji_l[c]);
        store<V>(filter_adjoint + c * of_filter + geometric + f, ij * of_ij_l[c] + ji * of_ji_l[c]);
      }
      if (both) {
        const V w_k_i = w * k_i, w_q_i = w * q_i;
        for (int c = 0; c < channels; ++c) {
          add_to<V>(to_j.geometric_query + c * of_row + f, w_k_i * moved(of_ji_l, c, minus_r));
          add_to<V>(to_j.geometric_key + c * of_row + f, w_q_i * moved(of_ij_l, c, minus_r));
        }
      }
    }
  }
}

// Adjoint of degree_filters: from the filters' adjoints to the Euclidean variables of both rows.
template <typename Real, int channels>
void degree_filters_adjoint(const Layout& layout, const Degrees<Real>& degrees, const FilterWeights<Real>& weights,
                            const Batch<Real>& batch, const FilterScratch<Real>& s, Real* row_gradients) {
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
    const Real r[3] = {-batch.vector[0][e], -batch.vector[1][e], -batch.vector[2][e]};
    Quad<Real> of_invariants[channels];
    for (int c = 0; c < channels; ++c)
      for (int l = 0; l < kQuad; ++l) of_invariants[c][l] = s.invariants[(c * kQuad + l) * kBatch + e];
    for (int c = 0; c < channels; ++c) {
      Real* to_i = row_gradients + (i * channels + c) * layout.row_stride + layout.chi;
      Real* to_j = row_gradients + (j * channels + c) * layout.row_stride + layout.chi;
      const Quad<Real> about_j = moved(of_invariants, c, r);
      for (int m = 0; m < layout.order_stride; m += kLanes<Real>) {
        const V difference = load<V>(s.difference + e * kMostOrders + m);
        add_to<V>(to_i + m, -difference * degrees.template spread<V>(layout, of_invariants[c], m));
        if (batch.is_two_sided[e]) add_to<V>(to_j + m, difference * degrees.template spread<V>(layout, about_j, m));
      }
    }
  }
}

// Adjoint of `messages`: adds to the adjoints of the projections, to forces, strain gradient and per-atom virials.
template <typename Real, int channels>
void messages_adjoint(const Layout& layout, const FilterWeights<Real>& weights, const PairTable<Real>& pairs,
                      Visit visit, const Real* rows, const Real* sums_adjoint, Real* row_gradients,
                      const Gradients& gradients, double* strain, Real* memory) {
  const FilterScratch<Real> s = filter_scratch(layout, channels, memory);
  const Degrees<Real> degrees(layout);
  Batch<Real> batch;
  GeometryAdjoint<Real> geometry[channels] = {};
  PairCursor<Real> cursor(pairs, visit);
  while (cursor.next(batch)) {
    fill_geometry(layout, batch);
    degree_filters<Real, true>(layout, degrees, weights, batch, rows, s);
    for (int e = 0; e < batch.count; ++e) {
      if (batch.is_two_sided[e])
        add_message_adjoints<Real, channels, true>(layout, degrees, weights.table, batch, e, s, rows, sums_adjoint,
                                                   row_gradients, geometry);
      else
        add_message_adjoints<Real, channels, false>(layout, degrees, weights.table, batch, e, s, rows, sums_adjoint,
                                                    row_gradients, geometry);
    }
    degree_filters_adjoint<Real, channels>(layout, degrees, weights, batch, s, row_gradients);
    for (int c = 0; c < channels; ++c) geometry_adjoint(layout, batch, geometry[c]);
    add_vector_gradients<Real, channels>(batch, geometry, gradients, strain);
  }
}

}  // namespace so3krates::kernels::SO3KRATES_KERNEL_SET
