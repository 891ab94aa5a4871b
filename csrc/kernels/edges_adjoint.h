// The adjoint of a layer's messages along pairs (docs/model.md), for one channel or four, or for some of the four. A
// pair is visited once for both of its directions; only the centre's row is written where the pair is not two-sided.
#pragma once

#include "edges.h"

namespace so3krates::kernels::SO3KRATES_KERNEL_SET {

// Which channels are computed: the first `channels` of `held`, or with `first` = 1 the ordinary adjoint and one moment,
// of which only the moment is written.
template <int held_, int channels_ = held_, int first_ = 0>
struct Channels {
  static constexpr int held = held_, channels = channels_, first = first_, written = channels_ - first_;
};

// Adjoint of add_messages. All channels are taken about the centre; what the other row gets is moved to that row.
//   rows, row_gradients: projections and their adjoints ([rows][written][row_stride]); sums_adjoint:
//   [rows][held][message_stride]. axis: of the first moment that is computed.
// Replaces `filter` by w and writes the filters' adjoints and those of the geometry.
template <typename Real, typename C, bool both>
SO3KRATES_INLINE void add_message_adjoints(const Layout& layout, const Degrees<Real>& degrees, const Real* table,
                                           const Batch<Real>& batch, int e, const FilterScratch<Real>& s,
                                           const Real* rows, const Real* sums_adjoint, int axis, Real* row_gradients,
                                           GeometryAdjoint<Real>* geometry) {
  using V = Vector<Real>;
  using Q = Quad<Real>;
  constexpr int lanes = kLanes<Real>, channels = C::channels, first = C::first;
  const std::size_t i = batch.centre[e], j = batch.other[e];
  const Ends<const Real> at_i(layout, rows + i * layout.row_stride), at_j(layout, rows + j * layout.row_stride);
  const Ends<Real> to_i(layout, row_gradients + i * C::written * layout.row_stride),
      to_j(layout, row_gradients + j * C::written * layout.row_stride);
  const Real *lambda_i = sums_adjoint + i * C::held * layout.message_stride,
             *lambda_j = sums_adjoint + j * C::held * layout.message_stride;
  Real* filter = s.filter + e * layout.filter_stride;
  Real* filter_adjoint = s.adjoint + e * layout.filter_stride;
  // Strides between channels.
  const int of_filter = kBatch * layout.filter_stride, of_row = layout.row_stride;
  const int of_lambda = first == 0 ? layout.message_stride : (1 + axis) * layout.message_stride;
  const int width = layout.feature_width, block = layout.block_stride, geometric = layout.feature_stride;
  const Spline<Real> spline(layout, table, batch, e);
  const Real phi = batch.cutoff[e];
  Real r[3] = {}, minus_r[3] = {};
  for (int a = 0; a < C::channels - 1; ++a) minus_r[a] = -(r[a] = batch.vector[axis + a][e]);

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
      if (c >= first) {
        const int at = (c - first) * of_row + f;
        add_to<V>(to_i.query + at, s_ij[c] * w_k_j);
        add_to<V>(to_i.key + at, s_ji[c] * w_q_j);
        add_to<V>(to_i.value + at, alpha_ji * moved(other, c, r));
      }
      store<V>(filter_adjoint + c * of_filter + f, s_ij[c] * ij + s_ji[c] * ji);
    }
    if (both) {
      const V w_k_i = w * k_i, w_q_i = w * q_i;
      for (int c = first; c < channels; ++c) {
        const int at = (c - first) * of_row + f;
        add_to<V>(to_j.query + at, moved(s_ji, c, minus_r) * w_k_i);
        add_to<V>(to_j.key + at, moved(s_ij, c, minus_r) * w_q_i);
        add_to<V>(to_j.value + at, alpha_ij * moved(own, c, minus_r));
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
        if (c >= first) {
          add_to<V>(to_i.geometric_query + (c - first) * of_row + f, w_k_j * of_ij_l[c]);
          add_to<V>(to_i.geometric_key + (c - first) * of_row + f, w_q_j * of_ji_l[c]);
        }
        store<V>(filter_adjoint + c * of_filter + geometric + f, ij * of_ij_l[c] + ji * of_ji_l[c]);
      }
      if (both) {
        const V w_k_i = w * k_i, w_q_i = w * q_i;
        for (int c = first; c < channels; ++c) {
          add_to<V>(to_j.geometric_query + (c - first) * of_row + f, w_k_i * moved(of_ji_l, c, minus_r));
          add_to<V>(to_j.geometric_key + (c - first) * of_row + f, w_q_i * moved(of_ij_l, c, minus_r));
        }
      }
    }
  }
}

// Adjoint of `messages`: adds to the adjoints of the projections, to forces, strain gradient and per-atom virials.
template <typename Real, typename C>
void messages_adjoint(const Layout& layout, const FilterWeights<Real>& weights, const PairTable<Real>& pairs,
                      Visit visit, const Real* rows, const Real* sums_adjoint, int axis, Real* row_gradients,
                      const Gradients& gradients, double* strain, Real* memory) {
  constexpr int channels = C::channels;
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
        add_message_adjoints<Real, C, true>(layout, degrees, weights.table, batch, e, s, rows, sums_adjoint, axis,
                                            row_gradients, geometry);
      else
        add_message_adjoints<Real, C, false>(layout, degrees, weights.table, batch, e, s, rows, sums_adjoint, axis,
                                             row_gradients, geometry);
    }
    degree_filters_adjoint<Real, channels, C::first>(layout, degrees, weights, batch, s, axis, row_gradients);
    for (int c = 0; c < channels; ++c) geometry_adjoint(layout, batch, geometry[c]);
    add_vector_gradients<Real, channels, C::first>(batch, geometry, gradients, strain, axis);
  }
}

}  // namespace so3krates::kernels::SO3KRATES_KERNEL_SET
