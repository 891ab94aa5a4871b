// Terms of the energy: functions of a pair's distance, with a cutoff and lists of their own, in float64.
#pragma once

#include <cstdint>
#include <string_view>

#include "layout.h"
#include "pairs.h"

namespace so3krates::kernels {

// What a term reads: the host's lists, and its numbers for each pair of elements.
struct TermInputs {
  Candidates candidates;
  const std::int32_t* species;  // [rows] of all rows in use
  const double* table;          // [elements][elements][width]
  int elements, width;
};

// What it adds to.
struct TermSums {
  double* atom_energies;  // [rows] eV
  Gradients gradients;    // eV/A; eV
};

// Adds the shares of rows [begin, end), each pair from both of its rows, and to sums[10] their energy (eV) and
// dE/d(strain) (eV, row by row). Formulas: docs/model.md.
using AddTerm = void (*)(const TermInputs&, Range, const TermSums&, double* sums);

// By its name in so3krates/model/terms.py. Throws std::invalid_argument where the name or the table's width is unknown.
AddTerm term_named(std::string_view name, int width);

}  // namespace so3krates::kernels
