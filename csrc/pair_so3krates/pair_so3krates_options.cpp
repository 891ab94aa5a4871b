// What the words of pair_style mean.
#include <lammps/error.h>

#include "deck_checks.h"
#include "pair_so3krates.h"

using namespace LAMMPS_NS;

namespace {

constexpr bigint EVERY = 10;  // steps between looks at what costs more than a step

}  // namespace

void PairSo3krates::read_options(int narg, char** arg) {
  const char* known =
      "device cpu|cuda|rocm|oneapi[:INDEX], gpu/aware auto|yes|no, threads N, memory SHARE, preallocate yes|no, "
      "deterministic yes|no, cache DIR|off, plugin PATH, shifts yes|no, virials fast|small, guard off|warn|stop "
      "[uncertainty LIMIT [every N]], charge Q, multiplicity M, deviation FILE [every N], save FILE OUTPUT LOW HIGH "
      "[every N [check K]], verbose yes|no";
  options_ = {};
  gpu_aware_.reset();
  charge_.reset();
  multiplicity_.reset();
  guard_.choose("warn");
  guard_.choose_uncertainty(0.0, 1);
  deviation_.choose("", 1);
  save_ = so3krates::deck::PairSave(lmp);
  verbose_ = false;
  // Words that may follow a value: the next one, where it is `word`.
  int i = 0;
  const auto following = [&](const std::string& word) -> const char* {
    if (i >= narg || word != arg[i]) return nullptr;
    if (i + 1 == narg) error->all(FLERR, "pair_style so3krates: {} has no value. Options: {}", word, known);
    return arg[(i += 2) - 1];
  };
  const auto every = [&] {
    const char* steps = following("every");
    const bigint found = steps == nullptr ? EVERY : utils::bnumeric(FLERR, steps, false, lmp);
    if (found < 1) error->all(FLERR, "pair_style so3krates: every {}: give a number of steps of at least 1", found);
    return found;
  };
  while (i < narg) {
    const std::string key = arg[i];
    if (i + 1 == narg) error->all(FLERR, "pair_style so3krates: option '{}' has no value. Options: {}", key, known);
    const std::string value = arg[i + 1];
    so3krates::deck::check_letters(value);
    i += 2;
    if (key == "device")
      options_.device = value;
    else if (key == "gpu/aware")
      gpu_aware_ = value == "auto" ? std::optional<bool>() : utils::logical(FLERR, value, false, lmp) != 0;
    else if (key == "threads")
      options_.threads = utils::inumeric(FLERR, value, false, lmp);
    else if (key == "memory")
      options_.memory = utils::numeric(FLERR, value, false, lmp);
    else if (key == "preallocate")
      options_.preallocate = utils::logical(FLERR, value, false, lmp) != 0;
    else if (key == "deterministic")
      options_.deterministic = utils::logical(FLERR, value, false, lmp) != 0;
    else if (key == "cache")
      options_.cache = value;
    else if (key == "plugin")
      options_.plugin = value;
    else if (key == "shifts")
      options_.shifts = utils::logical(FLERR, value, false, lmp) != 0;
    else if (key == "virials" && value != "fast" && value != "small")
      error->all(FLERR, "pair_style so3krates: virials {}: write fast or small", value);
    else if (key == "virials")
      options_.small_virials = value == "small";
    else if (key == "charge")
      charge_ = utils::inumeric(FLERR, value, false, lmp);
    else if (key == "multiplicity")
      multiplicity_ = utils::inumeric(FLERR, value, false, lmp);
    else if (key == "guard" && !guard_.choose(value))
      error->all(FLERR, "pair_style so3krates: guard {}: write off, warn or stop", value);
    else if (key == "guard") {
      options_.guard = guard_.is_on();
      const char* text = following("uncertainty");
      const double limit = text == nullptr ? 0.0 : utils::numeric(FLERR, text, false, lmp);
      if (text != nullptr && (!(limit > 0.0) || !guard_.is_on()))
        error->all(FLERR, "pair_style so3krates: guard {} uncertainty {}: write warn or stop, and a number above 0",
                   value, text);
      guard_.choose_uncertainty(limit, text == nullptr ? 1 : every());
    } else if (key == "deviation") {
      deviation_.choose(value, every());
    } else if (key == "save") {
      if (i + 3 > narg)
        error->all(FLERR, "pair_style so3krates: save {} wants OUTPUT LOW HIGH. Options: {}", value, known);
      const std::string output = arg[i];
      const double low = utils::numeric(FLERR, arg[i + 1], false, lmp);
      const double high = utils::numeric(FLERR, arg[i + 2], false, lmp);
      i += 3;
      const bigint steps = every();
      const char* check = following("check");
      save_.choose(value, output, low, high, steps, check == nullptr ? 0 : utils::bnumeric(FLERR, check, false, lmp));
    } else if (key == "verbose")
      verbose_ = utils::logical(FLERR, value, false, lmp) != 0;
    else
      error->all(FLERR, "pair_style so3krates: unknown option '{}'. Options: {}", key, known);
  }
  if (options_.threads < 0)
    error->all(FLERR, "pair_style so3krates: threads {} is negative. Give at least 1, or 0 for every core",
               options_.threads);
  if (!(options_.memory > 0.0 && options_.memory <= 1.0))
    error->all(FLERR,
               "pair_style so3krates: memory {} is no share of the GPU's memory. Give a number above 0 and at most 1",
               options_.memory);
  evaluator_.reset();
}
