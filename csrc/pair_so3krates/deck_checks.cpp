#include "deck_checks.h"

#include <lammps/atom.h>
#include <lammps/comm.h>
#include <lammps/domain.h>
#include <lammps/fix.h>
#include <lammps/force.h>
#include <lammps/group.h>
#include <lammps/modify.h>
#include <lammps/neighbor.h>
#include <lammps/pair.h>
#include <lammps/update.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "error.h"
#include "standard_masses.h"

using namespace LAMMPS_NS;

namespace so3krates::deck {
namespace {

constexpr double MASS_TOLERANCE = 0.2;  // of a mass; isotopes but FAR_ISOTOPES are nearer to their element
constexpr double MASS_ROUNDING = 2e-3;  // of a mass: 69.7 for 69.723; isotopes differ by more

// The group of comm_modify group, which LAMMPS keeps to its own classes.
struct CommAccess : Comm {
  static int group(const Comm& comm) { return comm.*(&CommAccess::bordergroup); }
};

bool are_near(double mass, double standard) {
  return std::abs(mass - standard) <= MASS_TOLERANCE * standard;
}

// The same mass, as decks round it.
bool are_equal(double mass, double standard) {
  return standard > 0.0 && std::abs(mass - standard) <= MASS_ROUNDING * standard;
}

// Of each type, from 1; 0: not known. The mean where every atom has its own.
std::vector<double> masses_of_types(LAMMPS* lmp) {
  const Atom& atom = *lmp->atom;
  std::vector<double> masses(atom.ntypes + 1, 0.0);
  if (atom.rmass == nullptr) {
    for (int type = 1; type <= atom.ntypes && atom.mass != nullptr; type++)
      if (atom.mass_setflag[type]) masses[type] = atom.mass[type];
    return masses;
  }
  std::vector<double> own(2 * masses.size(), 0.0), all(own.size());
  for (int i = 0; i < atom.nlocal; i++) {
    const std::size_t place = atom.type[i] * std::size_t{2};
    own[place] += atom.rmass[i];
    own[place + 1] += 1.0;
  }
  MPI_Allreduce(own.data(), all.data(), static_cast<int>(own.size()), MPI_DOUBLE, MPI_SUM, lmp->world);
  for (std::size_t type = 1; type < masses.size(); type++)
    if (all[2 * type + 1] > 0.0) masses[type] = all[2 * type] / all[2 * type + 1];
  return masses;
}

constexpr double HALF_AN_ELECTRON = 0.5;
constexpr double SHORTEST_STEP = 0.01, LONGEST_STEP = 20.0;  // fs, of atoms that vibrate in 10 to 100 fs
constexpr const char* DOUBLED =
    "a part of hybrid/overlay ({}) adds {} to a potential that has its own ({}), for the same types of atoms. Leave it "
    "out";

// Whether a part of hybrid/overlay, which the potential does not ask for, treats pairs of types that the potential has.
bool is_beside(LAMMPS* lmp, const Bundle& bundle, const Pair& own, const char* word) {
  for (const Baseline& baseline : bundle.baselines)
    if (baseline.pair_style.find(word) != std::string::npos) return false;
  const auto overlaps = [&](const Pair& part) {
    for (int i = 1; i <= lmp->atom->ntypes; i++)
      for (int j = i; j <= lmp->atom->ntypes; j++)
        if (own.setflag[i][j] != 0 && part.setflag[i][j] != 0) return true;
    return false;
  };
  // With 0 LAMMPS gives the one whose name has the word, and none of several.
  const Pair* only = lmp->force->pair_match(word, 0, 0);
  if (only != nullptr) return overlaps(*only);
  for (int nth = 1; const Pair* part = lmp->force->pair_match(word, 0, nth); nth++)
    if (overlaps(*part)) return true;
  return false;
}

bool has_atoms(LAMMPS* lmp, int group) {
  return lmp->group->count(group) > 0;
}

}  // namespace

std::string contradicting_masses(LAMMPS* lmp, const std::vector<std::string>& element_of_type) {
  const std::vector<double> masses = masses_of_types(lmp);
  std::vector<double> standard(masses.size(), 0.0);  // 0: of no element
  for (std::size_t type = 1; type < masses.size(); type++)
    for (const ElementMass& known : STANDARD_MASSES)
      if (known.symbol == element_of_type[type]) standard[type] = known.mass;
  // Elements that are near to each other: a type has the mass of another one, which has not its own.
  const auto is_swapped = [&](std::size_t type) {
    if (are_equal(masses[type], standard[type])) return false;
    for (std::size_t other = 1; other < masses.size(); other++)
      if (are_equal(masses[type], standard[other]) && !are_equal(masses[other], standard[other])) return true;
    return false;
  };
  std::string found;
  for (std::size_t type = 1; type < masses.size(); type++) {
    const std::string& symbol = element_of_type[type];
    if (masses[type] == 0.0 || standard[type] == 0.0) continue;
    const auto fits = [&](const ElementMass& known) {
      return known.symbol == symbol && are_near(masses[type], known.mass);
    };
    const bool is_right =
        are_near(masses[type], standard[type]) || std::any_of(std::begin(FAR_ISOTOPES), std::end(FAR_ISOTOPES), fits);
    if (is_right && !is_swapped(type)) continue;
    found += fmt::format("{}type {} has the mass {:g} but is {} in pair_coeff, whose standard mass is {:g}",
                         found.empty() ? "" : "; ", type, masses[type], symbol, standard[type]);
  }
  if (found.empty()) return {};
  return "mass and pair_coeff contradict each other: " + found +
         ". Give the elements of pair_coeff in the order of the atom types, or mend mass";
}

std::string odd_timestep(LAMMPS* lmp) {
  const auto& fixes = lmp->modify->get_fix_list();
  const bool moves_atoms = std::any_of(fixes.begin(), fixes.end(), [](const Fix* fix) { return fix->time_integrate; });
  if (lmp->update->whichflag != 1 || !moves_atoms || !lmp->modify->get_fix_by_style("^dt/reset").empty()) return {};
  const bool is_real = std::string(lmp->update->unit_style) == "real";
  const double step = lmp->update->dt, of_a_femtosecond = is_real ? 1.0 : 0.001;
  const double femtoseconds = step / of_a_femtosecond;
  if (step == 0.0 || (femtoseconds >= SHORTEST_STEP && femtoseconds <= LONGEST_STEP)) return {};
  return fmt::format(
      "timestep {:g} is {:g} fs, as times are in {} in units {}. Atoms vibrate in 10 to 100 fs: write timestep {:g} "
      "for "
      "1 fs, and the damping times of fixes in the same unit",
      step, femtoseconds, is_real ? "fs" : "ps", lmp->update->unit_style, of_a_femtosecond);
}

std::string hidden_atoms(LAMMPS* lmp) {
  const Neighbor& neighbor = *lmp->neighbor;
  // The groups of Monte Carlo fixes are empty but during a trial.
  bool is_excluding = neighbor.nex_type + neighbor.nex_mol > 0;
  for (int m = 0; m < neighbor.nex_group; m++)
    is_excluding |= has_atoms(lmp, neighbor.ex1_group[m]) && has_atoms(lmp, neighbor.ex2_group[m]);
  if (is_excluding)
    return "neigh_modify exclude hides atoms from each other, so the energy is not that of the potential";
  const bigint left_out = neighbor.includegroup == 0 ? 0 : lmp->atom->natoms - lmp->group->count(neighbor.includegroup);
  if (left_out > 0)
    return fmt::format(
        "neigh_modify include {} hides {} of {} atoms, so the energy is not that of the potential, and they have none",
        lmp->group->names[neighbor.includegroup], left_out, lmp->atom->natoms);
  return {};
}

std::string missing_ghosts(LAMMPS* lmp, const Bundle& bundle) {
  if (bundle.atoms_reach > bundle.reach && lmp->comm->mode != Comm::SINGLE)
    return fmt::format(
        "comm_modify mode multi has ranks know of each other's atoms by type, but {} needs all within {:g} A. Write: "
        "comm_modify mode single",
        bundle.path, bundle.atoms_reach);
  const int group = CommAccess::group(*lmp->comm);
  const bigint left_out = group == 0 ? 0 : lmp->atom->natoms - lmp->group->count(group);
  if (left_out <= 0) return {};
  return fmt::format(
      "comm_modify group {} leaves {} of {} atoms out of what ranks know of each other and of periodic images, but the "
      "potential needs all. Write: comm_modify group all",
      lmp->group->names[group], left_out, lmp->atom->natoms);
}

std::string second_coulomb(LAMMPS* lmp, const Bundle& bundle, const Pair& own) {
  const bool has_coulomb = bundle.outputs.count("energy_electrostatics") > 0;
  if (lmp->force->kspace != nullptr && has_coulomb)
    return fmt::format(
        "kspace_style {} adds electrostatics to a potential that has its own ({}). Write: kspace_style none",
        lmp->force->kspace_style, bundle.path);
  const bool has_dispersion = bundle.outputs.count("energy_dispersion") > 0;
  if (has_coulomb && is_beside(lmp, bundle, own, "coul"))
    return fmt::format(DOUBLED, "coul", "electrostatics", bundle.path);
  if (has_dispersion && is_beside(lmp, bundle, own, "dispersion"))
    return fmt::format(DOUBLED, "dispersion", "dispersion", bundle.path);
  return "";
}

std::string other_charges(LAMMPS* lmp, const Bundle& bundle) {
  const Atom& atom = *lmp->atom;
  if (!atom.q_flag || bundle.electrons.protons.empty()) return "";
  std::array<double, 2> own{}, sums{};  // of the charges, and of their sizes: 0 where nobody has set them
  for (int i = 0; i < atom.nlocal; i++) {
    own[0] += atom.q[i];
    own[1] += std::abs(atom.q[i]);
  }
  MPI_Allreduce(own.data(), sums.data(), 2, MPI_DOUBLE, MPI_SUM, lmp->world);
  const double all = sums[0];
  if (sums[1] == 0.0 || std::abs(all - bundle.electrons.charge) < HALF_AN_ELECTRON) return "";
  return fmt::format(
      "the charges of the atoms add up to {:.4g} e, and the potential computes {} e. Write: pair_style so3krates "
      "charge {:.0f}, with the multiplicity, or set the charges of the atoms to those of its system",
      all, bundle.electrons.charge, all);
}

std::string charged_cell(LAMMPS* lmp, const Bundle& bundle) {
  const auto& box = *lmp->domain;
  if (bundle.electrons.charge == 0 || !(box.xperiodic || box.yperiodic || box.zperiodic)) return "";
  return fmt::format(
      "the total charge of {} e is repeated with the box, so that energies and pressures depend on the "
      "box's size. Add ions of the other charge, or take a box without periodic boundaries",
      bundle.electrons.charge);
}

std::string missing_partners(LAMMPS* lmp, const std::vector<bool>& is_treated) {
  Atom& atom = *lmp->atom;
  const int* flag = lmp->neighbor->special_flag;  // of 1-2, 1-3, 1-4 partners; 0: lists lack them
  if (atom.molecular == Atom::ATOMIC || (flag[1] != 0 && flag[2] != 0 && flag[3] != 0)) return {};
  const auto message = [&](int i, const std::string& kind) {
    return fmt::format(
        "special_bonds removes {} neighbours of bonded atoms, such as atom {}, but the potential needs all. "
        "Write: special_bonds lj/coul 1 1 1",
        kind, atom.tag_enable ? atom.tag[i] : i + 1);
  };
  for (int i = 0; i < atom.nlocal; i++) {
    if (!is_treated[atom.type[i]]) continue;
    if (atom.molecular == Atom::TEMPLATE) {
      // Templates keep their lists to LAMMPS' own classes.
      if (atom.molindex[i] >= 0 && atom.nbonds > 0) return message(i, "some");
      continue;
    }
    for (int kind = 1, k = 0; kind <= 3; kind++)
      for (; k < atom.nspecial[i][kind - 1]; k++) {
        const int j = flag[kind] == 0 ? atom.map(atom.special[i][k]) : -1;  // -1: not near this rank's atoms
        if (j >= 0 && is_treated[atom.type[j]]) return message(i, fmt::format("1-{}", kind + 1));
      }
  }
  return {};
}

std::string mixed_trials(LAMMPS* lmp) {
  if (lmp->comm->nprocs == 1) return {};
  for (Fix* fix : lmp->modify->get_fix_list()) {
    if (std::strcmp(fix->style, "gcmc") != 0) continue;
    // A move that is not accepted leaves its atom with another rank, and the next trial then counts atoms wrongly.
    const double moves = fix->compute_vector(0), exchanges = fix->compute_vector(2) + fix->compute_vector(4);
    if (moves > 0.0 && exchanges > 0.0)
      return fmt::format(
          "fix {} gcmc has tried {:g} moves and {:g} exchanges on {} ranks, and LAMMPS, as of 22 Jul 2025, then takes "
          "out the wrong atoms, whatever the pair style. Give the fix no moves (M = 0), or use one rank",
          fix->id, moves, exchanges, lmp->comm->nprocs);
  }
  return {};
}

void check_letters(const std::string& text) {
  std::string shown;
  bool is_whole = true;
  for (std::size_t i = 0, follow = 0; i <= text.size(); ++i) {
    const unsigned char byte = i < text.size() ? text[i] : 0;
    const bool continues = (byte & 0xc0) == 0x80;
    is_whole = is_whole && continues == (follow > 0);
    follow = continues ? follow - (follow > 0) : byte >= 0xf0 ? 3 : byte >= 0xe0 ? 2 : byte >= 0xc0 ? 1 : 0;
    if (i < text.size() && !continues) shown += byte < 0x80 ? text[i] : '?';
  }
  if (!is_whole)
    throw Error("LAMMPS has dropped a part of a letter beyond ASCII in '" + shown +
                "': give the file or folder, or a link to it, a name of ASCII letters");
}

bool is_on_trial(LAMMPS* lmp) {
  const std::vector<Fix*>& fixes = lmp->modify->get_fix_list();
  return std::any_of(fixes.begin(), fixes.end(), [](Fix* fix) {
    int dimension = -1;
    const auto* is_active = static_cast<const int*>(fix->extract("mc_active", dimension));
    if (is_active != nullptr && dimension == 0) return *is_active != 0;
    return std::strcmp(fix->style, "charge/regulation") == 0;  // which does not tell
  });
}

}  // namespace so3krates::deck
