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
  const auto degrees = attributes.get<ffi::Span<const std::int64_t>>("degrees");
  if (!degrees.has_value()) throw std::invalid_argument("no 'degrees' among the attributes");
  const auto size = [&](const char* name) { return static_cast<int>(integer(attributes, name)); };
  Layout l =
      widths_of({size("features"), size("heads"), {degrees->begin(), degrees->end()}, size("hidden"), size("readout")});
  l.elements = size("elements");
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
