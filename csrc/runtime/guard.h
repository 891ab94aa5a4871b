// Whether a structure is one of those that the potential has learnt: pairs of atoms nearer, and forces larger, than in
// the training data. Looked at on the host, from positions and forces that are there, whatever body computes them.
#pragma once

#include <string>
#include <vector>

#include "bundle.h"
#include "error.h"
#include "evaluator.h"

namespace so3krates {

constexpr double kGuardDistance = 0.9;  // of the shortest distance of such a pair in the training data
constexpr double kGuardForce = 1.5;     // of the largest force there
// Outputs of the system, of bundles that have these distances.
constexpr const char* kClosePairs = "close_pairs";
constexpr const char* kClosestRatio = "closest_ratio";

class Guard {
 public:
  explicit Guard(const Bundle& bundle) : limits_(bundle.limits), elements_(bundle.elements.size()) {}

  // Keeps the pairs that may come nearer than in the training data before there are new lists.
  void keep_pairs(const double* positions, const Neighbourhood& neighbourhood, int threads);
  // positions: as for the evaluator; those of `keep_pairs` or later.
  Sighting look(const double* positions, int threads) const;
  // forces: [owned][3] eV/A; square: of the largest.
  void look_at_forces(Sighting& sighting, double square, const double* forces, const int* atom_of_row, int owned) const;

 private:
  struct Pair {
    int i, j;
    float inverse;  // A^-2, of the square of the distance that such pairs have in the training data at least
  };
  struct Pairs {
    std::vector<Pair> whole, half;  // of atoms of this rank, and seen from both of its sides
  };

  const Limits limits_;
  const std::size_t elements_;
  Pairs pairs_;
};

}  // namespace so3krates
