// Electrostatics and dispersion of all pairs within reach (docs/so3lr.md), each pair from both of its rows.
#pragma once

#include <cmath>

#include "so3lr.h"
#include "vector.h"

namespace so3krates::kernels::SO3KRATES_KERNEL_SET {

#include "shared/dispersion.h"

constexpr int kLongBatch = 256;  // pairs; lanes add up in Real over a batch, batches in float64
constexpr int kLongStep = 64;    // atoms of cells between two looks at the batch's room

template <typename Real>
struct LongBatch {
  int count;
  alignas(64) Real vector[3][kLongBatch];  // neighbour minus row, A
  alignas(64) Real square[kLongBatch];     // of the distance
  alignas(64) Real charge[kLongBatch], polarisability[kLongBatch], ratio[kLongBatch];
  alignas(64) Real cell[2][kQuad][kLongBatch];  // coefficients of the tables, power by power
  alignas(64) Real place[2][kLongBatch];        // in the cell, 0 to 1
};

// Sums of a row, in units of its own charge or polarisability.
struct LongRow {
  double potential, energy, through_root, force[3], moment[6];
};

// x^(1/7) of numbers above 0: Newton's method for x^(-1/7), from a guess by the exponent.
template <typename V>
SO3KRATES_INLINE V seventh_root(V x) {
  using Real = ElementOf<V>;
  using Bits = std::conditional_t<kIsDouble<Real>, std::int64_t, std::int32_t>;
  using BitVector = typename VectorOf<Bits, kLanesOf<V>>::type;
  constexpr int mantissa = kIsDouble<Real> ? 52 : 23;
  constexpr double one = kIsDouble<Real> ? 1023 : 127;
  constexpr Real origin =
      static_cast<Real>((one * 8.0 / 7.0 - 0.05) * static_cast<double>(std::int64_t{1} << mantissa));
  const V exponent = __builtin_convertvector((BitVector)x, V);
  V w = (V) __builtin_convertvector(origin - exponent * Real(1.0 / 7.0), BitVector);
  constexpr int steps = kIsDouble<Real> ? 5 : 3;
#pragma GCC unroll 8
  for (int k = 0; k < steps; ++k) {
    const V w2 = w * w, w4 = w2 * w2;
    w *= Real(8.0 / 7.0) - Real(1.0 / 7.0) * x * (w4 * w2 * w);
  }
  const V w2 = w * w;
  return x * (w2 * w2 * w2);
}

template <typename Real>
void fill_tables(const LongPairs<Real>& in, LongBatch<Real>& batch) {
  using V = Vector<Real>;
  using Q = Quad<Real>;
  for (int part = 0; part < 2; ++part) {
    const Real per_square = static_cast<Real>(in.cells / in.range[part]);
    const Real* table = in.tables[part];
    alignas(64) int cell[kLongBatch];
    for (int e = 0; e < batch.count; e += kLanes<Real>) {
      const V place = load<V>(batch.square + e) * per_square;
      store<V>(batch.place[part] + e, place - cells_below<V>(place, in.cells, cell + e));
    }
    for (int e = 0; e < batch.count; e += 4) {
      Q q[4];
      for (int k = 0; k < 4; ++k) q[k] = load<Q>(table + static_cast<std::size_t>(cell[e + k]) * kQuad);
      const Q low_01 = __builtin_shufflevector(q[0], q[1], 0, 4, 1, 5),
              low_23 = __builtin_shufflevector(q[2], q[3], 0, 4, 1, 5),
              high_01 = __builtin_shufflevector(q[0], q[1], 2, 6, 3, 7),
              high_23 = __builtin_shufflevector(q[2], q[3], 2, 6, 3, 7);
      store<Q>(batch.cell[part][0] + e, __builtin_shufflevector(low_01, low_23, 0, 1, 4, 5));
      store<Q>(batch.cell[part][1] + e, __builtin_shufflevector(low_01, low_23, 2, 3, 6, 7));
      store<Q>(batch.cell[part][2] + e, __builtin_shufflevector(high_01, high_23, 0, 1, 4, 5));
      store<Q>(batch.cell[part][3] + e, __builtin_shufflevector(high_01, high_23, 2, 3, 6, 7));
    }
  }
}

// Value and derivative with respect to the square of the distance.
template <typename Real, typename V = Vector<Real>>
SO3KRATES_INLINE void in_table(const LongPairs<Real>& in, const LongBatch<Real>& batch, int part, int e, V& value,
                               V& slope) {
  const V t = load<V>(batch.place[part] + e);
  V c[kQuad];
  for (int k = 0; k < kQuad; ++k) c[k] = load<V>(batch.cell[part][k] + e);
  value = c[0] + t * (c[1] + t * (c[2] + t * c[3]));
  slope = (c[1] + t * (Real(2) * c[2] + Real(3) * t * c[3])) * static_cast<Real>(in.cells / in.range[part]);
}

// Adds a batch's pairs, `count` made a multiple of the lanes by pairs that are zero.
template <typename Real>
void add_long_batch(const LongPairs<Real>& in, const Real* own, LongBatch<Real>& batch, LongRow& row) {
  using V = Vector<Real>;
  const double reach = in.range[0] > in.range[1] ? in.range[0] : in.range[1];
  for (; batch.count % kLanes<Real> != 0; ++batch.count) {
    const int n = batch.count;
    for (int a = 0; a < 3; ++a) batch.vector[a][n] = 0;
    batch.square[n] = static_cast<Real>(2 * reach);
    batch.charge[n] = batch.polarisability[n] = 0;
    batch.ratio[n] = 1;
  }
  fill_tables(in, batch);
  const Real own_charge = own[0], own_polarisability = own[1], own_ratio = own[2];
  const Real radius = static_cast<Real>(in.radius), per_square = static_cast<Real>(in.per_square_angstrom);
  Real spread[4];
  for (int k = 0; k < 4; ++k) spread[k] = static_cast<Real>(in.spread[k]);
  V potential{}, energy{}, through_root{}, force[3] = {V{}, V{}, V{}}, moment[6] = {V{}, V{}, V{}, V{}, V{}, V{}};
  for (int e = 0; e < batch.count; e += kLanes<Real>) {
    V coulomb, coulomb_slope, switched, switched_slope;
    in_table(in, batch, 0, e, coulomb, coulomb_slope);
    in_table(in, batch, 1, e, switched, switched_slope);
    const V charge = load<V>(batch.charge + e);
    potential += charge * coulomb;

    // C6 = strength times the row's polarisability.
    const V other = load<V>(batch.polarisability + e);
    const V sum = at_least(own_polarisability + other, splat<V>(Real(1e-20)));
    const V strength = Real(2) * other / (own_ratio + load<V>(batch.ratio + e));
    const V root = seventh_root<V>(Real(0.5) * sum);
    const Dispersed<V> found = dispersion_of<V>(load<V>(batch.square + e) * per_square, root, radius, spread);
    const V by_square = found.by_square * per_square;
    const V scaled = switched * strength;
    energy += scaled * found.value;
    through_root += scaled * found.through_root / (Real(7) * sum);

    const V slope = Real(2) * (own_charge * charge * coulomb_slope +
                               own_polarisability * strength * (switched_slope * found.value + switched * by_square));
    V r[3], pull[3];
    for (int a = 0; a < 3; ++a) {
      r[a] = load<V>(batch.vector[a] + e);
      pull[a] = slope * r[a];
      force[a] += pull[a];
    }
    for (int a = 0, k = 0; a < 3; ++a)
      for (int b = a; b < 3; ++b, ++k) moment[k] += r[a] * pull[b];
  }
  const auto total = [](V v) { return static_cast<double>(sum(fold(v))); };
  row.potential += total(potential);
  row.energy += total(energy);
  row.through_root += total(through_root);
  for (int a = 0; a < 3; ++a) row.force[a] += total(force[a]);
  for (int k = 0; k < 6; ++k) row.moment[k] += total(moment[k]);
  batch.count = 0;
}

// Adds the atoms at places [begin, end) that are within reach of a row, which is not its own neighbour.
template <typename Real>
SO3KRATES_INLINE void add_places(const LongPairs<Real>& in, const double* centre, double reach, int begin, int end,
                                 const Real* own, LongBatch<Real>& batch, LongRow& row) {
  using V = Vector<double>;
  const CellAtoms<Real>& atoms = in.atoms;
  const double *x = atoms.position[0], *y = atoms.position[1], *z = atoms.position[2];
  for (int start = begin; start < end; start += kLongStep) {
    const int count = end - start < kLongStep ? end - start : kLongStep;
    alignas(64) double squares[kLongStep];
    for (int k = 0; k < count; k += kLanes<double>) {
      const V dx = load<V>(x + start + k) - centre[0], dy = load<V>(y + start + k) - centre[1],
              dz = load<V>(z + start + k) - centre[2];
      store<V>(squares + k, dx * dx + dy * dy + dz * dz);
    }
    int inside[kLongStep], found = 0;  // without branches: places of atoms beyond reach are taken by the next
    for (int k = 0; k < count; ++k) {
      inside[found] = k;
      found += (squares[k] < reach) & (squares[k] > 0.0);
    }
    const int n = batch.count;
    for (int k = 0; k < found; ++k) {
      const int place = start + inside[k];
      batch.vector[0][n + k] = static_cast<Real>(x[place] - centre[0]);
      batch.vector[1][n + k] = static_cast<Real>(y[place] - centre[1]);
      batch.vector[2][n + k] = static_cast<Real>(z[place] - centre[2]);
      batch.square[n + k] = static_cast<Real>(squares[inside[k]]);
      batch.charge[n + k] = atoms.values[0][place];
      batch.polarisability[n + k] = atoms.values[1][place];
      batch.ratio[n + k] = atoms.values[2][place];
    }
    batch.count = n + found;
    if (batch.count > kLongBatch - kLongStep) add_long_batch(in, own, batch, row);
  }
}

// Calls visit(begin, end) with places of all atoms within a distance of a point, and of some beyond.
template <typename Real, typename Visit>
SO3KRATES_INLINE void near_places(const CellAtoms<Real>& atoms, const double* centre, double reach,
                                  const Visit& visit) {
  const auto cell = [&](int axis, double x) {
    const double place = std::floor((x - atoms.origin[axis]) / atoms.edge);
    return place < 0 ? 0 : place < atoms.count[axis] ? static_cast<int>(place) : atoms.count[axis] - 1;
  };
  // Square of the distance to a layer of cells.
  const auto away = [&](int axis, int k) {
    const double low = atoms.origin[axis] + k * atoms.edge - centre[axis], high = -(low + atoms.edge);
    const double distance = low > high ? low : high;
    return distance > 0 ? distance * distance : 0.0;
  };
  const double distance = std::sqrt(reach);
  const int last[2] = {cell(0, centre[0] + distance), cell(1, centre[1] + distance)};
  for (int i = cell(0, centre[0] - distance); i <= last[0]; ++i)
    for (int j = cell(1, centre[1] - distance); j <= last[1]; ++j) {
      const double rest = reach - away(0, i) - away(1, j);
      if (rest < 0) continue;
      const double half = std::sqrt(rest);
      const int* column = atoms.begin + (static_cast<std::ptrdiff_t>(i) * atoms.count[1] + j) * atoms.count[2];
      visit(column[cell(2, centre[2] - half)], column[cell(2, centre[2] + half) + 1]);
    }
}

// Rows order[begin, end).
template <typename Real>
void long_pairs(const LongPairs<Real>& in, const int* order, Range range, const LongSums& out, LongTotals& totals) {
  const double reach = in.range[0] > in.range[1] ? in.range[0] : in.range[1];
  LongBatch<Real> batch;
  batch.count = 0;
  for (int p = range.begin; p < range.end; ++p) {
    const std::size_t i = order[p];
    const double* centre = in.positions + 3 * static_cast<std::size_t>(in.atom_of_row[i]);
    const Real* own = in.rows + i * kQuad;
    LongRow row{};
    near_places(in.atoms, centre, reach,
                [&](int begin, int end) { add_places(in, centre, reach, begin, end, own, batch, row); });
    add_long_batch(in, own, batch, row);
    const double charge = own[0], polarisability = own[1], free = own[3];
    const double energies[2] = {0.5 * charge * row.potential, 0.5 * polarisability * row.energy};
    for (int k = 0; k < 2; ++k) totals.energies[k] += energies[k];
    out.atom_energies[i] += energies[0] + energies[1];
    out.charge_slopes[i] = row.potential;
    out.ratio_slopes[i] = free * (row.energy + polarisability * row.through_root);
    totals.slopes += row.potential;
    for (int a = 0; a < 3; ++a) out.forces[3 * i + static_cast<std::size_t>(a)] += row.force[a];
    for (int a = 0, k = 0; a < 3; ++a)
      for (int b = a; b < 3; ++b, ++k) {
        totals.strain[3 * a + b] += 0.5 * row.moment[k];
        if (a != b) totals.strain[3 * b + a] += 0.5 * row.moment[k];
      }
  }
}

}  // namespace so3krates::kernels::SO3KRATES_KERNEL_SET
