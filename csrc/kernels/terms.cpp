#include "terms.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

namespace so3krates::kernels {
namespace {

struct PairValue {
  double energy, slope;  // eV, eV/A
};

// so3krates/model/zbl.py. Columns of the table: Z_i Z_j e^2, 1/a, inner and outer radius, A, B, C of the switch.
struct Zbl {
  static constexpr const char* kName = "zbl";
  static constexpr int kOuter = 3;  // the column with the distance from which the term is zero
  static bool has(int width) { return width == 7; }

  static PairValue at(const double* t, int, double d) {
    constexpr double share[4] = {0.18175, 0.50986, 0.28022, 0.02817}, decay[4] = {3.19980, 0.94229, 0.40290, 0.20162};
    double screening = 0, falling = 0;
    for (int k = 0; k < 4; ++k) {
      const double rate = decay[k] * t[1], part = share[k] * std::exp(-rate * d);
      screening += part;
      falling += rate * part;
    }
    const double coulomb = t[0] / d;
    const double beyond = std::max(d - t[2], 0.0), square = beyond * beyond;
    return {coulomb * screening + square * beyond * (t[4] + t[5] * beyond) + t[6],
            -coulomb * (screening / d + falling) + square * (3 * t[4] + 4 * t[5] * beyond)};
  }
};

// so3krates/model/fitted_zbl.py. Columns: Z_i Z_j e^2, inverse length of the screening, outer radius, envelope, then
// for each exponential its weight and its decay.
struct FittedZbl {
  static constexpr const char* kName = "fitted_zbl";
  static constexpr int kOuter = 2, kExponentials = 4;
  static bool has(int width) { return width > kExponentials && width % 2 == 0; }

  static PairValue at(const double* t, int width, double d) {
    double screening = 0, falling = 0;
    for (int k = kExponentials; k < width; k += 2) {
      const double rate = t[k + 1] * t[1], part = t[k] * std::exp(-rate * d);
      screening += part;
      falling += rate * part;
    }
    // The switch 1 / (1 + exp(1 / (1 - c) - 1 / c)), c = d / outer.
    const double c = d / t[2], rest = 1 - c;
    const double on = 1 / (1 + std::exp(1 / rest - 1 / c));
    const double on_slope = -on * (1 - on) * (1 / (rest * rest) + 1 / (c * c)) / t[2];
    const double x = std::min(d / t[3], 1.0);
    const double envelope = 1 - x * x * x * (10 - x * (15 - 6 * x));
    const double envelope_slope = -30 * x * x * (1 - x) * (1 - x) / t[3];
    const double coulomb = t[0] / d, both = on * envelope;
    return {coulomb * both * screening,
            coulomb * ((on_slope * envelope + on * envelope_slope - both / d) * screening - both * falling)};
  }
};

template <typename Form>
void add_term(const TermInputs& in, Range range, const TermSums& out, double* sums) {
  const Candidates& c = in.candidates;
  double cutoff = 0;
  for (int k = 0; k < in.elements * in.elements; ++k) cutoff = std::max(cutoff, in.table[k * in.width + Form::kOuter]);
  const double square = cutoff * cutoff;
  for (int i = range.begin; i < range.end; ++i) {
    const double* own = c.positions + 3 * static_cast<std::size_t>(c.atom_of_row[i]);
    const std::int32_t* list = c.candidates + static_cast<std::size_t>(i) * c.width;
    const double x = own[0], y = own[1], z = own[2];
    for (int k = 0, count = c.candidate_count[i]; k < count; ++k) {
      const double* other = c.positions + 3 * static_cast<std::size_t>(list[k]);
      const double r[3] = {other[0] - x, other[1] - y, other[2] - z};
      const double d2 = r[0] * r[0] + r[1] * r[1] + r[2] * r[2];
      if (d2 >= square) continue;
      const int first = in.species[i], second = in.species[c.row_of_atom[list[k]]];
      const double* numbers = in.table + (static_cast<std::size_t>(first) * in.elements + second) * in.width;
      const double d = std::sqrt(d2);
      if (d >= numbers[Form::kOuter]) continue;
      const PairValue value = Form::at(numbers, in.width, d);
      out.atom_energies[i] += 0.5 * value.energy;
      sums[0] += 0.5 * value.energy;
      for (int b = 0; b < 3; ++b) {
        const double pull = value.slope / d * r[b];
        out.gradients.forces[3 * static_cast<std::size_t>(i) + b] += pull;
        for (int a = 0; a < 3; ++a) {
          const double moment = 0.5 * r[a] * pull;
          sums[1 + 3 * a + b] += moment;
          if (out.gradients.atom_virials != nullptr)
            out.gradients.atom_virials[9 * static_cast<std::size_t>(i) + static_cast<std::size_t>(3 * a + b)] -= moment;
        }
      }
    }
  }
}

struct Known {
  const char* name;
  bool (*has)(int width);
  AddTerm add;
};

// A new term of the CPU's own kernels is a structure like Zbl and an entry here.
constexpr Known kKnown[] = {{Zbl::kName, Zbl::has, add_term<Zbl>},
                            {FittedZbl::kName, FittedZbl::has, add_term<FittedZbl>}};

}  // namespace

AddTerm term_named(std::string_view name, int width) {
  for (const Known& known : kKnown)
    if (name == known.name && known.has(width)) return known.add;
  throw std::invalid_argument("no term '" + std::string(name) + "' with " + std::to_string(width) +
                              " numbers for a pair of elements: export the model again");
}

}  // namespace so3krates::kernels
