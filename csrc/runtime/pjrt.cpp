// The device, its arrays and its programs by calls of the PJRT C API, which are here and in pjrt_plugin.cpp alone.
#include "pjrt.h"

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <system_error>
#include <utility>

#include "cuda_driver.h"
#include "environment.h"
#include "gpu_drivers.h"
#include "host_cpu.h"
#include "pjrt_api.h"
#include "plugin_search.h"
#include "sha256.h"
#include "thread_sanitizer.h"
#include "xla_flags.h"

namespace so3krates::pjrt {
namespace {

void destroy(const PJRT_Api* api, PJRT_Event* event) noexcept {
  auto args = SIZED(PJRT_Event_Destroy_Args);
  args.event = event;
  call_quietly(api, &PJRT_Api::PJRT_Event_Destroy, args);
}

void await(const PJRT_Api* api, PJRT_Event* event, const std::string& operation) {
  if (event == nullptr) return;
  auto args = SIZED(PJRT_Event_Await_Args);
  args.event = event;
  PJRT_Error* error = api->PJRT_Event_Await(&args);
  tsan_acquire(&xla_order);
  destroy(api, event);
  check(api, error, operation);
}

PJRT_NamedValue option(const char* name, PJRT_NamedValue_Type type) {
  auto value = SIZED(PJRT_NamedValue);
  value.name = name;
  value.name_size = std::strlen(name);
  value.type = type;
  value.value_size = 1;
  return value;
}

int threads_of(const ClientOptions& options) {
  return options.threads > 0 ? options.threads : cores_of_process().usable();
}

// ---- values

PJRT_Buffer_Type buffer_type(DType dtype) {
  switch (dtype) {
    case DType::u8:
      return PJRT_Buffer_Type_U8;
    case DType::i32:
      return PJRT_Buffer_Type_S32;
    case DType::f32:
      return PJRT_Buffer_Type_F32;
    case DType::f64:
      return PJRT_Buffer_Type_F64;
  }
  throw Error("unknown dtype " + std::to_string(static_cast<int>(dtype)));
}

std::string platform_version(const PJRT_Api* api, PJRT_Client* client) {
  auto args = SIZED(PJRT_Client_PlatformVersion_Args);
  args.client = client;
  call(api, &PJRT_Api::PJRT_Client_PlatformVersion, args, "reading the platform's version");
  return {args.platform_version, args.platform_version_size};
}

// The description of a loaded executable; freed with it.
class Description {
 public:
  Description(const PJRT_Api* api, PJRT_LoadedExecutable* executable, const std::string& operation) : api_(api) {
    auto args = SIZED(PJRT_LoadedExecutable_GetExecutable_Args);
    args.loaded_executable = executable;
    call(api, &PJRT_Api::PJRT_LoadedExecutable_GetExecutable, args, operation);
    executable_ = args.executable;
  }
  ~Description() {
    auto args = SIZED(PJRT_Executable_Destroy_Args);
    args.executable = executable_;
    call_quietly(api_, &PJRT_Api::PJRT_Executable_Destroy, args);
  }
  Description(const Description&) = delete;
  Description& operator=(const Description&) = delete;
  PJRT_Executable* get() const { return executable_; }

