// Whether the processes that a launcher started together know of each other.
#pragma once

#include <string>

namespace so3krates {

// Empty where they do, or where this process was started alone. Otherwise what is wrong and how to start them: a
// launcher of another MPI (Open MPI's mpiexec with MPICH) makes each process compute the whole system by itself.
// Needs MPI to be initialised.
std::string launcher_problem();

// Another kind of MPI in this process than the plugin was compiled for, whose handles mean nothing to it; empty: the
// same. Calls nothing of MPI.
std::string mpi_problem();

}  // namespace so3krates
