// Rows that go between ranks by MPI: which, and how they are carried.
#pragma once

#include <mpi.h>

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "evaluator.h"

namespace so3krates::ranks {

// Whether MPI reads and writes a device's memory.
struct DeviceMemory {
  bool is_taken;
  std::string reason;
  std::string warning = "";
  bool only_shareable = false;  // and of a GPU only what other processes can open
};

// By what the deck wants, if it says so, what MPI knows of itself, and how many ranks this machine has.
DeviceMemory device_memory(std::optional<bool> wanted, const std::string& device, int ranks_here);

class Exchange : public Halo {
 public:
  Exchange(MPI_Comm world, DeviceMemory memory) : world_(world), device_memory_(std::move(memory)) {}

  // others: rank and its row for each row of other ranks that is read here, ascending. All ranks come here.
  void plan(const std::vector<std::pair<int, int>>& others);
  // As the plan has them, valid until the next.
  const std::vector<Peer>& peers() const { return peers_; }

  void exchange(const std::vector<Message>& sent, const std::vector<Message>& received) override;
  bool adds_up() const override { return true; }
  void reduce(double* values, std::size_t count) override;
  bool takes_device_memory() const override { return device_memory_.is_taken; }
  bool takes_only_shareable() const override { return device_memory_.only_shareable; }
  const DeviceMemory& device_memory() const { return device_memory_; }

 private:
  const MPI_Comm world_;
  const DeviceMemory device_memory_;
  std::vector<int> sent_rows_;
  std::vector<Peer> peers_;
};

}  // namespace so3krates::ranks
