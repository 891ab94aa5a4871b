// A C++ face of the PJRT C API: plugin, client, buffers, executables. Every failure becomes an Error
// "<operation> failed: <reason>". Knows nothing of bundles or atoms.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "bundle.h"

struct PJRT_Api;
struct PJRT_Buffer;
struct PJRT_Client;
struct PJRT_Device;
struct PJRT_Event;
struct PJRT_LoadedExecutable;

namespace so3krates::pjrt {

class Buffer;
class Client;
class Executable;

// What a device is still to do; its end is awaited in any case. Move-only.
class Pending {
 public:
  Pending(Pending&& other) noexcept;
  Pending& operator=(Pending&&) = delete;
  ~Pending();
  void wait();

 private:
  friend class Buffer;
  Pending(const PJRT_Api* api, PJRT_Event* event, const char* operation)
      : api_(api), event_(event), operation_(operation) {}
  const PJRT_Api* api_;
  PJRT_Event* event_;
  const char* operation_;
};

// Name and value of everything that a plugin, opened if need be, says of itself. Needs no device.
std::map<std::string, std::string> plugin_attributes(const std::string& path);
// Version of the PJRT C API that a plugin, opened if need be, speaks, e.g. "0.90".
std::string api_version(const std::string& path);

// Host memory that a device reaches itself; goes before that memory does. Move-only.
class Pin {
 public:
  Pin() = default;
  Pin(Pin&& other) noexcept;
  Pin& operator=(Pin&& other) noexcept;
  ~Pin();
  explicit operator bool() const { return data_ != nullptr; }

 private:
  friend class Client;
  Pin(std::shared_ptr<Client> client, void* data);
  void release() noexcept;
  std::shared_ptr<Client> client_;
  void* data_ = nullptr;
};

struct ClientOptions {
  std::string plugin;            // path of the shared library
  int device_index = 0;          // among the client's addressable devices
  int threads = 0;               // passed to the CPU plugin; ignored by others
  std::string platform = "cpu";  // that the plugin is for: "cpu", "cuda", "rocm" or "oneapi"
  // Of a GPU: the most of its memory that is taken, and whether all of it is taken at once.
  double memory_fraction = 0.9;
  bool preallocate = false;
  // Of a GPU: programs that are the same whenever and wherever they are compiled; else XLA times kernels and chooses.
  bool deterministic = true;
};

// Serialised xla.CompileOptionsProto of every program; cuda_folder: with ptxas and NVIDIA's device library, may be
// empty.
std::string compile_options(bool deterministic, const std::string& cuda_folder = "");

// A device of a plugin. Buffers and executables keep it alive.
class Client : public std::enable_shared_from_this<Client> {
 public:
  static std::shared_ptr<Client> create(const ClientOptions& options);
  ~Client();

  std::string platform() const;  // e.g. "cpu", "cuda"
  // Identifies plugin build and device kind (on a CPU also the instruction set): part of the key of a compile cache.
  std::string fingerprint() const;
  std::string device_kind() const;

  // A device array with the values of `data` (dense, row-major). The memory must stay unchanged and alive as long as
  // the buffer: a CPU aliases it when it is 64-byte aligned.
  Buffer borrow(const void* data, DType dtype, const std::vector<std::int64_t>& shape);
  // A device array with undefined values; on a CPU no page of it is touched.
  Buffer allocate(DType dtype, const std::vector<std::int64_t>& shape);
  // Compiles a StableHLO portable artifact.
  Executable compile(const std::uint8_t* artifact, std::size_t bytes, const std::string& name);
  // The inverse of Executable::serialise, on the same kind of machine.
  Executable load(const std::string& serialised, const std::string& name);
  // Lets the device reach that host memory itself, without copies by way of the plugin's own, until the pin is gone.
  Pin pin(void* data, std::size_t bytes);

 private:
  friend class Pin;
  friend class Buffer;
  friend class Executable;
  Client() = default;
  ClientOptions options_;
  std::string compile_options_;  // empty until the first program is compiled
  const PJRT_Api* api_ = nullptr;
  PJRT_Client* client_ = nullptr;
  PJRT_Device* device_ = nullptr;
};

// Move-only.
class Buffer {
 public:
  Buffer() = default;
  Buffer(Buffer&& other) noexcept;
  Buffer& operator=(Buffer&& other) noexcept;
  ~Buffer();

  explicit operator bool() const { return buffer_ != nullptr; }
  // The values' being there.
  Pending ready() const;
  void wait() const { ready().wait(); }
  // Copies the first `bytes` bytes of the values to `destination` as soon as they are there.
  Pending start_download(void* destination, std::size_t bytes) const;
  // The same, and waits for its end.
  void download(void* destination, std::size_t bytes) const;
  // On a CPU: waits for the values and returns where they lie; null on other platforms.
  void* host_pointer() const;
  // Waits for the values and returns where they lie in the device's memory.
  void* device_pointer() const;
  // Whether its values are of that type and shape; waits for none.
  bool is(DType dtype, const std::vector<std::int64_t>& shape) const;

 private:
  friend class Client;
  friend class Executable;
  Buffer(std::shared_ptr<Client> client, PJRT_Buffer* buffer, PJRT_Event* host_released);
  void release() noexcept;
  std::shared_ptr<Client> client_;
  PJRT_Buffer* buffer_ = nullptr;
  PJRT_Event* host_released_ = nullptr;  // of borrowed memory: the device reads it no more
};

// Move-only.
class Executable {
 public:
  Executable() = default;
  Executable(Executable&& other) noexcept;
  Executable& operator=(Executable&& other) noexcept;
  ~Executable();

  explicit operator bool() const { return executable_ != nullptr; }
  // Starts the program and returns its results without waiting for their values. An argument that the program
  // donates is consumed: its storage becomes that of a result. Throws ArgumentError for arguments of another program.
  std::vector<Buffer> run(const std::vector<const Buffer*>& arguments) const;
  std::string serialise() const;
  std::size_t temporary_bytes() const;  // scratch memory of one run, 0 where the plugin does not say

 private:
  friend class Client;
  Executable(std::shared_ptr<Client> client, PJRT_LoadedExecutable* executable, std::string name);
  void release() noexcept;
  std::shared_ptr<Client> client_;
  PJRT_LoadedExecutable* executable_ = nullptr;
  std::string name_;
  std::size_t outputs_ = 0;
  mutable std::optional<std::size_t> temporary_bytes_;
};

}  // namespace so3krates::pjrt
