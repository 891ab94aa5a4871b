// Arguments that several custom calls have in common.
#pragma once

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "body.h"
#include "call.h"

namespace so3krates::kernels {

template <typename Real>
FilterWeights<Real> filter_weights(Call& call, bool with_transpose) {
  const Layout& l = call.layout;
  FilterWeights<Real> w{};
  w.table = call.in<Real>({l.nodes, l.filter_stride});
  w.hidden_in = call.in<Real>({l.degrees + 1, l.hidden_stride});
  std::int64_t extents[2];
  w.reduce = call.in<Real>({2 * l.hidden, kAny}, extents);
  w.rank = static_cast<int>(extents[1]);
  w.rank_stride = rounded_up(w.rank, kPadding);
  if (w.rank < 1 || w.rank > l.hidden)
    throw std::invalid_argument("the filters' rank is " + std::to_string(w.rank) + ", not within 1 and " +
                                std::to_string(l.hidden));
  if (w.rank == l.hidden) w.reduce = nullptr;
  w.expand = call.in<Real>({w.rank, l.filter_stride});
  if (with_transpose) w.expand_t = call.in<Real>({l.feature_width + l.degrees * l.block_width, w.rank_stride});
  return w;
}

struct Pairs {
  const Schedule* schedule;
  std::int64_t rows;
};

template <typename Real>
Pairs pair_table(Call& call, PairTable<Real>& table) {
  std::int64_t extents[3];
  table.vectors = call.in<Real>({kAny, kAny, 3}, extents);
  table.neighbours = call.in<std::int32_t>({extents[0], extents[1]});
  table.ends = call.in<std::int32_t>({extents[0], kRounds});
  table.order = call.in<std::int32_t>({extents[0]});
  table.slots = static_cast<int>(extents[1]);
  return {reinterpret_cast<const Schedule*>(call.in<std::int32_t>({kScheduleEntries})), extents[0]};
}

template <typename Real>
ExchangeWeights<Real> exchange_weights(Call& call) {
  const Layout& l = call.layout;
  const std::int64_t columns = l.feature_stride + kQuad;
  ExchangeWeights<Real> w{};
  w.kernel = call.in<Real>({l.feature_width + l.degrees, columns});
  w.bias = call.in<Real>({columns});
  return w;
}

// What a layer's messages are made of: x, chi, projections, pairs, owned.
template <typename Real>
struct LayerInput {
  const Real *x, *chi, *projections;
  PairTable<Real> table{};
  Pairs pairs;
  int owned;

  explicit LayerInput(Call& call)
      : x(call.in<Real>({kAny, call.layout.feature_stride})),
        chi(call.in<Real>({kAny, call.layout.order_stride})),
        projections(call.in<Real>({kAny, call.layout.row_stride})),
        pairs(pair_table(call, table)),
        owned(call.count()) {}

  // Rows of `attended_x` and `attended_chi` become those of x and chi, with the messages added. All arguments have to
  // stay until the stages have run.
  void add_messages(std::vector<Stage>& stages, Call& call, const FilterWeights<Real>& w, Real* attended_x,
                    Real* attended_chi) const {
    const Layout& l = call.layout;
    const auto start = [this, &l, attended_x, attended_chi](Range range) {
      for (int p = range.begin; p < range.end; ++p) {
        const std::size_t i = table.order[p];
        std::copy_n(x + i * l.feature_stride, l.feature_stride, attended_x + i * l.feature_stride);
        std::copy_n(chi + i * l.order_stride, l.order_stride, attended_chi + i * l.order_stride);
      }
    };
    call.add_pairs(stages, *pairs.schedule, start, [this, &call, &l, &w, attended_x, attended_chi](int, Visit visit) {
      body<Real>().messages(l, w, table, visit, projections, attended_x, attended_chi, call.scratch<Real>(0));
    });
  }
};

}  // namespace so3krates::kernels
