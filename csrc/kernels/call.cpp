#include "call.h"

namespace so3krates::kernels {
namespace {

double number(const ffi::Dictionary& attributes, const char* name) {
  const auto value = attributes.get<double>(name);
  if (!value.has_value()) throw std::invalid_argument(std::string("no number '") + name + "' among the attributes");
  return *value;
}

}  // namespace

std::int64_t integer(const ffi::Dictionary& attributes, const char* name) {
  const auto value = attributes.get<std::int64_t>(name);
  if (!value.has_value())
    throw std::invalid_argument(std::string("no whole number '") + name + "' among the attributes");
  return *value;
}

Layout layout_from(const ffi::Dictionary& attributes) {
  Layout l{};
  const int features = static_cast<int>(integer(attributes, "features")),
            heads = static_cast<int>(integer(attributes, "heads"));
  const auto degrees = attributes.get<ffi::Span<const std::int64_t>>("degrees");
  if (!degrees.has_value() || degrees->size() < 1 || degrees->size() > kMostDegrees)
    throw std::invalid_argument("'degrees' needs 1 to 4 entries");
  if (heads < 1 || heads > kQuad) throw std::invalid_argument("'heads' is not within 1 and 4");
  l.head_features = features / heads;
  l.group = heads == 3 ? 4 : heads;
  l.feature_width = l.head_features * l.group;
  l.feature_stride = rounded_up(l.feature_width, kPadding);
  l.degrees = static_cast<int>(degrees->size());
  for (int k = 0; k < l.degrees; ++k) {
    l.degree[k] = static_cast<int>(degrees->begin()[k]);
    if (l.degree[k] < 1 || l.degree[k] > 4) throw std::invalid_argument("a degree is not within 1 and 4");
    l.orders += 2 * l.degree[k] + 1;
  }
  l.block_width = features / l.degrees;
  l.block_stride = rounded_up(l.block_width, kPadding);
  l.geometric_stride = l.degrees * l.block_stride;
  l.order_stride = rounded_up(l.orders, kPadding);
  l.filter_stride = l.feature_stride + l.geometric_stride;
  l.hidden = static_cast<int>(integer(attributes, "hidden"));
  l.hidden_stride = rounded_up(2 * l.hidden, kPadding);
  l.hidden_columns = rounded_up(l.hidden, kQuad);
  l.readout = static_cast<int>(integer(attributes, "readout"));
  l.readout_stride = rounded_up(l.readout, kPadding);
  l.elements = static_cast<int>(integer(attributes, "elements"));
  l.key = l.feature_stride;
  l.value = 2 * l.feature_stride;
  l.geometric_query = 3 * l.feature_stride;
  l.geometric_key = l.geometric_query + l.geometric_stride;
  l.chi = l.geometric_key + l.geometric_stride;
  l.row_stride = l.chi + l.order_stride;
  l.message_stride = l.feature_stride + l.order_stride;
  l.cutoff_function = static_cast<Cutoff>(integer(attributes, "cutoff_function"));
  l.polynomial_order = static_cast<int>(integer(attributes, "polynomial_order"));
  l.cutoff = number(attributes, "cutoff");
  l.nodes = static_cast<int>(integer(attributes, "nodes"));
  if (l.nodes < 4) throw std::invalid_argument("'nodes' is below 4");
  l.spline_start = number(attributes, "spline_start");
  l.spline_step = number(attributes, "spline_step");
  return l;
}

}  // namespace so3krates::kernels