 private:
  const PJRT_Api* api_;
  PJRT_Executable* executable_ = nullptr;
};

}  // namespace

// ---- client

std::shared_ptr<Client> Client::create(const ClientOptions& options) {
  std::shared_ptr<Client> client(new Client);
  client->options_ = options;
  client->options_.threads = threads_of(options);
  const PJRT_Api* api = client->api_ = plugin(options.plugin);

  std::vector<PJRT_NamedValue> create_options;
  std::optional<ScopedEnvironment> pool_size;
  std::size_t device_index = static_cast<std::size_t>(options.device_index);
  const std::int64_t visible_device = options.device_index;
  if (is_gpu(api)) {
    check_gpu(options.platform, options.device_index, options.plugin);  // XLA's own message says less
    // Other cards are not touched.
    create_options.push_back(option("visible_devices", PJRT_NamedValue_kInt64List));
    create_options.back().int64_array_value = &visible_device;
    create_options.push_back(option("preallocate", PJRT_NamedValue_kBool));
    create_options.back().bool_value = options.preallocate;
    create_options.push_back(option("memory_fraction", PJRT_NamedValue_kFloat));
    create_options.back().float_value = static_cast<float>(options.memory_fraction);
    device_index = 0;
  } else {
    create_options.push_back(option("cpu_device_count", PJRT_NamedValue_kInt64));  // XLA makes four otherwise
    create_options.back().int64_value = 1;
    // XLA reads the size of its pool of threads from one of these, and has no option for it.
    const std::string threads = std::to_string(threads_of(options));
    pool_size.emplace(std::initializer_list<Variable>{{"PJRT_NPROC", threads}, {"NPROC", threads}});
  }
  auto args = SIZED(PJRT_Client_Create_Args);
  args.create_options = create_options.data();
  args.num_options = create_options.size();
  call(api, &PJRT_Api::PJRT_Client_Create, args, "starting the device of " + options.plugin);
  pool_size.reset();
  client->client_ = args.client;

  auto devices = SIZED(PJRT_Client_AddressableDevices_Args);
  devices.client = client->client_;
  call(api, &PJRT_Api::PJRT_Client_AddressableDevices, devices, "listing devices");
  if (options.device_index < 0 || device_index >= devices.num_addressable_devices)
    throw Error("device " + std::to_string(options.device_index) + " was asked for, and " + options.plugin + " has " +
                std::to_string(devices.num_addressable_devices) + ", counted from 0");
  client->device_ = devices.addressable_devices[device_index];
  return client;
}

Client::~Client() {
  if (client_ == nullptr) return;
  auto args = SIZED(PJRT_Client_Destroy_Args);
  args.client = client_;
  call_quietly(api_, &PJRT_Api::PJRT_Client_Destroy, args);
}

std::string Client::platform() const {
  auto args = SIZED(PJRT_Client_PlatformName_Args);
  args.client = client_;
  call(api_, &PJRT_Api::PJRT_Client_PlatformName, args, "reading the platform's name");
  std::string name(args.platform_name, args.platform_name_size);
  for (char& c : name) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));  // some write CUDA
  return name == "sycl" ? "oneapi" : name;
}

std::string Client::device_kind() const {
  if (platform() == "cpu") return host_cpu().model;
  auto description = SIZED(PJRT_Device_GetDescription_Args);
  description.device = device_;
  call(api_, &PJRT_Api::PJRT_Device_GetDescription, description, "reading the device's description");
  auto kind = SIZED(PJRT_DeviceDescription_Kind_Args);
  kind.device_description = description.device_description;
  call(api_, &PJRT_Api::PJRT_DeviceDescription_Kind, kind, "reading the device's kind");
  return {kind.device_kind, kind.device_kind_size};
}

std::string Client::fingerprint() const {
  std::string text = platform() + "; " + platform_version(api_, client_) + "; " + device_kind();
  for (const auto& [name, value] : attributes(api_)) text += "; " + name + " " + value;
  std::error_code error;
  const auto size = std::filesystem::file_size(options_.plugin, error);
  const auto written =
      error ? std::filesystem::file_time_type() : std::filesystem::last_write_time(options_.plugin, error);
  if (error) throw Error("reading the plugin's size failed: " + options_.plugin + ": " + error.message());
  text += "; plugin " + std::to_string(size) + " bytes of " + std::to_string(written.time_since_epoch().count());
  if (platform() == "cpu") {  // XLA compiles for the instructions at hand and splits loops by the number of threads
    const std::string& instructions = host_cpu().instructions;
    text += "; instructions " + sha256_hex(instructions.data(), instructions.size()) + "; " +
            std::to_string(threads_of(options_)) + " threads";
  }
  // XLA times kernels of the driver's, unless it is told not to.
  if (is_gpu(api_) && options_.platform == "cuda") text += "; driver " + std::to_string(cuda::driver_version());
  if (is_gpu(api_) && options_.deterministic) text += "; deterministic";
  if (const char* flags = std::getenv("XLA_FLAGS")) text += std::string("; XLA_FLAGS ") + flags;
  return text;
}

