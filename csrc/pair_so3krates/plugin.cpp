// Tells LAMMPS that this library has the pair style so3krates.
#include <lammps/error.h>
#include <lammps/lammps.h>
#include <lammps/library.h>

#include <string>

#include "launcher.h"
#include "pair_so3krates.h"
#include "ranks.h"

using namespace LAMMPS_NS;

namespace {

// The public plugin interface of LAMMPS, whose header lammpsplugin.h is not among the installed ones.
extern "C" {
struct Registration {
  const char *version, *style, *name, *info, *author;
  union {
    void* (*v1)(void*);               // pair styles
    void* (*v2)(void*, int, char**);  // computes, fixes
  } creator;
  void* handle;
};
using Register = void (*)(Registration*, void*);
}

void* create_pair(void* host) {
  auto* lmp = static_cast<LAMMPS*>(host);
  // LAMMPS loads a plugin of another version with a mere remark, but its classes are laid out differently.
  if (lammps_version(host) != SO3KRATES_LAMMPS_VERSION)
    lmp->error->all(FLERR,
                    "pair_style so3krates: this is LAMMPS version {} but the plugin was built for {} ({}). Run the lmp "
                    "in bin of the Python environment that the plugin lies in, or build the plugin for this one: "
                    "so3krates build-plugin --lammps SOURCE",
                    lammps_version(host), SO3KRATES_LAMMPS_VERSION, SO3KRATES_LAMMPS_DATE);
  const std::string other = so3krates::mpi_problem();
  if (!other.empty())
    lmp->error->one(FLERR,
                    "pair_style so3krates: {}. Build it for this one: so3krates build-plugin --lammps SOURCE "
                    "--mpi MPICXX, with the compiler of that MPI",
                    other);
  return so3krates::ranks::reported(lmp, [&] {
    // A warning only: a program may well start independent runs this way.
    const std::string problem = so3krates::launcher_problem();
    if (!problem.empty()) lmp->error->warning(FLERR, "pair_style so3krates: {}", problem);
    return static_cast<Pair*>(new PairSo3krates(lmp));
  });
}

}  // namespace

extern "C" __attribute__((visibility("default"))) void lammpsplugin_init(void* host, void* handle, void* registry) {
  Registration plugin = {};
  plugin.version = SO3KRATES_LAMMPS_DATE;
  plugin.style = "pair";
  plugin.name = "so3krates";
  plugin.info = "So3krates machine-learned potential";
  plugin.author = "the so3krates package";
  plugin.creator.v1 = create_pair;
  plugin.handle = handle;
  reinterpret_cast<Register>(registry)(&plugin, host);
}
