// Positions and results that are no numbers, and atoms at one place: found in what the host gives and gets.
#pragma once

#include <utility>
#include <vector>

#include "error.h"
#include "evaluator.h"

namespace so3krates {

constexpr double kSamePlace = 1e-3;     // A; nuclei are never closer: a structure that has such a pair is a mistake
constexpr double kNear = 1.0;           // A; pairs that may come to one place before lists are made anew
constexpr double kLargestEnergy = 1e6;  // eV of an atom, without its shift; beyond it is no physics of matter
constexpr double kSuspectForce = 1e5;   // eV/A; beyond it two atoms may be at one place

using AtomPairs = std::vector<std::pair<int, int>>;

// An owned atom and a candidate of its that are nearer than kNear. Costs a pass over all candidates, shared by
// `threads` threads.
AtomPairs near_pairs(const double* positions, const Neighbourhood& neighbourhood, int threads);

// All of these throw StructureError; name_of: as there.

// positions: [atoms][3] in A. row_of_atom: [atoms], -1: of no concern here; null: all are.
void check_positions(const double* positions, int atoms, const int* row_of_atom, const StructureError::NameOf& name_of);
void check_distances(const double* positions, const AtomPairs& pairs, const StructureError::NameOf& name_of);
// Returns the square of the largest force, (eV/A)^2.
double check_results(const Results& results, int owned, const int* atom_of_row, const double* positions,
                     const StructureError::NameOf& name_of);
// shifts: of each species, in the energies of results; null: they are not in them.
void check_energies(const Results& results, int owned, const int* species, const double* shifts, const int* atom_of_row,
                    const double* positions, const StructureError::NameOf& name_of);

}  // namespace so3krates
