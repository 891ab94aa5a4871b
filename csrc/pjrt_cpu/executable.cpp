// PJRT_LoadedExecutable, which runs, and PJRT_Executable, which describes it.
#include <optional>

#include "handles.h"

namespace so3krates::pjrt_cpu {
namespace {

PJRT_Error* loaded_destroy(PJRT_LoadedExecutable_Destroy_Args* args) {
  delete args->executable;
  return nullptr;
}

PJRT_Error* get_executable(PJRT_LoadedExecutable_GetExecutable_Args* args) {
  args->executable = new PJRT_Executable{args->loaded_executable->executable};
  return nullptr;
}

PJRT_Error* destroy(PJRT_Executable_Destroy_Args* args) {
  delete args->executable;
  return nullptr;
}

PJRT_Error* num_outputs(PJRT_Executable_NumOutputs_Args* args) {
  const absl::StatusOr<std::vector<std::vector<xla::PrimitiveType>>> types =
      args->executable->executable->GetExecutable()->GetOutputElementTypes();
  if (!types.ok()) return to_error(types.status());
  args->num_outputs = types->at(0).size();
  return nullptr;
}

PJRT_Error* memory_stats(PJRT_Executable_GetCompiledMemoryStats_Args* args) {
  const absl::StatusOr<xla::CompiledMemoryStats> stats = args->executable->executable->GetCompiledMemoryStats();
  if (!stats.ok()) return to_error(stats.status());
  args->generated_code_size_in_bytes = stats->generated_code_size_in_bytes;
  args->argument_size_in_bytes = stats->argument_size_in_bytes;
  args->output_size_in_bytes = stats->output_size_in_bytes;
  args->alias_size_in_bytes = stats->alias_size_in_bytes;
  args->temp_size_in_bytes = stats->temp_size_in_bytes;
  return nullptr;
}

PJRT_Error* serialise(PJRT_Executable_Serialize_Args* args) {
  absl::StatusOr<std::string> bytes = args->executable->executable->SerializeExecutable();
  if (!bytes.ok()) return to_error(bytes.status());
  args->serialized_executable = new PJRT_SerializedExecutable{*std::move(bytes)};
  args->serialized_bytes = args->serialized_executable->bytes.data();
  args->serialized_bytes_size = args->serialized_executable->bytes.size();
  args->serialized_executable_deleter = [](PJRT_SerializedExecutable* handle) { delete handle; };
  return nullptr;
}

PJRT_Error* execute(PJRT_LoadedExecutable_Execute_Args* args) {
  if (args->num_devices != 1 || args->execute_device == nullptr)
    return to_error(absl::UnimplementedError("running on anything but the one device that the caller names"));
  static const xla::ExecuteContext no_user_data;  // XLA:CPU follows the pointer when a custom call asks for user data
  xla::ExecuteOptions options;
  options.strict_shape_checking = true;
  options.context = args->options->context == nullptr ? &no_user_data : &args->options->context->context;
  for (std::size_t i = 0; i < args->options->num_non_donatable_input_indices; ++i)
    options.non_donatable_input_indices.insert(args->options->non_donatable_input_indices[i]);
  std::vector<xla::PjRtBuffer*> inputs;
  for (PJRT_Buffer* input : absl::MakeConstSpan(args->argument_lists[0], args->num_args))
    inputs.push_back(input->buffer.get());
  std::optional<xla::Future<>> complete;
  const bool wants_event = args->device_complete_events != nullptr;
  absl::StatusOr<std::vector<std::unique_ptr<xla::PjRtBuffer>>> outputs = args->executable->executable->ExecutePortable(
      inputs, args->execute_device->device, options, complete, wants_event);
  if (!outputs.ok()) return to_error(outputs.status());
  for (std::size_t i = 0; i < outputs->size(); ++i)
    args->output_lists[0][i] = new PJRT_Buffer{std::move((*outputs)[i]), args->executable->client};
  if (wants_event) args->device_complete_events[0] = to_event(*std::move(complete));
  return nullptr;
}

}  // namespace

void add_executables(PJRT_Api& api) {
  api.PJRT_LoadedExecutable_Destroy = loaded_destroy;
  api.PJRT_LoadedExecutable_GetExecutable = get_executable;
  api.PJRT_LoadedExecutable_Execute = execute;
  api.PJRT_Executable_Destroy = destroy;
  api.PJRT_Executable_NumOutputs = num_outputs;
  api.PJRT_Executable_GetCompiledMemoryStats = memory_stats;
  api.PJRT_Executable_Serialize = serialise;
}

}  // namespace so3krates::pjrt_cpu
