#include "exchange.h"

#include <dlfcn.h>

#include <algorithm>
#include <numeric>
#include <optional>

namespace so3krates::ranks {
namespace {

constexpr int kTag = 7323;                     // no message of LAMMPS is under way meanwhile
constexpr std::size_t kLargest = 1024L << 20;  // bytes of an MPI message, whose count is an int

// What MPI says of GPUs of NVIDIA, where it says anything. These calls are extensions: Open MPI has the first, MPICH
// both.
std::optional<bool> takes_cuda() {
  if (void* query = dlsym(RTLD_DEFAULT, "MPIX_Query_cuda_support")) return reinterpret_cast<int (*)()>(query)() != 0;
  if (void* query = dlsym(RTLD_DEFAULT, "MPIX_GPU_query_support")) {
    constexpr int kCuda = 0;
    int is_supported = 0;
    if (reinterpret_cast<int (*)(int, int*)>(query)(kCuda, &is_supported) == MPI_SUCCESS) return is_supported != 0;
  }
  return std::nullopt;
}

// Where each rank's part of a list begins.
std::vector<int> places_of(const std::vector<int>& counts) {
  std::vector<int> places(counts.size());
  std::exclusive_scan(counts.begin(), counts.end(), places.begin(), 0);
  return places;
}

std::vector<int> told_by_all(const std::vector<int>& told, MPI_Comm world) {
  std::vector<int> heard(told.size());
  MPI_Alltoall(told.data(), 1, MPI_INT, heard.data(), 1, MPI_INT, world);
  return heard;
}

}  // namespace

DeviceMemory device_memory(std::optional<bool> wanted, const std::string& device, int ranks_here) {
  if (wanted == false) return {false, "gpu/aware is no"};
  if (device == "cpu") return {true, "this device's memory is the host's"};
  const std::optional<bool> known = device.rfind("cuda", 0) == 0 ? takes_cuda() : std::nullopt;
  if (known == true && wanted == true) return {true, "MPI takes it"};
  if (known == true) return {true, "MPI takes it", "", ranks_here > 1};
  const std::string doubt =
      known ? "MPI says that it does not take GPU memory" : "MPI does not say whether it takes GPU memory";
  if (wanted == true)
    return {true, "gpu/aware is yes",
            "gpu/aware is yes, but " + doubt +
                ". If the run crashes, write gpu/aware no, or use an MPI that was built for "
                "GPUs, with this switched on (MPICH: MPIR_CVAR_ENABLE_GPU=1)"};
  return {false, doubt + ". If it does, write: gpu/aware yes"};
}

void Exchange::plan(const std::vector<std::pair<int, int>>& others) {
  int ranks = 1;
  MPI_Comm_size(world_, &ranks);
  std::vector<int> wanted, received(ranks);
  for (const auto& [rank, row] : others) {
    ++received[rank];
    wanted.push_back(row);
  }
  const std::vector<int> sent = told_by_all(received, world_);
  const std::vector<int> from = places_of(received), to = places_of(sent);
  sent_rows_.resize(to.back() + sent.back());
  MPI_Alltoallv(wanted.data(), received.data(), from.data(), MPI_INT, sent_rows_.data(), sent.data(), to.data(),
                MPI_INT, world_);
  const std::vector<int> sent_places = told_by_all(from, world_), received_places = told_by_all(to, world_);

  peers_.clear();
  for (int rank = 0; rank < ranks; rank++)
    if (sent[rank] + received[rank] > 0)
      peers_.push_back(
          {rank, sent_rows_.data() + to[rank], sent[rank], received[rank], sent_places[rank], received_places[rank]});
}

void Exchange::exchange(const std::vector<Message>& sent, const std::vector<Message>& received) {
  std::vector<MPI_Request> requests;
  const auto start = [&](const std::vector<Message>& messages, auto&& begin) {
    for (const Message& message : messages)
      for (std::size_t done = 0, bytes; done < message.bytes; done += bytes) {
        bytes = std::min(message.bytes - done, kLargest);
        requests.emplace_back();
        begin(static_cast<char*>(message.data) + done, static_cast<int>(bytes), MPI_BYTE, message.rank, kTag, world_,
              &requests.back());
      }
  };
  start(received, MPI_Irecv);
  start(sent, MPI_Isend);
  MPI_Waitall(static_cast<int>(requests.size()), requests.data(), MPI_STATUSES_IGNORE);
}

void Exchange::reduce(double* values, std::size_t count) {
  MPI_Allreduce(MPI_IN_PLACE, values, static_cast<int>(count), MPI_DOUBLE, MPI_SUM, world_);
}

}  // namespace so3krates::ranks
