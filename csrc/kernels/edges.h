// Messages of one layer along pairs of atoms, and their adjoint (docs/model.md). A pair is visited once for both of its
// directions, i <- j and j <- i, which share their filters; only the centre's row is written where the pair is not
// two-sided.
#pragma once

#include "batch.h"
#include "filters.h"
#include "layout.h"
#include "vector.h"

namespace so3krates::kernels::SO3KRATES_KERNEL_SET {

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

}  // namespace so3krates::kernels::SO3KRATES_KERNEL_SET
