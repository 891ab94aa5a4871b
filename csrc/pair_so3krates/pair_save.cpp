#include "pair_save.h"

#include <lammps/comm.h>
#include <lammps/error.h>
#include <lammps/timer.h>
#include <lammps/update.h>

#include <algorithm>

#include "deck_checks.h"
#include "ranks.h"

namespace so3krates::deck {

void PairSave::choose(const std::string& path, const std::string& output, double low, double high, bigint every,
                      bigint check) {
  path_ = path;
  output_ = output;
  low_ = low;
  high_ = high;
  every_ = every;
  check_ = check;
  has_ended_ = false;
  step_ = -1;
  if (!(low_ >= 0.0 && high_ > low_))
    lmp_->error->all(FLERR,
                     "pair_style so3krates: save {} {} {:g} {:g}: frames are kept above the first number and the run "
                     "ends above the second. Give a second one that is larger than the first, and none below zero",
                     path_, output_, low_, high_);
}

void PairSave::read(const Bundle& bundle) {
  if (path_.empty()) return;
  const auto found = bundle.outputs.find(output_);
  if (found != bundle.outputs.end() && found->second.per_atom && found->second.width == 1 &&
      found->second.problem.empty()) {
    unit_ = units_.name(found->second.unit);
    factor_ = units_.of(found->second.unit);
    return;
  }
  std::string known;
  for (const auto& [name, output] : bundle.outputs)
    if (output.per_atom && output.width == 1 && output.problem.empty()) known += (known.empty() ? "" : ", ") + name;
  lmp_->error->all(
      FLERR,
      "pair_style so3krates: save {}: {} has no output {} with a number for each atom. It has: {}. For uncertainty "
      "export a newly trained model, so3krates export MODEL -o potential.so3k; for committee_forces a committee",
      path_, bundle.path, output_, known);
}

void PairSave::begin_run() const {
  if (path_.empty()) return;
  ranks::reported_together(lmp_, [&] {
    if (lmp_->comm->me == 0 && !takes_frames(path_))
      throw Error(fmt::format(
          "save {}: a file of this name is there, and it is none of frames that were saved. Give another name", path_));
  });
}

bool PairSave::is_due() const {
  return !path_.empty() && lmp_->update->ntimestep % every_ == 0;
}

void PairSave::request(std::vector<std::string>& outputs) const {
  if (is_due()) outputs.push_back(output_);
}

void PairSave::keep(const Computed& computed) {
  const bigint step = lmp_->update->ntimestep;
  if (!is_due() || step == step_ || has_ended_ || is_on_trial(lmp_)) return;
  step_ = step;
  struct Place {
    double value;
    int rank;
  };
  const int me = lmp_->comm->me;
  Place own = {0.0, me}, most = own;
  const double* values = computed.results.find(output_);
  const double* largest = std::max_element(values, values + computed.owned);
  if (computed.owned > 0) own.value = most.value = *largest;
  if (lmp_->comm->nprocs > 1) MPI_Allreduce(&own, &most, 1, MPI_DOUBLE_INT, MPI_MAXLOC, lmp_->world);
  looks_++;
  all_looks_++;
  const double largest_here = factor_ * most.value;
  largest_ = std::max(largest_, largest_here);
  const bool is_above = largest_here > low_, is_check = check_ > 0 && all_looks_ % check_ == 0;
  if (!is_above && !is_check) return;
  found_ += is_above ? 1 : 0;
  const std::string comment = fmt::format("largest_{}={:.9g} look={} above={} check={}", output_, most.value,
                                          all_looks_, is_above ? "T" : "F", is_check ? "T" : "F");
  const std::string problem = write_frame(lmp_, computed, path_, true, comment, output_);
  if (!problem.empty())
    throw Error(fmt::format("step {}: save {}: the frame could not be written ({}). Make room, or give another name",
                            step, path_, problem));
  if (!(largest_here > high_)) return;
  has_ended_ = true;
  lmp_->timer->force_timeout();
  if (me == 0)
    LAMMPS_NS::utils::logmesg(lmp_, "So3krates: step {}: {} is {:.4g} {} on an atom, above {:g}: the run ends here\n",
                              step, output_, largest_here, unit_, high_);
}

std::string PairSave::summary() {
  if (path_.empty() || looks_ == 0) return {};
  std::string text = fmt::format("{} was above {:g} {} in {} of {} frames, at most {:.4g}; kept in {}", output_, low_,
                                 unit_, found_, looks_, largest_, path_);
  looks_ = found_ = 0;
  largest_ = 0.0;
  return text;
}

}  // namespace so3krates::deck
