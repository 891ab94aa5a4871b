// What the pair style does where atoms are nearer, or forces larger, than in the potential's training data.
#pragma once

#include <lammps/lammps.h>

#include <string>
#include <vector>

#include "evaluator.h"

namespace so3krates::deck {

using LAMMPS_NS::LAMMPS;

class PairGuard {
 public:
  enum class Mode { off, warn, stop };

  explicit PairGuard(LAMMPS* lmp) : lmp_(lmp) {}

  // "off", "warn" or "stop"; false: none of them.
  bool choose(const std::string& word);
  bool is_on() const { return mode_ != Mode::off; }
  // A run begins: what has been said may be said again.
  void begin_run() { has_said_pair_ = has_said_force_ = false; }
  // Of a step. Says what is farthest from the training data, once in a run, or ends the run. All ranks come here.
  void look(const Sighting* sighting, const StructureError::NameOf& name_of);
  // A line for the log: what is looked at. elements: which of the bundle's atoms have.
  std::string description(const Bundle& bundle, const std::vector<bool>& elements) const;

 private:
  void say(const std::string& what, int rank) const;

  LAMMPS* lmp_;
  Mode mode_ = Mode::warn;
  bool has_said_pair_ = false, has_said_force_ = false;
};

}  // namespace so3krates::deck
