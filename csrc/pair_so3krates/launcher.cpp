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

// The library that a function comes from; empty where the linker does not say.
fs::path library_of(const char* name) {
  void* function = dlsym(RTLD_DEFAULT, name);
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
  // LAMMPS' constructor takes a communicator, whose type is in its name: both MPIs may be in the process. Where a
  // program does not export it, what is left to ask is which MPI there is.
  const fs::path of_mpich = library_of("_ZN9LAMMPS_NS6LAMMPSC1EiPPci");
  const fs::path of_open_mpi = library_of("_ZN9LAMMPS_NS6LAMMPSC1EiPPcP19ompi_communicator_t");
  const bool is_open_mpi =
      !of_open_mpi.empty() || (of_mpich.empty() && dlsym(RTLD_DEFAULT, "ompi_mpi_comm_world") != nullptr);
  const char* found = is_open_mpi ? "Open MPI" : "MPICH";
  if (std::strcmp(built, found) == 0) return "";
  const fs::path& lammps = is_open_mpi ? of_open_mpi : of_mpich;
  return "this LAMMPS" + (lammps.empty() ? "" : " (" + lammps.string() + ")") + " uses " + found +
         ", but so3krates was built for " + built +
         ". Build it anew with the compiler of that MPI: so3krates build-plugin --mpi MPICXX";
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
    const fs::path library = library_of("MPI_Comm_size");
    return "a launcher started " + std::to_string(started) + " processes (" + name + "), but the MPI of this LAMMPS (" +
           library.string() +
           ") sees each alone, so each computes the whole system by itself. Unless these are independent runs, start "
           "them by " +
           mpiexec_of(library) + " -n " + std::to_string(started);
  }
  return "";
}

}  // namespace so3krates
