#include "cells.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace so3krates::kernels {

Cells::Cells(const double* positions, const int* row_of_atom, int atoms, const int* atom_of_row, int owned,
             double reach) {
  const double distance = std::sqrt(reach), infinite = std::numeric_limits<double>::infinity();
  double low[3] = {infinite, infinite, infinite}, high[3] = {-infinite, -infinite, -infinite};
  for (int row = 0; row < owned; ++row)
    for (int a = 0; a < 3; ++a) {
      const double x = positions[3 * static_cast<std::size_t>(atom_of_row[row]) + a];
      low[a] = std::min(low[a], x);
      high[a] = std::max(high[a], x);
    }
  if (owned > 0) choose_cells(low, high, distance, atoms);

  constexpr int outside = -1;
  std::vector<int> cell(static_cast<std::size_t>(atoms), outside);
  begin_.assign(static_cast<std::size_t>(count_[0]) * count_[1] * count_[2] + 1, 0);
  for (int atom = 0; atom < atoms; ++atom) {
    const double* position = positions + 3 * static_cast<std::size_t>(atom);
    bool is_near = row_of_atom[atom] >= 0 && owned > 0;
    for (int a = 0; a < 3; ++a)
      is_near = is_near && position[a] >= low[a] - distance && position[a] <= high[a] + distance;
    if (!is_near) continue;
    cell[atom] = cell_of(position);
    ++begin_[cell[atom] + 1];
  }
  std::partial_sum(begin_.begin(), begin_.end(), begin_.begin());
  const auto places = static_cast<std::size_t>(begin_.back());
  atom_.resize(places);
  for (auto& axis : position_) axis.resize(places + kCellPadding);
  std::vector<int> next(begin_.begin(), begin_.end() - 1);
  for (int atom = 0; atom < atoms; ++atom) {
    if (cell[atom] == outside) continue;
    const auto place = static_cast<std::size_t>(next[cell[atom]]++);
    atom_[place] = atom;
    for (int a = 0; a < 3; ++a) position_[a][place] = positions[3 * static_cast<std::size_t>(atom) + a];
  }
}

// A third of the distance, or larger where atoms are few in a large box.
void Cells::choose_cells(const double* low, const double* high, double distance, int atoms) {
  const auto along = [&](int a) { return std::floor((high[a] - low[a] + 2 * distance) / edge_) + 1; };
  edge_ = distance / 3;
  while (along(0) * along(1) * along(2) > 4.0 * atoms + 64.0) edge_ *= 1.25;
  for (int a = 0; a < 3; ++a) {
    origin_[a] = low[a] - distance;
    count_[a] = static_cast<int>(along(a));
  }
}

int Cells::cell_of(const double* position) const {
  int found = 0;
  for (int a = 0; a < 3; ++a) {
    const int along = static_cast<int>(std::floor((position[a] - origin_[a]) / edge_));
    found = found * count_[a] + std::clamp(along, 0, count_[a] - 1);
  }
  return found;
}

}  // namespace so3krates::kernels
