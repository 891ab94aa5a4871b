// What the kernels of SO3LR read and write (docs/so3lr.md): layers that normalise the features, heads, long-range
// pairs. Features fill their rows without padding: their number is a multiple of kPadding, the heads are 1, 2 or 4.
#pragma once

#include "layout.h"

namespace so3krates::kernels {

// What happens at each atom behind the messages: normalisation, residual network, exchange, normalisation. F features.
template <typename Real>
struct NormalisedWeights {
  const Real *scale_1, *bias_1;                // [F] of the normalisation
  const Real *residual_in, *residual_out;      // [F][F] features -> hidden -> features
  const Real *in_bias, *out_bias;              // [F]
  ExchangeWeights<Real> exchange;              // kernel_t in the adjoint alone
  const Real *scale_2, *bias_2;                // [F]
  const Real *residual_in_t, *residual_out_t;  // the transposes, in the adjoint alone
};

constexpr int kHeads = 3;  // energy, raw charge, Hirshfeld ratio before its absolute value

// One hidden layer for all heads, each with its own part of it; last matrices depend on the element.
template <typename Real>
struct HeadWeights {
  const Real* hidden;    // [F][stride]
  const Real* hidden_t;  // [stride][F], in the adjoint alone
  const Real* bias;      // [stride]
  const Real* out;       // [elements][stride]
  const Real* out_bias;  // [elements][kQuad]
  int stride;            // a multiple of kPadding, as each end is
  int end[kHeads];       // of the heads' parts
};

// Atoms within reach of the owned rows, images and other ranks' among them, sorted into cells along z, then y, then x.
template <typename Real>
struct CellAtoms {
  const int* begin;           // [cells + 1] places of a cell's atoms
  const double* position[3];  // [places + kCellPadding] A
  const Real* values[3];      // [places] the first three of a row's
  double origin[3];           // A
  double edge;                // A, of the cells
  int count[3];               // of cells along each axis
};
constexpr int kCellPadding = 16;  // what vectors may read beyond the last place

// Long-range pairs. Both tables are cubic polynomials of the square of the distance, cell by cell in steps of
// range / cells, [cells + 1][kQuad] with zeros in the last.
template <typename Real>
struct LongPairs {
  const double* positions;
  const int* atom_of_row;
  CellAtoms<Real> atoms;
  const Real* rows;       // [rows][kQuad] charge, polarisability, square of the free one's over its C6, free one
  const Real* tables[2];  // of charges: eV/e^2; of the dispersion: minus Hartree times its switch
  double range[2];        // A^2, from where they are zero
  int cells;
  double per_square_angstrom;  // square Bohr radii
  double radius;               // damping radius (bohr) over the seventh root of the polarisability
  double spread[4];            // powers of that root in s, 1 / gamma = 2 s^2
};

// What it adds to (the first two) or fills, [rows].
struct LongSums {
  double* atom_energies;  // eV
  double* forces;         // eV/A, [rows][3]
  double* charge_slopes;  // dE/dq, V
  double* ratio_slopes;   // dE/dv, eV
};

// Sums over the rows of a piece.
struct LongTotals {
  double energies[2];  // eV: of charges, dispersion
  double slopes;       // V, of charge_slopes
  double strain[9];    // eV
};

}  // namespace so3krates::kernels
