#include "ranks.h"

#include <sched.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <thread>

namespace so3krates::ranks {
namespace {

constexpr std::chrono::milliseconds TURN(1000);  // that a rank leaves to the next lower one to end a failed run
constexpr int TURNS = 4;                         // ranks with turns of their own; all others share the last

}  // namespace

void fail(LAMMPS* lmp, const std::string& message) {
  if (lmp->comm->nprocs == 1) lmp->error->all(FLERR, message);
  std::this_thread::sleep_for(TURN * std::min(lmp->comm->me, TURNS));
  try {
    lmp->error->one(FLERR, message);
  } catch (...) {
    // What follows ends all ranks, and mpiexec drops what it has not read by then.
    std::fflush(nullptr);
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
    throw;
  }
}

Machine machine_of(LAMMPS* lmp) {
  MPI_Comm local;
  MPI_Comm_split_type(lmp->world, MPI_COMM_TYPE_SHARED, lmp->comm->me, MPI_INFO_NULL, &local);
  Machine machine;
  MPI_Comm_size(local, &machine.ranks);
  MPI_Comm_rank(local, &machine.rank);
  cpu_set_t mine, all;
  CPU_ZERO(&mine);
  CPU_ZERO(&all);
  sched_getaffinity(0, sizeof(mine), &mine);
  MPI_Allreduce(&mine, &all, sizeof(mine), MPI_BYTE, MPI_BOR, local);
  MPI_Comm_free(&local);
  // The mask is empty on machines with more processors than it holds.
  machine.cores = std::max(static_cast<int>(std::thread::hardware_concurrency()), CPU_COUNT(&all));
  return machine;
}

}  // namespace so3krates::ranks
