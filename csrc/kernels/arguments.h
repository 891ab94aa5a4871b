// Arguments that several custom calls have in common.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

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

}  // namespace so3krates::kernels
