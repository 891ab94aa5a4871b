// PJRT_Client: creation with its options, devices, compilation, loading.
#include <cstdlib>
#include <optional>

#include "handles.h"
#include "memory_pool.h"
#include "xla/hlo/builder/xla_computation.h"
#include "xla/pjrt/plugin/xla_cpu/xla_cpu_pjrt_client.h"
#include "xla/pjrt/proto/compile_options.pb.h"

namespace xla {
// Declared here because xla/pjrt/mlir_to_hlo.h needs MLIR headers that the wheel lacks.
absl::Status ParseMlirModuleStringAndConvertToXlaComputation(absl::string_view module, XlaComputation& computation,
                                                             bool use_tuple_args, bool return_tuple);
}  // namespace xla

namespace so3krates::pjrt_cpu {
namespace {

struct Options {
  std::int64_t num_threads = 0;                            // 0: XLA's own choice
  std::int64_t idle_memory_bytes = std::int64_t{1} << 30;  // that the pool may hold unused
};

absl::StatusOr<Options> read_options(const PJRT_NamedValue* values, std::size_t count) {
  Options options;
  for (const PJRT_NamedValue& value : absl::MakeConstSpan(values, count)) {
    const absl::string_view name(value.name, value.name_size);
    std::int64_t* target = name == "num_threads"         ? &options.num_threads
                           : name == "idle_memory_bytes" ? &options.idle_memory_bytes
                                                         : nullptr;
    if (target == nullptr)
      return absl::InvalidArgumentError(
          absl::StrCat("unknown option '", name, "'; known: num_threads, idle_memory_bytes"));
    if (value.type != PJRT_NamedValue_kInt64 || value.int64_value < 0)
      return absl::InvalidArgumentError(absl::StrCat("option '", name, "' takes an integer that is not negative"));
    *target = value.int64_value;
  }
  return options;
}

// Sets an environment variable for as long as it lives.
class ScopedVariable {
 public:
  ScopedVariable(const char* name, const std::string& value) : name_(name) {
    if (const char* old = std::getenv(name)) old_ = old;
    setenv(name, value.c_str(), 1);
  }
  ~ScopedVariable() {
    if (old_)
      setenv(name_, old_->c_str(), 1);
    else
      unsetenv(name_);
  }
  ScopedVariable(const ScopedVariable&) = delete;
  ScopedVariable& operator=(const ScopedVariable&) = delete;

 private:
  const char* name_;
  std::optional<std::string> old_;
};

PJRT_Error* create(PJRT_Client_Create_Args* args) {
  const absl::StatusOr<Options> options = read_options(args->create_options, args->num_options);
  if (!options.ok()) return to_error(options.status());
  xla::CpuClientOptions client_options;
  client_options.cpu_device_count = 1;
  client_options.asynchronous = false;  // the caller has nothing else to do: spare it the change of threads
  client_options.allocator = [pool = std::make_shared<MemoryPool>(options->idle_memory_bytes)](
                                 std::size_t bytes, std::size_t alignment) { return pool->allocate(bytes, alignment); };
  std::optional<ScopedVariable> threads;
  if (options->num_threads > 0) threads.emplace("NPROC", std::to_string(options->num_threads));
  absl::StatusOr<std::unique_ptr<xla::PjRtClient>> client = xla::GetXlaPjrtCpuClient(std::move(client_options));
  if (!client.ok()) return to_error(client.status());
  auto handle = std::make_unique<PJRT_Client>();
  handle->client = *std::move(client);
  for (xla::PjRtDevice* device : handle->client->addressable_devices()) handle->devices.push_back({device});
  for (PJRT_Device& device : handle->devices) handle->device_pointers.push_back(&device);
  args->client = handle.release();
  return nullptr;
}

PJRT_Error* destroy(PJRT_Client_Destroy_Args* args) {
  delete args->client;
  return nullptr;
}

PJRT_Error* platform_name(PJRT_Client_PlatformName_Args* args) {
  const absl::string_view name = args->client->client->platform_name();
  args->platform_name = name.data();
  args->platform_name_size = name.size();
  return nullptr;
}

PJRT_Error* platform_version(PJRT_Client_PlatformVersion_Args* args) {
  const absl::string_view version = args->client->client->platform_version();
  args->platform_version = version.data();
  args->platform_version_size = version.size();
  return nullptr;
}

PJRT_Error* addressable_devices(PJRT_Client_AddressableDevices_Args* args) {
  args->addressable_devices = args->client->device_pointers.data();
  args->num_addressable_devices = args->client->device_pointers.size();
  return nullptr;
}

PJRT_Error* compile(PJRT_Client_Compile_Args* args) {
  xla::CompileOptionsProto proto;
  if (!proto.ParseFromArray(args->compile_options, static_cast<int>(args->compile_options_size)))
    return to_error(absl::InvalidArgumentError("the compile options are no CompileOptionsProto"));
  absl::StatusOr<xla::CompileOptions> options = xla::CompileOptions::FromProto(proto);
  if (!options.ok()) return to_error(options.status());
  const absl::string_view format(args->program->format, args->program->format_size);
  if (format != "mlir")
    return to_error(absl::InvalidArgumentError(absl::StrCat("unknown program format '", format, "'")));
  xla::XlaComputation computation;
  const absl::Status parsed = xla::ParseMlirModuleStringAndConvertToXlaComputation(
      absl::string_view(args->program->code, args->program->code_size), computation,
      options->parameter_is_tupled_arguments, /*return_tuple=*/false);
  if (!parsed.ok()) return to_error(parsed);
  absl::StatusOr<std::unique_ptr<xla::PjRtLoadedExecutable>> executable =
      args->client->client->CompileAndLoad(computation, *std::move(options));
  if (!executable.ok()) return to_error(executable.status());
  args->executable = new PJRT_LoadedExecutable{*std::move(executable), args->client};
  return nullptr;
}

PJRT_Error* load(PJRT_Executable_DeserializeAndLoad_Args* args) {
  absl::StatusOr<std::unique_ptr<xla::PjRtLoadedExecutable>> executable =
      args->client->client->LoadSerializedExecutable(
          absl::string_view(args->serialized_executable, args->serialized_executable_size), std::nullopt,
          xla::LoadOptions());
  if (!executable.ok()) return to_error(executable.status());
  args->loaded_executable = new PJRT_LoadedExecutable{*std::move(executable), args->client};
  return nullptr;
}

}  // namespace

void add_client(PJRT_Api& api) {
  api.PJRT_Client_Create = create;
  api.PJRT_Client_Destroy = destroy;
  api.PJRT_Client_PlatformName = platform_name;
  api.PJRT_Client_PlatformVersion = platform_version;
  api.PJRT_Client_AddressableDevices = addressable_devices;
  api.PJRT_Client_Compile = compile;
  api.PJRT_Executable_DeserializeAndLoad = load;
}

}  // namespace so3krates::pjrt_cpu
