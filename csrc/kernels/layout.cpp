#include "layout.h"

#include <stdexcept>

namespace so3krates::kernels {

Layout widths_of(const NetworkSizes& network) {
  Layout l{};
  const int degrees = static_cast<int>(network.degrees.size());
  if (degrees < 1 || degrees > kMostDegrees) throw std::invalid_argument("'degrees' needs 1 to 4 entries");
  if (network.heads < 1 || network.heads > kQuad) throw std::invalid_argument("'heads' is not within 1 and 4");
  l.head_features = network.features / network.heads;
  l.group = network.heads == 3 ? 4 : network.heads;
  l.feature_width = l.head_features * l.group;
  l.feature_stride = rounded_up(l.feature_width, kPadding);
  l.degrees = degrees;
  for (int k = 0; k < degrees; ++k) {
    l.degree[k] = static_cast<int>(network.degrees[k]);
    if (l.degree[k] < 1 || l.degree[k] > 4) throw std::invalid_argument("a degree is not within 1 and 4");
    l.orders += 2 * l.degree[k] + 1;
  }
  l.block_width = network.features / degrees;
  l.block_stride = rounded_up(l.block_width, kPadding);
  l.geometric_stride = degrees * l.block_stride;
  l.order_stride = rounded_up(l.orders, kPadding);
  l.filter_stride = l.feature_stride + l.geometric_stride;
  l.hidden = network.hidden;
  l.hidden_stride = rounded_up(2 * l.hidden, kPadding);
  l.readout = network.readout;
  l.readout_stride = rounded_up(l.readout, kPadding);
  l.key = l.feature_stride;
  l.value = 2 * l.feature_stride;
  l.geometric_query = 3 * l.feature_stride;
  l.geometric_key = l.geometric_query + l.geometric_stride;
  l.chi = l.geometric_key + l.geometric_stride;
  l.row_stride = l.chi + l.order_stride;
  l.message_stride = l.feature_stride + l.order_stride;
  return l;
}

}  // namespace so3krates::kernels
