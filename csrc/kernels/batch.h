// A batch of pairs and the functions of their vectors, computed for all of them at once (docs/model.md). Nothing of it
// outlives the batch.
#pragma once

#include "layout.h"
#include "vector.h"

namespace so3krates::kernels::SO3KRATES_KERNEL_SET {

constexpr int kBatch = 16;  // pairs; a multiple of the lanes

template <typename Real>
struct Batch {
  int count;
  int centre[kBatch], other[kBatch];
  bool is_two_sided[kBatch];           // both rows are updated; otherwise the centre's alone
  alignas(64) Real vector[3][kBatch];  // r_other - r_centre, A
  alignas(64) Real unit[3][kBatch];
  alignas(64) Real inverse_distance[kBatch];
  alignas(64) Real cutoff[kBatch], cutoff_slope[kBatch];  // phi and its derivative
  // Of four coefficients; of their three differences in the derivative.
  alignas(64) Real spline[4][kBatch], spline_slope[3][kBatch];
  int node[kBatch];  // the first of them
  alignas(64) Real harmonics[kBatch][kMostOrders];
};

// Walks over the pairs of a visit.
template <typename Real>
class PairCursor {
 public:
  PairCursor(const PairTable<Real>& pairs, Visit visit) : pairs_(pairs), visit_(visit), place_(visit.begin) {
    enter_row();
  }

  // Fills the next batch; false when no pair is left. Unused places hold copies of the batch's first pair.
  bool next(Batch<Real>& batch) {
    int n = 0;
    while (place_ < visit_.end && n < kBatch) {
      const std::size_t start = static_cast<std::size_t>(row_) * pairs_.slots;
      for (; slot_ < end_ && n < kBatch; ++slot_, ++n) {
        const int neighbour = pairs_.neighbours[start + slot_];
        batch.centre[n] = row_;
        batch.is_two_sided[n] = neighbour >= 0;
        batch.other[n] = neighbour >= 0 ? neighbour : ~neighbour;
        for (int a = 0; a < 3; ++a) batch.vector[a][n] = pairs_.vectors[3 * (start + slot_) + a];
      }
      if (slot_ < end_) break;
      ++place_;
      enter_row();
    }
    batch.count = n;
    if (n == 0) return false;
    for (; n < kBatch; ++n) {
      batch.centre[n] = batch.centre[0];
      batch.other[n] = batch.other[0];
      batch.is_two_sided[n] = false;
      for (int a = 0; a < 3; ++a) batch.vector[a][n] = batch.vector[a][0];
    }
    return true;
  }

 private:
  void enter_row() {
    if (place_ >= visit_.end) return;
    row_ = pairs_.order[place_];
    const int* ends = pairs_.ends + static_cast<std::size_t>(row_) * kRounds;
    slot_ = visit_.round == 0 ? 0 : ends[visit_.round - 1];
    end_ = ends[visit_.round];
  }

