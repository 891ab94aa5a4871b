// Atoms sorted into cubic cells, for pairs whose lists would take more memory than all else.
#pragma once

#include <cstddef>
#include <vector>

#include "so3lr.h"

namespace so3krates::kernels {

class Cells {
 public:
  // Of atoms with a row that are within sqrt(reach) (A^2) of the box around the owned rows.
  Cells(const double* positions, const int* row_of_atom, int atoms, const int* atom_of_row, int owned, double reach);

  int places() const { return static_cast<int>(atom_.size()); }
  int atom(int place) const { return atom_[static_cast<std::size_t>(place)]; }
  // But for `values`.
  template <typename Real>
  CellAtoms<Real> atoms() const {
    CellAtoms<Real> found{};
    found.begin = begin_.data();
    for (int a = 0; a < 3; ++a) {
      found.position[a] = position_[a].data();
      found.origin[a] = origin_[a];
      found.count[a] = count_[a];
    }
    found.edge = edge_;
    return found;
  }

 private:
  void choose_cells(const double* low, const double* high, double distance, int atoms);
  int cell_of(const double* position) const;

  double origin_[3] = {0, 0, 0}, edge_ = 1;
  int count_[3] = {1, 1, 1};
  std::vector<int> begin_, atom_;
  std::vector<double> position_[3];
};

}  // namespace so3krates::kernels
