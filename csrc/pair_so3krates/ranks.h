// What a rank has to know of the others: how they end a run together, and which share its machine.
#pragma once

#include <lammps/comm.h>
#include <lammps/error.h>
#include <lammps/lammps.h>

#include <string>

#include "error.h"

namespace so3krates::ranks {

using LAMMPS_NS::LAMMPS;

// Ends the run. On one rank cleanly, so that a Python program may go on; where other ranks may wait for this one, at
// once. Ranks that fail together are ended by the lowest, before the others have anything to say.
[[noreturn]] void fail(LAMMPS* lmp, const std::string& message);

constexpr const char* NO_MEMORY = "pair_style so3krates: there is no memory left, not even for this message";

// The words of the exception that is being handled. Empty where there is no memory for them.
std::string failure_in_hand(LAMMPS* lmp) noexcept;

// Calls `call` and turns whatever it throws into LAMMPS' error, but for what is one already.
template <typename Call>
auto reported(LAMMPS* lmp, Call&& call) {
  try {
    return call();
  } catch (const LAMMPS_NS::LAMMPSException&) {
    throw;
  } catch (...) {
    fail(lmp, failure_in_hand(lmp));
  }
}

// The same where all ranks come to: if it fails on any of them, all end together with one message, the lowest rank's.
template <typename Call>
void reported_together(LAMMPS* lmp, Call&& call) {
  std::string message;
  int failed = lmp->comm->nprocs;
  try {
    call();
  } catch (const LAMMPS_NS::LAMMPSException&) {
    throw;
  } catch (...) {
    message = failure_in_hand(lmp);
    failed = lmp->comm->me;
  }
  int first = failed;
  MPI_Allreduce(&failed, &first, 1, MPI_INT, MPI_MIN, lmp->world);
  if (first == lmp->comm->nprocs) return;
  int length = static_cast<int>(message.size());
  MPI_Bcast(&length, 1, MPI_INT, first, lmp->world);
  message.resize(length);
  MPI_Bcast(message.data(), length, MPI_CHAR, first, lmp->world);
  lmp->error->all(FLERR, message.empty() ? NO_MEMORY : message);
}

// Ranks on this rank's machine, and which of them it is.
struct Machine {
  int ranks = 1, rank = 0;
  int threads = 1;  // for this rank: its part of the cores that it and others may use
  int cores = 1;    // that they may use together
};

// Called by all ranks.
Machine machine_of(LAMMPS* lmp);

}  // namespace so3krates::ranks
