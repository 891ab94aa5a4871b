#include "pair_guard.h"

#include <lammps/comm.h>
#include <lammps/error.h>
#include <lammps/universe.h>
#include <lammps/update.h>

#include <algorithm>

#include "deck_checks.h"
#include "guard.h"

using namespace LAMMPS_NS;

namespace so3krates::deck {
namespace {

constexpr const char* kUncertainty = "uncertainty";
constexpr const char* kUnit = "eV/A";

// The text of one rank, on all.
std::string shared(const std::string& own, int rank, MPI_Comm world) {
  std::string text = own;
  int length = static_cast<int>(text.size());
  MPI_Bcast(&length, 1, MPI_INT, rank, world);
  text.resize(length);
  MPI_Bcast(text.data(), length, MPI_CHAR, rank, world);
  return text;
}

}  // namespace

bool PairGuard::choose(const std::string& word) {
  if (word != "off" && word != "warn" && word != "stop") return false;
  mode_ = word == "off" ? Mode::off : word == "warn" ? Mode::warn : Mode::stop;
  return true;
}

void PairGuard::choose_uncertainty(double limit, bigint every) {
  uncertainty_ = limit;
  every_ = every;
}

void PairGuard::read(const Bundle& bundle) const {
  if (mode_ == Mode::off || uncertainty_ == 0.0) return;
  const auto found = bundle.outputs.find(kUncertainty);
  if (found == bundle.outputs.end() || !found->second.problem.empty())
    lmp_->error->all(
        FLERR,
        "pair_style so3krates: guard uncertainty {:g}: {} tells no uncertainties. Export the model without "
        "--no-uncertainty: so3krates export MODEL -o potential.so3k; one that was trained before models "
        "had them has to be trained again",
        uncertainty_, bundle.path);
}

bool PairGuard::looks_at_uncertainty() const {
  return mode_ != Mode::off && uncertainty_ > 0.0 && lmp_->update->ntimestep % every_ == 0;
}

void PairGuard::request(std::vector<std::string>& outputs) const {
  if (looks_at_uncertainty()) outputs.emplace_back(kUncertainty);
}

void PairGuard::look(const Computed& computed) {
  const Sighting* sighting = computed.results.sighting;
  const bool looks = looks_at_uncertainty() && !has_said_uncertainty_;
  const bool has_limits = sighting != nullptr && !(has_said_pair_ && has_said_force_);
  if (mode_ == Mode::off || (!looks && !has_limits)) return;
  // Smaller is farther from the data: the ratio of a distance, and less than minus the margin for a force.
  struct Place {
    double value;
    int rank;
  };
  const int me = lmp_->comm->me;
  Place own[3] = {{1.0, me}, {0.0, me}, {0.0, me}};
  if (has_limits) {
    own[0].value = sighting->closest_ratio;
    own[1].value = sighting->seen_force > 0.0 ? -sighting->force / sighting->seen_force : 0.0;
  }
  const double* values = looks ? computed.results.find(kUncertainty) : nullptr;
  const auto most = looks ? std::max_element(values, values + computed.owned) - values : 0;
  const double unit = units_.of(kUnit);
  if (looks && computed.owned > 0) own[2].value = -unit * values[most];
  Place worst[3] = {own[0], own[1], own[2]};
  if (lmp_->comm->nprocs > 1) MPI_Allreduce(own, worst, 3, MPI_DOUBLE_INT, MPI_MINLOC, lmp_->world);
  const bool has_pair = has_limits && !has_said_pair_ && worst[0].value < kGuardDistance;
  const bool has_force = has_limits && !has_said_force_ && worst[1].value < -kGuardForce;
  const bool is_uncertain = looks && worst[2].value < -uncertainty_;
  // A trial of Monte Carlo may be of any structure: those that are not taken do no harm.
  if ((!has_pair && !has_force && !is_uncertain) || is_on_trial(lmp_)) return;
  const auto& name_of = computed.name_of;
  if (has_pair) say(worst[0].rank == me ? sighting->about_pair(name_of).what() : "", worst[0].rank, computed);
  if (has_force) say(worst[1].rank == me ? sighting->about_force(name_of).what() : "", worst[1].rank, computed);
  if (is_uncertain)
    say(worst[2].rank == me
            ? fmt::format("the uncertainty of the force on {0} is {1:.4g} {2}, more than the {3:g} {2} that "
                          "guard allows",
                          name_of(computed.atom_of_row[most]), unit * values[most], units_.name(kUnit), uncertainty_)
            : "",
        worst[2].rank, computed);
  has_said_pair_ = has_said_pair_ || has_pair;
  has_said_force_ = has_said_force_ || has_force;
  has_said_uncertainty_ = has_said_uncertainty_ || is_uncertain;
}

// what: on that rank.
void PairGuard::say(const std::string& what, int rank, const Computed& computed) const {
  const std::string text = shared(what, rank, lmp_->world);
  const std::string begin = fmt::format("pair_style so3krates: step {}: {}. ", lmp_->update->ntimestep, text);
  if (mode_ == Mode::stop)
    lmp_->error->all(FLERR,
                     "{}{}Look at what moved the atoms there, use a smaller timestep, or train on such structures. To "
                     "go on regardless: guard warn",
                     begin, written(text, computed));
  if (lmp_->comm->me == 0)
    lmp_->error->warning(
        FLERR,
        "{}Said once in a run (guard stop ends it, guard off says nothing); if it is not meant so, use "
        "a smaller timestep or train on such structures",
        begin);
}

// Writes the frame, and says where it is.
std::string PairGuard::written(const std::string& reason, const Computed& computed) const {
  const auto& universe = *lmp_->universe;
  const std::string part = universe.existflag != 0 ? fmt::format("-partition-{}", universe.iworld) : "";
  const std::string path = fmt::format("guard-step-{}{}.extxyz", lmp_->update->ntimestep, part);
  const std::string output = looks_at_uncertainty() ? kUncertainty : "";
  const std::string problem = write_frame(lmp_, computed, path, false, fmt::format("reason=\"{}\"", reason), output);
  return shared(problem.empty() ? fmt::format("The frame is in {}. ", path)
                                : fmt::format("The frame could not be written to {} ({}). ", path, problem),
                0, lmp_->world);
}

std::string PairGuard::description(const Bundle& bundle, const std::vector<bool>& elements) const {
  if (mode_ == Mode::off) return "off";
  const Limits& limits = bundle.limits;
  const std::string uncertain = uncertainty_ > 0.0 ? fmt::format("uncertainties above {:g} {} on every {} steps",
                                                                 uncertainty_, units_.name(kUnit), every_)
                                                   : "";
  const std::string begin = mode_ == Mode::stop ? "stops at " : "warns of ";
  if (limits.distances.empty())
    return (uncertain.empty() ? "none" : begin + uncertain + "; not of distances and forces") +
           ", as the file does not say how near atoms are in its training data: export a newly trained model";
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
  std::string text = begin + "pairs below " + pairs;
  if (limits.largest_force > 0.0) text += fmt::format(", forces above {:.3g} eV/A", kGuardForce * limits.largest_force);
  if (!uncertain.empty()) text += ", " + uncertain;
  if (!unseen.empty()) text += "; not of " + unseen + ", which are never neighbours in the training data";
  return text;
}

}  // namespace so3krates::deck
