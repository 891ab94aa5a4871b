// The kernels as XLA custom calls. Arguments come by position as so3krates_export/fused_body.py gives them; arrays that
// a call fills come last and share their memory with the results.
#include <algorithm>
#include <functional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "arguments.h"
#include "body.h"
#include "call.h"
#include "entry.h"
#include "pairs.h"
#include "registry.h"
#include "so3lr_calls.h"
#include "terms.h"
#include "training.h"

namespace so3krates::kernels {
namespace {

// positions, row_of_atom, atom_of_row, candidates, candidate_count, owned; vectors, neighbours, ends, order, schedule
// -> the same, needed
template <typename Real>
void run_pairs(Call& call) {
  std::int64_t extents[3];
  Candidates c{};
  c.positions = call.in<double>({kAny, 3});
  c.row_of_atom = call.in<std::int32_t>({kAny});
  c.atom_of_row = call.in<std::int32_t>({kAny});
  c.candidates = call.in<std::int32_t>({kAny, kAny}, extents);
  c.width = static_cast<int>(extents[1]);
  c.candidate_count = call.in<std::int32_t>({extents[0]});
  const int owned = call.count();
  PairArrays<Real> arrays{};
  arrays.vectors = call.out<Real>({extents[0], kAny, 3}, extents);
  arrays.slots = static_cast<int>(extents[1]);
  arrays.neighbours = call.out<std::int32_t>({extents[0], extents[1]});
  arrays.ends = call.out<std::int32_t>({extents[0], kRounds});
  arrays.order = call.out<std::int32_t>({extents[0]});
  arrays.schedule = reinterpret_cast<Schedule*>(call.out<std::int32_t>({kScheduleEntries}));
  auto* needed = call.out<std::int32_t>({});
  const auto parallel = [&](int count, const std::function<void(int)>& task) { call.run(count, task); };
  *needed = list_pairs<Real>(c, call.layout.cutoff, owned, call.threads(), parallel, arrays);
}

// embedding, values, table, exchange kernel and bias, species, pairs, owned;
// coefficients, attended chi, x, chi, scale -> the same
template <typename Real>
void run_first_layer(Call& call) {
  const Layout& l = call.layout;
  FirstLayerWeights<Real> w{};
  w.embedding = call.in<Real>({l.elements, l.feature_stride});
  w.values = call.in<Real>({l.elements, l.feature_stride});
  w.table = call.in<Real>({l.elements, l.elements, l.nodes, 2 * kQuad});
  const ExchangeWeights<Real> exchange = exchange_weights<Real>(call);
  const auto* species = call.in<std::int32_t>({kAny});
  PairTable<Real> table{};
  const Pairs pairs = pair_table(call, table);
  const int owned = call.count();
  Real* coefficients = call.out<Real>({pairs.rows, l.elements, kQuad});
  Real* attended = call.out<Real>({pairs.rows, l.order_stride});
  Real* x = call.out<Real>({pairs.rows, l.feature_stride});
  Real* chi = call.out<Real>({pairs.rows, l.order_stride});
  Real* scale = call.out<Real>({pairs.rows, kQuad});
  const Body<Real>& kernels = body<Real>();
  const auto start = [&](Range range) {
    for (int p = range.begin; p < range.end; ++p) {
      const std::size_t i = table.order[p];
      std::fill_n(coefficients + i * l.elements * kQuad, l.elements * kQuad, Real(0));
      std::fill_n(attended + i * l.order_stride, l.order_stride, Real(0));
    }
  };
  std::vector<Stage> stages;
  call.add_pairs(stages, *pairs.schedule, start, [&](int, Visit visit) {
    kernels.first_messages(l, w, table, visit, species, coefficients, attended);
  });
  call.add_rows<Real>(stages, owned, [&](Range range, Real* scratch) {
    kernels.first_features(l, w, range, species, coefficients, x);
    kernels.exchange(l, exchange, range, attended, x, chi, scale, scratch);
  });
  call.run(stages);
}

// feature and geometric kernels, x, chi, rows in use; projections -> the same
template <typename Real>
void run_project(Call& call) {
  const Layout& l = call.layout;
  ProjectionWeights<Real> w{};
  w.feature = call.in<Real>({l.head_features, 3, l.feature_stride});
  w.geometric = call.in<Real>({l.degrees, l.block_width, 2, l.block_stride});
  const Real* x = call.in<Real>({kAny, l.feature_stride});
  const Real* chi = call.in<Real>({kAny, l.order_stride});
  const int used = call.count();
  Real* projections = call.out<Real>({kAny, l.row_stride});
  call.for_rows<Real>(
      used, [&](Range range, Real* scratch) { body<Real>().project(l, w, range, x, chi, projections, scratch); });
}

// filter weights, exchange kernel and bias, x, chi, projections, pairs, owned; attended chi, next x, next chi, scale ->
// the same
template <typename Real>
void run_layer(Call& call) {
  const Layout& l = call.layout;
  const FilterWeights<Real> w = filter_weights<Real>(call, false);
  const ExchangeWeights<Real> exchange = exchange_weights<Real>(call);
  const LayerInput<Real> input(call);
  const std::int64_t rows = input.pairs.rows;
  Real* attended = call.out<Real>({rows, l.order_stride});
  Real* next_x = call.out<Real>({rows, l.feature_stride});
  Real* next_chi = call.out<Real>({rows, l.order_stride});
  Real* scale = call.out<Real>({rows, kQuad});
  std::vector<Stage> stages;
  input.add_messages(stages, call, w, next_x, attended);
  call.add_rows<Real>(stages, input.owned, [&](Range range, Real* scratch) {
    body<Real>().exchange(l, exchange, range, attended, next_x, next_chi, scale, scratch);
  });
  call.run(stages);
}

// hidden kernel, its transpose and bias, output kernel and bias, x, owned; atom energies, adjoints, forces, [atom
// virials]
// -> energy, strain gradient, the same
template <typename Real>
void run_readout(Call& call) {
  const Layout& l = call.layout;
  ReadoutWeights<Real> w{};
  w.hidden = call.in<Real>({l.feature_width, l.readout_stride});
  w.hidden_t = call.in<Real>({l.readout, l.feature_stride});
  w.bias = call.in<Real>({l.readout_stride});
  w.out = call.in<Real>({l.readout_stride});
  w.out_bias = *call.in<Real>({1});
  const Real* x = call.in<Real>({kAny, l.feature_stride});
  const int owned = call.count();
  std::int64_t extents[3];
  double* energy = call.out<double>({});
  double* strain = call.out<double>({3, 3});
  double* energies = call.out<double>({kAny});
  Real* adjoints = call.out<Real>({kAny, kAny, l.message_stride}, extents);
  double* forces = call.out<double>({extents[0], 3});
  double* virials = call.has_more_results() ? call.out<double>({extents[0], 3, 3}) : nullptr;
  const int channels = static_cast<int>(extents[1]);
  call.for_rows<Real>(owned, [&](Range range, Real* scratch) {
    body<Real>().readout(l, w, channels, range, x, energies, adjoints, scratch);
    const std::size_t begin = range.begin, rows = range.end - range.begin;
    std::fill_n(forces + 3 * begin, 3 * rows, 0.0);
    if (virials != nullptr) std::fill_n(virials + 9 * begin, 9 * rows, 0.0);
  });
  *energy = 0.0;
  for (int i = 0; i < owned; ++i) *energy += energies[i];
  std::fill_n(strain, 9, 0.0);
}

// transposed kernel, attended chi, scale, owned; adjoints -> the same
template <typename Real>
void run_exchange_adjoint(Call& call) {
  const Layout& l = call.layout;
  ExchangeWeights<Real> w{};
  w.kernel_t = call.in<Real>({l.feature_width + l.degrees, l.feature_stride + kQuad});
  const Real* attended = call.in<Real>({kAny, l.order_stride});
  const Real* scale = call.in<Real>({kAny, kQuad});
  const int owned = call.count();
  std::int64_t extents[3];
  Real* adjoints = call.out<Real>({kAny, kAny, l.message_stride}, extents);
  call.for_rows<Real>(owned, [&](Range range, Real* scratch) {
    body<Real>().exchange_adjoint(l, w, static_cast<int>(extents[1]), range, attended, scale, adjoints, scratch);
  });
}

// Strain gradients of the tasks of each round, added up in order.
class StrainSums {
 public:
  double* of(int task) { return sums_[task]; }
  void add_to(double* strain) const {
    for (int k = 0; k < kMostThreads; ++k)
      for (int c = 0; c < 9; ++c) strain[c] += sums_[k][c];
  }

