// The exception types of the runtime.
#pragma once

#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

namespace so3krates {

struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Memory of the host or the device that is not to be had; the message has the size asked for.
struct MemoryError : Error {
  using Error::Error;
};

// What a program was given, and is not for it.
struct ArgumentError : Error {
  using Error::Error;
};

// Positions that cannot be computed, or results that are no numbers. Each host has names of its own for the atoms.
class StructureError : public Error {
 public:
  using NameOf = std::function<std::string(int atom)>;

  // text: with {} for each of the atoms, which are indices into the positions. name_of: names for what().
  StructureError(const std::string& text, const std::vector<int>& atoms, const NameOf& name_of);
  std::string message(const NameOf& name_of) const;
  // Both, one sentence after the other.
  StructureError followed_by(const StructureError& other, const NameOf& name_of) const;
  const std::vector<int>& atoms() const { return atoms_; }

 private:
  std::string text_;
  std::vector<int> atoms_;
};

}  // namespace so3krates
