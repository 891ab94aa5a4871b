// The kernels of one instruction set as a table of functions.
#pragma once

#include <cstddef>

#include "layout.h"
#include "so3lr.h"

namespace so3krates::kernels {

constexpr int kAllChannels = -1;

// Functions work on a range of rows or on the pairs of a visit; `memory` is scratch of `scratch` numbers, 64-byte
// aligned. Arrays are described where the functions are defined: edges.h, first_layer.h, nodes.h, normalised_nodes.h,
// long_pairs.h, attention.h.
template <typename Real>
struct Body {
  std::size_t (*scratch)(const Layout&, int channels);
  void (*project)(const Layout&, const ProjectionWeights<Real>&, Range, const Real* x, const Real* chi, Real* rows,
                  Real* memory);
  void (*project_adjoint)(const Layout&, const ProjectionWeights<Real>&, int channels, Range, const Real* row_gradients,
                          Real* adjoints, int stride, Real* memory);
  void (*exchange)(const Layout&, const ExchangeWeights<Real>&, Range, const Real* chi, Real* x, Real* next_chi,
                   Real* scale, Real* memory);
  void (*exchange_adjoint)(const Layout&, const ExchangeWeights<Real>&, int channels, Range, const Real* chi,
                           const Real* scale, Real* adjoints, Real* memory);
  double (*readout)(const Layout&, const ReadoutWeights<Real>&, int channels, Range, const Real* x, double* energies,
                    Real* adjoints, Real* memory);
  void (*messages)(const Layout&, const FilterWeights<Real>&, const PairTable<Real>&, Visit, const Real* rows, Real* x,
                   Real* chi, Real* memory);
  // only: of the channels, or kAllChannels.
  void (*messages_adjoint)(const Layout&, const FilterWeights<Real>&, const PairTable<Real>&, int channels, int only,
                           Visit, const Real* rows, const Real* sums_adjoint, Real* row_gradients, const Gradients&,
                           double* strain, Real* memory);
  void (*first_messages)(const Layout&, const FirstLayerWeights<Real>&, const PairTable<Real>&, Visit,
                         const int* species, Real* coefficients, Real* chi);
  void (*first_features)(const Layout&, const FirstLayerWeights<Real>&, Range, const int* species,
                         const Real* coefficients, Real* x);
  void (*first_features_adjoint)(const Layout&, const FirstLayerWeights<Real>&, int channels, Range,
                                 const Real* sums_adjoint, Real* coefficients);
  void (*first_messages_adjoint)(const Layout&, const FirstLayerWeights<Real>&, const PairTable<Real>&, int channels,
                                 Visit, const int* species, const Real* sums_adjoint, const Real* coefficients_adjoint,
                                 const Gradients&, double* strain);
  void (*normalised_exchange)(const Layout&, const NormalisedWeights<Real>&, Range, const Real* x, const Real* chi,
                              Real* next_x, Real* next_chi, Real* memory);
  void (*normalised_exchange_adjoint)(const Layout&, const NormalisedWeights<Real>&, Range, const Real* x,
                                      const Real* chi, Real* adjoints, Real* memory);
  int (*most_head_columns)(const Layout&);
  void (*heads)(const Layout&, const HeadWeights<Real>&, Range, const Real* x, const int* species,
                double* const* values, Real* memory);
  void (*heads_adjoint)(const Layout&, const HeadWeights<Real>&, Range, const Real* x, const int* species,
                        const double* charge_slopes, double mean_slope, const double* ratio_slopes, Real* adjoints,
                        Real* memory);
  void (*long_pairs)(const LongPairs<Real>&, const int* order, Range, const LongSums&, LongTotals&);
  using Attention = void (*)(const AttentionShape&, Range pairs, const AttentionArrays<Real>&);
  Attention attend, attend_adjoint, attend_second, gather, gather_adjoint, gather_second;
};

// The best that this processor runs, or the one that the environment variable SO3KRATES_KERNELS, where it is set and
// not empty, names (generic, avx2, avx512). Throws std::runtime_error for a name that is unknown here or an instruction
// set that the processor lacks.
template <typename Real>
const Body<Real>& body();
// Its name.
const char* instruction_set();

}  // namespace so3krates::kernels
