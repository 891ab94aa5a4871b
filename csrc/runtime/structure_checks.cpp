#include "structure_checks.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "pieces.h"

namespace so3krates {
namespace {

constexpr const char* kAdvice =
    "The structure has left what the potential was trained on: use a smaller timestep, minimize first, check the order "
    "of the elements, or train on such structures";

std::string number(double value) {
  if (std::isnan(value)) return "nan";  // without a sign, which means nothing
  char text[32];
  std::snprintf(text, sizeof text, "%.6g", value);
  return text;
}

std::string vector(const double* x) {
  return "(" + number(x[0]) + ", " + number(x[1]) + ", " + number(x[2]) + ")";
}

bool is_finite(const double* x) {
  return std::isfinite(x[0]) && std::isfinite(x[1]) && std::isfinite(x[2]);
}

double square_distance(const double* a, const double* b) {
  const double x = b[0] - a[0], y = b[1] - a[1], z = b[2] - a[2];
  return x * x + y * y + z * z;
}

// Compilers vectorise this: exponents of all ones are what is not finite.
bool all_finite(const double* values, std::size_t count) {
  constexpr std::uint64_t exponent = 0x7ff0000000000000;
  std::uint64_t largest = 0;
  for (std::size_t i = 0; i < count; ++i) {
    std::uint64_t bits;
    std::memcpy(&bits, values + i, sizeof bits);
    largest |= ((bits & exponent) + (std::uint64_t{1} << 52)) & (std::uint64_t{1} << 63);
  }
  return largest == 0;
}

}  // namespace

StructureError::StructureError(const std::string& text, const std::vector<int>& atoms, const NameOf& name_of)
    : Error([&] {
        std::string message = text;
        for (const int atom : atoms) message.replace(message.find("{}"), 2, name_of(atom));
        return message;
      }()),
      text_(text),
      atoms_(atoms) {}

std::string StructureError::message(const NameOf& name_of) const {
  return StructureError(text_, atoms_, name_of).what();
}

StructureError StructureError::followed_by(const StructureError& other, const NameOf& name_of) const {
  std::vector<int> atoms = atoms_;
  atoms.insert(atoms.end(), other.atoms_.begin(), other.atoms_.end());
  return {text_ + ". " + other.text_, atoms, name_of};
}

void check_positions(const double* positions, int atoms, const int* row_of_atom,
                     const StructureError::NameOf& name_of) {
  if (all_finite(positions, 3 * static_cast<std::size_t>(atoms))) return;
  int lost = 0, first = -1;
  for (int i = 0; i < atoms; ++i) {
    if (is_finite(positions + 3 * static_cast<std::size_t>(i)) || (row_of_atom != nullptr && row_of_atom[i] < 0))
      continue;
    if (lost++ == 0) first = i;
  }
  if (lost == 0) return;
  const std::string which =
      lost == 1 ? "the position of {} is not finite: "
                : "the positions of " + std::to_string(lost) + " atoms are not finite, the first of them {} at ";
  throw StructureError(which + vector(positions + 3 * static_cast<std::size_t>(first)) +
                           " A. Look at what moved it: too large a timestep, a variable, a damaged file",
                       {first}, name_of);
}

AtomPairs near_pairs(const double* positions, const Neighbourhood& n, int threads) {
  const int pieces = pieces_of(n.owned, kListTime, threads);
  std::vector<AtomPairs> found(static_cast<std::size_t>(pieces));
  for_pieces(n.owned, pieces, [&](int piece, int begin, int end) {
    AtomPairs& pairs = found[static_cast<std::size_t>(piece)];
    for (int i = begin; i < end; ++i) {
      const double* own = positions + 3 * static_cast<std::size_t>(n.atom_of_row[i]);
      for (int k = 0; k < n.candidate_count[i]; ++k)
        if (square_distance(own, positions + 3 * static_cast<std::size_t>(n.candidates[i][k])) < kNear * kNear)
          pairs.emplace_back(n.atom_of_row[i], n.candidates[i][k]);
    }
  });
  for (int piece = 1; piece < pieces; ++piece) {
    const AtomPairs& more = found[static_cast<std::size_t>(piece)];
    found[0].insert(found[0].end(), more.begin(), more.end());
  }
  return std::move(found[0]);
}

void check_distances(const double* positions, const AtomPairs& pairs, const StructureError::NameOf& name_of) {
  double closest = kSamePlace * kSamePlace;
  std::pair<int, int> found{-1, -1};
  for (const auto& [i, j] : pairs) {
    const double square =
        square_distance(positions + 3 * static_cast<std::size_t>(i), positions + 3 * static_cast<std::size_t>(j));
    if (!(square < closest)) continue;
    closest = square;
    found = {i, j};
  }
  if (found.first < 0) return;
  throw StructureError("{} and {} are at the same place: " + number(std::sqrt(closest)) + " A apart, at " +
                           vector(positions + 3 * static_cast<std::size_t>(found.first)) +
                           " A. Take one of them out, or move them apart",
                       {found.first, found.second}, name_of);
}

double check_results(const Results& results, int owned, const int* atom_of_row, const double* positions,
                     const StructureError::NameOf& name_of) {
  double largest = 0.0;
  constexpr double kNone[3] = {};
  const bool is_checked =
      results.forces != nullptr || results.atom_energies != nullptr || results.atom_virials != nullptr;
  for (int row = 0; row < owned && is_checked; ++row) {
    const double* f = results.forces == nullptr ? kNone : results.forces + 3 * static_cast<std::size_t>(row);
    const double energy = results.atom_energies == nullptr ? 0.0 : results.atom_energies[row];
    const double square = f[0] * f[0] + f[1] * f[1] + f[2] * f[2];
    // A sum is finite only if its terms are.
    double sum = f[0] + f[1] + f[2] + energy;
    if (results.atom_virials != nullptr)
      for (int k = 0; k < 9; ++k) sum += results.atom_virials[9 * static_cast<std::size_t>(row) + k];
    if (std::isfinite(sum)) {
      largest = std::max(largest, square);
      continue;
    }
    const int atom = atom_of_row[row];
    throw StructureError("energy " + number(energy) + " eV, force " + vector(f) + " eV/A or virial on {} at " +
                             vector(positions + 3 * static_cast<std::size_t>(atom)) + " A are not finite. " + kAdvice,
                         {atom}, name_of);
  }
  const double* strain = &results.strain_gradient[0][0];
  if (!std::isfinite(results.energy) || !all_finite(strain, 9))
    throw StructureError("the total energy is " + number(results.energy) + " eV and the virial " + number(-strain[0]) +
                             ", " + number(-strain[4]) + ", " + number(-strain[8]) +
                             " eV (xx, yy, zz), which are not finite. " + kAdvice,
                         {}, name_of);
  return largest;
}

void check_energies(const Results& results, int owned, const int* species, const double* shifts, const int* atom_of_row,
                    const double* positions, const StructureError::NameOf& name_of) {
  for (int row = 0; row < owned && results.atom_energies != nullptr; ++row) {
    const double energy = results.atom_energies[row] - (shifts == nullptr ? 0.0 : shifts[species[row]]);
    if (std::abs(energy) <= kLargestEnergy) continue;
    const int atom = atom_of_row[row];
    throw StructureError("energy " + number(energy) + " eV (without the element's shift) of {} at " +
                             vector(positions + 3 * static_cast<std::size_t>(atom)) +
                             " A is beyond any physical value, " + number(kLargestEnergy) + " eV. " + kAdvice,
                         {atom}, name_of);
  }
}

}  // namespace so3krates
