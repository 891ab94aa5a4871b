// A LAMMPS with the pair style so3krates, beside a shared liblammps that loads no plugins.
#define LAMMPS_LIB_MPI  // for lammps_open
#include <dlfcn.h>
#include <lammps/exceptions.h>
#include <lammps/force.h>
#include <lammps/input.h>
#include <lammps/lammps.h>
#include <lammps/library.h>
#include <mpi.h>

#include <cstdio>
#include <exception>
#include <map>
#include <string>

#include "creation.h"
#include "launcher.h"

using namespace LAMMPS_NS;

namespace {

constexpr const char* NAME = "so3krates";

// LAMMPS makes its map of styles in Force's constructor, at its start and at every `clear`. A program's functions come
// before a library's, so that this one is called in its place.
#define FORCE_CONSTRUCTOR "_ZN9LAMMPS_NS5ForceC1EPNS_6LAMMPSE"

int failed(const std::string& message, int rank = 0) {
  if (rank == 0) std::fprintf(stderr, "ERROR: %s\n", message.c_str());
  return 1;
}

int run(int argc, char** argv) {
  int rank = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  void* host = lammps_open(argc, argv, MPI_COMM_WORLD, nullptr);
  if (host == nullptr) return 1;  // it has said why
  auto* lmp = static_cast<LAMMPS*>(host);
  if (!so3krates::is_known_version(lmp))
    return failed("this program was built for LAMMPS " SO3KRATES_LAMMPS_DATE ", but liblammps is version " +
                      std::to_string(lammps_version(host)) + ": build it anew, so3krates build-plugin --executable",
                  rank);
  if (lmp->force->pair_map->count(NAME) == 0)
    return failed(
        "this liblammps was linked with -Bsymbolic, so that a program cannot add a pair style to it. Compile the style "
        "into LAMMPS: so3krates build-plugin --lammps SOURCE --sources",
        rank);
  try {
    lmp->input->file();
  } catch (const LAMMPSAbortException& failure) {
    MPI_Abort(failure.get_universe(), 1);
  } catch (const LAMMPSException&) {
    return 1;  // LAMMPS has said why, on all ranks
  } catch (const std::exception& failure) {
    failed(failure.what());
    MPI_Abort(MPI_COMM_WORLD, 1);
  }
  lammps_close(host);
  return 0;
}

}  // namespace

extern "C" __attribute__((visibility("default"))) void so3krates_construct_force(void* force,
                                                                                 LAMMPS* lmp) asm(FORCE_CONSTRUCTOR);
extern "C" void so3krates_construct_force(void* force, LAMMPS* lmp) {
  static const auto construct = reinterpret_cast<void (*)(void*, LAMMPS*)>(dlsym(RTLD_NEXT, FORCE_CONSTRUCTOR));
  construct(force, lmp);
  if (so3krates::is_known_version(lmp)) (*static_cast<Force*>(force)->pair_map)[NAME] = so3krates::create_pair;
}

int main(int argc, char** argv) {
  const std::string other = so3krates::mpi_problem();
  if (!other.empty()) return failed(other);
  MPI_Init(&argc, &argv);
  const int status = run(argc, argv);
  lammps_kokkos_finalize();
  lammps_python_finalize();
  lammps_mpi_finalize();
  return status;
}
