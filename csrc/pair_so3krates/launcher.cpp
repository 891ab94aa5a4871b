// Compares what launchers tell through the environment with the size of MPI's world.
#include "launcher.h"

#include <dlfcn.h>
#include <mpi.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <system_error>

namespace so3krates {
namespace {

namespace fs = std::filesystem;

// Number of processes started together, by the launcher nearest to them: mpiexec within a Slurm job comes first.
// SLURM_NTASKS is not among them, as every program of a batch script has it.
constexpr const char* kSizes[] = {"PMI_SIZE",           "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE",
                                  "JSM_NAMESPACE_SIZE", "FLUX_JOB_SIZE",        "SLURM_STEP_NUM_TASKS"};

// The library that MPI's functions come from; empty where the linker does not say.
fs::path mpi_library() {
  void* function = dlsym(RTLD_DEFAULT, "MPI_Comm_size");
  Dl_info info{};
  if (function == nullptr || dladdr(function, &info) == 0 || info.dli_fname == nullptr) return {};
  std::error_code error;
  const fs::path library = fs::canonical(info.dli_fname, error);
  return error ? fs::path() : library;
}

// The launcher that was installed with that library.
std::string mpiexec_of(const fs::path& library) {
  std::error_code error;
  const fs::path beside = library.parent_path().parent_path() / "bin" / "mpiexec";
  if (!library.empty() && fs::exists(beside, error)) return beside.string();
  return "the mpiexec of that MPI";
}

}  // namespace

std::string mpi_problem() {
#if defined(OPEN_MPI)
  const char* built = "Open MPI";
#else
  const char* built = "MPICH";  // and all that keep its binary interface
#endif
  const char* found = dlsym(RTLD_DEFAULT, "ompi_mpi_comm_world") != nullptr ? "Open MPI" : "MPICH";
  if (std::strcmp(built, found) == 0) return "";
  return std::string("this LAMMPS uses ") + found + " (" + mpi_library().string() + "), but the plugin was built for " +
         built;
}

std::string launcher_problem() {
  int world = 0;
  MPI_Comm_size(MPI_COMM_WORLD, &world);
  if (world != 1) return "";
  for (const char* name : kSizes) {
    const char* value = std::getenv(name);
    if (value == nullptr) continue;
    const long started = std::strtol(value, nullptr, 10);
    if (started < 2) return "";
    const fs::path library = mpi_library();
    return "a launcher started " + std::to_string(started) + " processes (" + name + "), but the MPI of this LAMMPS (" +
           library.string() +
           ") sees each alone, so each computes the whole system by itself. Unless these are independent runs, start "
           "them by " +
           mpiexec_of(library) + " -n " + std::to_string(started);
  }
  return "";
}

}  // namespace so3krates
