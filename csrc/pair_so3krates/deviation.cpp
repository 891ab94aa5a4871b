#include "deviation.h"

#include <lammps/comm.h>
#include <lammps/error.h>
#include <lammps/update.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <sstream>

#include "ranks.h"

namespace so3krates::deck {
namespace {

constexpr const char* kForces = "committee_forces";
constexpr const char* kVirials = "member_strain_gradients";
constexpr const char* kHeader =
    "#       step         max_devi_v         min_devi_v         avg_devi_v         max_devi_f         min_devi_f"
    "         avg_devi_f\n";
constexpr int kComponents = 9;

// The step of a line that is whole; -1: it is not.
bigint step_of(const std::string& line) {
  std::istringstream words(line);
  bigint step = -1;
  double value = 0.0;
  words >> step;
  int columns = 0;
  while (words >> value) columns++;
  return words.eof() && columns == 6 ? step : -1;
}

// Bytes of the file that stay: up to the last whole line before the step; 0: not even the header.
std::size_t kept(const std::string& path, bigint step) {
  std::ifstream file(path, std::ios::binary);
  std::string line;
  std::getline(file, line);
  const std::string header = kHeader;
  if (file.is_open() && file.eof() && header.rfind(line, 0) == 0) return 0;
  if (line + "\n" != header)
    throw Error(fmt::format(
        "deviation {}: a file of this name is there, and it is none of deviations. Give another name", path));
  std::size_t place = line.size() + 1, end = place;
  while (std::getline(file, line) && !file.eof()) {
    const bigint found = step_of(line);
    place += line.size() + 1;
    if (found >= 0 && found < step) end = place;
  }
  return end;
}

}  // namespace

void PairDeviation::choose(const std::string& path, bigint every) {
  path_ = path;
  every_ = every;
  file_.reset();
  step_ = -1;
}

void PairDeviation::read(const Bundle& bundle) {
  if (path_.empty()) return;
  const auto virials = bundle.outputs.find(kVirials);
  if (virials == bundle.outputs.end() || bundle.outputs.count(kForces) == 0)
    lmp_->error->all(
        FLERR,
        "pair_style so3krates: deviation {}: {} holds a single model, and only those of a committee differ. Train one "
        "with so3krates train --committee 4, and export it: so3krates export models -o committee.so3k",
        path_, bundle.path);
  members_ = static_cast<std::size_t>(virials->second.width / kComponents);
}

bool PairDeviation::is_due() const {
  return !path_.empty() && lmp_->update->ntimestep % every_ == 0;
}

void PairDeviation::request(std::vector<std::string>& outputs) const {
  if (is_due()) outputs.insert(outputs.end(), {kForces, kVirials});
}

void PairDeviation::begin_run() {
  if (path_.empty()) return;
  ranks::reported_together(lmp_, [&] {
    if (lmp_->comm->me == 0 && !file_) open();
  });
}

void PairDeviation::open() {
  const auto refused = [&](const std::string& reason) {
    return Error(
        fmt::format("deviation {}: the file cannot be written ({}). Give another name, or make room", path_, reason));
  };
  std::error_code failure;
  bool is_there = std::filesystem::exists(path_, failure) && std::filesystem::file_size(path_, failure) > 0;
  if (failure) throw refused(failure.message());
  if (is_there) {
    const std::size_t size = kept(path_, lmp_->update->ntimestep);
    std::filesystem::resize_file(path_, size, failure);
    if (failure) throw refused(failure.message());
    is_there = size > 0;
  }
  file_.reset(std::fopen(path_.c_str(), is_there ? "r+b" : "w+b"));
  if (!file_) throw refused(std::strerror(errno));
  if (!is_there && (std::fputs(kHeader, file_.get()) < 0 || std::fflush(file_.get()) != 0))
    throw refused(std::strerror(errno));
  std::fseek(file_.get(), 0, SEEK_END);
  place_ = std::ftell(file_.get());
}

void PairDeviation::keep(const Results& results, int owned) {
  if (!is_due()) return;
  // Atoms of this rank: largest, minus smallest; sum, number; then the members' virials.
  const std::size_t width = kComponents * members_;
  double extremes[2] = {-std::numeric_limits<double>::infinity(), -std::numeric_limits<double>::infinity()};
  std::vector<double> sums(2 + width, 0.0), total(2 + width, 0.0);
  const double* deviations = results.find(kForces);
  for (int row = 0; row < owned; row++) {
    extremes[0] = std::max(extremes[0], deviations[row]);
    extremes[1] = std::max(extremes[1], -deviations[row]);
    sums[0] += deviations[row];
  }
  sums[1] = owned;
  std::copy_n(results.find(kVirials), width, &sums[2]);
  double most[2] = {};
  MPI_Reduce(extremes, most, 2, MPI_DOUBLE, MPI_MAX, 0, lmp_->world);
  MPI_Reduce(sums.data(), total.data(), static_cast<int>(sums.size()), MPI_DOUBLE, MPI_SUM, 0, lmp_->world);
  if (lmp_->comm->me != 0) return;

  const double atoms = total[1], members = static_cast<double>(members_);
  double values[6] = {};
  if (atoms > 0) {
    double squares = 0.0;
    values[1] = std::numeric_limits<double>::infinity();
    for (int k = 0; k < kComponents; k++) {
      double mean = 0.0, spread = 0.0;
      for (std::size_t m = 0; m < members_; m++) mean += total[2 + kComponents * m + k] / members;
      for (std::size_t m = 0; m < members_; m++) spread += std::pow(total[2 + kComponents * m + k] - mean, 2) / members;
      const double deviation = std::sqrt(spread) / atoms;
      values[0] = std::max(values[0], deviation);
      values[1] = std::min(values[1], deviation);
      squares += deviation * deviation;
    }
    values[2] = std::sqrt(squares / kComponents);
    // The output is the sample standard deviation of one component; the file has the norm of three with 1/M.
    const double norm = std::sqrt(3.0 * (members - 1.0) / members);
    values[3] = norm * most[0];
    values[4] = -norm * most[1];
    values[5] = norm * total[0] / atoms;
  }
  write(values);
}

// A step that is evaluated again, as by trials of Monte Carlo or a line search, has the last line alone.
void PairDeviation::write(const double (&values)[6]) {
  const bigint step = lmp_->update->ntimestep;
  std::FILE* file = file_.get();
  if (step == step_)
    std::fseek(file, place_, SEEK_SET);
  else
    place_ = std::ftell(file);
  step_ = step;
  std::string line = fmt::format("{:>12}", step);
  for (const double value : values) line += fmt::format(" {:>18.11e}", units_.energy() * value);
  line += "\n";
  if (std::fwrite(line.data(), 1, line.size(), file) != line.size() || std::fflush(file) != 0)
    throw Error(
        fmt::format("step {}: deviation {}: the line could not be written ({})", step, path_, std::strerror(errno)));
}

}  // namespace so3krates::deck