Buffer Client::borrow(const void* data, DType dtype, const std::vector<std::int64_t>& shape) {
  auto args = SIZED(PJRT_Client_BufferFromHostBuffer_Args);
  args.client = client_;
  args.data = data;
  args.type = buffer_type(dtype);
  args.dims = shape.data();
  args.num_dims = shape.size();
  args.host_buffer_semantics = PJRT_HostBufferSemantics_kImmutableZeroCopy;  // a copy where memory is not the host's
  args.device = device_;
  call(api_, &PJRT_Api::PJRT_Client_BufferFromHostBuffer, args, "uploading an array");
  return Buffer(shared_from_this(), args.buffer, args.done_with_host_buffer);
}

Buffer Client::allocate(DType dtype, const std::vector<std::int64_t>& shape) {
  auto args = SIZED(PJRT_Client_CreateUninitializedBuffer_Args);
  args.client = client_;
  args.shape_dims = shape.data();
  args.shape_num_dims = shape.size();
  args.shape_element_type = buffer_type(dtype);
  args.device = device_;
  std::string size = std::to_string(size_of(dtype)) + " bytes";
  for (const std::int64_t extent : shape) size += " x " + std::to_string(extent);
  call(api_, &PJRT_Api::PJRT_Client_CreateUninitializedBuffer, args, "allocating " + size);
  return Buffer(shared_from_this(), args.buffer, nullptr);
}

Executable Client::compile(const std::uint8_t* artifact, std::size_t bytes, const std::string& name) {
  PJRT_Program program = stablehlo(artifact, bytes);
  auto args = SIZED(PJRT_Client_Compile_Args);
  args.client = client_;
  args.program = &program;
  if (compile_options_.empty())
    compile_options_ = compile_options(api_, options_.plugin, options_.platform, options_.deterministic);
  args.compile_options = compile_options_.data();
  args.compile_options_size = compile_options_.size();
  call(api_, &PJRT_Api::PJRT_Client_Compile, args, "compiling program '" + name + "'");
  return Executable(shared_from_this(), args.executable, name);
}

Executable Client::load(const std::string& serialised, const std::string& name) {
  auto args = SIZED(PJRT_Executable_DeserializeAndLoad_Args);
  args.client = client_;
  args.serialized_executable = serialised.data();
  args.serialized_executable_size = serialised.size();
  call(api_, &PJRT_Api::PJRT_Executable_DeserializeAndLoad, args, "loading compiled program '" + name + "'");
  return Executable(shared_from_this(), args.loaded_executable, name);
}

Pin Client::pin(void* data, std::size_t bytes) {
  auto args = SIZED(PJRT_Client_DmaMap_Args);
  args.client = client_;
  args.data = data;
  args.size = bytes;
  call(api_, &PJRT_Api::PJRT_Client_DmaMap, args, "pinning " + std::to_string(bytes) + " bytes of host memory");
  return Pin(shared_from_this(), data);
}

// ---- pinned memory

Pin::Pin(std::shared_ptr<Client> client, void* data) : client_(std::move(client)), data_(data) {}

Pin::Pin(Pin&& other) noexcept : client_(std::move(other.client_)), data_(std::exchange(other.data_, nullptr)) {}

Pin& Pin::operator=(Pin&& other) noexcept {
  if (this == &other) return *this;
  release();
  client_ = std::move(other.client_);
  data_ = std::exchange(other.data_, nullptr);
  return *this;
}

Pin::~Pin() {
  release();
}

void Pin::release() noexcept {
  if (data_ == nullptr) return;
  auto args = SIZED(PJRT_Client_DmaUnmap_Args);
  args.client = client_->client_;
  args.data = data_;
  call_quietly(client_->api_, &PJRT_Api::PJRT_Client_DmaUnmap, args);
  data_ = nullptr;
  client_.reset();
}

// ---- buffer

