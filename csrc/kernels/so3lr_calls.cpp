// The kernels of SO3LR as XLA custom calls. Arguments come by position as so3krates_export/so3lr_fused_body.py gives
// them; arrays that a call fills come last and share their memory with the results.
#include "so3lr_calls.h"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <vector>

#include "arguments.h"
#include "body.h"
#include "call.h"
#include "cells.h"
#include "entry.h"
#include "so3lr.h"

namespace so3krates::kernels {
namespace {

void check_features(const Layout& l) {
  if (l.feature_width != l.feature_stride)
    throw std::invalid_argument("rows of " + std::to_string(l.feature_width) + " features are padded to " +
                                std::to_string(l.feature_stride) +
                                ", and kernels of SO3LR take none: export the "
                                "model again");
}

template <typename Real>
NormalisedWeights<Real> normalised_weights(Call& call, bool with_transposes) {
  const Layout& l = call.layout;
  check_features(l);
  const std::int64_t width = l.feature_stride;
  NormalisedWeights<Real> w{};
  w.scale_1 = call.in<Real>({width});
  w.bias_1 = call.in<Real>({width});
  w.residual_in = call.in<Real>({width, width});
  w.in_bias = call.in<Real>({width});
  w.residual_out = call.in<Real>({width, width});
  w.out_bias = call.in<Real>({width});
  w.exchange = exchange_weights<Real>(call);
  w.scale_2 = call.in<Real>({width});
  w.bias_2 = call.in<Real>({width});
  if (with_transposes) {
    w.residual_in_t = call.in<Real>({width, width});
    w.residual_out_t = call.in<Real>({width, width});
    w.exchange.kernel_t = call.in<Real>({width + l.degrees, width + kQuad});
  }
  return w;
}

// filter weights, weights of the atoms' part, x, chi, projections, pairs, owned; attended x and chi, next x and chi ->
// the same
template <typename Real>
void run_normalised_layer(Call& call) {
  const Layout& l = call.layout;
  const FilterWeights<Real> w = filter_weights<Real>(call, false);
  const NormalisedWeights<Real> atoms = normalised_weights<Real>(call, false);
  const LayerInput<Real> input(call);
  const std::int64_t rows = input.pairs.rows;
  Real* attended_x = call.out<Real>({rows, l.feature_stride});
  Real* attended_chi = call.out<Real>({rows, l.order_stride});
  Real* next_x = call.out<Real>({rows, l.feature_stride});
  Real* next_chi = call.out<Real>({rows, l.order_stride});
  std::vector<Stage> stages;
  input.add_messages(stages, call, w, attended_x, attended_chi);
  call.add_rows<Real>(stages, input.owned, [&](Range range, Real* scratch) {
    body<Real>().normalised_exchange(l, atoms, range, attended_x, attended_chi, next_x, next_chi, scratch);
  });
  call.run(stages);
}

// weights of the atoms' part with transposes, attended x and chi, owned; adjoints -> the same
template <typename Real>
void run_normalised_exchange_adjoint(Call& call) {
  const Layout& l = call.layout;
  const NormalisedWeights<Real> w = normalised_weights<Real>(call, true);
  const Real* x = call.in<Real>({kAny, l.feature_stride});
  const Real* chi = call.in<Real>({kAny, l.order_stride});
  const int owned = call.count();
  Real* adjoints = call.out<Real>({kAny, 1, l.message_stride});
  call.for_rows<Real>(owned, [&](Range range, Real* scratch) {
    body<Real>().normalised_exchange_adjoint(l, w, range, x, chi, adjoints, scratch);
  });
}

// hidden kernel and bias, [its transpose], output kernels and biases
template <typename Real>
HeadWeights<Real> head_weights(Call& call, bool with_transpose) {
  const Layout& l = call.layout;
  check_features(l);
  HeadWeights<Real> w{};
  std::int64_t extents[2];
  w.hidden = call.in<Real>({l.feature_stride, kAny}, extents);
  w.stride = static_cast<int>(extents[1]);
  w.bias = call.in<Real>({w.stride});
  if (with_transpose) w.hidden_t = call.in<Real>({w.stride, l.feature_stride});
  w.out = call.in<Real>({l.elements, w.stride});
  w.out_bias = call.in<Real>({l.elements, kQuad});
  const auto ends = call.attribute<ffi::Span<const std::int64_t>>("ends");
  std::int64_t before = 0;
  for (int head = 0; head < kHeads; ++head) {
    const std::int64_t end = ends.size() == kHeads ? ends[head] : -1;
    if (end < before || end % kPadding != 0 || end > w.stride)
      throw std::invalid_argument("'ends' of the heads do not fit: export the model again");
    w.end[head] = static_cast<int>(before = end);
  }
  if (w.stride > body<Real>().most_head_columns(l))
    throw std::invalid_argument("the heads have " + std::to_string(w.stride) + " hidden numbers, more than fit");
  return w;
}

// head weights, x, species, owned; atom energies, raw charges, ratios, forces -> charge sums, network's energy, strain
// gradient, the same
template <typename Real>
void run_heads(Call& call) {
  const Layout& l = call.layout;
  const HeadWeights<Real> w = head_weights<Real>(call, false);
  const Real* x = call.in<Real>({kAny, l.feature_stride});
  const auto* species = call.in<std::int32_t>({kAny});
  const int owned = call.count();
  double* sums = call.out<double>({2});
  double* energy = call.out<double>({});
  double* strain = call.out<double>({3, 3});
  double* values[kHeads];
  for (double*& head : values) head = call.out<double>({kAny});
  double* forces = call.out<double>({kAny, 3});
  call.for_rows<Real>(owned, [&](Range range, Real* scratch) {
    body<Real>().heads(l, w, range, x, species, values, scratch);
    for (int i = range.begin; i < range.end; ++i) values[2][i] = std::abs(values[2][i]);
    std::fill(forces + 3 * static_cast<std::size_t>(range.begin), forces + 3 * static_cast<std::size_t>(range.end),
              0.0);
  });
  *energy = sums[0] = 0;
  sums[1] = owned;
  for (int i = 0; i < owned; ++i) {
    *energy += values[0][i];
    sums[0] += values[1][i];
  }
  std::fill_n(strain, 9, 0.0);
}

// head weights with transpose, x, species, slopes of charges and of ratios, sum of the first, charge sums, owned;
// adjoints -> the same
template <typename Real>
void run_heads_adjoint(Call& call) {
  const Layout& l = call.layout;
  const HeadWeights<Real> w = head_weights<Real>(call, true);
  const Real* x = call.in<Real>({kAny, l.feature_stride});
  const auto* species = call.in<std::int32_t>({kAny});
  const auto* charge_slopes = call.in<double>({kAny});
  const auto* ratio_slopes = call.in<double>({kAny});
  const double sum = *call.in<double>({});
  const double atoms = call.in<double>({2})[1];
  const int owned = call.count();
  Real* adjoints = call.out<Real>({kAny, 1, l.message_stride});
  call.for_rows<Real>(owned, [&](Range range, Real* scratch) {
    body<Real>().heads_adjoint(l, w, range, x, species, charge_slopes, sum / std::max(atoms, 1.0), ratio_slopes,
                               adjoints, scratch);
  });
}

template <std::size_t count>
void numbers(const Call& call, const char* name, double (&to)[count]) {
  const auto found = call.attribute<ffi::Span<const double>>(name);
  if (found.size() != count)
    throw std::invalid_argument(std::string("'") + name + "' has not " + std::to_string(count) +
                                " numbers: export the model again");
  std::copy_n(found.begin(), count, to);
}

// tables, elements, positions, row_of_atom, atom_of_row, species, owned, order, rows in use, atoms in use, charges,
// ratios; strain gradient, atom energies, forces, slopes of charges and of ratios -> energies, sum of the
// charges' slopes, the same
template <typename Real>
void run_long_pairs(Call& call) {
  std::int64_t extents[3];
  LongPairs<Real> in{};
  const Real* tables = call.in<Real>({2, kAny, kQuad}, extents);
  in.cells = static_cast<int>(extents[1]) - 1;
  for (int part = 0; part < 2; ++part) in.tables[part] = tables + part * extents[1] * kQuad;
  const Real* elements = call.in<Real>({call.layout.elements, 2});
  in.positions = call.in<double>({kAny, 3});
  const auto* row_of_atom = call.in<std::int32_t>({kAny});
  in.atom_of_row = call.in<std::int32_t>({kAny}, extents);
  const auto* species = call.in<std::int32_t>({extents[0]});
  const int owned = call.count();
  const auto* order = call.in<std::int32_t>({extents[0]});
  const int used = call.count(), atoms = call.count();
  const auto* charges = call.in<double>({extents[0]});
  const auto* ratios = call.in<double>({extents[0]});
  auto* energies = call.out<double>({2});
  double* slope_sum = call.out<double>({});
  double* strain = call.out<double>({3, 3});
  LongSums out{};
  out.atom_energies = call.out<double>({extents[0]});
  out.forces = call.out<double>({extents[0], 3});
  out.charge_slopes = call.out<double>({extents[0]});
  out.ratio_slopes = call.out<double>({extents[0]});
  numbers(call, "ranges", in.range);
  double scales[2];
  numbers(call, "scales", scales);
  in.per_square_angstrom = scales[0];
  in.radius = scales[1];
  numbers(call, "spread", in.spread);
  if (in.cells < 1 || !(in.range[0] > 0 && in.range[1] > 0))
    throw std::invalid_argument("the tables of long-range pairs are empty: export the model again");

  std::vector<Real> rows(static_cast<std::size_t>(std::max(used, 1)) * kQuad);
  in.rows = rows.data();
  const Cells cells(in.positions, row_of_atom, atoms, in.atom_of_row, owned, std::max(in.range[0], in.range[1]));
  in.atoms = cells.atoms<Real>();
  std::vector<Real> values(3 * static_cast<std::size_t>(cells.places()));
  for (int k = 0; k < 3; ++k) in.atoms.values[k] = values.data() + k * static_cast<std::size_t>(cells.places());
  constexpr int rows_of_piece = 32;  // whatever the threads: sums are added up in the same order
  const int pieces = std::max(owned / rows_of_piece, 1);
  const auto bound = [pieces](int count, int k) {
    return static_cast<int>(static_cast<std::int64_t>(count) * k / pieces);
  };
  std::vector<LongTotals> totals(pieces);
  const auto fill = [&](int k) {
    for (int i = bound(used, k); i < bound(used, k + 1); ++i) {
      const Real* element = elements + 2 * species[i];
      Real* row = rows.data() + static_cast<std::size_t>(i) * kQuad;
      row[0] = static_cast<Real>(charges[i]);
      row[1] = static_cast<Real>(ratios[i]) * element[0];
      row[2] = element[1];
      row[3] = element[0];
    }
  };
  const auto place = [&](int k) {
    for (int p = bound(cells.places(), k); p < bound(cells.places(), k + 1); ++p)
      for (int v = 0; v < 3; ++v)
        values[static_cast<std::size_t>(v) * cells.places() + p] =
            rows[static_cast<std::size_t>(row_of_atom[cells.atom(p)]) * kQuad + v];
  };
  const auto visit = [&](int k) {
    LongTotals own{};  // apart from those of other threads
    body<Real>().long_pairs(in, order, Range{bound(owned, k), bound(owned, k + 1)}, out, own);
    totals[k] = own;
  };
  call.run({{pieces, fill}, {pieces, place}, {pieces, visit}});
  std::fill_n(energies, 2, 0.0);
  *slope_sum = 0;
  for (const LongTotals& piece : totals) {
    for (int part = 0; part < 2; ++part) energies[part] += piece.energies[part];
    *slope_sum += piece.slopes;
    for (int c = 0; c < 9; ++c) strain[c] += piece.strain[c];
  }
}

}  // namespace

#define SO3KRATES_DEFINE_SO3LR(name)                            \
  XLA_FFI_Error* call_##name(XLA_FFI_CallFrame* frame) {        \
    return entry<run_##name<float>, run_##name<double>>(frame); \
  }
SO3KRATES_FOR_SO3LR(SO3KRATES_DEFINE_SO3LR)

}  // namespace so3krates::kernels
