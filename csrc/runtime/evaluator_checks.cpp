// The evaluator's checks of what it is given and of what it has computed.
#include <numeric>
#include <string>
#include <vector>

#include "evaluator_implementation.h"

namespace so3krates {

// Of the row whose image the atom may be: atoms are counted as the host's rows are.
std::string Evaluator::Implementation::name_of(int atom) const {
  const auto values = [&](const char* name) { return static_cast<const int*>(input_memory_.at(name).get()); };
  const int row = values("row_of_atom")[atom];
  if (row < 0) return "atom " + std::to_string(atom);
  return "atom " + std::to_string(values("atom_of_row")[row]) + " (" + bundle_.elements[values("species")[row]] + ")";
}

void Evaluator::Implementation::check_structure(const double* positions) {
  const auto name = [this](int atom) { return name_of(atom); };
  check_positions(positions, atoms_, static_cast<const int*>(input_memory_.at("row_of_atom").get()), name);
  if (lists_are_new_ && !bundle_.limits.distances.empty()) {
    std::vector<const int*> lists;
    guard_.keep_pairs(positions, packed(lists), threads_);
  }
  if (lists_are_new_)
    check_all_distances(positions);
  else
    check_distances(positions, near_pairs_, name);
}

// On one rank, where all atoms are; hosts with several ask themselves.
void Evaluator::Implementation::check_electrons() {
  if (bundle_.electrons.protons.empty() || owned_ == 0) return;
  const auto* species = static_cast<const int*>(input_memory_.at("species").get());
  bundle_.check_electrons(bundle_.protons_of(species, owned_));
  has_checked_electrons_ = true;
}

long Bundle::protons_of(const int* species, int atoms) const {
  return std::accumulate(species, species + atoms, 0L,
                         [this](long sum, int element) { return sum + electrons.protons[element]; });
}

void Bundle::set_electrons(int charge, int multiplicity) {
  if (electrons.protons.empty()) throw Error(path + ": reads no charge or multiplicity of a system: leave them out");
  if (multiplicity < 1)
    throw Error("multiplicity " + std::to_string(multiplicity) +
                ": give the number of unpaired electrons plus 1, which is at least 1");
  electrons.charge = charge;
  electrons.multiplicity = multiplicity;
}

void Bundle::check_electrons(long protons) const {
  const Electrons& said = this->electrons;
  const long electrons = protons - said.charge, unpaired = said.multiplicity - 1;
  if (electrons >= unpaired && (electrons - unpaired) % 2 == 0) return;
  throw Error(path + ": is for a total charge of " + std::to_string(said.charge) + " e and the multiplicity " +
              std::to_string(said.multiplicity) + ", but the structure has " + std::to_string(protons) +
              " protons, so " + std::to_string(electrons) + " electrons, of which " + std::to_string(unpaired) +
              " cannot be unpaired: give the total charge and the multiplicity of this structure (pair_style so3krates "
              "charge Q "
              "multiplicity M; atoms.info in Python)");
}

void Evaluator::Implementation::check_all_distances(const double* positions) {
  std::vector<const int*> lists;
  near_pairs_ = near_pairs(positions, packed(lists), threads_);
  check_distances(positions, near_pairs_, [this](int atom) { return name_of(atom); });
  lists_are_new_ = false;
}

void Evaluator::Implementation::check_computed(const double* positions) {
  const auto name = [this](int atom) { return name_of(atom); };
  const auto* atom_of_row = static_cast<const int*>(input_memory_.at("atom_of_row").get());
  double largest = 0.0;
  try {
    largest = check_results(results_, owned_, atom_of_row, positions, name);
    const auto* species = static_cast<const int*>(input_memory_.at("species").get());
    check_energies(results_, owned_, species, has_shifts_ ? bundle_.energy_shifts.data() : nullptr, atom_of_row,
                   positions, name);
  } catch (const StructureError& failure) {
    check_all_distances(positions);
    // The likely reason.
    if (results_.sighting != nullptr && sighting_.has_close_pair())
      throw failure.followed_by(sighting_.about_pair(name), name);
    throw;
  }
  if (results_.sighting != nullptr && results_.forces != nullptr)
    guard_.look_at_forces(sighting_, largest, results_.forces, atom_of_row, owned_);
  if (largest > kSuspectForce * kSuspectForce) check_all_distances(positions);
}

}  // namespace so3krates
