#include "deck_baselines.h"

#include <lammps/atom.h>
#include <lammps/domain.h>
#include <lammps/force.h>
#include <lammps/pair.h>
#include <lammps/update.h>

#include <algorithm>
#include <cmath>
#include <cstring>

using namespace LAMMPS_NS;

namespace so3krates::deck {
namespace {

constexpr double CHARGE_TOLERANCE = 1e-6;  // e
constexpr const char *LONG = "coul/long", *CUT = "coul/cut";
constexpr double ROOM = 10.0;  // A, by which an open box may grow
// Of the packages that compute a style in their own way.
constexpr const char* SUFFIXES[] = {"", "/omp", "/opt", "/intel", "/gpu", "/kk"};

// A sum over images needs some: in an open box the same energy is a sum over pairs.
bool is_open(LAMMPS* lmp) {
  const Domain& box = *lmp->domain;
  return !(box.xperiodic || box.yperiodic || box.zperiodic);
}

// Words of pair_style in this box.
std::string style_in(LAMMPS* lmp, const Baseline& baseline) {
  const std::string& words = baseline.pair_style;
  const std::size_t place = words.substr(0, words.find(' ')).rfind(LONG);
  if (baseline.kspace_style.empty() || place == std::string::npos || !is_open(lmp)) return words;
  const Domain& box = *lmp->domain;
  const double widths[] = {box.boxhi[0] - box.boxlo[0], box.boxhi[1] - box.boxlo[1], box.boxhi[2] - box.boxlo[2]};
  const double diagonal = std::sqrt(widths[0] * widths[0] + widths[1] * widths[1] + widths[2] * widths[2]);
  return words.substr(0, place) + CUT + fmt::format(" {:.0f}", std::ceil(diagonal + ROOM));
}

std::string name_of(const std::string& words) {
  return words.substr(0, words.find(' '));
}

bool is_overlay(LAMMPS* lmp) {
  return std::strncmp(lmp->force->pair_style, "hybrid/overlay", std::strlen("hybrid/overlay")) == 0;
}

// The part of hybrid/overlay with this name, whichever package computes it.
Pair* part_of(LAMMPS* lmp, const std::string& name) {
  for (const char* suffix : SUFFIXES)
    for (const int nth : {0, 1})  // 0: the only one
      if (Pair* part = lmp->force->pair_match(name + suffix, 1, nth)) return part;
  return nullptr;
}

// Types of all ranks' atoms whose charge is another one, in words.
std::string wrong_charges(LAMMPS* lmp, const Baseline& baseline, const std::vector<std::string>& symbols) {
  const Atom& atom = *lmp->atom;
  if (baseline.charges.empty()) return "";
  if (!atom.q_flag) return "atoms have no charges";
  std::vector<double> found(2 * symbols.size(), 0.0);  // of each type: atoms, sum of their charges
  for (int i = 0; i < atom.nlocal; i++) {
    const auto charge = baseline.charges.find(symbols[atom.type[i]]);
    if (charge == baseline.charges.end() || std::abs(atom.q[i] - charge->second) <= CHARGE_TOLERANCE) continue;
    double* const sums = &found[2 * static_cast<std::size_t>(atom.type[i])];
    sums[0] += 1.0;
    sums[1] += atom.q[i];
  }
  MPI_Allreduce(MPI_IN_PLACE, found.data(), static_cast<int>(found.size()), MPI_DOUBLE, MPI_SUM, lmp->world);
  for (std::size_t type = 1; type < symbols.size(); type++)
    if (found[2 * type] > 0.0)
      return fmt::format("{:.0f} atoms of type {} ({}) have a charge of {:g} e on average in place of {:g} e",
                         found[2 * type], type, symbols[type], found[2 * type + 1] / found[2 * type],
                         baseline.charges.at(symbols[type]));
  return "";
}

// What a deck lacks of one baseline, in words.
std::string missing(LAMMPS* lmp, const Baseline& baseline, const std::vector<std::string>& symbols) {
  if (!is_overlay(lmp)) return fmt::format("pair_style is {}", lmp->force->pair_style);
  const std::string name = name_of(style_in(lmp, baseline));
  const Pair* part = part_of(lmp, name);
  if (part == nullptr) return fmt::format("hybrid/overlay has no {}", name);
  for (std::size_t i = 1; i < symbols.size(); i++)
    for (std::size_t j = i; j < symbols.size(); j++)
      if (!symbols[i].empty() && !symbols[j].empty() && !(part->allocated && part->setflag[i][j]))
        return fmt::format("{} has no pair_coeff for types {} and {}", name, i, j);
  if (!baseline.kspace_style.empty() && !is_open(lmp) && lmp->force->kspace == nullptr)
    return "there is no kspace_style";
  return wrong_charges(lmp, baseline, symbols);
}

// Words of pair_coeff of a style that names the elements of all types: those of this deck.
std::string with_symbols(const Baseline& baseline, const std::string& words, const std::vector<std::string>& symbols) {
  std::string own, deck;
  for (const std::string& element : baseline.elements) own += " " + element;
  for (std::size_t type = 1; type < symbols.size(); type++)
    deck += " " + (symbols[type].empty() ? "NULL" : symbols[type]);
  const std::string padded = " " + words;
  if (own.empty() || padded.size() < own.size() || padded.compare(padded.size() - own.size(), own.size(), own) != 0)
    return words;
  const std::string whole = padded.substr(0, padded.size() - own.size()) + deck;
  return whole.substr(1);
}

void add_coefficients(LAMMPS* lmp, const Baseline& baseline, const std::vector<std::string>& symbols,
                      std::vector<std::string>& lines) {
  const std::string name = name_of(style_in(lmp, baseline));
  const auto add = [&](const std::string& types, const std::string& words) {
    lines.push_back(fmt::format("pair_coeff {} {}{}{}", types, name, words.empty() ? "" : " ", words));
  };
  for (const auto& coefficients : baseline.pair_coeff) {
    if (coefficients.pair.empty()) {
      add("* *", with_symbols(baseline, coefficients.words, symbols));
      continue;
    }
    const std::string &a = coefficients.pair[0], &b = coefficients.pair[1];
    for (std::size_t i = 1; i < symbols.size(); i++)
      for (std::size_t j = i; j < symbols.size(); j++)
        if ((symbols[i] == a && symbols[j] == b) || (symbols[i] == b && symbols[j] == a))
          add(fmt::format("{} {}", i, j), coefficients.words);
  }
}

// All that a deck says of the potential and its baselines.
std::vector<std::string> lines_of(LAMMPS* lmp, const Bundle& bundle, const OwnLines& own) {
  std::vector<std::string> lines;
  std::string style = "pair_style hybrid/overlay so3krates" + (own.options.empty() ? "" : " " + own.options);
  std::string potential = "pair_coeff * * so3krates " + own.file;
  for (std::size_t type = 1; type < own.symbols.size(); type++)
    potential += " " + (own.symbols[type].empty() ? "NULL" : own.symbols[type]);
  bool asks_for_charges = !lmp->atom->q_flag;
  for (const Baseline& baseline : bundle.baselines) {
    style += " " + style_in(lmp, baseline);
    if (!baseline.charges.empty() && asks_for_charges) lines.emplace_back("fix charges all property/atom q ghost yes");
    asks_for_charges = asks_for_charges && baseline.charges.empty();
    for (std::size_t type = 1; type < own.symbols.size(); type++)
      if (const auto charge = baseline.charges.find(own.symbols[type]); charge != baseline.charges.end())
        lines.push_back(fmt::format("set type {} charge {}", type, charge->second));
  }
  lines.push_back(style);
  lines.push_back(potential);
  for (const Baseline& baseline : bundle.baselines) add_coefficients(lmp, baseline, own.symbols, lines);
  for (const Baseline& baseline : bundle.baselines)
    if (!baseline.kspace_style.empty() && !is_open(lmp)) lines.push_back("kspace_style " + baseline.kspace_style);
  return lines;
}

}  // namespace

std::string missing_baselines(LAMMPS* lmp, const Bundle& bundle, const OwnLines& own) {
  for (const Baseline& baseline : bundle.baselines) {
    const std::string learnt =
        fmt::format("{} has learnt what is left beside its baseline ({})", bundle.path, baseline.meaning);
    if (baseline.pair_style.empty())
      return learnt +
             ", for which its training names no pair_style of LAMMPS. Use the potential in Python, or train it with "
             "[baseline] pair_style";
    const std::string lack = missing(lmp, baseline, own.symbols);
    if (lack.empty()) continue;
    std::string text =
        fmt::format("{}, which the deck does not add: {}. Write{}:", learnt, lack,
                    std::strcmp(lmp->update->unit_style, "real") == 0 ? " (coefficients are in units metal)" : "");
    for (const std::string& line : lines_of(lmp, bundle, own)) text += "\n  " + line;
    return text + "\n";  // LAMMPS adds where in the source it was found
  }
  return "";
}

}  // namespace so3krates::deck