Buffer::Buffer(std::shared_ptr<Client> client, PJRT_Buffer* buffer, PJRT_Event* host_released)
    : client_(std::move(client)), buffer_(buffer), host_released_(host_released) {}

Buffer::Buffer(Buffer&& other) noexcept
    : client_(std::move(other.client_)),
      buffer_(std::exchange(other.buffer_, nullptr)),
      host_released_(std::exchange(other.host_released_, nullptr)) {}

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  if (this == &other) return *this;
  release();
  client_ = std::move(other.client_);
  buffer_ = std::exchange(other.buffer_, nullptr);
  host_released_ = std::exchange(other.host_released_, nullptr);
  return *this;
}

Buffer::~Buffer() {
  release();
}

void Buffer::release() noexcept {
  if (buffer_ == nullptr) return;
  auto args = SIZED(PJRT_Buffer_Destroy_Args);
  args.buffer = buffer_;
  call_quietly(client_->api_, &PJRT_Api::PJRT_Buffer_Destroy, args);
  buffer_ = nullptr;
  // A program that still runs may read borrowed memory; once this returns the owner may change it.
  try {
    await(client_->api_, std::exchange(host_released_, nullptr), "release");
  } catch (const std::exception&) {
  }
  client_.reset();
}

Pending::Pending(Pending&& other) noexcept
    : api_(other.api_), event_(std::exchange(other.event_, nullptr)), operation_(other.operation_) {}

Pending::~Pending() {
  try {
    wait();
  } catch (const std::exception&) {
  }
}

void Pending::wait() {
  await(api_, std::exchange(event_, nullptr), operation_);
}

Pending Buffer::ready() const {
  if (buffer_ == nullptr) throw Error("waiting for an array failed: it is empty");
  auto ready = SIZED(PJRT_Buffer_ReadyEvent_Args);
  ready.buffer = buffer_;
  call(client_->api_, &PJRT_Api::PJRT_Buffer_ReadyEvent, ready, "waiting for an array");
  return Pending(client_->api_, ready.event, "computing an array");
}

void Buffer::download(void* destination, std::size_t bytes) const {
  start_download(destination, bytes).wait();
}

Pending Buffer::start_download(void* destination, std::size_t bytes) const {
  if (buffer_ == nullptr) throw Error("downloading an array failed: it is empty");
  auto args = SIZED(PJRT_Buffer_CopyRawToHost_Args);
  args.buffer = buffer_;
  args.dst = destination;
  args.transfer_size = static_cast<std::int64_t>(bytes);
  const std::string operation = "downloading " + std::to_string(bytes) + " bytes";
  call(client_->api_, &PJRT_Api::PJRT_Buffer_CopyRawToHost, args, operation);
  return Pending(client_->api_, args.event, "downloading an array");
}

void* Buffer::host_pointer() const {
  if (buffer_ == nullptr) throw Error("reading an array failed: it is empty");
  return client_->platform() == "cpu" ? device_pointer() : nullptr;
}

void* Buffer::device_pointer() const {
  wait();
  auto args = SIZED(PJRT_Buffer_UnsafePointer_Args);
  args.buffer = buffer_;
  call(client_->api_, &PJRT_Api::PJRT_Buffer_UnsafePointer, args, "reading an array");
  return reinterpret_cast<void*>(args.buffer_pointer);
}

bool Buffer::is(DType dtype, const std::vector<std::int64_t>& shape) const {
  auto type = SIZED(PJRT_Buffer_ElementType_Args);
  type.buffer = buffer_;
  call(client_->api_, &PJRT_Api::PJRT_Buffer_ElementType, type, "reading the type of an array");
  auto sizes = SIZED(PJRT_Buffer_Dimensions_Args);
  sizes.buffer = buffer_;
  call(client_->api_, &PJRT_Api::PJRT_Buffer_Dimensions, sizes, "reading the shape of an array");
  return type.type == buffer_type(dtype) &&
         std::equal(shape.begin(), shape.end(), sizes.dims, sizes.dims + sizes.num_dims);
}

// ---- executable

