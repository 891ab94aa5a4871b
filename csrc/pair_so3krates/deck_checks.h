// What a deck says that speaks against the potential. Each check gives the words of its message, none where all is
// well.
#pragma once

#include <lammps/lammps.h>

#include <string>
#include <vector>

#include "bundle.h"

namespace LAMMPS_NS {
class Pair;
}

namespace so3krates::deck {

using LAMMPS_NS::LAMMPS;

// Masses far from those of the elements. element_of_type: symbols from type 1, empty for a type without. All ranks come
// here, and have the same answer.
std::string contradicting_masses(LAMMPS* lmp, const std::vector<std::string>& element_of_type);

// A time step that is meant in another unit, where atoms move. All ranks have the same answer.
std::string odd_timestep(LAMMPS* lmp);

// Commands that leave atoms out of neighbour lists. All ranks come here, and have the same answer.
std::string hidden_atoms(LAMMPS* lmp);

// Commands that leave atoms out of what ranks know of each other. All ranks come here, and have the same answer.
std::string missing_ghosts(LAMMPS* lmp, const Bundle& bundle);

// Electrostatics and dispersion by LAMMPS beside those of the potential. All ranks have the same answer.
std::string second_coulomb(LAMMPS* lmp, const Bundle& bundle, const LAMMPS_NS::Pair& own);

// Charges of the atoms that are not those of the potential's system. All ranks come here, and have the same answer.
std::string other_charges(LAMMPS* lmp, const Bundle& bundle);

// A charge that is repeated without end. All ranks have the same answer.
std::string charged_cell(LAMMPS* lmp, const Bundle& bundle);

// An atom of this rank whose list lacks atoms that it is bonded to. is_treated: by type, whether the potential has such
// atoms.
std::string missing_partners(LAMMPS* lmp, const std::vector<bool>& is_treated);

// A fix that takes out or puts in wrong atoms. All ranks have the same answer.
std::string mixed_trials(LAMMPS* lmp);

// Whether a fix is at a trial of its own, with atoms that are taken out for its time.
bool is_on_trial(LAMMPS* lmp);

// LAMMPS reads decks as ASCII and drops bytes of other letters: what is left names no file. Throws Error.
void check_letters(const std::string& text);

}  // namespace so3krates::deck
