#include "pair_guard.h"

#include <lammps/comm.h>
#include <lammps/error.h>
#include <lammps/update.h>

#include "deck_checks.h"
#include "guard.h"

using namespace LAMMPS_NS;

namespace so3krates::deck {

bool PairGuard::choose(const std::string& word) {
  if (word != "off" && word != "warn" && word != "stop") return false;
  mode_ = word == "off" ? Mode::off : word == "warn" ? Mode::warn : Mode::stop;
  return true;
}

void PairGuard::look(const Sighting* sighting, const StructureError::NameOf& name_of) {
  if (mode_ == Mode::off || sighting == nullptr || (has_said_pair_ && has_said_force_)) return;
  // Smaller is farther from the data: the ratio of a distance, and less than minus the margin for a force.
  struct Place {
    double value;
    int rank;
  };
  const int me = lmp_->comm->me;
  const double force = sighting->seen_force > 0.0 ? sighting->force / sighting->seen_force : 0.0;
  Place own[2] = {{sighting->closest_ratio, me}, {-force, me}}, worst[2] = {own[0], own[1]};
  if (lmp_->comm->nprocs > 1) MPI_Allreduce(own, worst, 2, MPI_DOUBLE_INT, MPI_MINLOC, lmp_->world);
  const bool has_pair = !has_said_pair_ && worst[0].value < kGuardDistance;
  const bool has_force = !has_said_force_ && worst[1].value < -kGuardForce;
  // A trial of Monte Carlo may be of any structure: those that are not taken do no harm.
  if ((!has_pair && !has_force) || is_on_trial(lmp_)) return;
  if (has_pair) say(worst[0].rank == me ? sighting->about_pair(name_of).what() : "", worst[0].rank);
  if (has_force) say(worst[1].rank == me ? sighting->about_force(name_of).what() : "", worst[1].rank);
  has_said_pair_ = has_said_pair_ || has_pair;
  has_said_force_ = has_said_force_ || has_force;
}

// what: on that rank.
void PairGuard::say(const std::string& what, int rank) const {
  std::string text = what;
  int length = static_cast<int>(text.size());
  MPI_Bcast(&length, 1, MPI_INT, rank, lmp_->world);
  text.resize(length);
  MPI_Bcast(text.data(), length, MPI_CHAR, rank, lmp_->world);
  const std::string begin = fmt::format("pair_style so3krates: step {}: {}. ", lmp_->update->ntimestep, text);
  if (mode_ == Mode::stop)
    lmp_->error->all(FLERR,
                     "{}Look at what moved the atoms there, use a smaller timestep, or train on such structures. To go "
                     "on regardless: guard warn",
                     begin);
  if (lmp_->comm->me == 0)
    lmp_->error->warning(
        FLERR,
        "{}Said once in a run (guard stop ends it, guard off says nothing); if it is not meant so, use "
        "a smaller timestep or train on such structures",
        begin);
}

std::string PairGuard::description(const Bundle& bundle, const std::vector<bool>& elements) const {
  if (mode_ == Mode::off) return "off";
  const Limits& limits = bundle.limits;
  if (limits.distances.empty())
    return "none, as the file does not say how near atoms are in its training data: export a newly trained model";
  std::string pairs, unseen;
  for (std::size_t i = 0; i < elements.size(); i++)
    for (std::size_t j = i; j < elements.size(); j++) {
      if (!elements[i] || !elements[j]) continue;
      const double distance = limits.distances[i * elements.size() + j];
      const std::string pair = bundle.elements[i] + "-" + bundle.elements[j];
      if (distance > 0.0)
        pairs += fmt::format("{}{} {:.3g} A", pairs.empty() ? "" : ", ", pair, kGuardDistance * distance);
      else
        unseen += (unseen.empty() ? "" : ", ") + pair;
    }
  std::string text = mode_ == Mode::stop ? "stops at pairs below " : "warns of pairs below ";
  text += pairs;
  if (limits.largest_force > 0.0) text += fmt::format(", forces above {:.3g} eV/A", kGuardForce * limits.largest_force);
  if (!unseen.empty()) text += "; not of " + unseen + ", which are never neighbours in the training data";
  return text;
}

}  // namespace so3krates::deck
