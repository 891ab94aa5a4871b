// The units of a deck. Potentials are in LAMMPS' units metal (eV, A, ps); a deck may also be in units real (kcal/mol,
// A, fs), and then all that it reads of the style, and all limits that it gives, are in these.
#pragma once

#include <lammps/lammps.h>

#include <string>

namespace so3krates::deck {

class Units {
 public:
  explicit Units(LAMMPS_NS::LAMMPS* lmp);

  // Whether the style runs in the deck's.
  bool are_known() const { return energy_ > 0.0; }
  // One eV in units of energy of the deck, by LAMMPS' own constants; exactly 1 in units metal.
  double energy() const { return energy_; }
  // What a number in this unit of the potential is multiplied by, and what the unit is then called.
  // Throws Error for a unit that has energies otherwise than as eV or eV/...
  double of(const std::string& unit) const;
  std::string name(const std::string& unit) const;

 private:
  bool is_of_energy(const std::string& unit) const;

  bool is_real_;
  double energy_;  // 0: not known
};

}  // namespace so3krates::deck
