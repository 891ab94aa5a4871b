// The first layer and its adjoint. Its input depends on the species alone and its Euclidean variables are zero, so the
// attention coefficients are functions of the distance, one set for each ordered pair of species (docs/model.md).
#pragma once

#include "batch.h"
#include "edges.h"
#include "layout.h"
#include "vector.h"

namespace so3krates::kernels::SO3KRATES_KERNEL_SET {

// Coefficients before the cutoff function: heads (lane l: head l % group) and degrees.
template <typename Real>
struct FirstCoefficients {
  Quad<Real> heads, degrees;
};

template <typename Real>
SO3KRATES_INLINE const Real* first_table(const Layout& layout, const Real* table, int species_i, int species_j,
                                         int node) {
  return table +
         ((static_cast<std::size_t>(species_i) * layout.elements + species_j) * layout.nodes + node) * 2 * kQuad;
}

template <typename Real>
SO3KRATES_INLINE FirstCoefficients<Real> first_coefficients(const Layout& layout, const Real* table, int species_i,
                                                            int species_j, const Batch<Real>& batch, int e) {
  const Real* c = first_table(layout, table, species_i, species_j, batch.node[e]);
  FirstCoefficients<Real> result{};
  for (int k = 0; k < 4; ++k, c += 2 * kQuad) {
    result.heads += load<Quad<Real>>(c) * batch.spline[k][e];
    result.degrees += load<Quad<Real>>(c + kQuad) * batch.spline[k][e];
  }
  return result;
}

// Their derivatives with respect to the distance.
template <typename Real>
SO3KRATES_INLINE FirstCoefficients<Real> first_slopes(const Layout& layout, const Real* table, int species_i,
                                                      int species_j, const Batch<Real>& batch, int e) {
  using Q = Quad<Real>;
  const Real* c = first_table(layout, table, species_i, species_j, batch.node[e]);
  FirstCoefficients<Real> result{};
  for (int k = 0; k < 3; ++k, c += 2 * kQuad) {
    result.heads += (load<Q>(c + 2 * kQuad) - load<Q>(c)) * batch.spline_slope[k][e];
    result.degrees += (load<Q>(c + 3 * kQuad) - load<Q>(c + kQuad)) * batch.spline_slope[k][e];
  }
  return result;
}

// Sums of the coefficients over the neighbours of each species, `coefficients` [rows][elements][kQuad], and of the
// geometric messages, `chi` [rows][order_stride]. Both start as zero.
template <typename Real>
void first_messages(const Layout& layout, const FirstLayerWeights<Real>& weights, const PairTable<Real>& pairs,
                    Visit visit, const int* species, Real* coefficients, Real* chi) {
  using V = Vector<Real>;
  using Q = Quad<Real>;
  const Degrees<Real> degrees(layout);
  const int stride = layout.elements * kQuad;
  Batch<Real> batch;
  PairCursor<Real> cursor(pairs, visit);
  while (cursor.next(batch)) {
    fill_geometry(layout, batch);
    for (int e = 0; e < batch.count; ++e) {
      const std::size_t i = batch.centre[e], j = batch.other[e];
      const bool both = batch.is_two_sided[e];
      const Real phi = batch.cutoff[e];
      const auto add = [&](std::size_t to, std::size_t from, Q parity) {
        const FirstCoefficients<Real> c =
            first_coefficients(layout, weights.table, species[to], species[from], batch, e);
        add_to<Q>(coefficients + to * stride + species[from] * kQuad, c.heads * phi);
        const Q beta = c.degrees * phi * parity;
        for (int m = 0; m < layout.order_stride; m += kLanes<Real>)
          add_to<V>(chi + to * layout.order_stride + m,
                    degrees.template spread<V>(layout, beta, m) * load<V>(batch.harmonics[e] + m));
      };
      add(i, j, splat<Q>(1));
      if (both) add(j, i, degrees.parity);
    }
  }
}

// Features after the attention, [rows][feature_stride], from the sums of coefficients.
template <typename Real>
void first_features(const Layout& layout, const FirstLayerWeights<Real>& weights, Range range, const int* species,
                    const Real* coefficients, Real* x) {
  using V = Vector<Real>;
  for (std::size_t i = range.begin; i < static_cast<std::size_t>(range.end); ++i)
    for (int f = 0; f < layout.feature_stride; f += kLanes<Real>) {
      V sum = load<V>(weights.embedding + species[i] * layout.feature_stride + f);
      for (int s = 0; s < layout.elements; ++s)
        sum += repeat<V>(load<Quad<Real>>(coefficients + (i * layout.elements + s) * kQuad)) *
               load<V>(weights.values + s * layout.feature_stride + f);
      store<V>(x + i * layout.feature_stride + f, sum);
    }
}

// Adjoints of the sums of coefficients, [rows][channels][elements][kQuad], from those of the messages' sums.
template <typename Real>
void first_features_adjoint(const Layout& layout, const FirstLayerWeights<Real>& weights, int channels, Range range,
                            const Real* sums_adjoint, Real* coefficients) {
  using V = Vector<Real>;
  const std::size_t begin = static_cast<std::size_t>(range.begin) * channels,
                    end = static_cast<std::size_t>(range.end) * channels;
  for (std::size_t i = begin; i < end; ++i)
    for (int s = 0; s < layout.elements; ++s) {
      V total{};
      for (int f = 0; f < layout.feature_stride; f += kLanes<Real>)
        total += load<V>(sums_adjoint + i * layout.message_stride + f) *
                 load<V>(weights.values + s * layout.feature_stride + f);
      // Each lane holds part of its head: the coefficients it multiplies are the same in all of them.
      store<Quad<Real>>(coefficients + (i * layout.elements + s) * kQuad, fold(total));
    }
}

// Adjoint of first_messages: adds to forces, strain gradient and per-atom virials.
template <typename Real, int channels>
void first_messages_adjoint(const Layout& layout, const FirstLayerWeights<Real>& weights, const PairTable<Real>& pairs,
                            Visit visit, const int* species, const Real* sums_adjoint, const Real* coefficients_adjoint,
                            const Gradients& gradients, double* strain) {
  using V = Vector<Real>;
  using Q = Quad<Real>;
  const Degrees<Real> degrees(layout);
  Batch<Real> batch;
  GeometryAdjoint<Real> geometry[channels] = {};
  PairCursor<Real> cursor(pairs, visit);
  while (cursor.next(batch)) {
    fill_geometry(layout, batch);
    for (int e = 0; e < batch.count; ++e) {
      const std::size_t i = batch.centre[e], j = batch.other[e];
      const Real phi = batch.cutoff[e];
      const Real r[3] = {batch.vector[0][e], batch.vector[1][e], batch.vector[2][e]};
      const auto ij = first_coefficients(layout, weights.table, species[i], species[j], batch, e),
                 ji = first_coefficients(layout, weights.table, species[j], species[i], batch, e),
                 slope_ij = first_slopes(layout, weights.table, species[i], species[j], batch, e),
                 slope_ji = first_slopes(layout, weights.table, species[j], species[i], batch, e);
      const Real* from_i = sums_adjoint + i * channels * layout.message_stride + layout.feature_stride;
      const Real* from_j = sums_adjoint + j * channels * layout.message_stride + layout.feature_stride;
      Q heads_ij[channels], heads_ji[channels], degrees_ij[channels], degrees_ji[channels];
      for (int c = 0; c < channels; ++c) {
        heads_ij[c] = load<Q>(coefficients_adjoint + ((i * channels + c) * layout.elements + species[j]) * kQuad);
        heads_ji[c] = load<Q>(coefficients_adjoint + ((j * channels + c) * layout.elements + species[i]) * kQuad);
        degrees_ij[c] = degrees.contract(layout, batch.harmonics[e], from_i + c * layout.message_stride);
        degrees_ji[c] =
            degrees.contract(layout, batch.harmonics[e], from_j + c * layout.message_stride) * degrees.parity;
      }
      for (int c = 0; c < channels; ++c) {
        const Q to_heads = moved(heads_ji, c, r), to_degrees = moved(degrees_ji, c, r);
        geometry[c].cutoff[e] =
            sum(heads_ij[c] * ij.heads + degrees_ij[c] * ij.degrees + to_heads * ji.heads + to_degrees * ji.degrees);
        geometry[c].distance[e] = phi * sum(heads_ij[c] * slope_ij.heads + degrees_ij[c] * slope_ij.degrees +
                                            to_heads * slope_ji.heads + to_degrees * slope_ji.degrees);
      }
      const Q beta_ij = ij.degrees * phi, beta_ji = ji.degrees * phi * degrees.parity;
      for (int m = 0; m < layout.order_stride; m += kLanes<Real>) {
        const V along_ij = degrees.template spread<V>(layout, beta_ij, m);
        const V along_ji = degrees.template spread<V>(layout, beta_ji, m);
        V lambda_j[channels];
        for (int c = 0; c < channels; ++c) {
          lambda_j[c] = load<V>(from_j + c * layout.message_stride + m);
          store<V>(geometry[c].harmonics[e] + m,
                   along_ij * load<V>(from_i + c * layout.message_stride + m) + along_ji * moved(lambda_j, c, r));
        }
      }
    }
    for (int c = 0; c < channels; ++c) geometry_adjoint(layout, batch, geometry[c]);
    add_vector_gradients<Real, channels>(batch, geometry, gradients, strain);
  }
}

}  // namespace so3krates::kernels::SO3KRATES_KERNEL_SET
