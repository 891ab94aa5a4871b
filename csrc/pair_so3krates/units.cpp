#include "units.h"

#include <lammps/update.h>
#include <lammps/utils.h>

#include <algorithm>

#include "error.h"

namespace so3krates::deck {
namespace {

constexpr const char* kEnergy = "eV";

double energy_of(const std::string& style) {
  using namespace LAMMPS_NS::utils;
  return style == "metal" ? 1.0 : style == "real" ? get_conversion_factor(ENERGY, METAL2REAL) : 0.0;
}

}  // namespace

Units::Units(LAMMPS_NS::LAMMPS* lmp)
    : is_real_(std::string(lmp->update->unit_style) == "real"), energy_(energy_of(lmp->update->unit_style)) {}

bool Units::is_of_energy(const std::string& unit) const {
  const std::size_t place = unit.find(kEnergy);
  if (place == std::string::npos && unit.find("ps") == std::string::npos) return false;
  const std::string rest = unit.substr(std::min(unit.size(), std::string(kEnergy).size()));
  if (place != 0 || (!rest.empty() && rest[0] != '/') || rest.find(kEnergy) != std::string::npos ||
      rest.find("ps") != std::string::npos)
    throw Error("an output in " + unit + " cannot be told in units real. Write the deck in units metal");
  return true;
}

double Units::of(const std::string& unit) const {
  return is_real_ && is_of_energy(unit) ? energy_ : 1.0;
}

std::string Units::name(const std::string& unit) const {
  return is_real_ && is_of_energy(unit) ? "kcal/mol" + unit.substr(std::string(kEnergy).size()) : unit;
}

}  // namespace so3krates::deck