Executable::Executable(std::shared_ptr<Client> client, PJRT_LoadedExecutable* executable, std::string name)
    : client_(std::move(client)), executable_(executable), name_(std::move(name)) {
  const std::string operation = "counting the results of program '" + name_ + "'";
  try {
    const Description description(client_->api_, executable_, operation);
    auto args = SIZED(PJRT_Executable_NumOutputs_Args);
    args.executable = description.get();
    call(client_->api_, &PJRT_Api::PJRT_Executable_NumOutputs, args, operation);
    outputs_ = args.num_outputs;
  } catch (...) {
    release();  // the destructor does not run
    throw;
  }
}

Executable::Executable(Executable&& other) noexcept
    : client_(std::move(other.client_)),
      executable_(std::exchange(other.executable_, nullptr)),
      name_(std::move(other.name_)),
      outputs_(other.outputs_),
      temporary_bytes_(other.temporary_bytes_) {}

Executable& Executable::operator=(Executable&& other) noexcept {
  if (this == &other) return *this;
  release();
  client_ = std::move(other.client_);
  executable_ = std::exchange(other.executable_, nullptr);
  name_ = std::move(other.name_);
  outputs_ = other.outputs_;
  temporary_bytes_ = other.temporary_bytes_;
  return *this;
}

Executable::~Executable() {
  release();
}

void Executable::release() noexcept {
  if (executable_ == nullptr) return;
  auto args = SIZED(PJRT_LoadedExecutable_Destroy_Args);
  args.executable = executable_;
  call_quietly(client_->api_, &PJRT_Api::PJRT_LoadedExecutable_Destroy, args);
  executable_ = nullptr;
  client_.reset();
}

std::vector<Buffer> Executable::run(const std::vector<const Buffer*>& arguments) const {
  const std::string operation = "running program '" + name_ + "'";
  std::vector<PJRT_Buffer*> inputs;
  for (const Buffer* argument : arguments) {
    if (argument == nullptr || argument->buffer_ == nullptr)
      throw Error(operation + " failed: argument " + std::to_string(inputs.size()) + " is empty");
    inputs.push_back(argument->buffer_);
  }
  std::vector<PJRT_Buffer*> outputs(outputs_);
  PJRT_Buffer* const* input_list = inputs.data();
  PJRT_Buffer** output_list = outputs.data();
  auto options = SIZED(PJRT_ExecuteOptions);
  auto args = SIZED(PJRT_LoadedExecutable_Execute_Args);
  args.executable = executable_;
  args.options = &options;
  args.argument_lists = &input_list;
  args.num_devices = 1;
  args.num_args = inputs.size();
  args.output_lists = &output_list;
  args.execute_device = client_->device_;
  tsan_release(&xla_order);
  call(client_->api_, &PJRT_Api::PJRT_LoadedExecutable_Execute, args, operation);
  std::vector<Buffer> results;
  results.reserve(outputs.size());
  for (PJRT_Buffer* output : outputs) results.push_back(Buffer(client_, output, nullptr));
  return results;
}

std::string Executable::serialise() const {
  const std::string operation = "serialising program '" + name_ + "'";
  const Description description(client_->api_, executable_, operation);
  auto args = SIZED(PJRT_Executable_Serialize_Args);
  args.executable = description.get();
  call(client_->api_, &PJRT_Api::PJRT_Executable_Serialize, args, operation);
  std::string bytes(args.serialized_bytes, args.serialized_bytes_size);
  args.serialized_executable_deleter(args.serialized_executable);
  return bytes;
}

std::size_t Executable::temporary_bytes() const {
  if (temporary_bytes_) return *temporary_bytes_;
  const std::string operation = "reading the memory use of program '" + name_ + "'";
  const Description description(client_->api_, executable_, operation);
  auto args = SIZED(PJRT_Executable_GetCompiledMemoryStats_Args);
  args.executable = description.get();
  call(client_->api_, &PJRT_Api::PJRT_Executable_GetCompiledMemoryStats, args, operation);
  return *(temporary_bytes_ = static_cast<std::size_t>(args.temp_size_in_bytes));
}

}  // namespace so3krates::pjrt
