// Electrostatics and dispersion of SO3LR (docs/so3lr.md): the operations of ../long_pairs.h for all pairs within reach
// of an owned row, which a warp finds in cells of atoms. Each pair is visited from both of its rows; a row is written
// once, by its own warp.
#pragma once

#include "tile.h"

namespace so3krates {

#include "dispersion.h"

// From where electrostatics and dispersion are zero, A^2.
constexpr double long_range(int part) {
  constexpr double list[] = {LONG_RANGES};
  return list[part];
}
constexpr double kReach = long_range(0) > long_range(1) ? long_range(0) : long_range(1);

// Places of atoms within reach that a warp has found and not added yet: a ring.
constexpr int kQueue = 2 * kWarp;
static_assert(kQueue * sizeof(int) <= LONG_BYTES, "so3krates_export/cuda.py sets enough shared memory aside");

// Atoms in the order of their cells, cells along z, then y, then x.
struct Cells {
  const double* positions;  // [places][3] A
  const Real* values;       // [places][4] of their rows: charge, polarisability, square of the free one's over its C6
  const int* begins;        // [cells + 1] places
  const int* count;         // of cells along each axis
  const double* box;        // origin (A), edge of the cells (A)

  SO3KRATES_INLINE int along(int axis, double x) const {
    const double place = floor((x - box[axis]) / box[3]);
    return place < 0 ? 0 : place < count[axis] ? static_cast<int>(place) : count[axis] - 1;
  }
  // Square of the distance from x to a layer of cells.
  SO3KRATES_INLINE double away(int axis, int layer, double x) const {
    const double low = box[axis] + layer * box[3] - x, high = -(low + box[3]);
    const double distance = low > high ? low : high;
    return distance > 0 ? distance * distance : 0;
  }
};

// Sums of a row in one lane, in units of its own charge or polarisability.
struct LongSums {
  double potential = 0, energy = 0, through_root = 0, force[3] = {0, 0, 0}, moment[6] = {0, 0, 0, 0, 0, 0};
};

// Value and derivative with respect to the squared distance of a table of cubics.
SO3KRATES_INLINE void in_table(const Real* tables, int part, Real square, Real& value, Real& slope) {
  const Real per_square = static_cast<Real>(LONG_CELLS / long_range(part));
  const Real place = square * per_square;
  int cell;
  const Real t = place - cells_below<Real>(place, LONG_CELLS, &cell);
  const Quad c = load(tables + (part * (LONG_CELLS + 1) + cell) * 4);
  value = c.v[0] + t * (c.v[1] + t * (c.v[2] + t * c.v[3]));
  slope = (c.v[1] + t * (Real(2) * c.v[2] + Real(3) * t * c.v[3])) * per_square;
}

// Adds the atom at a place.
SO3KRATES_INLINE void add_long_pair(const Cells& cells, const Real* tables, const double* centre, Quad own, int place,
                                    LongSums& sums) {
  constexpr double scales[] = {LONG_SCALES};  // square Bohr radii in a square A; damping radius over the root
  constexpr Real spread[] = {LONG_SPREAD};
  const double* other = cells.positions + 3 * static_cast<Size>(place);
  double distance[3], square_distance = 0;
  for (int a = 0; a < 3; ++a) {
    distance[a] = other[a] - centre[a];
    square_distance += distance[a] * distance[a];
  }
  const Quad values = load(cells.values + 4 * static_cast<Size>(place));
  const Real square = static_cast<Real>(square_distance), per_square = static_cast<Real>(scales[0]);
  Real coulomb, coulomb_slope, switched, switched_slope;
  in_table(tables, 0, square, coulomb, coulomb_slope);
  in_table(tables, 1, square, switched, switched_slope);
  // C6 = strength times the row's polarisability.
  const Real sum = at_least(own.v[1] + values.v[1], Real(1e-20));
  const Real strength = Real(2) * values.v[1] / (own.v[2] + values.v[2]);
  const Real root = exp(log(Real(0.5) * sum) * Real(1.0 / 7.0));
  const Dispersed<Real> found = dispersion_of<Real>(square * per_square, root, static_cast<Real>(scales[1]), spread);
  const Real scaled = switched * strength;
  sums.potential += values.v[0] * coulomb;
  sums.energy += scaled * found.value;
  sums.through_root += scaled * found.through_root / (Real(7) * sum);
  const Real slope =
      Real(2) * (own.v[0] * values.v[0] * coulomb_slope +
                 own.v[1] * strength * (switched_slope * found.value + switched * found.by_square * per_square));
  Real r[3], pull[3];
  for (int a = 0; a < 3; ++a) {
    r[a] = static_cast<Real>(distance[a]);
    pull[a] = slope * r[a];
    sums.force[a] += pull[a];
  }
  for (int a = 0, k = 0; a < 3; ++a)
    for (int b = a; b < 3; ++b, ++k) sums.moment[k] += r[a] * pull[b];
}

// cell of each place, ascending, the number of cells that beyond them; places, cells -> begins [places]
extern "C" __global__ void cell_begins(const int* cell, const long long* capacities, const int* cells, int* begins) {
  const Size places = capacities[0];
  for (Size place = blockIdx.x * blockDim.x + threadIdx.x; place < places; place += gridDim.x * blockDim.x) {
    for (int c = place == 0 ? 0 : cell[place - 1] + 1; c <= cell[place]; ++c) begins[c] = static_cast<int>(place);
    if (place + 1 == places)
      for (int c = cell[place] + 1; c <= *cells; ++c) begins[c] = static_cast<int>(places);
  }
}

// tables [2][LONG_CELLS + 1][4], positions, atom of each row, values of rows [rows][4] (those of Cells, then the free
// atom's polarisability), then those of Cells, owned; atom energies, forces -> slopes of charges and of ratios, sums by
// row [8] (energies of charges and of dispersion, strain gradient xx, xy, xz, yy, yz, zz), atom energies, forces
extern "C" __global__ void long_pairs(const Real* tables, const double* positions, const int* atom_of_row,
                                      const Real* row_values, const double* place_positions, const Real* place_values,
                                      const int* begins, const int* count, const double* box, const int* owned,
                                      const double*, const double*, double* charge_slopes, double* ratio_slopes,
                                      double* row_sums, double* atom_energies, double* forces) {
  const int lane = lane_of_thread();
  int* queue = reinterpret_cast<int*>(shared_memory + threadIdx.x / kWarp * LONG_BYTES);
  const Cells cells{place_positions, place_values, begins, count, box};
  const double distance = sqrt(kReach);
  for_rows(0, *owned, [&](Size row) {
    const double* centre = positions + 3 * static_cast<Size>(atom_of_row[row]);
    const Quad own = load(row_values + 4 * row);
    LongSums sums;
    int waiting = 0, next = 0;  // of the queue
    const auto add = [&] {
      sync_warp();
      if (lane < waiting) add_long_pair(cells, tables, centre, own, queue[(next + lane) % kQueue], sums);
      sync_warp();
      next = (next + kWarp) % kQueue;
      waiting -= kWarp;
    };
    const int low[2] = {cells.along(0, centre[0] - distance), cells.along(1, centre[1] - distance)};
    const int wide[2] = {cells.along(0, centre[0] + distance) - low[0] + 1,
                         cells.along(1, centre[1] + distance) - low[1] + 1};
    const int columns = wide[0] * wide[1];
    for (int start = 0; start < columns; start += kWarp) {
      int begin = 0, end = 0;  // places of the lane's column
      if (start + lane < columns) {
        const int i = low[0] + (start + lane) / wide[1], j = low[1] + (start + lane) % wide[1];
        const double rest = kReach - cells.away(0, i, centre[0]) - cells.away(1, j, centre[1]);
        if (rest >= 0) {
          const double half = sqrt(rest);
          const int* column = begins + (static_cast<Size>(i) * count[1] + j) * count[2];
          begin = column[cells.along(2, centre[2] - half)];
          end = column[cells.along(2, centre[2] + half) + 1];
        }
      }
      for (int k = 0; k < kWarp && start + k < columns; ++k) {
        const int last = lane_value(end, k);
        for (int place = lane_value(begin, k); place < last; place += kWarp) {
          double square = 0;
          if (place + lane < last)
            for (int a = 0; a < 3; ++a) {
              const double d = place_positions[3 * static_cast<Size>(place + lane) + a] - centre[a];
              square += d * d;
            }
          const bool inside = square > 0 && square < kReach;  // a row is not its own neighbour
          const unsigned mask = ballot(inside);
          if (inside) queue[(next + waiting + __popc(mask & ((1u << lane) - 1))) % kQueue] = place + lane;
          waiting += __popc(mask);
          if (waiting >= kWarp) add();
        }
      }
    }
    add();
    const double potential = warp_sum(sums.potential), energy = warp_sum(sums.energy),
                 through_root = warp_sum(sums.through_root);
    for (int a = 0; a < 3; ++a) sums.force[a] = warp_sum(sums.force[a]);
    for (int k = 0; k < 6; ++k) sums.moment[k] = warp_sum(sums.moment[k]);
    if (lane != 0) return;
    const double charge = own.v[0], polarisability = own.v[1], free = own.v[3];
    double* to = row_sums + 8 * row;
    to[0] = 0.5 * charge * potential;
    to[1] = 0.5 * polarisability * energy;
    for (int k = 0; k < 6; ++k) to[2 + k] = 0.5 * sums.moment[k];
    atom_energies[row] += to[0] + to[1];
    charge_slopes[row] = potential;
    ratio_slopes[row] = free * (energy + polarisability * through_root);
    for (int a = 0; a < 3; ++a) forces[3 * row + a] += sums.force[a];
  });
}

}  // namespace so3krates
