// What a potential asks a deck to add beside it: it has learnt the rest of its labels alone.
#pragma once

#include <lammps/lammps.h>

#include <string>
#include <vector>

#include "bundle.h"

namespace so3krates::deck {

// The lines of a deck that the style was made by.
struct OwnLines {
  std::string options;               // words of pair_style after so3krates
  std::string file;                  // of pair_coeff
  std::vector<std::string> symbols;  // elements of types from 1 on, empty for NULL
};

// What a deck lacks of the bundle's baselines, and the lines to write; empty: nothing. All ranks come here, and have
// the same answer.
std::string missing_baselines(LAMMPS_NS::LAMMPS* lmp, const Bundle& bundle, const OwnLines& own);

// Whether charges of an open box see all others, in words; empty: they do, or there are none. All ranks come here.
std::string short_baselines(LAMMPS_NS::LAMMPS* lmp, const Bundle& bundle, const std::vector<std::string>& symbols);

}  // namespace so3krates::deck
