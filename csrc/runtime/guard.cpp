#include "guard.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "bundle_outputs.h"
#include "pieces.h"

namespace so3krates {
namespace {

using namespace json;

double square_distance(const double* positions, int i, int j) {
  const double *a = positions + 3 * static_cast<std::size_t>(i), *b = positions + 3 * static_cast<std::size_t>(j);
  const double x = b[0] - a[0], y = b[1] - a[1], z = b[2] - a[2];
  return x * x + y * y + z * z;
}

bool is_positive(const Json& value) {
  return value.is_number() && std::isfinite(value.get<double>()) && value.get<double>() > 0.0;
}

std::string number(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.4g", value);
  return text;
}

Output output_of_system(const char* meaning, Ranks ranks) {
  Output output;
  output.unit = "1";
  output.meaning = meaning;
  output.ranks = ranks;
  output.by_host = true;
  return output;
}

}  // namespace

void read_guard(const Json& manifest, Bundle& bundle) {
  if (!manifest.contains("guard")) return;
  const Json &guard = manifest["guard"], &distances = member(guard, "distances"),
             &force = member(guard, "largest_force");
  const std::size_t elements = bundle.elements.size();
  const std::string size = std::to_string(elements);
  const std::string where = "manifest: \"guard\" has not " + size + " x " + size +
                            " distances, positive or null and the same both ways, and largest_force, positive or null";
  need(guard.is_object() && distances.is_array() && distances.size() == elements, where);
  need(force.is_null() || is_positive(force), where);
  for (const Json& row : distances) {
    need(row.is_array() && row.size() == elements, where);
    for (const Json& distance : row) {
      need(distance.is_null() || is_positive(distance), where);
      bundle.limits.distances.push_back(distance.is_null() ? 0.0 : distance.get<double>());
    }
  }
  for (std::size_t i = 0; i < elements; ++i)
    for (std::size_t j = 0; j < i; ++j)
      need(bundle.limits.distances[i * elements + j] == bundle.limits.distances[j * elements + i], where);
  if (!force.is_null()) bundle.limits.largest_force = force.get<double>();
  for (const char* name : {kClosePairs, kClosestRatio})
    need(bundle.outputs.count(name) == 0, "manifest: output " + quoted(name) + " is the guard's");
  bundle.outputs[kClosePairs] =
      output_of_system("pairs of atoms nearer than 0.9 of the shortest distance in the training data", Ranks::sum);
  bundle.outputs[kClosestRatio] = output_of_system(
      "smallest distance of a pair by the shortest in the training data; 1 where no pair is nearer", Ranks::min);
}

void Guard::keep_pairs(const double* positions, const Neighbourhood& n, int threads) {
  pairs_ = {};
  std::vector<double> reaches, inverses;  // squares
  for (const double distance : limits_.distances) {
    reaches.push_back(distance > 0.0 ? (distance + n.skin) * (distance + n.skin) : 0.0);
    inverses.push_back(distance > 0.0 ? 1.0 / (distance * distance) : 0.0);
  }
  if (reaches.empty()) return;
  const int pieces = pieces_of(n.owned, kListTime, threads);
  std::vector<Pairs> kept(static_cast<std::size_t>(pieces));
  for_pieces(n.owned, pieces, [&](int piece, int begin, int end) {
    Pairs& pairs = kept[static_cast<std::size_t>(piece)];
    for (int row = begin; row < end; ++row) {
      const int i = n.atom_of_row[row];
      const std::size_t kind = static_cast<std::size_t>(n.species[row]) * elements_;
      for (int k = 0; k < n.candidate_count[row]; ++k) {
        const int j = n.candidates[row][k], other = n.row_of_atom[j];
        const std::size_t pair = kind + static_cast<std::size_t>(n.species[other]);
        if (!(square_distance(positions, i, j) < reaches[pair])) continue;
        const bool is_own = other < n.owned && n.atom_of_row[other] == j;  // in both atoms' lists
        if (!is_own)
          pairs.half.push_back({i, j, static_cast<float>(inverses[pair])});
        else if (row < other)
          pairs.whole.push_back({i, j, static_cast<float>(inverses[pair])});
      }
    }
  });
  for (const Pairs& more : kept) {
    pairs_.whole.insert(pairs_.whole.end(), more.whole.begin(), more.whole.end());
    pairs_.half.insert(pairs_.half.end(), more.half.begin(), more.half.end());
  }
}

Sighting Guard::look(const double* positions, int threads) const {
  struct Seen {
    double closest = 1.0;
    const Pair* nearest = nullptr;
    std::size_t near = 0;
  };
  Sighting found;
  Seen seen;
  const auto pass = [&](const std::vector<Pair>& pairs, double weight) {
    const int count = static_cast<int>(pairs.size()), pieces = pieces_of(pairs.size(), kPairTime, threads);
    std::vector<Seen> of(static_cast<std::size_t>(pieces));
    for_pieces(count, pieces, [&](int piece, int begin, int end) {
      Seen own;
      for (int k = begin; k < end; ++k) {
        const Pair& pair = pairs[static_cast<std::size_t>(k)];
        const double square = square_distance(positions, pair.i, pair.j) * static_cast<double>(pair.inverse);
        own.near += square < kGuardDistance * kGuardDistance ? 1 : 0;
        if (square >= own.closest) continue;
        own.closest = square;
        own.nearest = &pair;
      }
      of[static_cast<std::size_t>(piece)] = own;
    });
    for (const Seen& own : of) {
      found.close_pairs += weight * static_cast<double>(own.near);
      if (own.closest < seen.closest) seen = own;
    }
  };
  pass(pairs_.whole, 1.0);
  pass(pairs_.half, 0.5);
  if (seen.nearest == nullptr) return found;
  found.closest_ratio = std::sqrt(seen.closest);
  found.first = seen.nearest->i;
  found.second = seen.nearest->j;
  found.distance = std::sqrt(square_distance(positions, seen.nearest->i, seen.nearest->j));
  found.seen_distance = 1.0 / std::sqrt(static_cast<double>(seen.nearest->inverse));
  return found;
}

void Guard::look_at_forces(Sighting& sighting, double square, const double* forces, const int* atom_of_row,
                           int owned) const {
  if (limits_.largest_force == 0.0) return;
  sighting.seen_force = limits_.largest_force;
  sighting.force = std::sqrt(square);
  if (!sighting.has_large_force()) return;
  double largest = 0.0;
  for (int row = 0; row < owned; ++row) {
    const double* f = forces + 3 * static_cast<std::size_t>(row);
    const double own = f[0] * f[0] + f[1] * f[1] + f[2] * f[2];
    if (own <= largest) continue;
    largest = own;
    sighting.force_atom = atom_of_row[row];
  }
}

bool Sighting::has_close_pair() const {
  return closest_ratio < kGuardDistance;
}

bool Sighting::has_large_force() const {
  return seen_force > 0.0 && force > kGuardForce * seen_force;
}

StructureError Sighting::about_pair(const StructureError::NameOf& name_of) const {
  return StructureError("{} and {} are " + number(distance) + " A apart, nearer than " + number(kGuardDistance) +
                            " of the " + number(seen_distance) +
                            " A that such pairs have at least in the training data, so the potential extrapolates",
                        {first, second}, name_of);
}

StructureError Sighting::about_force(const StructureError::NameOf& name_of) const {
  return StructureError("the force on {} is " + number(force) + " eV/A, more than " + number(kGuardForce) +
                            " times the " + number(seen_force) +
                            " eV/A that forces have at most in the training data, so the potential extrapolates",
                        {force_atom}, name_of);
}

}  // namespace so3krates
