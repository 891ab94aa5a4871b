// How rows of atoms, weights and pairs lie in memory: for the handlers, the kernels and, by runtime/agreement.h, the
// exporter (so3krates_export/fused.py).
//
// Features lie interleaved: feature n of head h at n * group + h, where `group` is the number of heads rounded up to 1,
// 2 or 4, so that sums over a head's features are additions of whole vectors. The geometric attention's features lie
// degree by degree, each degree's padded. All widths are padded to kPadding elements with zeros; strides count
// elements.
#pragma once

#include <cstdint>
#include <vector>

namespace so3krates::kernels {

// Of the custom calls that a bundle makes: their arguments, their results, and how these lie in memory. A bundle of
// another version is refused.
constexpr int kVersion = 5;
constexpr int kOldestVersion = 4;  // whose kernels, but for those of SO3LR, are these too

constexpr int kPadding = 16;       // elements; a whole number of vectors on every instruction set
constexpr int kMostDegrees = 4;    // degrees 1 to 4
constexpr int kMostOrders = 32;    // 3 + 5 + 7 + 9, padded
constexpr int kQuad = 4;           // heads or degrees handled at once
constexpr int kRounds = 48;        // in which threads visit pairs
constexpr int kMostThreads = 256;  // that share pairs
constexpr int kMostBlocks = 2 * kMostThreads;

#include "shared/cutoffs.h"

constexpr const char* kCutoffNames[] = {"cosine", "phys", "polynomial", "exponential"};

struct Layout {
  // Feature attention: `head_features` groups of `group` heads.
  int head_features, group;
  int feature_width;   // head_features * group
  int feature_stride;  // padded
  // Geometric attention: one block per degree.
  int degrees, degree[kMostDegrees];
  int block_width, block_stride;
  int geometric_stride;  // degrees * block_stride
  // Euclidean variables.
  int orders, order_stride;
  // Filters: features, then geometric blocks; both hidden layers side by side.
  int filter_stride;
  int hidden, hidden_stride;    // of one filter; of both, padded
  int readout, readout_stride;  // hidden layer of the energy head
  int elements;
  // A row of projections or of their adjoints: query, key, value, geometric query, geometric key, Euclidean variables.
  int key, value, geometric_query, geometric_key, chi, row_stride;
  // A row of messages or of their adjoints: features, Euclidean variables.
  int message_stride;
  // Radial functions of the distance.
  Cutoff cutoff_function;
  int polynomial_order;
  double cutoff;                     // A
  int nodes;                         // of the splines
  double spline_start, spline_step;  // in exp(-d / A)
};

// What all widths follow from; hidden: of one degree filter, readout: of the energy head.
struct NetworkSizes {
  int features, heads;
  std::vector<std::int64_t> degrees;
  int hidden, readout;
};

// The widths and strides of a network, all else 0. Throws std::invalid_argument for one that the kernels do not
// compute.
Layout widths_of(const NetworkSizes& network);

constexpr int rounded_up(int n, int unit) {
  return (n + unit - 1) / unit * unit;
}

// Pairs as pairs.h lists them; a neighbour n >= 0 stands for both directions, ~n for the listing row's side alone.
template <typename Real>
struct PairTable {
  const Real* vectors;    // [rows][slots][3] neighbour minus row, A
  const int* neighbours;  // [rows][slots]
  const int* ends;        // [rows][kRounds] end of each round's slots; the first round's start at 0
  const int* order;       // [rows] in which owned rows are visited
  int slots;
};

// The pairs that rows order[begin, end) list for one round.
struct Visit {
  int begin, end, round;
};

template <typename Real>
struct FilterWeights {
  const Real* table;      // [nodes][filter_stride] spline coefficients of the radial filters, all biases folded in
  const Real* hidden_in;  // [degrees + 1][hidden_stride] invariants -> hidden, last row the bias
  // Each filter's last matrix, as a product through `rank` numbers where that is less work.
  const Real* reduce;    // [2 * hidden][rank], or null: the hidden layer itself is expanded
  const Real* expand;    // [rank][filter_stride]
  const Real* expand_t;  // [feature_width + degrees * block_width][rank_stride]
  int rank, rank_stride;
};

template <typename Real>
struct ProjectionWeights {
  const Real* feature;      // [head_features][3][feature_stride] query, key, value
  const Real* feature_t;    // [3][head_features][feature_stride]
  const Real* geometric;    // [degrees][block_width][2][block_stride] query, key
  const Real* geometric_t;  // [degrees][2][block_width][block_stride]
};

template <typename Real>
struct ExchangeWeights {
  const Real* kernel;    // [feature_width + degrees][feature_stride + kQuad]
  const Real* bias;      // [feature_stride + kQuad]
  const Real* kernel_t;  // the transpose, same shape
};

template <typename Real>
struct ReadoutWeights {
  const Real* hidden;    // [feature_width][readout_stride]
  const Real* hidden_t;  // [readout][feature_stride]
  const Real* bias;      // [readout_stride]
  const Real* out;       // [readout_stride]
  Real out_bias;
};

// The first layer by ordered pairs of species: its attention coefficients are functions of the distance.
template <typename Real>
struct FirstLayerWeights {
  const Real* embedding;  // [elements][feature_stride]
  const Real* values;     // [elements][feature_stride] what a neighbour of that species sends
  const Real* table;      // [elements][elements][nodes][8] centre, neighbour; heads (lane l: head l % group), degrees
};

// Adjoints with 1 or 4 channels and what they add to; see docs/architecture.md.
struct Gradients {
  double* forces;        // [rows][3]
  double* atom_virials;  // [rows][3][3] or null
};

// Rows or pairs [begin, end), handled by one thread.
struct Range {
  int begin, end;
};

// Attention along a list of pairs, for training; attention.h has the formulas. F = heads * width features.
struct AttentionShape {
  int rows, pairs, heads, width;
  const int *first, *second;  // [pairs] rows of the two atoms
};
// Those that a function has no use for are null. Arrays of rows that it fills (`query_out`, `key_out`) are added to.
template <typename Real>
struct AttentionArrays {
  const Real *query, *key;                                 // [rows][F]
  const Real* filter;                                      // [pairs][F]
  const Real* coefficient;                                 // [2][pairs][heads]
  const Real *query_t, *key_t, *filter_t, *coefficient_t;  // what the results of the adjoint are contracted with
  Real *query_out, *key_out, *filter_out, *coefficient_out;
};

}  // namespace so3krates::kernels