  const PairTable<Real>& pairs_;
  const Visit visit_;
  int place_, row_ = 0, slot_ = 0, end_ = 0;
};

template <typename V>
SO3KRATES_INLINE V cells_below(V x, int most, int* node) {
  V floor;
  for (int lane = 0; lane < kLanesOf<V>; ++lane) {
    const int cell = static_cast<int>(x[lane]);
    node[lane] = cell < most ? cell : most;
    floor[lane] = static_cast<ElementOf<V>>(node[lane]);
  }
  return floor;
}

#include "shared/edge_functions.h"
#include "shared/harmonics.h"

// All that depends on the vectors alone.
template <typename Real>
void fill_geometry(const Layout& layout, Batch<Real>& batch) {
  using V = Vector<Real>;
  const Real inverse_cutoff = static_cast<Real>(1.0 / layout.cutoff);
  const Real start = static_cast<Real>(layout.spline_start), inverse_step = static_cast<Real>(1.0 / layout.spline_step);
  alignas(64) Real by_order[kMostOrders][kBatch];
  for (int e = 0; e < kBatch; e += kLanes<Real>) {
    V r[3], u[3];
    for (int a = 0; a < 3; ++a) r[a] = load<V>(batch.vector[a] + e);
    const V d = square_root<V>(r[0] * r[0] + r[1] * r[1] + r[2] * r[2]);
    const V inverse = Real(1) / d;
    store<V>(batch.inverse_distance + e, inverse);
    for (int a = 0; a < 3; ++a) store<V>(batch.unit[a] + e, u[a] = r[a] * inverse);
    V value, slope, weights[4], slopes[3];
    cutoff_function<V>(layout.cutoff_function, layout.polynomial_order, inverse_cutoff, d, value, slope);
    store<V>(batch.cutoff + e, value);
    store<V>(batch.cutoff_slope + e, slope);
    spline_weights<V>(start, inverse_step, layout.nodes, d, weights, slopes, batch.node + e);
    for (int k = 0; k < 4; ++k) store<V>(batch.spline[k] + e, weights[k]);
    for (int k = 0; k < 3; ++k) store<V>(batch.spline_slope[k] + e, slopes[k]);
    int first = 0;
    for (int l = 0; l < layout.degrees; ++l) {
      harmonics_of_degree(layout.degree[l], u[0], u[1], u[2], Real(),
                          [&](int m, V y) { store<V>(by_order[first + m] + e, y); });
      first += 2 * layout.degree[l] + 1;
    }
  }
  for (int m = layout.orders; m < layout.order_stride; ++m)
    for (int e = 0; e < kBatch; ++e) by_order[m][e] = 0;
  transpose(layout.order_stride, kBatch, by_order[0], kBatch, batch.harmonics[0], kMostOrders);
}

// Adjoints of what fill_geometry computes, one channel.
template <typename Real>
struct GeometryAdjoint {
  alignas(64) Real cutoff[kBatch];
  alignas(64) Real distance[kBatch];  // through the splines
  alignas(64) Real harmonics[kBatch][kMostOrders];
  alignas(64) Real vector[3][kBatch];  // result: derivative with respect to the vector
};

template <typename Real>
void geometry_adjoint(const Layout& layout, const Batch<Real>& batch, GeometryAdjoint<Real>& adjoint) {
  using V = Vector<Real>;
  alignas(64) Real by_order[kMostOrders][kBatch];
  transpose(kBatch, layout.order_stride, adjoint.harmonics[0], kMostOrders, by_order[0], kBatch);
  for (int e = 0; e < kBatch; e += kLanes<Real>) {
    V u[3], along[3] = {V{}, V{}, V{}};
    Dual<V> dual[3] = {};
    for (int a = 0; a < 3; ++a) {
      u[a] = dual[a].value = load<V>(batch.unit[a] + e);
      dual[a].slope[a] = splat<V>(1);
    }
    int first = 0;
    for (int l = 0; l < layout.degrees; ++l) {
      harmonics_of_degree(layout.degree[l], dual[0], dual[1], dual[2], Real(), [&](int m, const Dual<V>& y) {
        const V weight = load<V>(by_order[first + m] + e);
        for (int a = 0; a < 3; ++a) along[a] += weight * y.slope[a];
      });
      first += 2 * layout.degree[l] + 1;
    }
    const V inverse = load<V>(batch.inverse_distance + e);
    const V distance = load<V>(adjoint.cutoff + e) * load<V>(batch.cutoff_slope + e) + load<V>(adjoint.distance + e);
    V gradient[3];
    vector_gradient<V>(along, u, inverse, distance, gradient);
    for (int a = 0; a < 3; ++a) store<V>(adjoint.vector[a] + e, gradient[a]);
  }
}

// Adds the derivatives with respect to the pairs' vectors, channel by channel, to what they contribute to: forces,
// strain gradient and per-atom virials, with `first` = 1 the latter alone, of one axis. A pair that its other row
// visits too counts half in the strain gradient.
template <typename Real, int channels, int first = 0>
void add_vector_gradients(const Batch<Real>& batch, const GeometryAdjoint<Real>* adjoints, const Gradients& gradients,
                          double* strain, std::size_t axis = 0) {
  for (int e = 0; e < batch.count; ++e) {
    const std::size_t i = batch.centre[e], j = batch.other[e];
    const bool both = batch.is_two_sided[e];
    double r[3], g[3];
    for (int a = 0; a < 3; ++a) r[a] = batch.vector[a][e], g[a] = adjoints[0].vector[a][e];
    for (int b = 0; first == 0 && b < 3; ++b) {
      gradients.forces[3 * i + b] += g[b];
      if (both) gradients.forces[3 * j + b] -= g[b];
      for (int a = 0; a < 3; ++a) strain[3 * a + b] += (both ? 1.0 : 0.5) * r[a] * g[b];
    }
    for (std::size_t c = 1; c < channels; ++c)
      for (std::size_t a = axis + c - 1, b = 0; b < 3; ++b) {
        const double moment = adjoints[c].vector[b][e];  // about the centre
        gradients.atom_virials[9 * i + 3 * a + b] -= moment;
        if (both) gradients.atom_virials[9 * j + 3 * a + b] += moment - r[a] * g[b];
      }
  }
}

}  // namespace so3krates::kernels::SO3KRATES_KERNEL_SET
