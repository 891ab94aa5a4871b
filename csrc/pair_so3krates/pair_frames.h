// A frame of a run as extended XYZ, gathered from all ranks.
#pragma once

#include <lammps/lammps.h>

#include <string>
#include <vector>

#include "evaluator.h"

namespace so3krates::deck {

using LAMMPS_NS::LAMMPS;

// What the potential has computed of a step, on this rank.
struct Computed {
  const Results& results;
  const std::vector<int>& atom_of_row;
  int owned;
  const std::vector<std::string>& element_of_type;  // from type 1; empty: of another pair style
  const StructureError::NameOf& name_of;
  const char* forces;  // what they are in a file: whoever reads "forces" takes them for the whole
};

// Writes the frame with ids, elements, positions (A), the potential's forces (eV/A) and, where an output of atoms is
// named, that one. comment: further entries of the second line, as in `reason="..."`. Atoms of other pair styles are X,
// with no force. All ranks come here, and rank 0 writes. Returns there why it could not; empty: it could.
std::string write_frame(LAMMPS* lmp, const Computed& computed, const std::string& path, bool append,
                        const std::string& comment, const std::string& output = "");

// Whether there is no file of this name, or one of such frames.
bool takes_frames(const std::string& path);

}  // namespace so3krates::deck
