// Tells LAMMPS that this library has the pair style so3krates.
#include "creation.h"

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

void* create(void* host) {
  return so3krates::create_pair(static_cast<LAMMPS_NS::LAMMPS*>(host));
}

}  // namespace

extern "C" __attribute__((visibility("default"))) void lammpsplugin_init(void* host, void* handle, void* registry) {
  Registration plugin = {};
  plugin.version = SO3KRATES_LAMMPS_DATE;
  plugin.style = "pair";
  plugin.name = "so3krates";
  plugin.info = "So3krates machine-learned potential";
  plugin.author = "the so3krates package";
  plugin.creator.v1 = create;
  plugin.handle = handle;
  reinterpret_cast<Register>(registry)(&plugin, host);
}