 private:
  double sums_[kMostThreads][16] = {};  // a cache line and more for each
};

// filter weights with transpose, transposed projections, projections, pairs, owned;
// strain gradient, adjoints of projections, adjoints, forces, [atom virials] -> the same
// Where there is room for the projections' adjoints of one channel of four, channel after channel is computed; the
// ordinary adjoint, which the others need as it was, is the last.
template <typename Real>
void run_layer_adjoint(Call& call) {
  const Layout& l = call.layout;
  const FilterWeights<Real> w = filter_weights<Real>(call, true);
  ProjectionWeights<Real> projection{};
  projection.feature_t = call.in<Real>({3, l.head_features, l.feature_stride});
  projection.geometric_t = call.in<Real>({l.degrees, 2, l.block_width, l.block_stride});
  const Real* projections = call.in<Real>({kAny, l.row_stride});
  PairTable<Real> table{};
  const Pairs pairs = pair_table(call, table);
  const int owned = call.count();
  std::int64_t extents[3];
  double* strain = call.out<double>({3, 3});
  Real* row_gradients = call.out<Real>({pairs.rows, kAny, l.row_stride}, extents);
  const int held = static_cast<int>(extents[1]);
  Real* adjoints = call.out<Real>({pairs.rows, held == 1 ? kAny : held, l.message_stride}, extents);
  const int channels = static_cast<int>(extents[1]);
  Gradients gradients{};
  gradients.forces = call.out<double>({pairs.rows, 3});
  gradients.atom_virials = call.has_more_results() ? call.out<double>({pairs.rows, 3, 3}) : nullptr;
  const Body<Real>& kernels = body<Real>();
  StrainSums strains;
  const auto start = [&](Range range) {
    const std::size_t width = static_cast<std::size_t>(held) * l.row_stride;
    for (int p = range.begin; p < range.end; ++p) std::fill_n(row_gradients + table.order[p] * width, width, Real(0));
  };
  std::vector<Stage> stages;
  const auto add = [&](int only, Real* to, int stride) {
    call.add_pairs(stages, *pairs.schedule, start, [&, only](int k, Visit visit) {
      kernels.messages_adjoint(l, w, table, channels, only, visit, projections, adjoints, row_gradients, gradients,
                               strains.of(k), call.scratch<Real>(channels));
    });
    call.add_rows<Real>(stages, owned, [&, to, stride](Range range, Real* scratch) {
      kernels.project_adjoint(l, projection, held, range, row_gradients, to, stride, scratch);
    });
  };
  if (held == channels) add(kAllChannels, adjoints, l.message_stride);
  for (int c = channels; held < channels && c-- > 0;)
    add(c, adjoints + c * l.message_stride, channels * l.message_stride);
  call.run(stages);
  strains.add_to(strain);
}

// values, table, species, adjoints, pairs, owned, rows in use; strain gradient, adjoints of coefficients, forces, [atom
// virials]
// -> the same
template <typename Real>
void run_first_layer_adjoint(Call& call) {
  const Layout& l = call.layout;
  FirstLayerWeights<Real> w{};
  w.values = call.in<Real>({l.elements, l.feature_stride});
  w.table = call.in<Real>({l.elements, l.elements, l.nodes, 2 * kQuad});
  const auto* species = call.in<std::int32_t>({kAny});
  std::int64_t extents[3];
  const Real* adjoints = call.in<Real>({kAny, kAny, l.message_stride}, extents);
  const int channels = static_cast<int>(extents[1]);
  PairTable<Real> table{};
  const Pairs pairs = pair_table(call, table);
  const int used = call.count();
  double* strain = call.out<double>({3, 3});
  Real* coefficients = call.out<Real>({pairs.rows, channels, l.elements, kQuad});
  Gradients gradients{};
  gradients.forces = call.out<double>({pairs.rows, 3});
  gradients.atom_virials = call.has_more_results() ? call.out<double>({pairs.rows, 3, 3}) : nullptr;
  const Body<Real>& kernels = body<Real>();
  StrainSums strains;
  std::vector<Stage> stages;
  call.add_rows<Real>(stages, used, [&](Range range, Real*) {
    kernels.first_features_adjoint(l, w, channels, range, adjoints, coefficients);
  });
  call.add_pairs(
      stages, *pairs.schedule, [](Range) {},
      [&](int k, Visit visit) {
        kernels.first_messages_adjoint(l, w, table, channels, visit, species, adjoints, coefficients, gradients,
                                       strains.of(k));
      });
  call.run(stages);
  strains.add_to(strain);
}

// positions, row_of_atom, atom_of_row, candidates, candidate_count, species, owned; energy, strain gradient, atom
// energies, forces, [atom virials] -> the same
void run_term(Call& call) {
  std::int64_t extents[2];
  TermInputs in{};
  in.candidates.positions = call.in<double>({kAny, 3});
  in.candidates.row_of_atom = call.in<std::int32_t>({kAny});
  in.candidates.atom_of_row = call.in<std::int32_t>({kAny});
  in.candidates.candidates = call.in<std::int32_t>({kAny, kAny}, extents);
  in.candidates.width = static_cast<int>(extents[1]);
  in.candidates.candidate_count = call.in<std::int32_t>({extents[0]});
  in.species = call.in<std::int32_t>({extents[0]});
  const int owned = call.count();
  const auto table = call.attribute<ffi::Span<const double>>("table");
  in.table = table.begin();
  in.elements = call.layout.elements;
  in.width = static_cast<int>(table.size()) / (in.elements * in.elements);
  double* energy = call.out<double>({});
  double* strain = call.out<double>({3, 3});
  TermSums out{};
  out.atom_energies = call.out<double>({extents[0]});
  out.gradients.forces = call.out<double>({extents[0], 3});
  out.gradients.atom_virials = call.has_more_results() ? call.out<double>({extents[0], 3, 3}) : nullptr;
  const AddTerm add = term_named(call.attribute<std::string_view>("term"), in.width);
  struct alignas(64) Sums {
    double values[10];
  };
  constexpr int fewest_rows = 64;  // less is not worth a thread
  const int pieces = std::clamp(owned / fewest_rows, 1, 4 * call.threads());
  std::vector<Sums> sums(pieces);
  call.run(pieces, [&](int k) {
    const auto bound = [&](int n) { return static_cast<int>(static_cast<std::int64_t>(owned) * n / pieces); };
    add(in, Range{bound(k), bound(k + 1)}, out, sums[k].values);
  });
  for (const Sums& piece : sums) {
    *energy += piece.values[0];
    for (int c = 0; c < 9; ++c) strain[c] += piece.values[1 + c];
  }
}

}  // namespace

const Kernel* so3krates_kernels(std::size_t* count) {
  static const Kernel kernels[] = {
      SO3KRATES_FOR_ATTENTION(SO3KRATES_ATTENTION_KERNEL) SO3KRATES_KERNEL(pairs),
      SO3KRATES_KERNEL(first_layer),
      SO3KRATES_KERNEL(project),
      SO3KRATES_KERNEL(layer),
      SO3KRATES_KERNEL(readout),
      SO3KRATES_KERNEL(exchange_adjoint),
      SO3KRATES_KERNEL(layer_adjoint),
      SO3KRATES_KERNEL(first_layer_adjoint),
      SO3KRATES_FOR_SO3LR(SO3KRATES_SO3LR_KERNEL){
          "so3krates_term", reinterpret_cast<void*>(entry<run_term, run_term>)},  // float64 in every bundle
  };
  *count = sizeof kernels / sizeof kernels[0];
  return kernels;
}

}  // namespace so3krates::kernels
