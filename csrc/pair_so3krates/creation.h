// How LAMMPS gets the pair style, whichever way it came to know of it.
#pragma once

namespace LAMMPS_NS {
class LAMMPS;
class Pair;
}  // namespace LAMMPS_NS

namespace so3krates {

// Whether this LAMMPS is of the version whose headers this was compiled with; its classes are laid out by them.
bool is_known_version(LAMMPS_NS::LAMMPS* lmp);

// What Force's map of pair styles holds. Ends the run where LAMMPS is of another version or uses another MPI.
LAMMPS_NS::Pair* create_pair(LAMMPS_NS::LAMMPS* lmp);

}  // namespace so3krates
