#include "contract.h"

namespace so3krates {

const std::vector<Contract>& contracts() {
  constexpr Role input = Role::input, output = Role::output;
  static const std::vector<Contract> all = {
      {"positions", DType::f64, {"atoms", "3"}, input, "", "", false, ""},
      {"row_of_atom", DType::i32, {"atoms"}, input, "", "", false, ""},
      {"atom_of_row", DType::i32, {"rows"}, input, "", "", false, ""},
      {"species", DType::i32, {"rows"}, input, "", "", false, ""},
      {"candidate_count", DType::i32, {"rows"}, input, "", "", false, ""},
      {"candidates", DType::i32, {"rows", "candidates"}, input, "", "", false, ""},
      {"owned_count", DType::i32, {}, input, "", "", false, ""},
      {"row_count", DType::i32, {}, input, "", "", false, ""},
      {kAtomCount, DType::i32, {}, input, "", "", false, ""},
      {"neighbours_needed", DType::i32, {}, output, "", "", false, ""},  // of concern to the evaluator alone
      {"energy", DType::f64, {}, output, "eV", "sum", true, "of all atoms, without energy shifts"},
      {"atom_energies", DType::f64, {"rows"}, output, "eV", "none", true, "of each atom, without energy shifts"},
      {"forces", DType::f64, {"rows", "3"}, output, "eV/A", "none", true, "on each atom"},
      {"strain_gradient",
       DType::f64,
       {"3", "3"},
       output,
       "eV",
       "sum",
       true,
       "dE/d(strain), [position component, force component]"},
      {"atom_virials",
       DType::f64,
       {"rows", "3", "3"},
       output,
       "eV",
       "none",
       false,
       "of each atom, [position component, force component]; their sum is -strain_gradient"},
  };
  return all;
}

const char* name_of(DType dtype) {
  switch (dtype) {
    case DType::u8:
      return "uint8";
    case DType::i32:
      return "int32";
    case DType::f32:
      return "float32";
    case DType::f64:
      return "float64";
  }
  return "";
}

}  // namespace so3krates
