// Compiled once per instruction set; SO3KRATES_KERNEL_SET is its name. Uses no library code, whose functions the linker
// would share between the instruction sets.
#include "body.h"

#include "attention.h"
#include "edges.h"
#include "edges_adjoint.h"
#include "first_layer.h"
#include "long_pairs.h"
#include "nodes.h"
#include "normalised_nodes.h"

namespace so3krates::kernels::SO3KRATES_KERNEL_SET {
namespace {

std::size_t scratch(const Layout& layout, int channels) {
  std::size_t size = filter_scratch_size(layout, channels);
  if (node_scratch_size(layout) > size) size = node_scratch_size(layout);
  if (normalised_scratch_size(layout) > size) size = normalised_scratch_size(layout);
  return size;
}

template <typename Real>
Body<Real> make() {
  Body<Real> b{};
  b.scratch = scratch;
  b.project = project<Real>;
  b.project_adjoint = project_adjoint<Real>;
  b.exchange = exchange<Real>;
  b.exchange_adjoint = exchange_adjoint<Real>;
  b.readout = readout<Real>;
  b.messages = messages<Real>;
  b.messages_adjoint = [](const Layout& layout, const FilterWeights<Real>& weights, const PairTable<Real>& pairs,
                          int channels, int only, Visit visit, const Real* rows, const Real* sums_adjoint,
                          Real* row_gradients, const Gradients& gradients, double* strain, Real* memory) {
    const auto adjoint = channels == 1          ? messages_adjoint<Real, Channels<1>>
                         : only == kAllChannels ? messages_adjoint<Real, Channels<4>>
                         : only == 0            ? messages_adjoint<Real, Channels<4, 1>>
                                                : messages_adjoint<Real, Channels<4, 2, 1>>;
    adjoint(layout, weights, pairs, visit, rows, sums_adjoint, only > 0 ? only - 1 : 0, row_gradients, gradients,
            strain, memory);
  };
  b.first_messages = first_messages<Real>;
  b.first_features = first_features<Real>;
  b.first_features_adjoint = first_features_adjoint<Real>;
  b.first_messages_adjoint = [](const Layout& layout, const FirstLayerWeights<Real>& weights,
                                const PairTable<Real>& pairs, int channels, Visit visit, const int* species,
                                const Real* sums_adjoint, const Real* coefficients_adjoint, const Gradients& gradients,
                                double* strain) {
    const auto adjoint = channels == 1 ? first_messages_adjoint<Real, 1> : first_messages_adjoint<Real, 4>;
    adjoint(layout, weights, pairs, visit, species, sums_adjoint, coefficients_adjoint, gradients, strain);
  };
  b.normalised_exchange = normalised_exchange<Real>;
  b.normalised_exchange_adjoint = normalised_exchange_adjoint<Real>;
  b.most_head_columns = [](const Layout& layout) { return kMostHeadColumns * layout.feature_stride; };
  b.heads = heads<Real>;
  b.heads_adjoint = heads_adjoint<Real>;
  b.long_pairs = long_pairs<Real>;
  b.attend = attend<Real>;
  b.attend_adjoint = attend_adjoint<Real>;
  b.attend_second = attend_second<Real>;
  b.gather = gather<Real>;
  b.gather_adjoint = gather_adjoint<Real>;
  b.gather_second = gather_second<Real>;
  return b;
}

}  // namespace

// Functions, so that nothing of this file runs before the processor is known to be able to.
Body<float> body_float();
Body<double> body_double();
Body<float> body_float() {
  return make<float>();
}
Body<double> body_double() {
  return make<double>();
}

}  // namespace so3krates::kernels::SO3KRATES_KERNEL_SET
